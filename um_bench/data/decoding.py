"""One image of a source -> its pixels: RGB, at the suite's size. Errors name the image."""

import contextlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from um_bench.errors import MissingDataError, PluginError, UmBenchError, UsageError
from um_bench.suite import Preprocessing

Pixels = NDArray[np.uint8]


class Decoded(NamedTuple):
    """What is known of an image besides its pixels."""

    label: int
    area: int
    """In pixels, before it was resized."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """The images of a source, or some of them, each decoded whenever it is asked for."""

    reference: str
    """The set's name, for errors."""
    pairs: Any
    """What the source returned."""
    preprocessing: Preprocessing
    chosen: NDArray[np.int64] | None = None
    """Which images of the source, in this order; None = all."""
    labels: NDArray[np.int64] | None = None
    """What the source says that all its labels are; an image with another one is an error."""

    def __len__(self) -> int:
        return len(self.pairs) if self.chosen is None else len(self.chosen)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all images: N, 3, H, W."""
        return len(self), 3, self.preprocessing.size, self.preprocessing.size

    @property
    def files(self) -> Sequence[Any] | None:
        """The file of each image, where the source tells."""
        files = _files(self.pairs)
        if files is None or self.chosen is None:
            return files
        return [files[index] for index in self.chosen]

    def read(self, position: int, pixels: Pixels) -> Decoded:
        """Write the image at a position into `pixels` (3, H, W).

        Raises:
            MissingDataError: if its file is not there.
            UsageError: if it cannot be read, or has the wrong size and `resize` is `none`.
            PluginError: if it has another label than the source said.
        """
        index = position if self.chosen is None else int(self.chosen[position])
        with _naming(self.reference, self.pairs, index):
            decoded = self._decode(self.pairs[index], pixels)
            if self.labels is not None and decoded.label != self.labels[index]:
                raise PluginError(
                    f"{_image_name(self.reference, self.pairs, index)} has label {decoded.label}, "
                    f"but the labels of its source say {self.labels[index]}"
                )
        return decoded

    def read_in_order(self, images: Pixels, labels: NDArray[np.int64]) -> None:
        """Write all images (N, 3, H, W) and labels (N,) of a source that cannot be indexed.

        Raises:
            PluginError: if it cannot be iterated either, or its length is wrong.
            MissingDataError: as `read`.
            UsageError: as `read`.
        """
        if not isinstance(self.pairs, Iterable):
            kind = type(self.pairs).__name__
            raise PluginError(f"{self.reference}: a {kind} can be neither indexed nor read")
        seen, promised = 0, len(self)
        for pair in self.pairs:
            if seen < promised:
                with _naming(self.reference, self.pairs, seen):
                    labels[seen] = self._decode(pair, images[seen]).label
            seen += 1
        if seen != promised:
            raise PluginError(
                f"{self.reference}: its length says {promised} images, it holds {seen}"
            )

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Return the images at some positions, uint8 (B, 3, H, W), and their labels.

        Raises:
            MissingDataError: as `read`.
            UsageError: as `read`.
            PluginError: as `read`.
        """
        images = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)
        labels = [
            self.read(position, pixels).label
            for position, pixels in zip(positions, images, strict=True)
        ]
        return torch.from_numpy(images), labels

    def _decode(self, pair: tuple[Any, Any], pixels: Pixels) -> Decoded:
        image, label = pair
        image = _rgb(image)
        pixels[:] = np.asarray(resized(image, self.preprocessing)).transpose(2, 0, 1)
        # int64 as labels are kept: a larger number is an error here, where it has a name.
        return Decoded(int(np.int64(operator.index(label))), image.width * image.height)


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
    files = _files(pairs)
    return f"{reference}: image {index}" + (f" ({files[index]})" if files is not None else "")


def _files(pairs: Any) -> Sequence[Any] | None:
    """Return a source's files, if they are one for each image."""
    files: Sequence[Any] | None = getattr(pairs, "files", None)
    return None if files is None or len(files) != len(pairs) else files


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
