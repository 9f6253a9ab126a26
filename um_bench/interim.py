"""A training in progress, kept on disk: one that is killed goes on where it was last kept."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from um_bench.backbones import hash_of
from um_bench.errors import UsageError
from um_bench.records import content_key
from um_bench.store import read_metadata, save_tensors

SECONDS = "UM_BENCH_KEEP_TRAINING"
"""Environment variable: seconds of training after which it is kept on disk, at an epoch's end;
otherwise 60."""
_STANDARD = 60.0
_MODEL, _MOMENTUM, _RANDOM = "model.", "momentum.", "random."
_METADATA = {"check": str, "tag": str, "losses": list, "seconds": int | float, "watched": dict}


def _nothing() -> dict[str, Any]:
    return {}


def _ignored(_: Mapping[str, Any]) -> None:
    return


def keep_every() -> float:
    """Return after how many seconds of training it is kept.

    Raises:
        UsageError: if the environment variable is no number of at least 0.
    """
    text = os.environ.get(SECONDS, "")
    try:
        seconds = float(text) if text else _STANDARD
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise UsageError(f"{SECONDS} is {text!r}; it must be a number of seconds, such as 60")
    return seconds


@dataclass
class Interim:
    """The file in which one training is kept while it runs.

    What is kept decides how the training goes on: weights, buffers, momentum, random state. On a
    CPU the model that comes out has the same bytes as if nothing had happened.
    """

    path: Path
    tag: str = ""
    """A file with another tag is left alone: who watches was not watching then, or saw other
    things."""
    watched: Callable[[], Mapping[str, Any]] = _nothing
    """Returns what who watches has seen so far, as JSON has it."""
    recall: Callable[[Mapping[str, Any]], None] = _ignored
    """Gives it back to who watches."""
    every: float = field(default_factory=keep_every)
    aside: float = 0.0
    """Seconds spent on anything but training."""
    _before: float = 0.0
    """Time that the training took in processes that are gone."""
    _start: float = field(default_factory=time.perf_counter)
    _kept: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Return how long the training has taken so far, whoever else took time."""
        return self._before + time.perf_counter() - self._start - self.aside

    def resume(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device: str | torch.device
    ) -> list[float] | None:
        """Bring a training to where it was last kept; return the losses of its epochs in nats.

        None, and everything as it was, where there is no file, or its content is not what was
        written: then the training starts from the beginning.
        """
        found = self._read()
        if found is None:
            return None
        tensors, metadata = found
        try:
            restore(model, optimizer, device, tensors)
        except (RuntimeError, KeyError):
            return None
        self._before = float(metadata["seconds"])
        self.recall(metadata["watched"])
        return [float(loss) for loss in metadata["losses"]]

    def keep(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: str | torch.device,
        losses: list[float],
    ) -> None:
        """Write down where the training stands, if that is due.

        Raises:
            StorageError: if it cannot be written.
        """
        now = time.perf_counter()
        if now - self._kept < self.every:
            return
        tensors = state_of(model, optimizer, device)
        metadata = {
            "tag": self.tag,
            "losses": losses,
            "seconds": self.seconds,
            "watched": dict(self.watched()),
        }
        metadata["check"] = _check(tensors, metadata)
        save_tensors(self.path, tensors, metadata)
        self._kept = time.perf_counter()

    def _read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        metadata = read_metadata(self.path, _METADATA)
        if metadata is None:
            return None
        try:
            tensors = safetensors.torch.load_file(self.path)
            whole = metadata.pop("check") == _check(tensors, metadata)
        except (OSError, SafetensorError, ValueError, TypeError, RecursionError):
            return None
        return (tensors, metadata) if whole and metadata["tag"] == self.tag else None


def state_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: str | torch.device
) -> dict[str, Tensor]:
    """Return what decides how a training goes on, copied to the CPU."""
    state = {f"{_MODEL}{name}": value for name, value in model.state_dict().items()}
    for place, weight in enumerate(_weights(optimizer)):
        buffer = optimizer.state[weight].get("momentum_buffer")
        if buffer is not None:
            state[f"{_MOMENTUM}{place}"] = buffer
    state[f"{_RANDOM}cpu"] = torch.get_rng_state()
    if torch.device(device).type == "cuda":
        state[f"{_RANDOM}cuda"] = torch.cuda.get_rng_state(device)
    # clones: tensors that share memory cannot be written
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: str | torch.device,
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what `state_of` returned.

    Raises:
        KeyError: if it is of another model; nothing is changed then.
    """
    own = model.state_dict()
    kept = {n.removeprefix(_MODEL): v for n, v in tensors.items() if n.startswith(_MODEL)}
    misfits = [n for n in own.keys() | kept.keys() if not _same_shape(own.get(n), kept.get(n))]
    momentum = {
        weight: tensors.get(f"{_MOMENTUM}{place}")
        for place, weight in enumerate(_weights(optimizer))
    }
    if misfits or any(v is not None and v.shape != w.shape for w, v in momentum.items()):
        raise KeyError(f"not of this model: {misfits}")
    model.load_state_dict(kept)
    for weight, buffer in momentum.items():
        if buffer is not None:
            optimizer.state[weight]["momentum_buffer"] = _like_gradients(buffer).to(weight.device)
    _set_random_state(tensors, device)


def _same_shape(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape


def _like_gradients(buffer: Tensor) -> Tensor:
    """Return momentum in the order of memory that it has in training."""
    return buffer.to(memory_format=torch.channels_last) if buffer.ndim == 4 else buffer


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _set_random_state(tensors: Mapping[str, Tensor], device: str | torch.device) -> None:
    torch.set_rng_state(tensors[f"{_RANDOM}cpu"])
    on_gpu = tensors.get(f"{_RANDOM}cuda")
    if on_gpu is not None and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(on_gpu, device)


def _check(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    return content_key(hash_of(tensors), metadata)
