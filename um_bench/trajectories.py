"""Trajectory: a model as it was in the middle of its training, scored epoch by epoch.

One file a training, `results/<suite>/trajectories/*.json`, apart from the records: these numbers
are to look at. Nothing chooses an epoch by them.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from um_bench.errors import UsageError
from um_bench.records import (
    PROVENANCE_FIELDS,
    UNREADABLE,
    Provenance,
    expected,
    misfit,
    sealed,
    slug,
    unsealed,
    write_atomically,
)
from um_bench.suite import Job

SCHEMA = 1
"""Version of the fields. A reader refuses those of a newer schema than its own."""

BASE = "base"
"""Stands for the adapter in the trajectory of a base classifier."""

METRICS = ("auroc", "fpr95_ood", "fpr95_id")
"""What a point has of each detector on each OOD set, as in `Record.metrics`."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model as it would have come out of its training after so many epochs."""

    epoch: int
    """Epochs that were done; 0 = before the first. Those of later stages (`um>oe`) count on."""
    id_accuracy: float
    """Share of the ID test set that is classified correctly."""
    metrics: dict[str, dict[str, dict[str, float]]]
    """Detector -> OOD set -> name in `METRICS` -> fraction in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One training: which one it is, how its loss went, and the points that were scored."""

    schema: int = SCHEMA
    suite: str
    key: str
    """Hash of everything that decides the numbers: training, sets, detectors, epochs scored."""
    model_key: str
    """Hash of everything that decides the weights: the records' `job_key`; a base has its own."""
    weights: str
    """Content hash of where the training ended: the records' `weights`, `adapted` or `base`."""
    id_set: str
    backbone: str
    seed: int
    adapter: str
    """With the settings that were given: `um@constraint=0.15`; `BASE` for a base classifier."""
    every: int
    """So many epochs lie between two points; the first and the last are always there."""
    groups: dict[str, str]
    """OOD set -> `near` or `far`."""
    losses: list[float]
    """Mean training loss of each epoch in nats; one for every epoch, whatever `every` is."""
    rates: list[float]
    """Learning rate of each epoch."""
    counts: dict[str, int]
    """Images by set: `id`, and the names in `groups`."""
    fingerprints: dict[str, str]
    """Content hashes of the sets, by the same names."""
    seconds: dict[str, float]
    """Wall-clock: train, without what comes next; track (copying and scoring)."""
    alarms: dict[str, str] = field(default_factory=dict)
    """What is wrong with it: name -> words. `broken`: scoring failed, and the points end there.
    `other-weights`: the training did not end in the weights that the records are of.
    `stale`: what the model is made from has changed since."""
    points: list[Point]
    provenance: Provenance

    @property
    def job(self) -> Job:
        """The job that the model belongs to."""
        return Job(self.id_set, self.backbone, self.seed, self.adapter)

    @property
    def epochs(self) -> list[int]:
        """The epochs of the points."""
        return [point.epoch for point in self.points]

    @property
    def detectors(self) -> list[str]:
        """The detectors that scored the points."""
        return list(self.points[0].metrics) if self.points else []

    def values(self, detector: str, ood_set: str, metric: str) -> list[float]:
        """Return a metric at each of `epochs`."""
        return [point.metrics[detector][ood_set][metric] for point in self.points]


def trajectory_file(folder: Path, job: Job) -> Path:
    """Return the file of a job's trajectory, below a suite's results folder."""
    name = slug(job.id_set, job.backbone, f"seed{job.seed}", job.adapter)
    return folder / "trajectories" / f"{name}.json"


def write_trajectory(folder: Path, trajectory: Trajectory) -> None:
    """Write a trajectory in one step, below a suite's results folder.

    Raises:
        StorageError: if it cannot be written; the old file is then as it was.
    """
    text = f"{sealed(dataclasses.asdict(trajectory))}\n"
    write_atomically(trajectory_file(folder, trajectory.job), text.encode())


def read_trajectories(folder: Path) -> Iterator[Trajectory]:
    """Yield the trajectories below a suite's results folder, in order of file name.

    Raises:
        UsageError: as `read_trajectory`.
    """
    for path in sorted((folder / "trajectories").glob("*.json")):
        yield read_trajectory(path)


def read_trajectory(path: Path) -> Trajectory:
    """Return the trajectory in a file.

    Raises:
        DamagedError: if the file is not what was written.
        UsageError: if it cannot be read, or is no trajectory of a schema that this version knows.
    """
    try:
        line = path.read_bytes().decode("utf-8", "replace").removesuffix("\n")
        return _trajectory(unsealed(line, "a trajectory"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from error
    except UNREADABLE as error:
        raise UsageError(f"{path}: not a trajectory of um-bench: {error}") from error


def mark_stale(folder: Path, job: Job, model_key: str) -> None:
    """Have a job's trajectory say whether it is of another model than the one of this key.

    Raises:
        StorageError: if it cannot be written.
    """
    path = trajectory_file(folder, job)
    if not path.exists():
        return
    try:
        kept = read_trajectory(path)
    except UsageError:
        return  # who reads it is told
    alarms = {name: words for name, words in kept.alarms.items() if name != "stale"}
    if kept.model_key != model_key:
        alarms["stale"] = "what it was made from has changed"
    if alarms != kept.alarms:
        write_trajectory(folder, dataclasses.replace(kept, alarms=alarms))


_FIELDS = tuple(one for one in expected(Trajectory) if one.name != "points")


def _trajectory(table: dict[str, Any]) -> Trajectory:
    if table["schema"] > SCHEMA:
        raise UsageError(
            f"schema {table['schema']} is newer than this um-bench knows ({SCHEMA}); upgrade it"
        )
    made, points = table.pop("provenance"), table.pop("points")
    wrong = misfit(table, _FIELDS) or misfit(made, PROVENANCE_FIELDS)
    found = Trajectory(**table, points=[Point(**p) for p in points], provenance=Provenance(**made))
    wrong = wrong or next(filter(None, (_wrong(found, point) for point in found.points)), "")
    if wrong:
        raise UsageError(f"not a trajectory of um-bench: {wrong}")
    return found


def _wrong(trajectory: Trajectory, point: Point) -> str:
    """Return what of a point is not as it should be; empty where all is."""
    where = f"point of epoch {point.epoch!r}"
    if type(point.epoch) is not int or not 0 <= point.epoch <= len(trajectory.losses):
        return f"{where}: there are {len(trajectory.losses)} epochs"
    if set(point.metrics) != set(trajectory.detectors):
        return f"{where}: it has not the detectors of the first"
    values = [("id_accuracy", point.id_accuracy)]
    for by_set in point.metrics.values():
        if set(by_set) != set(trajectory.groups):
            return f"{where}: it has not the OOD sets of `groups`"
        values += [(m, its[m]) for its in by_set.values() for m in METRICS]
    outside = [name for name, v in values if type(v) not in (int, float) or not 0 <= v <= 1]
    return f"{where}: {outside[0]} is no fraction in [0, 1]" if outside else ""
