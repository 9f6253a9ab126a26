"""Where the time of a command went, as a table."""

import time

from um_bench.stopwatch import STAGES, Stopwatch


class Clock:
    """Measures a run from here on; its stages are measured by the stopwatch."""

    def __init__(self) -> None:
        self.stopwatch = Stopwatch()
        self._start = time.perf_counter()

    def report(self, cells: int) -> str:
        """Return what was computed and where the time went: seconds and shares, by stage.

        Args:
            cells: of the run, those included that were there already.
        """
        from tabulate import tabulate

        watch = self.stopwatch
        wall = time.perf_counter() - self._start
        counted = sum(watch.seconds.values())
        whole = max(wall * watch.workers, counted)
        head = f"{watch.computed} of {cells} cells computed now, in {wall:.1f} s"
        if watch.workers > 1:
            head += f" by {watch.workers} processes, whose times are added up"
        stages = {words: watch.seconds[stage] for stage, words in STAGES.items()}
        stages["other"] = whole - counted
        rows = [(words, f"{s:.1f}", f"{100 * s / whole:.0f} %") for words, s in stages.items() if s]
        table = tabulate(
            rows,
            headers=("time", "s", "share"),
            disable_numparse=True,
            colalign=("left", "right", "right"),
        )
        return f"{head}\n\n{table}"
