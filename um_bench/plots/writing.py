"""A results folder -> a plot's file; what was chosen without being asked for is returned."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from um_bench.leaderboard import read_board
from um_bench.plots import heatmap, hist, pareto, roc, style, trajectory
from um_bench.plots.selection import Choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = TypeVar("P", bound="_Plot")


def write_roc(folder: Path, choice: Choice, out: Path) -> tuple[str, ...]:
    """Write ROC curves of a suite's results, and return remarks on them.

    Raises:
        UsageError: if matplotlib is missing, or what was asked for cannot be drawn.
        StorageError: if the file cannot be written.
    """
    style.check_out(out)
    plot = roc.roc_plot(folder, read_board(folder), choice)
    return _drawn(roc.draw, plot, out)


def write_hist(folder: Path, choice: Choice, out: Path) -> tuple[str, ...]:
    """Write densities of ID and OOD scores, and return remarks on them; raises as `write_roc`."""
    style.check_out(out)
    plot = hist.hist_plot(folder, read_board(folder), choice)
    return _drawn(hist.draw, plot, out)


def write_heatmap(
    folder: Path, choice: Choice, out: Path, *, against: str, metric: str
) -> tuple[str, ...]:
    """Write a map of differences, and return remarks on them; raises as `write_roc`."""
    style.check_out(out)
    plot = heatmap.heatmap_plot(read_board(folder), choice, against, metric)
    return _drawn(heatmap.draw, plot, out)


def write_pareto(folder: Path, choice: Choice, out: Path, *, cost: str) -> tuple[str, ...]:
    """Write AUROC over cost, and return remarks on it; raises as `write_roc`."""
    style.check_out(out)
    plot = pareto.pareto_plot(read_board(folder), choice, cost)
    return _drawn(pareto.draw, plot, out)


def write_trajectory(folder: Path, choice: Choice, out: Path) -> tuple[str, ...]:
    """Write what was tracked during training, and return remarks on it; raises as `write_roc`."""
    style.check_out(out)
    plot = trajectory.trajectory_plot(folder, read_board(folder), choice)
    return _drawn(trajectory.draw, plot, out)


class _Plot(Protocol):
    @property
    def remarks(self) -> tuple[str, ...]: ...


def _drawn(draw: Callable[[P], "Figure"], plot: P, out: Path) -> tuple[str, ...]:
    with style.for_print():
        style.save(draw(plot), out)
    return plot.remarks
