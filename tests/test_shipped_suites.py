import importlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from um_bench import registry
from um_bench.data import load_set, sources
from um_bench.errors import MissingDataError
from um_bench.suite import load_suite, parse_adapter, parse_choice, parts_of, shipped

NAMES = [
    "cifar10-campaign",
    "cifar10-campaign-cpu",
    "cifar10-far-ood",
    "cifar10-full-spectrum",
    "cifar10-near-ood",
    "cifar10-trajectory-cpu",
    "cifar10-um",
    "cifar100-far-ood",
    "cifar100-near-ood",
    "cifar100-um",
    "digits-far-ood",
    "digits-full-spectrum",
    "digits-near-ood",
    "fashionmnist-ood",
    "imagenet1k-openood",
    "imagenet200-full-spectrum",
    "imagenet200-openood",
]
OPENOOD = {
    "cifar10-far-ood": "CIFAR10_OpenOOD",
    "cifar10-full-spectrum": "CIFAR10_OpenOOD",
    "cifar10-near-ood": "CIFAR10_OpenOOD",
    "cifar100-far-ood": "CIFAR100_OpenOOD",
    "cifar100-near-ood": "CIFAR100_OpenOOD",
    "imagenet200-full-spectrum": "ImageNet200_OpenOOD",
    "imagenet200-openood": "ImageNet200_OpenOOD",
    "imagenet1k-openood": "ImageNet_OpenOOD",
}
SHORT = ["cifar10-campaign-cpu", "cifar10-trajectory-cpu"]
"""Recipes for a CPU, which say so."""
DETECTORS = {"cifar10-campaign": 26, "cifar10-campaign-cpu": 24, "cifar10-trajectory-cpu": 3}
"""How many, where it is not the standard fifteen."""
DIGITS = ["digits-far-ood", "digits-full-spectrum", "digits-near-ood"]
FULL_SPECTRUM = {
    "cifar10-full-spectrum": ("cifar10-far-ood", {"CIFAR-10-C": "CIFAR10C"}),
    "digits-full-spectrum": ("digits-far-ood", {"blurred digits": "shifted"}),
    "imagenet200-full-spectrum": (
        "imagenet200-openood",
        {"ImageNet-V2": "ImageNetV2", "ImageNet-C": "ImageNetC", "ImageNet-R": "ImageNetR"},
    ),
}
UM = ["cifar10-um", "cifar100-um"]


def references(suite):
    held_out = filter(None, [suite.id.validation, suite.validation_ood])
    own = [suite.id.train, suite.id.test, *held_out, *suite.id.shifted.values()]
    return own + [ood.source for ood in suite.ood]


def test_these_suites_ship():
    assert list(shipped()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_read_and_explained(name):
    suite = load_suite(name)
    assert suite.name == name
    assert suite.title
    # The first paragraphs say what the ID set and the OOD sets are.
    assert re.search(r"(^|\W)ID: |as its code has it", suite.description)
    assert "\\" not in suite.description
    assert max(map(len, suite.description.split())) < 60


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_a_suite_is_registered(name):
    suite = load_suite(name)
    adapters = {part.name for label in suite.adapters for part in parts_of(parse_adapter(label))}
    assert {"none", "finetune", "um"} <= adapters <= set(registry.plugins("adapter"))
    detectors = {parse_choice(label).name for label in suite.detectors}
    assert len(suite.detectors) == len(detectors) == DETECTORS.get(name, 15)
    assert detectors <= set(registry.plugins("detector"))
    families = {reference.partition("/")[0] for reference in references(suite)}
    assert families <= set(registry.plugins("dataset"))


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_exists(name):
    suite = load_suite(name)
    if suite.backbone in registry.plugins("backbone"):
        return
    timm = importlib.import_module("timm")
    assert timm.is_model(suite.backbone)
    if suite.backbone_options.get("pretrained"):
        assert timm.models.is_model_pretrained(suite.backbone)
        assert not suite.trains_base


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DIGITS])
def test_a_set_that_is_not_here_is_missing_and_nothing_else(name, tmp_path):
    """No reference of a suite has a typo in its part, as far as that shows without data."""
    suite = load_suite(name)
    for reference in references(suite):
        if "noise" in reference or reference.startswith("folder/"):
            continue  # made, or the user's own folder: nothing says how to get these
        with pytest.raises(MissingDataError) as caught:
            load_set(reference, data_dir=tmp_path, preprocessing=suite.preprocessing)
        command = str(caught.value).partition("To get it: ")[2]
        assert shlex.split(command)[0] in {"python", "pip", "curl"}


