import ast
import hashlib
import inspect
import re
import shlex
import struct
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from um_bench import registry
from um_bench.data import fingerprint, load_set, sets, sources
from um_bench.errors import MissingDataError, PluginError, UsageError
from um_bench.suite import Preprocessing

SIZE_8 = Preprocessing(size=8, resize="none")
CIFAR = Preprocessing(size=32)
FAMILIES = [v for v in vars(sources).values() if isinstance(v, sources.LibrarySet)]


def noise(width, height, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def chw(image):
    """Literal RGB pixels (3, H, W) of a PIL image."""
    image = image.convert("RGB")
    rows = [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]
    return torch.tensor(rows, dtype=torch.uint8).permute(2, 0, 1)


@pytest.fixture
def load(tmp_path):
    """Load a set from an empty data folder, or from what the test has put there."""

    def load(reference, preprocessing=CIFAR, *, ood=True):
        return load_set(reference, data_dir=tmp_path, preprocessing=preprocessing, ood=ood)

    return load


@pytest.fixture
def planted(monkeypatch, load):
    """Load what a source returns that the test makes up."""

    def planted(pairs, preprocessing=CIFAR, *, ood=True):
        monkeypatch.setattr(registry, "load", lambda kind, name: lambda *_: pairs)
        return load("planted/set", preprocessing, ood=ood)

    return planted


# --- ImageSet and its fingerprint ---------------------------------------------------------------


def test_fingerprint_is_sha256_of_shape_pixels_and_labels():
    images = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2)
    labels = torch.tensor([5, -1])
    text = b"(2, 3, 2, 2)" + bytes(range(24)) + struct.pack("<qq", 5, -1)
    assert fingerprint(images, labels) == hashlib.sha256(text).hexdigest()


def test_fingerprint_does_not_depend_on_the_layout_in_memory():
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    labels = torch.arange(8)[::2]
    strided = images.contiguous(memory_format=torch.channels_last)
    assert fingerprint(strided, labels) == fingerprint(images, labels.clone())


