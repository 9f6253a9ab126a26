"""Benchmark classes of pytorch-ood as suites: what each becomes, and that nothing is downloaded."""

import inspect
import pickle
import re
import shlex
import socket
import sys
import urllib.request
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_ood.benchmark import Benchmark, CIFAR10_OpenOOD, OASIS3_OpenMIBOOD
from torch.utils.data import Dataset, Subset
from torchvision.datasets import CIFAR10, FakeData, ImageFolder

import um_bench
from um_bench import registry
from um_bench.data import benchmarks, load_set
from um_bench.errors import MissingDataError, PluginError, UnsupportedError, UsageError
from um_bench.suite import Preprocessing, listed, load_suite

HERE = __name__
SIZE_8 = Preprocessing(size=8)


def load(reference, folder, *, ood=True, size=32):
    return load_set(reference, data_dir=folder, preprocessing=Preprocessing(size=size), ood=ood)


def noise(seed, side=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def tree(folder):
    """Everything below a folder, with the content of its files."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def arguments_of(message):
    """Return the class that a message's command makes, and the arguments that it is given."""
    words = shlex.split(message.partition("To get it: ")[2])
    found = re.fullmatch(r"from ([\w.]+) import (\w+); (\w+)\((.*)\)", words[-1])
    kind = getattr(import_module(found[1]), found[2])
    arguments = eval(f"dict(root={found[4]})")
    inspect.signature(kind).bind(**arguments)
    return kind, arguments


# --- Suites -------------------------------------------------------------------------------------

CIFAR_NEAR, CIFAR_FAR = ("TinyImageNet",), ("MNIST", "SVHN", "Textures", "Places365")
ODIN = ("TinyImageNetCrop", "TinyImageNetResize", "LSUNResize", "LSUNCrop")
IMAGENET = (("SSBHard", "NINCO"), ("iNaturalist", "Textures", "OpenImagesO"))
MIDOG = tuple(f"midog_{n}" for n in ("2", "3", "4", "5", "6a", "6b", "7"))
PHAKIR = ("phakir_cholec", "phakir_endovis2015", "phakir_endovis2018")
SSB = (("Hard",), ("Easy",))

# Class -> near, far, covariate-shifted, ID set, size, backbone, held-out data.
EXPECTED = {
    "CIFAR10_ODIN": ((), (*ODIN, "UniformNoise", "GaussianNoise"), (), "cifar10", 32,
                     "resnet18_cifar", False),
    "CIFAR100_ODIN": ((), (*ODIN, "Uniform", "Gaussian"), (), "cifar100", 32,
                      "resnet18_cifar", False),
    "CIFAR10_OpenOOD": (("CIFAR100", *CIFAR_NEAR), CIFAR_FAR, (), "cifar10", 32,
                        "resnet18_cifar", True),
    "CIFAR100_OpenOOD": (("CIFAR10", *CIFAR_NEAR), CIFAR_FAR, (), "cifar100", 32,
                         "resnet18_cifar", True),
    "ImageNet_OpenOOD": (*IMAGENET, (), "imagenet1k", 224, "resnet50.tv_in1k", True),
    "ImageNet1K_OpenOOD": (*IMAGENET, (), "imagenet1k", 224, "resnet50.tv_in1k", True),
    "ImageNet200_OpenOOD": (*IMAGENET, (), "imagenet200", 224, "resnet18", True),
    "MIDOG_OpenMIBOOD": (MIDOG, ("midog_ccagt", "midog_fnac2019"),
                         ("midog_csid_1b", "midog_csid_1c"), "midog", 50, "resnet18", False),
    "PhaKIR_OpenMIBOOD": (PHAKIR, ("phakir_kvasir", "phakir_cataracts"),
                          ("phakir_medium_smoke", "phakir_heavy_smoke"), "phakir", 224,
                          "resnet18", False),
    "CUB_SSB": (*SSB, (), "cub", 224, "resnet18", False),
    "StanfordCars_SSB": (*SSB, (), "stanford-cars", 224, "resnet18", False),
    "Aircraft_SSB": (*SSB, (), "fgvc-aircraft", 224, "resnet18", False),
}  # fmt: skip
UNSUPPORTED = {"OASIS3_OpenMIBOOD": "NIfTI volumes, which um-bench cannot read"}


def test_every_benchmark_of_pytorch_ood_is_accounted_for():
    package = import_module("pytorch_ood.benchmark")
    classes = {
        name
        for name, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, Benchmark) and value is not Benchmark
    }
    assert classes == EXPECTED.keys() | UNSUPPORTED.keys()
    assert {n for n in listed() if n.startswith("pytorch-ood:")} == {
        f"pytorch-ood:{name}" for name in classes
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_a_benchmark_is_a_suite_by_its_name(name):
    near, far, shifted, id_name, size, backbone, held_out = EXPECTED[name]
    suite = load_suite(f"pytorch-ood:{name}")
    groups = {g: tuple(o.name for o in suite.ood if o.group == g) for g in ("near", "far")}
    assert groups == {"near": near, "far": far}
    spectrum = tuple(o for o in suite.ood if o.full_spectrum)
    assert [o.name for o in spectrum] == ([f"{n}-fs" for n in (*near, *far)] if shifted else [])
    assert {o.source for o in suite.ood} == {f"pytorch-ood/{name}/{n}" for n in (*near, *far)}
    assert suite.id.shifted == {n: f"pytorch-ood/{name}/{n}" for n in shifted}
    assert (suite.id.name, suite.preprocessing.size, suite.backbone) == (id_name, size, backbone)
    parts = (suite.id.train, suite.id.test, suite.id.validation, suite.validation_ood)
    names = ("train", "test", "validation", "validation-ood") if held_out else ("train", "test")
    assert [p for p in parts if p] == [f"pytorch-ood/{name}/{part}" for part in names]
    assert suite.name == f"pytorch-ood:{name}"
    paper = getattr(import_module("pytorch_ood.benchmark"), name).info.paper
    assert f"{paper.title} ({paper.venue} {paper.year}, {paper.url})" in suite.description
    assert ("does not tell near from far" in suite.description) == (not near)
    assert all(one in suite.description for one in shifted)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_read_is_unsupported_with_the_reason(name, tmp_path):
    with pytest.raises(UnsupportedError, match=UNSUPPORTED[name]):
        load_suite(f"pytorch-ood:{name}")
    with pytest.raises(UnsupportedError, match=UNSUPPORTED[name]):
        load(f"pytorch-ood/{name}/train", tmp_path)


@pytest.mark.parametrize("name", [n for n in EXPECTED if not n.endswith("ODIN")])
def test_without_its_data_every_set_is_missing_and_nothing_is_made(name, tmp_path, offline):
    suite = load_suite(f"pytorch-ood:{name}")
    for source in (suite.id.train, suite.id.test, *(o.source for o in suite.ood)):
        with pytest.raises(MissingDataError, match="To get it: ") as caught:
            load(source, tmp_path)
        assert source in str(caught.value)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "CIFAR10_ODINN",
            r"no benchmark in pytorch_ood.benchmark named.*Did you mean CIFAR10_ODIN",
        ),
        ("Benchmark", "no benchmark in pytorch_ood.benchmark named 'Benchmark'"),
        ("no_such_package.Mine", "the module no_such_package cannot be imported"),
        (f"{HERE}.Tinny", f"no benchmark in {HERE} named 'Tinny'. Did you mean Tiny"),
        (f"{HERE}.Path", f"no benchmark in {HERE} named 'Path'"),
        (f"{HERE}.Nameless", "Give the class an attribute ood_names"),
        (f"{HERE}.Demanding", "needs the argument fold, which um-bench does not know"),
        ("", "no benchmark in pytorch_ood.benchmark named ''"),
    ],
)
def test_a_name_that_is_no_benchmark_says_what_to_do(name, message):
    with pytest.raises(UsageError, match=message):
        load_suite(f"pytorch-ood:{name}")


