"""How a training step is computed: memory layout, precision, memory; never what it computes."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


@contextmanager
def laid_out(model: nn.Module, precision: str, device: str | torch.device) -> Iterator[None]:
    """Train a model within the block as fast as it goes; afterwards it is as it was.

    Weights are in `channels_last`, the order in which oneDNN and cuDNN compute. With `bfloat16`,
    a forward pass in training mode is under autocast: convolutions and matrix products take
    operands of that type. Weights, gradients, BatchNorm's running statistics and the logits, so
    every loss of them, stay float32, and so does whatever is computed in eval mode.

    Args:
        model: images (N, 3, H, W) -> logits (N, K).
        precision: as in `Recipe.precision`.
        device: where it is.
    """
    # Measured on one core of a CPU, float32, 32x32: 1.3 times as fast for ResNet-20, 1.5 for
    # DenseNet-BC-100. Gradients and the optimiser's state take the weights' order.
    model.to(memory_format=torch.channels_last)
    try:
        with ExitStack() as stack:
            if precision == "bfloat16":
                stack.enter_context(_autocast(model, torch.device(device).type))
            yield
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextmanager
def _autocast(model: nn.Module, device_type: str) -> Iterator[None]:
    """Put a model's forward passes in training mode under autocast to bfloat16."""
    passes: list[ExitStack] = []
    before = model.register_forward_pre_hook(partial(_enter, passes, device_type))
    # Always: an error inside must not leave autocast on.
    after = model.register_forward_hook(partial(_leave, passes), always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _enter(passes: list[ExitStack], device_type: str, model: nn.Module, _: Any) -> None:
    passes.append(ExitStack())
    if model.training:
        passes[-1].enter_context(torch.autocast(device_type, torch.bfloat16))


def _leave(passes: list[ExitStack], model: nn.Module, _: Any, logits: Tensor) -> Tensor:
    passes.pop().close()
    # None after an error.
    return logits.float() if isinstance(logits, Tensor) else logits


@contextmanager
def memory_kept(device: str | torch.device) -> Iterator[None]:
    """Let a CPU's steps use the memory of the steps before; give it back after the block.

    Otherwise glibc returns large blocks to the system as soon as they are freed and gets them
    anew, zeroed page by page: a fifth of a step of DenseNet-BC-100. Other C libraries are left
    alone.
    """
    libc = _glibc() if torch.device(device).type == "cpu" else None
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        # glibc's own values.
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_TRIM_THRESHOLD, 128 * 1024)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
