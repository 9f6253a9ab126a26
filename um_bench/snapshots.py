"""A plan's model as it would come out now: a plain copy, made in the middle of its training."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from um_bench.adapters import Plan
from um_bench.errors import PluginError, UnsupportedError


def plain_copy(plan: Plan) -> nn.Module:
    """Return what `plan.finish` makes of a copy of the model: plain, in eval mode, frozen.

    The model itself stays as it is, in training mode and with its gradients.

    Raises:
        UnsupportedError: if the model cannot be copied.
        PluginError: if `finish` does not keep to the copy that it is given.
    """
    before = _state(plan.model)
    finished = plan.finish(_copied(plan.model))
    if _state(plan.model) != before or _tensors(finished) & _tensors(plan.model):
        raise PluginError(
            f"the plan's finish ({_named(plan.finish)}) reaches the model that is being trained, "
            "not only the one that it is given. In the middle of training it is given a copy; "
            "without --track-every it is given the model itself, at the end."
        )
    left = hooks_of(finished)
    if left:
        raise PluginError(
            f"the plan's finish ({_named(plan.finish)}) leaves a hook on the copy that it is "
            f"given: {left[0]}"
        )
    return finished.eval().requires_grad_(False)


def hooks_of(model: nn.Module) -> list[str]:
    """Return the hooks on a model's modules, by module and kind."""
    return [
        f"{name}.{kind}"
        for name, module in model.named_modules()
        for kind, hooks in vars(module).items()
        if kind.endswith("_hooks") and hooks
    ]


def _copied(model: nn.Module) -> nn.Module:
    # What a forward pass left on a module has a graph, and torch copies none: without it, then.
    memo: dict[int, Any] = {
        id(value): value.detach()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a plugin keeps on its model
        raise UnsupportedError(
            f"the model cannot be copied in the middle of its training: {error}"
        ) from error
    for module in copied.modules():
        _take_own_class(module)
    return copied


def _take_own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    torch makes one for each such module, and its copy shares it. Taking the parametrization off
    the one deletes a property of that class, and the other has no weight any more.
    """
    if parametrize.is_parametrized(module):
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


def _state(model: nn.Module) -> list[Any]:
    """Return what changes if anything is done to a model: its parts, modes, hooks and tensors."""
    parts = [(name, id(part), type(part), part.training) for name, part in model.named_modules()]
    tensors = [
        (name, id(tensor), tensor.data_ptr(), tensor._version)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]
    return [parts, tensors, hooks_of(model)]


def _tensors(model: nn.Module) -> set[int]:
    """Return where the memory of a model's tensors is."""
    every = (*model.parameters(), *model.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in every if tensor.numel()}


def _named(finish: Any) -> str:
    return str(getattr(finish, "__qualname__", finish))
