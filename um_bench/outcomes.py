"""How a cell ended -> its Record: with numbers, or with the reason why there are none."""

import dataclasses
import itertools
import json
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from um_bench import watch
from um_bench.adapters import Adapter, hyperparameters
from um_bench.data import ImageSet
from um_bench.detectors import Binding
from um_bench.errors import MissingDataError, UmBenchError, UnsupportedError
from um_bench.identity import cell_key
from um_bench.models import Model
from um_bench.records import Record, slug
from um_bench.scores import save_scores
from um_bench.scoring import CellScores, FitSets
from um_bench.suite import Cell, Job, adapter_name, parse_adapter, parse_choice
from um_bench.sweep import Sets, Sweep


class Origin(NamedTuple):
    """What a job's model is made from."""

    job: Job
    key: str
    base: Model
    sets: Sets
    adapter: Adapter

    def fit_sets(self, binding: Binding) -> FitSets:
        """Return what a detector may see before it scores."""
        sets = self.sets
        fitted_on = sets.validation if binding.spec.fits_on == "validation" else sets.train
        declared = sets.validation is not sets.train
        held_out = sets.validation if binding.spec.tunes and declared else None
        if not binding.searched:
            return FitSets(fitted_on, held_out, None, sets.files)
        assert isinstance(sets.validation_ood, ImageSet)
        return FitSets(fitted_on, held_out, (sets.validation, sets.validation_ood), sets.files)

    def ood_set(self, cell: Cell) -> ImageSet:
        """Return the OOD set of a cell that has one."""
        ood = self.sets.ood[cell.ood_set]
        assert isinstance(ood, ImageSet)
        return ood

    def auxiliary(self) -> ImageSet | None:
        """Return the outliers that the adapter trains with, if it does; they are here then."""
        if not self.adapter.needs_outliers:
            return None
        assert isinstance(self.sets.auxiliary, ImageSet)
        return self.sets.auxiliary

    def shifted(self) -> list[ImageSet]:
        """Return the covariate-shifted ID sets that are here."""
        return [data for data in self.sets.shifted.values() if isinstance(data, ImageSet)]


def key_of(sweep: Sweep, origin: Origin, weights: str, cell: Cell) -> str:
    """Return the identity of a cell of a model with these weights."""
    binding = bound(sweep, cell)
    return cell_key(sweep.suite, weights, binding, _sets_of(sweep, origin, cell))


def layer_readers(sweep: Sweep, origin: Origin, cells: Iterable[Cell]) -> dict[str, list[Binding]]:
    """Return the detectors that read inner layers, by the fingerprint of each set they read."""
    readers: dict[str, list[Binding]] = {}
    for cell in cells:
        binding = bound(sweep, cell)
        if binding.spec.reads != "layers":
            continue
        sets = _sets_of(sweep, origin, cell)
        if binding.spec.fits_on == "nothing":
            del sets["fit"]
        for data in itertools.chain.from_iterable(sets.values()):
            its = readers.setdefault(data.fingerprint, [])
            if binding not in its:
                its.append(binding)
    return readers


def _sets_of(sweep: Sweep, origin: Origin, cell: Cell) -> dict[str, Sequence[ImageSet]]:
    """Return the image sets that decide a cell's numbers, given the model, by role."""
    fit_sets = origin.fit_sets(bound(sweep, cell))
    sets: dict[str, Sequence[ImageSet]] = {
        "id": [origin.sets.test],
        "ood": [origin.ood_set(cell)],
        "fit": [fit_sets.fit],
    }
    if sweep.ood_set(cell).full_spectrum:
        sets["shifted"] = origin.shifted()
    if fit_sets.held_out:
        sets["held-out"] = [fit_sets.held_out]
    if fit_sets.validation:
        sets["validation"] = fit_sets.validation
    return sets


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
    check = save_scores(sweep.folder / path, scored.scores)
    record = _of_model(sweep, origin, model, cell)
    both = scored.scores["id"], scored.scores["ood"]
    # notes are the adapter's; what a detector chose goes with its settings
    chosen = {"chosen": dict(scored.notes)} if scored.notes else {}
    return dataclasses.replace(
        record,
        state="done",
        metrics=scored.metrics,
        hyperparameters={**record.hyperparameters, "detector": scored.settings, **chosen},
        seconds={**record.seconds, **scored.seconds},
        opened={**record.opened, **_named(fit=scored.opened)},
        scores=path,
        scores_check=check,
        alarms=watch.of_scores(*both),
        ranking=watch.ranking_of(*both),
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
    used = {"train": [origin.sets.train], **_sets_of(sweep, origin, cell)}
    auxiliary = origin.auxiliary()
    if auxiliary is not None:
        used["auxiliary"] = [auxiliary]
    return dataclasses.replace(
        _blank(sweep, cell),
        key=key_of(sweep, origin, model.weights, cell),
        job_key=origin.key,
        counts={role: sum(map(len, members)) for role, members in used.items()},
        fingerprints={
            role: "+".join(data.fingerprint for data in members) for role, members in used.items()
        },
        notes=dict(model.notes),
        losses=list(model.losses),
        opened=_named(base=origin.base.opened, adapt=model.opened),
        weights={"base": origin.base.weights, "adapted": model.weights},
        seconds={
            "data": sweep.data_seconds,
            "base": origin.base.seconds,
            "adapt": model.seconds,
        },
    )


def _named(**stages: Sequence[str]) -> dict[str, list[str]]:
    return {name: list(opened) for name, opened in stages.items() if opened}


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
        adapter=adapter_name(parse_adapter(job.adapter)),
        adapter_label=job.adapter,
        auxiliary=sweep.tracks[job.adapter],
        detector=parse_choice(cell.detector).name,
        detector_label=cell.detector,
        ood_set=cell.ood_set,
        group=sweep.ood_set(cell).group,
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
    if suite.outlier_recipe and isinstance(adapter, Adapter) and adapter.needs_outliers:
        used["outlier_recipe"] = dataclasses.asdict(suite.outlier_recipe)
    # A record is the same before it is written and after it is read: lists, not tuples.
    values: dict[str, Any] = json.loads(json.dumps(used))
    return values
