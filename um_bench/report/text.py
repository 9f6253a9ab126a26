"""A report in GitHub's Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from um_bench.leaderboard import REFERENCES, Board, Row, Spread, board_of, read_results
from um_bench.published import Entry, Report, check_records, read_published
from um_bench.render import words
from um_bench.render.markdown import cell, escape, table
from um_bench.render.values import Reading, difference, mean_and_sd, percent
from um_bench.report.differences import Change, changes, over_seeds, verdicts
from um_bench.report.published_changes import ID_ACCURACY, beside_published, why_not_comparable
from um_bench.report.sensitivity import Setting, settings_of

_VARIED = (("um", "constraint", "nats"), ("umap", "constraint", "nats"))
"""Settings that are varied, by adapter, with their unit."""
_WITH = ("energy", "msp")
"""Detectors under which a setting's rows are shown: those of the paper."""
_FIGURES = {
    "trajectory": "While it trains: what the test sets would have said after each epoch. Nothing "
    "was chosen by it.",
    "heatmap": "The differences as a map.",
}


def report_of(folder: Path) -> str:
    """Return the report of one suite's results folder as Markdown.

    Raises:
        UsageError: if there are no records, or a file in it cannot be used (it is named).
    """
    figures = {name: f"{name}.svg" for name in _FIGURES if (folder / f"{name}.svg").exists()}
    (records, info), entries = read_results(folder), read_published()
    check = check_records(records, info, entries)
    return as_markdown(board_of(folder, records, info), check, entries, figures)


def as_markdown(
    board: Board, check: Report, entries: Sequence[Entry], figures: Mapping[str, str]
) -> str:
    """Return the report of a board, without a line's end at its end.

    Args:
        board: of one suite.
        check: what `um-bench check` says of the same records.
        entries: the published numbers.
        figures: name -> file beside the report.
    """
    title = board.info.title or board.info.name
    parts = [
        f"# What adapting changed: {escape(title)}",
        *map(escape, words.paragraphs(board.info.description)),
        _list(_reading(board)),
        *_in_short(board),
        *_published(board, check, entries),
        *_verdicts(board),
        *_models(board),
        *_sensitivity(board),
        *(f"## {_FIGURES[name]}\n\n![{name}]({file})" for name, file in figures.items()),
        *_differences(board),
    ]
    return "\n\n".join(parts)


def _reading(board: Board) -> Iterator[str]:
    metric = f"fpr95_{board.info.fpr95}"
    seeds = len(board.info.seeds)
    yield "Records, sets and alarms are on the page beside this one, README.md and index.html."
    yield words.MEANING[metric]
    yield (
        "Differences are in percentage points, mean over the seeds that both sides have (up to "
        f"{seeds}), paired by seed and by the weights of the base classifier, with 95 % intervals. "
        "In bold where the interval does not hold 0; these are many intervals, and of twenty that "
        "are of nothing, one does not hold 0 either."
    )
    over = {over for over in board.judged.over.values() if over in words.OVER}
    yield from (words.OVER[one] for one in sorted(over))


# --- Differences ---


# --- What changed ---


def _in_short(board: Board) -> Iterator[str]:
    detector, group = _main_detector(board), words.group_title(board.info.main_group)
    metrics = ("auroc", f"fpr95_{board.info.fpr95}")
    rows = [row for reference in REFERENCES for row in _short_rows(board, detector, reference)]
    if not rows:
        return
    yield "## In short"
    head = [f"{group} {words.METRIC[metric]}, {escape(detector)}" for metric in metrics]
    counts = ["detectors that gain", "lose", "undecided"]
    yield _table(["adapter", "against", "ID acc.", *head, *counts], rows)
    yield f"Detectors are counted by {group} AUROC."


def _short_rows(board: Board, detector: str, reference: str) -> Iterator[list[str]]:
    """Yield what each adapter changed from a reference: ID accuracy, one detector, all of them."""
    metrics = ("auroc", f"fpr95_{board.info.fpr95}")
    found = {metric: _found(board, board.info.main_group, reference, metric) for metric in metrics}
    with_it = {
        (change.adapter, metric): change
        for metric in metrics
        for change in found[metric]
        if change.detector == detector
    }
    of_models = {row.key.adapter_label: row.adapted.id_accuracy_deltas for row in _models_of(board)}
    for one in verdicts(found["auroc"], "auroc"):
        yield [
            escape(one.adapter),
            reference,
            _over_seeds(of_models[one.adapter].get(reference)),
            *(_change(with_it.get((one.adapter, metric)), metric) for metric in metrics),
            *(str(len(names)) for names in one[1:]),
        ]


def _main_detector(board: Board) -> str:
    """Return the first of the paper's detectors that is here, or the suite's first."""
    here = list(dict.fromkeys(row.key.detector_label for row in board.rows))
    return next((name for name in _WITH if name in here), here[0])


def _found(board: Board, group: str, reference: str, metric: str) -> list[Change]:
    """Return the differences of the suite's adapters; settings that were varied have a section."""
    named = board.info.adapters
    found = changes(board, group, reference, metric)
    return [change for change in found if not named or change.adapter in named]


def _differences(board: Board) -> Iterator[str]:
    for group in reversed(board.info.groups):
        for metric in ("auroc", f"fpr95_{board.info.fpr95}"):
            for reference in REFERENCES:
                found = _found(board, group, reference, metric)
                if found:
                    name = f"{words.group_title(group)}-OOD, {words.METRIC[metric]}"
                    yield f"## {name}: differences from {reference}"
                    yield _matrix(found, metric)


