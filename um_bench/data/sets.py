"""A named set -> an ImageSet: every image RGB, at the suite's size, checked and fingerprinted."""

import contextlib
import functools
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from um_bench import registry
from um_bench.data import leakage
from um_bench.data.decoding import Decoder
from um_bench.data.fingerprints import fingerprint, streamed_fingerprint
from um_bench.data.kept import pixels_of
from um_bench.data.streaming import chunks, naming_the_dead, workers
from um_bench.errors import PluginError, UsageError
from um_bench.suite import Preprocessing

STREAM = "UM_BENCH_STREAM"
"""Environment variable: 1 = stream every set that can be, 0 = none; otherwise those that are too
large for the memory."""

_MEMORY_SHARE = 0.6
"""Of the free memory, for one set: the classifier, its outputs and the other sets need the rest."""

# Measured on 2 cores: two threads take 1.2 to 1.7 times as long as one for files of 32x32 and 64x64
# pixels (the interpreter's lock changes hands for each), and half as long for 300x300.
_PIXELS_WORTH_THREADS = 100 * 100
_IMAGES_PER_TASK = 64


class Pairs(Protocol):
    """What a source returns: pairs of an image and an integer label, as many as its length says.

    An image is a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4). With `__getitem__`,
    pairs are read by index, from several threads or processes at once; a set that cannot be, such
    as one that draws from a generator, has `__iter__` alone, is read in order, and never streamed.

    Two attributes are used where they are there. `files`, a path for each image: errors name the
    file, and a streamed set is known again without reading it. `labels` (or `targets`, as
    torchvision's sets have it), an integer for each image, the same as in the pairs: some images
    of each class can be chosen without decoding all.
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
    """uint8 (N, 3, H, W), on the CPU, at the size of the suite's preprocessing. They may be mapped
    from a file, and are not to be written to."""
    labels: Tensor = field(repr=False)
    """int64 (N,), < 0 = OOD."""
    fingerprint: str
    """What `fingerprint` returns for images and labels: the set's identity."""
    classes: int | None = field(default=None, repr=False, kw_only=True)
    """Where these are some of a set's images: the number of classes of the whole set."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for an OOD set."""
        return _count_classes(self.labels) if self.classes is None else self.classes


