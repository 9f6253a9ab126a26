"""A stand-in for a second device: what goes wrong on a GPU is found where there is none.

Code that makes a tensor without saying where (`torch.zeros(3)`) gets it on the default device, and
joins it to a model's outputs, which are on the model's. On a CPU both are the same. Here they are
not: what is made so is on `meta`, a device of torch that holds no numbers.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from um_bench.errors import PluginError

_MAKERS = frozenset(
    getattr(torch, name)
    for name in (
        *("tensor", "zeros", "ones", "full", "empty", "eye", "arange", "linspace"),
        *("rand", "randn", "randint"),
    )
)
_MOVERS = frozenset((Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.numpy, Tensor.tolist))
_MIXED = re.compile("expected device|same device")


class _DefaultElsewhere(TorchFunctionMode):
    """Whatever is made without a device is on `meta` until it is moved or read.

    Single numbers are left alone: torch takes them from the CPU on any device.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MOVERS and hasattr(args[0], "_before"):
            return func(args[0]._before, *args[1:], **kwargs)
        made = func(*args, **kwargs)
        if func in _MAKERS and kwargs.get("device") is None and made.ndim:
            away = made.to("meta")
            away._before = made
            return away
        return made


@contextmanager
def default_elsewhere(what: str) -> Iterator[None]:
    """Give the default device's place to another one within the block.

    It finds tensors that are made without a device and then used with the model's. It cannot find
    tensors that are sent to the CPU by name, nor state that was left there.

    Raises:
        PluginError: if such a tensor meets one of the model's; `what` is named.
    """
    try:
        with _DefaultElsewhere():
            yield
    except RuntimeError as error:
        if _MIXED.search(str(error)) is None:
            raise
        raise PluginError(_broken(what)) from error


def apart(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs with another default device, and may not return its tensors."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with default_elsewhere(what):
            result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_meta:
            raise PluginError(_broken(what))
        return result

    return run


def _broken(what: str) -> str:
    return (
        f"contract broken: {what} makes tensors where its inputs are, not on the default device "
        "(give device=..., or take new_zeros and the like)"
    )
