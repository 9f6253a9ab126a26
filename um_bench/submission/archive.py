"""The files of a submission, from an archive or a folder of strangers. Nothing is ever unpacked.

Files are read one by one into memory, each up to the size that it may have. What has no place in a
submission, or a name that could mean another place, is a finding and is not read.
"""

import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from um_bench.errors import DamagedError, UsageError
from um_bench.submission.findings import Finding

MANIFEST = "manifest.json"
SUITE = "suite.json"
MOST_FILES = 300_000
MOST_BYTES = 256 * 2**20
"""Of one file. A file of scores has 4 bytes an image; a job's records some KiB a cell."""
MOST_TIMES = 100
"""How many times as large as the archive its files may be. Records shrink to a twentieth."""

_NAME = r"(?!\.)[A-Za-z0-9._@=+-]+"
_LAYOUT = re.compile(
    rf"{re.escape(MANIFEST)}|{re.escape(SUITE)}|records/{_NAME}\.jsonl|scores/{_NAME}/{_NAME}\.npz"
)
"""What `um_bench.records.slug` makes, where a run puts it."""
_FOLDERS = re.compile(rf"records/|scores/({_NAME}/)?")
"""Packed anew by hand, an archive has entries for these."""
_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1


class Files(Protocol):
    """The files of one submission, those that may be read."""

    sizes: dict[str, int]
    """Name, with slashes -> bytes, in order of name."""
    findings: list[Finding]
    """What else is there."""

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            DamagedError: if it cannot be read.
        """


def is_of_submission(name: str) -> bool:
    """Return whether a file of this name, with slashes, has a place in a submission."""
    return _LAYOUT.fullmatch(name) is not None


def records_in(files: Files) -> list[str]:
    """Return the names of the files of records, in order."""
    return [name for name in files.sizes if name.startswith("records/")]


def scores_in(files: Files) -> list[str]:
    """Return the names of the files of scores, in order."""
    return [name for name in files.sizes if name.startswith("scores/")]


class FolderFiles:
    """A suite's results folder. What else is in it (pages, pictures) is no submission's business.

    Args:
        folder: with `records` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.findings: list[Finding] = []
        found = {}
        for path in sorted(_walk(folder)):
            name = path.relative_to(folder).as_posix()
            problem = _link(path) if is_of_submission(name) else _odd(name)
            if problem:
                self.findings.append(Finding("files", name, problem))
            elif is_of_submission(name):
                found[name] = path.stat().st_size
        self.sizes = dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        """Return a file's content; see `Files`."""
        try:
            with (self.folder / name).open("rb") as stream:
                return _bounded(stream, name)
        except OSError as error:
            raise DamagedError(f"cannot be read ({error.strerror or error})") from error


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what lies where a submission's files do. A link to a folder is not followed."""
    yield from (folder / name for name in (SUITE,) if os.path.lexists(folder / name))
    for part in ("records", "scores"):
        if (folder / part).is_symlink():
            yield folder / part
            continue
        for parent, folders, files in os.walk(folder / part):
            links = [name for name in folders if (Path(parent) / name).is_symlink()]
            yield from (Path(parent) / name for name in (*files, *links))


def _link(path: Path) -> str:
    if path.is_symlink():
        return "is a link: its content may be anything on the machine that checks it"
    return "" if path.is_file() else "is no file"


def _odd(name: str) -> str:
    # A run's own: what was set aside, what another process holds, what was not finished.
    last = name.rpartition("/")[2]
    if last.startswith(".") or last.endswith((".damaged", ".lock")):
        return ""
    return "has no place among records and scores"


class ZipFiles:
    """An archive that `um-bench submit` wrote, or that claims to be one.

    Raises:
        UsageError: if it is no zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.findings: list[Finding] = []
        self._infos: dict[str, zipfile.ZipInfo] = {}
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise UsageError(
                f"{path}: no zip archive that can be read ({error}). Make one with um-bench submit"
            ) from error
        infos = self._archive.infolist()
        self._refuse_bombs(infos, path.stat().st_size)
        for info in infos if not self.findings else ():
            problem = self._problem(info)
            if problem:
                self.findings.append(Finding("files", info.orig_filename, problem))
            elif not info.is_dir():
                self._infos[info.filename] = info
        self.sizes = {name: self._infos[name].file_size for name in sorted(self._infos)}

    def _refuse_bombs(self, infos: list[zipfile.ZipInfo], size: int) -> None:
        if len(infos) > MOST_FILES:
            self._refuse(f"holds {len(infos):,} files; a submission may have {MOST_FILES:,}")
        total = sum(info.file_size for info in infos)
        if total > MOST_TIMES * size:
            self._refuse(
                f"would unpack to {total:,} bytes, {total // max(size, 1):,} times its own size; a "
                f"submission may have {MOST_TIMES} times"
            )

    def _refuse(self, text: str) -> None:
        self.findings.append(Finding("files", "", text))

    def _problem(self, info: zipfile.ZipInfo) -> str:
        """Return why a member is not read; empty where it may be."""
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "is a link or a device, not a file"
        # The name as it stands in the archive: Python cuts it at a zero byte.
        name = info.orig_filename
        if _FOLDERS.fullmatch(name) and not info.file_size:
            return ""
        if not is_of_submission(name):
            return "has no place in a submission, or a name that is not safe"
        if name in self._infos:
            return "is there twice"
        if info.compress_type not in _STORED or info.flag_bits & _ENCRYPTED:
            return "is encrypted, or compressed by a method that is not read here"
        if info.file_size > MOST_BYTES:
            return f"has {info.file_size:,} bytes; {MOST_BYTES:,} is the most"
        return ""

    def read(self, name: str) -> bytes:
        """Return a member's content; see `Files`."""
        return read_member(self._archive, self._infos[name], MOST_BYTES)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """Return a member's content, of which there may be `most` bytes.

    Raises:
        DamagedError: if it is larger, or not what its checksum says.
    """
    try:
        with archive.open(info) as stream:
            return _bounded(stream, info.filename, most)
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        raise DamagedError(f"cannot be read ({error})") from error


def _bounded(stream: IO[bytes], name: str, most: int = MOST_BYTES) -> bytes:
    content = stream.read(most + 1)
    if len(content) > most:
        raise DamagedError(f"{name} has more than {most:,} bytes")
    return content


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, as `sha256sum` prints it.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
