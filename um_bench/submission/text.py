"""A report on a submission as text for a terminal, and as JSON values."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from um_bench.render.text import printable
from um_bench.submission.findings import CHECKS, Finding, Report
from um_bench.submission.pack import Packed

SHOWN = 12
"""Findings of each check that are shown; JSON has all."""
LETTERS = 400
WIDTH = 100


def as_text(report: Report) -> str:
    """Return the report: the verdict, what was looked at, problems, then remarks."""
    title = printable(f"{report.suite or 'unknown suite'}: {report.path}")
    blocks = [f"{title}\n{'=' * len(title)}\n\n{_verdict(report)}"]
    blocks.append("\n".join(_filled(line, "  ", "    ") for line in _facts(report)))
    for heading, problems in (("Problems", True), ("Remarks, for the reviewer", False)):
        found = [one for one in report.findings if one.is_problem is problems]
        if found:
            blocks.append("\n".join([f"{heading}:", *_findings(found)]))
    return "\n\n".join(blocks)


def receipt(packed: Packed) -> str:
    """Return what was packed: what a pull request must say of it."""
    lines = [
        f"{packed.path}: {packed.bytes:,} bytes in {packed.files:,} files, of which scores "
        f"{packed.scores_bytes:,} bytes.",
        f"SHA-256 {packed.sha256}",
    ]
    if packed.partial:
        lines.append("It is partial, and says so. Missing:")
        lines += [f"- {text}" for text in packed.partial]
    return "\n".join(map(printable, lines))


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as JSON values."""
    return {
        "path": str(report.path),
        "suite": report.suite,
        "sha256": report.sha256,
        "exit_status": report.exit_status,
        "states": dict(report.states),
        "partial": report.partial,
        "recomputed": report.recomputed,
        "largest_difference": report.largest,
        "rankings": report.ranked,
        "facts": [*report.facts],
        "problems": [_finding_dict(one) for one in report.problems],
        "remarks": [_finding_dict(one) for one in report.findings if not one.is_problem],
    }


def _finding_dict(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "place": finding.place, "text": finding.text}


def _verdict(report: Report) -> str:
    count = len(report.problems)
    if not count:
        return "No problem found."
    checks = dict.fromkeys(one.check for one in report.problems)
    return f"{count:,} problem{'s' * (count != 1)}, of: {', '.join(checks)}."


def _facts(report: Report) -> Iterator[str]:
    total = sum(report.states.values())
    states = ", ".join(f"{count:,} {state}" for state, count in report.states.items())
    yield f"{total:,} cells" + (f": {states}." if states else ".")
    if report.partial:
        yield "The manifest says that it is partial."
    if report.recomputed:
        yield (
            f"Metrics of {report.recomputed:,} cells computed again from their scores; largest "
            f"difference {report.largest:.1e}. Order of the scores: {report.ranked:,} cells."
        )
    yield from report.facts
    if report.sha256:
        yield f"SHA-256 {report.sha256}"


def _findings(found: Sequence[Finding]) -> Iterator[str]:
    for check, meaning in CHECKS.items():
        its = [one for one in found if one.check == check]
        if not its:
            continue
        yield f"  {check} ({meaning}):"
        for one in its[:SHOWN]:
            place = f"{one.place}: " if one.place else ""
            yield _filled(_shortened(f"{place}{one.text}"), "  - ", "    ")
        if len(its) > SHOWN:
            yield f"  - and {len(its) - SHOWN:,} more, which --format json names"


def _shortened(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}..."


def _filled(text: str, first: str, rest: str) -> str:
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    )
