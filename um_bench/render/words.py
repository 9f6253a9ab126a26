"""The words around the tables: how to read the numbers, what they are over, what is missing."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from um_bench.comparability import Section
from um_bench.leaderboard import Board, Hole, Info, Ranking, SetFacts, Spread, Table
from um_bench.suite import is_full_spectrum

METRIC = {
    "auroc": "AUROC",
    "aupr_in": "AUPR in",
    "aupr_out": "AUPR out",
    "fpr95_ood": "FPR95 OOD+",
    "fpr95_id": "FPR95 ID+",
}
STATE = {
    "done": "done",
    "failed": "failed",
    "unsupported": "unsupported",
    "missing-data": "no data",
    "stale": "stale",
    "not-run": "not run",
}
MEANING = {
    "auroc": "AUROC: the chance that an OOD image gets a higher outlier score than an ID image; "
    "50 is guessing, higher is better.",
    "aupr_in": "AUPR in: average precision with ID as the positive class; it depends on how many "
    "images the two sets have. Higher is better.",
    "aupr_out": "AUPR out: average precision with OOD as the positive class; it depends on how "
    "many images the two sets have. Higher is better.",
    "fpr95_ood": "FPR95 OOD+: OOD is the positive class. The share of ID images that are flagged "
    "when 95 % of the OOD images are caught; lower is better.",
    "fpr95_id": "FPR95 ID+: ID is the positive class. The share of OOD images that are accepted "
    "when 95 % of the ID images are; lower is better.",
}
GROUP = {
    "near-fs": "near-OOD, full-spectrum",
    "far-fs": "far-OOD, full-spectrum",
    "id": "ID",
    "shifted": "ID, covariate-shifted",
    "auxiliary": "auxiliary outliers",
}
"""Groups that have another name on a page."""
OVER = {
    "seeds and images": "Over seeds and images: what other seeds and other test images would give.",
    "seeds": "Over seeds: on these test images. Their number is not allowed for, because no scores "
    "are kept.",
    "images": "Over images: of these trained models, whatever other seeds would give.",
}
"""What ranks and intervals allow for."""
NO_NUMBER = "–"  # noqa: RUF001 - an en dash is what tables have there
INCOMPLETE = "†"
ALARM = "‡"
MOST_REASONS = 20
MOST_NAMES = 6
MOST_LETTERS = 300


class Marks(NamedTuple):
    """How a format marks numbers, in words."""

    best: str
    tied: str


class Notes(NamedTuple):
    """A few lines under a heading."""

    heading: str
    lines: tuple[str, ...]


def paragraphs(text: str) -> tuple[str, ...]:
    """Return the paragraphs of a text, each as one line."""
    joined = (" ".join(part.split()) for part in text.split("\n\n"))
    return tuple(part for part in joined if part)


def section_title(section: Section) -> str:
    """Return what the rows of one table have in common."""
    track = f", trained with outliers: {section.auxiliary}" if section.auxiliary else ""
    return f"{section.backbone} on {section.id_set}{track}"


def group_title(group: str) -> str:
    """Return what a group is called at the head of a column."""
    return GROUP.get(group, group)


def sets_missing(board: Board, group: str) -> str:
    """Return how many of its sets a group's average is over, if that is not all of them."""
    sets = [facts for facts in board.sets if facts.group == group]
    here = sum(facts.here for facts in sets)
    return "" if here == len(sets) else f"{here} of {len(sets)} sets"


def reading(board: Board, metrics: Sequence[str], order: str) -> tuple[str, ...]:
    """Return the lines above the tables, without which the numbers are misread."""
    lines = [f"{'; '.join(section_title(section) for section in board.sections)}."]
    seeds = board.info.seeds
    if len(seeds) == 1:
        lines.append(f"Percent, from a single seed ({seeds[0]}): the spread is not known.")
    else:
        lines.append(f"Percent: mean (SD) over {_seeds(seeds)}.")
    lines += [MEANING[metric] for metric in metrics if metric.startswith("fpr95")]
    lines.append(_order(board.info, order))
    lines += _told_apart(board)
    return tuple(lines)


def _seeds(seeds: Sequence[int]) -> str:
    listed = f" ({', '.join(map(str, seeds))})" if len(seeds) <= MOST_NAMES else ""
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}{listed}"


def _order(info: Info, order: str) -> str:
    if order != "auroc":
        return f"Rows are in the suite's order, by {order}."
    return f"Rows are ordered by mean {group_title(info.main_group)} AUROC, complete ones first."


def _told_apart(board: Board) -> Iterator[str]:
    """Yield what the tests say of the order: a line for each table."""
    for section in board.sections:
        found = {
            table.group: ranking
            for table, ranking in board.judged.tables.items()
            if (table.section, table.metric) == (section, "auroc")
        }
        where = f"{section_title(section)}: " if len(board.sections) > 1 else ""
        if not found:
            yield f"{where}rows are not ranked; below it is said why."
            continue
        pairs = ", ".join(_pairs(group, ranking) for group, ranking in found.items())
        over = " or ".join(sorted({ranking.over for ranking in found.values()}))
        yield f"{where}AUROC tells apart {pairs}, over {over}."