@pytest.mark.parametrize("fault", ["pixel", "label", "order", "shape"])
def test_fingerprint_sees_every_change(fault):
    images = torch.randint(0, 256, (4, 3, 2, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    changed, others = images.clone(), labels.clone()
    if fault == "pixel":
        changed[3, 2, 1, 7] ^= 1
    elif fault == "label":
        others[3] = -1
    elif fault == "order":
        changed = changed.flip(0)
    else:
        changed = changed.view(4, 3, 4, 4)
    assert fingerprint(changed, others) != fingerprint(images, labels)


def test_an_image_set_shows_no_pixels_when_printed(load):
    data = load("digits/test", SIZE_8, ood=False)
    assert repr(data) == f"ImageSet(name='digits/test', fingerprint='{data.fingerprint}')"


# --- resizing and colour ------------------------------------------------------------------------

SHAPES = [
    (32, 32),
    (32, 47),
    (33, 47),
    (47, 33),
    (64, 64),
    (31, 20),
    (500, 333),
    (120, 121),
    (32, 64),
]
WAYS = {
    "crop": (Preprocessing(size=32), [Resize(32), CenterCrop(32)]),
    "crop after 38": (Preprocessing(size=33, resize_to=38), [Resize(38), CenterCrop(33)]),
    "squash": (Preprocessing(size=32, resize="squash"), [Resize((32, 32))]),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_are_resized_as_torchvision_does_it(load, tmp_path, way):
    preprocessing, steps = WAYS[way]
    reference = Compose(steps)
    for index, (width, height) in enumerate(SHAPES):
        save(noise(width, height, seed=index), tmp_path / "mixed" / f"{index}.png")
    loaded = load("folder/mixed", preprocessing)
    for index, (width, height) in enumerate(SHAPES):
        expected = chw(reference(noise(width, height, seed=index)))
        assert torch.equal(loaded.images[index], expected), f"{width}x{height}"


def test_a_reference_with_another_filter_would_be_noticed(load, tmp_path):
    save(noise(64, 48), tmp_path / "one" / "0.png")
    nearest = Resize((32, 32), interpolation=InterpolationMode.NEAREST)(noise(64, 48))
    loaded = load("folder/one", Preprocessing(size=32, resize="squash"))
    assert not torch.equal(loaded.images[0], chw(nearest))


@pytest.mark.parametrize("resize", ["crop", "squash", "none"])
def test_images_of_the_right_size_keep_every_pixel(load, tmp_path, resize):
    save(noise(32, 32), tmp_path / "one" / "0.png")
    loaded = load("folder/one", Preprocessing(size=32, resize=resize))
    assert torch.equal(loaded.images[0], chw(noise(32, 32)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_every_colour_mode_becomes_rgb(load, tmp_path, mode):
    path = save(noise(8, 8, mode), tmp_path / "one" / "0.png")
    assert torch.equal(load("folder/one", SIZE_8).images[0], chw(Image.open(path)))


def test_another_size_is_an_error_where_nothing_is_resized(load, tmp_path):
    save(noise(8, 8), tmp_path / "two" / "0.png")
    wrong = save(noise(9, 7), tmp_path / "two" / "1.png")
    message = r"^folder/two: image 1 \((.*)\): the image is 9x7 pixels, .* wants 8x8 and"
    with pytest.raises(UsageError, match=message) as caught:
        load("folder/two", SIZE_8)
    assert str(wrong) in str(caught.value)


@pytest.mark.parametrize("resize_to", [{"resize_to": 31}, {"resize_to": 40, "resize": "squash"}])
def test_resize_to_needs_a_crop_that_fits(resize_to):
    with pytest.raises(UsageError, match="resize_to"):
        Preprocessing(size=32, **resize_to)


# --- digits, photos, noise ----------------------------------------------------------------------


def test_digits_are_scikit_learns_split_without_overlap_or_loss(load):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    parts = {p: load(f"digits/{p}", SIZE_8, ood=False) for p in ("train", "validation", "test")}
    found = sorted(
        (image[0].numpy().tobytes(), label)
        for data in parts.values()
        for image, label in zip(data.images, data.labels.tolist(), strict=True)
    )
    expected = sorted(
        (bytes(int(v * 255 / 16 + 0.5) for v in image.ravel()), label)
        for image, label in zip(bunch.images, bunch.target.tolist(), strict=True)
        if label < 8
    )
    assert found == expected
    assert len(parts["test"]) >= 500
    assert parts["train"].num_classes == parts["test"].num_classes == 8
    for label in range(8):
        mine = int((parts["test"].labels == label).sum())
        assert mine == pytest.approx(0.4 * (bunch.target == label).sum(), abs=1)


def test_held_out_digits_are_eight_and_nine_and_ood(load):
    from sklearn.datasets import load_digits

    target = load_digits().target
    both, *each = (load(f"digits/{p}", SIZE_8) for p in ("heldout", "heldout-8", "heldout-9"))
    assert [len(data) for data in each] == [(target == 8).sum(), (target == 9).sum()]
    assert len(both) == sum(map(len, each))
    assert both.labels.unique().tolist() == [-1]
    assert both.num_classes == 0
    pixels = {image.numpy().tobytes() for data in each for image in data.images}
    assert pixels == {image.numpy().tobytes() for image in both.images}


def test_shifted_digits_are_the_test_images_blurred_and_paler(load):
    test, shifted = (load(f"digits/{part}", SIZE_8, ood=False) for part in ("test", "shifted"))
    assert shifted.labels.tolist() == test.labels.tolist()
    weights = {-1: 1, 0: 2, 1: 1}
    for index in (0, 100, 576):
        image = test.images[index, 0].tolist()
        for y in range(8):
            for x in range(8):
                blurred = sum(
                    weights[dy]
                    * weights[dx]
                    * image[min(max(y + dy, 0), 7)][min(max(x + dx, 0), 7)]
                    for dy in weights
                    for dx in weights
                )
                expected = 127.5 + 0.75 * (blurred / 16 - 127.5)
                assert abs(int(shifted.images[index, 0, y, x]) - expected) <= 0.5
    assert torch.equal(shifted.images[:, 0], shifted.images[:, 2])
    assert shifted.fingerprint == load("digits/shifted", SIZE_8, ood=False).fingerprint


def test_training_and_held_out_digits_share_no_image(load):
    seen = {
        part: {image.numpy().tobytes() for image in load(f"digits/{part}", SIZE_8).images}
        for part in ("train", "test", "heldout")
    }
    assert not seen["train"] & seen["heldout"]
    assert not seen["test"] & seen["heldout"]


def test_photographs_for_testing_training_and_choosing_share_no_patch(load):
    patches = {}
    for part, rows in (("test", 21), ("auxiliary", 14), ("validation", 7)):
        data = load(f"photos/{part}", SIZE_8)
        patches[part] = {i.numpy().tobytes() for i in data.images}
        assert len(data) == 2 * rows * (320 // 20)
    assert len(set.union(*patches.values())) == 2 * 672


def test_photographs_are_cut_from_their_own_half(load):
    from sklearn.datasets import load_sample_images

    first = Image.fromarray(load_sample_images().images[0]).convert("L")
    for part, left, top in (("test", 0, 0), ("auxiliary", 320, 0), ("validation", 320, 280)):
        place = (left + 20, top, left + 40, top + 20)
        expected = first.crop(place).resize((8, 8), Image.BILINEAR)
        assert torch.equal(load(f"photos/{part}", SIZE_8).images[1], chw(expected)), part


@pytest.mark.parametrize(
    ("family", "kind"), [("gaussian-noise", "GaussianNoise"), ("uniform-noise", "UniformNoise")]
)
@pytest.mark.parametrize(("suffix", "channels"), [("", 3), ("-grey", 1)])
def test_noise_is_pytorch_oods_in_order(load, family, kind, suffix, channels):
    drawn = getattr(import_module("pytorch_ood.dataset.img"), kind)(
        5, size=(8, 8, channels), seed=123
    )
    loaded = load(f"{family}/5{suffix}", SIZE_8)
    assert torch.equal(loaded.images, torch.stack([chw(drawn[i][0]) for i in range(5)]))
    assert load(f"{family}/5{suffix}", SIZE_8).fingerprint == loaded.fingerprint
    grey = torch.equal(loaded.images[:, 0], loaded.images[:, 1])
    assert grey == (channels == 1)


@pytest.mark.parametrize("part", ["", "many", "-5", "5-gray", "1e3"])
def test_noise_needs_a_number(load, part):
    with pytest.raises(UsageError, match="gaussian-noise/1000"):
        load(f"gaussian-noise/{part}")


# --- families of torchvision and pytorch-ood ----------------------------------------------------


def test_every_registered_family_is_there_and_named_alike():
    names = [n for n, p in registry.plugins("dataset").items() if p.distribution == "um-bench"]
    families = {name: registry.load("dataset", name) for name in names}
    assert {"digits", "cifar10", "openood-cifar10", "folder"} <= set(names)
    for name, family in families.items():
        assert name == getattr(family, "name", getattr(family, "__name__", None))


@pytest.mark.parametrize(
    ("family", "part"), [(f, part) for f in FAMILIES for part in f.parts], ids=str
)
def test_an_absent_set_says_how_to_get_it(load, tmp_path, family, part):
    with pytest.raises(MissingDataError) as caught:
        load(f"{family.name}/{part}" if part else family.name)
    message = str(caught.value)
    assert message.startswith(f"{family.name}/{part} is not" if part else f"{family.name} is not")
    # The command is what a user pastes: it must be valid, and name a class that takes all of it.
    words = shlex.split(message.partition("To get it: ")[2])
    assert words[-3:-1] == ["python", "-c"]
    found = re.fullmatch(r"from ([\w.]+) import (\w+); (\w+)\((.*)\)", words[-1])
    constructor = getattr(import_module(found[1]), found[2])
    arguments = eval(f"dict(root={found[4]})")
    inspect.signature(constructor).bind(**arguments)
    assert arguments == {"root": str(tmp_path), "download": True, **family.parts[part]}


def test_corruptions_are_those_that_pytorch_ood_has():
    images = import_module("pytorch_ood.dataset.img")
    for family, kind in ((sources.CIFAR10_C, "CIFAR10C"), (sources.CIFAR100_C, "CIFAR100C")):
        assert family.kind == kind
        assert list(family.parts) == getattr(images, kind).subsets


def test_corrupted_cifar_has_its_class_labels(load, tmp_path, monkeypatch):
    base = import_module("pytorch_ood.dataset.img.base")
    monkeypatch.setattr(base, "check_integrity", lambda *_: True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save(tmp_path / "CIFAR-10-C" / "fog.npy", pixels)
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.array([1, 0, 2, 1]))
    loaded = load("cifar10-c/fog", ood=False)
    assert loaded.labels.tolist() == [1, 0, 2, 1]
    assert torch.equal(loaded.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_other_views_of_imagenet_have_their_class_labels(load, tmp_path, monkeypatch):
    imagenet = import_module("pytorch_ood.dataset.img.imagenet")
    monkeypatch.setattr(imagenet, "check_integrity", lambda *_: True)
    for name in ("n01/a.jpg", "n02/a.jpg", "n02/b.jpg"):
        save(noise(32, 32), tmp_path / "imagenet-r" / name)
    assert load("imagenet-r", ood=False).labels.tolist() == [0, 1, 1]
    (tmp_path / "imagenet_v2.zip").touch()
    for name in ("0/a.png", "1/a.png", "2/a.png"):
        save(noise(32, 32), tmp_path / "imagenet_v2" / name)
    assert load("imagenet-v2", ood=False).labels.tolist() == [0, 1, 2]


def test_commands_survive_a_folder_with_spaces_and_quotes(tmp_path):
    folder = tmp_path / 'it\'s my "data"'
    words = shlex.split(sources.SVHN.command("test", folder))
    assert f"{folder}" in eval(words[-1].partition("SVHN(")[2].partition(", split")[0])


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("cifra10/test", "Did you mean cifar10"),
        ("cifar10/tset", "Did you mean test"),
        ("cifar10", "Known: test, train"),
        ("textures/test", "no part of textures"),
        ("digits/heldout-7", "Did you mean heldout"),
        ("mos/SUN", "Known: inaturalist, places, sun"),
    ],
)
def test_an_unknown_set_names_near_ones(load, reference, hint):
    with pytest.raises(UsageError, match=hint):
        load(reference)


def write_mnist(folder, images, labels):
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = struct.pack(">IIII", 2051, len(images), 28, 28) + images.tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        classes = struct.pack(">II", 2049, len(labels)) + bytes(labels)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(classes)


@pytest.mark.parametrize(
    ("family", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")]
)
def test_torchvisions_files_are_read_from_the_data_folder(load, tmp_path, family, folder):
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    write_mnist(tmp_path / folder / "raw", images, [2, 0, 1, 2])
    loaded = load(f"{family}/test", Preprocessing(size=28), ood=False)
    assert loaded.labels.tolist() == [2, 0, 1, 2]
    assert loaded.num_classes == 3
    expected = torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(loaded.images, expected)


def test_pytorch_oods_files_are_read_from_the_data_folder(load, tmp_path):
    (tmp_path / "places365.zip").touch()
    save(noise(32, 32, seed=1), tmp_path / "places365" / "airfield" / "b.png")
    save(noise(32, 32, seed=2), tmp_path / "places365" / "airfield" / "c.png")
    save(noise(32, 32, seed=3), tmp_path / "places365" / "bog" / "a.png")
    loaded = load("places365")
    assert torch.equal(loaded.images, torch.stack([chw(noise(32, 32, seed=i)) for i in (1, 2, 3)]))


def test_a_data_folder_without_permission_is_named(load, tmp_path, monkeypatch):
    (tmp_path / "places365.zip").touch()

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(UsageError, match=r"cannot be read: .*Permission denied.*places365"):
        load("places365")


def test_mos_says_how_to_get_it_and_reads_its_folder(load, tmp_path):
    with pytest.raises(MissingDataError, match=r"curl -L http\S+/SUN.tar.gz . tar xz -C "):
        load("mos/sun")
    save(noise(40, 32), tmp_path / "SUN" / "images" / "a.jpg")
    assert len(load("mos/sun")) == 1


# --- folder -------------------------------------------------------------------------------------


@pytest.fixture
def zoo(tmp_path):
    """Three classes, one nested deeper, with things that are no images."""
    for index, name in enumerate(["dog/1.png", "ant/2.JPEG", "ant/10.png", "cat/deep/x.bmp"]):
        save(noise(8, 8, seed=index), tmp_path / "zoo" / name)
    (tmp_path / "zoo" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "zoo" / "ant" / "._2.png").write_text("what macOS leaves in archives")
    (tmp_path / "zoo" / ".cache").mkdir()
    save(noise(8, 8), tmp_path / "zoo" / ".cache" / "1.png")
    return tmp_path / "zoo"


def test_folder_takes_images_by_path_and_classes_by_folder(load, zoo):
    loaded = load("folder/zoo", SIZE_8, ood=False)
    assert loaded.labels.tolist() == [0, 0, 1, 2]
    # JPEG is lossy: the others show the order.
    for index, seed in ((0, 2), (2, 3), (3, 0)):
        assert torch.equal(loaded.images[index], chw(noise(8, 8, seed=seed)))


def test_folder_numbers_classes_as_torchvision_does(load, zoo):
    from torchvision.datasets import ImageFolder

    loaded = load("folder/zoo", SIZE_8, ood=False)
    save(noise(8, 8), zoo.parent / "clean" / "x" / "a.png")
    (zoo / ".cache").rename(zoo.parent / "elsewhere")
    (zoo / "ant" / "._2.png").unlink()
    assert loaded.labels.tolist() == ImageFolder(str(zoo)).targets


def test_folder_follows_links_to_classes(load, zoo):
    (zoo / "cat").rename(zoo.parent / "elsewhere")
    (zoo / "cat").symlink_to(zoo.parent / "elsewhere")
    assert load("folder/zoo", SIZE_8, ood=False).labels.tolist() == [0, 0, 1, 2]


def test_folder_takes_an_absolute_path(load, zoo):
    assert load(f"folder/{zoo}", SIZE_8).fingerprint == load("folder/zoo", SIZE_8).fingerprint


def test_an_ood_set_forgets_its_classes(load, zoo):
    assert load("folder/zoo", SIZE_8).labels.tolist() == [-1] * 4


def test_images_without_a_class_are_no_id_set(load, zoo):
    save(noise(8, 8), zoo / "0.png")
    assert len(load("folder/zoo", SIZE_8)) == 5
    with pytest.raises(UsageError, match=r"folder/zoo: 1 of 5 images have a label below 0"):
        load("folder/zoo", SIZE_8, ood=False)


def test_an_empty_class_is_not_skipped_silently(load, zoo):
    (zoo / "bee").mkdir()
    message = "labels must be 0..K-1 .* 3 classes up to label 3, and no image has label 1"
    with pytest.raises(UsageError, match=message):
        load("folder/zoo", SIZE_8, ood=False)


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ("nowhere", MissingDataError, "there is no folder"),
        ("empty", UsageError, "folder/empty has no images"),
        ("", UsageError, "folder needs a path"),
    ],
)
def test_a_folder_that_cannot_be_a_set(load, tmp_path, part, error, message):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(error, match=message):
        load(f"folder/{part}")


@pytest.mark.parametrize("locked", ["zoo", "cat"])
def test_a_folder_without_permission_is_named(load, zoo, monkeypatch, locked):
    import os

    scan = os.scandir

    def refuse(path):
        if Path(path).name == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    # Tests may run as root, who may read everything.
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=rf"folder/zoo: .*Permission denied.*{locked}"):
        load("folder/zoo")


def corrupt(path, how):
    if how == "text":
        path.write_text("not an image")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        content = bytearray(path.read_bytes())
        content[40:60] = bytes(20)
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["text", "empty", "truncated", "garbled"])
@pytest.mark.parametrize("side", [32, 128], ids=["one by one", "threads"])
def test_a_corrupt_file_is_named(load, tmp_path, how, side):
    for index in range(3):
        bad = save(noise(side, side, seed=index), tmp_path / "bad" / f"{index}.png")
    corrupt(bad, how)
    with pytest.raises(UsageError, match=r"folder/bad: image 2 .* cannot be read: ") as caught:
        load("folder/bad")
    assert str(bad) in str(caught.value)


def test_a_file_that_vanishes_is_missing_data(load, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(MissingDataError, match=r"image 0 \(.*a.png\) is not there"):
        load("folder/links")


def test_threads_give_the_same_as_one_by_one(load, tmp_path, monkeypatch):
    for index in range(200):
        save(noise(10, 12, seed=index), tmp_path / "many" / f"{index:03}.png")
    one_by_one = load("folder/many", SIZE_8_CROP := Preprocessing(size=8))
    monkeypatch.setattr(sets, "_PIXELS_WORTH_THREADS", 0)
    assert load("folder/many", SIZE_8_CROP).fingerprint == one_by_one.fingerprint


# --- what a source may return -------------------------------------------------------------------


class InOrder:
    """A set that is read in order, with a length that may lie."""

    def __init__(self, pairs, promised):
        self.pairs, self.promised = pairs, promised

    def __len__(self):
        return self.promised

    def __iter__(self):
        return iter(self.pairs)


PAIRS = [(np.full((8, 8), value, dtype=np.uint8), value % 2) for value in range(4)]


def test_arrays_and_torchs_numbers_are_taken(planted):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    loaded = planted([(colours, torch.tensor(1)), (PAIRS[0][0], np.int64(0))], SIZE_8, ood=False)
    assert loaded.labels.tolist() == [1, 0]
    assert torch.equal(loaded.images[0], torch.from_numpy(colours).permute(2, 0, 1))


def test_a_set_may_be_read_in_order_only(planted):
    loaded = planted(InOrder(PAIRS, 4), SIZE_8, ood=False)
    assert loaded.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert loaded.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("promised", [3, 5])
def test_a_length_that_lies_is_found(planted, promised):
    with pytest.raises(PluginError, match=f"says {promised} images, it holds 4"):
        planted(InOrder(PAIRS, promised), SIZE_8)


def test_a_set_without_a_length_is_found(planted):
    with pytest.raises(PluginError, match="'planted' returned a list_iterator without a length"):
        planted(iter(PAIRS))


def test_a_set_that_cannot_be_read_is_found(planted):
    class Closed:
        def __len__(self):
            return 1

    with pytest.raises(PluginError, match="a Closed can be neither indexed nor read"):
        planted(Closed())


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((PAIRS[0][0].astype(float), 0), "pixels must be uint8, got float64"),
        ((torch.zeros(3, 8, 8), 0), "an image must be a PIL image or an array, got Tensor"),
        ((PAIRS[0][0], 0.5), "'float' object cannot be interpreted as an integer"),
        ((PAIRS[0][0], None), "'NoneType'"),
        ((PAIRS[0][0], 2**70), "OverflowError"),
        (PAIRS[0][0], "too many values to unpack"),
    ],
)
def test_a_pair_that_is_none_is_named(planted, pair, message):
    with pytest.raises(UsageError, match=f"planted/set: image 1 cannot be read: .*{message}"):
        planted([PAIRS[0], pair], SIZE_8)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], "1 of 3 images have a label below 0"),
        ([-1, -1], "2 of 2 images"),
        ([0, 2, 3], "3 classes up to label 3, and no image has label 1"),
        ([1, 2], "no image has label 0"),
        ([0, 10**15], "no image has label 1"),
    ],
)
def test_labels_of_an_id_set_are_classes(planted, labels, message):
    pairs = [(PAIRS[0][0], label) for label in labels]
    assert planted(pairs, SIZE_8, ood=True).labels.tolist() == [-1] * len(labels)
    with pytest.raises(UsageError, match=message):
        planted(pairs, SIZE_8, ood=False)


