"""The only training loop: what every adapter's plan runs through, and the base classifier's too."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from um_bench.adapters import Adapter, Loss, Plan
from um_bench.data import ImageSet, Loader
from um_bench.errors import PluginError, UmBenchError, UnsupportedError
from um_bench.suite import Recipe

EpochDone = Callable[[int], None]
"""Called after each epoch with the number of epochs that are done."""


@dataclass(frozen=True)
class Adapted:
    """A classifier after an adapter: plain, in eval mode, with what was learned on the way."""

    model: nn.Module
    notes: dict[str, float] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    """Mean training loss of each epoch in nats; empty where nothing was trained."""


def _nothing(_: int) -> None:
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
) -> Adapted:
    """Return a changed copy of `model`; `model` itself stays as it is.

    The same arguments give the same weights on a CPU: the global random state is seeded here and
    put back afterwards.

    Raises:
        PluginError: if the adapter leaves a parametrization on the model.
        UmBenchError: if the training loss stops being finite.
        UnsupportedError: if the plan needs auxiliary outliers.
    """
    loader = Loader(
        train_set,
        batch_size=recipe.batch_size,
        device=device,
        shuffle=True,
        augmentation=recipe.augmentation,
        seed=seed,
    )
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        own = copy.deepcopy(model).to(device).eval().requires_grad_(True)
        plan = adapter.prepare(own, loader)
        losses = train(plan, loader, recipe, on_epoch=on_epoch)
        finished = plan.finish(plan.model).eval()
    _check_plain(finished, adapter)
    return Adapted(finished.requires_grad_(False), dict(plan.notes), tuple(losses))


def train(
    plan: Plan, loader: Loader, recipe: Recipe, *, on_epoch: EpochDone = _nothing
) -> list[float]:
    """Train a plan's model in place by the recipe; return the mean loss of each epoch in nats."""
    loss_of = _objective(plan)
    weights = [p for p in plan.model.parameters() if p.requires_grad]
    if loss_of is None or not weights:
        return []
    optimizer = torch.optim.SGD(
        weights,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    losses = []
    plan.model.train()
    for epoch in range(recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        losses.append(_train_epoch(plan.model, loss_of, loader, optimizer, epoch))
        on_epoch(epoch + 1)
    return losses


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the learning rate of an epoch, the first being 0; `cosine` steps once an epoch."""
    if recipe.schedule == "constant":
        return recipe.lr
    return 0.5 * recipe.lr * (1 + math.cos(math.pi * epoch / recipe.epochs))


def _train_epoch(
    model: nn.Module,
    loss_of: Loss,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> float:
    total = torch.zeros((), device=loader.device)
    for images, labels in loader.epoch(epoch):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(labels)
    # Read once an epoch: reading every step would make the host wait for the device.
    mean = total.item() / len(loader.data)
    if not math.isfinite(mean):
        raise UmBenchError(
            f"training diverged: the loss is {mean} in epoch {epoch + 1}. A lower recipe.lr "
            "usually helps."
        )
    return mean


def _objective(plan: Plan) -> Loss | None:
    if plan.outlier_loss is not None:
        raise UnsupportedError("it trains on auxiliary outliers, which suites cannot name yet")
    return plan.id_loss


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
        for images, labels in loader:
            total += F.cross_entropy(model(images), labels, reduction="sum").double().cpu()
    finally:
        model.train(was_training)
    return float(total) / len(loader.data)
