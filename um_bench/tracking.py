"""Trainings that are watched: scored in the middle, written down as trajectories and events.

Training goes on as if nobody had watched: what is scored is a copy. The sets that are tested on are
read here by the harness, never by what trains, and no epoch is chosen by what is found.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from um_bench.backbones import Classifier
from um_bench.data import ImageSet, leakage
from um_bench.detectors import Binding
from um_bench.errors import DamagedError, PluginError, UnsupportedError, UsageError
from um_bench.events import Events
from um_bench.identity import origin
from um_bench.records import Provenance, content_key
from um_bench.scoring import FitSets, Passes, score_id, score_ood
from um_bench.suite import Job
from um_bench.training import Moment
from um_bench.trajectories import (
    METRICS,
    SCHEMA,
    Point,
    Trajectory,
    read_trajectory,
    trajectory_file,
    write_trajectory,
)

log = logging.getLogger("um_bench")

PREFERRED = ("msp", "energy")


def trackable(bindings: Iterable[Binding | PluginError]) -> tuple[Binding, ...]:
    """Return the detectors that score each point: `msp` and `energy`, or else those like them.

    Raises:
        UsageError: if none of a suite's detectors reads logits alone and needs no fitting.
    """
    here = [binding for binding in bindings if isinstance(binding, Binding)]
    able = [
        binding
        for binding in here
        if binding.spec.reads == "logits"
        and binding.spec.fits_on == "nothing"
        and not binding.searched
        and not binding.spec.unsupported
    ]
    if not able:
        raise UsageError(
            "--track-every scores with detectors that read logits and need no fitting, and the "
            f"suite has none: {', '.join(binding.label for binding in here)}. Add msp or energy."
        )
    preferred = tuple(binding for binding in able if binding.choice.name in PREFERRED)
    return preferred or tuple(able)


class Watching(NamedTuple):
    """What is asked for of a run's trainings."""

    every: int | None = None
    """Epochs from one point of a trajectory to the next; None = no trajectories."""
    events: Path | None = None
    """Folder of all event files; None = none."""
    retry_broken: bool = False
    """Whether a trajectory that broke off is made anew."""


NOT_AT_ALL = Watching()


class TrackedSets(NamedTuple):
    """The images of a suite, as far as they are here."""

    train: ImageSet
    """Of no use to detectors that need no fitting, and handed to them all the same."""
    test: ImageSet
    ood: Mapping[str, ImageSet]
    groups: Mapping[str, str]
    """OOD set -> `near` or `far`."""

    @property
    def scored(self) -> dict[str, ImageSet]:
        """Those that are scored: `id`, and the OOD sets."""
        return {"id": self.test, **self.ood}


@dataclass(frozen=True)
class Tracking:
    """What the watched trainings of one run share."""

    watching: Watching
    suite: str
    """As the records call it."""
    folder: Path
    """`results/<suite>`."""
    detectors: tuple[Binding, ...]
    sets: TrackedSets
    device: str
    provenance: Provenance

    @property
    def every(self) -> int | None:
        """As in `Watching`."""
        return self.watching.every

    def due(self, epoch: int) -> bool:
        """Return whether the model is scored after so many epochs; after the last it always is."""
        return self.every is not None and epoch % self.every == 0

    def work(self, epochs: Sequence[float]) -> list[float]:
        """Return the work of each epoch in images forwarded, with that of the point after it."""
        images = sum(map(len, self.sets.scored.values()))
        last = len(epochs)
        return [
            work + images * (self.every is not None and (n == last or self.due(n)))
            for n, work in enumerate(epochs, start=1)
        ]

    def track(self, job: Job, model_key: str) -> "Track":
        """Return what watches the training of one model.

        Args:
            job: that it is for; of a base classifier, with `trajectories.BASE` as the adapter.
            model_key: hash of everything that decides the weights.
        """
        return Track(self, job, model_key)

    def key(self, model_key: str) -> str:
        """Return the hash of everything that decides the numbers of a trajectory."""
        detectors = {
            binding.label: [origin("detector", binding.choice.name), dict(binding.settings)]
            for binding in self.detectors
        }
        sets = {name: data.fingerprint for name, data in self.sets.scored.items()}
        return content_key("trajectory", SCHEMA, model_key, self.every, detectors, sets)

    def scored(self, model: nn.Module, epoch: int) -> Point:
        """Return the point of a plain model.

        Raises:
            UmBenchError: if it has no finite outputs, or a detector breaks.
        """
        if not isinstance(model, Classifier):
            raise UnsupportedError(f"{type(model).__name__} is no classifier; it is not scored")
        sets, passes = self.sets, Passes(model.to(self.device), self.device)
        found: dict[str, dict[str, dict[str, float]]] = {}
        for binding in self.detectors:
            known = score_id(passes, binding, FitSets(sets.train), sets.test)
            of_sets = {n: score_ood(passes, known, data).metrics for n, data in sets.ood.items()}
            found[binding.label] = {n: {m: its[m] for m in METRICS} for n, its in of_sets.items()}
        return Point(epoch=epoch, id_accuracy=passes.id_accuracy(sets.test), metrics=found)


