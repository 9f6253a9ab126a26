"""What can be downloaded: addresses and checksums, from the libraries that read the sets."""

import importlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from um_bench import registry
from um_bench.data.sources import LibrarySet
from um_bench.errors import unknown_name

_MD5 = ("tgz_md5", "md5hash", "tgz_md5s", "md5")
"""What the libraries' classes call the checksum of their one file."""
_ELSEWHERE = {"tinyimages300k": ("pytorch_ood.dataset.img", "TinyImages300k")}
"""Families that are read without the class that knows their address."""
COUNTS = {
    "cifar10/train": 50_000,
    "cifar10/test": 10_000,
    "cifar100/train": 50_000,
    "cifar100/test": 10_000,
    "mnist/train": 60_000,
    "mnist/test": 10_000,
    "fashionmnist/train": 60_000,
    "fashionmnist/test": 10_000,
    "svhn/test": 26_032,
    "textures": 5_640,
    "lsun-crop": 10_000,
    "mos/inaturalist": 10_000,
    "mos/sun": 10_000,
    "mos/places": 10_000,
    "tinyimages300k": 300_000,
    "imagenet64/train": 1_281_167,
    "imagenet64/val": 50_000,
}
"""Set -> how many images its makers say that it has."""


class Archive(NamedTuple):
    """One file to download."""

    addresses: tuple[str, ...]
    """The same file at each; the first that answers is taken."""
    path: PurePosixPath
    """Where it belongs below the data folder; it is unpacked beside itself."""
    md5: str
    """Of the whole file, in hexadecimal."""

    @property
    def packing(self) -> str:
        """How it is packed: `tar`, `zip`, `gz`, or "" for a file that is used as it is."""
        suffixes = self.path.suffixes
        if ".tar" in suffixes or ".tgz" in suffixes:
            return "tar"
        return suffixes[-1][1:] if suffixes and suffixes[-1] in (".zip", ".gz") else ""


class Checksum(NamedTuple):
    """One file that is read, and what it must be."""

    path: PurePosixPath
    md5: str


def archives_of(reference: str) -> tuple[Archive, ...]:
    """Return what has to be downloaded for a set; nothing where address or checksum is unknown.

    Args:
        reference: a family, or one of its parts: `cifar10`, `cifar10/test`.

    Raises:
        UsageError: if there is no such family or part.
    """
    kind = _library_class(reference)
    if kind is None:
        return ()
    if hasattr(kind, "resources"):
        folder = PurePosixPath(kind.__name__, "raw")
        return tuple(
            Archive(tuple(f"{mirror}{name}" for mirror in kind.mirrors), folder / name, md5)
            for name, md5 in kind.resources
        )
    if hasattr(kind, "split_list"):
        part = reference.partition("/")[2]
        splits = {part: kind.split_list[part]} if part else kind.split_list
        return tuple(Archive((url,), PurePosixPath(n), md5) for url, n, md5 in splits.values())
    md5 = next(filter(None, (getattr(kind, name, None) for name in _MD5)), None)
    address, name = getattr(kind, "url", None), getattr(kind, "filename", None)
    if not all(isinstance(value, str) and value for value in (address, name, md5)):
        return ()
    return (Archive((str(address),), PurePosixPath(str(name)), str(md5)),)


def licence_of(reference: str) -> str | None:
    """Return a set's licence, where pytorch-ood tells it."""
    info = getattr(_library_class(reference), "info", None)
    return getattr(info, "license", None)


def checksums_of(reference: str) -> tuple[Checksum, ...]:
    """Return the checksums of the files that are read, where the library has them: CIFAR's."""
    kind = _library_class(reference)
    return () if kind is None else tuple(_members(kind))


def _members(kind: Any) -> Iterator[Checksum]:
    for name, md5 in (*getattr(kind, "train_list", ()), *getattr(kind, "test_list", ())):
        yield Checksum(PurePosixPath(kind.base_folder, name), md5)


def _library_class(reference: str) -> Any:
    """Return the class of torchvision or pytorch-ood that reads a set, if it is one of theirs."""
    family, _, part = reference.partition("/")
    registry.find("dataset", family)
    if family in _ELSEWHERE:
        module, name = _ELSEWHERE[family]
        return getattr(importlib.import_module(module), name)
    source = registry.load("dataset", family)
    if not isinstance(source, LibrarySet):
        return None
    if part and part not in source.parts:
        raise unknown_name(f"part of {family}", part, source.parts)
    return getattr(importlib.import_module(source.module), source.kind)