def test_a_part_that_is_none_names_near_ones(odin):
    with pytest.raises(UsageError, match=r"no part of pytorch-ood/CIFAR10_ODIN.*mean LSUNCrop"):
        load("pytorch-ood/CIFAR10_ODIN/LSUNcrop", odin)
    with pytest.raises(UsageError, match=r"Known: .*train"):
        load("pytorch-ood/CIFAR10_ODIN", odin)


# --- A folder that holds CIFAR-10 and nothing else ------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    """Fail where anything connects to the network, whatever um-bench does about it."""

    def refuse(*arguments, **options):
        pytest.fail(f"connects to the network: {arguments[-1]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def odin(tmp_path, monkeypatch, offline):
    """CIFAR-10's files as torchvision has them, with 4 images each; any checksum is right."""
    drawn = np.random.default_rng(0)
    root = tmp_path / CIFAR10.base_folder
    root.mkdir()
    for file, _ in (*CIFAR10.train_list, *CIFAR10.test_list):
        data = drawn.integers(0, 256, (4, 3072), dtype=np.uint8)
        with (root / file).open("wb") as stream:
            pickle.dump({"data": data, "labels": [0, 1, 2, 3]}, stream, protocol=2)
    with (root / CIFAR10.meta["filename"]).open("wb") as stream:
        pickle.dump({"label_names": list("abcd")}, stream, protocol=2)
    cifar = import_module("torchvision.datasets.cifar")
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).exists())
    return tmp_path


