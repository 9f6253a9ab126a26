"""What a device can do at most, measured, and what a piece of work asks of it.

The peak of arithmetic is the faster of a large matrix product and a large convolution, that of
bandwidth a large copy; each the best of several. FLOPs are counted by torch's FlopCounterMode.
Bytes are those that every operation must read and write once, as if no cache kept them from one
operation to the next and nothing were fused: a share above 1 says that caches or fusion help.

    python benchmarks/roofline.py [--device cpu] [--dtype float32]
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 7


class Peak(NamedTuple):
    """The most that was measured on a device, with as many threads as torch has."""

    flops: float
    """Floating-point operations a second; a multiply-add is two."""
    bandwidth: float
    """Bytes read and written a second."""


class Work(NamedTuple):
    """What a piece of work asks of a device."""

    flops: float
    """Of matrix products and convolutions; a multiply-add is two."""
    traffic: float
    """Bytes."""


class Share(NamedTuple):
    """Fractions of a device's peak that a piece of work reaches."""

    arithmetic: float
    bandwidth: float


def peak(device: str, dtype: torch.dtype, *, size: int | None = None) -> Peak:
    """Return the measured peak of a device.

    Args:
        device: as torch names it.
        dtype: of the operands.
        size: side of the matrices; None = one that takes long enough on such a device.
    """
    size = size or (8192 if torch.device(device).type == "cuda" else 1024)
    flops = max(_rate(device, *case) for case in _arithmetic(device, dtype, size))
    # Four times the last-level cache of a large server CPU.
    source = torch.zeros(max(size * size * 256, 2**20), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peak(flops, _rate(device, lambda: target.copy_(source), 2 * source.nbytes))


def count(work: Callable[[], Any]) -> Work:
    """Return what one call asks of a device; it is called once, slowly."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as counter, traffic:
        work()
    return Work(counter.get_total_flops(), traffic.bytes)


def share(work: Work, seconds: float, most: Peak) -> Share:
    """Return the fractions of the peak that work reaches which takes so many seconds."""
    return Share(work.flops / seconds / most.flops, work.traffic / seconds / most.bandwidth)


def best_seconds(work: Callable[[], Any], device: str, repeats: int = REPEATS) -> float:
    """Return the shortest time of several calls, after one that is not counted."""
    work()
    return min(timed(work, device) for _ in range(repeats))


def timed(work: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call, until the device has finished it.

    Of one thread of a CPU, its own time: whatever else the machine is at work on does not count.
    """
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    finish(device)
    start = clock()
    work()
    finish(device)
    return clock() - start


def finish(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _rate(device: str, work: Callable[[], Any], amount: float) -> float:
    return amount / best_seconds(work, device)


def _arithmetic(
    device: str, dtype: torch.dtype, size: int
) -> Iterator[tuple[Callable[[], Any], float]]:
    """Yield a matrix product and a convolution, each with its FLOPs."""
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    yield lambda: left @ right, 2.0 * size**3
    side, channels, count = 32, min(256, size), max(1, size // 32)
    images = torch.rand(count, channels, side, side, device=device).to(dtype)
    weight = torch.rand(channels, channels, 3, 3, device=device).to(dtype)
    images, weight = (t.to(memory_format=torch.channels_last) for t in (images, weight))
    flops = 2.0 * count * (side - 2) ** 2 * channels**2 * 9
    yield lambda: F.conv2d(images, weight), flops


class _Traffic(TorchDispatchMode):
    """Sums the bytes of what each operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            tensors = tree_leaves((args, kwargs, made))
            self.bytes += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return made


def main() -> None:
    """Print the peak of a device."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    given = parser.parse_args()
    found = peak(given.device, getattr(torch, given.dtype))
    print(
        f"{given.device}, {given.dtype}, {torch.get_num_threads()} threads: "
        f"{found.flops / 1e9:.0f} GFLOP/s, {found.bandwidth / 1e9:.1f} GB/s"
    )


if __name__ == "__main__":
    main()
