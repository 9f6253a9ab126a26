"""One job after another, in this process."""

from collections.abc import Iterable, Iterator

from um_bench.errors import BusyError
from um_bench.executors.work import Work
from um_bench.records import Record
from um_bench.suite import Job


def local(jobs: Iterable[Job], work: Work) -> Iterator[Record]:
    """Yield the records of one job after another, in this process.

    Jobs at which another process is at work come last: by then they are done, or left to be done.
    """
    busy = []
    for job in jobs:
        try:
            yield from work(job, wait=False)
        except BusyError:
            busy.append(job)
    for job in busy:
        yield from work(job, wait=True)
