"""What moved between two folders of results, and what the records know of why."""

from um_bench.difference.causes import KINDS, Cause, explain
from um_bench.difference.compare import Change, Difference, Group, Move, compare, grouped
from um_bench.difference.folders import Report, compare_folders
from um_bench.difference.text import as_dict, as_text

__all__ = [
    "KINDS",
    "Cause",
    "Change",
    "Difference",
    "Group",
    "Move",
    "Report",
    "as_dict",
    "as_text",
    "compare",
    "compare_folders",
    "explain",
    "grouped",
]
