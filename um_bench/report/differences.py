"""What each adapter changed for each detector, against a reference, with an interval."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from um_bench.leaderboard import REFERENCES, Board, Row, Spread, higher_is_better, spread
from um_bench.statistics import LEVEL, Interval, half_widths


class Change(NamedTuple):
    """One adapter's difference from a reference under one detector."""

    adapter: str
    """Label."""
    detector: str
    """Label."""
    delta: Spread
    """Fractions, with an interval where anything can vary."""

    def verdict(self, metric: str) -> str:
        """Return `gains`, `loses`, or `undecided` where the interval holds 0 or there is none."""
        interval = self.delta.interval
        if interval is None or interval.low <= 0 <= interval.high:
            return "undecided"
        better = (interval.low > 0) == higher_is_better(metric)
        return "gains" if better else "loses"


class Verdicts(NamedTuple):
    """Which detectors an adapter helps."""

    adapter: str
    gains: tuple[str, ...]
    loses: tuple[str, ...]
    undecided: tuple[str, ...]


def changes(board: Board, group: str, reference: str, metric: str) -> list[Change]:
    """Return the differences from a reference on a group's mean, in the suite's order.

    Args:
        board: of one suite.
        group: `near`, `far`, ...
        reference: one of `leaderboard.REFERENCES`; itself and the other one are left out.
        metric: one of `leaderboard.METRICS`.
    """
    found = []
    for row in board.rows:
        deltas = row.groups[group].deltas.get(reference, {}) if group in row.groups else {}
        if row.adapter not in REFERENCES and metric in deltas and deltas[metric].n:
            found.append(Change(row.key.adapter_label, row.key.detector_label, deltas[metric]))
    return found


def verdicts(found: Sequence[Change], metric: str) -> Iterator[Verdicts]:
    """Yield for each adapter which detectors gain, which lose, and which cannot be told."""
    for adapter in dict.fromkeys(change.adapter for change in found):
        its = [change for change in found if change.adapter == adapter]
        by_verdict = {
            verdict: tuple(c.detector for c in its if c.verdict(metric) == verdict)
            for verdict in ("gains", "loses", "undecided")
        }
        yield Verdicts(adapter, **by_verdict)


def between(ours: Row, theirs: Row, of: Callable[[Row], Spread]) -> Spread | None:
    """Return one row's quantity minus another's, over the seeds that pair.

    For two rows of which neither is a reference. The interval is over seeds: these differences
    have no replicates over images.

    Returns:
        None where no seed has both, or the rows' base weights differ.
    """
    one, other = (of(row).by_seed for row in (ours, theirs))
    seeds = sorted(one.keys() & other.keys())
    if not seeds or _bases(ours, seeds) != _bases(theirs, seeds):
        return None
    return over_seeds({seed: one[seed] - other[seed] for seed in seeds})


def over_seeds(differences: dict[int, float]) -> Spread:
    """Return differences by seed with mean, SD and, for several seeds, an interval over seeds."""
    found = spread(differences)
    halves, over = half_widths(np.array([[*differences.values()]]), None)
    if found.mean is None or over == "nothing":
        return found
    half = float(halves[0])
    return found._replace(interval=Interval(found.mean - half, found.mean + half, LEVEL, over))


def _bases(row: Row, seeds: Iterable[int]) -> set[tuple[int, str]]:
    return {
        (slot.seed, slot.record.weights.get("base", ""))
        for slot in row.slots
        if slot.seed in seeds and slot.record is not None
    }
