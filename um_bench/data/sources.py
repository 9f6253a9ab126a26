"""The families of data sets that come with um-bench. Each is an entry point of `um_bench.datasets`.

Nothing is downloaded here, and nothing imported: torchvision, pytorch-ood and scikit-learn take
seconds, so each family imports what it needs when it is asked for a set.
"""

import contextlib
import functools
import importlib
import json
import os
import re
import shlex
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from um_bench.data.sets import Pairs
from um_bench.errors import MissingDataError, UsageError, unknown_name
from um_bench.suite import Preprocessing

T = TypeVar("T")

_EXTENSIONS = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))

_DIGITS_ID_CLASSES = 8
_CONTRAST = 0.75
"""Of shifted digits: 1 leaves them as they are."""
_PATCH = 20
"""Side of a patch of a photograph, in pixels: fine texture and large shapes both stay visible."""
_AUXILIARY_ROWS = 14
"""Rows of patches, of the 21 in a right half, that are auxiliary outliers."""

NOISE_SEED = 123
"""As in pytorch-ood's ODIN benchmarks: `gaussian-noise/1000` at 32x32 is the set they use."""

_HUB_LOCK = threading.Lock()


def _pick(family: str, part: str, known: Mapping[str, T]) -> T:
    if part not in known:
        raise unknown_name(f"part of {family}", part, known)
    return known[part]