def make_openood(folder, family):
    """Write every list that a benchmark of pytorch-ood reads, each naming one image."""
    benchmark = getattr(importlib.import_module("pytorch_ood.benchmark"), family.kind)
    images = folder / family.images
    images.mkdir()
    Image.new("RGB", (300, 300)).save(images / "one.png")
    shifted = [one.file for one in family.shifted.values()]
    lists = folder / "benchmark_imglist" / benchmark._subdir
    lists.mkdir(parents=True)
    for part in ("_train", "_val_id", "_test_id", "_val_ood"):
        (lists / getattr(benchmark, f"{part}_imglist")).write_text("one.png 0")
    for file in shifted:
        (lists / file).write_text("one.png 0")
    for _, file in benchmark._ood_imglists:
        (lists / file).write_text("one.png -1")


@pytest.mark.parametrize("name", OPENOOD)
def test_openoods_sets_and_groups_are_pytorch_oods(name, tmp_path):
    suite = load_suite(name)
    benchmark = getattr(importlib.import_module("pytorch_ood.benchmark"), OPENOOD[name])
    groups = {"near": benchmark._near_ood, "far": benchmark._far_ood}
    for group in {ood.group for ood in suite.ood if not ood.full_spectrum}:
        assert [ood.name for ood in suite.ood if ood.group == group] == groups[group]
    family = next(
        f
        for f in vars(sources).values()
        if isinstance(f, sources.OpenOODSet) and f.kind == OPENOOD[name]
    )
    make_openood(tmp_path, family)
    for reference in references(suite):
        assert reference.partition("/")[0] == family.name
        loaded = load_set(reference, data_dir=tmp_path, preprocessing=suite.preprocessing, ood=True)
        assert loaded.images.shape == (1, 3, suite.preprocessing.size, suite.preprocessing.size)
    for ood in suite.ood:
        assert ood.source == f"{family.name}/{ood.name.removesuffix('-fs')}"
    assert suite.validation_ood == f"{family.name}/validation-ood"


@pytest.mark.parametrize("name", OPENOOD)
def test_openoods_suites_show_openoods_fpr_at_its_sizes(name):
    suite = load_suite(name)
    # openood/evaluation_api/preprocessor.py (3c35632): pre_size, img_size, normalisation.
    pre_size, size, mean, std = {
        "cifar10": (32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": (32, 32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    }.get(suite.id.name, (256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert suite.fpr95 == "ood"
    assert suite.preprocessing.resize == "crop"
    assert (suite.preprocessing.resize_to or suite.preprocessing.size) == pre_size
    assert suite.preprocessing.size == size
    assert suite.preprocessing.mean == mean
    assert suite.preprocessing.std == std


@pytest.mark.parametrize("name", [name for name in OPENOOD if name != "imagenet1k-openood"])
def test_openoods_base_recipe(name):
    base = load_suite(name).base
    assert (base.lr, base.momentum, base.weight_decay, base.nesterov) == (0.1, 0.9, 5e-4, True)
    assert (base.epochs, base.batch_size) == ((100, 128) if "cifar" in name else (90, 256))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith("cifar") and name not in SHORT]
)
def test_cifar_adapters_train_as_in_ums_configurations(name):
    recipe = load_suite(name).recipe
    assert (recipe.epochs, recipe.batch_size, recipe.schedule) == (100, 256, "cosine")
    assert (recipe.lr, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-4)
    assert (recipe.nesterov, recipe.augmentation) == (False, "crop-flip")


