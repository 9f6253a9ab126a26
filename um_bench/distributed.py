"""Several processes that train one model together: who they are, and what they tell each other.

Each forwards its part of every batch. The logits of all parts are put together before any loss sees
them, so that a loss is of the global batch, whatever it does with it: UM's absolute value is taken
of the global mean. Gradients go back the same way, and are then averaged over the processes.
"""

import datetime
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_WAITING = datetime.timedelta(days=30)
"""While the first process scores, the others wait; the launcher ends them if it dies."""
_LETTING_GO = 0.3
"""Seconds."""


@dataclass(frozen=True)
class Team:
    """The processes that train together, as one of them sees them."""

    rank: int = 0
    """Of this process. The first, 0, drives: it alone scores, and writes what is kept."""
    size: int = 1

    def share(self, count: int) -> slice:
        """Return which of `count` things in a row are this process's; it may be none."""
        return slice(*self._bounds(count)[self.rank])

    def counts(self, count: int) -> list[int]:
        """Return how many of `count` things are each process's."""
        return [stop - start for start, stop in self._bounds(count)]

    def _bounds(self, count: int) -> list[tuple[int, int]]:
        return [(count * r // self.size, count * (r + 1) // self.size) for r in range(self.size)]


ALONE = Team()
_joined = ALONE


def launched() -> bool:
    """Return whether a launcher such as torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> Team:
    """Return the team of this process, which meets the others here; alone where none was launched.

    On a machine with GPUs, each process gets the one that bears its local rank.
    """
    global _joined
    if not launched():
        return ALONE
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_WAITING
    )
    _joined = Team(dist.get_rank(), dist.get_world_size())
    return _joined


def team() -> Team:
    """Return the team that this process has joined by `join`; alone before, and after `leave`."""
    return _joined


def leave() -> None:
    """Leave the team; the first process sends the others home by it, when all is done."""
    global _joined
    if _joined.size == 1:
        return
    if _joined.rank == 0:
        tell(None)
    # Seen with torch 2.4: a thread of gloo needs Python's lock to let go of the last message, and
    # taking the group down waits for that thread without giving the lock away.
    time.sleep(_LETTING_GO)
    dist.destroy_process_group()
    _joined = ALONE


def tell(value: Any) -> None:
    """Send a value from the first process to all others, which wait for it in `told`."""
    # Pickled, which is safe: both ends are processes of one run, and no file is read.
    dist.broadcast_object_list([value], src=0)


def told() -> Any:
    """Return what the first process tells."""
    values = [None]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def forward(team: Team, model: nn.Module, images: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the logits (N, K) of a global batch, of which each process forwards its share.

    The one place where the processes' parts become one batch. BatchNorm normalises by the
    statistics of all of it in training, and `F.dropout` draws as one process would. Other layers
    that draw (stochastic depth) draw for each share alone.

    Args:
        team: the processes; each calls this with the same sizes.
        model: images -> logits.
        images: this process's: its share of the first part, then of the second, ...
        sizes: images in each part of the global batch; they sum up to N.
    """
    if team.size == 1:
        logits: Tensor = model(images)
        return logits
    with _AsOne(team, sizes):
        own = model(images)
    parts = torch.split(own, [team.counts(size)[team.rank] for size in sizes])
    return torch.cat([_gathered(part, team, size) for part, size in zip(parts, sizes, strict=True)])


def average(team: Team, tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes; they have the same shapes in each."""
    if team.size == 1 or not tensors:
        return
    # One message. Not DistributedDataParallel: masks, frozen weights, and an exposure that goes
    # back several times are outside what it allows.
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat.div_(team.size), [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def _gathered(own: Tensor, team: Team, count: int) -> Tensor:
    rows: Tensor = _Gather.apply(own, team, count)
    return rows


class _Gather(torch.autograd.Function):
    """The shares of all processes (n, ...), in their order -> (count, ...).

    Going back, each share gets the sum of what every process has for it.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, team: Team, count: int) -> Tensor:
        """Return the rows of all."""
        ctx.share = team.share(count)
        counts = team.counts(count)
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the own share."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.share], None, None


class _AsOne(TorchFunctionMode):
    """Layers that look across a batch, or draw for it, see the global one in this `with` block."""

    def __init__(self, team: Team, sizes: Sequence[int]) -> None:
        super().__init__()
        self.team = team
        every = torch.split(torch.arange(sum(sizes)), list(sizes))
        self.rows = torch.cat([part[team.share(len(part))] for part in every])
        self.total = sum(sizes)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, or what stands for it here."""
        other = {F.batch_norm: self._batch_norm, F.dropout: self._dropout}.get(func, func)
        return other(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        images: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(images, mean, var, weight, bias, False, momentum, eps)
        normal, *now = _Normalise.apply(images, self.team, eps)
        if mean is not None and var is not None:
            for running, value in zip((mean, var), now, strict=True):
                running.lerp_(value.to(running.dtype), momentum)
        shape = (1, -1) + (1,) * (images.ndim - 2)
        normal = normal if weight is None else normal * weight.view(shape)
        normal = normal if bias is None else normal + bias.view(shape)
        found: Tensor = normal.to(images.dtype)
        return found

    def _dropout(
        self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or len(values) != len(self.rows):
            return F.dropout(values, p, training, inplace)
        ones = values.new_ones(self.total, *values.shape[1:])
        if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)  # they are drawn in its order
        return values * F.dropout(ones, p)[self.rows.to(values.device)]


class _Normalise(torch.autograd.Function):
    """Images (n, C, ...) -> the same with mean 0 and variance 1 over all processes, by channel.

    Returned beside them are mean and unbiased variance (C,), for the running statistics. It is
    `nn.SyncBatchNorm`, which is for CUDA alone, and would have to be put into a model and taken
    out of it again.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, team: Team, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised images, mean and variance."""
        values = _precise(images)
        dims = [0, *range(2, images.ndim)]
        count = values.numel() // values.shape[1]
        mean = values.sum(dims) / max(count, 1)
        spread = (values - _wide(mean, values)).square_().sum(dims)
        own = torch.cat([mean, spread, mean.new_tensor([count])])
        rows = [torch.empty_like(own) for _ in range(team.size)]
        dist.all_gather(rows, own)
        means, spreads, counts = torch.split(torch.stack(rows), [len(mean), len(mean), 1], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        spread = (spreads + counts * (means - mean).square()).sum(0)
        scale = (spread / total + eps).rsqrt()
        ctx.save_for_backward(images, mean, scale, total)
        variance = spread / (total - 1)
        ctx.mark_non_differentiable(mean, variance)
        return (values - _wide(mean, values)) * _wide(scale, values), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the images."""
        images, mean, scale, total = ctx.saved_tensors
        gradient, dims = gradients[0], [0, *range(2, images.ndim)]
        normal = (_precise(images) - _wide(mean, images)) * _wide(scale, images)
        sums = torch.stack([gradient.sum(dims), (gradient * normal).sum(dims)])
        dist.all_reduce(sums)
        plain, along = (_wide(part, images) for part in sums / total)
        own = (gradient - plain - normal * along) * _wide(scale, images)
        return own.to(images.dtype), None, None


def _precise(images: Tensor) -> Tensor:
    """Return images in float32, whatever half precision they come in."""
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Return values (C,) in a shape that goes with images (n, C, ...)."""
    return values.view(1, -1, *(1,) * (like.ndim - 2))
