"""Sets of auxiliary outliers: read as their makers wrote them, refused where that is not safe."""

import hashlib
import pickle
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from um_bench.data import StreamedSet, auxiliary, load_set, sources
from um_bench.data.overlap import require_disjoint, shared_images
from um_bench.errors import MissingDataError, UsageError
from um_bench.suite import Preprocessing

SIZE_8 = Preprocessing(size=8, resize="none")
SIZE_32 = Preprocessing(size=32)


@pytest.fixture
def load(tmp_path):
    """Load a set of outliers from what the test has put into the data folder."""

    def load(reference, preprocessing=SIZE_32, **options):
        options = {"ood": True, "stream": False, **options}
        return load_set(reference, data_dir=tmp_path, preprocessing=preprocessing, **options)

    return load


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def bomb(tmp_path):
    """Something that must not be unpickled; the test fails if it was."""
    trace = tmp_path / "exploded"
    planted = Bomb(trace)
    pickle.loads(pickle.dumps(planted))
    assert trace.exists(), "it is no bomb"
    trace.unlink()
    yield planted
    assert not trace.exists(), "pickled code was run"


# --- TinyImages300k -----------------------------------------------------------------------------

TINY = "300K_random_images.npy"


def tiny(folder, count=7, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.save(folder / TINY, pixels)
    return pixels


@pytest.mark.parametrize("stream", [False, True])
def test_tiny_images_are_those_that_pytorch_ood_reads(load, tmp_path, stream):
    from pytorch_ood.dataset.img import TinyImages300k

    tiny(tmp_path)
    data = TinyImages300k(str(tmp_path))
    # Their index wraps around, so that an iteration would not end.
    images, labels = zip(*(data[index] for index in range(len(data))), strict=True)
    loaded = load("tinyimages300k", stream=stream)
    assert isinstance(loaded, StreamedSet) == stream
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1).numpy(), np.stack(images))
    assert loaded.labels.tolist() == list(labels) == [-1] * 7


def test_tiny_images_are_mapped_not_read(load, tmp_path):
    # All 300,000 of them, 900 MB, in a file with nothing on the disk but the first and the last.
    shape = (300_000, 32, 32, 3)
    file = np.lib.format.open_memmap(tmp_path / TINY, mode="w+", dtype=np.uint8, shape=shape)
    file[0], file[-1] = 3, 5
    file.flush()
    del file
    pairs = auxiliary.tinyimages300k("", tmp_path, SIZE_32)
    assert len(pairs) == 300_000
    first, last = pairs[0][0], pairs[299_999][0]
    assert (int(first.min()), int(last.max())) == (3, 5)
    assert isinstance(first, np.memmap)
    assert isinstance(first.base, np.memmap)
    assert len(pickle.dumps(pairs)) < 2**22, "another process maps the file itself"
    assert np.array_equal(pickle.loads(pickle.dumps(pairs))[299_999][0], last)
    quick = load("tinyimages300k", limit=2)
    assert quick.images.flatten(1).amax(1).tolist() == [3, 0]


def test_tiny_images_that_are_not_here_say_how_to_get_them(load, tmp_path):
    with pytest.raises(MissingDataError) as caught:
        load("tinyimages300k")
    message, _, command = str(caught.value).partition("To get it: ")
    assert message == f"tinyimages300k is not in {tmp_path} ({TINY}). "
    python, flag, code = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    assert code == (
        "from pytorch_ood.dataset.img import TinyImages300k; "
        f'TinyImages300k("{tmp_path}", download=True)'
    )


def test_tiny_images_have_no_parts(load):
    with pytest.raises(UsageError, match="no part of tinyimages300k named 'train'"):
        load("tinyimages300k/train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 32, 32), np.uint8), r"uint8 \(32, 32\); it must be uint8 \(32, 32, 3\)"),
        (np.zeros((3, 3, 32, 32), np.uint8), r"uint8 \(3, 32, 32\); it must be"),
        (np.zeros((3, 32, 32, 3), np.float32), r"float32 \(32, 32, 3\); it must be"),
    ],
)
def test_tiny_images_of_another_kind_are_refused(load, tmp_path, content, message):
    np.save(tmp_path / TINY, content)
    with pytest.raises(UsageError, match=f"{TINY} cannot be used: .*{message}"):
        load("tinyimages300k")


