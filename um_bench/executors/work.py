"""What an executor is given, and what it is."""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from um_bench.errors import WorkerError
from um_bench.progress import Report
from um_bench.records import Record
from um_bench.stopwatch import Stopwatch
from um_bench.suite import Cell, Job


class Memory(NamedTuple):
    """Bytes of a GPU; all 0 without one."""

    peak: int
    """The most that this process held at a time."""
    free: int
    """What nobody holds while this process is at rest."""


class Work(Protocol):
    """The way to run a sweep's jobs, here or elsewhere."""

    report: Report
    """Where progress goes."""

    @property
    def device(self) -> str:
        """Return what is computed on, as torch names it."""

    @property
    def folder(self) -> Path:
        """Return where the results are written."""

    @property
    def threads(self) -> int:
        """Return on how many threads of the CPU a job is computed."""

    @property
    def stopwatch(self) -> Stopwatch:
        """Return what counts the time that is spent in this process."""

    def __call__(self, job: Job, *, wait: bool) -> Iterator[Record]:
        """Yield a job's records.

        Args:
            job: what to run.
            wait: whether to wait for another process that is at work on it.

        Raises:
            BusyError: before the first record, if there is one and it is not to be waited for.
        """

    def amount(self, job: Job) -> float:
        """Return a job's work, in the unit of progress."""

    def needs(self, job: Job) -> Hashable:
        """Return what several jobs need and the first of them makes; None where that is nothing."""

    def elsewhere(self, threads: int) -> "Callable[[], Work]":
        """Return what opens the same sweep in another process; it can be pickled.

        Args:
            threads: of the CPU, which a job is computed on there.
        """

    def memory(self) -> Memory:
        """Return what the jobs so far took of the GPU, and let go of what is left of them."""

    def give_up(self, job: Job, error: WorkerError, seen: Collection[Cell]) -> Iterator[Record]:
        """Yield the records of a job's other cells, failed where they have no numbers.

        Args:
            job: what cannot be run to its end.
            error: the reason.
            seen: cells that have their records.
        """


Executor = Callable[[Iterable[Job], Work], Iterator[Record]]
