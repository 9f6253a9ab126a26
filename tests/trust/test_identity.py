"""Point 1, identity by content: what changed is computed again, and nothing else is.

Nothing here goes by a name, a path, a time or an object in memory: each of them is kept the same
while the content changes.
"""

import copy
import dataclasses
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from test_runner import count_calls, run, suite

from um_bench import identity, registry, run_suite, scoring, together
from um_bench.backbones import create
from um_bench.data import load_set
from um_bench.detectors import prepare
from um_bench.scores import load_scores
from um_bench.scoring import FitSets, Passes, score_id, score_ood
from um_bench.store import load_weights, save_weights
from um_bench.suite import Preprocessing
from um_bench.testing import CLASSES, example_classifier, example_outliers, example_set

SMALL = Preprocessing(size=8, resize="none")
PLAIN = {"size": 8, "resize": "none"}
LIMITED = {"limit": 60, "recipe": {"epochs": 1, "batch_size": 32, "augmentation": "none"}}
FOLDER = "tiny@limit=60"


def place(record) -> tuple:
    return record.seed, record.adapter, record.detector, record.ood_set


def moved(first, second) -> set:
    """The cells that are not the very same record, times and dates included."""
    before = {place(record): record for record in first}
    assert {place(record) for record in second} == set(before)
    return {place(record) for record in second if record != before[place(record)]}


def places(records, **where) -> set:
    return {place(r) for r in records if all(getattr(r, k) == v for k, v in where.items())}


@pytest.fixture
def trained(monkeypatch):
    return count_calls(monkeypatch, together, "adapt")


@pytest.fixture
def forwarded(monkeypatch):
    return count_calls(monkeypatch, scoring, "collect")


# --- weights


def checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = create("resnet20_cifar", num_classes=8, preprocessing=SMALL)
    safetensors.torch.save_file(model.net.state_dict(), path)
    return path


def from_checkpoint(path: Path):
    model = create("resnet20_cifar", num_classes=8, preprocessing=SMALL)
    model.net.load_state_dict(safetensors.torch.load_file(path))
    return model


def add_to_a_weight(path: Path, name: str, amount: float) -> None:
    """Change four bytes of a safetensors file where they are; size and times stay."""
    before = path.stat()
    with path.open("r+b") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        start = 8 + length + json.loads(stream.read(length))[name]["data_offsets"][0]
        stream.seek(start)
        (value,) = struct.unpack("<f", stream.read(4))
        stream.seek(start)
        stream.write(struct.pack("<f", value + amount))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def msp_by_hand(model, images) -> torch.Tensor:
    with torch.no_grad():
        return -model(images / 255).softmax(dim=1).max(dim=1).values


def test_one_weight_changed_in_place_computes_its_seed_again_and_no_other(tmp_path, forwarded):
    files = [checkpoint(tmp_path / f"w{seed}.safetensors", seed) for seed in (0, 1)]
    options = {**LIMITED, "seeds": [0, 1], "checkpoint": str(tmp_path / "w{seed}.safetensors")}
    options["adapters"] = ["none", "finetune"]
    first = run(tmp_path, **options)
    assert {r.state for r in first} == {"done"}
    forwarded.clear()

    add_to_a_weight(files[0], "linear.weight", 1.0)
    second = run(tmp_path, **options)
    assert moved(first, second) == places(first, seed=0)
    # Four sets, once for each of the seed's two models; and the base's accuracy, for finetune.
    assert len(forwarded) == 2 * 4 + 1
    model = from_checkpoint(files[0])
    noise = load_set(
        "uniform-noise/100-grey", data_dir=tmp_path, preprocessing=SMALL, ood=True, limit=60
    )
    found = next(r for r in second if place(r) == (0, "none", "msp", "noise"))
    scores = load_scores(tmp_path / FOLDER / found.scores)["ood"]
    assert np.allclose(scores, msp_by_hand(model, noise.images), rtol=0, atol=1e-6)

    forwarded.clear()
    assert run(tmp_path, **options) == second
    assert not forwarded


def test_one_weight_of_an_adapted_model_computes_the_cells_of_that_adapter_again(
    tmp_path, trained, forwarded
):
    checkpoint(tmp_path / "w.safetensors", 0)
    options = {**LIMITED, "checkpoint": str(tmp_path / "w.safetensors")}
    options["adapters"] = ["none", "finetune", "um@constraint=0.4"]
    first = run(tmp_path, **options)
    tuned = next(r for r in first if r.adapter == "finetune")
    path = tmp_path / "models" / f"{tuned.job_key[:24]}.safetensors"
    model = create("resnet20_cifar", num_classes=8, preprocessing=SMALL)
    metadata = load_weights(path, model)
    assert metadata is not None
    with torch.no_grad():
        model.head_layer.weight[0, 0] += 1
    save_weights(path, model, metadata)
    trained.clear()
    forwarded.clear()
    second = run(tmp_path, **options)
    assert moved(first, second) == places(first, adapter="finetune")
    assert not trained
    assert len(forwarded) == 4 + 1, "its four sets, and the base's accuracy"


