"""Images of a training set that are in a test set are found, whatever they are called."""

import hashlib

import pytest
import torch

from um_bench.data import ImageSet, fingerprint
from um_bench.data.overlap import require_disjoint, shared_images
from um_bench.errors import UsageError


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


def test_one_grey_level_is_another_image():
    test = made("test", 20, 1)
    auxiliary = planted(made("aux", 20, 2), test, {3: 9})
    auxiliary.images[3, 0, 0, 0] ^= 1
    assert shared_images(auxiliary, test) == []


def test_a_set_that_overlaps_a_test_set_is_refused_and_the_images_are_named():
    tests = {"one": made("x/one", 30, 1), "two": made("x/two", 40, 2)}
    auxiliary = made("aux/all", 50, 3)
    require_disjoint(auxiliary, tests)
    bad = planted(auxiliary, tests["two"], {n: n + 1 for n in range(7)})
    with pytest.raises(UsageError) as caught:
        require_disjoint(bad, tests)
    assert str(caught.value).startswith(
        "7 of the 50 auxiliary outliers of aux/all are images of the test set two (x/two): "
        "0 (there 1), 1 (there 2), 2 (there 3), 3 (there 4), 4 (there 5), .... A model"
    )
