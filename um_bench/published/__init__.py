"""Published numbers, shipped as data, and what a folder of results says beside them."""

from pathlib import Path

from um_bench.leaderboard import read_results
from um_bench.published.compare import MAX_SDS, Comparison, Refusal, Report, check_records
from um_bench.published.entries import Entry, read_published, shipped_files
from um_bench.published.text import as_dict, as_text

__all__ = [
    "MAX_SDS",
    "Comparison",
    "Entry",
    "Refusal",
    "Report",
    "as_dict",
    "as_text",
    "check_folder",
    "check_records",
    "read_published",
    "shipped_files",
]


def check_folder(folder: Path, *, max_sds: float = MAX_SDS, same_weights: bool = False) -> Report:
    """Return what the records below a suite's results folder say beside the published numbers.

    Args:
        folder: with `records` and `suite.json` in it.
        max_sds: as in `check_records`.
        same_weights: as in `check_records`.

    Raises:
        UsageError: if there are no records, or a file cannot be used (it is named).
    """
    records, info = read_results(folder)
    return check_records(
        records, info, read_published(), max_sds=max_sds, same_weights=same_weights
    )