@pytest.mark.parametrize("part", ["train", "test"])
def test_odins_id_data_are_torchvisions(odin, part):
    mine = load(f"pytorch-ood/CIFAR10_ODIN/{part}", odin, ood=False)
    theirs = CIFAR10(str(odin), train=part == "train", download=False)
    assert torch.equal(mine.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
    assert mine.labels.tolist() == theirs.targets
    assert mine.fingerprint == load(f"cifar10/{part}", odin, ood=False).fingerprint


@pytest.mark.parametrize(
    ("name", "family"), [("UniformNoise", "uniform-noise"), ("GaussianNoise", "gaussian-noise")]
)
def test_odins_noise_is_pytorch_oods_from_the_start_in_every_load(odin, name, family):
    mine = load(f"pytorch-ood/CIFAR10_ODIN/{name}", odin)
    drawn = getattr(import_module("pytorch_ood.dataset.img"), name)(
        1000, size=(32, 32, 3), seed=123
    )
    expected = torch.stack([torch.from_numpy(np.array(drawn[i][0])) for i in range(1000)])
    assert torch.equal(mine.images, expected.permute(0, 3, 1, 2))
    assert mine.labels.unique().tolist() == [-1]
    assert mine.fingerprint == load(f"{family}/1000", odin).fingerprint
    assert mine.fingerprint == load(f"pytorch-ood/CIFAR10_ODIN/{name}", odin).fingerprint


def test_noise_is_read_in_order_and_from_the_start_each_time(odin):
    pairs = registry.load("dataset", "pytorch-ood")("CIFAR10_ODIN/GaussianNoise", odin, SIZE_8)
    # By index, an image is drawn whichever is asked for: threads would mix them up.
    assert not hasattr(pairs, "__getitem__")
    first, second = ([np.array(image) for image, _ in pairs] for _ in range(2))
    assert len(first) == len(pairs) == 1000
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["Uniform", "Gaussian"])
def test_noise_without_a_seed_is_the_same_in_every_run(odin, name):
    first, second = (load(f"pytorch-ood/CIFAR100_ODIN/{name}", odin) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    seeded = load(f"pytorch-ood/CIFAR10_ODIN/{name}Noise", odin)
    assert first.fingerprint == seeded.fingerprint


@pytest.mark.parametrize("name", ODIN)
def test_an_absent_set_is_missing_alone_with_the_command_to_get_it(odin, name):
    before = tree(odin)
    with pytest.raises(MissingDataError, match=rf"^pytorch-ood/CIFAR10_ODIN/{name} is not in") as e:
        load(f"pytorch-ood/CIFAR10_ODIN/{name}", odin)
    kind, arguments = arguments_of(str(e.value))
    assert kind is getattr(import_module("pytorch_ood.dataset.img"), name)
    assert arguments == {"root": str(odin), "download": True}
    assert tree(odin) == before


def test_absent_id_data_are_missing_with_the_command(tmp_path, offline):
    with pytest.raises(MissingDataError) as caught:
        load("pytorch-ood/CIFAR100_ODIN/test", tmp_path)
    kind, arguments = arguments_of(str(caught.value))
    assert kind is import_module("torchvision.datasets").CIFAR100
    assert arguments == {"root": str(tmp_path), "train": False, "download": True}
    assert tree(tmp_path) == {}


def test_a_sweep_over_odin_fills_what_is_here_and_names_the_rest(odin, tmp_path):
    suite = load_suite("pytorch-ood:CIFAR10_ODIN").replace(
        seeds=(0,), adapters=("none",), detectors=("msp",), backbone="resnet20_cifar", limit=12
    )
    suite = suite.with_setting("base.epochs=1")
    records = list(um_bench.run_suite(suite, results=tmp_path / "r", data_dir=odin, device="cpu"))
    states = {record.ood_set: record.state for record in records}
    assert states == {
        **dict.fromkeys(ODIN, "missing-data"), "UniformNoise": "done", "GaussianNoise": "done"
    }  # fmt: skip
    for record in records:
        assert record.group == "far"
        assert record.state == "done" or f"import {record.ood_set}; " in record.reason


# --- OpenOOD ------------------------------------------------------------------------------------

LISTS = {
    "train_cifar10.txt": "cifar10/a.png 0\ncifar10/b.png 1",
    "val_cifar10.txt": "cifar10/c.png 1\ncifar10/d.png 0",
    "test_cifar10.txt": "cifar10/e.png 1\ncifar10/f.png 0",
    "val_tin.txt": "tin/a.png -1",
    "test_cifar100.txt": "cifar100/a.png -1",
    "test_tin.txt": "tin/b.png -1",
    "test_mnist.txt": "mnist/gone.png -1",
    "test_svhn.txt": "svhn/a.png -1",
    "test_texture.txt": "texture/a.png -1",
    "test_places365.txt": "",
}


@pytest.fixture
def openood(tmp_path, offline):
    """OpenOOD's layout: Places365's list is empty, MNIST's one image is not there."""
    lists = tmp_path / "benchmark_imglist" / "cifar10"
    lists.mkdir(parents=True)
    for seed, (name, text) in enumerate(LISTS.items()):
        (lists / name).write_text(text)
        for line in text.splitlines():
            if "gone" not in line:
                save(noise(seed, 32), tmp_path / "images_classic" / line.split()[0])
    return tmp_path


class MyOpenOOD(CIFAR10_OpenOOD):
    """As a user would change a benchmark: by fewer OOD sets."""

    _ood_imglists = (("SVHN", "test_svhn.txt"), ("TinyImageNet", "test_tin.txt"))
    _near_ood = ("TinyImageNet",)
    _far_ood = ("SVHN",)


@pytest.mark.parametrize("name", ["CIFAR10_OpenOOD", f"{HERE}.MyOpenOOD"])
def test_openoods_sets_are_those_of_the_shipped_suites(openood, name):
    suite = load_suite(f"pytorch-ood:{name}")
    ours = {o.name: o.source for n in ("near", "far") for o in load_suite(f"cifar10-{n}-ood").ood}
    pairs = [
        (o.source, ours[o.name], True) for o in suite.ood if o.name in ("SVHN", "TinyImageNet")
    ]
    pairs += [
        (f"pytorch-ood/{name}/{part}", f"openood-cifar10/{part}", part == "validation-ood")
        for part in ("train", "test", "validation", "validation-ood")
    ]
    for mine, theirs, ood in pairs:
        loaded = load(mine, openood, ood=ood)
        assert loaded.fingerprint == load(theirs, openood, ood=ood).fingerprint
        assert loaded.labels.tolist() == load(theirs, openood, ood=ood).labels.tolist()


def test_openoods_sets_that_are_not_here_have_their_command(openood):
    with pytest.raises(
        MissingDataError, match=r"^pytorch-ood/CIFAR10_OpenOOD/MNIST: 1 of the 1"
    ) as e:
        load("pytorch-ood/CIFAR10_OpenOOD/MNIST", openood)
    assert f"move {openood / 'images_classic' / 'mnist'} away" not in str(e.value)
    assert "from pytorch_ood.benchmark import CIFAR10_OpenOOD; " in str(e.value)
    with pytest.raises(MissingDataError, match="its image list names no image"):
        load("pytorch-ood/CIFAR10_OpenOOD/Places365", openood)
    with pytest.raises(MissingDataError, match=f"from {HERE} import MyOpenOOD; MyOpenOOD"):
        load(f"pytorch-ood/{HERE}.MyOpenOOD/train", openood / "elsewhere")


# --- OpenMIBOOD ---------------------------------------------------------------------------------


@pytest.fixture
def midog(tmp_path, offline):
    """MIDOG's lists, each of three images, one a class; those of midog_7 are not there."""
    kind = import_module("pytorch_ood.benchmark").MIDOG_OpenMIBOOD
    root = tmp_path / "midog"
    lists = root / "imglists" / "midog"
    lists.mkdir(parents=True)
    for seed, name in enumerate((kind._train_imglist, kind._test_imglist, *kind._ood_imglists)):
        files = [f"{name.removesuffix('.txt')}/{label}.tiff" for label in range(3)]
        (lists / name).write_text("\n".join(f"{file} {file[-6]}" for file in files))
        for file in files if name != "test_midog_7.txt" else ():
            save(noise(seed, 50), root / file)
    return tmp_path


def test_covariate_shifted_sets_keep_the_labels_that_pytorch_ood_takes_away(midog):
    kind = import_module("pytorch_ood.benchmark").MIDOG_OpenMIBOOD
    theirs = kind(str(midog / "midog"), transform=lambda image: image, download=False)
    shifted = theirs.test_sets(known=False, unknown=True)[0]
    assert [label for _, label in shifted] == [-1, -1, -1]
    mine = load("pytorch-ood/MIDOG_OpenMIBOOD/midog_csid_1b", midog, ood=False, size=50)
    assert mine.labels.tolist() == [0, 1, 2]
    pixels = [np.array(image).transpose(2, 0, 1) for image, _ in shifted]
    assert np.array_equal(mine.images.numpy(), np.stack(pixels))
    with pytest.raises(UsageError, match="3 of 3 images have a label below 0"):
        load("pytorch-ood/MIDOG_OpenMIBOOD/midog_2", midog, ood=False, size=50)


def test_openmiboods_other_sets_are_read_and_nothing_is_written(midog):
    before = tree(midog)
    suite = load_suite("pytorch-ood:MIDOG_OpenMIBOOD")
    for source in (suite.id.train, suite.id.test):
        assert load(source, midog, ood=False, size=50).labels.tolist() == [0, 1, 2]
    prints = set()
    for ood in suite.ood:
        if ood.name.startswith("midog_7"):
            with pytest.raises(MissingDataError, match="3 of the 3 images on its list are missing"):
                load(ood.source, midog)
        else:
            prints.add(load(ood.source, midog, size=50).fingerprint)
    assert len(prints) == 8
    assert tree(midog) == before


def test_openmiboods_lists_are_asked_for_by_a_command(tmp_path):
    with pytest.raises(MissingDataError, match="there is no folder") as caught:
        load("pytorch-ood/PhaKIR_OpenMIBOOD/test", tmp_path)
    assert "https://github.com/remic-othr/OpenMIBOOD" in str(caught.value)
    code = shlex.split(str(caught.value))[-1]
    assert f'PhaKIR_OpenMIBOOD("{tmp_path / "phakir"}", transform=None, download=True)' in code


class MyOASIS3(OASIS3_OpenMIBOOD):
    """With a loader, as its docstring asks for."""

    def __init__(self, root, transform, download=False):
        super().__init__(root, transform, loader=lambda path: Image.new("L", (8, 8), 7))


def test_a_subclass_with_a_loader_can_be_run(tmp_path):
    assert load_suite(f"pytorch-ood:{HERE}.MyOASIS3").id.shifted.keys() == {
        "oasis3_scanner", "oasis3_t2w"
    }  # fmt: skip
    lists = tmp_path / "oasis3" / "imglists" / "oasis3"
    lists.mkdir(parents=True)
    for name in (MyOASIS3._train_imglist, MyOASIS3._test_imglist, *MyOASIS3._ood_imglists):
        (lists / name).write_text("volume.nii.gz 0")
    (tmp_path / "oasis3" / "volume.nii.gz").touch()
    loaded = load(f"pytorch-ood/{HERE}.MyOASIS3/train", tmp_path, ood=False, size=8)
    assert loaded.images.unique().tolist() == [7]


# --- The Semantic Shift Benchmark, whose splits are pickles -------------------------------------

# Six classes, numbered from 0 in the files: two known, and two, one and one unknown.
SPLITS = {
    "known_classes": [4, 1],
    "unknown_classes": {"Easy": [0, 5], "Medium": [2], "Hard": [3]},
}


def write_splits(folder, name, content=None):
    file = folder / "ssb_splits" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(SPLITS) if content is None else content)
    return file


