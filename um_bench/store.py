"""Files of weights and of per-image scores, written in one step and checked when read."""

import io
import json
import zipfile
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
from um_bench.records import write_atomically

Metadata = dict[str, Any]


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
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as stream:
            metadata: Metadata = json.loads((stream.metadata() or {})["um_bench"])
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        model.load_state_dict(before)
        return None
    if weights_hash(model) != metadata.get("weights"):
        model.load_state_dict(before)
        return None
    return metadata


def read_metadata(path: Path) -> Metadata | None:
    """Return a weights file's metadata without reading the weights; None where there is none."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata: Metadata = json.loads((stream.metadata() or {})["um_bench"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return metadata


def save_scores(path: Path, scores: Mapping[str, Tensor]) -> None:
    """Write outlier scores (N,) by set, compressed, as float32.

    Raises:
        StorageError: if it cannot be written.
    """
    buffer = io.BytesIO()
    arrays = {name: values.to(torch.float32).numpy() for name, values in sorted(scores.items())}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def load_scores(path: Path) -> dict[str, Tensor]:
    """Return outlier scores (N,) float32 by set.

    Raises:
        UsageError: if the file is missing or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: no readable file of scores ({error})") from error
