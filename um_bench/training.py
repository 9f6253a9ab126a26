"""The only training loop: what every adapter's plan runs through, and the base classifier's too."""

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from um_bench import distributed, stepping
from um_bench.adapters import Adapter, Batch, Exposure, Plan, Succession
from um_bench.data import ImageSet, Loader, StreamedSet
from um_bench.distributed import ALONE, Team
from um_bench.errors import DistributedError, DivergedError, PluginError, UsageError
from um_bench.interim import Interim, restore, state_of
from um_bench.snapshots import plain_copy
from um_bench.suite import Recipe


class Moment(NamedTuple):
    """Where a training stands, for those who watch it."""

    epoch: int
    """Epochs that are done, over all stages; 0 = before the first."""
    loss: float | None
    """Mean training loss of the last one in nats; None before the first."""
    rate: float | None
    """Its learning rate."""
    plain: Callable[[], nn.Module]
    """Returns the model as it would come out now: a copy, see `plain_copy`."""


EpochDone = Callable[[Moment], None]
"""Called before the first epoch and after each. It may draw random numbers: none are missed."""


@dataclass(frozen=True)
class Adapted:
    """A classifier after an adapter: plain, in eval mode, with what was learned on the way."""

    model: nn.Module
    notes: dict[str, float] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    """Mean training loss of each epoch in nats; empty where nothing was trained."""


class Stage(NamedTuple):
    """One training of several that follow each other; most adapters have only one."""

    label: str
    """Of the adapter; empty where there is only one stage."""
    adapter: Adapter
    recipe: Recipe


def stages_of(
    adapter: Adapter, recipe: Recipe, outlier_recipe: Recipe | None = None
) -> tuple[Stage, ...]:
    """Return what is trained, first to last, and by which recipe.

    Args:
        adapter: one, or a `Succession` of several.
        recipe: of the stages that need no auxiliary outliers.
        outlier_recipe: of those that do; None = `recipe`.
    """
    stages = adapter.stages if isinstance(adapter, Succession) else (("", adapter),)
    return tuple(
        Stage(label, stage, (stage.needs_outliers and outlier_recipe) or recipe)
        for label, stage in stages
    )


def _nothing(_: Moment) -> None:
    return


def adapt(
    adapter: Adapter,
    model: nn.Module,
    train_set: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    on_epoch: EpochDone = _nothing,
    auxiliary: ImageSet | None = None,
    outlier_recipe: Recipe | None = None,
    interim: Interim | None = None,
    team: Team = ALONE,
) -> Adapted:
    """Return a changed copy of `model`; `model` itself stays as it is.

    The same arguments give the same weights on a CPU: the global random state is seeded here and
    put back afterwards. The stages of a `Succession` are trained one after the other, each by its
    whole recipe; notes bear the stage's number and label, as in `1.um.constraint`.

    Args:
        adapter: what to do.
        model: images (N, 3, H, W) in [0, 1] -> logits (N, K).
        train_set: the ID training set.
        recipe: how to train.
        seed: decides order, augmentation, the choice of outliers, and what the adapter draws.
        device: where to train.
        on_epoch: called before the first epoch, and after each epoch of each stage.
        auxiliary: outliers, all labels < 0, for an adapter that needs them; others ignore them.
        outlier_recipe: how to train with outliers; None = by `recipe`.
        interim: where the training is kept while it runs. Not where there are several stages, or
            the plan has an exposure, which may have a memory of its own: these start again.
        team: the processes that train together. Each calls this with the same arguments, but for
            `on_epoch` and `interim`, which are the first one's; each gets the same model, which is
            that of one process but for rounding.

    Raises:
        DistributedError: if the plan's loss is not of logits and labels alone, and there is a team.
        PluginError: if the adapter leaves a parametrization on the model, has an outlier loss
            though it says that it needs no outliers, or its exposure breaks its contract.
        DivergedError: if the training loss stops being finite.
        UsageError: if the adapter needs auxiliary outliers and there are none, or if not all of
            their labels are < 0.
    """
    _check_auxiliary(adapter, auxiliary)
    stages = stages_of(adapter, recipe, outlier_recipe)
    kept = interim if len(stages) == 1 else None
    epochs, adapted = 0, Adapted(model)
    for number, stage in enumerate(stages):
        # The first stage's weights are those of its adapter alone.
        own = _seed(seed, "stage", number) if number else seed
        done = partial(_report, on_epoch, number, epochs)
        last = adapted
        adapted = _adapt(stage, last.model, train_set, own, device, done, auxiliary, kept, team)
        before = f"{number + 1}.{stage.label}." if stage.label else ""
        notes = {f"{before}{key}": value for key, value in adapted.notes.items()}
        adapted = Adapted(adapted.model, {**last.notes, **notes}, last.losses + adapted.losses)
        epochs = len(adapted.losses)
    return adapted


