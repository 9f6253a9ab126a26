"""A named set -> an ImageSet: every image RGB, at the suite's size, checked and fingerprinted."""

import contextlib
import hashlib
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from um_bench import registry
from um_bench.errors import MissingDataError, PluginError, UmBenchError, UsageError
from um_bench.suite import Preprocessing

_MEMORY_SHARE = 0.6
"""Of the free memory, for one set: the classifier, its outputs and the other sets need the rest."""

# Measured on 2 cores: two threads take 1.2 to 1.7 times as long as one for files of 32x32 and 64x64
# pixels (the interpreter's lock changes hands for each), and half as long for 300x300.
_PIXELS_WORTH_THREADS = 100 * 100
_IMAGES_PER_TASK = 64


class Pairs(Protocol):
    """What a source returns: pairs of an image and an integer label, as many as its length says.

    An image is a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4). With `__getitem__`,
    pairs are read by index, from several threads at once; a set that cannot be, such as one that
    draws from a generator, has `__iter__` alone and is read in order. With an attribute `files`
    (a path for each image), errors name the file.
    """

    def __len__(self) -> int: ...


class Source(Protocol):
    """An entry point of the group `um_bench.datasets`: one family of sets, such as `cifar10`."""

    def __call__(self, part: str, data_dir: Path, preprocessing: Preprocessing, /) -> Pairs:
        """Return one set of the family; nothing is downloaded.

        Args:
            part: what follows the first "/" in the reference: `test` in `cifar10/test`; may be "".
            data_dir: the folder in which data sets are kept.
            preprocessing: what the images will go through, for sets that are made to size. The
                caller resizes: a source need not.

        Raises:
            MissingDataError: if the set is not in `data_dir`; the message says how to get it.
            UsageError: if the family has no such part.
        """


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One set in memory, ready for batches."""

    name: str
    """The reference that it was loaded by: `cifar10/test`."""
    images: Tensor = field(repr=False)
    """uint8 (N, 3, H, W), on the CPU, at the size of the suite's preprocessing."""
    labels: Tensor = field(repr=False)
    """int64 (N,), < 0 = OOD."""
    fingerprint: str
    """What `fingerprint` returns for images and labels: the set's identity."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for an OOD set."""
        return max(0, int(self.labels.max()) + 1)


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """Return the SHA-256, in hex, of the images' shape, their pixels and the labels.

    It covers the text `(N, 3, H, W)`, then the pixels in row-major order, then the labels as
    little-endian 64-bit integers.
    """
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(np.ascontiguousarray(images.numpy()).data)
    digest.update(np.ascontiguousarray(labels.numpy(), dtype="<i8").data)
    return digest.hexdigest()


def load_set(
    reference: str, *, data_dir: Path, preprocessing: Preprocessing, ood: bool = False
) -> ImageSet:
    """Return the set that a suite calls `NAME` or `NAME/PART`.

    Args:
        reference: NAME is an entry point of `um_bench.datasets`; PART is the source's own.
        data_dir: the folder in which data sets are kept; nothing is downloaded into it.
        preprocessing: size of the images and how they come to it.
        ood: it is used as an OOD set: all its labels become -1.

    Raises:
        MissingDataError: if the set, or some of its files, are not in `data_dir`.
        UsageError: if there is no such set, it is empty, a file is not a readable image, an image
            has the wrong size and `resize` is `none`, an ID set's labels are not 0..K-1, or it
            does not fit into memory.
        PluginError: if the source breaks its contract.
    """
    name, _, part = reference.partition("/")
    source: Source = registry.load("dataset", name)
    pairs = source(part, Path(data_dir), preprocessing)
    if not hasattr(pairs, "__len__"):
        raise PluginError(f"dataset {name!r} returned a {type(pairs).__name__} without a length")
    if len(pairs) == 0:
        raise UsageError(f"{reference} has no images")
    _check_memory(reference, len(pairs), preprocessing.size)
    images, labels = _read(reference, pairs, preprocessing)
    if ood:
        labels.fill_(-1)
    else:
        _check_labels(reference, labels)
    return ImageSet(reference, images, labels, fingerprint(images, labels))


def resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Return an image at the size that the preprocessing asks for.

    Bilinear with antialiasing, as torchvision's Resize and CenterCrop do it on PIL images. An image
    that has the size already is returned as it is.

    Raises:
        UsageError: if `resize` is `none` and the image has another size.
    """
    size = preprocessing.size
    if preprocessing.resize == "none":
        if image.size != (size, size):
            raise UsageError(
                f"the image is {image.width}x{image.height} pixels, but the suite wants "
                f"{size}x{size} and resize = 'none'. Set preprocessing.resize to crop or squash."
            )
        return image
    if preprocessing.resize == "squash":
        return _scaled(image, size, size)
    short = preprocessing.resize_to or size
    if image.width <= image.height:
        image = _scaled(image, short, int(short * image.height / image.width))
    else:
        image = _scaled(image, int(short * image.width / image.height), short)
    if image.size == (size, size):
        return image
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _read(reference: str, pairs: Pairs, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, H, W) uint8 and labels (N,) int64 of all pairs."""
    count, size = len(pairs), preprocessing.size
    images = torch.empty((count, 3, size, size), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    pixels, classes = images.numpy(), labels.numpy()

    def keep(index: int, pair: tuple[Any, Any]) -> int:
        image, label = pair
        image = _rgb(image)
        pixels[index] = np.asarray(resized(image, preprocessing)).transpose(2, 0, 1)
        classes[index] = operator.index(label)
        return image.width * image.height

    if hasattr(pairs, "__getitem__"):

        def read(index: int) -> int:
            with _naming(reference, pairs, index):
                return keep(index, pairs[index])

        _for_each(read, count)
    else:
        _read_in_order(reference, pairs, keep)
    return images, labels


def _for_each(read: Callable[[int], int], count: int) -> None:
    """Call `read` for 0..count-1, in threads where images are large enough to gain from them."""
    if read(0) < _PIXELS_WORTH_THREADS:
        for index in range(1, count):
            read(index)
        return

    def read_some(start: int) -> None:
        for index in range(start, min(start + _IMAGES_PER_TASK, count)):
            read(index)

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        tasks = [pool.submit(read_some, start) for start in range(1, count, _IMAGES_PER_TASK)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read_in_order(
    reference: str, pairs: Pairs, keep: Callable[[int, tuple[Any, Any]], int]
) -> None:
    if not isinstance(pairs, Iterable):
        raise PluginError(f"{reference}: a {type(pairs).__name__} can be neither indexed nor read")
    seen, promised = 0, len(pairs)
    for pair in pairs:
        if seen < promised:
            with _naming(reference, pairs, seen):
                keep(seen, pair)
        seen += 1
    if seen != promised:
        raise PluginError(f"{reference}: its length says {promised} images, it holds {seen}")


@contextlib.contextmanager
def _naming(reference: str, pairs: Any, index: int) -> Iterator[None]:
    """Turn what goes wrong with one image into an error that names it."""
    try:
        yield
    except MemoryError:
        raise
    except UsageError as error:
        raise UsageError(f"{_image_name(reference, pairs, index)}: {error}") from error
    except UmBenchError:
        raise
    except FileNotFoundError as error:
        raise MissingDataError(f"{_image_name(reference, pairs, index)} is not there") from error
    # A corrupt file makes PIL raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        raise UsageError(
            f"{_image_name(reference, pairs, index)} cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def _image_name(reference: str, pairs: Any, index: int) -> str:
    files = getattr(pairs, "files", None)
    return f"{reference}: image {index}" + (f" ({files[index]})" if files else "")


def _rgb(image: Any) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"pixels must be uint8, got {image.dtype}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image must be a PIL image or an array, got {type(image).__name__}")
    # pytorch-ood's sets return open files; leaving the block closes one that cannot be decoded.
    with image:
        return image.convert("RGB")


def _check_labels(reference: str, labels: Tensor) -> None:
    below = int((labels < 0).sum())
    if below:
        raise UsageError(
            f"{reference}: {below} of {len(labels)} images have a label below 0, which means OOD. "
            "An ID set needs a class for every image; an OOD set belongs below [ood] in the suite."
        )
    classes: NDArray[np.int64] = np.unique(labels.numpy())
    gap = next((i for i, label in enumerate(classes.tolist()) if label != i), None)
    if gap is not None:
        raise UsageError(
            f"{reference}: labels must be 0..K-1 with an image for each; there are {len(classes)} "
            f"classes up to label {classes[-1]}, and no image has label {gap}"
        )


def _check_memory(reference: str, count: int, size: int) -> None:
    free = _free_memory()
    needed = count * 3 * size * size
    if free is not None and needed > _MEMORY_SHARE * free:
        raise UsageError(
            f"{reference}: {count} images of {size}x{size} pixels need {needed / 2**30:.1f} GiB, "
            f"more than {_MEMORY_SHARE:.0%} of the {free / 2**30:.1f} GiB of memory that is free. "
            "Sets are kept in memory whole: use a smaller set, or a machine with more memory."
        )


def _free_memory() -> int | None:
    """Return how many bytes can still be used here; None where the system does not say."""
    known = []
    with contextlib.suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        known += [int(found[1]) * 1024] if found else []
    # A container's limit; the text is "max" where there is none.
    with contextlib.suppress(OSError, ValueError):
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(known, default=None)
