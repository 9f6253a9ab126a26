"""Where jobs run. This process for now; an executor is any function of this shape."""

from collections.abc import Callable, Iterable, Iterator

from um_bench.records import Record
from um_bench.suite import Job

RunJob = Callable[[Job], Iterator[Record]]
Executor = Callable[[Iterable[Job], RunJob], Iterator[Record]]


def local(jobs: Iterable[Job], run_job: RunJob) -> Iterator[Record]:
    """Yield the records of one job after another, in this process."""
    for job in jobs:
        yield from run_job(job)
