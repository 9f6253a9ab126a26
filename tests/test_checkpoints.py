import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from um_bench.backbones import create, load_checkpoint, weights_hash
from um_bench.errors import UsageError
from um_bench.suite import Preprocessing

SMALL = Preprocessing(size=32)


def classifier(name="resnet20_cifar", seed=0, num_classes=10, **options):
    torch.manual_seed(seed)
    return create(name, num_classes=num_classes, preprocessing=SMALL, options=options)


@pytest.fixture
def trained():
    """A classifier whose batch norms have seen data."""
    model = classifier(seed=1)
    model.train()
    with torch.no_grad():
        model(torch.rand(8, 3, 32, 32))
    return model.eval()


def prefixed(state, prefix="module."):
    return {prefix + name: tensor for name, tensor in state.items()}


def refused(model, path):
    """Return the message with which a file is refused; the model must be as it was."""
    before = weights_hash(model)
    with pytest.raises(UsageError) as caught:
        load_checkpoint(model, path)
    assert weights_hash(model) == before
    return str(caught.value)


# --- what is accepted ---

LAYOUTS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "epoch": 3},
    "ema": lambda state: {"state_dict_ema": state, "epoch": 3},
    "data parallel": lambda state: {"state_dict": prefixed(state)},
    "classifier": lambda state: prefixed(state, "net."),
    "parallel classifier": lambda state: prefixed(state, "module.net."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_files_are_loaded_wherever_the_weights_are(trained, tmp_path, layout):
    path = tmp_path / "model.pt"
    torch.save(LAYOUTS[layout](trained.net.state_dict()), path)
    model = classifier().train()
    load_checkpoint(model, path)
    assert weights_hash(model) == weights_hash(trained)
    assert not any(module.training for module in model.modules())


def test_legacy_torch_files_are_loaded(trained, tmp_path):
    path = tmp_path / "model.th"
    torch.save(trained.net.state_dict(), path, _use_new_zipfile_serialization=False)
    model = classifier()
    load_checkpoint(model, path)
    assert weights_hash(model) == weights_hash(trained)


@pytest.mark.parametrize("of", ["net", "classifier"])
def test_safetensors_keep_the_identity_of_weights(trained, tmp_path, of):
    path = tmp_path / "model.safetensors"
    state = trained.net.state_dict() if of == "net" else trained.state_dict()
    safetensors.torch.save_file(state, path)
    model = classifier()
    assert weights_hash(model) != weights_hash(trained)
    load_checkpoint(model, path)
    assert weights_hash(model) == weights_hash(trained)


def test_state_dict_comes_before_its_moving_average(trained, tmp_path):
    other = classifier(seed=2)
    path = tmp_path / "both.pt"
    content = {"state_dict_ema": other.net.state_dict(), "state_dict": trained.net.state_dict()}
    torch.save(content, path)
    model = classifier()
    load_checkpoint(model, path)
    assert weights_hash(model) == weights_hash(trained)


def paper_file(net, path):
    """Write what the training script of UM's paper writes."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    optimizer.param_groups[0]["lr"] = np.float64(2.5e-5)
    content = {
        "epoch": 100,
        "arch": "DenseNet",
        "state_dict": prefixed(net.state_dict()),
        "best_acc1": np.float32(94.0),
        "best_acc5": 99.8,
        "best_train_acc1": 99.976,
        "best_train_acc5": 100.0,
        "optimizer": optimizer.state_dict(),
        "curr_acc1": np.int64(94),
        "curr_acc5": 99.8,
    }
    torch.save(content, path)


@pytest.mark.parametrize("numpy_writes", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_full_training_files_of_the_papers_code_are_loaded(tmp_path, numpy_writes):
    source = classifier("densenet100_bc_cifar", seed=1, bn_affine=False)
    path = tmp_path / "densenet_cifar10_last.state"
    paper_file(source.net, path)
    rewrite(path, rb"numpy\._?core\.multiarray", numpy_writes)
    with pytest.raises(pickle.UnpicklingError, match="numpy"):
        torch.load(path, weights_only=True)
    allowed = set(torch.serialization.get_safe_globals())
    model = classifier("densenet100_bc_cifar", bn_affine=False)
    load_checkpoint(model, path)
    assert weights_hash(model) == weights_hash(source)
    assert set(torch.serialization.get_safe_globals()) == allowed
    with pytest.raises(pickle.UnpicklingError, match="numpy"):
        torch.load(path, weights_only=True)


def rewrite(path, old, new):
    """Replace a pattern in the pickle of a torch file, to make what another version would write."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    assert any(re.search(old, data) for _, data in members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, re.sub(old, new, data) if name.endswith("data.pkl") else data)


def test_files_from_before_batch_norm_counted_are_loaded(trained, tmp_path):
    state = trained.net.state_dict()
    path = tmp_path / "old.th"
    torch.save({k: v for k, v in state.items() if "num_batches_tracked" not in k}, path)
    model = classifier(seed=5)
    model.net.bn1.num_batches_tracked += 7
    load_checkpoint(model, path)
    loaded = model.net.state_dict()
    for name, tensor in state.items():
        counter = name.endswith("num_batches_tracked")
        assert torch.equal(loaded[name], torch.zeros_like(tensor) if counter else tensor)


# --- what is refused ---


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    model = classifier()
    assert "no such file" in refused(model, tmp_path / "none.pt")
    assert "it is a folder" in refused(model, tmp_path)


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "state"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04" + bytes(50)])
def test_a_damaged_file_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content)
    message = refused(classifier(), path)
    assert str(path) in message
    assert "damaged" in message


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_cut_short_is_refused(trained, tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    if suffix == "pt":
        torch.save(trained.net.state_dict(), path)
    else:
        safetensors.torch.save_file(trained.net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5000])
    assert "damaged" in refused(classifier(), path)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