def image_of(split, number):
    return noise(10 * number + (split == "test"))


def pixels_of(*images):
    return torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])


def write_cub(folder):
    base = folder / "CUB_200_2011"
    base.mkdir()
    lines = {"images": [], "image_class_labels": [], "train_test_split": []}
    for index in range(12):
        number, split = index % 6, "train" if index < 6 else "test"
        save(image_of(split, number), base / "images" / f"{index}.png")
        lines["images"].append(f"{index} {index}.png")
        lines["image_class_labels"].append(f"{index} {number + 1}")
        lines["train_test_split"].append(f"{index} {int(split == 'train')}")
    for name, text in lines.items():
        (base / f"{name}.txt").write_text("\n".join(text))


def write_cars(folder):
    savemat = import_module("scipy.io").savemat
    base = folder / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    files = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for split, file in files.items():
        kinds = [("fname", object), ("class", np.uint8)]
        annotations = np.array([(f"{n}.png", n + 1) for n in range(6)], dtype=kinds)
        savemat(base / "devkit" / file, {"annotations": annotations})
        for number in range(6):
            save(image_of(split, number), base / f"cars_{split}" / f"{number}.png")


def write_aircraft(folder):
    base = folder / "fgvc-aircraft-2013b" / "data"
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("\n".join("fedcba"))
    for split in ("trainval", "test"):
        names = [f"{split}{n} {'abcdef'[n]}" for n in range(6)]
        (base / f"images_variant_{split}.txt").write_text("\n".join(names))
        for number in range(6):
            # Its class says .jpg, which keeps no pixel as it is; PIL goes by the content.
            file = base / "images" / f"{split}{number}.jpg"
            save(image_of(split, number), file.with_suffix(".png"))
            file.with_suffix(".png").rename(file)


