"""A study in words and tables: what adapting changed, for which detectors, and at what price.

A leaderboard orders rows; a report asks of each adapter what it changed. Everything in it is read
from the records and from what is published beside them.
"""

from um_bench.report.differences import Change, changes, verdicts
from um_bench.report.published_changes import Beside, beside_published
from um_bench.report.sensitivity import Setting, settings_of
from um_bench.report.text import as_markdown, report_of

__all__ = [
    "Beside",
    "Change",
    "Setting",
    "as_markdown",
    "beside_published",
    "changes",
    "report_of",
    "settings_of",
    "verdicts",
]
