"""Images that two sets have in common, by their pixels: none that is trained on is tested on."""

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from um_bench.data.sets import ImageSet, StreamedSet
from um_bench.data.streaming import chunks, naming_the_dead
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

    They are compared at the suite's size, by SHA-256: files of different formats and names count
    as one image where they come to the same pixels. A copy that was cropped, shifted, mirrored or
    compressed anew is another image here, and is not found.

    Raises:
        UmBenchError: as `streaming.chunks`, where a set is streamed.
    """
    return _shared(list(_keys(first)), _keys(second))


def require_disjoint(auxiliary: ImageSet, tested: Mapping[str, ImageSet]) -> None:
    """Refuse a set of auxiliary outliers that holds an image which is tested on.

    One pass over each set. Images are the same where `shared_images` says so.

    Args:
        auxiliary: outliers to train on.
        tested: test sets, by the names that a suite gives them.

    Raises:
        UsageError: naming the sets, how many images there are, and the first of them: their
            numbers, and their files where a set is streamed from files.
        UmBenchError: as `streaming.chunks`, where a set is streamed.
    """
    keys = list(_keys(auxiliary))
    for name, data in tested.items():
        found = _shared(keys, _keys(data))
        if found:
            raise _overlap(auxiliary, name, data, found)


def _shared(keys: Sequence[bytes], others: Iterable[bytes]) -> list[Shared]:
    present = set(keys)
    known: dict[bytes, int] = {}
    for number, key in enumerate(others):
        if key in present:
            known.setdefault(key, number)
    if not known:
        return []
    return [Shared(number, known[key]) for number, key in enumerate(keys) if key in known]


def _overlap(auxiliary: ImageSet, name: str, data: ImageSet, found: Sequence[Shared]) -> UsageError:
    shown = ", ".join(
        f"{_image(auxiliary, one.first)} (there {_image(data, one.second)})"
        for one in found[:_SHOWN]
    )
    more = ", ..." if len(found) > _SHOWN else ""
    return UsageError(
        f"{len(found)} of the {len(auxiliary)} auxiliary outliers of {auxiliary.name} are images "
        f"of the test set {name} ({data.name}, {len(data)} images): {shown}{more}. A model that "
        "was trained on a test image cannot be tested on it: take another auxiliary set, or "
        "remove these."
    )


def _image(data: ImageSet, number: int) -> str:
    """Return an image's number, with its file where that is known."""
    files = data.decoder.files if isinstance(data, StreamedSet) else None
    return str(number) if files is None else f"{number} {files[number]}"


def _keys(data: ImageSet) -> Iterator[bytes]:
    """Yield the hash of each image's pixels, in order."""
    # Not by a Loader: its batches are float32, which takes longer to make than the hash.
    with contextlib.closing(_pixels(data)) as parts:
        for images in parts:
            rows = np.ascontiguousarray(images.flatten(1).numpy())
            # Measured on 2 cores of an EPYC with SHA-NI: 2.6 us for 32x32 pixels, BLAKE2b 5.5.
            yield from (hashlib.sha256(row).digest() for row in rows)


def _pixels(data: ImageSet) -> Generator[Tensor, None, None]:
    """Yield a set's images in order, in parts: uint8 (B, 3, H, W)."""
    if not isinstance(data, StreamedSet):
        yield from torch.split(data.images, _ROWS)
        return
    everything = chunks(data.decoder, [torch.arange(len(data))])
    with contextlib.closing(everything), naming_the_dead(data.name):
        for chunk in everything:
            yield chunk.images