def test_the_same_weights_in_another_network_are_another_model(tmp_path):
    """A checkpoint fits every activation: names and shapes of its weights tell nothing of it."""
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t", num_classes=8).state_dict(), tmp_path / "w.pt")
    options = {**LIMITED, "backbone": "resnet10t", "checkpoint": str(tmp_path / "w.pt")}
    options |= {"adapters": ["none"], "detectors": ["msp"], "limit": 20}
    options["preprocessing"] = {"size": 32, "resize": "squash"}
    relu = run(tmp_path / "one", **options)
    options["backbone_options"] = {"act_layer": "gelu"}
    gelu = run(tmp_path / "one", **options)
    alone = run(tmp_path / "other", **options)
    assert [r.weights for r in gelu] == [r.weights for r in relu]
    assert [r.metrics for r in gelu] == [r.metrics for r in alone]
    assert all(r.metrics != s.metrics for r, s in zip(relu, gelu, strict=True))
    assert all(r.job_key != s.job_key and r.key != s.key for r, s in zip(relu, gelu, strict=True))


# --- thirty models in one process


def test_thirty_models_built_and_deleted_have_outputs_and_scores_of_their_own():
    """pytorch-ood 0.4.0 keeps features by `id(model)`, which the next model may be given."""
    test, ood = example_set(), example_outliers()
    first = example_classifier()
    by_address: dict[int, torch.Tensor] = {}
    stale_by_address = 0
    for seed in range(30):
        model = copy.deepcopy(first)
        with torch.no_grad():
            model.head_layer.weight += torch.randn(CLASSES, 64)
            expected = model(test.images / 255)
        passes = Passes(model, "cpu")
        assert torch.allclose(passes.outputs(test).logits, expected, atol=1e-6), seed
        known = score_id(passes, prepare("msp"), FitSets(test), test)
        scores = score_ood(passes, known, ood).scores
        for data, found in ((test, scores["id"]), (ood, scores["ood"])):
            assert torch.allclose(found, msp_by_hand(model, data.images), atol=1e-6), seed
        kept = by_address.setdefault(id(model), expected)
        stale_by_address += kept is not expected
        del model, passes, known
    assert stale_by_address, "no address came twice, so that this test shows nothing"


def test_thirty_checkpoints_at_one_path_have_numbers_of_their_own(tmp_path):
    path = checkpoint(tmp_path / "w.safetensors", 0)
    options = {**LIMITED, "checkpoint": str(path), "adapters": ["none"], "detectors": ["msp"]}
    options["ood"] = {"far": {"noise": "uniform-noise/40-grey"}}
    noise = load_set("uniform-noise/40-grey", data_dir=tmp_path, preprocessing=SMALL, ood=True)
    model, weights, numbers = from_checkpoint(path), set(), set()
    for _ in range(30):
        add_to_a_weight(path, "linear.weight", 0.25)
        (record,) = run(tmp_path, **options)
        model.net.load_state_dict(safetensors.torch.load_file(path))
        scores = load_scores(tmp_path / FOLDER / record.scores)["ood"]
        assert np.allclose(scores, msp_by_hand(model, noise.images), rtol=0, atol=1e-6)
        weights.add(record.weights["base"])
        numbers.add(tuple(scores.tolist()))
    assert len(weights) == len(numbers) == 30


# --- images


def write_images(folder: Path, images: torch.Tensor, labels: list[int]) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(max(label, 0)) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def pictures(tmp_path) -> dict:
    """A suite whose sets are all in files."""
    data = tmp_path / "data"
    for name, images in (("train", example_set()), ("test", example_set(seed=1))):
        write_images(data / name, images.images, images.labels.tolist())
    for name, seed in (("noise", 0), ("more-noise", 1)):
        some = example_outliers(20, seed)
        write_images(data / name, some.images, some.labels.tolist())
    return {
        "data_dir": data,
        "id": {"name": "bars", "train": "folder/train", "test": "folder/test"},
        "ood": {"near": {"noise": "folder/noise"}, "far": {"more-noise": "folder/more-noise"}},
        "adapters": ["none", "finetune"],
    }


def run_pictures(results: Path, options: dict) -> list:
    changes = {k: v for k, v in options.items() if k != "data_dir"}
    data_dir = options["data_dir"]
    return list(run_suite(suite(**changes), results=results, data_dir=data_dir, device="cpu"))


