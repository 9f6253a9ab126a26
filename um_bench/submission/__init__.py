"""Records that are handed to others: packed with their scores, and checked by who receives them."""

from um_bench.submission.findings import Finding, Report
from um_bench.submission.pack import Packed, pack
from um_bench.submission.recompute import metrics_of, ranking_of
from um_bench.submission.text import as_dict, as_text, receipt
from um_bench.submission.verify import verify

__all__ = [
    "Finding",
    "Packed",
    "Report",
    "as_dict",
    "as_text",
    "metrics_of",
    "pack",
    "ranking_of",
    "receipt",
    "verify",
]
