"""Adapters: training-time methods that change a trained classifier; `none`, `finetune`, and "+"."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from um_bench import registry
from um_bench.data import Loader
from um_bench.errors import PluginError, UsageError
from um_bench.suite import Choice, adapter_label, build

__all__ = ["Adapter", "Composition", "Finetune", "Loader", "Loss", "NoAdapter", "Plan", "create"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, K), labels (N,) -> scalar."""


def unchanged(model: nn.Module) -> nn.Module:
    """Return the model as it is."""
    return model


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an adapter wants done: the training loop does it, the same for every adapter."""

    model: nn.Module
    """Trained where `requires_grad`."""
    id_loss: Loss | None = None
    """Logits (N, K), labels (N,) -> scalar. None trains nothing, or plain cross-entropy where
    there is an outlier loss."""
    outlier_loss: Loss | None = None
    """Logits (N+M, K), labels (N+M,), < 0 = auxiliary outlier -> scalar, added to `id_loss`."""
    finish: Callable[[nn.Module], nn.Module] = unchanged
    """Returns a plain classifier: no mask, no hook, no parametrization is left on it."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """What was estimated, e.g. the constraint; goes into every record."""


class Adapter(ABC):
    """A training-time method. Subclass it as a frozen dataclass: its fields are hyperparameters.

    An instance has no state. It is told nothing about OOD test data.
    """

    @abstractmethod
    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Return how to change `model`, which is the adapter's own copy.

        Args:
            model: images (N, 3, H, W) in [0, 1] -> logits (N, K), trained, in eval mode.
            train: the ID training set as the recipe feeds it (batches, augmentation).
        """


@dataclass(frozen=True, kw_only=True)
class NoAdapter(Adapter):
    """The classifier as it is."""

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train nothing."""
        return Plan(model=model)


@dataclass(frozen=True, kw_only=True)
class Finetune(Adapter):
    """Plain cross-entropy by the recipe: the control that separates a method from more epochs."""

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter."""
        return Plan(model=model, id_loss=F.cross_entropy)


@dataclass(frozen=True, kw_only=True)
class Composition(Adapter):
    """Several adapters as one, as in `oe+um`: prepared left to right, finished right to left."""

    parts: tuple[tuple[str, Adapter], ...]
    """Name and adapter."""

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Join the parts' plans.

        Raises:
            UsageError: if two parts set the same loss; both are named.
        """
        plans: dict[str, Plan] = {}
        for name, part in self.parts:
            plans[name] = part.prepare(model, train)
            model = plans[name].model
        return Plan(
            model=model,
            id_loss=_only("id_loss", plans),
            outlier_loss=_only("outlier_loss", plans),
            finish=partial(_finish_all, [plan.finish for plan in reversed(plans.values())]),
            notes={f"{n}.{k}": v for n, plan in plans.items() for k, v in plan.notes.items()},
        )


def _only(slot: str, plans: Mapping[str, Plan]) -> Loss | None:
    """Return the loss of the one plan that sets a slot."""
    owners = [name for name, plan in plans.items() if getattr(plan, slot) is not None]
    if len(owners) > 1:
        raise UsageError(
            f"{' and '.join(owners)} cannot be composed: each sets {slot}. Take one of them."
        )
    return getattr(plans[owners[0]], slot) if owners else None


def _finish_all(
    finishers: Sequence[Callable[[nn.Module], nn.Module]], model: nn.Module
) -> nn.Module:
    for finish in finishers:
        model = finish(model)
    return model


def create(parts: Sequence[Choice]) -> Adapter:
    """Return the adapter that the parts name, with their settings.

    Raises:
        UsageError: if a name or setting is unknown, a value is refused, or a name comes twice.
        PluginError: if a plugin cannot be loaded or is no adapter.
    """
    if len(parts) == 1:
        return _create_one(parts[0])
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise UsageError(f"{adapter_label(tuple(parts))!r} names an adapter twice")
    return Composition(parts=tuple((part.name, _create_one(part)) for part in parts))


def _create_one(choice: Choice) -> Adapter:
    kind = registry.load("adapter", choice.name)
    if not _is_adapter(kind):
        plugin = registry.find("adapter", choice.name)
        raise PluginError(
            f"adapter {choice.name!r}: {plugin.value} of {plugin.distribution} is not a frozen "
            "dataclass derived from um_bench.Adapter"
        )
    try:
        adapter: Adapter = build(kind, choice.settings, choice.label)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{choice.label}: {error}") from error
    return adapter


def _is_adapter(kind: Any) -> bool:
    derived = isinstance(kind, type) and issubclass(kind, Adapter)
    return derived and dataclasses.is_dataclass(kind)


def hyperparameters(adapter: Adapter) -> dict[str, Any]:
    """Return every hyperparameter of an adapter by name, defaults included, as JSON values."""
    if isinstance(adapter, Composition):
        return {name: hyperparameters(part) for name, part in adapter.parts}
    return dataclasses.asdict(adapter)  # type: ignore[call-overload, no-any-return]