SSB_DATA = {
    "CUB_SSB": ("cub_osr_splits.pkl", write_cub),
    "StanfordCars_SSB": ("scars_osr_splits.pkl", write_cars),
    "Aircraft_SSB": ("aircraft_osr_splits.pkl", write_aircraft),
}


@pytest.mark.parametrize("name", SSB_DATA)
def test_classes_are_split_as_the_file_says(tmp_path, name, offline):
    file, write = SSB_DATA[name]
    write(tmp_path)
    write_splits(tmp_path, file)
    before = tree(tmp_path)
    for part, split, labels in (("train", "train", [0, 1]), ("test", "test", [0, 1])):
        loaded = load(f"pytorch-ood/{name}/{part}", tmp_path, ood=False, size=8)
        assert torch.equal(loaded.images, pixels_of(image_of(split, 1), image_of(split, 4)))
        assert loaded.labels.tolist() == labels
    for part, numbers in (("Easy", (0, 5)), ("Hard", (2, 3))):
        loaded = load(f"pytorch-ood/{name}/{part}", tmp_path, size=8)
        assert torch.equal(loaded.images, pixels_of(*(image_of("test", n) for n in numbers)))
    assert tree(tmp_path) == before


def test_pytorch_oods_own_reading_loses_a_class_of_cars(tmp_path):
    """The reason for reading the splits ourselves: it takes classes for numbered from 1."""
    write_splits(tmp_path, "scars_osr_splits.pkl")
    ssb = import_module("pytorch_ood.benchmark.img.ssb")
    assert ssb.load_ssb_splits("scars", str(tmp_path))["unknown_classes"]["Easy"] == [-1, 4]
    ours = benchmarks._splits("scars", str(tmp_path))
    assert ours == SPLITS