def test_a_cut_off_file_of_tiny_images_is_refused(load, tmp_path):
    tiny(tmp_path)
    whole = (tmp_path / TINY).read_bytes()
    (tmp_path / TINY).write_bytes(whole[:-1])
    with pytest.raises(UsageError, match=f"{TINY} cannot be used"):
        load("tinyimages300k")
    (tmp_path / TINY).write_bytes(b"")
    with pytest.raises(UsageError, match=f"{TINY} cannot be used"):
        load("tinyimages300k")


@pytest.mark.parametrize("form", ["objects", "pickle"])
def test_pickled_tiny_images_are_never_unpickled(load, tmp_path, bomb, form):
    if form == "objects":
        np.save(tmp_path / TINY, np.array([bomb], dtype=object), allow_pickle=True)
    else:
        (tmp_path / TINY).write_bytes(pickle.dumps(bomb))
    with pytest.raises(UsageError, match=f"{TINY} cannot be used"):
        load("tinyimages300k")


# --- downsampled ImageNet -----------------------------------------------------------------------

SIDES = {"imagenet32": 32, "imagenet64": 64}
BATCHES = [f"train_data_batch_{n}" for n in range(1, 11)]


def batch(side, count, seed):
    """Return the content of one file, by the rule in image2numpy_imagenet_train.py."""
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    data = [
        list(i[:, :, 0].flatten()) + list(i[:, :, 1].flatten()) + list(i[:, :, 2].flatten())
        for i in images
    ]
    labels = chance.integers(1, 1001, count)
    labels[:2] = 1, 1000
    content = {
        "data": np.array(data, dtype=np.uint8),
        "labels": labels,
        "mean": np.mean(data, axis=0),
    }
    return images, labels, content


