"""Published numbers, shipped as data, and what a folder of results says beside them."""

from pathlib import Path

from um_bench.errors import UsageError
from um_bench.leaderboard import read_info
from um_bench.published.compare import MAX_SDS, Comparison, Refusal, Report, check_records
from um_bench.published.entries import Entry, read_published, shipped_files
from um_bench.published.text import as_dict, as_text
from um_bench.records import read_folder

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
    records = list(read_folder(folder))
    if not records:
        raise UsageError(
            f"{folder}: no records in it. Fill it first (um-bench run --suite NAME), or name the "
            "folder that holds them with --results."
        )
    info = read_info(folder / "suite.json")
    return check_records(
        records, info, read_published(), max_sds=max_sds, same_weights=same_weights
    )
