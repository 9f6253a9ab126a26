"""Files of weights and scores: what is read is what was written, or nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from um_bench.backbones import weights_hash
from um_bench.errors import UsageError
from um_bench.scores import load_scores, save_scores
from um_bench.store import load_weights, read_metadata, save_weights


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "models" / "model.safetensors"
    save_weights(
        path, net(), {"seconds": 1.5, "notes": {"constraint": 0.1}, "losses": [2.0], "opened": []}
    )
    return path


def test_weights_and_metadata_come_back(saved):
    model = net(seed=1)
    metadata = load_weights(saved, model)
    assert metadata == read_metadata(saved)
    assert metadata["weights"] == weights_hash(net()) == weights_hash(model)
    assert (metadata["seconds"], metadata["notes"], metadata["losses"]) == (
        1.5,
        {"constraint": 0.1},
        [2.0],
    )


@pytest.mark.parametrize(
    "damage", ["absent", "empty", "truncated", "flipped", "other net", "foreign"]
)
def test_a_file_that_is_not_what_was_written_is_no_file_and_leaves_the_model(saved, damage):
    content = bytearray(saved.read_bytes())
    model = net(seed=1)
    if damage == "absent":
        saved.unlink()
    elif damage == "empty":
        saved.write_bytes(b"")
    elif damage == "truncated":
        saved.write_bytes(content[:-7])
    elif damage == "flipped":
        content[-5] ^= 0x10
        saved.write_bytes(content)
    elif damage == "foreign":
        saved.write_text("not safetensors at all")
    else:
        model = nn.Linear(2, 2)
    before = copy.deepcopy(model.state_dict())
    assert load_weights(saved, model) is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_scores_come_back_as_float32(tmp_path):
    path = tmp_path / "scores" / "a.npz"
    save_scores(path, {"id": torch.tensor([1.0, 1 / 3]), "ood": torch.tensor([2.5]).double()})
    scores = load_scores(path)
    assert scores["id"].tolist() == torch.tensor([1.0, 1 / 3]).tolist()
    assert scores["ood"].dtype == np.float32
    first = path.read_bytes()
    save_scores(path, {"ood": torch.tensor([2.5]), "id": torch.tensor([1.0, 1 / 3])})
    assert path.read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_damaged_scores_are_named(tmp_path, content):
    path = tmp_path / "scores.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"scores.npz: no readable file of scores"):
        load_scores(path)