def test_an_empty_set_is_an_error(planted):
    with pytest.raises(UsageError, match="planted/set has no images"):
        planted([])


class Vast:
    """So many images that nobody can hold them; reading one is a failure."""

    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        pytest.fail("read before the memory was checked")


def test_a_set_that_does_not_fit_is_refused_before_it_is_read(planted, monkeypatch):
    monkeypatch.setattr(sets, "_free_memory", lambda: 4 * 2**30)
    monkeypatch.setenv("UM_BENCH_STREAM", "0")
    message = "1000000 images of 32x32 pixels need 2.9 GiB, more than 60% of the 4.0 GiB"
    with pytest.raises(UsageError, match=message):
        planted(Vast())


@pytest.mark.parametrize("free", [None, 4 * 3 * 64 * 2])
def test_a_set_that_fits_is_read(planted, monkeypatch, free):
    monkeypatch.setattr(sets, "_free_memory", lambda: free)
    assert len(planted(PAIRS, SIZE_8)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says")
def test_free_memory_is_part_of_all_memory():
    total = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert 0 < sets._free_memory() <= int(total[1]) * 1024


def test_nothing_slow_is_imported_before_a_set_is_asked_for():
    body = ast.parse(Path(sources.__file__).read_text(encoding="utf-8")).body
    imported = {
        name.split(".")[0]
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
        )
    }
    assert "PIL" in imported
    assert not imported & {"torchvision", "pytorch_ood", "sklearn", "scipy"}


