"""What a job and a cell are, by content: never by a name, a path, or an object in memory."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from um_bench import registry
from um_bench.adapters import Adapter, hyperparameters
from um_bench.data import ImageSet
from um_bench.detectors import Binding
from um_bench.records import SCHEMA, content_key
from um_bench.suite import Suite, parse_adapter, parts_of
from um_bench.training import stages_of


def base_key(suite: Suite, seed: int, train: ImageSet) -> str:
    """Return the hash of everything that decides a base classifier that the suite trains."""
    return content_key(
        "base",
        SCHEMA,
        origin("backbone", suite.backbone_of(seed)),
        suite.backbone_options,
        dataclasses.asdict(suite.preprocessing),
        dataclasses.asdict(suite.base),
        train.fingerprint,
        seed,
    )


def job_key(
    suite: Suite,
    label: str,
    adapter: Adapter,
    seed: int,
    base_weights: str,
    train: ImageSet,
    auxiliary: ImageSet | None,
) -> str:
    """Return the hash of everything that decides the weights of a job.

    Args:
        suite: its recipes, as far as the adapter trains by them, its backbone and its
            preprocessing count.
        label: the adapter as it is shown, for the plugins that it comes from.
        adapter: its hyperparameters count.
        seed: of masks, order and augmentation.
        base_weights: content hash of the base classifier.
        train: the ID training set.
        auxiliary: the auxiliary outliers that the adapter trains with, if it does.
    """
    stages = stages_of(adapter, suite.recipe, suite.outlier_recipe)
    return content_key(
        "job",
        SCHEMA,
        _network(suite),
        [origin("adapter", part.name) for part in parts_of(parse_adapter(label))],
        hyperparameters(adapter),
        [dataclasses.asdict(stage.recipe) for stage in stages],
        dataclasses.asdict(suite.preprocessing),
        seed,
        base_weights,
        train.fingerprint,
        auxiliary.fingerprint if auxiliary else None,
    )


def cell_key(
    suite: Suite, weights: str, detector: Binding, sets: Mapping[str, Sequence[ImageSet]]
) -> str:
    """Return the hash of everything that decides a cell's numbers.

    Args:
        suite: its backbone and its preprocessing count.
        weights: content hash of the adapted classifier.
        detector: its hyperparameters count, the values among which they are searched, and the
            version of the library it comes from.
        sets: what the cell is made of, by role.
    """
    return content_key(
        "cell",
        SCHEMA,
        _network(suite),
        weights,
        origin("detector", detector.choice.name),
        dict(detector.settings),
        {name: list(values) for name, values in detector.searched.items()},
        dataclasses.asdict(suite.preprocessing),
        {role: [data.fingerprint for data in members] for role, members in sets.items()},
    )


def _network(suite: Suite) -> list[Any]:
    """Return what decides what a network makes of its weights: one file fits several of them."""
    return [origin("backbone", suite.backbone), suite.backbone_options]


def origin(kind: str, name: str) -> str:
    """Return what a registered name stands for: from another version it is another thing.

    What comes with um-bench is told apart by `SCHEMA`, and its detectors by pytorch-ood's version.
    """
    plugin = registry.plugins(kind).get(name)
    if plugin is None:
        return name
    if plugin.distribution != "um-bench":
        return f"{name} of {plugin.distribution} {plugin.version}"
    return f"{name} of pytorch-ood {version('pytorch-ood')}" if kind == "detector" else name
