"""Files of per-image outlier scores, higher = more OOD: written in one step, checked when read."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from um_bench.errors import UsageError
from um_bench.records import check_of, write_atomically

Scores: TypeAlias = dict[str, NDArray[np.float32]]
"""`id` and `ood` -> (N,): outlier scores, in the order of the set's images."""


def save_scores(path: Path, scores: Mapping[str, ArrayLike]) -> str:
    """Write outlier scores (N,) by set, compressed, as float32; return `check_of` the file.

    Raises:
        StorageError: if it cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        name: np.asarray(values, dtype=np.float32) for name, values in sorted(scores.items())
    }
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
    return check_of(buffer.getvalue())


def is_whole(path: Path, check: str) -> bool:
    """Return whether a file is there, with the content of which `check_of` returned this."""
    try:
        return check_of(path.read_bytes()) == check
    except OSError:
        return False


def load_scores(path: Path) -> Scores:
    """Return what `save_scores` wrote.

    Raises:
        UsageError: if the file is missing, damaged, or holds something else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    # A damaged file makes its reader fail anywhere: zlib.error, NotImplementedError, MemoryError.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: no readable file of scores ({reason})") from error
    for name, values in found.items():
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim != 1:
            raise UsageError(f"{path}: no readable file of scores ({name} is no row of float32)")
    return found
