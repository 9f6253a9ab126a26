"""Files of weights, written in one step and checked when read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from um_bench.backbones import weights_hash
from um_bench.records import write_atomically

Metadata = dict[str, Any]

_METADATA = {"weights": str, "seconds": int | float, "notes": dict, "losses": list, "opened": list}
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
