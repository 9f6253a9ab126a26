"""A training that is killed goes on where it was kept, and comes out as if nothing had happened."""

import json
import os
from functools import partial

import pytest
import torch
from torch import nn

from um_bench import interim
from um_bench.adapters import Finetune, Succession
from um_bench.backbones import weights_hash
from um_bench.data import ImageSet, fingerprint
from um_bench.errors import StorageError, UsageError
from um_bench.interim import SECONDS, Interim, keep_every
from um_bench.suite import Recipe
from um_bench.training import adapt
from um_bench_outliers import DOE
from um_bench_um import UM
from um_bench_umap import UMAP

RECIPE = Recipe(epochs=5, batch_size=8, lr=0.1, augmentation="crop-flip", nesterov=True)


def images(count: int = 24, label: int | None = None) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 2 if label is None else torch.full((count,), label)
    return ImageSet("planted", pixels, labels, fingerprint(pixels, labels))


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),  # draws from the global random state
        nn.Flatten(),
        nn.Linear(16, 2),
    ).eval()


class KilledError(BaseException):
    """What ends a process."""


def killed_after(epochs, moment):
    if moment.epoch == epochs:
        raise KilledError


def trained(adapter, kept=None, on_epoch=lambda _: None, recipe=RECIPE, **more):
    return adapt(adapter, net(), images(), recipe, seed=3, interim=kept, on_epoch=on_epoch, **more)


def interrupted(adapter, path, epochs=3, **more):
    """Train, and be killed once so many epochs are done; what was kept is one epoch older."""
    with pytest.raises(KilledError):
        trained(adapter, Interim(path, every=0), partial(killed_after, epochs), **more)
    assert path.exists()


@pytest.mark.parametrize(
    "adapter",
    [Finetune(), UM(estimate_masks=2), UMAP(estimate_masks=2)],
    ids=["finetune", "um", "umap"],
)
def test_it_comes_out_with_the_same_bytes(adapter, tmp_path):
    whole = trained(adapter)
    interrupted(adapter, tmp_path / "model.training")
    seen = []
    resumed = trained(
        adapter, Interim(tmp_path / "model.training", every=0), lambda m: seen.append(m.epoch)
    )
    assert weights_hash(resumed.model) == weights_hash(whole.model)
    assert resumed.losses == whole.losses
    assert resumed.notes == whole.notes
    assert seen == [0, 1, 2, 3, 4, 5]  # those before are told again


def test_only_the_epochs_that_are_missing_are_trained(tmp_path, monkeypatch):
    interrupted(Finetune(), tmp_path / "a", epochs=4)
    counted = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: (counted.append(1), step(self, *a))[1]
    )
    trained(Finetune(), Interim(tmp_path / "a", every=0))
    assert len(counted) == 2 * 3  # epochs 4 and 5, of three batches


def test_momentum_and_random_state_are_part_of_it(tmp_path, monkeypatch):
    """Planted: without either, other weights come out."""
    whole = weights_hash(trained(Finetune()).model)
    for name in ("momentum", "random"):
        interrupted(Finetune(), tmp_path / name)

    def without_momentum(model, optimizer, device, kept):
        interim._set_random_state(kept, device)
        model.load_state_dict(
            {n.removeprefix("model."): v for n, v in kept.items() if n.startswith("model.")}
        )

    with monkeypatch.context() as patch:
        patch.setattr(interim, "restore", without_momentum)
        lost = trained(Finetune(), Interim(tmp_path / "momentum", every=60))
    assert weights_hash(lost.model) != whole
    with monkeypatch.context() as patch:
        patch.setattr(interim, "_set_random_state", lambda *_: None)
        lost = trained(Finetune(), Interim(tmp_path / "random", every=60))
    assert weights_hash(lost.model) != whole


@pytest.mark.parametrize("where", ["losses", "weights", "cut off"])
def test_a_damaged_file_is_as_none(where, tmp_path):
    whole = trained(Finetune())
    path = tmp_path / "a"
    interrupted(Finetune(), path)
    content = bytearray(path.read_bytes())
    if where == "cut off":
        del content[len(content) // 2 :]
    elif where == "weights":
        content[-5] ^= 4
    else:
        place = content.index(b"losses") + len(b'losses\\": [0.')
        content[place] = ord("1") if content[place] != ord("1") else ord("2")
    path.write_bytes(content)
    resumed = trained(Finetune(), Interim(path, every=60))
    assert weights_hash(resumed.model) == weights_hash(whole.model)
    assert resumed.losses == whole.losses


def test_who_watches_takes_up_what_was_seen(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(KilledError):
        trained(
            Finetune(),
            Interim(path, "tag", lambda: {"points": [1, 2]}, every=0),
            partial(killed_after, 3),
        )
    recalled = []
    trained(Finetune(), Interim(path, "other", recall=recalled.append, every=60))
    assert not recalled  # it was not watching then
    trained(Finetune(), Interim(path, "tag", recall=recalled.append, every=60))
    assert recalled == [{"points": [1, 2]}]


def test_what_has_a_memory_of_its_own_starts_again(tmp_path):
    outliers = images(16, label=-1)
    trained(DOE(), Interim(tmp_path / "a", every=0), auxiliary=outliers)
    stages = Succession(stages=(("finetune", Finetune()), ("um", UM(constraint=0.1))))
    trained(stages, Interim(tmp_path / "b", every=0))
    assert not list(tmp_path.iterdir())


def test_time_goes_on_and_what_watching_took_is_not_in_it(tmp_path):
    path = tmp_path / "a"
    first = Interim(path, every=0)
    first._start -= 1000.0
    with pytest.raises(KilledError):
        trained(Finetune(), first, partial(killed_after, 3))
    second = Interim(path, every=60)
    trained(Finetune(), second)
    assert 1000 <= second.seconds < 1060
    second.aside += 900.0
    assert 100 <= second.seconds < 160


def test_it_is_kept_when_that_is_due_and_not_before(tmp_path):
    trained(Finetune(), Interim(tmp_path / "a", every=3600))
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "no folder" / "a"
    path.parent.write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        trained(Finetune(), Interim(path, every=0))


def test_the_variable_is_seconds(monkeypatch):
    monkeypatch.delenv(SECONDS, raising=False)
    assert keep_every() == 60
    monkeypatch.setitem(os.environ, SECONDS, "2.5")
    assert keep_every() == 2.5
    for wrong in ("often", "-1", "nan"):
        monkeypatch.setitem(os.environ, SECONDS, wrong)
        with pytest.raises(UsageError, match=SECONDS):
            keep_every()


def test_no_code_is_in_the_file(tmp_path):
    interrupted(Finetune(), tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert "um_bench" in json.loads(content[8 : 8 + length])["__metadata__"]  # safetensors
