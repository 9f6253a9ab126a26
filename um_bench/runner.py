"""Jobs -> adapted models -> scores -> records; resumed, and each failure kept to itself."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from pathlib import Path

import torch

from um_bench import distributed, executors, together
from um_bench.adapters import Adapter, NoAdapter
from um_bench.data import ImageSet
from um_bench.environment import threads_for
from um_bench.errors import (
    DistributedError,
    MissingDataError,
    PluginError,
    StorageError,
    UmBenchError,
    UsageError,
    WorkerError,
)
from um_bench.identity import base_key, job_key
from um_bench.leaderboard import write_statistics
from um_bench.locks import held
from um_bench.models import Model, adapted_model
from um_bench.outcomes import (
    Origin,
    bound,
    key_of,
    layer_readers,
    with_numbers,
    without_model,
    without_numbers,
)
from um_bench.progress import Report
from um_bench.records import JobFile, Record, job_file
from um_bench.replicates import update_replicates
from um_bench.scores import is_whole
from um_bench.scoring import Passes, score_id, score_ood
from um_bench.stopwatch import Stopwatch
from um_bench.store import read_metadata
from um_bench.suite import Cell, Job, Suite, load_suite
from um_bench.sweep import (
    Sets,
    Sweep,
    bind_adapters,
    choose_device,
    open_sets,
    prepare,
    with_outliers,
)
from um_bench.tracking import Watching
from um_bench.trajectories import BASE, mark_stale
from um_bench.watch import Untouched

log = logging.getLogger("um_bench")


def run_suite(
    suite: Suite | str | Path,
    *,
    results: str | Path = "results",
    data_dir: str | Path = "data",
    device: str = "auto",
    retry_failed: bool = False,
    deterministic: bool = False,
    on_progress: Report = lambda _: None,
    executor: executors.Executor = executors.local,
    stopwatch: Stopwatch | None = None,
    track_every: int | None = None,
    tensorboard: str | Path | None = None,
) -> Iterator[Record]:
    """Return a generator of the records of a suite's cells, job by job.

    A cell that is already in `results` and still true is yielded as it is; the rest is computed,
    written, and then yielded. A cell that cannot be computed yields a record that says why; it
    never ends the sweep.

    Args:
        suite: a Suite, the name of a shipped one, or a TOML file.
        results: folder of all suites' results.
        data_dir: folder of the image sets.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        retry_failed: compute failed cells again.
        deterministic: only deterministic kernels on a GPU (on a CPU they always are).
        on_progress: called often.
        executor: where jobs run: `um_bench.executors.processes(4)` runs four at once.
        stopwatch: adds up where the time goes.
        track_every: score every model after each so many epochs of its training, on the ID test
            set and the OOD sets; see `um_bench.trajectories`. What is trained already is trained
            again where this is missing. No record depends on it.
        tensorboard: folder of event files, of what is trained in this run.

    Raises:
        UsageError: before anything runs: an unknown name or setting, an ID set that cannot be used.
        StorageError: while it runs: results cannot be written.
    """
    opening = functools.partial(
        prepare,
        suite if isinstance(suite, Suite) else load_suite(suite),
        results=Path(results),
        data_dir=Path(data_dir),
        device=device,
        retry_failed=retry_failed,
        deterministic=deterministic,
        watching=Watching(track_every, Path(tensorboard) if tensorboard else None, retry_failed),
    )
    work = _Jobs(opening, on_progress, stopwatch or Stopwatch())
    return _judged(work.sweep, executor(work.sweep.suite.jobs(), work))


def follow(suite: Suite, *, data_dir: Path, device: str, deterministic: bool) -> None:
    """Train with the process that runs this suite, and do nothing else, until it is done.

    Raises:
        UmBenchError: if this process cannot, or breaks off.
    """
    device = choose_device(device, deterministic=deterministic)
    sets = open_sets(suite, data_dir, auxiliary=bool(with_outliers(bind_adapters(suite))))
    if isinstance(sets, MissingDataError):
        # The first process trains nothing then, unless its folder is another one.
        if distributed.told() is not None:
            raise sets
        return
    auxiliary = sets.auxiliary if isinstance(sets.auxiliary, ImageSet) else None
    with _threads(suite.preprocessing.size):
        together.follow(sets.train, auxiliary, device)


def _judged(sweep: Sweep, records: Iterator[Record]) -> Iterator[Record]:
    """Yield the records; after the last one, write what their differences are worth."""
    yield from records
    with sweep.stopwatch.during("statistics"):
        write_statistics(sweep.folder)


class _Jobs:
    """The jobs of a sweep, as `executors.Work` describes them."""

    def __init__(
        self,
        opening: Callable[..., Sweep],
        report: Report,
        stopwatch: Stopwatch,
    ) -> None:
        self.report = report
        self.stopwatch = stopwatch
        self._opening = opening
        self.sweep = opening(
            on_progress=lambda progress: self.report(progress), stopwatch=self.stopwatch
        )
        self.device, self.folder = self.sweep.device, self.sweep.folder
        self.threads = threads_for(self.sweep.suite.preprocessing.size)

    def __call__(self, job: Job, *, wait: bool) -> Iterator[Record]:
        return run_job(self.sweep, job, wait=wait)

    def amount(self, job: Job) -> float:
        return self.sweep.work(job)

    def needs(self, job: Job) -> Hashable:
        return job.seed if self.sweep.suite.trains_base else None

    def elsewhere(self, threads: int) -> Callable[[], "_Jobs"]:
        return functools.partial(_jobs, self._opening, threads)

    def memory(self) -> executors.Memory:
        if not self.device.startswith("cuda"):
            return executors.Memory(0, 0)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return executors.Memory(torch.cuda.max_memory_reserved(self.device), free)

    def give_up(self, job: Job, error: WorkerError, seen: Collection[Cell]) -> Iterator[Record]:
        path = job_file(self.sweep.folder, job)
        with held(path, wait=True):
            cells = [cell for cell in self.sweep.suite.cells(job) if cell not in seen]
            yield from _settle(self.sweep, _open(path), cells, error)


def _jobs(opening: Callable[..., Sweep], threads: int) -> _Jobs:
    torch.set_num_threads(threads)
    return _Jobs(opening, lambda _: None, Stopwatch())


def run_job(sweep: Sweep, job: Job, *, wait: bool = True) -> Iterator[Record]:
    """Yield a record for every cell of one job; what is still true is taken from its file.

    Args:
        sweep: what the jobs share.
        job: one of its jobs.
        wait: whether to wait for another process that is at work on the job.

    Raises:
        BusyError: if there is one and it is not to be waited for.
        StorageError: if results cannot be written.
    """
    path = job_file(sweep.folder, job)
    with held(path, wait=wait), _threads(sweep.suite.preprocessing.size):
        file = _open(path)
        yield from _run_job(sweep, job, file)
        with sweep.stopwatch.during("statistics"):
            update_replicates(sweep.folder, job, file.records.values())


def _open(path: Path) -> JobFile:
    """Return a job's records, having said where damaged ones were set aside."""
    file = JobFile(path)
    if file.damaged:
        log.warning(
            "%d damaged records set aside in %s; their cells are computed anew",
            file.damaged,
            file.aside,
        )
    return file