def _report(on_epoch: EpochDone, stage: int, before: int, moment: Moment) -> None:
    """Count on from the stages before; the start of one is the end of the last."""
    if moment.epoch or not stage:
        on_epoch(moment._replace(epoch=before + moment.epoch))


def _adapt(
    stage: Stage,
    model: nn.Module,
    train_set: ImageSet,
    seed: int,
    device: str,
    on_epoch: EpochDone,
    auxiliary: ImageSet | None,
    interim: Interim | None,
    team: Team,
) -> Adapted:
    """Return what one stage makes of a copy of the model."""
    adapter, recipe = stage.adapter, stage.recipe
    loader = Loader(
        train_set,
        batch_size=recipe.batch_size,
        device=device,
        shuffle=True,
        augmentation=recipe.augmentation,
        seed=seed,
        team=team,
    )
    with _own_randomness(device):
        torch.manual_seed(seed)
        own = copy.deepcopy(model).to(device).eval().requires_grad_(True)
        plan = adapter.prepare(own, loader)
        _check_plan(plan, adapter)
        _check_team(plan, adapter, own, team)
        losses = train(
            plan, loader, recipe, auxiliary=auxiliary, on_epoch=on_epoch, interim=interim
        )
        finished = plan.finish(plan.model).eval()
    _check_plain(finished, adapter)
    return Adapted(finished.requires_grad_(False), dict(plan.notes), tuple(losses))


