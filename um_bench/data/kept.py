"""Decoded images, kept on the disk: a set is decoded once, and read back while its files stay.

One safetensors file a set, mapped into memory, in the folder that `UM_BENCH_CACHE` names. Any of
them may be deleted at any time.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from um_bench import registry
from um_bench.data import leakage
from um_bench.data.decoding import Decoder
from um_bench.data.fingerprints import fingerprint, sampled, state_of
from um_bench.errors import StorageError
from um_bench.locks import held

CACHE = "UM_BENCH_CACHE"
"""Environment variable: the folder of decoded images, a byte a pixel and channel (150 MB for
CIFAR-10's training set), to be deleted at any time; 0 = none are kept. Otherwise `um-bench/images`
in the user's cache (`XDG_CACHE_HOME`, `~/.cache`)."""

log = logging.getLogger("um_bench")


class Pixels(NamedTuple):
    """All images of a set."""

    images: Tensor
    """uint8 (N, 3, H, W). Where they come from a file, what is written to them stays in memory."""
    fingerprint: str


def pixels_of(
    decoder: Decoder,
    labels: Tensor,
    data_dir: Path,
    opened: Collection[str],
    decode: Callable[[], Tensor],
) -> Pixels:
    """Return a set's images, and what `fingerprint` returns for them and the labels.

    They are decoded, and kept, unless they are kept already. What is kept is believed as long as
    `state_of` the set's files is the same, which goes by their sizes and times: a file that was
    changed with its size and its time of change put back is noticed, by the time at which its
    entry changed, which nobody can set. All of what is read back is hashed, and sixteen images are
    decoded and compared; what does not match is made anew. A set of which nobody tells the files
    is not kept.

    Args:
        decoder: of the images.
        labels: (N,), as in the set.
        data_dir: the data folder; nothing is written there.
        opened: real paths that were opened so far to read the set, and will be until it is
            decoded. They are taken down by `leakage` where the images are read back.
        decode: returns the images.

    Raises:
        UmBenchError: as `decode`.
    """
    folder = _folder()
    files = _files(decoder, data_dir, opened)
    # The real path: what is taken down for `leakage` would not be there in a folder that moved.
    facts = (os.path.realpath(data_dir), labels.numpy(), _chosen(decoder))
    state = state_of(decoder, files, data_dir, *facts) if folder and files else None
    if folder is None or state is None:
        images = decode()
        return Pixels(images, fingerprint(images, labels))
    path = folder / f"{state.key}.safetensors"
    stamp = _stamp(path)
    found = _read(path, decoder, labels)
    if found is not None:
        return found
    with _alone(path):
        if _stamp(path) != stamp and (found := _read(path, decoder, labels)):
            return found
        before = len(opened)
        images = decode()
        made = Pixels(images, fingerprint(images, labels))
        # What opens further files to decode, and names none, may read what changes unseen.
        told = decoder.files is not None or len(opened) == before
        # Not where a file changed meanwhile: nobody knows which of its contents was decoded.
        if told and state.settled and state_of(decoder, files, data_dir, *facts) == state:
            _write(path, made, opened)
        return made


def _stamp(path: Path) -> int | None:
    """Return when a file was written; None where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time decode a set: several that are started at once need it once."""
    with contextlib.ExitStack() as stack:
        # No locks there: each decodes it. Where there are, their file is not one of the set's.
        with contextlib.suppress(StorageError), leakage.paused():
            stack.enter_context(held(path, wait=True))
        yield


def _folder() -> Path | None:
    given = os.environ.get(CACHE, "")
    if given:
        return None if given == "0" else Path(given)
    with contextlib.suppress(RuntimeError):  # no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "um-bench/images"
    return None


def _files(decoder: Decoder, data_dir: Path, opened: Collection[str]) -> Sequence[Any]:
    """Return the files that decide a set's pixels; none where that is not known."""
    if decoder.files is not None:
        return decoder.files
    # A source of others may read what Python does not see.
    family = registry.plugins("dataset").get(decoder.reference.partition("/")[0])
    if family is None or family.distribution != "um-bench":
        return ()
    folder = f"{os.path.realpath(data_dir)}{os.sep}"
    return sorted(path for path in opened if path.startswith(folder))


def _chosen(decoder: Decoder) -> Any:
    return np.arange(len(decoder)) if decoder.chosen is None else decoder.chosen


def _read(path: Path, decoder: Decoder, labels: Tensor) -> Pixels | None:
    """Return what is kept in a file; None where it is not there, or not what it should be."""
    try:
        with safe_open(path, framework="pt") as stream:
            promised = (stream.metadata() or {}).get("fingerprint")
            images, opened = stream.get_tensor("images"), stream.get_tensor("opened")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, RuntimeError) as error:
        log.warning("%s is damaged (%s); %s is decoded anew", path, error, decoder.reference)
        return None
    fits = images.dtype == torch.uint8 and images.shape == decoder.shape
    found = Pixels(images, fingerprint(images, labels) if fits else "")
    if found.fingerprint != promised or not torch.equal(*sampled(decoder, images)):
        log.warning("%s is not what was written; %s is decoded anew", path, decoder.reference)
        return None
    names = opened.numpy().tobytes().decode(errors="surrogateescape").split("\0")
    leakage.read((*names, os.path.realpath(path)))
    return found


def _write(path: Path, made: Pixels, opened: Collection[str]) -> None:
    """Keep images; where that cannot be done, say so, and go on."""
    names = "\0".join(sorted(opened)).encode(errors="surrogateescape")
    tensors = {
        "images": made.images,
        "opened": torch.from_numpy(np.frombuffer(names, dtype=np.uint8).copy()),
    }
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, temporary, {"fingerprint": made.fingerprint})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        log.warning(
            "decoded images cannot be kept in %s (%s), and are decoded again in the next run. Make "
            "room there, or let %s name another folder, or be 0 to keep none.",
            path.parent,
            error,
            CACHE,
        )
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
