"""The ImageNet-scale suites, end to end: images from files in each pass, weights from the Hub."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from um_bench import run_suite, scoring
from um_bench.backbones import create
from um_bench.data import ImageSet, Loader, StreamedSet, load_set, sets, streaming
from um_bench.detectors import fit, prepare
from um_bench.outputs import collect
from um_bench.scores import load_scores
from um_bench.suite import Recipe, load_suite

SUITES = ("imagenet1k-openood", "imagenet200-openood")
LISTS = {"imagenet1k-openood": "imagenet", "imagenet200-openood": "imagenet200"}
CLASSES = 4
TRAIN, TEST, VALIDATION, OOD = 24, 12, 8, 5
OOD_LISTS = {
    "test_ssb_hard.txt": "ssb_hard",
    "test_ninco.txt": "ninco",
    "test_inaturalist.txt": "inaturalist/images",
    "test_textures.txt": "texture/images",
    "test_openimage_o.txt": "openimage_o/images",
    "val_openimage_o.txt": "openimage_o/images",
}


def write_image(path, seed):
    """A JPEG of a size of its own: blocks of colour, as noise would be grey once it is resized."""
    generator = np.random.default_rng(seed)
    blocks = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks.resize((40 + seed % 5 * 8, 40 + seed % 3 * 10)).save(path, quality=90)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A data folder in OpenOOD's layout: both benchmarks' lists, cut down to four classes."""
    data = tmp_path_factory.mktemp("data")
    images, seed = data / "images_largescale", 0
    lists = {}
    for part, count in (("train", TRAIN), ("val", VALIDATION), ("test", TEST)):
        for index in range(count):
            folder = f"train/n0{index % CLASSES}" if part == "train" else "val"
            name = f"imagenet_1k/{folder}/{part}_{index:08}.JPEG"
            lists.setdefault(part, []).append(f"{name} {index % CLASSES}")
            write_image(images / name, seed := seed + 1)
    for name, folder in OOD_LISTS.items():
        for index in range(OOD):
            image = f"{folder}/{name[:4]}_{index}.jpg"
            lists.setdefault(name, []).append(f"{image} -1")
            write_image(images / image, seed := seed + 1)
    for benchmark in LISTS.values():
        folder = data / "benchmark_imglist" / benchmark
        folder.mkdir(parents=True)
        for name, lines in lists.items():
            file = name if name in OOD_LISTS else f"{name}_{benchmark}.txt"
            (folder / file).write_text("\n".join(lines))
    return data