@pytest.mark.parametrize("name", SSB_DATA)
def test_a_split_file_is_fetched_by_the_user(tmp_path, name, offline):
    file, write = SSB_DATA[name]
    write(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(MissingDataError, match=f"there is no file .*{file}") as caught:
        load(f"pytorch-ood/{name}/train", tmp_path)
    words = shlex.split(str(caught.value).partition("To get it: ")[2])
    assert words[:3] == ["curl", "-L", "--create-dirs"]
    assert words[4] == str(tmp_path / "ssb_splits" / file)
    assert words[5].endswith(f"/{file}")
    assert tree(tmp_path) == before


class Bomb:
    """What a pickle can do: make a file when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    ("hidden", "is_bomb"),
    [
        (lambda target: {**SPLITS, "known_classes": Bomb(target)}, True),
        (lambda target: Bomb(target), True),
        (lambda target: {**SPLITS, "known_classes": np.arange(2)}, False),
    ],
)
def test_no_pickled_code_is_run(tmp_path, hidden, is_bomb):
    target = tmp_path / "was-here"
    write_cub(tmp_path)
    file = write_splits(tmp_path, "cub_osr_splits.pkl", pickle.dumps(hidden(target)))
    with pytest.raises(UnsupportedError, match=r"calls \S+; um-bench runs no code"):
        load("pytorch-ood/CUB_SSB/train", tmp_path)
    assert not target.exists()
    pickle.loads(file.read_bytes())
    assert target.exists() == is_bomb, "what was refused does nothing anyway"


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1]), pickle.dumps({"a": 1})])
def test_a_broken_split_file_is_named(tmp_path, content):
    file = write_splits(tmp_path, "cub_osr_splits.pkl", content)
    with pytest.raises(UsageError, match=re.escape(f"{file} does not hold class splits")):
        load("pytorch-ood/CUB_SSB/train", tmp_path)


def test_a_set_that_cannot_be_downloaded_has_the_librarys_own_words(tmp_path):
    write_splits(tmp_path, "scars_osr_splits.pkl")
    with pytest.raises(MissingDataError, match=r"Hard is not in .*https://www.kaggle.com/datasets"):
        load("pytorch-ood/StanfordCars_SSB/Hard", tmp_path)
    write_splits(tmp_path, "cub_osr_splits.pkl")
    with pytest.raises(MissingDataError, match="To get it: ") as caught:
        load("pytorch-ood/CUB_SSB/Hard", tmp_path)
    assert arguments_of(str(caught.value))[1] == {
        "root": str(tmp_path), "split": "test", "download": True
    }  # fmt: skip


# --- A benchmark of one's own -------------------------------------------------------------------


class Blobs(Dataset):
    """Images of two classes that a small net tells apart: a bright half, left or right."""

    def __init__(self, root, count, first=0, ood=False, transform=None, target_transform=None):
        self.count, self.first, self.ood = count, first, ood
        self.transform, self.target_transform = transform, target_transform
        if not Path(root).joinpath("blobs.txt").exists():
            raise RuntimeError("run make_blobs.py first")

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        pixels = np.random.default_rng([index, self.first]).integers(0, 60, (8, 8, 3))
        label = index % 2
        rows = (slice(None), slice(0, 4) if label else slice(4, 8))
        pixels[rows[::-1] if self.ood else rows] += 150
        image = Image.fromarray(pixels.astype(np.uint8))
        image = self.transform(image) if self.transform else image
        return image, self.target_transform(label) if self.target_transform else label


class Absent(Blobs):
    """A set whose files are not here."""

    def __init__(self, root, **options):
        super().__init__(root + "/absent", 4, **options)


class Eager(Blobs):
    """A set that would download, as it is told by its fifth argument or by a gathered one."""

    def __init__(self, root, count=4, first=0, ood=False, download=False, **options):
        super().__init__(root, count, first, ood)
        self.told = (download, options)


class EagerToo(Blobs):
    """The same, with all its options gathered."""

    def __init__(self, root, **options):
        super().__init__(root, 4)
        self.told = options


class Base(Benchmark):
    """What all benchmarks below have."""

    def train_set(self):
        """Return the training set."""
        return self.train_in

    def test_sets(self, known=True, unknown=True):
        """Return the test sets."""
        if known and unknown:
            return [self.test_in + other for other in self.test_oods]
        return [self.test_in] if known else self.test_oods


class Tiny(Base):
    """As a user would write one, in the style of pytorch-ood's."""

    near_ood_names = ("rows",)
    far_ood_names = ("fake", "absent", "some rows")

    def __init__(self, root, transform):
        self.train_in = Blobs(root, 64, transform=transform)
        self.test_in = Blobs(root, 32, 1, transform=transform)
        self.val_in = Blobs(root, 16, 2, transform=transform)
        self.val_ood = Blobs(root, 16, 3, ood=True, transform=transform)
        rows = Blobs(root, 24, 4, True, transform)
        self.test_oods = [
            rows,
            FakeData(12, (3, 8, 8), transform=transform),
            Absent(root, transform=transform),
            Subset(rows, [3, 5]),
        ]
        self.ood_names = ["rows", "fake", "absent", "some rows"]


def suite_of_tiny():
    suite = load_suite(f"pytorch-ood:{HERE}.Tiny").replace(
        backbone="resnet20_cifar",
        seeds=(0,),
        adapters=("none",),
        detectors=("msp", "knn@k=3"),
        preprocessing=SIZE_8,
    )
    for setting in ("epochs=10", "batch_size=16", "augmentation=none"):
        suite = suite.with_setting(f"base.{setting}")
    return suite


def test_a_benchmark_of_ones_own_runs_from_end_to_end(tmp_path, offline):
    (tmp_path / "blobs.txt").touch()
    suite = suite_of_tiny()
    assert suite.id.validation == f"pytorch-ood/{HERE}.Tiny/validation"
    assert suite.validation_ood == f"pytorch-ood/{HERE}.Tiny/validation-ood"
    results = tmp_path / "results"
    records = list(um_bench.run_suite(suite, results=results, data_dir=tmp_path, device="cpu"))
    states = {(r.ood_set, r.group): r.state for r in records}
    assert states == {
        ("rows", "near"): "done",
        ("fake", "far"): "done",
        ("absent", "far"): "missing-data",
        ("some rows", "far"): "done",
    }
    counts = {r.ood_set: r.counts for r in records if r.state == "done"}
    assert {name: c["ood"] for name, c in counts.items()} == {
        "rows": 24, "fake": 12, "some rows": 2
    }  # fmt: skip
    assert {c["id"] for c in counts.values()} == {32}
    assert min(r.metrics["id_accuracy"] for r in records if r.state == "done") > 0.9
    (missing,) = {r.reason for r in records if r.state != "done"}
    assert missing.startswith(f"pytorch-ood/{HERE}.Tiny/absent is not in {tmp_path}")
    assert "run make_blobs.py first" in missing


def test_a_benchmark_of_ones_own_takes_another_size_as_it_is():
    suite = load_suite(f"pytorch-ood:{HERE}.Tiny")
    assert (suite.preprocessing.size, suite.backbone) == (224, "resnet18")
    assert suite.id.name == "Tiny"
    # Nothing is scaled to 256 first, of which 8 pixels would be a speck.
    assert suite.with_setting("preprocessing.size=8").preprocessing.resize_to is None


def test_what_a_benchmark_wraps_is_what_its_sets_hold(tmp_path):
    (tmp_path / "blobs.txt").touch()
    rows = load(f"pytorch-ood/{HERE}.Tiny/rows", tmp_path, size=8)
    some = load(f"pytorch-ood/{HERE}.Tiny/some rows", tmp_path, size=8)
    assert torch.equal(some.images, rows.images[[3, 5]])
    reference = Blobs(str(tmp_path), 24, 4, True)
    assert torch.equal(rows.images, pixels_of(*(image for image, _ in reference)))


def test_the_module_of_a_benchmark_is_as_it_was(tmp_path):
    before = {n: v for n, v in vars(sys.modules[HERE]).items() if isinstance(v, type)}
    (tmp_path / "blobs.txt").touch()
    load(f"pytorch-ood/{HERE}.Tiny/rows", tmp_path, size=8)
    with pytest.raises(UsageError):
        load_suite(f"pytorch-ood:{HERE}.Nameless")
    assert {n: v for n, v in vars(sys.modules[HERE]).items() if isinstance(v, type)} == before
    assert type(Blobs(str(tmp_path), 4)) is Blobs


def test_a_stand_in_is_the_real_set_in_another_process(tmp_path):
    (tmp_path / "blobs.txt").touch()
    kind = benchmarks.benchmark_class(f"{HERE}.Tiny")
    made = benchmarks._made(kind, "Tiny", tmp_path, benchmarks._no_splits)
    assert type(made.train_in) is not Blobs
    assert type(made.train_in).__name__ == "Blobs"
    copied = pickle.loads(pickle.dumps(made.train_in))
    assert type(copied) is Blobs
    assert len(copied) == len(made.train_in) == 64
    assert made.train_in.first == 0
    assert made.train_in[3][1] == 1


class Hasty(Tiny):
    """All of its sets would download."""

    def __init__(self, root, transform, download=True):
        super().__init__(root, transform)
        self.train_in = Eager(root, 4, 0, False, True)
        self.test_in = EagerToo(root, download=True, colour="red")
        self.val_in = Eager(root, download=True)
        self.val_ood = Blobs(root, 4)
        assert download is False


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("train", (False, {})),
        ("validation", (False, {})),
        ("test", {"download": False, "colour": "red"}),
    ],
)
def test_no_set_is_told_to_download(tmp_path, part, told):
    (tmp_path / "blobs.txt").touch()
    family = registry.load("dataset", "pytorch-ood")
    assert family(f"{HERE}.Hasty/{part}", tmp_path, SIZE_8).told == told
    assert len(family(f"{HERE}.Hasty/validation-ood", tmp_path, SIZE_8)) == 4


