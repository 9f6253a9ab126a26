"""Where the time of a run goes: wall-clock seconds by stage, each second in one stage only."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping

from um_bench.records import Record

STAGES = {
    "data": "reading data",
    "base": "training the base",
    "adapt": "adapting",
    "pass": "pass over the images",
    "fit": "fitting detectors",
    "score": "scoring",
    "statistics": "resampling",
}
"""Stage -> words. All but the last belong to cells, and are in their records as `spent`."""
_OF_CELLS = [stage for stage in STAGES if stage != "statistics"]


class Stopwatch:
    """Adds up the seconds of stages; while one stage is inside another, only the inner one runs."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.computed = 0
        """Cells that were computed, and not taken from their file."""
        self.workers = 1
        """Processes whose seconds are added up."""
        self._stage = ""
        self._since = 0.0
        self._told = self.seconds.copy()

    @contextlib.contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Count the time until the end of the `with` block to a stage, a key of `STAGES`."""
        outer = self._stage
        self._switch(stage)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, stage: str) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def lap(self) -> dict[str, float]:
        """Return the seconds of the stages of cells since the last lap."""
        lap = {stage: self.seconds[stage] - self._told[stage] for stage in _OF_CELLS}
        self._told = self.seconds.copy()
        return {stage: seconds for stage, seconds in lap.items() if seconds}

    def add(self, seconds: Mapping[str, float], computed: int) -> None:
        """Add what another process's stopwatch shows."""
        for stage, its in seconds.items():
            self.seconds[stage] += its
        self.computed += computed


def time_spent(records: Iterable[Record]) -> dict[str, float]:
    """Return the seconds that records took to compute, by stage, a key of `STAGES`.

    No second is counted twice: what cells share is in the record of the first that was computed.
    """
    total = dict.fromkeys(_OF_CELLS, 0.0)
    for record in records:
        for stage, seconds in record.spent.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total
