"""Files of weights, written in one step and checked when read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

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
    save_tensors(path, state, {**metadata, "weights": weights_hash(model)})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata as safetensors; `read_metadata` reads the latter.

    Raises:
        StorageError: if it cannot be written.
    """
    header = {"um_bench": json.dumps(metadata, sort_keys=True)}
    write_atomically(path, safetensors.torch.save(dict(tensors), metadata=header))


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


def read_metadata(path: Path, kinds: Mapping[str, Any] = _METADATA) -> Metadata | None:
    """Return a file's metadata without reading its tensors.

    None where there is none, or where it is not as it was written.

    Args:
        path: of a file that `save_tensors` wrote.
        kinds: name -> type of what is read of it; of the weights of a model, if not given.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            metadata: Metadata = json.loads((stream.metadata() or {})["um_bench"])
        fits = all(isinstance(metadata[name], kind) for name, kind in kinds.items())
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError):
        return None
    return metadata if fits else None
