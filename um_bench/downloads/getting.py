"""A set's archives -> its files in the data folder; either all of them are there, or it is not."""

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from um_bench.downloads.known import Archive
from um_bench.downloads.transfer import PART, OnBytes, download, md5_of
from um_bench.errors import DamagedError, StorageError
from um_bench.locks import held


def get(
    archives: Sequence[Archive],
    data_dir: Path,
    *,
    on_bytes: OnBytes = lambda here, size: None,
    tries: int = 5,
    pause: float = 1.0,
) -> None:
    """Download and unpack archives into the data folder; those that are whole are left alone.

    Raises:
        BusyError: if another process does the same.
        MissingDataError: if one cannot be had now.
        DamagedError: if one is not what it must be.
        StorageError: if the folder cannot be written to.
    """
    for archive in archives:
        target = data_dir / archive.path
        with held(target, wait=False):
            if target.is_file() and md5_of(target) == archive.md5:
                part = target
            else:
                part = download(
                    archive.addresses,
                    target,
                    archive.md5,
                    on_bytes=on_bytes,
                    tries=tries,
                    pause=pause,
                )
            _put_in_place(archive, part, target)


def _put_in_place(archive: Archive, part: Path, target: Path) -> None:
    """Unpack a verified file, then give it its name, by which the libraries take it for whole."""
    try:
        if archive.packing == "gz":
            _unpack_one(part, target.with_suffix(""))
        elif archive.packing:
            _unpack(archive.packing, part, target.parent)
        if part != target:
            part.replace(target)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DamagedError(f"{part}: cannot be unpacked ({error})") from error
    except OSError as error:
        raise StorageError(
            f"{target.parent}: {target.name} cannot be unpacked ({error.strerror or error}). The "
            "download is kept; run it again."
        ) from error


def _unpack_one(part: Path, target: Path) -> None:
    beside = target.with_name(target.name + PART)
    with gzip.open(part) as packed, beside.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    beside.replace(target)


def _unpack(packing: str, part: Path, folder: Path) -> None:
    # Below one name, so that what a killed process left is not kept for ever.
    new = folder / f".unpacking-{part.name}"
    shutil.rmtree(new, ignore_errors=True)
    try:
        if packing == "tar":
            with tarfile.open(part) as archive:
                archive.extractall(new, filter="data")
        else:
            with zipfile.ZipFile(part) as archive:
                archive.extractall(new)
        _merge(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _merge(new: Path, folder: Path) -> None:
    """Move what is in a folder to another; of what is there, only files of the same name go."""
    for entry in sorted(new.iterdir()):
        target = folder / entry.name
        if entry.is_dir() and target.is_dir():
            _merge(entry, target)
        else:
            entry.replace(target)