@pytest.mark.parametrize("name", UM)
def test_the_papers_protocol(name):
    suite = load_suite(name)
    other = "CIFAR100" if name == "cifar10-um" else "CIFAR10"
    assert {ood.name for ood in suite.ood} == {
        other, "iNaturalist", "SUN", "Places", "dtd", "LSUN", "SVHN",
    }  # fmt: skip
    assert [ood.name for ood in suite.ood if ood.group == "near"] == [other]
    assert suite.fpr95 == "id"
    assert (suite.preprocessing.size, suite.preprocessing.resize) == (32, "squash")
    assert suite.backbone == "densenet100_bc_cifar"
    assert suite.backbone_options == {"bn_affine": False}
    assert (suite.base.epochs, suite.base.batch_size, suite.base.nesterov) == (100, 64, True)
    assert (suite.base.lr, suite.base.weight_decay) == (0.1, 1e-4)
    # In 1/255, as the paper's code has them.
    for mine, theirs in ((suite.preprocessing.mean, (125.3, 123.0, 113.9)),
                         (suite.preprocessing.std, (63.0, 62.1, 66.7))):  # fmt: skip
        assert mine == tuple(round(value / 255, 4) for value in theirs)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_need_no_download_and_promise_nothing(name, tmp_path):
    suite = load_suite(name)
    assert "does not show that a method does" in suite.description
    described = {int(n.replace(",", "")) for n in re.findall(r"\(([\d,]+)", suite.description)}
    for reference in references(suite):
        is_id = reference in (suite.id.train, suite.id.test, *suite.id.shifted.values())
        loaded = load_set(
            reference, data_dir=tmp_path, preprocessing=suite.preprocessing, ood=not is_id
        )
        assert loaded.images.shape == (len(loaded), 3, 8, 8)
        told = len(loaded) in described or reference == suite.validation_ood
        assert told, f"{reference} has {len(loaded)} images"


@pytest.mark.parametrize("name", [name for name in NAMES if load_suite(name).validation_ood])
def test_hyperparameters_are_chosen_on_other_images_than_are_tested(name, tmp_path):
    suite = load_suite(name)
    assert suite.validation_ood not in {ood.source for ood in suite.ood}
    if name in DIGITS:
        seen = [
            {image.numpy().tobytes() for image in data.images}
            for reference in (suite.validation_ood, *(ood.source for ood in suite.ood))
            for data in [
                load_set(reference, data_dir=tmp_path, preprocessing=suite.preprocessing, ood=True)
            ]
        ]
        assert len(seen[0]) == 224
        assert not seen[0] & set.union(*seen[1:])


@pytest.mark.parametrize("name", FULL_SPECTRUM)
def test_a_full_spectrum_suite_is_another_one_with_shifted_id_sets(name):
    like, shifted = FULL_SPECTRUM[name]
    suite, other = load_suite(name), load_suite(like)
    assert suite.id.shifted == {
        given: f"{suite.id.test.rpartition('/')[0]}/{part}" for given, part in shifted.items()
    }
    plain = [ood for ood in suite.ood if not ood.full_spectrum]
    assert [(f"{o.name}-fs", f"{o.group}-fs", o.source) for o in plain] == [
        o for o in suite.ood if o.full_spectrum
    ]
    assert set(other.ood) <= set(plain)
    assert {ood.group for ood in plain} == {"near", "far"}
    told = {"name": "", "title": "", "description": "", "ood": other.ood, "id": other.id}
    assert suite.replace(**told) == other.replace(**told)
    assert "full-spectrum" in suite.description


@pytest.mark.parametrize(("name", "train"), [("digits-far-ood", "digits/train")])
def test_digits_are_normalised_by_their_own_training_set(name, train, tmp_path):
    wanted = load_suite(name).preprocessing
    data = load_set(train, data_dir=tmp_path, preprocessing=wanted)
    pixels = data.images.double() / 255
    assert wanted.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=5e-4)
    assert wanted.std == pytest.approx(pixels.std(dim=(0, 2, 3)).tolist(), abs=5e-4)


def test_the_digit_suites_differ_in_their_ood_sets_only():
    far, _, near = map(load_suite, DIGITS)
    told = {"name": "", "title": "", "description": "", "ood": far.ood}
    assert far.replace(**told) == near.replace(**told)


@pytest.mark.data
def test_the_kit_holds_what_it_can_of_cifar10(kit):
    suites = [load_suite("cifar10-far-ood"), load_suite("cifar10-near-ood")]
    counts = {}
    for ood in (ood for suite in suites for ood in suite.ood):
        try:
            counts[ood.name] = len(
                load_set(
                    ood.source, data_dir=Path(kit), preprocessing=suites[0].preprocessing, ood=True
                )
            )
        except MissingDataError:
            counts[ood.name] = None
    assert counts == {
        "MNIST": 10000,
        "SVHN": 10000,
        "Textures": 1200,
        "Places365": None,
        "CIFAR100": None,
        "TinyImageNet": 7793,
    }
