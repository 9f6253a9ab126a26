"""The papers of a leaderboard's adapters and detectors as BibTeX."""

import re
from collections.abc import Iterable

from um_bench.leaderboard import Board
from um_bench.papers import Cited
from um_bench.render.latex import escape
from um_bench.render.text import printable

_ENTRIES = {
    "conference": ("inproceedings", "booktitle"),
    "journal": ("article", "journal"),
    "preprint": ("misc", "howpublished"),
}
"""What a paper is in -> BibTeX's name of the entry, and of the field that says so."""


def render(board: Board) -> str:
    """Return an entry for each paper, once, keyed by the first name that cites it.

    Authors are left out, because neither pytorch-ood nor um-bench keeps them.
    """
    uses: dict[tuple[str, int], list[Cited]] = {}
    for one in board.info.papers:
        # By title: one paper has several addresses.
        uses.setdefault((one.paper.title.casefold(), one.paper.year), []).append(one)
    keys = _keys(uses.values())
    entries = [_entry(key, cited) for key, cited in zip(keys, uses.values(), strict=True)]
    return "\n\n".join(entries) or "% The suite's file names no paper: run the suite again."


def _keys(uses: Iterable[list[Cited]]) -> list[str]:
    """Return a key for each paper, none twice, as `um2023`."""
    keys: list[str] = []
    for cited in uses:
        stem = re.sub(r"[^A-Za-z0-9-]+", "-", cited[0].name).strip("-") or "paper"
        key = f"{stem}{cited[0].paper.year}"
        while key in keys:
            key += "x"
        keys.append(key)
    return keys


def _entry(key: str, cited: list[Cited]) -> str:
    paper = cited[0].paper
    kind, where = _ENTRIES[_kind_of(paper.venue)]
    fields = {
        # Braces within: BibTeX would make its capitals small.
        "title": f"{{{_escaped(paper.title)}}}",
        where: _escaped(paper.venue),
        "year": str(paper.year),
        "url": re.sub(r"[^!-~]|[{}\\%]", "", paper.url),
    }
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    # Outside an entry BibTeX reads nothing but an @, after a % too.
    uses = ", ".join(f"{one.kind} {one.name}" for one in cited).replace("@", " ")
    return f"% {printable(uses)}\n@{kind}{{{key},\n{lines}}}"


def _escaped(text: str) -> str:
    # BibTeX counts braces, those after a backslash too.
    return escape(text).replace(r"\{", r"\textbraceleft{}").replace(r"\}", r"\textbraceright{}")


def _kind_of(venue: str) -> str:
    if venue.casefold() == "arxiv":
        return "preprint"
    return "journal" if " " in venue.strip() else "conference"
