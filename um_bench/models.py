"""The classifiers of a sweep, base and adapted: made once, kept by the content they came from."""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from um_bench import together
from um_bench.adapters import Adapter, Finetune, NoAdapter
from um_bench.backbones import Classifier, create, load_checkpoint, weights_hash
from um_bench.data import ImageSet, leakage
from um_bench.data.leakage import NO_FILES, Files
from um_bench.identity import base_key
from um_bench.interim import Interim
from um_bench.locks import held
from um_bench.store import load_weights, save_weights
from um_bench.suite import Suite
from um_bench.tracking import Track
from um_bench.training import Adapted, EpochDone, Moment


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
    track: Track | None = None,
) -> Model:
    """Return the classifier that the adapters of one seed start from.

    It comes from the suite's checkpoint or from pretrained weights, or it is trained by the
    suite's `base` recipe and kept in `folder`. Where its training is tracked and what that gives
    is not there, it is trained again; the one that is kept stays.

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
    path = folder / f"base-{base_key(suite, seed, train)[:24]}.safetensors"
    training = partial(
        together.train, Finetune(), classifier, train, suite.base, seed=seed, device=device
    )
    name = "the training of the base classifier"
    # A file is read into a copy: training again starts from where it started before.
    return _kept(
        path,
        copy.deepcopy(classifier),
        partial(_trained, name, training, path, files, on_epoch),
        track,
    )


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
    track: Track | None = None,
) -> Model:
    """Return the base classifier after the adapter, kept in a file where anything changed.

    It is trained again for what tracking gives, as in `base_model`.

    Raises:
        LeakageError: if the adapter reads what is tested on; nothing is kept then.
    """
    if isinstance(adapter, NoAdapter):
        return dataclasses.replace(base, seconds=0.0, losses=(), opened=())

    training = partial(
        together.train,
        adapter,
        base.classifier,
        train,
        suite.recipe,
        outlier_recipe=suite.outlier_recipe,
        auxiliary=auxiliary,
        seed=seed,
        device=device,
    )
    name = f"the training of {type(adapter).__name__}"
    return _kept(
        path,
        copy.deepcopy(base.classifier).cpu(),
        partial(_trained, name, training, path, files, on_epoch),
        track,
    )


def _trained(
    name: str,
    training: Callable[..., Adapted],
    path: Path,
    files: Files,
    on_epoch: EpochDone,
    track: Track | None,
) -> Model:
    """Return what a training makes; the time of those who watch it is not its own."""
    interim = _interim(path, track)

    def tell(moment: Moment) -> None:
        start = time.perf_counter()
        on_epoch(moment)
        if track is not None:
            track.watch(moment)
        interim.aside += time.perf_counter() - start

    with leakage.refusing(name, files) as stage:
        adapted = training(on_epoch=tell, interim=interim)
    seconds = interim.seconds
    model = adapted.model
    assert isinstance(model, Classifier)
    return Model(
        model.cpu(), weights_hash(model), seconds, adapted.notes, adapted.losses, stage.sets
    )


def _interim(path: Path, track: Track | None) -> Interim:
    """Return where the training of the model in a file is kept while it runs."""
    into = _interim_file(path)
    if track is None:
        return Interim(into)
    return Interim(into, track.key, track.seen, track.recall)


def _interim_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}.training")


def _kept(
    path: Path,
    classifier: Classifier,
    make: Callable[[Track | None], Model],
    track: Track | None,
) -> Model:
    """Return the model in a file, or make it and write the file, in one process alone."""
    kept = _read(path, classifier)
    if kept is not None and (track is None or track.is_there()):
        return kept
    with held(path, wait=True):
        kept = _read(path, classifier)  # another process may have made it meanwhile
        if kept is not None and (track is None or track.is_there()):
            return kept
        model = _made(make, track, kept)
        if kept is None:
            metadata = {
                "seconds": model.seconds,
                "notes": dict(model.notes),
                "losses": model.losses,
                "opened": model.opened,
            }
            save_weights(path, model.classifier, metadata)
        _interim_file(path).unlink(missing_ok=True)
        return kept or model


def _made(make: Callable[[Track | None], Model], track: Track | None, kept: Model | None) -> Model:
    if track is None:
        return make(None)
    with track.watching():
        model = make(track)
        track.end(model.classifier, model.weights, model.seconds, kept.weights if kept else None)
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
