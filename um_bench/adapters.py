"""Adapters: methods that change a trained classifier by training; `none`, `finetune`, "+", ">"."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from um_bench import distributed, registry
from um_bench.data import ImageSet, Loader
from um_bench.distributed import ALONE, Team
from um_bench.errors import PluginError, UsageError
from um_bench.papers import Cited, Paper
from um_bench.suite import Choice, Stages, adapter_label, build, parse_choice

__all__ = [
    "Adapter",
    "Batch",
    "Composition",
    "Exposure",
    "Finetune",
    "Loader",
    "Loss",
    "NoAdapter",
    "Paper",
    "Plan",
    "Succession",
    "Terms",
    "cited",
    "create",
    "draw",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, K), labels (N,) -> scalar."""


class Terms(NamedTuple):
    """The two terms of a batch's loss, each a scalar; the loss is their sum."""

    id_term: Tensor
    outlier_term: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one training step sees: ID images, then as many auxiliary outliers, and the losses."""

    images: Tensor
    """(N+M, 3, H, W) float32 in [0, 1], the N ID images first; without outliers, M is 0. Of a team,
    each process has its share of either."""
    labels: Tensor
    """(N+M,) int64, < 0 = auxiliary outlier."""
    count: int
    """N."""
    id_loss: Loss
    """Of the ID part alone: logits (N, K), labels (N,) -> scalar."""
    outlier_loss: Loss
    """Of both parts: logits (N+M, K), labels (N+M,) -> scalar."""
    epoch: int
    """The first is 0."""
    epochs: int
    """How many there will be."""
    team: Team = ALONE
    """The processes that take this step together."""

    def terms(self, model: nn.Module) -> Terms:
        """Return the terms of the loss, from one forward pass over both parts together.

        With BatchNorm, a pass for each part would normalise it by its own statistics, whereas the
        running ones, by which images are scored later, are of both.
        """
        sizes = (self.count, len(self.labels) - self.count)
        logits = distributed.forward(self.team, model, self.images, sizes)
        id_term = self.id_loss(logits[: self.count], self.labels[: self.count])
        return Terms(id_term, self.outlier_loss(logits, self.labels))


class Exposure:
    """How training meets auxiliary outliers; this one: a random draw each epoch, one step a batch.

    Derive from it where a method needs more than a loss, override what it does differently, and
    hand a new instance to each `Plan`. An instance belongs to one training and may keep state from
    epoch to epoch (which outliers were seen) and from batch to batch (a moving average).
    """

    def choose(
        self, model: nn.Module, train: Loader, outliers: ImageSet, generator: torch.Generator
    ) -> Tensor:
        """Return which outliers an epoch sees, in this order; called as each epoch begins.

        Here: drawn anew each epoch; where there are fewer than ID images, all of them before one
        comes again.

        Args:
            model: what is trained, in eval mode; no gradient is recorded.
            train: the ID training set as the recipe feeds it.
            outliers: the auxiliary set; `um_bench.training.some_of` takes some of it for a Loader.
            generator: on the CPU, its state a function of seed and epoch. Draw from it alone.

        Returns:
            int64, as many positions in `outliers` as there are ID images; any may come repeatedly.
        """
        return draw(len(train.data), len(outliers), generator)

    def backward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Add a batch's gradients to `.grad`, which is None before; return the detached loss.

        The optimiser takes its step afterwards. Weights and buffers must be left as one forward
        pass over the batch leaves them. For each further pass, `batch.terms` is the way: it takes
        ID images and outliers together.

        Args:
            model: in training mode.
            batch: of this step.
        """
        terms = batch.terms(model)
        loss = terms.id_term + terms.outlier_term
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def draw(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return `count` random numbers (count,) in 0..size-1, all of them before one comes again."""
    passes = math.ceil(count / size)
    return torch.cat([torch.randperm(size, generator=generator) for _ in range(passes)])[:count]


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
    exposure: Exposure | None = None
    """Which outliers an epoch sees, and how a batch's losses become gradients; None = as
    `Exposure` has it. Not without `outlier_loss`."""
    finish: Callable[[nn.Module], nn.Module] = unchanged
    """Returns a plain classifier: no mask, no hook, no parametrization is left on it. It works on
    the model that it is given, which may be a copy, made in the middle of training."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """What was estimated, e.g. the constraint; goes into every record."""


class Adapter(ABC):
    """A training-time method. Subclass it as a frozen dataclass: its fields are hyperparameters.

    An instance has no state. It is told nothing about OOD test data.
    """

    needs_outliers: ClassVar[bool] = False
    """Whether its plan has an `outlier_loss`, so that a set of auxiliary outliers is needed."""
    sets_id_loss: ClassVar[bool] = False
    """Whether its plan has an `id_loss`. If this is said here, `+` with another such adapter is
    refused before anything is trained, otherwise when its turn comes."""

    paper: ClassVar[Paper | None] = None
    """What to cite."""

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

    sets_id_loss: ClassVar[bool] = True

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train every parameter."""
        return Plan(model=model, id_loss=F.cross_entropy)


@dataclass(frozen=True, kw_only=True)
class Composition(Adapter):
    """Several adapters as one, as in `oe+um`: prepared left to right, finished right to left."""

    parts: tuple[tuple[str, Adapter], ...]
    """Name and adapter."""

    @property
    def needs_outliers(self) -> bool:  # type: ignore[override]  # of an instance: its parts decide
        """Whether any part does."""
        return any(part.needs_outliers for _, part in self.parts)

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Join the parts' plans.

        Raises:
            UsageError: if two parts set the same loss, or the same exposure; both are named.
        """
        plans: dict[str, Plan] = {}
        for name, part in self.parts:
            plans[name] = part.prepare(model, train)
            model = plans[name].model
        return Plan(
            model=model,
            id_loss=_only_one("id_loss", plans),
            outlier_loss=_only_one("outlier_loss", plans),
            exposure=_only_one("exposure", plans),
            finish=partial(_finish_all, [plan.finish for plan in reversed(plans.values())]),
            notes={f"{n}.{k}": v for n, plan in plans.items() for k, v in plan.notes.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Succession(Adapter):
    """Several adapters one after the other, as in `um>oe`: each trains what the last one left.

    `um_bench.training.adapt` trains each stage by the whole recipe.
    """

    stages: tuple[tuple[str, Adapter], ...]
    """Label and adapter, in their order."""

    @property
    def needs_outliers(self) -> bool:  # type: ignore[override]  # of an instance: its stages decide
        """Whether any stage does."""
        return any(stage.needs_outliers for _, stage in self.stages)

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Refuse: there is a plan for each stage, none for all.

        Raises:
            UsageError: always.
        """
        label = ">".join(name for name, _ in self.stages)
        raise UsageError(
            f"{label} is trained stage by stage: it has no plan of its own and cannot be a part "
            'of a composition. "+" binds closer than ">", as in um>oe+um.'
        )


def _only_one(slot: str, plans: Mapping[str, Plan]) -> Any:
    """Return what the one plan that sets a slot has there."""
    owners = [name for name, plan in plans.items() if getattr(plan, slot) is not None]
    _require_one(slot, owners)
    return getattr(plans[owners[0]], slot) if owners else None


def _require_one(slot: str, owners: Sequence[str]) -> None:
    if len(owners) > 1:
        raise UsageError(
            f"{' and '.join(owners)} cannot be composed: each sets {slot}. Take one of them."
        )


def _finish_all(
    finishers: Sequence[Callable[[nn.Module], nn.Module]], model: nn.Module
) -> nn.Module:
    for finish in finishers:
        model = finish(model)
    return model


def create(stages: Stages) -> Adapter:
    """Return the adapter that is written so: a `Succession` where there is more than one stage.

    Raises:
        UsageError: if a name or setting is unknown, a value is refused, a name comes twice in a
            stage, or two of its parts are known to set the same loss; both are named.
        PluginError: if a plugin cannot be loaded or is no adapter.
    """
    if len(stages) == 1:
        return _create_stage(stages[0])
    return Succession(stages=tuple((adapter_label((s,)), _create_stage(s)) for s in stages))


def _create_stage(parts: Sequence[Choice]) -> Adapter:
    if len(parts) == 1:
        return _create_one(parts[0])
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise UsageError(f"{adapter_label((tuple(parts),))!r} names an adapter twice")
    made = tuple((part.name, _create_one(part)) for part in parts)
    _require_one("id_loss", [name for name, adapter in made if adapter.sets_id_loss])
    _require_one("outlier_loss", [name for name, adapter in made if adapter.needs_outliers])
    return Composition(parts=made)


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


def cited(label: str, adapter: Adapter) -> Iterator[Cited]:
    """Yield the papers of an adapter, or of each of its parts and stages."""
    if isinstance(adapter, Composition | Succession):
        for name, part in adapter.parts if isinstance(adapter, Composition) else adapter.stages:
            yield from cited(name, part)
    elif adapter.paper is not None:
        yield Cited("adapter", parse_choice(label).name, adapter.paper)


def hyperparameters(adapter: Adapter) -> dict[str, Any]:
    """Return every hyperparameter of an adapter by name, defaults included, as JSON values."""
    if isinstance(adapter, Composition):
        return {name: hyperparameters(part) for name, part in adapter.parts}
    if isinstance(adapter, Succession):
        numbered = enumerate(adapter.stages, start=1)
        return {f"{n}.{label}": hyperparameters(stage) for n, (label, stage) in numbered}
    return dataclasses.asdict(adapter)  # type: ignore[call-overload, no-any-return]
