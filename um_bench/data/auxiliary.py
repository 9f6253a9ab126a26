"""Large sets of small images that are used as auxiliary outliers, read where they lie in arrays.

Pickled files are refused, whatever is in them: reading one would run its code.
"""

import bisect
import contextlib
import functools
import importlib
import shlex
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from um_bench.data.sets import Pairs
from um_bench.data.sources import command_to_make
from um_bench.errors import MissingDataError, UsageError, unknown_name
from um_bench.suite import Preprocessing

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

_TINY_IMAGES = ("pytorch_ood.dataset.img", "TinyImages300k")
_TINY_SIDE = 32
_DOWNLOADS = "https://image-net.org/data/downsample"
_CLASSES = 1000
_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a file in a zip archive: ends with the lengths of its name and of what follows the name."""


class Mapped:
    """Images in files that are mapped into memory: only what is used is read, nothing is copied.

    Pairs are an array (H, W, 3) and a label.

    Args:
        files: one for each array.
        read: file -> its images (n, H, W, 3), a view of the file.
        labels: of all images, in order.

    Raises:
        ValueError: if there is not one label for each image.
    """

    def __init__(
        self, files: Sequence[Path], read: Callable[[Path], Pixels], labels: Labels
    ) -> None:
        self._made_of = (files, read, labels)
        self._arrays = [read(file) for file in files]
        sizes = [len(array) for array in self._arrays]
        self._starts = list(accumulate(sizes, initial=0))
        if len(labels) != self._starts[-1]:
            raise ValueError(f"there are {len(labels)} labels for {self._starts[-1]} images")
        self.labels = labels
        self.files = [file for file, size in zip(files, sizes, strict=True) for _ in range(size)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index} of {len(self)}")
        which = bisect.bisect_right(self._starts, index) - 1
        return self._arrays[which][index - self._starts[which]], int(self.labels[index])

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself; it would be sent a copy of all pixels otherwise.
        return type(self), self._made_of


def tinyimages300k(part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
    """Return 300,000 of the 80 Million Tiny Images, in the file that pytorch-ood downloads.

    Its makers took out images of the classes of CIFAR, Places and LSUN, and offensive ones.

    Raises:
        MissingDataError: if it is not in the data folder; says how to get it.
        UsageError: if it holds anything else than 32x32 pixels in RGB, or a part is given.

    Source:
        Hendrycks et al., ICLR 2019, arXiv:1812.04606; hendrycks/outlier-exposure, README;
        pytorch_ood.dataset.img.TinyImages300k, which would read all of it at once.
    """
    if part:
        raise unknown_name("part of tinyimages300k", part, ())
    kind = getattr(importlib.import_module(_TINY_IMAGES[0]), _TINY_IMAGES[1])
    file = Path(data_dir) / kind.filename
    if not file.is_file():
        command = command_to_make(*_TINY_IMAGES, Path(data_dir), {"download": True})
        raise MissingDataError(
            f"tinyimages300k is not in {data_dir} ({file.name}). To get it: {command}"
        )
    with _naming("tinyimages300k", file):
        return Mapped([file], _in_npy, np.full(len(_in_npy(file)), -1))


def _in_npy(file: Path) -> Pixels:
    """Return the images (N, 32, 32, 3) in a file of numpy's, mapped."""
    array: Pixels = np.load(file, mmap_mode="r", allow_pickle=False)
    _require(array.dtype, array.shape[1:], (_TINY_SIDE, _TINY_SIDE, 3))
    return array


@dataclass(frozen=True)
class DownsampledImageNet:
    """All of ImageNet-1K at 32x32 or 64x64 pixels, in the `npz` files that image-net.org has.

    They are in the data folder's `imagenet32` or `imagenet64`, or in folders directly below it.
    Labels are those of the files, less 1: 0 to 999, in an order of its makers' own, which is not
    the usual one. Files whose members are not compressed are mapped; compressed ones are read in
    order, so that the set has to fit into memory, also where few of its images are asked for.

    Source:
        Chrabaszcz et al., 2017, arXiv:1707.08819; PatrykChrabaszcz/Imagenet32_Scripts,
        image2numpy_imagenet_train.py (37fe8d6), for the layout.
    """

    name: str
    side: int
    archives: Mapping[str, Sequence[str]]
    """Part -> what has to be downloaded."""

    def __call__(self, part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
        """Return one part, `train` (1,281,167 images) or `val` (50,000).

        Raises:
            MissingDataError: if not all of its files are here, or only in the pickled form; says
                how to get them.
            UsageError: if there is no such part, or a file is not what it should be.
        """
        if part not in self.archives:
            raise unknown_name(f"part of {self.name}", part, self.archives)
        files = self._files(part, Path(data_dir))
        reference = f"{self.name}/{part}"
        contents = []
        for file in files:
            with _naming(reference, file):
                contents.append(_content(file, self.side))
        labels = np.concatenate([content.labels for content in contents])
        if all(content.is_mappable for content in contents):
            return Mapped(files, functools.partial(_in_npz, side=self.side), labels)
        return _InOrder(reference, files, self.side, labels)

    def _files(self, part: str, data_dir: Path) -> list[Path]:
        """Return the files of a part, in their order."""
        folder = data_dir / self.name
        stems = ["val_data"] if part == "val" else [f"train_data_batch_{n}" for n in range(1, 11)]
        found = [_find(folder, f"{stem}.npz") for stem in stems]
        files = [file for file in found if file is not None]
        if len(files) == len(stems):
            return files
        absent = [f"{stem}.npz" for stem, file in zip(stems, found, strict=True) if file is None]
        reason = f"{len(absent)} of its {len(stems)} files are not in {folder}: {absent[0]}"
        if any(_find(folder, stem) for stem in stems):
            reason += ". There are files without .npz, but these are pickled and never read"
        raise MissingDataError(
            f"{self.name}/{part}: {reason}. To get it: {self._how(part, folder)}"
        )

    def _how(self, part: str, folder: Path) -> str:
        names = self.archives[part]
        commands = " && ".join(
            f"python -m zipfile -e {name} {shlex.quote(str(folder))}" for name in names
        )
        addresses = " and ".join(f"{_DOWNLOADS}/{name}" for name in names)
        return (
            "register at https://image-net.org/download-images and accept the terms, download "
            f"{addresses}, then run {commands}"
        )


def _find(folder: Path, name: str) -> Path | None:
    """Return a file in a folder, or in one directly below it."""
    places = (folder / name, *sorted(folder.glob(f"*/{name}")))
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class _InOrder:
    """Images in compressed files, of which one at a time is in memory."""

    reference: str
    files: Sequence[Path]
    side: int
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Pixels, int]]:
        return zip(self._images(), map(int, self.labels), strict=True)

    def _images(self) -> Iterator[Pixels]:
        for file in self.files:
            with _naming(self.reference, file), np.load(file, allow_pickle=False) as content:
                images = _in_colour(content["data"], self.side)
            yield from images