# --- OpenOOD ------------------------------------------------------------------------------------

LISTS = {
    "train_cifar10.txt": ["cifar10/train/a.png 0", "cifar10/train/b.png 1"],
    "val_cifar10.txt": ["cifar10/test/a.png 1", "cifar10/test/b.png 0"],
    "test_cifar10.txt": ["cifar10/test/c.png 1", "cifar10/test/d.png 0"],
    "val_tin.txt": ["tin/val/a.png -1"],
    "test_cifar100.txt": [],
    "test_tin.txt": ["tin/val/b.png 7"],
    "test_mnist.txt": ["mnist/a.png -1", "mnist/b.png -1", "mnist/c.png -1"],
    "test_svhn.txt": ["svhn/a.png -1"],
    "test_texture.txt": ["texture/a.png -1"],
    "test_places365.txt": ["places365/a.png -1"],
    "test_cifar10c.txt": ["cifar10c/00001_1.png 1", "cifar10c/00000_0.png 0"],
}
ABSENT = {"mnist/b.png", "mnist/c.png"}


@pytest.fixture
def openood(tmp_path):
    """A data folder in OpenOOD's layout: CIFAR-100's list is empty, two images of MNIST missing."""
    folder = tmp_path / "benchmark_imglist" / "cifar10"
    folder.mkdir(parents=True)
    for name, lines in LISTS.items():
        (folder / name).write_text("\n".join(lines))
        for line in lines:
            file = line.split()[0]
            if file not in ABSENT:
                seed = int(hashlib.sha256(file.encode()).hexdigest()[:6], 16)
                save(noise(8, 8, seed=seed), tmp_path / "images_classic" / file)
    return tmp_path


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("train", "train_cifar10"),
        ("validation", "val_cifar10"),
        ("test", "test_cifar10"),
        ("validation-ood", "val_tin"),
        ("TinyImageNet", "test_tin"),
        ("tinyimagenet", "test_tin"),
        ("SVHN", "test_svhn"),
        ("Textures", "test_texture"),
        ("Places365", "test_places365"),
        ("CIFAR10C", "test_cifar10c"),
        ("cifar10c", "test_cifar10c"),
    ],
)
def test_openood_parts_are_its_lists(load, openood, part, name):
    lines = LISTS[f"{name}.txt"]
    is_ood = part.lower() not in ("train", "validation", "test", "cifar10c")
    loaded = load(f"openood-cifar10/{part}", SIZE_8, ood=is_ood)
    files = [openood / "images_classic" / line.split()[0] for line in lines]
    assert torch.equal(loaded.images, torch.stack([chw(Image.open(file)) for file in files]))
    assert loaded.labels.tolist() == [-1 if is_ood else int(line.split()[1]) for line in lines]