def downsampled(folder, side, part, write=np.savez):
    """Write a part; return its images (N, H, W, 3) and labels from 1, in the order of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = [], []
    for number, stem in enumerate(BATCHES if part == "train" else ["val_data"]):
        seen, named, content = batch(side, 3 + number % 2, seed=number)
        write(folder / f"{stem}.npz", **content)
        images.append(seen)
        labels.append(named)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("name", SIDES)
def test_downsampled_imagenet_is_read_as_it_was_written(load, tmp_path, name, part, stream):
    side = SIDES[name]
    images, labels = downsampled(tmp_path / name, side, part)
    loaded = load(f"{name}/{part}", Preprocessing(size=side, resize="none"), stream=stream)
    assert isinstance(loaded, StreamedSet) == stream
    assert torch.equal(loaded.images.permute(0, 2, 3, 1), torch.from_numpy(images))
    assert loaded.labels.tolist() == [-1] * len(labels)
    pairs = auxiliary.IMAGENET32 if name == "imagenet32" else auxiliary.IMAGENET64
    pairs = pairs(part, tmp_path, SIZE_32)
    assert [pairs[n][1] for n in range(len(pairs))] == (labels - 1).tolist()
    assert isinstance(pairs[len(pairs) - 1][0], np.memmap)


@pytest.mark.parametrize("part", ["train", "val"])
def test_compressed_files_hold_the_same_set(load, tmp_path, part):
    images, labels = downsampled(tmp_path / "imagenet32", 32, part, write=np.savez_compressed)
    pairs = auxiliary.IMAGENET32(part, tmp_path, SIZE_32)
    assert [label for _, label in pairs] == (labels - 1).tolist()
    packed = load(f"imagenet32/{part}")
    assert torch.equal(packed.images.permute(0, 2, 3, 1), torch.from_numpy(images))
    downsampled(tmp_path / "imagenet32", 32, part)
    assert load(f"imagenet32/{part}").fingerprint == packed.fingerprint
    assert load(f"imagenet32/{part}", stream=True).fingerprint == packed.fingerprint


def test_one_compressed_file_among_others_is_read_too(load, tmp_path):
    images, _ = downsampled(tmp_path / "imagenet32", 32, "train")
    with np.load(tmp_path / "imagenet32" / f"{BATCHES[4]}.npz") as content:
        np.savez_compressed(tmp_path / "imagenet32" / f"{BATCHES[4]}.npz", **content)
    loaded = load("imagenet32/train", stream=True)
    assert not isinstance(loaded, StreamedSet)
    assert torch.equal(loaded.images.permute(0, 2, 3, 1), torch.from_numpy(images))


def test_the_parts_of_imagenet64_may_stay_in_the_folders_of_their_archives(load, tmp_path):
    images, _ = downsampled(tmp_path / "imagenet64", 64, "train")
    for part, stems in (("part1", BATCHES[:5]), ("part2", BATCHES[5:])):
        folder = tmp_path / "imagenet64" / f"Imagenet64_train_{part}_npz"
        folder.mkdir()
        for stem in stems:
            (tmp_path / "imagenet64" / f"{stem}.npz").rename(folder / f"{stem}.npz")
    loaded = load("imagenet64/train", Preprocessing(size=64, resize="none"))
    assert torch.equal(loaded.images.permute(0, 2, 3, 1), torch.from_numpy(images))


def test_labels_of_downsampled_imagenet_can_be_used(load, tmp_path):
    folder = tmp_path / "imagenet32"
    folder.mkdir()
    _, _, content = batch(32, 1000, seed=1)
    np.savez(folder / "val_data.npz", **{**content, "labels": np.arange(1000, 0, -1)})
    loaded = load("imagenet32/val", ood=False, limit=400)
    assert loaded.num_classes == 1000
    whole = load("imagenet32/val", ood=False)
    assert whole.labels.tolist() == list(range(999, -1, -1))


def test_downsampled_imagenet_that_is_not_here_says_how_to_get_it(load, tmp_path):
    with pytest.raises(MissingDataError) as caught:
        load("imagenet64/train")
    folder = tmp_path / "imagenet64"
    message, _, how = str(caught.value).partition("To get it: ")
    assert message == (
        f"imagenet64/train: 10 of its 10 files are not in {folder}: {BATCHES[0]}.npz. "
    )
    archives = [f"Imagenet64_train_part{n}_npz.zip" for n in (1, 2)]
    for name in archives:
        assert f"https://image-net.org/data/downsample/{name}" in how
    words = shlex.split(how.partition(", then run ")[2])
    unpack = [["python", "-m", "zipfile", "-e", name, str(folder)] for name in archives]
    assert words == [*unpack[0], "&&", *unpack[1]]


def test_the_command_for_downsampled_imagenet_unpacks_it(load, tmp_path, monkeypatch):
    images, _ = downsampled(tmp_path / "made", 32, "val")
    with zipfile.ZipFile(tmp_path / "Imagenet32_val_npz.zip", "w") as archive:
        archive.write(tmp_path / "made" / "val_data.npz", "Imagenet32_val_npz/val_data.npz")
    with pytest.raises(MissingDataError) as caught:
        load("imagenet32/val")
    command = shlex.split(str(caught.value).partition(", then run ")[2])
    assert command[:3] == ["python", "-m", "zipfile"]
    monkeypatch.chdir(tmp_path)
    zipfile.main(command[3:])
    assert torch.equal(load("imagenet32/val").images.permute(0, 2, 3, 1), torch.from_numpy(images))


def test_missing_files_of_downsampled_imagenet_are_counted(load, tmp_path):
    downsampled(tmp_path / "imagenet32", 32, "train")
    for stem in BATCHES[6:8]:
        (tmp_path / "imagenet32" / f"{stem}.npz").unlink()
    with pytest.raises(MissingDataError, match=rf"2 of its 10 files .*: {BATCHES[6]}.npz\. To get"):
        load("imagenet32/train")


def test_the_pickled_form_is_refused_with_words(load, tmp_path, bomb):
    folder = tmp_path / "imagenet32"
    folder.mkdir()
    for stem in BATCHES:
        (folder / stem).write_bytes(pickle.dumps(bomb))
    message = (
        r"10 of its 10 files are not .* files without .npz, but these are pickled .* To get it"
    )
    with pytest.raises(MissingDataError, match=message):
        load("imagenet32/train")


@pytest.mark.parametrize("form", ["objects", "labels", "pickle"])
def test_pickles_in_a_npz_file_are_never_unpickled(load, tmp_path, bomb, form):
    folder = tmp_path / "imagenet32"
    downsampled(folder, 32, "val")
    with np.load(folder / "val_data.npz") as npz:
        content = dict(npz)
    objects = np.array([bomb] * 3, dtype=object)
    if form == "pickle":
        (folder / "val_data.npz").write_bytes(pickle.dumps(bomb))
    else:
        np.savez(
            folder / "val_data.npz", **{**content, {"objects": "data"}.get(form, form): objects}
        )
    with pytest.raises(UsageError, match=r"imagenet32/val: .*val_data.npz cannot be used"):
        load("imagenet32/val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((3, 3 * 64 * 64), np.uint8)}, r"uint8 \(12288,\).* uint8 \(3072,\)"),
        ({"data": np.zeros((3, 3072), np.float32)}, r"float32 \(3072,\)"),
        ({"data": np.zeros((3, 32, 32, 3), np.uint8)}, r"uint8 \(32, 32, 3\)"),
        ({"data": np.zeros((3072, 3), np.uint8).T}, "by column"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "2 images and 3 labels"),
        ({"labels": np.array([0, 5, 9])}, "from 0 to 9, not 1 to 1000"),
        ({"labels": np.array([1, 5, 1001])}, "from 1 to 1001"),
        ({"labels": np.array([1.0, 5.0, 2.0])}, "labels are float64"),
        ({"labels": np.array([[1], [2], [3]])}, r"labels are int64 \(3, 1\)"),
        ({"labels": None}, "labels"),
        ({"data": None}, "data.npy"),
    ],
)
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_file_that_holds_something_else_is_refused(load, tmp_path, change, message, write):
    downsampled(tmp_path / "imagenet32", 32, "val")
    file = tmp_path / "imagenet32" / "val_data.npz"
    with np.load(file) as npz:
        content = {**npz, **change}
    write(file, **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(UsageError, match=f"imagenet32/val: {re.escape(str(file))} .*{message}"):
        load("imagenet32/val")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_cut_off_npz_file_is_refused(load, tmp_path, write, kept):
    downsampled(tmp_path / "imagenet32", 32, "val", write)
    file = tmp_path / "imagenet32" / "val_data.npz"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UsageError, match=f"{re.escape(str(file))} cannot be used"):
        load("imagenet32/val")


@pytest.mark.parametrize("pattern", ["noise", "stripes"])
def test_a_compressed_file_with_wrong_bytes_is_refused(load, tmp_path, pattern):
    # Noise is kept as it is, so that only the checksum can be wrong.
    downsampled(tmp_path / "imagenet32", 32, "val", np.savez_compressed)
    file = tmp_path / "imagenet32" / "val_data.npz"
    if pattern == "stripes":
        rows = np.tile(np.arange(3072, dtype=np.uint16).astype(np.uint8), (300, 1))
        np.savez_compressed(file, data=rows, labels=np.ones(300, dtype=np.int64))
    content = bytearray(file.read_bytes())
    content[1000:1100] = bytes(100)  # in the pixels, which come first
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"{re.escape(str(file))} cannot be used"):
        load("imagenet32/val")


def test_a_part_of_downsampled_imagenet_is_named(load):
    with pytest.raises(
        UsageError, match=r"no part of imagenet32 named 'test'\..* Known: train, val"
    ):
        load("imagenet32/test")


# --- TinyImageNet-597, by OpenOOD's list --------------------------------------------------------

LISTS = ["train", "val", "test"]


@pytest.fixture(params=["cifar10", "cifar100"])
def openood(request, tmp_path):
    """A data folder with OpenOOD's lists, all of them empty but that of TinyImageNet-597."""
    name = request.param
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[name]
    folder = tmp_path / "benchmark_imglist" / name
    folder.mkdir(parents=True)
    for stem in (
        *(f"{split}_{name}" for split in LISTS),
        *(f"test_{ood}" for ood in (other, "tin", "mnist", "svhn", "texture", "places365")),
        "val_tin",
    ):
        (folder / f"{stem}.txt").write_text("")
    lines = []
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = tmp_path / "images_classic" / "tin597" / "train" / f"n{number:08}" / "a.JPEG"
        file.parent.mkdir(parents=True)
        Image.fromarray(image).save(file)
        lines.append(f"{file.relative_to(tmp_path / 'images_classic')} -1")
    (folder / "train_tin597.txt").write_text("\n".join(reversed(lines)))
    return f"openood-{name}/auxiliary", folder / "train_tin597.txt"


