"""One file over HTTP: resumed, tried again, and counted as here only once its checksum is right."""

import errno
import hashlib
import http.client
import logging
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from um_bench.errors import DamagedError, MissingDataError, StorageError

PART = ".part"
"""What the name of an incomplete file ends with."""
OnBytes = Callable[[int, int | None], None]
"""Called with the bytes that are here, and with those that there will be, if the server tells."""

log = logging.getLogger("um_bench")

_CHUNK = 1 << 20
_SECONDS_OF_SILENCE = 30.0
_CUT = (ConnectionError, ssl.SSLError)
_ANSWERS_TO_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class _IncompleteError(Exception):
    """The connection ended before the file did."""


class _Whole(NamedTuple):
    """What a server's answer says of the file."""

    start: int
    """Where in the file it begins."""
    size: int | None


def download(
    addresses: Sequence[str],
    target: Path,
    md5: str,
    *,
    on_bytes: OnBytes = lambda here, size: None,
    tries: int = 5,
    pause: float = 1.0,
) -> Path:
    """Return an incomplete file's path that holds all of a file, its checksum verified.

    What is here of it is kept in `target` + `.part`, and the next call goes on there. It is for the
    caller to rename it, once what is in it is in its place: until then nobody takes it for whole.

    Args:
        addresses: of the same file; where one fails, the next is asked.
        target: where it will be.
        md5: of the whole file.
        on_bytes: told how far it is.
        tries: how often in a row an address may fail without another byte.
        pause: seconds before the second try; doubled each time.

    Raises:
        MissingDataError: if no address gives the file; what came is kept.
        DamagedError: if what came has another checksum; it is thrown away.
        StorageError: if it cannot be written.
    """
    part = target.with_name(target.name + PART)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists() and part.stat().st_size > 0
        _fill(addresses, part, on_bytes, tries, pause)
        if md5_of(part) == md5:
            return part
        part.unlink()
        if not resumed:
            raise DamagedError(
                f"{target.name}: what {addresses[0]} gives has another checksum than it must "
                "have; it is not kept. Try again later, or get the file elsewhere."
            )
        # The rest may be of a newer file than the beginning was.
        return download(addresses, target, md5, on_bytes=on_bytes, tries=tries, pause=pause)
    except OSError as error:
        raise _storage_error(part, error) from error


def md5_of(path: Path) -> str:
    """Return a file's MD5, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _storage_error(part: Path, error: OSError) -> StorageError:
    kept = " What has come is kept." if part.exists() else ""
    if error.errno == errno.ENOSPC:
        return StorageError(f"{part}: the disk is full.{kept} Make room, and run it again.")
    return StorageError(f"{part}: cannot be written ({error.strerror or error}).{kept}")


def _fill(
    addresses: Sequence[str], part: Path, on_bytes: OnBytes, tries: int, pause: float
) -> None:
    """Append to an incomplete file until it is as long as the server says."""
    reasons = []
    for address in addresses:
        failed, reason = 0, ""
        while failed < tries:
            before = part.stat().st_size if part.exists() else 0
            try:
                return _append(address, part, on_bytes)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}"
                if error.code not in _ANSWERS_TO_TRY_AGAIN:
                    break
            except (urllib.error.URLError, http.client.HTTPException, *_CUT) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except (TimeoutError, _IncompleteError) as error:
                reason = str(error)
            came = part.exists() and part.stat().st_size > before
            failed = 0 if came else failed + 1
            log.info("%s: %s", address, reason)
            if failed < tries:
                time.sleep(0 if came else pause * 2 ** (failed - 1))
        reasons.append(f"{address}: {reason}")
    here = part.stat().st_size if part.exists() else 0
    raise MissingDataError(
        f"{part.name.removesuffix(PART)} cannot be downloaded: {'; '.join(reasons)}. "
        f"{here:,} bytes of it are here, and kept; run it again to go on."
    )


def _append(address: str, part: Path, on_bytes: OnBytes) -> None:
    """Append what a server sends, from where the file ends, or from 0 where it cannot do that."""
    here = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "um-bench", "Accept-Encoding": "identity"}
    if here:
        headers["Range"] = f"bytes={here}-"
    request = urllib.request.Request(address, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS_OF_SILENCE)
    except urllib.error.HTTPError as error:
        if here and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it is here, or more: its checksum says which
        raise
    with answer:
        whole = _whole(answer, here)
        _require_room(part, whole)
        with part.open("r+b" if whole.start else "wb") as file:
            file.seek(whole.start)
            for chunk in _chunks(answer):
                file.write(chunk)
                on_bytes(file.tell(), whole.size)
            came = file.tell()
    if whole.size is not None and came < whole.size:
        raise _IncompleteError(f"the connection ended after {came:,} of {whole.size:,} bytes")


def _chunks(answer: Any) -> Iterator[bytes]:
    while chunk := answer.read1(_CHUNK):
        yield chunk


def _whole(answer: Any, asked: int) -> _Whole:
    """Return where an answer begins, and how long the file is."""
    length = answer.headers.get("Content-Length")
    size = int(length) if length and length.isdigit() else None
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        return _Whole(0, size)
    start, _, total = answer.headers.get("Content-Range", "").partition("-")
    if start.removeprefix("bytes ").strip() != str(asked):
        raise _IncompleteError(f"the server sent another part than that from {asked:,} on")
    total = total.rpartition("/")[2]
    return _Whole(asked, int(total) if total.isdigit() else None)


def _require_room(part: Path, whole: _Whole) -> None:
    free = shutil.disk_usage(part.parent).free
    if whole.size is not None and whole.size - whole.start > free:
        raise StorageError(
            f"{part}: {whole.size - whole.start:,} bytes are to come, and the disk has room for "
            f"{free:,}. Make room, or take another --data-dir."
        )
