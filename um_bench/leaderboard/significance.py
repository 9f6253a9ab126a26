"""What differences between rows are worth: an interval for each, and ranks with ties.

They are worked out from replicates where scores are kept, and otherwise over seeds alone. As the
scores stay with whoever ran the suite, the outcome is written beside the records, into
`statistics.json`, which holds for exactly the records that it was made from.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, get_args

from um_bench.comparability import References, Section
from um_bench.leaderboard.board import (
    Info,
    Judgement,
    Part,
    Place,
    Ranking,
    Row,
    RowKey,
    Table,
    higher_is_better,
)
from um_bench.records import UNREADABLE, Record, content_key, write_atomically
from um_bench.statistics import (
    ALPHA,
    LEVEL,
    METRICS,
    REPLICATES,
    Interval,
    Over,
    RankRange,
)
from um_bench.suite import Cell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "statistics.json"
MOST_RANKED = 250
"""Rows of a table: each is compared with every other, in a thousand rotated tables."""
_SCHEMA = 2
_DIGITS = 9

Resampled: TypeAlias = Mapping[Cell, "NDArray[np.float32]"]
"""Cell -> (M, B): replicates of `METRICS`."""
_Done: TypeAlias = Mapping[tuple[str, int], Record]
"""One row's done cells by (OOD set, seed)."""


def judge(rows: Sequence[Row], references: References, resampled: Resampled) -> Judgement:
    """Return what the differences between rows, and to their references, are worth.

    Args:
        rows: all of a leaderboard.
        references: the adapters that others are compared with.
        resampled: replicates of the cells whose scores are kept.
    """
    judged = Judgement()
    done = {row.key: _done(row) for row in rows}
    by_names = {key._replace(auxiliary=""): cells for key, cells in done.items()}
    for row in rows:
        labels = references.get((row.key.id_set, row.key.backbone), {})
        for place, part in _parts(row):
            for reference, label in labels.items():
                theirs = by_names.get(row.key._replace(auxiliary="", adapter_label=label), {})
                sides = _Sides(part, done[row.key], theirs)
                _judge_part(judged, (place, reference), sides, resampled)
    for table, its in _tables(rows):
        _rank(judged, table, its, done, resampled)
    return judged


class _Sides(NamedTuple):
    """A part of a row, its cells, and its reference's."""

    part: Part
    ours: _Done
    theirs: _Done


def _done(row: Row) -> dict[tuple[str, int], Record]:
    return {
        (slot.ood_set, slot.seed): slot.record
        for slot in row.slots
        if slot.record and slot.state == "done"
    }


def _parts(row: Row) -> Iterator[tuple[Place, Part]]:
    for name, part in row.groups.items():
        yield Place(row.key, "groups", name), part
    for name, part in row.sets.items():
        yield Place(row.key, "sets", name), part


def _judge_part(
    judged: Judgement, place: tuple[Place, str], sides: _Sides, resampled: Resampled
) -> None:
    import numpy as np  # late, here and below: a page whose statistics are known needs none

    from um_bench.statistics import half_widths

    deltas = sides.part.deltas.get(place[1], {})
    if not deltas or not deltas[METRICS[0]].by_seed:
        return
    differences = np.array([[*deltas[metric].by_seed.values()] for metric in METRICS])
    replicates = _differences(sides, list(deltas[METRICS[0]].by_seed), resampled)
    halves, over = half_widths(differences, replicates)
    if over != "nothing":
        judged.half_widths[place] = dict(zip(METRICS, map(_rounded, halves), strict=True))
        judged.over[place] = over


def _differences(
    sides: _Sides, seeds: Sequence[int], resampled: Resampled
) -> "NDArray[np.float64] | None":
    """Return replicates (M, n, B) of the differences, or None if any are missing."""
    import numpy as np

    by_seed = []
    for seed in seeds:
        ours = _mean_replicates(sides.ours, sides.part.averaged, seed, resampled)
        theirs = _mean_replicates(sides.theirs, sides.part.averaged, seed, resampled)
        if ours is None or theirs is None:
            return None
        by_seed.append(ours - theirs)
    return np.stack(by_seed, axis=1)