def test_openood_with_missing_images_says_how_many(load, openood):
    with pytest.raises(MissingDataError) as caught:
        load("openood-cifar10/MNIST")
    message = str(caught.value)
    assert message.startswith("openood-cifar10/MNIST: 2 of the 3 images on its list are missing.")
    assert (
        f"move {openood / 'images_classic' / 'mnist'} away, then run pip install gdown" in message
    )


def test_openood_with_an_empty_list_is_missing_data(load, openood):
    with pytest.raises(MissingDataError, match="image list names no image") as caught:
        load("openood-cifar10/CIFAR100")
    assert f"move {openood / 'benchmark_imglist'} away" in str(caught.value)


def test_openoods_shifted_sets_have_an_archive_of_their_own(load, openood):
    images = openood / "images_classic" / "cifar10c"
    (images / "00000_0.png").unlink()
    with pytest.raises(MissingDataError, match=r"CIFAR10C: 1 of the 2 images on its") as caught:
        load("openood-cifar10/CIFAR10C", SIZE_8, ood=False)
    words = shlex.split(str(caught.value).partition("To get it: ")[2])
    identifier = "170DU_ficWWmbh6O2wqELxK9jxRiGhlJH"
    assert words == [
        *("pip", "install", "gdown", "&&", "gdown", identifier, "-O", f"{images}.zip", "&&"),
        *("python", "-m", "zipfile", "-e", f"{images}.zip", str(images)),
    ]
    # The other sets can be had without it, and it without theirs.
    (openood / "benchmark_imglist" / "cifar10" / "test_cifar10c.txt").unlink()
    with pytest.raises(MissingDataError, match=r"CIFAR10C: its image list is not in"):
        load("openood-cifar10/CIFAR10C", SIZE_8, ood=False)
    assert len(load("openood-cifar10/test", SIZE_8, ood=False)) == 2


