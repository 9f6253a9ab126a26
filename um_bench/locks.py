"""What one process does at a time: several on one results folder share the work."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from um_bench.errors import BusyError, StorageError

_FOLDER = ".locks"

log = logging.getLogger("um_bench")


@contextlib.contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes from what a file is written by, until the end of the `with` block.

    The operating system lets go of it when a process ends, however it ends. The same process may
    hold it twice.

    Args:
        path: of the file; the lock is beside it, in a folder of its own.
        wait: whether to wait for a process that has it.

    Raises:
        BusyError: if another process has it, and it is not to be waited for.
        StorageError: if the folder cannot be written to, or its file system has no locks.
    """
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise BusyError(f"another process is at work on {path.name}") from None
        log.warning("waiting for another process that is at work on %s", path.name)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise StorageError(f"{lock.lock_file}: cannot be locked ({error})") from error
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    folder = path.parent / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror or error})") from error
    # One for each file: a run whose generator was left half-way is in nobody's way.
    return FileLock(folder / f"{path.name}.lock", is_singleton=True, thread_local=False)