def _mean_replicates(
    cells: _Done, sets: Sequence[str], seed: int, resampled: Resampled
) -> "NDArray[np.float64] | None":
    """Return replicates (M, B) of one model's mean over sets, or None if any are missing."""
    import numpy as np

    found = [resampled.get(cells[name, seed].cell) for name in sets]
    kept = [values for values in found if values is not None]
    return np.mean(kept, axis=0, dtype=np.float64) if len(kept) == len(found) else None


# --- Ranks ---


def _tables(rows: Sequence[Row]) -> Iterator[tuple[Table, list[Row]]]:
    """Yield each table's rows: those that are complete, if they are of the same images."""
    for section, members in itertools.groupby(
        sorted(rows, key=lambda row: row.key.section), key=lambda row: row.key.section
    ):
        its = list(members)
        for group in its[0].groups:
            complete = [row for row in its if row.groups[group].complete]
            if 1 < len(complete) <= MOST_RANKED and _same_images(complete, group):
                for metric in METRICS:
                    yield Table(section, group, metric), complete


def _same_images(rows: Sequence[Row], group: str) -> bool:
    prints: dict[str, set[tuple[str | None, ...]]] = {}
    for slot in (slot for row in rows for slot in row.slots if slot.group == group):
        assert slot.record  # of a complete row
        its = tuple(slot.record.fingerprints.get(role) for role in ("id", "ood", "shifted"))
        prints.setdefault(slot.ood_set, set()).add(its)
    return all(len(found) == 1 for found in prints.values())


def _rank(
    judged: Judgement,
    table: Table,
    rows: Sequence[Row],
    done: Mapping[RowKey, _Done],
    resampled: Resampled,
) -> None:
    from um_bench.statistics import Sampled, rank

    place = METRICS.index(table.metric)
    sampled: dict[RowKey, dict[int, Sampled]] = {}
    for row in rows:
        part = row.groups[table.group]
        for seed, value in part.metrics[table.metric].by_seed.items():
            found = _mean_replicates(done[row.key], part.averaged, seed, resampled)
            its = None if found is None else found[place]
            sampled.setdefault(row.key, {})[seed] = Sampled(value, its)
    values = [one for its in sampled.values() for one in its.values()]
    if any(one.replicates is None for one in values):
        sampled = {
            key: {seed: Sampled(one.value) for seed, one in its.items()}
            for key, its in sampled.items()
        }
    ranks = rank(sampled, higher_is_better=higher_is_better(table.metric))
    if ranks.over == "nothing":
        return
    judged.tables[table] = Ranking(
        ranks.over, len(rows), ranks.seeds, ranks.separated, ranks.pairs, ranks.alpha
    )
    for key, its_range in ranks.by_row.items():
        judged.ranks[Place(key, "groups", table.group), table.metric] = its_range


# --- Onto the rows ---


def with_judgement(row: Row, judged: Judgement) -> Row:
    """Return the row with the intervals of its differences, and its ranks."""

    def of(kind: str, parts: Mapping[str, Part]) -> dict[str, Part]:
        return {name: _with(part, Place(row.key, kind, name)) for name, part in parts.items()}

    def _with(part: Part, place: Place) -> Part:
        deltas = {}
        for reference, its in part.deltas.items():
            halves = judged.half_widths.get((place, reference), {})
            over = judged.over.get((place, reference), "nothing")
            intervals = {m: _interval(its[m].mean, half, over) for m, half in halves.items()}
            deltas[reference] = {
                metric: value._replace(interval=intervals[metric]) if metric in intervals else value
                for metric, value in its.items()
            }
        ranks = {m: judged.ranks[place, m] for m in METRICS if (place, m) in judged.ranks}
        return part._replace(deltas=deltas, ranks=ranks)

    return dataclasses.replace(row, sets=of("sets", row.sets), groups=of("groups", row.groups))


