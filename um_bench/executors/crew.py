"""Several jobs at once, each in a worker process; a worker that dies costs its job a second try."""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from um_bench.errors import WorkerError
from um_bench.executors import worker
from um_bench.executors.ledger import Ledger, in_turn
from um_bench.executors.work import Executor, Memory, Work
from um_bench.progress import Progress
from um_bench.records import Record
from um_bench.suite import Job

MOST = 8
"""Workers that are started where nobody says how many."""
CONTEXT = 600 * 2**20
"""Bytes of a GPU that a process takes before it computes anything."""
_SPARE = 0.8
"""Share of the free memory that is planned with."""
_TRIES = 2
"""How often a job is started whose worker dies."""

log = logging.getLogger("um_bench")


def processes(number: int | None) -> Executor:
    """Return an executor that runs so many jobs at once, each in a process of its own.

    Records come in the order of the jobs. All workers compute on the same device; on a CPU they
    share its cores. An interrupt, or the end of this process, ends them.

    Args:
        number: of processes. None is as many as do not change what a job computes on: on a CPU,
            where each has as many cores as a job alone uses threads; on a GPU, where its memory
            holds them, as the first job shows. At most `MOST` then.
    """

    def run(jobs: Iterable[Job], work: Work) -> Iterator[Record]:
        yield from _Crew(tuple(jobs), work, number).records()

    return run