class StreamedSet(ImageSet):
    """One set that stays in its files: its images are decoded anew in each pass.

    It is what an ImageSet of the same images is, fingerprint included. The files must stay as they
    are as long as it is used.
    """

    decoder: Decoder

    def __init__(
        self, name: str, decoder: Decoder, labels: Tensor, fingerprint: str, *, classes: int
    ) -> None:
        values = {
            "name": name,
            "decoder": decoder,
            "labels": labels,
            "fingerprint": fingerprint,
            "classes": classes,
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    @property
    def images(self) -> Tensor:
        """All images, decoded now and kept nowhere: uint8 (N, 3, H, W). A Loader needs them not.

        Raises:
            UsageError: if they do not fit into memory, or cannot be read.
            MissingDataError: if a file is not there.
        """
        return _images(self.decoder)


def load_set(
    reference: str,
    *,
    data_dir: Path,
    preprocessing: Preprocessing,
    ood: bool = False,
    every_class: bool = True,
    limit: int | None = None,
    stream: bool | None = None,
) -> ImageSet:
    """Return the set that a suite calls `NAME` or `NAME/PART`.

    Args:
        reference: NAME is an entry point of `um_bench.datasets`; PART is the source's own.
        data_dir: the folder in which data sets are kept; nothing is downloaded into it. The
            fingerprint of a streamed set is remembered there (`streamed_fingerprint`), the images
            of another one in the user's cache (`kept.pixels_of`).
        preprocessing: size of the images and how they come to it.
        ood: it is used as an OOD set: all its labels become -1.
        every_class: whether an ID set without an image of some class is an error; a test set that
            nothing is fitted on may lack some.
        limit: take only so many images: the first of each class, as many of each as there are.
        stream: decode the images anew in each pass (`StreamedSet`), which takes one pass now, if
            the fingerprint is not remembered. None = as the environment variable UM_BENCH_STREAM
            says (1 = always, 0 = never), or else where they do not fit into memory. Sets that
            cannot be read by index are never streamed.

    Raises:
        MissingDataError: if the set, or some of its files, are not in `data_dir`.
        UsageError: if there is no such set, it is empty, a file is not a readable image, an image
            has the wrong size and `resize` is `none`, an ID set's labels are not 0..K-1, it
            does not fit into memory and is not streamed, `limit` is below 1, or an environment
            variable is not as it must be.
        PluginError: if the source breaks its contract.
        LeakageError: if it is a test set, and who asks for it trains or tunes a method.
    """
    leakage.asked_for(reference)
    if limit is not None and limit < 1:
        raise UsageError(f"{reference}: limit must be at least 1 image, got {limit}")
    with leakage.recorded() as opened:
        pairs = _open(reference, Path(data_dir), preprocessing)
        decoder = Decoder(reference, pairs, preprocessing)
        labels = _told_labels(pairs, ood=ood)
        count = len(pairs) if labels is None or limit is None else min(limit, len(pairs))
        streamed = _is_streamed(decoder, count, stream)
        if streamed:
            workers()  # where its environment variable is wrong, now is better than in each pass
            labels = _labels_of(decoder) if labels is None else labels
        if labels is None:
            return _in_memory(decoder, ood=ood, every_class=every_class, limit=limit)
        if not ood:
            _check_labels(reference, labels, every_class=every_class)
        classes, chosen = _count_classes(labels), _first_of_each(labels, limit)
        promised = None if ood else labels.numpy()
        decoder = Decoder(reference, pairs, preprocessing, chosen.numpy(), promised)
        found = _streamed if streamed else functools.partial(_kept, opened=opened)
        return found(decoder, labels[chosen], Path(data_dir), classes)


def _streamed(decoder: Decoder, labels: Tensor, data_dir: Path, classes: int) -> ImageSet:
    identity = streamed_fingerprint(decoder, labels, data_dir)
    return StreamedSet(decoder.reference, decoder, labels, identity, classes=classes)


def _kept(
    decoder: Decoder, labels: Tensor, data_dir: Path, classes: int, *, opened: set[str]
) -> ImageSet:
    """Return a set whose labels are known before it is decoded, if it is decoded at all."""
    decode = functools.partial(_images, decoder)
    images, identity = pixels_of(decoder, labels, data_dir, opened, decode)
    return ImageSet(decoder.reference, images, labels, identity, classes=classes)


def _open(reference: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
    """Return what a set's source returns, which holds at least one image."""
    name, _, part = reference.partition("/")
    source: Source = registry.load("dataset", name)
    pairs = source(part, data_dir, preprocessing)
    if not hasattr(pairs, "__len__"):
        raise PluginError(f"dataset {name!r} returned a {type(pairs).__name__} without a length")
    if len(pairs) == 0:
        raise UsageError(f"{reference} has no images")
    return pairs


def _told_labels(pairs: Any, *, ood: bool) -> Tensor | None:
    """Return all labels (N,) as far as they are known without decoding, else None."""
    if not _is_indexed(pairs):
        return None
    if ood:
        return torch.full((len(pairs),), -1)
    # Not what the pairs hold, then; torchvision's and pytorch-ood's sets have such a function.
    if getattr(pairs, "target_transform", None) is not None:
        return None
    told = getattr(pairs, "labels", getattr(pairs, "targets", None))
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        labels = np.asarray(told)
        if labels.dtype.kind in "iu" and labels.shape == (len(pairs),):
            return torch.from_numpy(labels.astype(np.int64))
    return None


def _labels_of(decoder: Decoder) -> Tensor:
    """Return all labels (N,) from a pass over the images."""
    with naming_the_dead(decoder.reference):
        everything = chunks(decoder, [torch.arange(len(decoder))])
        return torch.tensor([label for chunk in everything for label in chunk.labels])


def _is_indexed(pairs: Any) -> bool:
    return hasattr(pairs, "__getitem__")


def _is_streamed(decoder: Decoder, count: int, stream: bool | None) -> bool:
    """Return whether `count` images of a source are to be decoded anew in each pass."""
    given = os.environ.get(STREAM, "")
    if given not in ("", "0", "1"):
        raise UsageError(f"{STREAM} is {given!r}; it must be 1 (stream), 0 (do not) or not be set")
    if not _is_indexed(decoder.pairs):
        return False
    if stream is None and given:
        stream = given == "1"
    return _memory_error(decoder, count) is not None if stream is None else stream


def _in_memory(decoder: Decoder, *, ood: bool, every_class: bool, limit: int | None) -> ImageSet:
    """Return a set whose labels are known when all of it is decoded."""
    images, labels = _read(decoder)
    if ood:
        labels.fill_(-1)
    else:
        _check_labels(decoder.reference, labels, every_class=every_class)
    classes, chosen = _count_classes(labels), _first_of_each(labels, limit)
    if len(chosen) < len(labels):
        images, labels = images[chosen], labels[chosen]
    identity = fingerprint(images, labels)
    return ImageSet(decoder.reference, images, labels, identity, classes=classes)


def _first_of_each(labels: Tensor, count: int | None) -> Tensor:
    """Return the positions of so many labels: the first of each class, as many of each as go."""
    if count is None or count >= len(labels):
        return torch.arange(len(labels))
    by_class = labels.argsort(stable=True)
    sizes = torch.from_numpy(np.unique(labels.numpy(), return_counts=True)[1])
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - starts
    return rank.argsort(stable=True)[:count].sort().values


def _count_classes(labels: Tensor) -> int:
    return max(0, int(labels.max()) + 1)


def _images(decoder: Decoder) -> Tensor:
    return _read(decoder)[0]


def _read(decoder: Decoder) -> tuple[Tensor, Tensor]:
    """Return all images (N, 3, H, W) uint8 and labels (N,) int64.

    Raises:
        UsageError: if they do not fit into memory, and as `Decoder.read`.
    """
    too_large = _memory_error(decoder, len(decoder))
    if too_large is not None:
        raise too_large
    images = torch.empty(decoder.shape, dtype=torch.uint8)
    labels = torch.empty(len(decoder), dtype=torch.int64)
    pixels, classes = images.numpy(), labels.numpy()
    if not _is_indexed(decoder.pairs):
        decoder.read_in_order(pixels, classes)
        return images, labels

    def read(position: int) -> int:
        classes[position], area = decoder.read(position, pixels[position])
        return area

    _for_each(read, len(decoder))
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


def _check_labels(reference: str, labels: Tensor, *, every_class: bool) -> None:
    below = int((labels < 0).sum())
    if below:
        raise UsageError(
            f"{reference}: {below} of {len(labels)} images have a label below 0, which means OOD. "
            "An ID set needs a class for every image; an OOD set belongs below [ood] in the suite."
        )
    classes: NDArray[np.int64] = np.unique(labels.numpy())
    gap = next((i for i, label in enumerate(classes.tolist()) if label != i), None)
    if gap is not None and every_class:
        raise UsageError(
            f"{reference}: labels must be 0..K-1 with an image for each; there are {len(classes)} "
            f"classes up to label {classes[-1]}, and no image has label {gap}"
        )


def _memory_error(decoder: Decoder, count: int) -> UsageError | None:
    """Return why so many images cannot be kept in memory; None where they can."""
    free, size = _free_memory(), decoder.preprocessing.size
    needed = count * 3 * size * size
    if free is None or needed <= _MEMORY_SHARE * free:
        return None
    return UsageError(
        f"{decoder.reference}: {count} images of {size}x{size} pixels need {needed / 2**30:.1f} "
        f"GiB, more than {_MEMORY_SHARE:.0%} of the {free / 2**30:.1f} GiB of memory that is free, "
        f"and it is not streamed ({STREAM}=0, or it cannot be read by index). Let it be streamed, "
        "use a smaller set, or a machine with more memory."
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
