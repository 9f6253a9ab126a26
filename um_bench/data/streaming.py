"""Images decoded anew in each pass, by processes that work ahead, in the order they are asked for.

The processes are those of torch.utils.data.DataLoader. What they hold is bounded: each has at most
two chunks under way, and a chunk is at most `CHUNK_BYTES` of pixels.
"""

import contextlib
import math
import os
import pickle
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from um_bench.data.decoding import Decoder
from um_bench.errors import PluginError, UmBenchError, UsageError

T = TypeVar("T")

WORKERS = "UM_BENCH_WORKERS"
"""Environment variable: how many processes decode a set that is streamed; 0 = this one does.
Otherwise one for each CPU that this process may use, at most 16."""
MOST_WORKERS = 16

# Chunks under way are in shared memory, of which a container has 64 MiB by default.
CHUNK_BYTES = 2**20
_CHUNK_IMAGES = 64
"""At most: small images are handed over in time, too."""

# Elsewhere the platform's default. Where it can be done, `fork` needs no import of torch by each
# process (seconds, in every pass), no `if __name__ == "__main__"` in the user's script, and no
# source that pickles. The processes only decode: they touch neither CUDA nor torch's threads.
START_METHOD = "fork" if sys.platform == "linux" else None


class Chunk(NamedTuple):
    """Some images, as they come from a process."""

    images: Tensor
    """uint8 (B, 3, H, W)."""
    labels: list[int]


class _Chunks(Dataset[Chunk | UmBenchError]):
    """What a process does.

    An error is returned, not raised: DataLoader would put its own words before it.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def __getitem__(self, positions: Sequence[int]) -> Chunk | UmBenchError:
        try:
            return Chunk(*self.decoder.batch(positions))
        except UmBenchError as error:
            return error


def workers() -> int:
    """Return how many processes decode; see `WORKERS`.

    Raises:
        UsageError: if the environment variable is not such a number.
    """
    given = os.environ.get(WORKERS, "")
    if not given:
        return min(_usable_cpus(), MOST_WORKERS)
    if not given.isdecimal():
        raise UsageError(
            f"{WORKERS} is {given!r}; it must be a number of processes, 0 to decode in this one"
        )
    return int(given)


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chunks(
    decoder: Decoder, batches: Iterable[Tensor], *, pinned: bool = False
) -> Generator[Chunk, None, None]:
    """Yield images in the order of the batches, in pieces that do not cross from one to the next.

    When the iteration ends, however it does, no process is left.

    Args:
        decoder: of the images.
        batches: positions (B,) of images.
        pinned: hand out pinned memory, from which a GPU copies while others compute.

    Raises:
        MissingDataError: if an image's file is not there.
        UsageError: if an image cannot be read, or `UM_BENCH_WORKERS` is not a number.
        PluginError: if the source breaks its contract, or cannot be given to another process.
        UmBenchError: if a process died.
    """
    with naming_the_dead(decoder.reference):
        iterator = _started(decoder, [batch for batch in batches if len(batch)], pinned)
        try:
            for chunk in iterator:
                if isinstance(chunk, UmBenchError):
                    raise chunk
                yield chunk
        finally:
            # A traceback or a notebook may keep the iterator; its processes would live as long.
            getattr(iterator, "_shutdown_workers", lambda: None)()


def batches(
    decoder: Decoder, positions: Sequence[Tensor], device: str | torch.device
) -> Iterator[Tensor]:
    """Yield the images of each batch of positions (B,) on a device, uint8 (B, 3, H, W).

    They travel as bytes; where the device is a GPU, from pinned memory.

    Raises:
        UmBenchError: as `chunks`.
    """
    pinned = torch.device(device).type == "cuda"
    pieces = chunks(decoder, positions, pinned=pinned)
    with contextlib.closing(pieces), naming_the_dead(decoder.reference):
        for batch in positions:
            images = torch.empty((len(batch), *decoder.shape[1:]), dtype=torch.uint8, device=device)
            filled = 0
            while filled < len(batch):
                piece = next(pieces).images
                images[filled : filled + len(piece)].copy_(piece, non_blocking=pinned)
                filled += len(piece)
            yield images


def _started(decoder: Decoder, batches: Sequence[Tensor], pinned: bool) -> Iterator[Any]:
    """Return DataLoader's iterator over the chunks; its processes are at work."""
    size = max(1, min(_CHUNK_IMAGES, CHUNK_BYTES // math.prod(decoder.shape[1:])))
    processes = min(workers(), sum(-(-len(batch) // size) for batch in batches))
    with warnings.catch_warnings():
        # The number is the user's choice, or follows from the CPUs.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        # From Python 3.12 on, for torch's own threads; see START_METHOD.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        # Said again by the error below.
        warnings.filterwarnings("ignore", "Got pickle error")
        loader = DataLoader(
            _Chunks(decoder),
            batch_size=None,
            sampler=(piece.tolist() for batch in batches for piece in torch.split(batch, size)),
            num_workers=processes,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            multiprocessing_context=START_METHOD if processes else None,
            # It draws a seed for its processes: from torch's own generator, if it has none.
            generator=torch.Generator(),
        )
        try:
            return iter(loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PluginError(
                f"{decoder.reference} cannot be given to another process ({error}); with "
                f"{WORKERS}=0, this one decodes"
            ) from error


@contextlib.contextmanager
def naming_the_dead(reference: str) -> Iterator[None]:
    """Turn the death of a process into an error that says what to do.

    Python is told of it by a signal, and DataLoader raises its error wherever the program is: in
    what uses the chunks as well as in what waits for them. A chunk that cannot be fetched any more
    is an OSError or EOFError, and so is a process that could not be started.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if isinstance(error, RuntimeError) and "worker" not in str(error):
            raise
        raise UmBenchError(
            f"{reference}: the processes that decode images broke down ({type(error).__name__}: "
            f"{error}). Fewer of them take less memory: {WORKERS}=1, or {WORKERS}=0 to decode in "
            "this process"
        ) from error


def _as_it_is(chunk: T) -> T:
    return chunk