def shared(number: int | None, cores: int, threads: int, *, on_gpu: bool) -> tuple[int, int]:
    """Return how many processes there are at most, and on how many threads each computes.

    Args:
        number: as was asked for.
        cores: that all of them may use.
        threads: that one alone would use.
        on_gpu: whether the cores have little to do.
    """
    most = number or (MOST if on_gpu else max(1, min(MOST, cores // threads)))
    return most, min(threads, max(1, cores // most))


def fitting(peak: int, free: int) -> int:
    """Return how many processes a GPU holds, the first one included.

    Args:
        peak: bytes that one needs at most.
        free: bytes that are free while one is there and at rest.
    """
    return max(1, min(MOST, int((_SPARE * free + CONTEXT) / (peak + CONTEXT))))


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    channel: Connection
    ready: bool = False
    order: worker.Order | None = None
    done: float = 0.0
    """How far its job is."""


class _Crew:
    """The workers of one sweep, what they are at, and what came of it."""

    def __init__(self, jobs: Sequence[Job], work: Work, number: int | None) -> None:
        self._work, self._ledger = work, Ledger(jobs, work)
        self._workers: list[_Worker] = []
        self._deaths: Counter[Job] = Counter()
        self._peak = self._free = 0
        on_gpu = work.device.startswith("cuda")
        self._by_memory = number is None and on_gpu
        most, self._threads = shared(number, _cores(), work.threads, on_gpu=on_gpu)
        self._size = 1 if self._by_memory else most
        if self._by_memory and jobs:
            self._ledger.put_first(max(in_turn(jobs, work), key=work.amount))
        if self._threads < work.threads and not on_gpu:
            log.warning(
                "%d at once, each on %d of %d threads: on a CPU, what is trained depends on that; "
                "records say on how many they were computed",
                *(most, self._threads, work.threads),
            )

    def records(self) -> Iterator[Record]:
        """Yield all records in the order of the jobs, each as soon as it can be."""
        try:
            while self._ledger.open:
                self._hand_out()
                for channel in wait([its.channel for its in self._workers]):
                    self._listen(next(w for w in self._workers if w.channel is channel))
                yield from self._ledger.due()
            for its in self._workers:
                with contextlib.suppress(OSError):
                    its.channel.send(None)
        except BaseException:
            for its in self._workers:
                its.process.terminate()
            raise
        finally:
            self._bid_farewell()

    # --- Jobs to workers ---

    def _hand_out(self) -> None:
        """Give jobs to idle workers, and start workers while there are too few."""
        while sum(its.order is not None for its in self._workers) < self._size:
            order = self._ledger.take()
            if order is None:
                return
            idle = [its for its in self._workers if its.order is None]
            its = idle[0] if idle else self._started()
            its.order, its.done = order, 0.0
            with contextlib.suppress(OSError):  # it is dead: its channel says so next
                its.channel.send(order)

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork has no working CUDA
        ours, theirs = context.Pipe()
        taken = {its.number for its in self._workers}
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        settings = worker.settings()
        process = context.Process(
            target=worker.serve,
            args=(theirs, pickle.dumps(self._work.elsewhere(self._threads)), settings),
            name=f"um-bench worker {number}",
        )
        with _interrupts_held_back():
            process.start()
            its = _Worker(number, process, ours)
            self._workers.append(its)
        watch = self._work.stopwatch
        watch.workers = max(watch.workers, len(self._workers))
        theirs.close()
        return its

    # --- What workers say ---

    def _listen(self, its: _Worker) -> None:
        """Take in one message of a worker, or its end."""
        try:
            message = its.channel.recv()
        except (EOFError, OSError):
            self._bury(its)
            return
        if isinstance(message, worker.Ready):
            its.ready = True
        elif isinstance(message, logging.LogRecord):
            worker.say(message)
        elif isinstance(message, worker.Broken):
            raise message.with_trace()
        else:
            assert its.order is not None
            self._take(its, its.order.job, message)

    def _take(self, its: _Worker, job: Job, message: object) -> None:
        """Take in what a worker says of its job."""
        if isinstance(message, Record):
            self._ledger.keep(message)
        elif isinstance(message, Progress):
            its.done = message.done
            if message.job == job:  # that of a base classifier has a name of its own
                self._ledger.makes(job)
            running = sum(one.done for one in self._workers)
            self._ledger.heard(message, running, its.number)
        elif isinstance(message, worker.Busy):
            self._ledger.busy(job)
            its.order = None
        elif isinstance(message, worker.Ended):
            self._work.stopwatch.add(message.seconds, message.computed)
            self._fit(message.memory)
            its.order, its.done = None, 0.0
            self._ledger.end(job)

    def _fit(self, memory: Memory) -> None:
        """Set how many workers there are by the memory that jobs took so far."""
        if not self._by_memory or not memory.peak:
            return
        self._free = self._free or memory.free
        self._peak = max(self._peak, memory.peak)
        self._size = fitting(self._peak, self._free)

    # --- Ends of workers ---

    def _bury(self, its: _Worker) -> None:
        """Start the job of a dead worker once more, or let it fail."""
        self._workers.remove(its)
        its.process.join()
        how = _ending(its.process.exitcode)
        if not its.ready and (its.process.exitcode or 0) > 0:
            raise WorkerError(
                f"worker process {its.number} {how} before it could begin. In a script, call "
                'run_suite below `if __name__ == "__main__":`; --jobs 1 runs without workers.'
            )
        if its.order is None:
            return
        job = its.order.job
        self._deaths[job] += 1
        named = f"worker {its.number} (process {its.process.pid}) {how} at seed {job.seed}: "
        if self._deaths[job] < _TRIES:
            log.warning("%s%s; the job is started again", named, job.adapter)
            self._ledger.again(its.order)
            return
        log.warning("%s%s, the second time; its other cells fail", named, job.adapter)
        error = WorkerError(
            f"its worker process {how}, {_TRIES} times. Where memory is short, fewer at once "
            "(--jobs) may help; the next run tries again."
        )
        self._ledger.give_up(job, error)

    def _bid_farewell(self) -> None:
        """Wait for the ends of all workers, and see to them."""
        for its in self._workers:
            its.process.join(worker.GRACE)
            if its.process.is_alive():
                its.process.kill()
                its.process.join()
            its.channel.close()
        self._workers.clear()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the `with` block; a process begun in it never sees it.

    It would be interrupted in its imports, and print where.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