class Nameless(Base):
    """It reads a file to know its sets, and says nothing before."""

    def __init__(self, root, transform):
        self.ood_names = Path(root, "names.txt").read_text().split()


class Named(Nameless):
    """The same, with names on the class."""

    ood_names = ("one", "two")


class Demanding(Base):
    """It needs what um-bench cannot know."""

    def __init__(self, root, transform, fold):
        self.fold = fold


class Clashing(Tiny):
    """One of its OOD sets is called like the ID test set."""

    def __init__(self, root, transform):
        super().__init__(root, transform)
        self.ood_names = ["rows", "test", "absent", "some rows"]


class Odd(Tiny):
    """It makes a set wrongly."""

    def __init__(self, root, transform):
        self.train_in = Blobs(root, 4, colour="red")


def test_names_on_the_class_are_enough():
    suite = load_suite(f"pytorch-ood:{HERE}.Named")
    assert [(ood.name, ood.group) for ood in suite.ood] == [("one", "far"), ("two", "far")]
    assert suite.id.validation is suite.validation_ood is None


def test_what_is_wrong_with_a_benchmark_is_said(tmp_path):
    with pytest.raises(UsageError, match="an OOD set called test cannot be told from the ID data"):
        load(f"pytorch-ood/{HERE}.Clashing/test", tmp_path)
    with pytest.raises(
        PluginError, match=r"Odd/train failed: TypeError: got an unexpected.*'colour'"
    ):
        load(f"pytorch-ood/{HERE}.Odd/train", tmp_path)


# --- What a constructor may not do ---------------------------------------------------------------


class Downloading(Tiny):
    """Its constructor fetches something, and has no argument against it."""

    def __init__(self, root, transform):
        super().__init__(root, transform)
        with urllib.request.urlopen("http://192.0.2.1/list.txt", timeout=1) as answer:
            self.ood_names = answer.read().split()


