"""Weights from files: safetensors, or torch files of which no pickled code is ever run."""

from __future__ import annotations

import codecs
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from um_bench.errors import UsageError

if TYPE_CHECKING:
    from um_bench.backbones import Classifier

_STATE_KEYS = ("state_dict", "model", "state_dict_ema")
"""Where training scripts keep the weights, in the order in which they are looked for."""
_COUNTER = "num_batches_tracked"
"""Of batch norm; files from before torch 0.4.1 lack it, and nothing here reads it."""
_SHOWN = 3


def load_checkpoint(model: Classifier, path: Path) -> None:
    """Load every weight of a classifier from a file, and leave it in eval mode.

    The file is safetensors, or a torch file that `torch.load(weights_only=True)` accepts, numpy
    scalars (of an optimizer) allowed. The weights are the whole file, or its `state_dict`, `model`
    or `state_dict_ema`. Their names are those of `model.net` or of `model`, with or without the
    `module.` of nn.DataParallel in front. Nothing is loaded unless all of it fits.

    Raises:
        UsageError: if the file is missing, damaged, or needs pickle; if names or shapes are not
            the model's; if it holds masks of UMAP.

    Source:
        Format of the files of UM's paper: net_utils.py:273-306 (1640ce6), which ignores what does
        not fit.
    """
    state = _without_prefix(_weights(_read(path), path), "module.")
    state = _without_prefix(_without_normalisation(state, model, path), "net.")
    target = model.net
    own = target.state_dict()
    _refuse_masks(state, own, path)
    missing = own.keys() - state.keys()
    if all(name.rpartition(".")[2] == _COUNTER for name in missing):
        state.update({name: torch.zeros_like(own[name]) for name in missing})
    _require_fit(state, own, path)
    target.load_state_dict(state, strict=True)
    model.eval()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(
            f"no checkpoint at {path}: {'it is a folder' if path.is_dir() else 'no such file'}"
        )
    try:
        return load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except pickle.UnpicklingError as error:
        raise UsageError(_why_refused(path, str(error))) from error
    # A damaged file makes its reader fail anywhere, with anything.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason}). It is "
            "damaged, or neither safetensors nor written by torch.save."
        ) from error


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "numpy" not in str(error):
            raise
    with _numpy_scalars_allowed():
        return torch.load(path, map_location="cpu", weights_only=True)


def _why_refused(path: Path, reason: str) -> str:
    wanted = re.search(r"GLOBAL (\S+)", reason)
    if wanted is None:
        return (
            f"{path} cannot be read as a checkpoint: it is damaged, or not written by torch.save."
        )
    return (
        f"{path} needs pickle: loading it would run {wanted[1]!r}, and um-bench runs no code from "
        "a checkpoint. If you trust the file, save its weights alone where it was made: "
        "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
    )


@contextmanager
def _numpy_scalars_allowed() -> Iterator[None]:
    """Let torch rebuild numbers that numpy wrote, and nothing else of numpy, within the block."""
    # torch knows a global by its own names, and numpy 1 and 2 write different ones.
    names = [_named(module) for module in ("numpy.core.multiarray", "numpy._core.multiarray")]
    # torch allows codecs.encode, in which numpy wraps a number's bytes, by itself from 2.5 on.
    dtypes = (type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd")
    ours = {*names, np.dtype, codecs.encode, *dtypes}
    before = list(torch.serialization.get_safe_globals())  # torch 2.4 hands out its own list
    torch.serialization.add_safe_globals(list(ours))
    try:
        yield
    finally:
        # torch.serialization.safe_globals does this, from torch 2.5 on.
        now = list(torch.serialization.get_safe_globals())
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([g for g in now if g in before or g not in ours])


def _named(module: str) -> Any:
    """Return a function that stands for `module.scalar` in a file."""

    def scalar(dtype: np.dtype[Any], data: bytes) -> Any:
        return np.frombuffer(data, dtype=dtype, count=1)[0]

    scalar.__module__ = module
    scalar.__qualname__ = "scalar"
    return scalar


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, whole or under a usual key."""
    found = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        nested = (content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping))
        state = dict(next(nested, content))
        if state and all(isinstance(value, Tensor) for value in state.values()):
            return state
        others = [f"{k} ({type(v).__name__})" for k, v in state.items() if not torch.is_tensor(v)]
        found = _first(others) if others else "nothing"
    raise UsageError(
        f"{path} holds no weights: expected tensors by name, alone or under one of "
        f"{', '.join(_STATE_KEYS)}; found {found}."
    )


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _without_normalisation(
    state: dict[str, Tensor], model: Classifier, path: Path
) -> dict[str, Tensor]:
    """Return the network's part of a whole classifier's state, where it is one.

    Raises:
        UsageError: if the file's classifier normalises otherwise than `model`.
    """
    if not any(name.startswith("net.") for name in state):
        return state
    for name in ("mean", "std"):
        given, own = state.pop(name, None), getattr(model, name)
        if given is not None and not torch.allclose(given.flatten(), own.flatten().cpu()):
            values = [round(value, 4) for value in given.flatten().tolist()]
            raise UsageError(
                f"{path} is a classifier that normalises with {name} {values}; give "
                f"preprocessing.{name} = {values} in the suite, which has "
                f"{[round(value, 4) for value in own.flatten().tolist()]}"
            )
    return state


def _refuse_masks(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    masks = [name for name in state if name.endswith(".scores") and name not in own]
    if masks:
        raise UsageError(
            f"{path} is a checkpoint of UMAP before its masks were applied: {len(masks)} tensors "
            f"({_first(masks)}) are scores that choose which weights are kept, and the file does "
            "not say how many. Give the dense checkpoint and the adapter umap, or a file that "
            "um-bench saved after umap, where the masks are in the weights."
        )


def _require_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise UsageError(
            f"{path} is a checkpoint of another shape than the backbone, which has {len(own)} "
            f"tensors: {'; '.join(problems)}. Check the backbone's name and options, and the "
            "number of classes."
        )


def _first(names: Iterable[Any]) -> str:
    given = [str(name) for name in names]
    more = f", and {len(given) - _SHOWN} more" if len(given) > _SHOWN else ""
    return ", ".join(given[:_SHOWN]) + more