class _Member(NamedTuple):
    """The array of images in a npz file."""

    start: int | None
    """Where in the file its numbers begin; None where they are compressed."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _images_member(file: Path) -> _Member:
    """Return where a npz file has its images, without reading them."""
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("data.npy")
        with archive.open(info) as member:
            if npy.read_magic(member) != (1, 0):
                raise ValueError("it is in a format that numpy.savez does not write for images")
            shape, by_column, dtype = npy.read_array_header_1_0(member)
            header = member.tell()
    if by_column:
        raise ValueError("its images are stored by column, not by row")
    if info.compress_type != zipfile.ZIP_STORED:
        return _Member(None, shape, dtype)
    with file.open("rb") as content:
        content.seek(info.header_offset)
        name, extra = _LOCAL_HEADER.unpack(content.read(_LOCAL_HEADER.size))
    return _Member(info.header_offset + _LOCAL_HEADER.size + name + extra + header, shape, dtype)


class _Content(NamedTuple):
    """What is known of a npz file before its images are read."""

    is_mappable: bool
    labels: Labels


def _content(file: Path, side: int) -> _Content:
    """Return what a npz file holds, if it is rows of pixels with a label for each."""
    images, labels = _images_member(file), _labels_in(file)
    _require(images.dtype, images.shape[1:], (3 * side**2,))
    if images.shape[0] != len(labels):
        raise ValueError(f"it holds {images.shape[0]} images and {len(labels)} labels")
    return _Content(images.start is not None, labels)


def _in_npz(file: Path, side: int) -> Pixels:
    """Return the images (n, side, side, 3) in a npz file that is not compressed, mapped."""
    start, shape, dtype = _images_member(file)
    assert start is not None, "compressed files are not mapped"
    return _in_colour(np.memmap(file, dtype, "r", start, shape), side)


def _in_colour(rows: Pixels, side: int) -> Pixels:
    """Return rows (n, 3 * side * side), all of an image's red first, as (n, side, side, 3)."""
    return rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def _labels_in(file: Path) -> Labels:
    """Return the labels (n,) in a npz file, counted from 0."""
    with np.load(file, allow_pickle=False) as content:
        labels = content["labels"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"its labels are {labels.dtype} {labels.shape}, not integers (n,)")
    if len(labels) and not (labels.min() >= 1 and labels.max() <= _CLASSES):
        raise ValueError(
            f"its labels go from {labels.min()} to {labels.max()}, not 1 to {_CLASSES}"
        )
    counted_from_0: Labels = labels.astype(np.int64) - 1
    return counted_from_0


def _require(dtype: np.dtype[Any], shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if dtype != np.uint8 or shape != expected:
        raise ValueError(f"an image in it is {dtype} {shape}; it must be uint8 {expected}")


@contextlib.contextmanager
def _naming(reference: str, file: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into an error that names it.

    numpy raises ValueError for objects, which would have to be unpickled, and for cut-off files.
    """
    try:
        yield
    except KeyError as error:
        raise UsageError(f"{reference}: {file} cannot be used: {error.args[0]}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"{reference}: {file} cannot be used: {type(error).__name__}: {error}"
        ) from error


IMAGENET32 = DownsampledImageNet(
    "imagenet32",
    32,
    {"train": ["Imagenet32_train_npz.zip"], "val": ["Imagenet32_val_npz.zip"]},
)
IMAGENET64 = DownsampledImageNet(
    "imagenet64",
    64,
    {
        "train": ["Imagenet64_train_part1_npz.zip", "Imagenet64_train_part2_npz.zip"],
        "val": ["Imagenet64_val_npz.zip"],
    },
)
