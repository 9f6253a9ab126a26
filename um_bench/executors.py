"""Where jobs run. This process for now; an executor is any function of this shape."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from um_bench.errors import BusyError
from um_bench.records import Record
from um_bench.suite import Job


class RunJob(Protocol):
    """What an executor is given to run a job."""

    def __call__(self, job: Job, *, wait: bool) -> Iterator[Record]:
        """Yield a job's records.

        Args:
            job: what to run.
            wait: whether to wait for another process that is at work on it.

        Raises:
            BusyError: before the first record, if there is one and it is not to be waited for.
        """


Executor = Callable[[Iterable[Job], RunJob], Iterator[Record]]


def local(jobs: Iterable[Job], run_job: RunJob) -> Iterator[Record]:
    """Yield the records of one job after another, in this process.

    Jobs at which another process is at work come last: by then they are done, or left to be done.
    """
    busy = []
    for job in jobs:
        try:
            yield from run_job(job, wait=False)
        except BusyError:
            busy.append(job)
    for job in busy:
        yield from run_job(job, wait=True)
