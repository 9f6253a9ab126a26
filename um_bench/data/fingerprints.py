"""What a set is, by content: a hash of pixels and labels, remembered where it costs a pass."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import features
from torch import Tensor

from um_bench import registry
from um_bench.data.decoding import Decoder
from um_bench.data.streaming import chunks, naming_the_dead
from um_bench.errors import StorageError
from um_bench.records import write_atomically

_FORMAT = 1
_SAMPLE = 16
"""Images that are decoded again before a remembered fingerprint is believed."""
SETTLED = 2.0
"""Seconds: a file that was written so shortly ago may change again without a change of its times,
which are no finer than this on some file systems."""


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """Return the SHA-256, in hex, of the images' shape, their pixels and the labels.

    It covers the text `(N, 3, H, W)`, then the pixels in row-major order, then the labels as
    little-endian 64-bit integers.
    """
    return _hash(tuple(images.shape), [images], labels)


def _hash(shape: tuple[int, ...], parts: Iterable[Tensor], labels: Tensor) -> str:
    digest = hashlib.sha256(str(shape).encode())
    for images in parts:
        digest.update(np.ascontiguousarray(images.numpy()).data)
    digest.update(np.ascontiguousarray(labels.numpy(), dtype="<i8").data)
    return digest.hexdigest()


def streamed_fingerprint(decoder: Decoder, labels: Tensor, data_dir: Path) -> str:
    """Return `fingerprint` of images that are decoded for it, one pass over all of them.

    Where each image has a file, the result is kept in `.um-bench` in the data folder, or, where
    that cannot be written, in the user's cache (`XDG_CACHE_HOME`, `~/.cache`). It is believed as
    long as these are the same: the name of the set and the version of its source; of each file
    the path (relative to the data folder), the size, and the times at which its content and its
    entry last changed; the labels; the preprocessing; the versions of what decodes. Sixteen
    images are decoded to see that they are as they were. So it rests on file systems that tell
    when a file changed, and on sources that read images from their files and nowhere else.

    Args:
        decoder: of the images.
        labels: (N,), as in the set.
        data_dir: the data folder.

    Raises:
        UmBenchError: as `streaming.chunks`.
    """
    state = state_of(decoder, decoder.files, data_dir, labels.numpy())
    if state is not None:
        kept = _kept(state.key, data_dir)
        if kept is not None and kept.sample == _sample(decoder):
            return kept.fingerprint
    with naming_the_dead(decoder.reference):
        parts = (chunk.images for chunk in chunks(decoder, [torch.arange(len(decoder))]))
        found = _hash(decoder.shape, parts, labels)
    # Not where a file changed meanwhile: nobody knows which of its contents was decoded.
    if state is None or not state.settled:
        return found
    if state_of(decoder, decoder.files, data_dir, labels.numpy()) == state:
        _keep(state.key, _Kept(found, _sample(decoder)), data_dir)
    return found


class State(NamedTuple):
    """What a set's files are like, without reading them."""

    key: str
    """Hash of all that decides the pixels, as far as it can be told."""
    settled: bool
    """Whether the last change is so long ago that a further one will show."""


def state_of(
    decoder: Decoder, files: Sequence[Any] | None, data_dir: Path, *facts: NDArray[np.int64] | str
) -> State | None:
    """Return what the content of files is known by; None where there is nothing to go by.

    Args:
        decoder: of the images.
        files: what they are decoded from.
        data_dir: the data folder.
        facts: what else decides what is kept.
    """
    start = time.time_ns()
    if files is None:
        return None
    digest = hashlib.sha256(f"{_made_by(decoder)}\n".encode())
    folder, newest = f"{data_dir}{os.sep}", 0
    try:
        for file in files:
            found = os.stat(file)  # noqa: PTH116  (in 50,000 files, Path is half of the time)
            newest = max(newest, found.st_ctime_ns)
            path = os.fspath(file).removeprefix(folder)
            told = f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n"
            digest.update(told.encode(errors="surrogateescape"))
    except (OSError, TypeError):
        return None
    for fact in facts:
        if isinstance(fact, str):
            digest.update(fact.encode(errors="surrogateescape"))
        else:
            digest.update(np.ascontiguousarray(fact, dtype="<i8").data)
    return State(digest.hexdigest(), settled=newest < start - SETTLED * 1e9)


def _made_by(decoder: Decoder) -> list[object]:
    """Return what decides an image's pixels besides its file, as far as it can be named."""
    family = registry.plugins("dataset").get(decoder.reference.partition("/")[0])
    source = (family.value, family.distribution, family.version) if family else ()
    libraries = (PIL.__version__, features.version("libjpeg_turbo"))
    machine = (platform.system(), platform.machine())
    return [_FORMAT, decoder.reference, source, decoder.preprocessing, libraries, machine]


def _sample(decoder: Decoder) -> str:
    """Return the hash of a few images from all over a set."""
    images, labels = decoder.batch(_positions(decoder))
    return fingerprint(images, torch.tensor(labels))


def sampled(decoder: Decoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return a few images from all over a set, decoded now, and the same of those given."""
    positions = _positions(decoder)
    return decoder.batch(positions)[0], images[positions]


def _positions(decoder: Decoder) -> list[int]:
    return sorted(set(np.linspace(0, len(decoder) - 1, _SAMPLE).astype(int).tolist()))


@dataclass(frozen=True)
class _Kept:
    """What is remembered of a set."""

    fingerprint: str
    sample: str
    """Hash of a few of its images."""


def _kept(key: str, data_dir: Path) -> _Kept | None:
    """Return what was kept; None where nothing was, or not as a whole."""
    for folder in _folders(data_dir):
        with contextlib.suppress(OSError, ValueError, TypeError):
            *values, check = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
            kept = _Kept(*values)
            if check == _check(key, kept):
                return kept
    return None


def _keep(key: str, kept: _Kept, data_dir: Path) -> None:
    content = json.dumps([kept.fingerprint, kept.sample, _check(key, kept)])
    for folder in _folders(data_dir):
        with contextlib.suppress(StorageError):
            write_atomically(folder / f"{key}.json", content.encode())
            return


def _check(key: str, kept: _Kept) -> str:
    return hashlib.sha256(f"{key} {kept}".encode()).hexdigest()


def _folders(data_dir: Path) -> Iterator[Path]:
    """Yield where fingerprints are kept, the best place first."""
    if data_dir.is_dir():
        yield data_dir / ".um-bench" / "fingerprints"
    with contextlib.suppress(RuntimeError):
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        yield Path(cache) / "um-bench" / "fingerprints"