@pytest.mark.parametrize(
    ("family", "own"),
    [
        (sources.OPENOOD_IMAGENET200, "test_imagenet200_{}.txt"),
        (sources.OPENOOD_IMAGENET1K, "test_imagenet_{}.txt"),
    ],
)
def test_openoods_shifted_lists_are_those_of_its_datasets_py(family, own):
    # openood/evaluation_api/datasets.py, csid (3c35632).
    names = ["v2", "c", "r", "es"][: len(family.shifted)]
    assert [one.file for one in family.shifted.values()] == [own.format(name) for name in names]
    assert [one.folder for one in family.shifted.values()] == [f"imagenet_{n}" for n in names]


def test_openoods_command_can_be_run(load, tmp_path):
    with pytest.raises(MissingDataError, match="there is no folder") as caught:
        load("openood-imagenet1k/test")
    code = re.search(r"python -c '(.*)'\. It leaves out ImageNet-1K", str(caught.value))[1]
    constructor = getattr(import_module("pytorch_ood.benchmark"), "ImageNet_OpenOOD")  # noqa: B009
    arguments = eval(f"dict(root={code.partition('ImageNet_OpenOOD(')[2]}")
    inspect.signature(constructor).bind(**arguments)
    assert arguments["root"] == str(tmp_path / "images_largescale")