def _run_job(sweep: Sweep, job: Job, file: JobFile) -> Iterator[Record]:
    sweep.meter.begin(sweep.work(job))
    cells = list(sweep.suite.cells(job))
    log.info("seed %d, %s: %d cells to fill or find", job.seed, job.adapter, len(cells))
    for error, hopeless in _hopeless(sweep, cells):
        cells = [cell for cell in cells if cell not in hopeless]
        yield from _settle(sweep, file, hopeless, error)
    if cells:
        yield from _run_cells(sweep, job, file, cells)
    sweep.meter.end(job)


@contextlib.contextmanager
def _threads(size: int) -> Iterator[None]:
    """Compute on as many threads as images of this size are worth."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_for(size))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hopeless(sweep: Sweep, cells: Sequence[Cell]) -> list[tuple[UmBenchError, list[Cell]]]:
    """Return the cells that are known to have no numbers before anything runs, by reason."""
    if isinstance(sweep.sets, MissingDataError):
        return [(sweep.sets, list(cells))]
    adapter = sweep.adapters[cells[0].job.adapter]
    if isinstance(adapter, PluginError):
        return [(adapter, list(cells))]
    by_reason: dict[UmBenchError, list[Cell]] = {}
    for cell in cells:
        obstacle = sweep.obstacle(cell)
        if obstacle is not None:
            by_reason.setdefault(obstacle, []).append(cell)
    return list(by_reason.items())


def _run_cells(sweep: Sweep, job: Job, file: JobFile, cells: list[Cell]) -> Iterator[Record]:
    """Yield the records of cells that can be computed, and compute those that have to be."""
    try:
        origin = _origin(sweep, job)
    except UsageError:
        raise  # the backbone or checkpoint that was given: no cell of the sweep could be computed
    except Exception as error:
        yield from _settle(sweep, file, cells, _contained(error))
        return
    _mark_stale(file, origin.key)
    _mark_stale_trajectories(sweep, origin)
    if not sweep.retry_failed:
        failed = [cell for cell in cells if _has_failed(file, cell, origin.key)]
        yield from (file.records[cell] for cell in failed)
        cells = [cell for cell in cells if cell not in failed]
    if not cells:
        return
    known = None if _to_track(sweep, origin) else _known_weights(sweep, origin, file)
    if known is not None and all(_is_true(sweep, origin, known, file, cell) for cell in cells):
        yield from (file.records[cell] for cell in cells)
        return
    try:
        model = _adapted(sweep, origin)
    except Exception as error:
        yield from _settle(sweep, file, cells, _contained(error), origin.key)
        return
    yield from _score_cells(sweep, origin, model, file, cells)


def _origin(sweep: Sweep, job: Job) -> Origin:
    """Return what a job's model is made from; its base classifier is trained if it has to be."""
    sets, adapter = sweep.sets, sweep.adapters[job.adapter]
    assert isinstance(sets, Sets)
    assert isinstance(adapter, Adapter)
    base = sweep.base(job.seed)
    origin = Origin(job, "", base, sets, adapter)
    key = job_key(
        sweep.suite,
        job.adapter,
        adapter,
        job.seed,
        base.weights,
        sets.train,
        origin.auxiliary(),
    )
    return origin._replace(key=key)