class Writes:
    """Calls a function that no list of blocked modules names."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("kind", [Malicious, Writes])
@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "beside weights", "beside numpy"])
def test_no_pickled_code_is_run(trained, tmp_path, kind, how):
    witness = tmp_path / "executed"
    planted = kind(witness)
    path = tmp_path / "evil.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(planted, protocol=2))
    elif how == "torch":
        torch.save(planted, path)
    elif how == "legacy":
        torch.save({"x": planted}, path, _use_new_zipfile_serialization=False)
    else:
        extra = {"lr": np.float64(0.1)} if how == "beside numpy" else {}
        torch.save({**extra, "state_dict": trained.net.state_dict(), "note": planted}, path)
    message = refused(classifier(), path)
    assert "needs pickle" in message
    assert "safetensors" in message
    assert not witness.exists()
    if how == "torch":  # the plant works: with the check off it runs
        torch.load(path, weights_only=False)
        assert witness.exists()


def test_a_pickled_model_is_refused(trained, tmp_path):
    path = tmp_path / "whole.pt"
    torch.save(trained.net, path)
    message = refused(classifier(), path)
    assert "needs pickle" in message
    assert "um_bench.backbones.cifar.ResNet" in message


def test_a_numpy_array_of_objects_is_refused(tmp_path):
    path = tmp_path / "objects.pt"
    witness = tmp_path / "executed"
    torch.save({"state_dict": np.array([Malicious(witness)], dtype=object)}, path)
    assert "needs pickle" in refused(classifier(), path)
    assert not witness.exists()


def test_masks_of_umap_are_refused_as_what_they_are(trained, tmp_path):
    state = trained.net.state_dict()
    masks = {
        f"{name.removesuffix('weight')}scores": tensor.abs()
        for name, tensor in state.items()
        if tensor.ndim > 1
    }
    path = tmp_path / "umap.state"
    torch.save({"state_dict": prefixed(state | masks)}, path)
    message = refused(classifier(), path)
    assert "UMAP" in message
    assert f"{len(masks)} tensors" in message
    assert "conv1.scores" in message


def test_another_number_of_classes_is_told_by_shape(tmp_path):
    path = tmp_path / "hundred.safetensors"
    safetensors.torch.save_file(classifier(num_classes=100).net.state_dict(), path)
    message = refused(classifier(), path)
    assert "checkpoint of another shape" in message
    assert "2 of another shape (linear.weight is (100, 64), not (10, 64)" in message


def test_another_architecture_is_told_by_counts_and_first_names(tmp_path):
    path = tmp_path / "other.pt"
    torch.save(timm.create_model("wrn40_2_cifar").state_dict(), path)
    message = refused(classifier(), path)
    ours = set(classifier().net.state_dict())
    theirs = set(timm.create_model("wrn40_2_cifar").state_dict())
    assert f"{len(ours - theirs)} missing (" in message
    assert f"{len(theirs - ours)} unexpected (" in message
    assert "block1.layer.0.bn1.weight" in message
    assert len(message) < 1000


@pytest.mark.parametrize("change", ["missing", "unexpected", "missing and uncounted"])
def test_one_name_too_few_or_too_many_is_refused(trained, tmp_path, change):
    state = trained.net.state_dict()
    if change == "unexpected":
        state["linear.extra"] = torch.zeros(2)
    else:
        del state["linear.bias"]
    if change == "missing and uncounted":
        state = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    path = tmp_path / "model.pt"
    torch.save(state, path)
    message = refused(classifier(), path)
    expected = {
        "missing": "1 missing (linear.bias)",
        "unexpected": "1 unexpected (linear.extra)",
        "missing and uncounted": "20 missing (",  # the bias, and the counters of 19 batch norms
    }
    assert expected[change] in message


@pytest.mark.parametrize("lead", ["", "module."])
def test_a_prefix_inside_a_name_is_not_stripped(trained, tmp_path, lead):
    state = trained.net.state_dict()
    inside = {name.replace("layer1.", "layer1.module."): t for name, t in state.items()}
    path = tmp_path / "inside.pt"
    torch.save(prefixed(inside, lead), path)
    assert "(layer1.module.0.conv1.weight" in refused(classifier(), path)


def test_a_prefix_of_some_names_only_is_not_stripped(trained, tmp_path):
    state = prefixed(trained.net.state_dict())
    state["linear.bias"] = state.pop("module.linear.bias")
    path = tmp_path / "mixed.pt"
    torch.save(state, path)
    assert "(module.conv1.weight" in refused(classifier(), path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "found a list"),
        ({}, "found nothing"),
        ({"epoch": 3, "arch": "x"}, "found epoch (int), arch (str)"),
        ({"state_dict": {"conv1.weight": 3}}, "found conv1.weight (int)"),
        ({"conv1.weight": torch.zeros(1), "ops": 3}, "found ops (int)"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path, content, found):
    path = tmp_path / "empty.pt"
    torch.save(content, path)
    message = refused(classifier(), path)
    assert "holds no weights" in message
    assert found in message


# --- published files ---


@pytest.mark.data
def test_published_resnet20_loads():
    folder = os.environ.get("UM_BENCH_KIT")
    if not folder:
        pytest.skip("UM_BENCH_KIT does not name the folder with resnet20-12fca82f.th")
    path = Path(folder) / "resnet20-12fca82f.th"
    model = classifier()
    load_checkpoint(model, path)
    published = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert torch.equal(model.head_layer.weight, published["module.linear.weight"])
    assert torch.equal(
        model.net.layer3[0].bn2.running_var, published["module.layer3.0.bn2.running_var"]
    )
