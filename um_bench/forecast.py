"""What is left of a suite would take, by what its own records took: seconds and bytes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from um_bench.records import Record
from um_bench.suite import Cell, Job, Suite

_BYTES_OF_A_SCORE = 4
"""float32; the files are compressed, so that this is the most that they take."""


class Forecast(NamedTuple):
    """What the cells without a result would take."""

    done: int
    """Cells with a result; whether it is still true is told by running."""
    left: int
    """Cells without."""
    seconds: float | None
    """Of the jobs that are left, one after another; None where nothing of it was measured."""
    measured: int
    """Records that this rests on."""
    device: str
    """What they were measured on."""
    unmeasured: tuple[str, ...]
    """Adapters that are not in `seconds`: none of their cells was ever computed."""
    model_bytes: int | None
    """Weights that will be written; None where no model was."""
    score_bytes: int | None
    """Scores that will be written at the most; None where no set was ever counted."""


def forecast(suite: Suite, records: Iterable[Record], models: Path) -> Forecast:
    """Return what the rest of a suite would take.

    Args:
        suite: with its detectors named as in records.
        records: of the suite's results folder.
        models: folder of all models; they are as large as the next ones of this suite.
    """
    cells = {cell for job in suite.jobs() for cell in suite.cells(job)}
    done = {r.cell: r for r in records if r.state == "done" and r.cell in cells}
    left = cells - done.keys()
    device = _usual_device(done.values())
    known = [r for r in done.values() if r.provenance.device == device]
    jobs: dict[Job, list[Cell]] = defaultdict(list)
    for cell in left:
        jobs[cell.job].append(cell)
    times = _Times(known)
    began = {cell.job for cell in done}
    new = {job for job in jobs if job not in began}
    based = {job.seed for job in began}
    seeds = {job.seed for job in new} - based if suite.trains_base else set()
    known_adapters = {job.adapter for job in began}
    counted = [job for job in jobs if job.adapter in known_adapters]
    seconds = len(seeds) * times.base + sum(times.of(jobs[job], job in new) for job in counted)
    return Forecast(
        done=len(done),
        left=len(left),
        seconds=seconds if known and counted else None,
        measured=len(known),
        device=device,
        unmeasured=tuple(sorted({job.adapter for job in jobs} - known_adapters)),
        model_bytes=_model_bytes(models, len(seeds) + sum(j.adapter != "none" for j in new)),
        score_bytes=_score_bytes(done, left),
    )


def _usual_device(records: Iterable[Record]) -> str:
    devices = [record.provenance.device for record in records]
    return max(dict.fromkeys(devices), key=devices.count, default="")


class _Times:
    """Mean seconds of each stage, by what they depend on."""

    def __init__(self, records: Iterable[Record]) -> None:
        stages: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for record in records:
            for stage, key in (
                ("base", ""),
                ("adapt", record.adapter_label),
                ("outputs", record.ood_set),
                ("fit", record.detector_label),
                ("score", record.detector_label),
            ):
                stages[stage][key].append(record.seconds.get(stage, 0.0))
        self._means = {
            stage: {key: fmean(values) for key, values in of.items()}
            for stage, of in stages.items()
        }

    @property
    def base(self) -> float:
        """Seconds of training a base classifier."""
        return self._mean("base", "")

    def of(self, cells: Iterable[Cell], new: bool) -> float:
        """Return the seconds of some cells of one job; a new one is trained first."""
        cells = list(cells)
        trained = self._mean("adapt", cells[0].job.adapter) if new else 0.0
        passes = sum(self._mean("outputs", ood) for ood in {cell.ood_set for cell in cells})
        fits = sum(self._mean("fit", name) for name in {cell.detector for cell in cells})
        return trained + passes + fits + sum(self._mean("score", c.detector) for c in cells)

    def _mean(self, stage: str, key: str) -> float:
        """Return the mean of what was measured; of others of the stage where this never was."""
        known: Mapping[str, float] = self._means.get(stage, {})
        return known[key] if key in known else fmean(known.values()) if known else 0.0


def _model_bytes(models: Path, count: int) -> int | None:
    sizes = [path.stat().st_size for path in models.glob("*.safetensors")]
    return round(fmean(sizes)) * count if sizes else None


def _score_bytes(done: Mapping[Cell, Record], left: Iterable[Cell]) -> int | None:
    images = {cell.ood_set: r.counts["id"] + r.counts["ood"] for cell, r in done.items()}
    if not images:
        return None
    usual = max(images.values())
    return sum(_BYTES_OF_A_SCORE * images.get(cell.ood_set, usual) for cell in left)
