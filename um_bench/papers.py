"""The papers behind what a table shows."""

from typing import Any, NamedTuple


class Paper(NamedTuple):
    """What an adapter or a detector comes from. Names of authors are not known."""

    title: str
    venue: str
    """A conference by its abbreviation, `arXiv`, or a journal by its name."""
    year: int
    url: str


class Cited(NamedTuple):
    """One adapter or detector with its paper."""

    kind: str
    """`adapter` or `detector`."""
    name: str
    """Bare: `um`, `knn`."""
    paper: Paper


def paper_of(kind: Any) -> Paper | None:
    """Return what a class of pytorch-ood says in its `info` that it comes from; None: nothing."""
    told = getattr(getattr(kind, "info", None), "paper", None)
    return Paper(told.title, told.venue, int(told.year), told.url) if told else None
