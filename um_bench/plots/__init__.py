"""Plots of a suite's results as files. matplotlib is an optional extra, imported late.

Each plot is a file: a function from results to plain data, then one from the data to a figure.
Numbers are those of the tables: the same rows, averages and differences.
"""

from um_bench.plots.selection import Choice
from um_bench.plots.writing import (
    write_heatmap,
    write_hist,
    write_pareto,
    write_roc,
    write_trajectory,
)

__all__ = [
    "Choice",
    "write_heatmap",
    "write_hist",
    "write_pareto",
    "write_roc",
    "write_trajectory",
]