def _pairs(group: str, ranking: Ranking) -> str:
    of = f"of {ranking.pairs:,} pairs of {ranking.rows} rows on {group_title(group)}"
    return f"{ranking.separated or 'none':{',' if ranking.separated else ''}} {of}"


def notes(board: Board, columns: Sequence[str], marks: Marks) -> tuple[Notes, ...]:
    """Return what stands below the tables; a heading without lines is left out."""
    found = (
        Notes("Caution", board.warnings),
        Notes("Alarms", tuple(_alarms(board))),
        Notes("Not done", tuple(_not_done(board))),
        Notes("How to read it", tuple(_how_to_read(board, columns, marks))),
        Notes("Image sets, with the start of their fingerprints", tuple(_sets(board))),
        Notes("Estimated by the adapters", tuple(_estimates(board))),
        Notes("Made with", tuple(_made_with(board))),
    )
    return tuple(part for part in found if part.lines)


def _alarms(board: Board) -> Iterator[str]:
    if not board.alarms:
        return
    yield f"{ALARM} beside a number: something here calls for a second look at it."
    for alarm in board.alarms[:MOST_REASONS]:
        yield f"{alarm.name}: {alarm.line}"
    if len(board.alarms) > MOST_REASONS:
        yield f"{len(board.alarms) - MOST_REASONS} further alarms, which --format json names."


def _how_to_read(board: Board, columns: Sequence[str], marks: Marks) -> Iterator[str]:
    metrics = (name for name in columns if name in MEANING)
    yield from (MEANING[metric] for metric in metrics if not metric.startswith("fpr95"))
    if len(board.info.seeds) > 1:
        yield (
            "SD: sample standard deviation (n - 1) of the seeds. It does not contain the "
            "uncertainty that comes from the number of test images."
        )
    yield from _ranks(board, marks)
    groups = board.info.groups
    fs = any(map(is_full_spectrum, groups))
    titles = ("; " if fs else ", ").join(map(group_title, groups))
    yield f"{titles}: unweighted mean over the OOD sets of the group, seed by seed."
    yield from _full_spectrum(board.info)
    yield (
        "ID accuracy: of the adapted model on the ID test set; base: of the classifier that it "
        "was adapted from."
    )
    if any(row.groups[board.info.main_group].deltas for row in board.rows):
        yield (
            f"Δ {group_title(board.info.main_group)} AUROC: percentage points gained over the same "
            "detector on the model of none (not adapted) or finetune (plain cross-entropy, same "
            "recipe), paired by seed and base weights."
        )
        yield from _intervals(board)
    if any(section.auxiliary for section in board.sections):
        yield (
            "Trained with outliers: these models have seen images of no class, which the others "
            "have not. They have a table of their own and are compared within it only, but for Δ, "
            "which is taken from none and finetune trained without."
        )
    yield (
        f"{marks.best}: best mean of its column among complete rows. It need not differ from the "
        "next."
    )
    if "cost" in columns:
        yield (
            "Seconds of wall-clock for one model: adapting, once for all detectors; scoring, of "
            "one OOD set on average: the forward passes over it and the ID test set, which all "
            "detectors share, fitting the detector, and its scores."
        )
    for group in groups:
        missing, title = sets_missing(board, group), group_title(group)
        if missing and any(facts.here for facts in board.sets if facts.group == group):
            yield (
                f"{missing}: nothing is done on the other sets of {title}, so the mean is over "
                "these. It compares with no mean over all of them, and no best is marked."
            )
    yield (
        f"{INCOMPLETE}: over fewer seeds than the suite has, so it is not compared. "
        f"{NO_NUMBER}: there is no number."
    )


def _ranks(board: Board, marks: Marks) -> Iterator[str]:
    """Yield what ranks are, where there are any, and why there are none where not."""
    groups, sections = board.info.groups, board.sections
    tables = board.judged.tables
    if any(board.tells_apart(s, group, "auroc") for s in sections for group in groups):
        alpha = next(iter(tables.values())).alpha
        yield (
            "rank: by AUROC, from 1 + how many rows of the table are significantly better, to the "
            "number of rows less how many are worse. Every two rows are compared, paired by seed "
            "and by image; the chance of any false separation in a table is held to "
            f"{100 * alpha:g} %. {marks.tied}: no row is significantly better."
        )
    over = {ranking.over for ranking in tables.values()}
    yield from (OVER[kind] for kind in OVER if kind in over)
    if not all(Table(s, group, "auroc") in tables for s in sections for group in groups):
        yield (
            "Rows are ranked if two or more of them, and at most 500, are complete, all on the "
            "same images, and either their scores are kept or there are three seeds."
        )


