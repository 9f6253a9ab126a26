"""Images that two sets have in common, by their pixels: none that is trained on is tested on."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from um_bench.data.loader import Loader
from um_bench.data.sets import ImageSet
from um_bench.errors import UsageError

_SHOWN = 5
_ROWS = 1024


class Shared(NamedTuple):
    """One image that is in two sets."""

    first: int
    """Its number in the first set, from 0."""
    second: int
    """Its number in the second; the first of them, where it is there more than once."""


def shared_images(first: ImageSet, second: ImageSet) -> list[Shared]:
    """Return the images of `first` whose pixels are those of an image of `second`, in order.

    They are compared at the suite's size, so that files of different formats and names count as
    one image where they come to the same pixels; a crop or a recompressed copy does not.
    """
    known: dict[bytes, int] = {}
    for number, key in enumerate(_keys(second)):
        known.setdefault(key, number)
    return [Shared(n, known[key]) for n, key in enumerate(_keys(first)) if key in known]


def require_disjoint(auxiliary: ImageSet, tested: Mapping[str, ImageSet]) -> None:
    """Refuse a set of auxiliary outliers that holds an image which is tested on.

    Args:
        auxiliary: outliers to train on.
        tested: test sets, by the names that a suite gives them.

    Raises:
        UsageError: naming the set, how many images there are, and the first of them.
    """
    for name, data in tested.items():
        found = shared_images(auxiliary, data)
        if not found:
            continue
        shown = ", ".join(f"{s.first} (there {s.second})" for s in found[:_SHOWN])
        more = ", ..." if len(found) > _SHOWN else ""
        raise UsageError(
            f"{len(found)} of the {len(auxiliary)} auxiliary outliers of {auxiliary.name} are "
            f"images of the test set {name} ({data.name}): {shown}{more}. A model that was trained "
            "on a test image cannot be tested on it: take another auxiliary set, or remove these."
        )


def _keys(data: ImageSet) -> Iterator[bytes]:
    for images, _ in Loader(data, batch_size=_ROWS):
        # back to the bytes that were stored: a float32 in [0, 1] holds them exactly
        pixels = images.mul(255).round().byte().flatten(1).numpy()
        yield from (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in pixels)