def _to_track(sweep: Sweep, origin: Origin) -> bool:
    """Return whether the trajectory of a job's training is asked for, and not there."""
    track = sweep.track(origin.job, origin.key)
    return track is not None and not track.is_there()


def _adapted(sweep: Sweep, origin: Origin) -> Model:
    job = origin.job
    work = sweep.epochs_work(job)
    with sweep.stopwatch.during("adapt"):
        return adapted_model(
            sweep.suite,
            origin.adapter,
            origin.base,
            origin.sets.train,
            origin.auxiliary(),
            _model_file(sweep, origin),
            files=origin.sets.files,
            seed=job.seed,
            device=sweep.device,
            on_epoch=sweep.meter.epochs(f"training {job.adapter}", job, work),
            track=sweep.track(job, origin.key),
        )


def _model_file(sweep: Sweep, origin: Origin) -> Path:
    return sweep.models / f"{origin.key[:24]}.safetensors"


def _score_cells(
    sweep: Sweep, origin: Origin, model: Model, file: JobFile, cells: Sequence[Cell]
) -> Iterator[Record]:
    """Yield the records of a model's cells, detector by detector; each is written first."""
    todo: dict[str, list[Cell]] = {}
    for cell in cells:
        if _is_true(sweep, origin, model.weights, file, cell):
            yield file.records[cell]
        else:
            todo.setdefault(cell.detector, []).append(cell)
    readers = layer_readers(sweep, origin, itertools.chain.from_iterable(todo.values()))
    passes = Passes(
        model.classifier.to(sweep.device), sweep.device, readers, stopwatch=sweep.stopwatch
    )
    untouched = Untouched(passes.classifier)
    for label, its_cells in todo.items():
        with sweep.stopwatch.during("score"):
            records = _score_detector(sweep, origin, model, passes, its_cells)
        raised = untouched.alarms()
        records = [dataclasses.replace(r, alarms={**r.alarms, **raised}) for r in records]
        records = _timed(sweep, records)
        file.put(records)
        yield from records
        stage = f"scoring {origin.job.adapter} with {label}"
        sweep.meter.advance(stage, origin.job, sweep.scoring_work(label))


