"""The trainings of a sweep, by all processes of a team: the first one orders, the others join in.

The first process goes through the sweep as one process would; the others know nothing of records
and write nothing. They wait for its next training.
"""

import copy
from typing import Any, NamedTuple

from torch import nn

from um_bench import distributed
from um_bench.adapters import Adapter
from um_bench.data import ImageSet
from um_bench.errors import DistributedError, DivergedError, StorageError, UnsupportedError
from um_bench.suite import Recipe
from um_bench.training import Adapted, adapt

ALIKE = (UnsupportedError, DivergedError)
"""Errors that every process of a team meets at the same place, as they follow from the model or
from the loss of the global batch. After any other, nobody knows where the others are."""


class _Order(NamedTuple):
    """A training that all processes are to join in."""

    adapter: Adapter
    model: nn.Module
    """On the CPU."""
    train: str
    """Fingerprint of the ID training set."""
    recipe: Recipe
    options: dict[str, Any]
    """Seed and recipe of outliers, as `adapt` takes them."""


def train(
    adapter: Adapter,
    model: nn.Module,
    train_set: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    outlier_recipe: Recipe | None = None,
    **options: Any,
) -> Adapted:
    """Return what `adapt` does, by all processes that this one has joined; alone, it is `adapt`.

    Raises:
        DistributedError: if a process broke off and there are several.
        UmBenchError: as `adapt`.
    """
    team = distributed.team()
    options |= {"device": device, "seed": seed, "outlier_recipe": outlier_recipe}
    if team.size == 1:
        return adapt(adapter, model, train_set, recipe, **options)
    shared = {"seed": seed, "outlier_recipe": outlier_recipe}
    own = copy.deepcopy(model).cpu()
    distributed.tell(_Order(adapter, own, train_set.fingerprint, recipe, shared))
    try:
        return adapt(adapter, model, train_set, recipe, team=team, **options)
    except (*ALIKE, DistributedError, StorageError):
        raise
    except Exception as error:
        raise DistributedError(
            f"the training of {type(adapter).__name__} broke off in one of {team.size} processes, "
            f"and the others cannot go on: {error}. What is done is kept; the same command goes on."
        ) from error


def follow(train_set: ImageSet, auxiliary: ImageSet | None, device: str) -> None:
    """Join in every training that the first process orders, until it has no more.

    Raises:
        DistributedError: if the images here are not those of the first process.
        UmBenchError: if a training breaks off here.
    """
    team = distributed.team()
    while (order := distributed.told()) is not None:
        assert isinstance(order, _Order)
        if order.train != train_set.fingerprint:
            raise DistributedError(
                f"process {team.rank} has other images in {train_set.name} than the first one; "
                "every machine needs the same --data-dir"
            )
        try:
            adapt(
                order.adapter,
                order.model,
                train_set,
                order.recipe,
                device=device,
                auxiliary=auxiliary,
                team=team,
                **order.options,
            )
        except ALIKE:
            continue  # the first process has it as well, and writes it down