def digits(part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
    """Return scikit-learn's 8x8 digits: 0 to 7 are ID, 8 and 9 are held out.

    Of every ten images of a class, five are `train`, four `test`, and one is `validation`. Further
    parts: `heldout` (all images of 8 and 9), `heldout-8`, `heldout-9`, and `shifted`: the test
    images blurred and with three quarters of the contrast, a covariate shift under which they are
    still the same digits.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels: NDArray[np.int64] = bunch.target
    # 0..16 in the file.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    # Counted off, not drawn: there is no generator whose stream could change.
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    known = labels < _DIGITS_ID_CLASSES
    test, validation = np.isin(rank % 5, (1, 3)), rank % 10 == 9
    chosen = _pick(
        "digits",
        part,
        {
            "train": known & ~test & ~validation,
            "validation": known & validation,
            "test": known & test,
            "shifted": known & test,
            "heldout": ~known,
            "heldout-8": labels == 8,
            "heldout-9": labels == 9,
        },
    )
    classes = np.where(known, labels, -1)[chosen]
    shown = _blurred(images[chosen]) if part == "shifted" else images[chosen]
    return list(zip(shown, classes.tolist(), strict=True))


def _blurred(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images (N, H, W) after a binomial blur of 3x3 pixels, with contrast about mid-grey.

    Weights are 1, 2, 1 in each direction, over 16; pixels at the edge are repeated beyond it.
    """
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    blurred = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    return np.rint(127.5 + _CONTRAST * (blurred - 127.5)).astype(np.uint8)


def photos(part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
    """Return grey patches of scikit-learn's two photographs, at the suite's size.

    Patches of 20x20 pixels, side by side without overlap, in 21 rows of 16 a half photograph. No
    patch is in two parts: `test` (left halves), `auxiliary` (the upper two thirds of the right
    halves, for training with outliers), `validation` (the lower third, to choose hyperparameters).
    """
    from sklearn.datasets import load_sample_images

    parts = {
        "test": (False, slice(None)),
        "auxiliary": (True, slice(None, _AUXILIARY_ROWS)),
        "validation": (True, slice(_AUXILIARY_ROWS, None)),
    }
    right, rows = _pick("photos", part, parts)
    patches = []
    for photograph in load_sample_images().images:
        middle = photograph.shape[1] // 2
        half = Image.fromarray(photograph[:, middle:] if right else photograph[:, :middle])
        grey = half.convert("L")
        for top in range(0, grey.height - _PATCH + 1, _PATCH)[rows]:
            for left in range(0, grey.width - _PATCH + 1, _PATCH):
                patches.append(grey.crop((left, top, left + _PATCH, top + _PATCH)))
    return _Patches(patches, preprocessing.size)


@dataclass(frozen=True)
class _Patches:
    """Images brought to the suite's size here, so that `resize = "none"` takes them."""

    patches: Sequence[Image.Image]
    size: int

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.patches[index].resize((self.size, self.size), Image.Resampling.BILINEAR), -1


@dataclass(frozen=True)
class NoiseSet:
    """pytorch-ood's noise at the suite's size. Part: `1000`, a number of images; `1000-grey`."""

    name: str
    kind: str
    """A class of `pytorch_ood.dataset.img`."""

    def __call__(self, part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
        """Return that many images, the same on every call."""
        given = re.fullmatch(r"(\d+)(-grey)?", part)
        if given is None:
            raise UsageError(
                f"{self.name}/{part}: a number of images must follow the slash, as in "
                f"{self.name}/1000 or, with one channel, {self.name}/1000-grey"
            )
        shape = (preprocessing.size, preprocessing.size, 1 if given[2] else 3)
        kind = getattr(importlib.import_module(_PYTORCH_OOD), self.kind)
        count = int(given[1])
        return Drawn(functools.partial(kind, count, size=shape, seed=NOISE_SEED), count)


@dataclass(frozen=True)
class Drawn:
    """Read in order only: pytorch-ood draws an image whenever one is asked for, whichever it is."""

    make: Callable[[], Any]
    """Returns the set with its generator at the start."""
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        drawn = self.make()
        return (drawn[index] for index in range(self.count))


@dataclass(frozen=True)
class LibrarySet:
    """A family that a class of torchvision or pytorch-ood reads from the data folder."""

    name: str
    module: str
    kind: str
    """The class; its first argument is the data folder, and it knows `download`."""
    parts: Mapping[str, Mapping[str, Any]]
    """Part -> further arguments."""
    needs: str | None = None
    """A package that downloading needs."""

    def __call__(self, part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
        """Return one part, if it is in the data folder.

        Raises:
            MissingDataError: if it is not; says how to get it.
            UsageError: if there is no such part, or what is there cannot be read.
        """
        arguments = _pick(self.name, part, self.parts)
        constructor = getattr(importlib.import_module(self.module), self.kind)
        try:
            found: Pairs = constructor(str(data_dir), **arguments, download=False)
        # The libraries raise RuntimeError where a set is absent or a checksum is wrong.
        except (RuntimeError, FileNotFoundError) as error:
            reference = f"{self.name}/{part}" if part else self.name
            raise MissingDataError(
                f"{reference} is not in {data_dir}. To get it: {self.command(part, data_dir)}"
            ) from error
        except OSError as error:
            raise UsageError(f"{self.name}: {data_dir} cannot be read: {error}") from error
        # Files that are not what their names say make the libraries' readers raise anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise UsageError(
                f"{self.name}: a file of it in {data_dir} cannot be read ({reason}). It is damaged "
                "or something else; move it away and get it again."
            ) from error
        return found

    def command(self, part: str, data_dir: Path) -> str:
        """Return the shell command that downloads a part."""
        arguments = {**self.parts[part], "download": True}
        return command_to_make(self.module, self.kind, data_dir, arguments, self.needs)


def command_to_make(
    module: str, kind: str, folder: Path, arguments: Mapping[str, Any], needs: str | None = None
) -> str:
    """Return the shell command that makes `kind(folder, **arguments)`.

    Args:
        module: where to import the class from.
        kind: the class.
        folder: its first argument.
        arguments: further ones: strings, numbers, None.
        needs: a package that has to be installed first.
    """
    # JSON's quotes are double, so that the shell's can be single.
    shown = (
        f"{name}=" + (json.dumps(value) if isinstance(value, str) else repr(value))
        for name, value in arguments.items()
    )
    where = json.dumps(str(folder), ensure_ascii=False)
    code = shlex.quote(f"from {module} import {kind}; {kind}({', '.join((where, *shown))})")
    return (f"pip install {needs} && " if needs else "") + f"python -c {code}"


_TRAIN_TEST = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: Mapping[str, Mapping[str, Any]] = {"": {}}
_TORCHVISION = "torchvision.datasets"
_PYTORCH_OOD = "pytorch_ood.dataset.img"

CIFAR10 = LibrarySet("cifar10", _TORCHVISION, "CIFAR10", _TRAIN_TEST)
CIFAR100 = LibrarySet("cifar100", _TORCHVISION, "CIFAR100", _TRAIN_TEST)
MNIST = LibrarySet("mnist", _TORCHVISION, "MNIST", _TRAIN_TEST)
FASHION_MNIST = LibrarySet("fashionmnist", _TORCHVISION, "FashionMNIST", _TRAIN_TEST)
SVHN = LibrarySet(
    "svhn", _TORCHVISION, "SVHN", {part: {"split": part} for part in ("train", "test", "extra")}
)
TINY_IMAGENET = LibrarySet(
    "tinyimagenet",
    _PYTORCH_OOD,
    "TinyImageNet",
    {part: {"subset": part} for part in ("train", "val", "test")},
)
TINY_IMAGENET_CROP = LibrarySet("tinyimagenet-crop", _PYTORCH_OOD, "TinyImageNetCrop", _WHOLE)
TINY_IMAGENET_RESIZE = LibrarySet("tinyimagenet-resize", _PYTORCH_OOD, "TinyImageNetResize", _WHOLE)
LSUN_CROP = LibrarySet("lsun-crop", _PYTORCH_OOD, "LSUNCrop", _WHOLE)
LSUN_RESIZE = LibrarySet("lsun-resize", _PYTORCH_OOD, "LSUNResize", _WHOLE)
TEXTURES = LibrarySet("textures", _PYTORCH_OOD, "Textures", _WHOLE)
PLACES365 = LibrarySet("places365", _PYTORCH_OOD, "Places365", _WHOLE, "gdown")
INATURALIST = LibrarySet("inaturalist", _PYTORCH_OOD, "iNaturalist", _WHOLE, "gdown")
OPENIMAGES_O = LibrarySet(
    "openimages-o",
    _PYTORCH_OOD,
    "OpenImagesO",
    {part: {"subset": part} for part in ("test", "val")},
    "gdown",
)
SSB_HARD = LibrarySet("ssb-hard", _PYTORCH_OOD, "SSBHard", _WHOLE, "gdown")
NINCO = LibrarySet("ninco", _PYTORCH_OOD, "NINCO", _WHOLE)

_CORRUPTIONS = {
    name: {"subset": name}
    for name in (
        *("brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost"),
        *("gaussian_blur", "gaussian_noise", "glass_blur", "impulse_noise", "jpeg_compression"),
        *("motion_blur", "pixelate", "saturate", "shot_noise", "snow", "spatter"),
        *("speckle_noise", "zoom_blur"),
    )
}
"""Covariate shifts of CIFAR's test sets: 10,000 images each at five severities, mildest first."""

CIFAR10_C = LibrarySet("cifar10-c", _PYTORCH_OOD, "CIFAR10C", _CORRUPTIONS)
CIFAR100_C = LibrarySet("cifar100-c", _PYTORCH_OOD, "CIFAR100C", _CORRUPTIONS)
# Labels count the 200 classes by their WordNet numbers, as those of ImageNet-200 do.
IMAGENET_R = LibrarySet("imagenet-r", _PYTORCH_OOD, "ImageNetR", _WHOLE)
# Labels are those of ImageNet-1K.
IMAGENET_V2 = LibrarySet("imagenet-v2", _PYTORCH_OOD, "ImageNetV2", _WHOLE, "gdown")

GAUSSIAN_NOISE = NoiseSet("gaussian-noise", "GaussianNoise")
UNIFORM_NOISE = NoiseSet("uniform-noise", "UniformNoise")


@dataclass(frozen=True)
class _Files:
    """Image files with labels."""

    files: Sequence[Path]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(self.files[index]) as image:
            return image.convert("RGB"), self.labels[index]


def folder(part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
    """Return every image below a folder, in the order of their paths.

    The part is a path, relative to the data folder or absolute (`folder//tmp/images`). The folders
    directly below it are the classes, numbered in the order of their names, empty ones too; images
    that are in none of them have label -1.

    Raises:
        MissingDataError: if there is no such folder.
        UsageError: if it, or a folder below it, may not be read, or no path is given.
    """
    if not part:
        raise UsageError("folder needs a path below the data folder, as in folder/my/images")
    root = Path(data_dir) / part
    try:
        if not root.is_dir():
            raise MissingDataError(f"folder/{part}: there is no folder {root}")
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        paths = sorted(_image_paths(root))
    except OSError as error:
        raise UsageError(f"folder/{part}: {root} cannot be read: {error}") from error
    number = {name: index for index, name in enumerate(n for n in names if n[0] != ".")}
    labels = [number[path[0]] if len(path) > 1 else -1 for path in paths]
    return _Files([root.joinpath(*path) for path in paths], labels)


def _image_paths(root: Path) -> Iterator[tuple[str, ...]]:
    """Yield the parts of each image's path below `root`; what starts with a dot is left out."""

    def fail(error: OSError) -> None:
        raise error

    for where, folders, files in os.walk(root, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        parents = Path(where).relative_to(root).parts
        for name in files:
            if Path(name).suffix.lower() in _EXTENSIONS and not name.startswith("."):
                yield (*parents, name)


_MOS = {"inaturalist": "iNaturalist", "sun": "SUN", "places": "Places"}


def mos(part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
    """Return one of the subsets that MOS made of iNaturalist, SUN and Places, 10,000 images each.

    Parts: `inaturalist`, `sun`, `places`, in folders `iNaturalist/images`, `SUN/images` and
    `Places/images`, as their archives unpack.

    Source:
        Huang and Li, CVPR 2021, arXiv:2105.01879; deeplearning-wisc/large_scale_ood, README.
    """
    name = _pick("mos", part, _MOS)
    try:
        return folder(f"{name}/images", data_dir, preprocessing)
    except MissingDataError as error:
        url = f"http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/{name}.tar.gz"
        raise MissingDataError(
            f"mos/{part} is not in {data_dir} ({name}/images). To get it: "
            f"curl -L {url} | tar xz -C {shlex.quote(str(data_dir))}"
        ) from error


class FurtherList(NamedTuple):
    """One of OpenOOD's sets that pytorch-ood's classes leave out."""

    file: str
    """Name of the image list."""
    folder: str
    """Of the images, below the folder that paths in the lists start from."""
    archive: str
    """Identifier of OpenOOD's archive of it in Google Drive: scripts/download/download.py."""


@dataclass(frozen=True)
class OpenOODSet:
    """OpenOOD v1.5's splits of one benchmark, by its image lists, through pytorch-ood.

    Images are in the data folder's `images_classic` or `images_largescale`, the lists in its
    `benchmark_imglist`, or where that is absent in pytorch-ood's cache. Parts: `train`,
    `validation`, `test`, `validation-ood`, the OOD sets by pytorch-ood's names, the
    covariate-shifted ID sets of OpenOOD's full-spectrum benchmark, and for CIFAR `auxiliary`: the
    outliers that OpenOOD trains with, TinyImageNet-597, whose classes are in no OOD test set.

    Source:
        openood/evaluation_api/datasets.py, `csid` (3c35632), for the covariate-shifted sets; the
        change log of v1.5 and scripts/download/download.py, `tin597` (2a9d492), for the outliers.
    """

    name: str
    kind: str
    """A class of `module`."""
    images: str
    """The folder that paths in the lists start from."""
    note: str = ""
    """What the download leaves out."""
    shifted: Mapping[str, FurtherList] = field(default_factory=dict)
    """Part -> covariate-shifted ID set, with its class labels."""
    auxiliary: FurtherList | None = None
    """Outliers to train with."""
    module: str = "pytorch_ood.benchmark"

    def __call__(self, part: str, data_dir: Path, preprocessing: Preprocessing) -> Pairs:
        """Return one part, if its list is here and every image on it is.

        Raises:
            MissingDataError: if not; says how many are missing, and how to get them.
            UsageError: if the benchmark has no such part.
        """
        parts = self._parts(part, data_dir)
        chosen = _pick(self.name, part.lower(), parts)
        lists = data_dir / "benchmark_imglist"
        if chosen is None:
            raise self._missing(part, data_dir, f"its image list is not in {lists}", lists)
        files = chosen.files
        if not files:
            raise self._missing(part, data_dir, "its image list names no image", lists)
        # Of 50,000 files, each a Path of its own takes half of the time.
        absent = [file for file in files if not os.path.exists(file)]  # noqa: PTH110
        if absent:
            reason = f"{len(absent)} of the {len(files)} images on its list are missing"
            if part.lower() in self._further():
                raise MissingDataError(
                    f"{self.name}/{part}: {reason}. To get it: {self.archive(part, data_dir)}"
                )
            top = Path(os.path.relpath(absent[0], data_dir / self.images)).parts[0]
            raise self._missing(part, data_dir, reason, data_dir / self.images / top)
        found: Pairs = chosen
        return found

    def _parts(self, part: str, data_dir: Path) -> dict[str, Any]:
        """Return every part; None in the place of further ones without a list, or not asked for."""
        images, lists = data_dir / self.images, data_dir / "benchmark_imglist"
        if not images.is_dir():
            raise self._missing(part, data_dir, f"there is no folder {images}", images)
        kind = getattr(importlib.import_module(self.module), self.kind)
        try:
            with _lists_of(data_dir) as known:
                benchmark = kind(str(images), transform=as_it_is, download=False)
                further = {
                    name: _listed(images, known / benchmark._subdir / its.file)
                    if name == part.lower()
                    else None
                    for name, its in self._further().items()
                }
        except RuntimeError as error:
            reason = f"its image lists are neither in {lists} nor in pytorch-ood's cache"
            raise self._missing(part, data_dir, reason, lists) from error
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.name}: an image list cannot be read: {error}") from error
        names = [name.lower() for name in benchmark.ood_names]
        return {
            "train": benchmark.train_in,
            "validation": benchmark.val_in,
            "test": benchmark.test_in,
            "validation-ood": benchmark.val_ood,
            **dict(zip(names, benchmark.test_oods, strict=True)),
            **further,
        }

    def _further(self) -> dict[str, FurtherList]:
        """Return the parts that pytorch-ood leaves out, in lower case."""
        known = {name.lower(): its for name, its in self.shifted.items()}
        return known if self.auxiliary is None else {**known, "auxiliary": self.auxiliary}

    def _missing(self, part: str, data_dir: Path, reason: str, obstacle: Path) -> MissingDataError:
        # pytorch-ood fetches nothing for a folder that exists, complete or not.
        first = f"move {obstacle} away, then run " if obstacle.exists() else ""
        archive = f" && {self.archive(part, data_dir)}" if part.lower() in self._further() else ""
        return MissingDataError(
            f"{self.name}/{part}: {reason}. To get it: {first}{self.command(data_dir)}{archive}"
            f"{self.note}"
        )

    def command(self, data_dir: Path) -> str:
        """Return the shell command that downloads the images and the lists."""
        arguments = {"transform": None, "download": True}
        folder = data_dir / self.images
        return command_to_make(self.module, self.kind, folder, arguments, "gdown")

    def archive(self, part: str, data_dir: Path) -> str:
        """Return the shell command that downloads the images which pytorch-ood leaves out."""
        its = self._further()[part.lower()]
        folder = data_dir / self.images / its.folder
        file = shlex.quote(str(folder.with_suffix(".zip")))
        return (
            f"pip install gdown && gdown {its.archive} -O {file} && "
            f"python -m zipfile -e {file} {shlex.quote(str(folder))}"
        )


def _listed(images: Path, file: Path) -> Any:
    """Return the images on one of OpenOOD's lists, or None where there is no such list."""
    if not file.is_file():
        return None
    kinds = importlib.import_module(_PYTORCH_OOD)
    return kinds.ImageListDataset(root=str(images), imglist_path=str(file))


def as_it_is(image: T) -> T:
    """Return the image: the transform that is given to libraries which want one."""
    return image


@contextlib.contextmanager
def _lists_of(data_dir: Path) -> Iterator[Path]:
    """Let pytorch-ood find the data folder's image lists, where there are any; yield their folder.

    It looks for them in `openood_benchmark_imglist` below torch.hub's folder and nowhere else.
    """
    import torch

    where = Path("openood_benchmark_imglist", "benchmark_imglist")
    if not (data_dir / "benchmark_imglist").is_dir():
        yield torch.hub.get_dir() / where
        return
    with _HUB_LOCK, tempfile.TemporaryDirectory() as hub:
        link = Path(hub) / "openood_benchmark_imglist"
        link.symlink_to(data_dir.resolve(), target_is_directory=True)
        before = torch.hub.get_dir()
        torch.hub.set_dir(hub)
        try:
            yield hub / where
        finally:
            torch.hub.set_dir(before)


_IMAGENET_NOTE = (
    ". It leaves out ImageNet-1K, which its owners give out at image-net.org: its images belong in "
    "images_largescale/imagenet_1k/train/<wnid>/ and images_largescale/imagenet_1k/val/."
)

_TIN597 = FurtherList("train_tin597.txt", "tin597", "1R0d8zBcUxWNXz6CPXanobniiIfQbpKzn")
_V2, _C = "1akg2IiE22HcbvTBpwXQoD7tgfPCdkoho", "1JeXL9YH4BO8gCJ631c5BHbaSsl-lekHt"
_R, _ES = "1EzjMN2gq-bVV7lg-MEAdeuBuz-7jbGYU", "1ATz11vKmPqyzfEaEDRaPTF9TXiC244sw"

OPENOOD_CIFAR10 = OpenOODSet(
    "openood-cifar10",
    "CIFAR10_OpenOOD",
    "images_classic",
    shifted={
        "CIFAR10C": FurtherList(
            "test_cifar10c.txt", "cifar10c", "170DU_ficWWmbh6O2wqELxK9jxRiGhlJH"
        )
    },
    auxiliary=_TIN597,
)
OPENOOD_CIFAR100 = OpenOODSet(
    "openood-cifar100", "CIFAR100_OpenOOD", "images_classic", auxiliary=_TIN597
)
OPENOOD_IMAGENET200 = OpenOODSet(
    "openood-imagenet200",
    "ImageNet200_OpenOOD",
    "images_largescale",
    _IMAGENET_NOTE,
    shifted={
        "ImageNetV2": FurtherList("test_imagenet200_v2.txt", "imagenet_v2", _V2),
        "ImageNetC": FurtherList("test_imagenet200_c.txt", "imagenet_c", _C),
        "ImageNetR": FurtherList("test_imagenet200_r.txt", "imagenet_r", _R),
    },
)
OPENOOD_IMAGENET1K = OpenOODSet(
    "openood-imagenet1k",
    "ImageNet_OpenOOD",
    "images_largescale",
    _IMAGENET_NOTE,
    shifted={
        "ImageNetV2": FurtherList("test_imagenet_v2.txt", "imagenet_v2", _V2),
        "ImageNetC": FurtherList("test_imagenet_c.txt", "imagenet_c", _C),
        "ImageNetR": FurtherList("test_imagenet_r.txt", "imagenet_r", _R),
        "ImageNetES": FurtherList("test_imagenet_es.txt", "imagenet_es", _ES),
    },
)