def test_tin597_is_its_list(load, tmp_path, openood):
    reference, file = openood
    loaded = load(reference, SIZE_8)
    expected = [
        np.asarray(Image.open(tmp_path / "images_classic" / line.split()[0]))
        for line in file.read_text().splitlines()
    ]
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    assert loaded.labels.tolist() == [-1] * 4


def test_tin597_without_its_images_has_an_archive_of_its_own(load, tmp_path, openood):
    reference, _ = openood
    images = tmp_path / "images_classic" / "tin597"
    (images / "train" / "n00000002" / "a.JPEG").unlink()
    with pytest.raises(MissingDataError) as caught:
        load(reference, SIZE_8)
    message, _, command = str(caught.value).partition("To get it: ")
    assert message == f"{reference}: 1 of the 4 images on its list are missing. "
    assert command == (
        f"pip install gdown && gdown 1R0d8zBcUxWNXz6CPXanobniiIfQbpKzn -O {images}.zip && "
        f"python -m zipfile -e {images}.zip {images}"
    )


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "empty"])
def test_tin597_without_its_list_says_how_to_get_list_and_images(load, tmp_path, openood, absent):
    reference, file = openood
    file.write_text("")
    if absent:
        file.unlink()
    with pytest.raises(MissingDataError) as caught:
        load(reference, SIZE_8)
    reason = "its image list is not in" if absent else "its image list names no image"
    message = str(caught.value)
    assert message.startswith(f"{reference}: {reason}")
    assert f"move {tmp_path / 'benchmark_imglist'} away, then run pip install gdown" in message
    images = tmp_path / "images_classic" / "tin597"
    assert message.endswith(f"python -m zipfile -e {images}.zip {images}")


def test_only_cifar_has_these_outliers():
    families = [one for one in vars(sources).values() if isinstance(one, sources.OpenOODSet)]
    assert {one.name for one in families if one.auxiliary} == {
        "openood-cifar10",
        "openood-cifar100",
    }


# --- patches of the sample photographs ----------------------------------------------------------


def hashes(data):
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in data.images]


@pytest.mark.parametrize("size", [8, 20, 32])
def test_auxiliary_patches_are_in_no_other_set(load, size):
    preprocessing = Preprocessing(size=size, resize="none")
    outliers = load("photos/auxiliary", preprocessing)
    assert len(outliers) == 2 * 14 * 16
    tests = {
        name: load(name, preprocessing)
        for name in (
            "photos/test",
            "photos/validation",
            *("uniform-noise/500", "gaussian-noise/500"),
            *("uniform-noise/500-grey", "gaussian-noise/500-grey"),
        )
    }
    mine = hashes(outliers)
    for name, data in tests.items():
        assert not set(mine) & set(hashes(data)), name
    require_disjoint(outliers, tests)
    # What would be found: the set itself.
    assert len(shared_images(outliers, outliers)) == len(mine)
