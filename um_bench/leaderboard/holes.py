"""What has no numbers, and why."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from um_bench.leaderboard.arrangement import Arrangement
from um_bench.leaderboard.board import NOT_RUN, STATES, Hole, RowKey

T = TypeVar("T")


def holes_of(sweep: Arrangement) -> tuple[tuple[Hole, ...], dict[str, int]]:
    """Return the cells without numbers by reason, and how many cells are in which state."""
    found: dict[tuple[str, str], list[tuple[RowKey, str, int]]] = {}
    done = 0
    for key in _expected(sweep):
        cells = sweep.rows.get(key, {})
        for place in ((ood.name, seed) for ood in sweep.info.ood for seed in sweep.info.seeds):
            record = cells.get(place)
            if record and record.state == "done":
                done += 1
                continue
            why = (record.state, record.reason) if record else (NOT_RUN, "")
            found.setdefault(why, []).append((key, *place))
    holes = [_hole(*why, places) for why, places in found.items()]
    holes.sort(key=lambda hole: (STATES.index(hole.state), -hole.cells, hole.reason))
    counts = Counter({"done": done} if done else {})
    for hole in holes:
        counts[hole.state] += hole.cells
    return tuple(holes), {state: counts[state] for state in STATES if state in counts}


def _expected(sweep: Arrangement) -> Iterator[RowKey]:
    """Yield every row that has a record, and every one that the suite names."""
    yield from sweep.rows
    info = sweep.info
    for id_set, backbone in dict.fromkeys((key.id_set, key.backbone) for key in sweep.rows):
        for adapter, detector in itertools.product(info.adapters, info.detectors):
            key = RowKey(id_set, backbone, info.tracks.get(adapter, ""), adapter, detector)
            if key not in sweep.rows:
                yield key


def _hole(state: str, reason: str, places: Sequence[tuple[RowKey, str, int]]) -> Hole:
    return Hole(
        state=state,
        reason=reason,
        cells=len(places),
        adapters=_unique(key.adapter_label for key, _, _ in places),
        detectors=_unique(key.detector_label for key, _, _ in places),
        ood_sets=_unique(ood_set for _, ood_set, _ in places),
        seeds=tuple(sorted({seed for _, _, seed in places})),
    )


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
