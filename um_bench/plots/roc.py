"""`um-bench plot roc`: a panel for each OOD set, a line for each adapter and detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from um_bench.curves import Roc, thinned_roc
from um_bench.errors import UsageError
from um_bench.leaderboard import Board, Row, Spread
from um_bench.plots import style
from um_bench.plots.selection import (
    Choice,
    chosen_rows,
    chosen_seeds,
    chosen_sets,
    label_of,
    of_one_detector,
    of_seeds,
    read_scores,
    refuse_too_many,
)
from um_bench.render.values import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6
_POINTS = 1001
_SHORT = 24
"""Letters of a legend that a small panel can hold."""


@dataclass(frozen=True)
class Line:
    """One adapter and detector on one OOD set."""

    label: str
    curves: dict[int, Roc]
    """By seed."""
    mean: Roc
    auroc: Spread
    """As in the tables, over the seeds of the curves."""


@dataclass(frozen=True)
class Panel:
    """One OOD set."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class RocPlot:
    """Everything that is drawn."""

    panels: tuple[Panel, ...]
    title: str
    seeds: int
    remarks: tuple[str, ...]
    """What was chosen without being asked for."""


def mean_curve(curves: Sequence[Roc]) -> Roc:
    """Return the mean TPR at each FPR; the area under it is the mean of the areas."""
    fpr = np.linspace(0.0, 1.0, _POINTS)
    # where a curve rises steeply, interp takes the upper end
    rates = [np.interp(fpr, curve.fpr, curve.tpr) for curve in curves]
    tpr: NDArray[np.float64] = np.mean(rates, axis=0)
    area = float(np.mean([curve.auroc for curve in curves]))
    return Roc(np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr]), area)


def roc_plot(folder: Path, board: Board, choice: Choice) -> RocPlot:
    """Return the curves that were asked for: by default of every adapter with the best detector.

    Raises:
        UsageError: if a name is unknown, there are no scores, or more than can be told apart.
    """
    rows, remarks = of_one_detector(board, chosen_rows(board, choice), choice)
    refuse_too_many("lines", len(rows), style.MOST_LINES, "--adapter, --detector")
    sets, seeds = chosen_sets(board, choice), chosen_seeds(board, choice)
    refuse_too_many("OOD sets", len(sets), MOST_PANELS, "--ood-set")
    panels = []
    for name in sets:
        lines = (_line(folder, row, name, seeds, label_of(row, rows)) for row in rows)
        panels.append(Panel(name, tuple(line for line in lines if line)))
    if not any(panel.lines for panel in panels):
        raise UsageError("none of the cells that were asked for is done")
    return RocPlot(tuple(panels), _title(rows), len(seeds), tuple(remarks))


def _line(folder: Path, row: Row, ood_set: str, seeds: Sequence[int], label: str) -> Line | None:
    scores = read_scores(folder, row, ood_set, seeds)
    if not scores:
        return None
    curves = {seed: thinned_roc(its["id"], its["ood"], _POINTS) for seed, its in scores.items()}
    auroc = of_seeds(row.sets[ood_set].metrics["auroc"], curves)
    return Line(label, curves, mean_curve(list(curves.values())), auroc)


def _title(rows: Sequence[Row]) -> str:
    """Return what all lines have in common."""
    names = zip(*(row.key for row in rows), strict=True)
    id_set, _, _, adapter, detector = (set(its) for its in names)
    shared = [its.pop() for its in (adapter, detector) if len(its) == 1]
    return ", ".join([*shared, f"ID: {id_set.pop()}"])


def draw(plot: RocPlot) -> "Figure":
    """Return the figure: thin lines are seeds, thick ones their mean."""
    count = len(plot.panels)
    columns = 1 if count == 1 else 2 if count in (2, 4) else 3
    longest = max(len(_legend(line, plot.seeds)) for panel in plot.panels for line in panel.lines)
    most = max(len(panel.lines) for panel in plot.panels)
    # in a small panel a long legend would cover the curves
    small = longest <= _SHORT
    below = columns == 2 or (columns == 3 and not (most <= 4 and small))
    width = {1: style.COLUMN, 2: style.COLUMN if small else 5.0, 3: style.PAGE}[columns]
    height = 0.98 * width / columns + (0.13 * (most + 1) + 0.15 if below else 0)
    figure = style.new_figure(width, -(-count // columns) * height + (0.4 if below else 0.15))
    axes = style.panels(figure, count, columns, sharex=True, sharey=True)
    for axis, panel in zip(axes, plot.panels, strict=True):
        _draw_panel(axis, panel, plot.seeds, below=below)
    figure.supxlabel("FPR: ID images flagged", fontsize=7)
    figure.supylabel("TPR: OOD images flagged", fontsize=7)
    figure.suptitle(plot.title, fontsize=7)
    return figure


def _draw_panel(axis: "Axes", panel: Panel, seeds: int, *, below: bool) -> None:
    axis.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.5, linestyle=":")
    for place, line in enumerate(panel.lines):
        colour = style.COLOURS[place]
        for curve in line.curves.values() if len(line.curves) > 1 else ():
            axis.plot(curve.fpr, curve.tpr, color=colour, linewidth=0.4, alpha=0.45)
        axis.plot(
            line.mean.fpr,
            line.mean.tpr,
            color=colour,
            linestyle=style.DASHES[place],
            label=_legend(line, seeds),
        )
    axis.set(xlim=(-0.01, 1), ylim=(0, 1.01), title=panel.title, aspect="equal")
    title = "AUROC in %: mean (SD)" if seeds > 1 else "AUROC in %"
    legend = axis.legend(loc="lower right", title=title, title_fontsize=6)
    if below:
        axis.set_anchor("N")
        legend.set_loc("upper center")
        legend.set_bbox_to_anchor((0.5, -0.12), transform=axis.transAxes)


def _legend(line: Line, seeds: int) -> str:
    sd = "" if line.auroc.sd is None else f" ({percent(line.auroc.sd)})"
    over = "" if line.auroc.n == seeds else f", {line.auroc.n} of {seeds} seeds"
    return f"{line.label} {percent(line.auroc.mean or 0.0)}{sd}{over}"
