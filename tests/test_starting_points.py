"""pytorch-ood's trained classifiers: all are listed, all can be used, adapters start from them."""

import contextlib
import dataclasses
import hashlib
import pickle
import subprocess
import sys
import urllib.error
from importlib.util import spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import pytorch_ood.model
import torch
from PIL import Image
from pytorch_ood.model import GRUClassifier, get_model_info, list_models
from torch import nn

import um_bench.backbones
from um_bench import run_suite, starting_points
from um_bench.backbones import Classifier, create, weights_hash
from um_bench.errors import MissingDataError, UnsupportedError, UsageError
from um_bench.starting_points import StartingPoint, listed
from um_bench.suite import Preprocessing, parse_suite

LOGITNORM = "wrn-40-2/cifar10/logitnorm/s0"
SMALL = Preprocessing(size=32)


# --- the list ---


def by_import():
    """What the registry says of itself."""
    for key in list_models():
        entry = get_model_info(key)
        yield StartingPoint(
            key=entry.key,
            architecture=entry.arch,
            id_set=entry.dataset,
            classes=entry.arch_kwargs["num_classes"],
            loss=entry.loss,
            seed=entry.seed or "",
            description=entry.description,
        )


def test_the_list_is_the_registry():
    assert list(listed()) == list(by_import())
    assert tuple(sorted(starting_points._in_source())) == listed(), "its source was not read"
    assert len(listed()) >= 60
    assert StartingPoint(
        key=LOGITNORM,
        architecture="wrn-40-2",
        id_set="cifar10",
        classes=10,
        loss="logitnorm",
        seed="s0",
        description="WideResNet-40-2 trained on CIFAR-10 with LogitNorm (t=0.04) for 100 epochs "
        "with SGD.",
    ) in listed()  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        "dict(depth=40, num_classes=7)",
        "dict(**shared, num_classes=7)",
        "{'depth': 40, 'num_classes': 7}",
        "{**shared, 'num_classes': 7}",
    ],
)
def test_classes_are_read_however_they_are_written(tmp_path, monkeypatch, arguments):
    point = only_entry(tmp_path, monkeypatch, f"key='a/b/c', arch='a', arch_kwargs={arguments}")
    assert point == StartingPoint("a/b/c", "a", "", 7, "", "", "")


def test_classes_that_are_not_told_are_none(tmp_path, monkeypatch):
    point = only_entry(tmp_path, monkeypatch, "key='a', seed=None, arch_kwargs={'depth': 40}")
    assert point == StartingPoint("a", "", "", None, "", "", "")


def only_entry(tmp_path, monkeypatch, arguments):
    """Return the one entry of a registry whose source has no other."""
    planted_registry(tmp_path, monkeypatch, f"_ENTRIES: list = [ModelEntry({arguments})]")
    [point] = listed()
    return point


def planted_registry(tmp_path, monkeypatch, source):
    home = tmp_path / "some_registry"
    (home / "model").mkdir(parents=True)
    (home / "__init__.py").write_text("")
    if source is not None:
        (home / "model" / "registry.py").write_text(source)
    spec = spec_from_file_location(home.name, home / "__init__.py")
    monkeypatch.setattr(starting_points.importlib.util, "find_spec", lambda name: spec)


