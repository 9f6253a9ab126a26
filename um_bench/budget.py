"""A time after which no new job is started, and the order that leaves most where it is cut off."""

import re
import time
from collections.abc import Callable, Iterable, Iterator

from um_bench.errors import UsageError
from um_bench.executors import Executor, Work
from um_bench.records import Record
from um_bench.suite import Job, parse_adapter, parts_of

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as `30m`, `1h30m` or `90s`.

    Raises:
        UsageError: if it is none, or nothing.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    given = zip(found.groups(), _UNITS.values(), strict=True) if found else ()
    seconds = sum(float(number) * unit for number, unit in given if number)
    if not seconds:
        raise UsageError(f"{text!r} is no time; write it as in 30m, 1h30m or 90s")
    return seconds


def cheapest_first(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs seed by seed, and in each seed by what they cost.

    First the classifier as it is, then `finetune`, to which all others are compared, then one
    training, then those of several parts and stages. So that a cut leaves whole seeds, and in the
    last one the rows without which the others say nothing.
    """
    given = list(jobs)
    seeds = list(dict.fromkeys(job.seed for job in given))

    def cost(job: Job) -> tuple[int, int, int, int]:
        stages = parse_adapter(job.adapter)
        control = _CONTROLS.index(job.adapter) if job.adapter in _CONTROLS else 2
        return seeds.index(job.seed), control, len(stages), len(parts_of(stages))

    return sorted(given, key=cost)


_CONTROLS = ("none", "finetune")


class Budget:
    """Jobs are started as long as there is time; one that has begun is finished.

    Args:
        seconds: from the first job on; loading the data is not counted.
        clock: returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.left: list[Job] = []
        """Jobs that were not started, once the others are done."""
        self._clock = clock

    def over(self, executor: Executor) -> Executor:
        """Return an executor that starts no job after the time is up."""

        def limited(jobs: Iterable[Job], work: Work) -> Iterator[Record]:
            return executor(self.take(jobs), work)

        return limited

    def take(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Yield jobs, cheapest first, until the time is up; there is always a first one."""
        self.left = cheapest_first(jobs)
        end = self._clock() + self.seconds
        first = True
        while self.left and (first or self._clock() < end):
            first = False
            yield self.left.pop(0)
