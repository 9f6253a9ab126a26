"""How far a sweep is, counted in images forwarded."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from um_bench.suite import Job

if TYPE_CHECKING:
    from um_bench.training import EpochDone, Moment  # imports torch, which takes seconds


class Progress(NamedTuple):
    """Work done so far; a training step on an image counts as three forwards."""

    stage: str
    job: Job
    done: float
    total: float
    worker: int = 0
    """Which of several processes is at it, from 1 on; 0 = this one."""


Report = Callable[[Progress], None]


class Meter:
    """Adds up the work of one job after another, and reports it."""

    def __init__(self, report: Report) -> None:
        self.total = 0.0
        self.done = 0.0
        self._report = report
        self._end_of_job = 0.0

    def begin(self, work: float) -> None:
        """Start a job of so much work."""
        self._end_of_job = self.done + work

    def advance(self, stage: str, job: Job, work: float) -> None:
        """Report that a part of the job is done."""
        self.done = min(self.done + work, self._end_of_job)
        self._report(Progress(stage, job, self.done, self.total))

    def epochs(self, stage: str, job: Job, work: Sequence[float]) -> "EpochDone":
        """Return what reports each epoch of a training as it is done.

        Args:
            stage: what the training is called.
            job: that it is for.
            work: of each epoch.
        """

        def report(moment: "Moment") -> None:
            if moment.epoch:
                self.advance(stage, job, work[moment.epoch - 1])

        return report

    def end(self, job: Job) -> None:
        """Report the job's end, whatever part of it was skipped."""
        self.done = self._end_of_job
        self._report(Progress("done", job, self.done, self.total))