def change_a_pixel(path: Path) -> None:
    before = path.stat()
    pixels = np.array(Image.open(path))
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("where", "cells", "trainings", "streamed"),
    [
        ("noise", {"ood_set": "noise"}, 0, "0"),
        ("noise", {"ood_set": "noise"}, 0, "1"),
        ("test", {}, 0, "0"),
        ("train", {}, 2, "0"),
    ],
)
def test_one_pixel_computes_the_cells_of_its_set_again(
    tmp_path, pictures, trained, monkeypatch, where, cells, trainings, streamed
):
    monkeypatch.setenv("UM_BENCH_STREAM", streamed)
    first = run_pictures(tmp_path, pictures)
    assert {r.state for r in first} == {"done"}
    trained.clear()
    change_a_pixel(sorted((pictures["data_dir"] / where).rglob("*.png"))[7])
    second = run_pictures(tmp_path, pictures)
    assert moved(first, second) == places(first, **cells)
    assert len(trained) == trainings
    changed = {
        role
        for r, s in zip(first, second, strict=True)
        for role in r.fingerprints
        if r.fingerprints[role] != s.fingerprints[role]
    }
    assert changed == {"noise": {"ood"}, "test": {"id"}, "train": {"train", "fit"}}[where]


# --- detectors, preprocessing, versions


@pytest.fixture
def from_file(tmp_path) -> dict:
    """A suite whose base is not trained, with two adapters and two detectors."""
    path = checkpoint(tmp_path / "w.safetensors", 0)
    adapters = ["none", "um@constraint=0.4"]
    return {**LIMITED, "checkpoint": str(path), "adapters": adapters, "detectors": ["msp", "knn"]}


def test_another_default_of_a_detector_computes_its_cells_again(
    tmp_path, from_file, monkeypatch, trained
):
    first = run(tmp_path, **from_file)
    trained.clear()
    knn = registry.load("detector", "knn")
    other = dataclasses.replace(knn, defaults={**knn.defaults, "k": 7})
    monkeypatch.setattr("um_bench.detectors.table.KNN", other)
    second = run(tmp_path, **from_file)
    assert moved(first, second) == places(first, detector="knn")
    assert not trained


def test_another_setting_of_a_detector_is_another_cell_and_keeps_the_old_one(tmp_path, from_file):
    first = run(tmp_path, **from_file)
    second = run(tmp_path, **from_file | {"detectors": ["msp", "knn@k=7"]})
    both = run(tmp_path, **from_file | {"detectors": ["msp", "knn", "knn@k=7"]})
    assert all(record in both for record in (*first, *second))
    scores = [load_scores(tmp_path / FOLDER / r.scores)["ood"] for r in both if r.detector == "knn"]
    assert not np.array_equal(scores[0], scores[2])


@pytest.mark.parametrize("change", [{"mean": [0.5, 0.5, 0.5]}, {"resize": "squash"}])
def test_another_preprocessing_computes_everything_again(tmp_path, from_file, change):
    """Also where the pixels happen to stay: nobody promises that for another image."""
    first = run(tmp_path, **from_file)
    second = run(tmp_path, **from_file | {"preprocessing": {**PLAIN, **change}})
    assert moved(first, second) == places(first)
    assert not {r.key for r in first} & {r.key for r in second}


def from_version(kind: str, name: str, version: str):
    """The registry, with one name that comes from a distribution of its own."""
    plugins = registry.plugins

    def changed(asked: str):
        found = dict(plugins(asked))
        if asked == kind:
            found[name] = found[name]._replace(distribution="um-elsewhere", version=version)
        return found

    return changed


@pytest.mark.parametrize(
    ("kind", "name", "cells", "trainings"),
    [
        ("adapter", "um", {"adapter": "um"}, 1),
        ("detector", "knn", {"detector": "knn"}, 0),
        ("backbone", "resnet20_cifar", {}, 1),
        ("dataset", "digits", {"state": "nothing: its images are what counts"}, 0),
    ],
)
def test_another_version_of_a_plugin_computes_its_cells_again(
    tmp_path, from_file, trained, monkeypatch, kind, name, cells, trainings
):
    runs = []
    for version in ("1.0", "1.1"):
        trained.clear()
        with monkeypatch.context() as patch:
            patch.setattr(registry, "plugins", from_version(kind, name, version))
            runs.append(run(tmp_path, **from_file))
    assert moved(*runs) == places(runs[0], **cells)
    assert len(trained) == trainings


def test_another_pytorch_ood_computes_all_scores_again_and_trains_nothing(
    tmp_path, from_file, trained, monkeypatch
):
    first = run(tmp_path, **from_file)
    trained.clear()
    monkeypatch.setattr(identity, "version", lambda name: f"{name} 99")
    second = run(tmp_path, **from_file)
    assert moved(first, second) == places(first)
    assert not trained
