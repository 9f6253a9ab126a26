"""What a check of a submission found: problems, which fail it, and remarks for its reviewer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CHECKS = {
    "files": "what is in it, under which names, as the manifest says",
    "records": "each line is what um-bench wrote, of this schema, one a cell",
    "suite": "cells are of the suite that suite.json describes",
    "complete": "every cell of the suite is there, with numbers or unsupported",
    "images": "one set is the same images everywhere",
    "plausible": "numbers can be what they are said to be",
    "scores": "each done cell's file of scores is there, whole, and one score an image",
    "metrics": "the metrics are those of the scores",
    "ranking": "the order of the scores is the recorded one",
    "reference": "beside the records that are compared with",
    "shipped": "beside the suite that ships under this name",
    "alarms": "what calls for a second look",
    "cautions": "what makes numbers less comparable than they look",
}
"""Name of each check -> what it looks at, in the order of the report."""


class Finding(NamedTuple):
    """One thing that was seen."""

    check: str
    """A key of `CHECKS`."""
    place: str
    """The file, line or cell; empty = all of it."""
    text: str
    is_problem: bool = True
    """False = a remark: a reviewer should know it, and it fails nothing."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of one submission, or one suite's folder."""

    path: Path
    suite: str
    """Empty where that cannot be told."""
    sha256: str = ""
    """Of the archive; empty for a folder."""
    states: Mapping[str, int] = field(default_factory=dict)
    """How many cells ended how."""
    partial: bool = False
    """Whether the manifest says that cells are missing."""
    recomputed: int = 0
    """Cells whose metrics were computed again from their scores."""
    largest: float = 0.0
    """The largest difference of a metric that was computed again, a fraction."""
    ranked: int = 0
    """Cells the order of whose scores was computed again."""
    facts: tuple[str, ...] = ()
    """What else was looked at, or could not be."""
    findings: tuple[Finding, ...] = ()

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that fail it."""
        return tuple(finding for finding in self.findings if finding.is_problem)

    @property
    def exit_status(self) -> int:
        """0 if there is no problem, else 1."""
        return 1 if self.problems else 0