@dataclass
class Track:
    """One training as it is watched; `watching` is the `with` block in which it runs."""

    shared: Tracking
    job: Job
    model_key: str
    seconds: float = 0.0
    """That copying and scoring took so far."""
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    alarms: dict[str, str] = field(default_factory=dict)
    _events: Events | None = None

    def is_there(self) -> bool:
        """Return whether the trajectory is kept, of exactly this training and these points."""
        if self.shared.every is None:
            return True
        path = trajectory_file(self.shared.folder, self.job)
        try:
            kept = read_trajectory(path) if path.exists() else None
        except DamagedError:
            return False
        if kept is None or kept.key != self.key:
            return False
        return not ("broken" in kept.alarms and self.shared.watching.retry_broken)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hold the event file open, where there is to be one."""
        into = self.shared.watching.events
        if into is None:
            yield
            return
        folder = self.shared.folder
        name = trajectory_file(folder, self.job).stem
        with leakage.paused():
            events = Events(into / folder.name / name)
        with events:
            self._events = events
            yield

    @property
    def key(self) -> str:
        """Return the hash of everything that decides the trajectory; empty where there is none."""
        return "" if self.shared.every is None else self.shared.key(self.model_key)

    def seen(self) -> dict[str, Any]:
        """Return the points so far, for a training that goes on in another process."""
        points = [dataclasses.asdict(point) for point in self.points]
        return {"points": points, "alarms": self.alarms, "seconds": self.seconds}

    def recall(self, seen: Mapping[str, Any]) -> None:
        """Take up what `seen` returned in a process that is gone."""
        self.points = [Point(**point) for point in seen.get("points", ())]
        self.alarms = dict(seen.get("alarms", {}))
        self.seconds = float(seen.get("seconds", 0.0))

    def watch(self, moment: Moment) -> None:
        """Take down what a moment of the training says, and score the model if it is due."""
        if moment.loss is not None and moment.rate is not None:
            self.losses.append(moment.loss)
            self.rates.append(moment.rate)
            self._tell(moment.epoch, {"train/loss": moment.loss, "train/lr": moment.rate})
        scored = self.points and moment.epoch <= self.points[-1].epoch
        if self.shared.due(moment.epoch) and not scored:
            self._add(moment.epoch, moment.plain)

    def end(self, model: Classifier, weights: str, seconds: float, kept: str | None) -> None:
        """Score the model that came out, if that was not done yet, and write the trajectory.

        Args:
            model: on the CPU, where it is put back.
            weights: its content hash.
            seconds: that its training took, without who watched it.
            kept: the hash of the model that is kept from another such training, if one is.
        """
        if self.shared.every is None:
            return
        if not self.points or self.points[-1].epoch < len(self.losses):
            self._add(len(self.losses), lambda: model)
            model.cpu()
        if kept not in (None, weights):
            self._alarm(
                "other-weights",
                "trained again for its trajectory, it did not come to the weights that are kept, "
                "of which the records are. On a GPU that happens without --deterministic.",
            )
        write_trajectory(self.shared.folder, self._trajectory(weights, seconds))

    def _trajectory(self, weights: str, seconds: float) -> Trajectory:
        shared, sets = self.shared, self.shared.sets.scored
        return Trajectory(
            suite=shared.suite,
            key=self.key,
            model_key=self.model_key,
            weights=weights,
            **self.job._asdict(),
            every=shared.every or 0,
            groups=dict(shared.sets.groups),
            losses=self.losses,
            rates=self.rates,
            counts={name: len(data) for name, data in sets.items()},
            fingerprints={name: data.fingerprint for name, data in sets.items()},
            seconds={"train": seconds, "track": self.seconds},
            alarms=self.alarms,
            points=self.points,
            provenance=shared.provenance,
        )

    def _add(self, epoch: int, model: Callable[[], nn.Module]) -> None:
        """Add a point. Where there is none to be had, training goes on, and points end."""
        if "broken" in self.alarms:
            return
        start = time.perf_counter()
        try:
            point = self._point(epoch, model)
        except UnsupportedError as error:
            self._alarm("broken", f"not scored after {epoch} epochs: {error}")
        else:
            self.points.append(point)
            self._tell(epoch, _flat(point))
        self.seconds += time.perf_counter() - start

    def _point(self, epoch: int, model: Callable[[], nn.Module]) -> Point:
        made = model()  # by the plugin's finish, which may read no more than its training
        try:
            with leakage.paused():
                return self.shared.scored(made, epoch)
        except Exception as error:  # of a detector, or of the device: it is not training's
            raise UnsupportedError(str(error) or type(error).__name__) from error

    def _alarm(self, name: str, words: str) -> None:
        self.alarms[name] = words
        log.warning("trajectory of seed %d, %s: %s", self.job.seed, self.job.adapter, words)

    def _tell(self, epoch: int, values: Mapping[str, float]) -> None:
        if self._events is not None:
            self._events.add(epoch, values)


def _flat(point: Point) -> dict[str, float]:
    """Return a point's numbers by the names that TensorBoard shows."""
    by_metric = {
        f"{metric}/{detector}/{ood_set}": value
        for detector, sets in point.metrics.items()
        for ood_set, values in sets.items()
        for metric, value in values.items()
    }
    return {"id/accuracy": point.id_accuracy, **by_metric}