def test_openood_without_lists_uses_those_in_pytorch_oods_cache(load, openood, tmp_path_factory):
    before = torch.hub.get_dir()
    hub = tmp_path_factory.mktemp("hub")
    torch.hub.set_dir(hub)
    try:
        with_own = load("openood-cifar10/test", SIZE_8).fingerprint
        (openood / "benchmark_imglist").rename(openood / "elsewhere")
        with pytest.raises(MissingDataError, match=r"neither in .* nor in pytorch-ood's cache"):
            load("openood-cifar10/test", SIZE_8)
        (hub / "openood_benchmark_imglist").mkdir()
        (openood / "elsewhere").rename(hub / "openood_benchmark_imglist" / "benchmark_imglist")
        assert load("openood-cifar10/test", SIZE_8).fingerprint == with_own
        assert Path(torch.hub.get_dir()) == hub
    finally:
        torch.hub.set_dir(before)


@pytest.mark.parametrize("fails", [False, True])
def test_openood_puts_torch_hubs_folder_back(load, openood, fails):
    before = torch.hub.get_dir()
    if fails:
        (openood / "benchmark_imglist" / "cifar10" / "val_tin.txt").unlink()
        with pytest.raises(MissingDataError, match="its image lists are neither in"):
            load("openood-cifar10/test", SIZE_8)
    else:
        load("openood-cifar10/test", SIZE_8)
    assert torch.hub.get_dir() == before
    assert (openood / "benchmark_imglist" / "cifar10" / "test_cifar10.txt").is_file()