class Connecting(Tiny):
    """The same, on another way."""

    def __init__(self, root, transform):
        super().__init__(root, transform)
        socket.create_connection(("192.0.2.1", 80), timeout=1)


class Unpickling(Tiny):
    """Its constructor reads a pickle."""

    def __init__(self, root, transform):
        super().__init__(root, transform)
        self.ood_names = pickle.loads(Path(root, "names.pkl").read_bytes())


class Making(Tiny):
    """Its constructor makes a folder."""

    def __init__(self, root, transform):
        Path(root, "cache", "deep").mkdir(parents=True, exist_ok=True)
        super().__init__(root, transform)


@pytest.mark.parametrize("name", ["Downloading", "Connecting"])
def test_a_constructor_that_downloads_is_stopped(tmp_path, name):
    # Not offline: the fixture would stop it as well.
    with pytest.raises(MissingDataError, match=rf"{name} would download \(.*192\.0\.2\.1") as e:
        load(f"pytorch-ood/{HERE}.{name}/rows", tmp_path)
    kind, arguments = arguments_of(str(e.value))
    assert kind is getattr(sys.modules[HERE], name)
    assert arguments == {"root": str(tmp_path), "transform": None}
    assert load_suite(f"pytorch-ood:{HERE}.{name}").ood[0].name == "rows"


def test_a_constructor_that_runs_pickled_code_is_stopped(tmp_path):
    target = tmp_path / "was-here"
    (tmp_path / "names.pkl").write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(UnsupportedError, match="um-bench runs no code out of data files"):
        load(f"pytorch-ood/{HERE}.Unpickling/rows", tmp_path)
    assert not target.exists()
    pickle.loads((tmp_path / "names.pkl").read_bytes())
    assert target.exists(), "the pickle that was refused does nothing anyway"


def test_a_pickle_of_names_is_only_read(tmp_path):
    (tmp_path / "blobs.txt").touch()
    names = ["rows", "fake", "absent", "some rows"]
    (tmp_path / "names.pkl").write_bytes(pickle.dumps(names))
    assert len(load(f"pytorch-ood/{HERE}.Unpickling/fake", tmp_path, size=8)) == 12


def test_a_constructor_makes_no_folder_among_the_data(tmp_path):
    with pytest.raises(MissingDataError, match=r"there is no folder .*cache"):
        load(f"pytorch-ood/{HERE}.Making/rows", tmp_path)
    assert tree(tmp_path) == {}
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    (tmp_path / "blobs.txt").touch()
    assert len(load(f"pytorch-ood/{HERE}.Making/rows", tmp_path, size=8)) == 24


class InFolder(Base):
    """A set of torchvision's that has no argument against downloading, nor needs one."""

    ood_names = ("other",)

    def __init__(self, root, transform, download=True):
        assert download is False
        self.train_in = self.test_in = ImageFolder(f"{root}/id", transform)
        self.test_oods = [ImageFolder(root=f"{root}/ood", transform=transform)]


def test_torchvisions_folders_are_read(tmp_path):
    for name in ("id/a/1.png", "id/b/1.png", "ood/x/1.png"):
        save(noise(len(name)), tmp_path / name)
    loaded = load(f"pytorch-ood/{HERE}.InFolder/train", tmp_path, ood=False, size=8)
    assert loaded.labels.tolist() == [0, 1]
    assert len(load(f"pytorch-ood/{HERE}.InFolder/other", tmp_path, size=8)) == 1
    with pytest.raises(MissingDataError, match=r"/test is not in .*No such file or directory"):
        load(f"pytorch-ood/{HERE}.InFolder/test", tmp_path / "elsewhere", ood=False)


# --- Real images --------------------------------------------------------------------------------


@pytest.mark.data
def test_the_kit_through_the_benchmark_is_the_kit_through_the_suites(kit):
    suite = load_suite("pytorch-ood:CIFAR10_OpenOOD")
    shipped = [load_suite("cifar10-near-ood"), load_suite("cifar10-far-ood")]
    ours = {o.name: o.source for s in shipped for o in s.ood}
    pairs = {o.source: ours[o.name] for o in suite.ood}
    pairs[suite.id.test] = shipped[0].id.test
    pairs[suite.id.validation] = shipped[0].id.validation
    pairs[suite.validation_ood] = shipped[0].validation_ood
    counts = {}
    for mine, theirs in pairs.items():
        ood = mine not in (suite.id.test, suite.id.validation)
        try:
            files = files_of(mine, kit)
        except MissingDataError:
            with pytest.raises(MissingDataError):
                files_of(theirs, kit)
            continue
        counts[mine.rpartition("/")[2]] = len(files)
        assert files == files_of(theirs, kit)
        some = [
            load_set(source, data_dir=kit, preprocessing=suite.preprocessing, ood=ood, limit=200)
            for source in (mine, theirs)
        ]
        assert some[0].fingerprint == some[1].fingerprint
    assert counts == {
        "TinyImageNet": 7793, "MNIST": 10000, "SVHN": 10000, "Textures": 1200,
        "test": 9000, "validation": 1000, "validation-ood": 1000,
    }  # fmt: skip


def files_of(reference, folder):
    family, _, part = reference.partition("/")
    return registry.load("dataset", family)(part, folder, SIZE_8).files
