"""Masks over convolution and linear weights: what a network keeps, and how it learns to."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from um_bench.errors import UnsupportedError, UsageError, unknown_name

MASKED_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def check_keep(keep: float) -> None:
    """Refuse a share of kept weights that is none.

    Raises:
        UsageError: if it is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise UsageError(f"keep is the share of weights kept, in (0, 1], got {keep}")


def top_share(values: Tensor, keep: float) -> Tensor:
    """Return 0 for the int((1 - keep) * n) smallest of n values and 1 for the rest.

    The count is the authors' to the letter, float error included: of 315 values at keep 0.8, 62
    are dropped, not 63. Among equal values any may be dropped.

    Args:
        values: any shape and memory format.
        keep: share kept in (0, 1].

    Source:
        utils/conv_type.py:13-29 (1640ce6), a full sort there, whose in-place write fails silently
        for tensors that are not contiguous.
    """
    dropped = int((1 - keep) * values.numel())
    mask = torch.ones(values.numel(), dtype=values.dtype, device=values.device)
    if dropped:
        smallest = values.flatten().topk(dropped, largest=False, sorted=False).indices
        mask.index_fill_(0, smallest, 0)
    return mask.view(values.shape)


class _Masked(torch.autograd.Function):
    """A weight times a mask; going back, the gradient as if the mask were |ranked|.

    One node of the graph for each layer, where `weight * mask(ranked.abs())` is four.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ranked: Tensor, mask: Tensor) -> Tensor:
        """Return weight * mask."""
        ctx.save_for_backward(weight, ranked, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients for the weight and for what is ranked."""
        weight, ranked, mask = ctx.saved_tensors
        for_weight, for_ranked, _ = ctx.needs_input_grad
        return (
            gradients[0] * mask if for_weight else None,
            gradients[0] * weight * ranked.sign() if for_ranked else None,
            None,
        )


class JointRanking:
    """One mask over the values of several layers, made once for each state they are in."""

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.values: list[Tensor] = []
        self._state: list[tuple[int, int]] = []
        self._masks: list[Tensor] = []

    def add(self, values: Tensor) -> int:
        """Return the place of one more layer's values."""
        self.values.append(values)
        return len(self.values) - 1

    def mask(self, place: int) -> Tensor:
        """Return the part of the mask that belongs to the layer at a place."""
        state = [(v.data_ptr(), v._version) for v in self.values]
        if state != self._state:
            joint = top_share(
                torch.cat([v.detach().abs().flatten() for v in self.values]), self.keep
            )
            parts = torch.split(joint, [v.numel() for v in self.values])
            self._masks = [m.view(v.shape) for m, v in zip(parts, self.values, strict=True)]
            self._state = state
        return self._masks[place]


class LearnedMask(nn.Module):
    """Parametrization `weight -> weight * mask`; the gradient reaches what the mask ranks.

    Source:
        utils/conv_type.py:31-49, utils/linear_type.py:14-33 (1640ce6): the scores start as
        U(-1/sqrt(fan_in), 1/sqrt(fan_in)), whatever the weights are.
    """

    def __init__(
        self, weight: Tensor, *, keep: float, subject: str, joint: JointRanking | None = None
    ) -> None:
        super().__init__()
        self.keep = keep
        self.joint = joint
        self.scores: nn.Parameter | None = None
        if subject == "scores":
            self.scores = nn.Parameter(torch.empty_like(weight))
            nn.init.kaiming_uniform_(self.scores, a=math.sqrt(5))
        if joint is not None:
            self.place = joint.add(weight if self.scores is None else self.scores)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight, of the weight's shape."""
        ranked = weight if self.scores is None else self.scores
        if self.joint is None:
            mask = top_share(ranked.detach().abs(), self.keep)
        else:
            mask = self.joint.mask(self.place)
        masked: Tensor = _Masked.apply(weight, ranked, mask)
        return masked


def maskable(model: nn.Module) -> Iterator[nn.Module]:
    """Yield every convolution and linear layer of a model, the first and the last included."""
    return (module for module in model.modules() if isinstance(module, MASKED_LAYERS))


def mask_weights(
    model: nn.Module, keep: float, *, subject: str = "scores", scope: str = "layer"
) -> None:
    """Put a mask on the weight of every convolution and linear layer; biases have none.

    Args:
        model: changed in place; its weights stay below the masks until `bake` or `unmask`.
        keep: share of weights kept, in (0, 1].
        subject: what is ranked by magnitude: `scores`, drawn from torch's random state and
            trainable, or the weights' own `magnitude`.
        scope: `layer`: each layer keeps this share; `model`: all layers together do.

    Raises:
        UsageError: if an argument is out of range.
        UnsupportedError: if the model has no such layer.
    """
    check_keep(keep)
    _check_choice("subject", subject, ("scores", "magnitude"))
    _check_choice("scope", scope, ("layer", "model"))
    layers = list(maskable(model))
    if not layers:
        raise UnsupportedError("the backbone has no convolution or linear layer to mask")
    joint = JointRanking(keep) if scope == "model" else None
    for layer in layers:
        mask = LearnedMask(_weight(layer), keep=keep, subject=subject, joint=joint)
        parametrize.register_parametrization(layer, "weight", mask)


def bake(model: nn.Module) -> nn.Module:
    """Multiply the masks into the weights for good; return the plain model."""
    return _remove_masks(model, baked=True)


def unmask(model: nn.Module) -> nn.Module:
    """Take the masks off: the weights are what they were below them.

    That alone does not bring the original classifier back: BatchNorm's running statistics have
    followed the masked activations. Load the buffers of before as well.
    """
    return _remove_masks(model, baked=False)


def _remove_masks(model: nn.Module, *, baked: bool) -> nn.Module:
    for layer in list(maskable(model)):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=baked)
    return model


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _check_choice(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise unknown_name(name, given, known)
