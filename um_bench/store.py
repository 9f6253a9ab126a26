"""Files of weights and of per-image scores, written in one step and checked when read."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from um_bench.backbones import weights_hash
from um_bench.errors import UsageError
from um_bench.records import check_of, write_atomically

Metadata = dict[str, Any]

_METADATA = {"weights": str, "seconds": int | float, "notes": dict, "losses": list}
"""What is read of it."""


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a model's state and JSON metadata as safetensors.

    Raises:
        StorageError: if it cannot be written.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    header = {"um_bench": json.dumps({**metadata, "weights": weights_hash(model)}, sort_keys=True)}
    write_atomically(path, safetensors.torch.save(state, metadata=header))


def load_weights(path: Path, model: nn.Module) -> Metadata | None:
    """Load what `save_weights` wrote into `model`; return the metadata.

    None, and the model as it was, where there is no file or its content is not what was written:
    then the caller makes the weights again.
    """
    metadata = read_metadata(path)
    if metadata is None:
        return None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, ValueError, RuntimeError):
        model.load_state_dict(before)
        return None
    if weights_hash(model) != metadata["weights"]:
        model.load_state_dict(before)
        return None
    return metadata


def read_metadata(path: Path) -> Metadata | None:
    """Return a weights file's metadata without reading the weights.

    None where there is none, or where it is not as `um_bench.models` writes it.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            metadata: Metadata = json.loads((stream.metadata() or {})["um_bench"])
        fits = all(isinstance(metadata[name], kind) for name, kind in _METADATA.items())
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError):
        return None
    return metadata if fits else None


def save_scores(path: Path, scores: Mapping[str, Tensor]) -> str:
    """Write outlier scores (N,) by set, compressed, as float32; return `check_of` the file.

    Raises:
        StorageError: if it cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        name: values.to(torch.float32).numpy() for name, values in sorted(scores.items())
    }
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
    return check_of(buffer.getvalue())


def is_whole(path: Path, check: str) -> bool:
    """Return whether a file is there, with the content of which `check_of` returned this."""
    try:
        return check_of(path.read_bytes()) == check
    except OSError:
        return False


def load_scores(path: Path) -> dict[str, Tensor]:
    """Return outlier scores (N,) float32 by set.

    Raises:
        UsageError: if the file is missing, damaged, or holds something else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    # A damaged file makes its reader fail anywhere: zlib.error, NotImplementedError, MemoryError.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: no readable file of scores ({reason})") from error
    for name, values in found.items():
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim != 1:
            raise UsageError(f"{path}: no readable file of scores ({name} is no row of float32)")
    return {name: torch.from_numpy(values) for name, values in found.items()}
