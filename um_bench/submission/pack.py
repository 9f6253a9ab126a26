"""A suite's results folder -> one archive: records, suite.json, scores, a manifest of hashes."""

import contextlib
import hashlib
import json
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from um_bench.errors import StorageError, UsageError
from um_bench.records import SCHEMA
from um_bench.submission.archive import MANIFEST, FolderFiles, sha256_of_file
from um_bench.submission.findings import Report
from um_bench.submission.verify import FORMAT, check

_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that a zip archive knows: the same content is the same bytes, whenever it is packed."""
_MODE = 0o100644 << 16
_UNIX = 3


@dataclass(frozen=True, kw_only=True)
class Packed:
    """An archive that was written."""

    path: Path
    bytes: int
    sha256: str
    files: int
    scores_bytes: int
    """How much of it are scores."""
    partial: tuple[str, ...]
    """What is missing; empty = nothing."""


def pack(folder: Path, out: Path, *, partial: bool = False) -> Packed | Report:
    """Write the archive, or return the report that says why not.

    It is held to what `verify` holds an archive to, so that nobody hands in what is sent back.
    Packed twice, it is the same bytes.

    Args:
        folder: a suite's results folder.
        out: the archive, `.zip`. What is there is replaced.
        partial: pack it although cells are missing, failed or stale; the manifest says so. What
            is damaged or of another schema is never packed.

    Raises:
        UsageError: if there are no results in the folder, or `out` is called otherwise.
        StorageError: if it cannot be written.
    """
    if out.suffix != ".zip":
        raise UsageError(f"--out {out}: a submission is a zip archive; give FILE.zip")
    if not (folder / "records").is_dir():
        raise UsageError(
            f"{folder}: no records in it. Name the suite with --suite, and with --results the "
            "folder that it was run into."
        )
    files = FolderFiles(folder)
    report = check(folder, files, finished=True)
    missing = tuple(finding.text for finding in report.findings if finding.check == "complete")
    refused = [one for one in report.problems if one.check != "complete" or not partial]
    if refused:
        return report
    used = _used(files, report)
    _write(out, files, used, _manifest(files, used, report, missing if partial else ()))
    return Packed(
        path=out,
        bytes=out.stat().st_size,
        sha256=sha256_of_file(out),
        files=len(used) + 1,
        scores_bytes=sum(files.sizes[name] for name in used if name.startswith("scores/")),
        partial=missing if partial else (),
    )


def _used(files: FolderFiles, report: Report) -> list[str]:
    """Return what is packed: not the scores of cells that are no more."""
    unused = {one.place for one in report.findings if one.check == "scores"}
    return [name for name in files.sizes if name not in unused]


def _manifest(
    files: FolderFiles, used: list[str], report: Report, missing: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "um-bench": version("um-bench"),
        "suite": report.suite,
        "cells": dict(sorted(report.states.items())),
        "partial": bool(missing),
        "missing": list(missing),
        "files": {
            name: {
                "bytes": files.sizes[name],
                "sha256": hashlib.sha256(files.read(name)).hexdigest(),
            }
            for name in used
        },
    }


def _write(out: Path, files: FolderFiles, used: list[str], manifest: Mapping[str, Any]) -> None:
    temporary = out.parent / f".{uuid.uuid4().hex}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "x") as archive:
            _add(archive, MANIFEST, f"{json.dumps(manifest, indent=1)}\n".encode())
            for name in used:
                _add(archive, name, files.read(name))
        temporary.replace(out)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{out}: cannot be written ({error.strerror or error})") from error


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr, entry.create_system = _MODE, _UNIX
    # Not compressed: scores are already, and zlib's versions do not make the same bytes.
    archive.writestr(entry, content, compress_type=zipfile.ZIP_STORED)
