"""Images of a training set that are in a test set are found, whatever they are called."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from um_bench.data import ImageSet, StreamedSet, fingerprint, load_set, overlap
from um_bench.data.overlap import require_disjoint, shared_images
from um_bench.errors import MissingDataError, UsageError
from um_bench.suite import Preprocessing

SIZE_8 = Preprocessing(size=8, resize="none")


def made(name: str, count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.full((count,), -1)
    return ImageSet(name, images, labels, fingerprint(images, labels))


def planted(into: ImageSet, source: ImageSet, places: dict[int, int]) -> ImageSet:
    images = into.images.clone()
    for to, origin in places.items():
        images[to] = source.images[origin]
    return ImageSet(into.name, images, into.labels, fingerprint(images, into.labels))


def test_what_is_in_both_sets_is_found_as_by_hashing_each_image():
    test = made("test", 1500, 1)
    auxiliary = planted(made("aux", 2100, 2), test, {3: 9, 1030: 1400, 2099: 0})
    keys = [hashlib.sha256(i.numpy().tobytes()).digest() for i in test.images]
    expected = [
        (n, keys.index(key))
        for n, image in enumerate(auxiliary.images)
        if (key := hashlib.sha256(image.numpy().tobytes()).digest()) in keys
    ]
    assert [tuple(shared) for shared in shared_images(auxiliary, test)] == expected
    assert expected == [(3, 9), (1030, 1400), (2099, 0)]


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 4, 2), (2, 7, 7)])
def test_one_grey_level_is_another_image(place):
    test = made("test", 20, 1)
    auxiliary = planted(made("aux", 20, 2), test, {3: 9})
    auxiliary.images[(3, *place)] ^= 1
    assert shared_images(auxiliary, test) == []


def test_a_set_that_overlaps_a_test_set_is_refused_and_the_images_are_named():
    tests = {"one": made("x/one", 30, 1), "two": made("x/two", 40, 2)}
    auxiliary = made("aux/all", 50, 3)
    require_disjoint(auxiliary, tests)
    bad = planted(auxiliary, tests["two"], {n: n + 1 for n in range(7)})
    with pytest.raises(UsageError) as caught:
        require_disjoint(bad, tests)
    assert str(caught.value).startswith(
        "7 of the 50 auxiliary outliers of aux/all are images of the test set two (x/two, 40 "
        "images): 0 (there 1), 1 (there 2), 2 (there 3), 3 (there 4), 4 (there 5), .... A model"
    )


def pixels_in_both(first: ImageSet, second: ImageSet) -> list[int]:
    """The images of `first` that are in `second`, by looking at all pixels of all pairs."""
    same = (first.images[:, None] == second.images[None]).flatten(2).all(2)
    return same.any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("to", [0, 499])
@pytest.mark.parametrize("origin", [0, 299])
def test_one_image_is_found_wherever_it_is(monkeypatch, to, origin):
    monkeypatch.setattr(overlap, "_ROWS", 100)  # the last part is as long as the others
    test = made("test", 300, 1)
    auxiliary = planted(made("aux", 500, 2), test, {to: origin})
    assert pixels_in_both(auxiliary, test) == [to]
    with pytest.raises(UsageError, match=rf"^1 of the 500 .*: {to} \(there {origin}\)\. A model"):
        require_disjoint(auxiliary, {"test": test})


def test_an_image_that_is_there_several_times_is_counted_each_time():
    test = made("test", 20, 1)
    test = planted(test, test, {7: 3})
    auxiliary = planted(made("aux", 30, 2), test, {5: 3, 9: 7, 11: 3})
    found = shared_images(auxiliary, test)
    assert [tuple(one) for one in found] == [(5, 3), (9, 3), (11, 3)]
    assert [one.first for one in found] == pixels_in_both(auxiliary, test)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.flip(3),
        lambda images: images.roll(1, dims=3),
        lambda images: torch.cat((images[:, 1:], images[:, :1]), dim=1),
        lambda images: images[:, :, 1:].repeat(1, 1, 2, 1)[:, :, :8],
    ],
    ids=["mirrored", "shifted", "colours turned", "cropped"],
)
def test_changed_copies_are_other_images(change):
    # What the docstring says that is not found: no hash of pixels can.
    test = made("test", 20, 1)
    images = change(test.images)
    auxiliary = ImageSet("aux", images, test.labels, fingerprint(images, test.labels))
    require_disjoint(auxiliary, {"test": test})


def test_the_layout_in_memory_does_not_count():
    test = made("test", 30, 1)
    images = test.images.contiguous(memory_format=torch.channels_last)
    other = ImageSet("other", images, test.labels, test.fingerprint)
    assert [tuple(one) for one in shared_images(other, test)] == [(n, n) for n in range(30)]


def test_each_set_is_read_once(monkeypatch):
    passes, pixels = [], overlap._pixels

    def counted(data):
        passes.append(data.name)
        return pixels(data)

    monkeypatch.setattr(overlap, "_pixels", counted)
    require_disjoint(made("aux", 50, 3), {n: made(n, 30, ord(n)) for n in "abc"})
    assert passes == ["aux", "a", "b", "c"]


# --- sets of files ---

FORMATS = ("png", "bmp", "ppm", "tif")


def written(folder, count, seed, suffix="png"):
    """Write random images of 8x8 pixels to a folder; return its reference and their pixels."""
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:03}.{suffix}")
    return f"folder/{folder.name}", pixels


def load(tmp_path, reference, stream):
    data = load_set(reference, data_dir=tmp_path, preprocessing=SIZE_8, ood=True, stream=stream)
    assert isinstance(data, StreamedSet) == stream
    return data


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("streamed", [(True, True), (True, False), (False, True), (False, False)])
def test_an_image_in_another_format_is_found_and_its_files_are_named(
    tmp_path, monkeypatch, streamed, workers
):
    monkeypatch.setenv("UM_BENCH_WORKERS", workers)
    tests, pixels = written(tmp_path / "tests", 70, seed=1)
    auxiliary, _ = written(tmp_path / "outliers", 90, seed=2)
    copies = []
    for number, suffix in enumerate(FORMATS):
        old = tmp_path / "outliers" / f"{20 + number:03}.png"
        old.unlink()
        copies.append(old.with_suffix(f".{suffix}"))
        Image.fromarray(pixels[number]).save(copies[-1])
    first, second = (
        load(tmp_path, reference, stream)
        for reference, stream in zip((auxiliary, tests), streamed, strict=True)
    )
    with pytest.raises(UsageError) as caught:
        require_disjoint(first, {"held-out": second})
    ours = [f"{20 + n} {file}" if streamed[0] else f"{20 + n}" for n, file in enumerate(copies)]
    originals = [tmp_path / "tests" / f"{n:03}.png" for n in range(4)]
    theirs = [f"{n} {file}" if streamed[1] else f"{n}" for n, file in enumerate(originals)]
    shown = ", ".join(f"{one} (there {other})" for one, other in zip(ours, theirs, strict=True))
    assert str(caught.value).startswith(
        "4 of the 90 auxiliary outliers of folder/outliers are images of the test set held-out "
        f"(folder/tests, 70 images): {shown}. A model"
    )


def test_a_file_that_lost_pixels_to_its_format_is_another_image(tmp_path):
    tests, pixels = written(tmp_path / "tests", 5, seed=1)
    (tmp_path / "outliers").mkdir()
    Image.fromarray(pixels[3]).save(tmp_path / "outliers" / "3.jpg", quality=95)
    auxiliary = load(tmp_path, "folder/outliers", stream=True)
    require_disjoint(auxiliary, {"tests": load(tmp_path, tests, stream=True)})


def test_a_streamed_set_with_a_file_that_is_gone_says_so(tmp_path):
    tests, _ = written(tmp_path / "tests", 5, seed=1)
    data = load(tmp_path, tests, stream=True)
    (tmp_path / "tests" / "003.png").unlink()
    with pytest.raises(MissingDataError, match=r"image 3 \(.*003.png\) is not there"):
        require_disjoint(made("aux", 3, 3), {"tests": data})


# --- real images ---

KIT_TESTS = {
    "cifar10": "openood-cifar10/test",
    "cifar10 validation": "openood-cifar10/validation",
    "tin": "openood-cifar10/TinyImageNet",
    "tin validation": "openood-cifar10/validation-ood",
    "mnist": "openood-cifar10/MNIST",
    "svhn": "openood-cifar10/SVHN",
    "textures": "openood-cifar10/Textures",
    "scenes": "folder/images_classic/scenes",
}


@pytest.mark.data
def test_no_auxiliary_image_of_the_kit_is_in_a_test_set(kit):
    def loaded(reference):
        return load_set(
            reference, data_dir=kit, preprocessing=Preprocessing(size=32), ood=True, stream=False
        )

    auxiliary = loaded("folder/images_classic/aux-tin")
    assert len(auxiliary) == 10_000
    assert auxiliary.labels.unique().tolist() == [-1]
    tests = {name: loaded(reference) for name, reference in KIT_TESTS.items()}
    assert sum(map(len, tests.values())) == 9000 + 1000 + 7793 + 1000 + 10000 + 10000 + 1200 + 2158
    require_disjoint(auxiliary, tests)
    bad = planted(auxiliary, tests["textures"], {9999: 1199})
    with pytest.raises(UsageError, match=r"set textures .*1200 images\): 9999 \(there 1199\)"):
        require_disjoint(bad, tests)