def _intervals(board: Board) -> Iterator[str]:
    values = [
        delta["auroc"].interval
        for row in board.rows
        for delta in row.groups[board.info.main_group].deltas.values()
    ]
    over = sorted({interval.over for interval in values if interval})
    if over:
        level = next(interval.level for interval in values if interval)
        varied = " or ".join(over)
        yield (
            f"±: half the width of the {100 * level:g} % interval of a difference, over {varied}. "
            "Among many of them, some exclude 0 by chance."
        )


def _full_spectrum(info: Info) -> Iterator[str]:
    """Yield what the full-spectrum groups are, where there are any."""
    if any(map(is_full_spectrum, info.groups)):
        names = ", ".join(f"{name} from {source}" for name, source in info.shifted)
        yield (
            "full-spectrum: the same OOD sets, but covariate-shifted ID images count as ID: they "
            "have the ID classes and only look different. ID is then the ID test set and "
            f"{names or 'the covariate-shifted sets'} together. These groups are never averaged "
            "with the others."
        )


def _sets(board: Board) -> Iterator[str]:
    for group in ("id", "shifted", "auxiliary", *board.info.groups):
        members = [facts for facts in board.sets if facts.group == group]
        if members:
            name = GROUP.get(group, f"{group}-OOD")
            yield f"{name}: {'; '.join(_set(facts) for facts in members)}."


def _set(facts: SetFacts) -> str:
    source = f" from {facts.source}" if facts.source and facts.source != facts.name else ""
    if not facts.here:
        return f"{facts.name}{source}, no cell done"
    count = " or ".join(f"{images:,}" for images in facts.images)
    prints = " or ".join(facts.fingerprints)
    return f"{facts.name}{source}, {count} images" + (f" ({prints})" if prints else "")


def _estimates(board: Board) -> Iterator[str]:
    seen = set()
    for row in board.rows:
        place = (row.key.section, row.key.adapter_label)
        if place in seen or not row.adapted.notes:
            continue
        seen.add(place)
        values = ", ".join(f"{k} {_estimate(v)}" for k, v in row.adapted.notes.items() if v.n)
        where = f" ({section_title(row.key.section)})" if len(board.sections) > 1 else ""
        yield f"{row.key.adapter_label}{where}: {values}."


def _estimate(value: Spread) -> str:
    sd = "" if value.sd is None else f" ({value.sd:.3g})"
    return f"{value.mean:.4g}{sd}, {_seeds(tuple(value.by_seed))}"


def _not_done(board: Board) -> Iterator[str]:
    if not board.holes:
        return
    total = sum(board.states.values())
    yield f"{board.states.get('done', 0):,} of {total:,} cells are done."
    everything = _everything(board)
    for hole in board.holes[:MOST_REASONS]:
        yield _hole(hole, everything)
    if len(board.holes) > MOST_REASONS:
        rest = board.holes[MOST_REASONS:]
        cells = sum(hole.cells for hole in rest)
        yield f"{cells:,} cells for {len(rest)} further reasons, which --format json names."


def _everything(board: Board) -> Hole:
    """Return a hole in every place, to tell `every adapter` from some."""
    return Hole(
        state="",
        reason="",
        cells=0,
        adapters=(*board.info.adapters, *(row.key.adapter_label for row in board.rows)),
        detectors=(*board.info.detectors, *(row.key.detector_label for row in board.rows)),
        ood_sets=tuple(ood.name for ood in board.info.ood),
        seeds=board.info.seeds,
    )


def _hole(hole: Hole, everything: Hole) -> str:
    where = (
        f"{_which('adapter', hole.adapters, everything.adapters)} with "
        f"{_which('detector', hole.detectors, everything.detectors)} on "
        f"{_which('OOD set', hole.ood_sets, everything.ood_sets)}, "
        f"{_which('seed', hole.seeds, everything.seeds)}"
    )
    cells = f"{hole.cells:,} cell{'s' * (hole.cells != 1)}"
    reason = _shortened(hole.reason)
    return f"{STATE[hole.state]}, {cells} ({where})" + (f": {reason}" if reason else ".")


def _which(what: str, some: Iterable[object], all_of_them: Iterable[object]) -> str:
    names, known = list(some), set(all_of_them)
    if len(known) > 1 and known == set(names):
        return f"every {what}"
    listed = ", ".join(map(str, names[:MOST_NAMES]))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    label = f"seed{'s' * (len(names) != 1)} " if what == "seed" else ""
    return f"{label}{listed}{more}"


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MOST_LETTERS else f"{flat[:MOST_LETTERS]}..."


def _made_with(board: Board) -> Iterator[str]:
    found = board.made_with
    places = [" or ".join(found[name]) for name in ("device", "platform") if name in found]
    if places:
        yield f"{'; '.join(places)}."
    versions = (
        f"{k} {' or '.join(v)}" for k, v in found.items() if k not in ("device", "platform")
    )
    listed = ", ".join(versions)
    if listed:
        yield f"{listed}."
