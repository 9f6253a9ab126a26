"""A report on published numbers as plain text, and as a dictionary for JSON."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tabulate import tabulate

from um_bench.published.compare import Comparison, Refusal, Report
from um_bench.published.entries import Entry
from um_bench.render.text import printable

WIDTH = 100
"""Of prose, in letters."""
SHOWN = 6
"""Reasons that are shown of each source; JSON has all."""
_HEAD = ("", "published number", "published", "here", "difference", "in SDs")


def as_text(report: Report) -> str:
    """Return the report for a terminal: a table in percent, notes, and what was refused."""
    blocks = [_summary(report)]
    if report.compared:
        blocks.append(_table(report))
        blocks.append(_notes("Reading", _reading(report)))
        blocks.append(_notes("Let pass, not verified", _let_pass(report.compared)))
    elif report.refused:
        blocks.append(_nearest(report.refused))
    if report.refused:
        blocks.append(_notes("Not compared, by source", _refused(report.refused)))
    return "\n\n".join(blocks)


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as JSON values. Numbers are fractions, but for `sds`."""
    return {
        "suite": report.suite,
        "max_sds": report.max_sds,
        "outside": len(report.outside),
        "exit_status": report.exit_status,
        "compared": [_compared_dict(one, report) for one in report.compared],
        "refused": [
            {"published": _entry_dict(one.entry), "nearest": one.nearest, "reasons": [*one.reasons]}
            for one in report.refused
        ],
    }


def _compared_dict(one: Comparison, report: Report) -> dict[str, Any]:
    measured = one.measured
    return {
        "published": _entry_dict(one.entry),
        "row": {**one.row.key._asdict(), "suite": one.row.suite},
        "metric": one.metric,
        "measured": {
            "mean": measured.mean,
            "sd": measured.sd,
            "n": measured.n,
            "by_seed": {str(seed): value for seed, value in measured.by_seed.items()},
        },
        "difference": one.difference,
        "sd": one.sd,
        "sd_is": one.basis,
        "sds": one.sds,
        "outside": one in report.outside,
        "let_pass": [*one.let_pass],
    }


def _entry_dict(entry: Entry) -> dict[str, Any]:
    return {
        "label": entry.label,
        "source": entry.source.title,
        "url": entry.source.url,
        "table": entry.source.table,
        "commit": entry.source.commit,
        "training": entry.training.name,
        "detector": entry.detector.name if entry.detector else "",
        "id_set": entry.protocol.id_set,
        "network": entry.protocol.network,
        "over": entry.over,
        "ood_sets": [one.name for one in entry.sets],
        "metric": entry.metric,
        "fpr95_positive": entry.protocol.fpr95_positive,
        "mean": entry.mean,
        "sd": entry.sd,
        "sd_kind": entry.protocol.sd,
        "runs": entry.runs,
    }


def _summary(report: Report) -> str:
    entries = len(report.compared) + len(report.refused)
    title = f"{printable(report.suite)} against {entries} published numbers"
    if not report.compared:
        found = "Nothing comparable. That is a result too: the reasons are below."
    else:
        away = len(report.outside)
        found = (
            f"{len(report.compared)} compared, of which {away} more than {report.max_sds:g} SDs "
            f"away; {len(report.refused)} not comparable."
        )
    return f"{title}\n{'=' * len(title)}\n\n{found}"


def _table(report: Report) -> str:
    outside = report.outside
    rows = [
        (
            "!" if one in outside else "",
            f"{one.entry.source.title}: {one.entry.label}",
            _number(one.entry.mean, one.entry.sd, one.entry.runs),
            _number(one.measured.mean, one.measured.sd, one.measured.n),
            f"{100 * one.difference:+.2f}",
            f"{one.sds:+.1f}" if one.sds is not None else "",
        )
        for one in report.compared
    ]
    cells = [[printable(cell) for cell in row] for row in rows]
    align = ("left", "left", "right", "right", "right", "right")
    # numbers stay the text they are: a trailing zero says how many digits there were
    return str(
        tabulate(cells, headers=_HEAD, tablefmt="simple", colalign=align, disable_numparse=True)
    )


def _number(mean: float | None, sd: float | None, runs: int | None) -> str:
    assert mean is not None
    spread = f" ({100 * sd:.2f})" if sd is not None else ""
    return f"{100 * mean:.2f}{spread} n={runs or '?'}"


def _reading(report: Report) -> Iterator[str]:
    yield (
        "Percent, mean (SD), n = runs or seeds; the difference is measured minus published, in "
        f"points. ! = more than {report.max_sds:g} SDs away."
    )
    if any(one.sd is not None for one in report.compared):
        yield (
            "SDs: the difference over the root of the sum of squares of the published SD and the "
            "SD over seeds here, both by n - 1. A published SD by n is enlarged where n is known."
        )
    if any(one.sd is None for one in report.compared):
        yield "Without SDs: the spread of one side is not known, and nothing is concluded."
    used = {one.metric for one in report.compared}
    for metric, positive in (("fpr95_ood", "OOD"), ("fpr95_id", "ID")):
        if metric in used:
            yield f"fpr95 here is {metric}: {positive} is the positive class, as in the source."


def _let_pass(compared: Iterable[Comparison]) -> Iterator[str]:
    sources: dict[str, dict[str, None]] = {}
    for one in compared:
        for note in one.let_pass:
            sources.setdefault(note, {}).setdefault(one.entry.source.title)
    yield from (f"{note} ({'; '.join(titles)})" for note, titles in sources.items())
    if not sources:
        yield "nothing"


def _nearest(refused: Sequence[Refusal]) -> str:
    one = min(refused, key=lambda refusal: len(refusal.reasons))
    entry = one.entry
    lines = [
        f"{entry.source.title}: {entry.label} = {_number(entry.mean, entry.sd, entry.runs)}",
        f"{entry.source.url} ({entry.source.table})",
    ]
    if one.nearest:
        lines.append(f"beside: {one.nearest}")
    return _notes("Nearest", (*lines, *(f"not compared: {reason}" for reason in one.reasons)))


def _refused(refused: Iterable[Refusal]) -> Iterator[str]:
    by_source: dict[str, list[Refusal]] = {}
    for one in refused:
        by_source.setdefault(one.entry.source.title, []).append(one)
    for title, ones in by_source.items():
        counts = Counter(reason for one in ones for reason in one.reasons)
        other = [text for text, number in counts.items() if _is_id(text) and number == len(ones)]
        if other:
            # on another ID set nothing else matters
            yield f"{title}: {len(ones)} numbers; {other[0]}"
            continue
        yield f"{title}: {len(ones)} numbers"
        for reason, number in counts.most_common(SHOWN):
            yield f"- {reason} ({number})"
        if len(counts) > SHOWN:
            yield f"- and {len(counts) - SHOWN} other reasons, which the JSON has"


def _is_id(reason: str) -> bool:
    return reason.startswith("ID set:")


def _notes(heading: str, lines: Iterable[str]) -> str:
    wrapped = (
        textwrap.fill(
            printable(line),
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        for line in lines
    )
    return "\n".join((f"{heading}:", *wrapped))