def _interval(mean: float | None, half: float | None, over: Over) -> Interval | None:
    if mean is None or half is None:
        return None
    return Interval(mean - half, mean + half, LEVEL, over)


# --- Files ---


def digest_of(records: Iterable[Record], info: Info | None) -> str:
    """Return what is equal for the same cells with the same scores, in whatever order."""
    cells = sorted(
        (*r.job, r.detector_label, r.ood_set, r.state, r.key, r.scores_check) for r in records
    )
    # What a suite says of itself in words moves no number.
    plain = dataclasses.replace(info, title="", description="", papers=()) if info else None
    suite = dataclasses.asdict(plain) if plain else {}
    suite.pop("id_test", None)
    return content_key("statistics", _SCHEMA, REPLICATES, suite or None, cells)[:16]


def to_json(judged: Judgement, of: str) -> str:
    """Return a judgement as JSON, a line for each part of a row."""
    parts: dict[Place, dict[str, Any]] = {}
    for (place, reference), halves in judged.half_widths.items():
        its = {"over": judged.over[place, reference], **halves}
        parts.setdefault(place, {}).setdefault("half_widths", {})[reference] = its
    for (place, metric), its_range in judged.ranks.items():
        parts.setdefault(place, {}).setdefault("ranks", {})[metric] = its_range
    lines = [
        json.dumps({**place.row._asdict(), "kind": place.kind, "name": place.name, **its})
        for place, its in parts.items()
    ]
    tables = [
        json.dumps({**t.section._asdict(), "group": t.group, "metric": t.metric, **r._asdict()})
        for t, r in judged.tables.items()
    ]
    head = {
        "schema": _SCHEMA,
        "of": of,
        "level": LEVEL,
        "alpha": ALPHA,
        "replicates": REPLICATES,
    }
    return (
        f'{json.dumps(head)[:-1]}, "tables": [\n{_joined(tables)}], "parts": [\n{_joined(lines)}]}}'
    )


def _joined(lines: Sequence[str]) -> str:
    return "".join(f"{line},\n" for line in lines[:-1]) + "".join(f"{x}\n" for x in lines[-1:])


def write_judgement(folder: Path, judged: Judgement, of: str) -> None:
    """Write a judgement beside the records that it was made from, whose `digest_of` is given.

    Raises:
        StorageError: if it cannot be written.
    """
    write_atomically(folder / FILE, f"{to_json(judged, of)}\n".encode())


def read_judgement(folder: Path, of: str) -> Judgement | None:
    """Return the judgement in a folder; None where there is none, or it is not of these records."""
    try:
        table = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if table["schema"] != _SCHEMA or table["of"] != of:
            return None
        return _from_table(table)
    except (OSError, *UNREADABLE):
        return None  # it is worked out from what is left


def _from_table(table: Mapping[str, Any]) -> Judgement:
    judged = Judgement()
    for line in table["parts"]:
        key = RowKey(*(str(line[name]) for name in RowKey._fields))
        place = Place(key, str(line["kind"]), str(line["name"]))
        for reference, its in line.get("half_widths", {}).items():
            halves = {metric: float(its[metric]) for metric in METRICS}
            if not all(map(math.isfinite, halves.values())):
                raise ValueError("half a width is no finite number")
            judged.half_widths[place, reference] = halves
            judged.over[place, reference] = _over(its["over"])
        for metric, (first, last) in line.get("ranks", {}).items():
            judged.ranks[place, metric] = RankRange(int(first), int(last))
    for line in table["tables"]:
        section = Section(*(str(line[name]) for name in Section._fields))
        numbers = (line[name] for name in Ranking._fields[1:])
        ranking = Ranking(_over(line["over"]), *numbers)
        judged.tables[Table(section, str(line["group"]), str(line["metric"]))] = ranking
    return judged


def _over(text: str) -> Over:
    known: dict[str, Over] = {name: name for name in get_args(Over)}
    return known[text]


def _rounded(value: float) -> float:
    # Sums of floats differ in their last digits from machine to machine.
    return float(f"{value:.{_DIGITS}g}")
