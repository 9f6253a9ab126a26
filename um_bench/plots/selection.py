"""Which of a suite's results a plot shows: what was asked for, or a default that is said."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from um_bench.errors import UsageError, unknown_name
from um_bench.leaderboard import Board, Row, Spread, spread
from um_bench.scores import Scores, is_whole, load_scores


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was asked for; empty = the plot's default. Names are bare, or with their settings."""

    adapters: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    ood_sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    backbone: str = ""
    track: str = ""
    """The auxiliary outliers that the models have seen; `none` = without any."""


def chosen_rows(board: Board, choice: Choice) -> list[Row]:
    """Return the rows that were asked for, in the suite's order, of one backbone and ID set.

    Without a track and without adapters, they are those of the leaderboard's first table: models
    that have seen no outliers, where there are any.

    Raises:
        UsageError: if a name is unknown, or there are several backbones and none was chosen.
    """
    rows = _of_backbone(list(board.rows), choice.backbone)
    if choice.track:
        rows = _of_track(rows, choice.track)
    elif not choice.adapters:
        sections = [s for s in board.sections if any(row.key.section == s for row in rows)]
        rows = [row for row in rows if row.key.section == sections[0]]
    rows = _named("adapter", choice.adapters, rows, lambda r: (r.key.adapter_label, r.adapter))
    return _named("detector", choice.detectors, rows, lambda r: (r.key.detector_label, r.detector))


def _of_backbone(rows: list[Row], backbone: str) -> list[Row]:
    known = sorted({row.key.backbone for row in rows})
    if backbone and backbone not in known:
        raise unknown_name("backbone in the results", backbone, known)
    kept = [row for row in rows if backbone in ("", row.key.backbone)]
    if len({(row.key.id_set, row.key.backbone) for row in kept}) > 1:
        raise UsageError(
            f"a plot is of one backbone; choose it with --backbone. Known: {', '.join(known)}."
        )
    return kept


def _of_track(rows: list[Row], track: str) -> list[Row]:
    kept = [row for row in rows if (row.key.auxiliary or "none") == track]
    if not kept:
        raise unknown_name("track", track, {row.key.auxiliary or "none" for row in rows})
    return kept


def _named(
    kind: str, given: Sequence[str], rows: list[Row], names: Callable[[Row], tuple[str, str]]
) -> list[Row]:
    """Return the rows with one of these names: the whole label or else the bare name."""
    found: set[str] = set()
    for name in given:
        of_label = {names(row)[0] for row in rows if names(row)[0] == name}
        matches = of_label or {names(row)[0] for row in rows if names(row)[1] == name}
        if not matches:
            raise unknown_name(f"{kind} in the results", name, {names(row)[0] for row in rows})
        found |= matches
    return [row for row in rows if not given or names(row)[0] in found]


def of_one_detector(board: Board, rows: list[Row], choice: Choice) -> tuple[list[Row], list[str]]:
    """Return the rows of the detectors that were asked for, or else of the best, and say which."""
    labels = {row.key.detector_label for row in rows}
    if choice.detectors or len(labels) == 1:
        return rows, []
    group = board.info.main_group
    best = max(rows, key=lambda row: _rank(board, row.groups[group].metrics["auroc"]))
    label = best.key.detector_label
    said = f"detector {label}: the highest mean {group} AUROC; --detector chooses another"
    return [row for row in rows if row.key.detector_label == label], [said]


def _rank(board: Board, auroc: Spread) -> tuple[bool, float]:
    return auroc.n == len(board.info.seeds), auroc.mean or 0.0


def chosen_sets(board: Board, choice: Choice) -> tuple[str, ...]:
    """Return the OOD sets that were asked for, or those of the main group that have numbers.

    Raises:
        UsageError: if a name is unknown.
    """
    known = [ood.name for ood in board.info.ood]
    for name in choice.ood_sets:
        if name not in known:
            raise unknown_name("OOD set in the results", name, known)
    if choice.ood_sets:
        return tuple(name for name in known if name in choice.ood_sets)
    here = {facts.name for facts in board.sets if facts.here}
    return tuple(name for name in board.info.members(board.info.main_group) if name in here)


def chosen_seeds(board: Board, choice: Choice) -> tuple[int, ...]:
    """Return the seeds that were asked for, or all.

    Raises:
        UsageError: if one is unknown.
    """
    for seed in choice.seeds:
        if seed not in board.info.seeds:
            raise unknown_name("seed in the results", str(seed), map(str, board.info.seeds))
    return choice.seeds or board.info.seeds


def of_seeds(values: Spread, seeds: Iterable[int]) -> Spread:
    """Return mean and standard deviation over some of the seeds."""
    chosen = set(seeds)
    return spread({seed: value for seed, value in values.by_seed.items() if seed in chosen})


def read_scores(folder: Path, row: Row, ood_set: str, seeds: Iterable[int]) -> dict[int, Scores]:
    """Return seed -> the scores of a row's done cells on one OOD set.

    Raises:
        UsageError: if the scores of a cell that is done are not here, or not those of its record.
    """
    chosen = set(seeds)
    found = {}
    for slot in row.slots:
        record = slot.record
        if slot.ood_set != ood_set or slot.seed not in chosen or record is None:
            continue
        if record.state != "done":
            continue
        path = folder / record.scores
        if not record.scores or not is_whole(path, record.scores_check):
            raise UsageError(
                f"the scores of {row.key.adapter_label}, {row.key.detector_label}, {ood_set}, seed "
                f"{slot.seed} are not in {folder}, or not those of the record. This plot is drawn "
                "from scores, which are not kept with committed records: run the suite again."
            )
        found[slot.seed] = load_scores(path)
    return found


def label_of(row: Row, rows: Iterable[Row]) -> str:
    """Return what tells a row from the others of a plot: adapter, detector, or both."""
    others = list(rows)
    detectors = len({other.key.detector_label for other in others}) > 1
    adapters = len({other.key.adapter_label for other in others}) > 1
    names = [row.key.adapter_label] if adapters or not detectors else []
    return " + ".join([*names, *([row.key.detector_label] if detectors else [])])


def refuse_too_many(what: str, given: int, most: int, options: str) -> None:
    """Raise an error if a plot would show more than can be told apart.

    Raises:
        UsageError: if so; it names the options that choose.
    """
    if given > most:
        raise UsageError(
            f"{given} {what} in one plot; at most {most} can be read. Choose: {options}."
        )