def _matrix(found: Sequence[Change], metric: str) -> str:
    adapters = list(dict.fromkeys(change.adapter for change in found))
    cells = {(change.detector, change.adapter): change for change in found}
    rows = [
        [escape(detector), *(_change(cells.get((detector, name)), metric) for name in adapters)]
        for detector in dict.fromkeys(change.detector for change in found)
    ]
    return _table(["detector", *map(escape, adapters)], rows)


def _change(change: Change | None, metric: str) -> str:
    if change is None:
        return words.NO_NUMBER
    return _delta(change.delta, sure=change.verdict(metric) != "undecided")


def _delta(delta: Spread | None, *, sure: bool = False) -> str:
    if delta is None:
        return words.NO_NUMBER
    return cell(difference(Reading(delta), delta.n)._replace(best=sure))


def _verdicts(board: Board) -> Iterator[str]:
    group = board.info.main_group
    yield f"## Which detectors gain, which lose: {words.group_title(group)} AUROC"
    rows = []
    for reference in REFERENCES:
        for one in verdicts(_found(board, group, reference, "auroc"), "auroc"):
            sides = [f"{len(s)}: {', '.join(s)}" if s else "0" for s in one[1:3]]
            rows.append([one.adapter, reference, *sides, str(len(one.undecided))])
    yield _table(
        ["adapter", "against", "gains", "loses", "undecided"],
        [[escape(text) for text in row] for row in rows],
    )


# --- Models ---


def _models(board: Board) -> Iterator[str]:
    yield "## The models: ID accuracy, constraint, time"
    yield "ID accuracy has intervals over seeds: its test images are those of every model."
    rows = []
    for row in _models_of(board):
        notes, its = row.adapted.notes, row.adapted
        changed = (_over_seeds(its.id_accuracy_deltas.get(name)) for name in REFERENCES)
        seconds = row.seconds["adapt"].mean if "adapt" in row.seconds else None
        rows.append(
            [
                escape(row.key.adapter_label),
                _level(its.id_accuracy),
                *changed,
                *(_nats(_note(notes, name)) for name in ("constraint", "starting_loss")),
                f"{seconds:.0f}" if seconds else words.NO_NUMBER,
            ]
        )
    head = ["adapter", "ID acc.", *(f"Δ vs {name}" for name in REFERENCES)]
    yield _table([*head, "constraint (nats)", "loss before (nats)", "training (s)"], rows)


def _models_of(board: Board) -> Iterator[Row]:
    """Yield one row for each adapter: what holds whatever the detector."""
    seen = set()
    for row in board.rows:
        if row.key.adapter_label not in seen and row.adapted.id_accuracy.n:
            seen.add(row.key.adapter_label)
            yield row


def _note(notes: Mapping[str, Spread], name: str) -> Spread | None:
    """Return a note by its bare name; of joined adapters it is `um.constraint`."""
    its = (spread for key, spread in notes.items() if key.rpartition(".")[2] == name)
    return next(its, None)


def _over_seeds(delta: Spread | None) -> str:
    return _delta(over_seeds(delta.by_seed) if delta is not None and delta.n else delta)


def _level(spread: Spread) -> str:
    return cell(mean_and_sd(Reading(spread), spread.n))


def _nats(spread: Spread | None) -> str:
    if spread is None or spread.mean is None:
        return words.NO_NUMBER
    sd = f" ({spread.sd:.3f})" if spread.sd is not None else ""
    return f"{spread.mean:.3f}{sd}"


# --- Beside what is published ---


def _published(board: Board, check: Report, entries: Sequence[Entry]) -> Iterator[str]:
    found = beside_published(board, entries)
    if not found:
        return
    groups = [*(group for group in board.info.groups), "id"]
    rows = [
        [
            escape(f"{one.adapter} - {one.reference}"),
            escape(one.detector or words.NO_NUMBER),
            "ID accuracy" if one.metric == ID_ACCURACY else escape(one.metric),
            percent(one.published, signed=True),
            *(_delta(one.here.get(group)) for group in groups),
            escape(f"{one.source}, {one.over}"),
        ]
        for one in found
    ]
    yield "## Beside what is published"
    yield (
        "Differences of published means, and the same differences here. They are beside each "
        "other, not compared: below is what differs."
    )
    here = [f"here, {words.group_title(group)}" for group in groups]
    yield _table(
        ["difference", "detector", "metric", "published", *here, "published in, over"], rows
    )
    reasons = why_not_comparable(check, dict.fromkeys(one.source for one in found))
    for source, its in reasons.items():
        if its:
            yield f"What differs from {escape(source)}:"
            yield _list(its)


# --- A setting, varied ---


def _sensitivity(board: Board) -> Iterator[str]:
    for adapter, setting, unit in _VARIED:
        by_detector = {
            name: its for name in _WITH if (its := settings_of(board, adapter, setting, name))
        }
        first = next(iter(by_detector.values()), [])
        if len(first) < 2:
            continue
        yield f"## {adapter}: sensitivity to the {setting}"
        head = [f"{setting} ({unit})", "seeds", "ID acc."]
        metrics = ("auroc", f"fpr95_{board.info.fpr95}")
        group = board.info.main_group
        for name in by_detector:
            head += [f"{name}: {words.group_title(group)} {words.METRIC[m]}" for m in metrics]
        rows = [
            [
                _value(setting_),
                str(setting_.row.adapted.id_accuracy.n),
                _level(setting_.row.adapted.id_accuracy),
                *(
                    _level(its[place].row.groups[group].metrics[metric])
                    for its in by_detector.values()
                    for metric in metrics
                ),
            ]
            for place, setting_ in enumerate(first)
        ]
        yield _table(head, rows)


def _value(setting: Setting) -> str:
    return f"{setting.value:.3f}, estimated" if setting.estimated else f"{setting.value:g}"


# --- Markdown ---


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(head, rows, [place > 0 for place in range(len(head))])
