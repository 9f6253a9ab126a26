"""A file of scores from a stranger -> arrays, with no more memory than its images need."""

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from um_bench.errors import DamagedError
from um_bench.scores import Scores
from um_bench.submission.archive import read_member

SIDES = ("id", "ood")
_HEADER = 4096
"""More than an array's header has."""
_DTYPE = np.dtype("<f4")


def scores_in(content: bytes, images: dict[str, int]) -> Scores:
    """Return the scores in the content of a file that `um_bench.scores.save_scores` wrote.

    Args:
        content: of the file.
        images: `id` and `ood` -> how many scores there must be.

    Raises:
        DamagedError: if it holds anything else; nothing is allocated for what it only claims.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise DamagedError(f"is no file of scores ({error})") from error
    infos = {info.filename: info for info in archive.infolist()}
    if len(archive.infolist()) != len(SIDES) or set(infos) != {f"{side}.npy" for side in SIDES}:
        raise DamagedError(f"holds {_listed(list(infos))}; scores are id.npy and ood.npy")
    found = {}
    for side in SIDES:
        most = images[side] * _DTYPE.itemsize + _HEADER
        inner = read_member(archive, infos[f"{side}.npy"], most)
        found[side] = _row(inner, side, images[side])
    return found


def _row(content: bytes, side: str, images: int) -> NDArray[np.float32]:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    # Its parser is Python's own, which a hostile header makes fail in many ways.
    except Exception as error:
        raise DamagedError(f"{side}.npy is no array ({type(error).__name__}: {error})") from error
    if dtype != _DTYPE or len(shape) != 1:
        raise DamagedError(f"{side}.npy is {dtype} of shape {_shown(shape)}, no row of float32")
    if shape[0] != images:
        raise DamagedError(f"{side}.npy has {shape[0]:,} scores; the record counts {images:,}")
    rest = content[stream.tell() :]
    if len(rest) != images * _DTYPE.itemsize:
        raise DamagedError(f"{side}.npy ends early, or goes on after its scores")
    row: NDArray[np.float32] = np.frombuffer(rest, dtype=_DTYPE)
    broken = int(np.count_nonzero(~np.isfinite(row)))
    if broken:
        raise DamagedError(f"{broken:,} of {images:,} {side} scores are not finite")
    return row


def _shown(shape: Any) -> str:
    return str(shape)[:40]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(names[:4]) or "nothing") + more
