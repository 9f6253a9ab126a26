"""A results folder -> a plot's file; what was chosen without being asked for is returned."""

from pathlib import Path

from um_bench.leaderboard import read_board
from um_bench.plots import heatmap, hist, pareto, roc, style, trajectory
from um_bench.plots.selection import Choice


def write_roc(folder: Path, choice: Choice, out: Path) -> tuple[str, ...]:
    """Write ROC curves of a suite's results, and return remarks on them.

    Raises:
        UsageError: if matplotlib is missing, or what was asked for cannot be drawn.
        StorageError: if the file cannot be written.
    """
    style.check_out(out)
    plot = roc.roc_plot(folder, read_board(folder), choice)
    with style.for_print():
        style.save(roc.draw(plot), out)
    return plot.remarks


def write_hist(folder: Path, choice: Choice, out: Path) -> tuple[str, ...]:
    """Write densities of ID and OOD scores, and return remarks on them; raises as `write_roc`."""
    style.check_out(out)
    plot = hist.hist_plot(folder, read_board(folder), choice)
    with style.for_print():
        style.save(hist.draw(plot), out)
    return plot.remarks


def write_heatmap(
    folder: Path, choice: Choice, out: Path, *, against: str, metric: str
) -> tuple[str, ...]:
    """Write a map of differences, and return remarks on them; raises as `write_roc`."""
    style.check_out(out)
    plot = heatmap.heatmap_plot(read_board(folder), choice, against, metric)
    with style.for_print():
        style.save(heatmap.draw(plot), out)
    return plot.remarks


def write_pareto(folder: Path, choice: Choice, out: Path, *, cost: str) -> tuple[str, ...]:
    """Write AUROC over cost, and return remarks on it; raises as `write_roc`."""
    style.check_out(out)
    plot = pareto.pareto_plot(read_board(folder), choice, cost)
    with style.for_print():
        style.save(pareto.draw(plot), out)
    return plot.remarks


def write_trajectory(folder: Path, choice: Choice, out: Path) -> tuple[str, ...]:
    """Write what was tracked during training, and return remarks on it; raises as `write_roc`."""
    style.check_out(out)
    plot = trajectory.trajectory_plot(folder, read_board(folder), choice)
    with style.for_print():
        style.save(trajectory.draw(plot), out)
    return plot.remarks
