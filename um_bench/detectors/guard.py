"""What a detector may not do to a classifier, and errors that name the one that broke."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from um_bench.detectors.spec import DetectorError
from um_bench.errors import UmBenchError
from um_bench.outputs import require_eval

if TYPE_CHECKING:
    from um_bench.backbones import Classifier


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next(model.parameters()).device


@contextmanager
def reported(
    doing: str, kinds: Mapping[type[Exception], type[UmBenchError]] | None = None
) -> Iterator[None]:
    """Turn whatever a detector raises into one line that names it; the original is chained."""
    try:
        yield
    except UmBenchError as error:
        raise type(error)(f"{doing}: {error}") from error
    except Exception as error:
        kind = (kinds or {}).get(type(error), DetectorError)
        raise kind(f"{doing}: {type(error).__name__}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if not text:  # a bare assert: its source line says what it wants
        text = traceback.extract_tb(error.__traceback__)[-1].line or "no message"
    return text.splitlines()[0]


@contextmanager
def guarded(model: Classifier, label: str) -> Iterator[None]:
    """Give the classifier and torch's random state back as they were; changed weights are an error.

    Random numbers are drawn from a fixed seed, so that scores do not depend on what ran before.

    Raises:
        UmBenchError: if the classifier is in training mode.
        DetectorError: if a weight or buffer was changed.
    """
    require_eval(model)
    device = device_of(model)
    tensors, before = _tensors(model), _state(model)
    gradients = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    changed = True
    try:
        with _seeded(device):
            yield
    finally:
        model.eval().to(device)
        for parameter, gradient, required in gradients:
            parameter.grad = gradient
            parameter.requires_grad_(required)
        changed = not _equal(before, _state(model))
        if changed:
            _restore(tensors, before)
    if changed:
        whole = _equal(before, _state(model))
        outcome = "were restored" if whole else "cannot be restored: no later score can be trusted"
        raise DetectorError(
            f"{label} changed the classifier's weights or BatchNorm statistics; they {outcome}"
        )


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpu):
        torch.default_generator.manual_seed(0)
        for one in gpu:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(0)
        yield


def _tensors(model: nn.Module) -> list[Tensor]:
    # not the state dict: buffers that are not saved, such as the normalisation, count too
    return [value.detach() for value in (*model.parameters(), *model.buffers())]


def _state(model: nn.Module) -> Tensor:
    """Return a copy of all weights and buffers as bytes: one comparison, and NaN equals itself."""
    return torch.cat([value.reshape(-1).view(torch.uint8) for value in _tensors(model)])


def _equal(before: Tensor, now: Tensor) -> bool:
    """Return whether states are the same; eight bytes at a time, in a seventh of the time."""
    if len(before) != len(now):
        return False
    words = len(now) // 8 * 8
    same = torch.equal(before[:words].view(torch.int64), now[:words].view(torch.int64))
    return same and torch.equal(before[words:], now[words:])


def _restore(tensors: list[Tensor], state: Tensor) -> None:
    for value, part in zip(tensors, torch.split(state, [t.nbytes for t in tensors]), strict=True):
        # a fresh copy is aligned for the wider type
        value.copy_(part.clone().view(value.dtype).reshape(value.shape))