def _timed(sweep: Sweep, records: list[Record]) -> list[Record]:
    """Return what was computed just now, with the time since the last that was."""
    sweep.stopwatch.computed += len(records)
    return [dataclasses.replace(records[0], spent=sweep.stopwatch.lap()), *records[1:]]


def _score_detector(
    sweep: Sweep, origin: Origin, model: Model, passes: Passes, cells: Sequence[Cell]
) -> list[Record]:
    binding, test = bound(sweep, cells[0]), origin.sets.test
    wider = any(sweep.ood_set(cell).full_spectrum for cell in cells)
    shifted = origin.shifted() if wider else []
    try:
        known = score_id(passes, binding, origin.fit_sets(binding), test, shifted)
    except Exception as error:
        reason = _contained(error)
        return [without_numbers(sweep, origin, model, cell, reason) for cell in cells]
    records = []
    for cell in cells:
        try:
            ood, spectrum = origin.ood_set(cell), sweep.ood_set(cell).full_spectrum
            scored = score_ood(passes, known, ood, full_spectrum=spectrum)
            scored.metrics["base_id_accuracy"] = (
                scored.metrics["id_accuracy"]
                if model.weights == origin.base.weights
                else sweep.base_accuracy(origin.job.seed)
            )
            records.append(with_numbers(sweep, origin, model, cell, scored))
        except Exception as error:
            records.append(without_numbers(sweep, origin, model, cell, _contained(error)))
    return records


def _contained(error: Exception) -> Exception:
    """Return the error, or raise it where it is the disk's or other processes', not a cell's."""
    if isinstance(error, StorageError | DistributedError):
        raise error
    return error


def _known_weights(sweep: Sweep, origin: Origin, file: JobFile) -> str | None:
    """Return the hash of the adapted weights where it can be told without making them."""
    if isinstance(origin.adapter, NoAdapter):
        return origin.base.weights
    metadata = read_metadata(_model_file(sweep, origin))
    if metadata is not None:
        return str(metadata["weights"])
    done = [r for r in file.records.values() if r.state == "done" and r.job_key == origin.key]
    return done[0].weights["adapted"] if done else None


def _is_true(sweep: Sweep, origin: Origin, weights: str, file: JobFile, cell: Cell) -> bool:
    """Return whether a cell's record is there, made from exactly what it would be made from now."""
    record = file.records.get(cell)
    if record is None or record.state not in ("done", "unsupported"):
        return False
    if record.key != key_of(sweep, origin, weights, cell):
        return False
    return not record.scores or is_whole(sweep.folder / record.scores, record.scores_check)


def _has_failed(file: JobFile, cell: Cell, key: str) -> bool:
    record = file.records.get(cell)
    return record is not None and record.state == "failed" and record.job_key == key


def _mark_stale(file: JobFile, key: str) -> None:
    """Mark the records that were made from another model or other data than this job's."""
    old = [
        dataclasses.replace(record, state="stale", reason="what it was made from has changed")
        for record in file.records.values()
        if record.state == "done" and record.job_key != key
    ]
    if old:
        file.put(old)


def _mark_stale_trajectories(sweep: Sweep, origin: Origin) -> None:
    """Mark those of another model than this job's, and of another base classifier."""
    suite, job = sweep.suite, origin.job
    mark_stale(sweep.folder, job, origin.key)
    if suite.trains_base:
        key = base_key(suite, job.seed, origin.sets.train)
        mark_stale(sweep.folder, job._replace(adapter=BASE), key)


def _settle(
    sweep: Sweep, file: JobFile, cells: Sequence[Cell], error: Exception, key: str = ""
) -> Iterator[Record]:
    """Write and yield the records of cells for which there is no model, with the reason.

    Numbers of before stay where the reason says nothing against them: what is needed to tell
    whether they are still true is not here at the moment.
    """
    absent = isinstance(error, MissingDataError | PluginError | WorkerError)
    kept = [c for c in cells if absent and c in file.records and file.records[c].state == "done"]
    failed = [without_model(sweep, cell, error, key) for cell in cells if cell not in kept]
    # What is absent took no time of its own, and is told anew by every run.
    file.put(failed if absent or not failed else _timed(sweep, failed))
    yield from (file.records[cell] for cell in cells)
