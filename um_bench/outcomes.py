"""How a cell ended -> its Record: with numbers, or with the reason why there are none."""

import dataclasses
import json
import traceback
from typing import Any, NamedTuple

from um_bench.adapters import Adapter, hyperparameters
from um_bench.data import ImageSet
from um_bench.detectors import Binding
from um_bench.errors import MissingDataError, UmBenchError, UnsupportedError
from um_bench.identity import cell_key
from um_bench.models import Model
from um_bench.records import Record, slug
from um_bench.scoring import CellScores
from um_bench.store import save_scores
from um_bench.suite import Cell, Job, parse_adapter, parse_choice
from um_bench.sweep import Sets, Sweep


class Origin(NamedTuple):
    """What a job's model is made from."""

    job: Job
    key: str
    base: Model
    sets: Sets
    adapter: Adapter

    def fit_set(self, binding: Binding) -> ImageSet:
        """Return the set that a detector is fitted on."""
        return self.sets.validation if binding.spec.fits_on == "validation" else self.sets.train

    def ood_set(self, cell: Cell) -> ImageSet:
        """Return the OOD set of a cell that has one."""
        ood = self.sets.ood[cell.ood_set]
        assert isinstance(ood, ImageSet)
        return ood


def key_of(sweep: Sweep, origin: Origin, weights: str, cell: Cell) -> str:
    """Return the identity of a cell of a model with these weights."""
    binding = bound(sweep, cell)
    fitted_on, ood = origin.fit_set(binding), origin.ood_set(cell)
    return cell_key(sweep.suite, weights, binding, fitted_on, origin.sets.test, ood)


def bound(sweep: Sweep, cell: Cell) -> Binding:
    """Return the detector of a cell that has one."""
    binding = sweep.detectors[cell.detector]
    assert isinstance(binding, Binding)
    return binding


def without_model(sweep: Sweep, cell: Cell, error: Exception, job_key: str = "") -> Record:
    """Return the record of a cell for which there is no model, or nothing to score."""
    return _with_reason(dataclasses.replace(_blank(sweep, cell), job_key=job_key), error)


def without_numbers(
    sweep: Sweep, origin: Origin, model: Model, cell: Cell, error: Exception
) -> Record:
    """Return the record of a cell whose detector gave no scores."""
    return _with_reason(_of_model(sweep, origin, model, cell), error)


def with_numbers(
    sweep: Sweep, origin: Origin, model: Model, cell: Cell, scored: CellScores
) -> Record:
    """Write the scores of a cell, then return its record.

    Raises:
        StorageError: if the scores cannot be written.
    """
    job = cell.job
    folder = slug(job.id_set, job.backbone, f"seed{job.seed}", job.adapter)
    path = f"scores/{folder}/{slug(cell.detector, cell.ood_set)}.npz"
    save_scores(sweep.folder / path, scored.scores)
    record = _of_model(sweep, origin, model, cell)
    return dataclasses.replace(
        record,
        state="done",
        metrics=scored.metrics,
        hyperparameters={**record.hyperparameters, "detector": scored.settings},
        seconds={**record.seconds, **scored.seconds},
        scores=path,
    )


def _with_reason(record: Record, error: Exception) -> Record:
    known = isinstance(error, UmBenchError)
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    if isinstance(error, MissingDataError):
        return dataclasses.replace(record, state="missing-data", reason=reason)
    if isinstance(error, UnsupportedError):
        return dataclasses.replace(record, state="unsupported", reason=reason)
    trace = "".join(traceback.format_exception(error))
    return dataclasses.replace(record, state="failed", reason=reason, traceback=trace)


def _of_model(sweep: Sweep, origin: Origin, model: Model, cell: Cell) -> Record:
    """Return a cell's record with everything but its numbers."""
    used = {
        "id": origin.sets.test,
        "ood": origin.ood_set(cell),
        "train": origin.sets.train,
        "fit": origin.fit_set(bound(sweep, cell)),
    }
    return dataclasses.replace(
        _blank(sweep, cell),
        key=key_of(sweep, origin, model.weights, cell),
        job_key=origin.key,
        counts={name: len(data) for name, data in used.items()},
        fingerprints={name: data.fingerprint for name, data in used.items()},
        notes=dict(model.notes),
        weights={"base": origin.base.weights, "adapted": model.weights},
        seconds={"base": origin.base.seconds, "adapt": model.seconds},
    )


def _blank(sweep: Sweep, cell: Cell) -> Record:
    """Return a cell's record with its names and settings."""
    suite, job = sweep.suite, cell.job
    return Record(
        suite=suite.folder,
        key="",
        job_key="",
        state="failed",
        id_set=job.id_set,
        backbone=job.backbone,
        seed=job.seed,
        adapter="+".join(part.name for part in parse_adapter(job.adapter)),
        adapter_label=job.adapter,
        detector=parse_choice(cell.detector).name,
        detector_label=cell.detector,
        ood_set=cell.ood_set,
        group=next(ood.group for ood in suite.ood if ood.name == cell.ood_set),
        hyperparameters=_hyperparameters(sweep, cell),
        provenance=sweep.provenance,
    )


def _hyperparameters(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    suite, adapter = sweep.suite, sweep.adapters[cell.job.adapter]
    binding = sweep.detectors[cell.detector]
    used = {
        "adapter": hyperparameters(adapter) if isinstance(adapter, Adapter) else {},
        "detector": dict(binding.settings) if isinstance(binding, Binding) else {},
        "recipe": dataclasses.asdict(suite.recipe),
        "base": dataclasses.asdict(suite.base) if suite.trains_base else {},
        "backbone": suite.backbone_options,
        "preprocessing": dataclasses.asdict(suite.preprocessing),
    }
    # A record is the same before it is written and after it is read: lists, not tuples.
    values: dict[str, Any] = json.loads(json.dumps(used))
    return values