@pytest.fixture(autouse=True)
def two_processes(monkeypatch, tmp_path):
    monkeypatch.setenv(streaming.WORKERS, "2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small(name, **changes):
    """A suite as it ships, but with a tiny backbone that is trained for an epoch, and smaller."""
    suite = load_suite(name)
    short = {"epochs": 1, "batch_size": 8, "lr": 0.01, "augmentation": "crop-flip"}
    changes = {
        "id": dataclasses.replace(suite.id, shifted={}),
        "ood": tuple(ood for ood in suite.ood if ood.group in ("near", "far")),
        "preprocessing": dataclasses.replace(suite.preprocessing, size=64, resize_to=72),
        "backbone": "test_resnet",
        "backbone_options": {},
        "seeds": (0,),
        "adapters": ("none", "um@constraint=0.4"),
        "detectors": ("msp", "knn@k=3", "odin"),
        "base": Recipe(**short),
        "recipe": Recipe(**short),
        **changes,
    }
    return suite.replace(**changes)


def run(suite, data, results):
    return list(run_suite(suite, results=results, data_dir=data, device="cpu"))


def comparable(record):
    """All of a record but times and dates."""
    provenance = dict(dataclasses.asdict(record.provenance), created="")
    return dataclasses.replace(record, seconds={}, spent={}, provenance=None), provenance


@pytest.fixture
def kinds(monkeypatch):
    """The kinds of sets that are fed to classifiers."""
    seen = []
    original = Loader.__post_init__

    def note(self):
        seen.append(type(self.data))
        original(self)

    monkeypatch.setattr(Loader, "__post_init__", note)
    return seen


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_the_same_numbers_streamed_and_in_memory(
    imagenet, tmp_path, monkeypatch, kinds, name
):
    suite = small(name)
    records = {}
    for how, kind in (("1", StreamedSet), ("0", ImageSet)):
        monkeypatch.setenv(sets.STREAM, how)
        records[how] = run(suite, imagenet, tmp_path / how)
        assert set(kinds) == {kind}
        kinds.clear()
    assert {record.state for record in records["1"]} == {"done"}
    assert len(records["1"]) == 2 * 3 * 5
    assert [comparable(r) for r in records["1"]] == [comparable(r) for r in records["0"]]
    for record in records["1"]:
        files = [tmp_path / how / suite.folder / record.scores for how in "10"]
        streamed, kept = map(load_scores, files)
        assert len(streamed["id"]) == TEST
        assert len(streamed["ood"]) == OOD
        for part in ("id", "ood"):
            assert np.array_equal(streamed[part], kept[part])
        assert streamed["id"].std() > 0


def test_cells_that_were_computed_in_memory_are_the_same_cells(imagenet, tmp_path, monkeypatch):
    suite = small("imagenet1k-openood", adapters=("none",), detectors=("msp",))
    monkeypatch.setenv(sets.STREAM, "0")
    first = run(suite, imagenet, tmp_path)
    monkeypatch.setenv(sets.STREAM, "1")
    monkeypatch.setattr(scoring, "collect", lambda *_, **__: pytest.fail("computed again"))
    assert run(suite, imagenet, tmp_path) == first


def test_a_suite_that_does_not_fit_into_memory_runs(imagenet, tmp_path, monkeypatch, kinds):
    monkeypatch.delenv(sets.STREAM, raising=False)
    # As many images as one of the OOD sets has.
    monkeypatch.setattr(sets, "_free_memory", lambda: (OOD + 0.1) * 3 * 64 * 64 / 0.6)
    suite = small("imagenet1k-openood", adapters=("none",), detectors=("msp",))
    records = run(suite, imagenet, tmp_path)
    assert {record.state for record in records} == {"done"}
    assert set(kinds) == {StreamedSet, ImageSet}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_outputs_and_scores_are_the_same_by_both_paths(imagenet, monkeypatch, workers):
    monkeypatch.setenv(streaming.WORKERS, workers)
    suite = small("imagenet1k-openood")
    torch.manual_seed(0)
    model = create("test_resnet", num_classes=CLASSES, preprocessing=suite.preprocessing)
    binding = prepare("knn@k=2")
    found = []
    for stream in (False, True):
        train, test = (
            Loader(
                load_set(
                    reference, data_dir=imagenet, preprocessing=suite.preprocessing, stream=stream
                ),
                batch_size=5,
            )
            for reference in (suite.id.train, suite.id.test)
        )
        fitted_on, outputs = collect(model, train), collect(model, test)
        scores = fit(binding, model, fitted_on, train).score(outputs, test)
        found.append((outputs.logits, outputs.features, outputs.labels, scores))
    assert len(found[0][3]) == TEST
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No Hub, and none of its files from before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("backbone", ["resnet50.tv_in1k", "test_resnet.r160_in1k"])
def test_without_its_weights_every_cell_says_how_to_get_them(imagenet, tmp_path, backbone):
    shipped = load_suite("imagenet1k-openood")
    assert (shipped.backbone, shipped.backbone_options) == (
        "resnet50.tv_in1k",
        {"pretrained": True},
    )
    suite = small(
        "imagenet1k-openood", backbone=backbone, backbone_options=shipped.backbone_options
    )
    records = run(suite, imagenet, tmp_path)
    assert len(records) == 2 * 3 * 5
    assert {record.state for record in records} == {"missing-data"}
    for record in records:
        assert f"pretrained weights of backbone '{backbone}' are not here" in record.reason
        assert "HF_HOME" in record.reason
        assert "--checkpoint" in record.reason
        assert not record.metrics


@pytest.mark.parametrize("name", SUITES)
def test_without_images_every_cell_says_how_to_get_them(tmp_path, name):
    records = run(load_suite(name), tmp_path / "data", tmp_path / "results")
    suite = load_suite(name)
    assert len(records) == sum(1 for job in suite.jobs() for _ in suite.cells(job))
    assert {record.state for record in records} == {"missing-data"}
    for record in records:
        assert "image-net.org" in record.reason
        assert "pip install gdown && python -c" in record.reason


def test_without_one_ood_set_its_cells_say_how_to_get_it(imagenet, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(imagenet, data)
    shutil.rmtree(data / "images_largescale" / "ninco")
    suite = small("imagenet1k-openood", adapters=("none",), detectors=("msp",))
    records = run(suite, data, tmp_path)
    states = {record.ood_set: record.state for record in records}
    assert states.pop("NINCO") == "missing-data"
    assert set(states.values()) == {"done"}
    reason = next(record.reason for record in records if record.ood_set == "NINCO")
    assert f"{OOD} of the {OOD} images on its list are missing" in reason