def test_openood_names_its_parts(load, openood):
    with pytest.raises(UsageError, match="Did you mean textures") as caught:
        load("openood-cifar10/texture")
    assert "Known: auxiliary, cifar100, cifar10c, mnist, places365, svhn, test," in str(
        caught.value
    )


def test_openood_with_a_broken_list_is_an_error(load, openood):
    (openood / "benchmark_imglist" / "cifar10" / "val_tin.txt").write_text("tin/val/a.png minus")
    with pytest.raises(UsageError, match="openood-cifar10: an image list cannot be read"):
        load("openood-cifar10/test")


def test_a_truncated_file_on_a_list_is_named(load, openood):
    bad = openood / "images_classic" / "svhn" / "a.png"
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"openood-cifar10/SVHN: image 0 \(.*svhn/a.png\) cannot"):
        load("openood-cifar10/SVHN")


# --- real images --------------------------------------------------------------------------------


def of_kit(kit, reference, *, ood=True, preprocessing=CIFAR):
    return load_set(reference, data_dir=kit, preprocessing=preprocessing, ood=ood)


@pytest.mark.data
@pytest.mark.parametrize(
    ("reference", "count"),
    [
        ("openood-cifar10/test", 9000),
        ("openood-cifar10/validation", 1000),
        ("openood-cifar10/MNIST", 10000),
        ("openood-cifar10/SVHN", 10000),
        ("openood-cifar10/Textures", 1200),
        ("openood-cifar10/TinyImageNet", 7793),
        ("mnist/test", 10000),
        ("folder/images_classic/scenes", 2158),
    ],
)
def test_kit_sets_have_their_images(kit, reference, count):
    is_id = reference.endswith(("test", "validation"))
    loaded = of_kit(kit, reference, ood=not is_id)
    assert loaded.images.shape == (count, 3, 32, 32)
    assert loaded.num_classes == (10 if is_id else 0)


@pytest.mark.data
@pytest.mark.parametrize("name", ["tin", "texture", "mnist"])
def test_kit_images_are_what_torchvision_makes_of_them(kit, name):
    lines = (kit / "benchmark_imglist" / "cifar10" / f"test_{name}.txt").read_text().split("\n")
    part = {"tin": "TinyImageNet", "texture": "Textures", "mnist": "MNIST"}[name]
    loaded = of_kit(kit, f"openood-cifar10/{part}")
    reference = Compose([Resize(32), CenterCrop(32)])
    for index in range(0, len(loaded), len(loaded) // 20):
        path = kit / "images_classic" / lines[index].split()[0]
        expected = chw(reference(Image.open(path).convert("RGB")))
        assert torch.equal(loaded.images[index], expected), path


@pytest.mark.data
def test_kit_mnist_is_the_same_by_both_ways(kit):
    by_torchvision = of_kit(kit, "mnist/test", preprocessing=Preprocessing(size=28))
    by_list = of_kit(kit, "openood-cifar10/MNIST", preprocessing=Preprocessing(size=28))
    assert {i.numpy().tobytes() for i in by_torchvision.images} == {
        i.numpy().tobytes() for i in by_list.images
    }


@pytest.mark.data
@pytest.mark.parametrize("part", ["CIFAR100", "Places365"])
def test_kit_says_which_sets_are_missing(kit, part):
    with pytest.raises(MissingDataError, match=f"openood-cifar10/{part}: its image list names no"):
        of_kit(kit, f"openood-cifar10/{part}")
