"""The classifiers of a sweep, base and adapted: made once, kept by the content they came from."""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from um_bench.adapters import Adapter, Finetune, NoAdapter
from um_bench.backbones import Classifier, create, load_checkpoint, weights_hash
from um_bench.data import ImageSet, leakage
from um_bench.data.leakage import NO_FILES, Files
from um_bench.identity import base_key
from um_bench.locks import held
from um_bench.store import load_weights, save_weights
from um_bench.suite import Suite
from um_bench.training import Adapted, EpochDone, adapt


@dataclass(frozen=True)
class Model:
    """A classifier with its history."""

    classifier: Classifier
    weights: str
    """Content hash."""
    seconds: float
    """Time its training took, when it was trained; 0 where nothing was."""
    notes: Mapping[str, float] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    """Mean training loss of each epoch in nats."""
    opened: tuple[str, ...] = ()
    """What its training read, as `Stage.sets` has it; empty where nothing was trained."""


def base_model(
    suite: Suite,
    seed: int,
    train: ImageSet,
    folder: Path,
    *,
    files: Files = NO_FILES,
    device: str,
    on_epoch: EpochDone,
) -> Model:
    """Return the classifier that the adapters of one seed start from.

    It comes from the suite's checkpoint or from pretrained weights, or it is trained by the
    suite's `base` recipe and kept in `folder`.

    Raises:
        UsageError: if backbone or checkpoint cannot be used.
        MissingDataError: if pretrained weights are not here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = create(
            suite.backbone_of(seed),
            num_classes=train.num_classes,
            preprocessing=suite.preprocessing,
            options=suite.backbone_options,
        )
    # Detectors differentiate with respect to images; some nets keep a graph of their weights.
    classifier.requires_grad_(False)
    if suite.checkpoint:
        load_checkpoint(classifier, suite.checkpoint_of(seed))
    if not suite.trains_base:
        return Model(classifier, weights_hash(classifier), 0.0)
    key = base_key(suite, seed, train)
    path = folder / f"base-{key[:24]}.safetensors"

    def make() -> Model:
        train_base = partial(adapt, Finetune(), classifier, train, suite.base)
        with leakage.refusing("the training of the base classifier", files) as stage:
            model = _timed(partial(train_base, seed=seed, device=device, on_epoch=on_epoch))
        return dataclasses.replace(model, opened=stage.sets)

    return _kept(path, classifier, make)


def adapted_model(
    suite: Suite,
    adapter: Adapter,
    base: Model,
    train: ImageSet,
    auxiliary: ImageSet | None,
    path: Path,
    *,
    files: Files,
    seed: int,
    device: str,
    on_epoch: EpochDone,
) -> Model:
    """Return the base classifier after the adapter, kept in a file where anything changed.

    Raises:
        LeakageError: if the adapter reads what is tested on; nothing is kept then.
    """
    if isinstance(adapter, NoAdapter):
        return dataclasses.replace(base, seconds=0.0, losses=(), opened=())

    training = partial(
        adapt,
        adapter,
        base.classifier,
        train,
        suite.recipe,
        outlier_recipe=suite.outlier_recipe,
        auxiliary=auxiliary,
        seed=seed,
        device=device,
        on_epoch=on_epoch,
    )

    def make() -> Model:
        with leakage.refusing(f"the training of {type(adapter).__name__}", files) as stage:
            model = _timed(training)
        return dataclasses.replace(model, opened=stage.sets)

    return _kept(path, copy.deepcopy(base.classifier).cpu(), make)


def _timed(training: Callable[[], Adapted]) -> Model:
    start = time.perf_counter()
    adapted = training()
    seconds = time.perf_counter() - start
    model = adapted.model
    assert isinstance(model, Classifier)
    return Model(model.cpu(), weights_hash(model), seconds, adapted.notes, adapted.losses)


def _kept(path: Path, classifier: Classifier, make: Callable[[], Model]) -> Model:
    """Return the model in a file, or make it and write the file, in one process alone."""
    kept = _read(path, classifier)
    if kept is not None:
        return kept
    with held(path, wait=True):
        kept = _read(path, classifier)  # another process may have made it meanwhile
        if kept is not None:
            return kept
        model = make()
        metadata = {
            "seconds": model.seconds,
            "notes": dict(model.notes),
            "losses": model.losses,
            "opened": model.opened,
        }
        save_weights(path, model.classifier, metadata)
        return model


def _read(path: Path, classifier: Classifier) -> Model | None:
    kept = load_weights(path, classifier)
    if kept is None:
        return None
    classifier.eval().requires_grad_(False)
    return Model(
        classifier,
        kept["weights"],
        kept["seconds"],
        kept["notes"],
        tuple(kept["losses"]),
        tuple(kept["opened"]),
    )