def test_the_list_needs_no_torch():
    code = (
        "import sys; from um_bench.starting_points import listed; assert len(listed()) >= 60; "
        "print(*{'torch', 'torchvision', 'pytorch_ood', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_outliers_in_the_training_are_told():
    for point in listed():
        words = ("TinyImages", "ImageNet-800", "outlier")
        said = any(word in point.description for word in words)
        assert point.uses_outliers == said, point
    made_up = listed()[0]._replace(loss="a-new-one")
    assert made_up.uses_outliers, "what nobody knows is not called free of outliers"


CHANGED = {
    "other name": "_MODELS: list = []\n",
    "calls": "_ENTRIES: list = [_made('a')]\n",
    "computed key": "_ENTRIES: list = [ModelEntry(key=f'{1}', arch_kwargs={})]\n",
    "no key": "_ENTRIES: list = [ModelEntry(arch='a', arch_kwargs={})]\n",
    "starred": "_ENTRIES: list = [ModelEntry(**made)]\n",
    "arguments": "_ENTRIES: list = [ModelEntry(key='a', arch_kwargs=shared)]\n",
    "no Python": "_ENTRIES: list = [\n",
}


@pytest.mark.parametrize("source", [*CHANGED.values(), None], ids=[*CHANGED, "no file"])
def test_where_the_source_is_another_the_registry_is_imported(tmp_path, monkeypatch, source):
    expected = listed()
    planted_registry(tmp_path, monkeypatch, source)
    with contextlib.suppress(OSError, ValueError, SyntaxError, KeyError):
        assert list(starting_points._in_source()) == []
    assert listed() == expected


# --- each key ---


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return torch's cache folder, empty, where nothing can be downloaded."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    # TORCH_HOME counts no more once any test has called torch.hub.set_dir.
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch" / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def theirs(entry):
    """Return a network of an entry's kind, with weights that are no network's start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        kind = getattr(pytorch_ood.model, entry.arch_class.rpartition(".")[2])
        net = kind(**entry.arch_kwargs).eval()
        for name, tensor in net.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(std=0.1)
    return net


def published(net, entry):
    """Return its state dict as it is in the file that was published."""
    prefix = "module." if entry.state_dict_transform else ""
    return {prefix + name: tensor for name, tensor in net.state_dict().items()}


@pytest.fixture(scope="module")
def networks():
    """Networks by architecture and classes: to make one takes longer than the test of a key."""
    made = {}

    def network(entry):
        place = (entry.arch, entry.arch_kwargs["num_classes"])
        if place not in made:
            made[place] = theirs(entry)
        return made[place]

    return network


@pytest.mark.parametrize("key", list_models())
def test_every_key_can_be_used(key, hub, monkeypatch, networks):
    entry = get_model_info(key)
    net = networks(entry)
    asked = []

    def fetch(url, **options):
        asked.append((url, options))
        return published(net, entry)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    point = next(one for one in listed() if one.key == key)
    model = create(point.backbone, num_classes=point.classes, preprocessing=SMALL)
    [(url, options)] = asked
    assert url == entry.url
    assert options["weights_only"] is True
    assert options["check_hash"] is True
    assert options["file_name"].endswith(f"-{entry.sha256[:16]}.pt")
    assert {name: t.tolist() for name, t in model.net.state_dict().items() if t.numel() < 9} == {
        name: t.tolist() for name, t in net.state_dict().items() if t.numel() < 9
    }
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (entry.preprocessing.mean, entry.preprocessing.std)
    )
    with torch.no_grad():
        torch.testing.assert_close(model(images), net((images - mean) / std))


@pytest.mark.parametrize("key", ["wrn-40-2/cifar10/logitnorms/s0", "logitnorm", "wrn-40-2/oe"])
def test_an_unknown_key_is_told_with_near_ones(hub, key):
    with pytest.raises(UsageError) as caught:
        create(f"pytorch-ood:{key}", num_classes=10, preprocessing=SMALL)
    hint = str(caught.value).partition("Did you mean ")[2].partition("?")[0].split(" or ")
    assert f"'pytorch-ood:{key}'" in str(caught.value)
    loss = key.rpartition("/")[2] if key != "wrn-40-2/cifar10/logitnorms/s0" else "logitnorm"
    assert any(f"/{loss}" in one for one in hint), hint
    assert {one.partition(":")[2] for one in hint} <= set(list_models())


def test_another_number_of_classes_is_told_with_both(hub):
    with pytest.raises(UsageError) as caught:
        create(f"pytorch-ood:{LOGITNORM}", num_classes=8, preprocessing=SMALL)
    assert str(caught.value).startswith(
        f"backbone 'pytorch-ood:{LOGITNORM}' was trained on cifar10 and has 10 classes, the ID "
        "set 8."
    )


class Sentences(pytorch_ood.model.Preprocessing):
    def build(self):
        raise NotImplementedError


class Headless(nn.Module):
    """A network without features and head."""

    def __init__(self, num_classes):
        super().__init__()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"preprocessing": Sentences()}, "no classifier of images: its inputs are those of Sent"),
        (
            {
                "arch_class": "pytorch_ood.model.GRUClassifier",
                "arch_kwargs": {"num_classes": 10, "n_vocab": 50},
                "preprocessing": None,
            },
            "no classifier of images: it reads words",
        ),
        (
            {"arch_class": f"{__name__}.Headless", "arch_kwargs": {"num_classes": 10}},
            "Headless has neither timm's interface .* nor features and fc",
        ),
    ],
)
def test_what_is_no_image_classifier_is_refused_before_it_is_downloaded(
    hub, monkeypatch, changes, reason
):
    entry = dataclasses.replace(get_model_info(LOGITNORM), **changes)
    monkeypatch.setattr(um_bench.backbones, "get_model_info", lambda key: entry)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(UnsupportedError, match=rf"^backbone 'pytorch-ood:{LOGITNORM}'.*{reason}"):
        create(f"pytorch-ood:{LOGITNORM}", num_classes=10, preprocessing=SMALL)


def test_no_network_of_the_registry_reads_words():
    assert GRUClassifier.__name__ not in {get_model_info(k).arch_class for k in list_models()}


# --- their weights in a file ---


@pytest.fixture
def kept(hub, monkeypatch):
    """Put a state dict where a key's weights are kept, by the right name; return the entry."""

    def keep(content, key=LOGITNORM):
        path = hub / "new.pt"
        torch.save(content, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = dataclasses.replace(get_model_info(key), sha256=sha256)
        path.rename(hub / entry.file_name)
        monkeypatch.setattr(um_bench.backbones, "get_model_info", lambda key: entry)
        return entry

    return keep


def test_the_weights_are_those_of_pytorch_oods_own_way(kept, hub, monkeypatch):
    entry = kept(theirs(get_model_info(LOGITNORM)).state_dict())
    monkeypatch.setattr(pytorch_ood.model.registry, "_index", lambda: {entry.key: entry})
    reference = pytorch_ood.model.load_model(LOGITNORM)
    model = create(f"pytorch-ood:{LOGITNORM}", num_classes=10, preprocessing=SMALL)
    assert weights_hash(model.net) == weights_hash(reference)


def test_one_wrong_byte_in_the_weights_is_seen(kept, hub):
    entry = kept(theirs(get_model_info(LOGITNORM)).state_dict())
    content = bytearray((hub / entry.file_name).read_bytes())
    content[len(content) // 2] ^= 1
    (hub / entry.file_name).write_bytes(content)
    with pytest.raises(UsageError, match=r"\.pt is not the published file; delete it"):
        create(f"pytorch-ood:{LOGITNORM}", num_classes=10, preprocessing=SMALL)


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickled_code_in_the_weights_is_not_run(kept, tmp_path):
    trace = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "it is no bomb"
    trace.unlink()
    kept({"conv1.weight": Bomb(trace)})
    with pytest.raises(UsageError, match="needs pickle, which is not run"):
        create(f"pytorch-ood:{LOGITNORM}", num_classes=10, preprocessing=SMALL)
    assert not trace.exists()


# --- a sweep that starts from them ---

CLASSES = 10
TABLE = {
    "name": "on-top",
    "backbone": "resnet20_cifar",
    "seeds": [0],
    "adapters": ["finetune"],
    "detectors": ["msp", "energy"],
    "id": {"name": "stripes", "train": "folder/train", "test": "folder/test"},
    "preprocessing": {"size": 32, "resize": "none"},
    "base": {"epochs": 1, "batch_size": 20, "augmentation": "none"},
    "recipe": {"epochs": 1, "batch_size": 20, "lr": 0.01, "augmentation": "none"},
    "ood": {"far": {"noise": "uniform-noise/20"}},
}


@pytest.fixture
def images(tmp_path):
    """A data folder with ten classes of stripes, 32x32 pixels, few of each."""
    for split, each, seed in (("train", 4, 1), ("test", 2, 2)):
        chance = np.random.default_rng(seed)
        for label in range(CLASSES):
            folder = tmp_path / "data" / split / f"class{label}"
            folder.mkdir(parents=True)
            stripes = 127 + 100 * np.sin(np.arange(32) * (label + 1) / 5)
            for number in range(each):
                noisy = stripes[:, None, None] + chance.normal(0, 10, (32, 32, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


def swept(tmp_path, images, **changes):
    suite = parse_suite(TABLE, "on-top.toml").replace(
        backbone=f"pytorch-ood:{LOGITNORM}", **changes
    )
    return list(run_suite(suite, results=tmp_path / "results", data_dir=images, device="cpu"))


def test_um_starts_from_the_registrys_weights(kept, images, tmp_path):
    net = theirs(get_model_info(LOGITNORM))
    entry = kept(net.state_dict())
    records = swept(tmp_path, images, adapters=("none", "um"))
    assert [(r.adapter, r.detector, r.state) for r in records] == [
        (adapter, detector, "done") for adapter in ("none", "um") for detector in ("msp", "energy")
    ]
    # Of the file alone, by no code of ours but the hash.
    known = entry.preprocessing
    plain = Classifier(net, num_classes=CLASSES, mean=known.mean, std=known.std)
    expected = weights_hash(plain)
    assert {r.weights["base"] for r in records} == {expected}
    none, um = records[0], records[2]
    assert none.weights["adapted"] == expected
    assert um.weights["adapted"] != expected
    assert um.backbone == f"pytorch-ood:{LOGITNORM}"
    assert um.seconds["base"] == 0, "nothing was trained before"
    assert um.metrics["base_id_accuracy"] == none.metrics["id_accuracy"]
    assert um.notes["constraint"] > 0


def test_a_sweep_whose_start_is_not_here_says_how_to_get_it(hub, images, tmp_path):
    entry = get_model_info(LOGITNORM)
    with pytest.raises(MissingDataError) as caught:
        create(f"pytorch-ood:{LOGITNORM}", num_classes=CLASSES, preprocessing=SMALL)
    for part in (LOGITNORM, entry.url, str(hub / entry.file_name), "no network here", "TORCH_HOME"):
        assert part in str(caught.value)
    records = swept(tmp_path, images, adapters=("none", "um"))
    assert {(r.state, r.reason) for r in records} == {("missing-data", str(caught.value))}


def test_a_sweep_over_another_number_of_classes_stops_with_both_numbers(kept, images, tmp_path):
    kept(theirs(get_model_info(LOGITNORM)).state_dict())
    for label in (8, 9):
        for split in ("train", "test"):
            (images / split / f"class{label}").rename(tmp_path / f"{split}{label}")
    with pytest.raises(UsageError, match="has 10 classes, the ID set 8"):
        swept(tmp_path, images, adapters=("none", "um"))