def train(
    plan: Plan,
    loader: Loader,
    recipe: Recipe,
    *,
    auxiliary: ImageSet | None = None,
    on_epoch: EpochDone = _nothing,
    interim: Interim | None = None,
) -> list[float]:
    """Train a plan's model in place by the recipe; return the mean loss of each epoch in nats.

    Args:
        plan: what to train, and by which loss.
        loader: the ID training set.
        recipe: how to train.
        auxiliary: outliers, for a plan with an outlier loss. Each step takes as many of them as
            ID images, augmented in the same way.
        on_epoch: called before the first epoch, and after each.
        interim: as in `adapt`.

    Raises:
        DivergedError: if the loss stops being finite.
        UsageError: if the plan has an outlier loss and there are no outliers.
        PluginError: if the plan's exposure breaks its contract.
    """
    tell = partial(_tell, on_epoch, plan, loader.device)
    weights = [p for p in plan.model.parameters() if p.requires_grad]
    if (plan.id_loss is None and plan.outlier_loss is None) or not weights:
        tell(0)
        return []
    exposure = plan.exposure or Exposure()
    optimizer = torch.optim.SGD(
        weights,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    kept = interim if plan.exposure is None else None
    losses = _resumed(kept, plan, optimizer, loader, recipe, tell)
    for epoch in range(len(losses), recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        outliers = _outliers(plan, exposure, loader, auxiliary, epoch)
        plan.model.train()
        batches = _batches(plan, loader, outliers, epoch, recipe.epochs)
        with stepping.laid_out(plan.model, recipe.precision, loader.device):
            losses.append(_train_epoch(plan.model, exposure, batches, optimizer, loader))
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"training diverged: the loss is {losses[-1]} in epoch {epoch + 1}. A lower "
                "recipe.lr usually helps."
            )
        tell(epoch + 1, losses[-1], learning_rate(recipe, epoch))
        if kept is not None:
            kept.keep(plan.model, optimizer, loader.device, losses)
    return losses


def _resumed(
    interim: Interim | None,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    recipe: Recipe,
    tell: Callable[..., None],
) -> list[float]:
    """Return the losses of the epochs that are done, and tell of them."""
    losses: list[float] = []
    if interim is not None:
        losses = interim.resume(plan.model, optimizer, loader.device) or []
    if loader.team.size > 1:
        losses = _agreed(plan, optimizer, loader, losses)
    tell(0)
    for epoch, loss in enumerate(losses):
        tell(epoch + 1, loss, learning_rate(recipe, epoch))
    return losses


def _agreed(
    plan: Plan, optimizer: torch.optim.Optimizer, loader: Loader, losses: list[float]
) -> list[float]:
    """Bring the others of a team to where the first one has taken the training up."""
    if loader.team.rank:
        losses, tensors = distributed.told()
        restore(plan.model, optimizer, loader.device, tensors)
    else:
        distributed.tell((losses, state_of(plan.model, optimizer, loader.device)))
    return losses


def _tell(
    on_epoch: EpochDone,
    plan: Plan,
    device: str | torch.device,
    epoch: int,
    loss: float | None = None,
    rate: float | None = None,
) -> None:
    with _own_randomness(device):
        on_epoch(Moment(epoch, loss, rate, partial(plain_copy, plan)))


def _own_randomness(device: str | torch.device) -> AbstractContextManager[None]:
    """Return a `with` block in which random numbers may be drawn: none are missed after it."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    return torch.random.fork_rng(devices=cuda)


def _train_epoch(
    model: nn.Module,
    exposure: Exposure,
    batches: Iterator[Batch],
    optimizer: torch.optim.Optimizer,
    loader: Loader,
) -> float:
    """Return the mean loss of an epoch; every ID image counts the same."""
    total = torch.zeros((), device=loader.device)
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = exposure.backward(model, batch)
        distributed.average(loader.team, [p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        total += loss * batch.count
    # Read once an epoch: reading every step would make the host wait for the device.
    return total.item() / len(loader.data)


def _batches(
    plan: Plan, loader: Loader, outliers: Loader | None, epoch: int, epochs: int
) -> Iterator[Batch]:
    """Yield the batches of an epoch: ID images, and as many outliers where there are any."""
    batch = partial(
        Batch,
        id_loss=plan.id_loss or F.cross_entropy,
        outlier_loss=plan.outlier_loss or _no_outlier_loss,
        epoch=epoch,
        epochs=epochs,
        team=loader.team,
    )
    if outliers is None:
        for images, labels in loader.shares(epoch):
            yield batch(images=images, labels=labels, count=len(labels))
        return
    for known, unknown in zip(loader.shares(epoch), outliers.shares(epoch), strict=True):
        images, labels = (torch.cat(both) for both in zip(known, unknown, strict=True))
        yield batch(images=images, labels=labels, count=len(known[1]))


def _no_outlier_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.new_zeros(())


def _outliers(
    plan: Plan, exposure: Exposure, loader: Loader, auxiliary: ImageSet | None, epoch: int
) -> Loader | None:
    """Return the outliers of an epoch, in batches as large as the loader's; None without any."""
    if plan.outlier_loss is None:
        return None
    if auxiliary is None:
        raise UsageError("the plan has an outlier loss: give a set of outliers as `auxiliary`")
    generator = torch.Generator().manual_seed(_seed(loader.seed, "outliers", epoch))
    plan.model.eval()
    with torch.no_grad():
        chosen = exposure.choose(plan.model, loader, auxiliary, generator)
    _check_choice(chosen, exposure, len(loader.data), len(auxiliary))
    # A seed of its own: crops that owe nothing to the order and the crops of the ID images.
    seed = _seed(loader.seed, "outliers")
    return dataclasses.replace(loader, data=some_of(auxiliary, chosen), shuffle=False, seed=seed)


def some_of(data: ImageSet, positions: Tensor) -> ImageSet:
    """Return some images of a set, in the order of the positions (N,); any may come repeatedly.

    It is for a Loader: it keeps the set's fingerprint, which is not that of these images. A
    streamed set stays streamed.
    """
    positions = positions.cpu()
    labels, classes = data.labels[positions], data.num_classes
    if isinstance(data, StreamedSet):
        index, before = positions.numpy(), data.decoder.chosen
        chosen = index if before is None else before[index]
        decoder = dataclasses.replace(data.decoder, chosen=chosen)
        return StreamedSet(data.name, decoder, labels, data.fingerprint, classes=classes)
    return ImageSet(data.name, data.images[positions], labels, data.fingerprint, classes=classes)


def _seed(seed: int, *purpose: object) -> int:
    """Return another seed, made of a seed and what it is for."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the learning rate of an epoch, the first being 0; `cosine` steps once an epoch."""
    if recipe.schedule == "constant":
        return recipe.lr
    return 0.5 * recipe.lr * (1 + math.cos(math.pi * epoch / recipe.epochs))


def _check_auxiliary(adapter: Adapter, auxiliary: ImageSet | None) -> None:
    if not adapter.needs_outliers:
        return
    if auxiliary is None:
        raise UsageError(
            f"{type(adapter).__name__} trains on auxiliary outliers, and none are given. Name a "
            "set of them in the suite, or pass one as `auxiliary`, loaded by load_set(..., "
            "ood=True)."
        )
    wrong = int((auxiliary.labels >= 0).sum())
    if wrong:
        raise UsageError(
            f"{auxiliary.name}: {wrong} of {len(auxiliary)} auxiliary outliers have the label of "
            "an ID class; load the set by load_set(..., ood=True), which makes all of them -1"
        )


def _check_plan(plan: Plan, adapter: Adapter) -> None:
    name = type(adapter).__name__
    if plan.outlier_loss is not None and not adapter.needs_outliers:
        raise PluginError(
            f"{name}.prepare returns an outlier_loss, but {name}.needs_outliers is False, so that "
            "no outliers are loaded for it; set needs_outliers = True in the class"
        )
    if plan.exposure is not None and plan.outlier_loss is None:
        raise PluginError(
            f"{name}.prepare returns an exposure, but no outlier_loss; without one, no outliers "
            "are drawn"
        )


def _check_team(plan: Plan, adapter: Adapter, model: nn.Module, team: Team) -> None:
    """Refuse what would not be the same by several processes: each sees a part of the images."""
    if team.size == 1 or (plan.exposure is None and plan.model is model):
        return
    raise DistributedError(
        f"{type(adapter).__name__} cannot be trained by several processes: it needs more of a "
        "batch than its logits, and each process has only a part of the images. Run it without "
        "torchrun; the others may stay, with --adapters."
    )


def _check_choice(chosen: Tensor, exposure: Exposure, count: int, size: int) -> None:
    fits = chosen.dtype == torch.int64 and chosen.shape == (count,)
    if not fits or not 0 <= int(chosen.min()) <= int(chosen.max()) < size:
        raise PluginError(
            f"{type(exposure).__name__}.choose must return {count} positions in 0..{size - 1} "
            f"(int64); it returned {tuple(chosen.shape)} of {chosen.dtype}"
        )


def _check_plain(model: nn.Module, adapter: Adapter) -> None:
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise PluginError(
                f"{type(adapter).__name__}.prepare: the plan's finish leaves a parametrization on "
                f"{name or 'the model'}; it must return a plain classifier"
            )


@torch.no_grad()
def mean_loss(model: nn.Module, loader: Loader) -> float:
    """Return the mean cross-entropy in nats over one epoch of a loader, in eval mode.

    Every image counts the same. The model's mode is put back.
    """
    was_training = model.training
    model.eval()
    try:
        total = torch.zeros((), dtype=torch.float64)
        for images, labels in loader.shares(0):
            logits = distributed.forward(loader.team, model, images, (len(labels),))
            total += F.cross_entropy(logits, labels, reduction="sum").double().cpu()
    finally:
        model.train(was_training)
    return float(total) / len(loader.data)
