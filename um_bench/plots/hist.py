"""`um-bench plot hist`: how the scores of ID and OOD images are distributed, a panel for a cell."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from um_bench.curves import Histogram, shared_histogram
from um_bench.errors import UsageError
from um_bench.leaderboard import Board, Row
from um_bench.plots import style
from um_bench.plots.selection import (
    Choice,
    chosen_rows,
    chosen_seeds,
    chosen_sets,
    of_one_detector,
    read_scores,
    refuse_too_many,
)
from um_bench.render.values import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6


@dataclass(frozen=True)
class Panel:
    """One cell."""

    title: str
    histogram: Histogram
    auroc: float


@dataclass(frozen=True)
class HistPlot:
    """Everything that is drawn."""

    panels: tuple[Panel, ...]
    title: str
    remarks: tuple[str, ...]
    """What was chosen without being asked for."""


def densities(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of all scores in each bin, per unit of the score."""
    return np.asarray(counts / counts.sum() / np.diff(edges), dtype=np.float64)


def hist_plot(folder: Path, board: Board, choice: Choice) -> HistPlot:
    """Return the cells that were asked for.

    By default of every adapter, with the best detector, on the first OOD set of the main group, on
    the first seed.

    Raises:
        UsageError: if a name is unknown, there are no scores, or more than can be read.
    """
    rows, remarks = of_one_detector(board, chosen_rows(board, choice), choice)
    sets, seeds = chosen_sets(board, choice), chosen_seeds(board, choice)
    if not choice.ood_sets and len(sets) > 1:
        remarks.append(f"OOD set {sets[0]}: the first of the group; --ood-set chooses others")
        sets = sets[:1]
    if not choice.seeds and len(seeds) > 1:
        remarks.append(f"seed {seeds[0]}: the first; --seed chooses others")
        seeds = seeds[:1]
    refuse_too_many(
        "cells",
        len(rows) * len(sets) * len(seeds),
        MOST_PANELS,
        "--adapter, --detector, --ood-set, --seed",
    )
    keys = [(row, name, seed) for row in rows for name in sets for seed in seeds]
    cells = []
    for row, name, seed in keys:
        scores = read_scores(folder, row, name, [seed]).get(seed)
        if scores:
            auroc = row.sets[name].metrics["auroc"].by_seed[seed]
            found = shared_histogram(scores["id"], scores["ood"])
            cells.append((_words(row, name, seed), found, auroc))
    if not cells:
        raise UsageError("none of the cells that were asked for is done")
    shared = set.intersection(*(set(words) for words, _, _ in cells))
    panels = tuple(
        Panel(", ".join(w for w in words if w not in shared), found, auroc)
        for words, found, auroc in cells
    )
    title = ", ".join(word for word in cells[0][0] if word in shared)
    return HistPlot(panels, title, tuple(remarks))


def _words(row: Row, ood_set: str, seed: int) -> tuple[str, ...]:
    key = row.key
    return (
        key.adapter_label,
        key.detector_label,
        f"ID: {key.id_set}, OOD: {ood_set}",
        f"seed {seed}",
    )


def draw(plot: HistPlot) -> "Figure":
    """Return the figure."""
    from matplotlib.ticker import MaxNLocator

    count = len(plot.panels)
    columns = 1 if count == 1 else 2 if count in (2, 4) else 3
    width = style.COLUMN if columns < 3 else style.PAGE
    rows = -(-count // columns)
    height = 2.1 if columns == 1 else rows * 1.35 + 0.35
    figure = style.new_figure(width, height)
    axes = style.panels(figure, count, columns)
    for axis, panel in zip(axes, plot.panels, strict=True):
        _draw_panel(axis, panel)
        axis.xaxis.set_major_locator(MaxNLocator(3 if columns > 1 else 6))
    figure.supxlabel("Outlier score: higher = more OOD", fontsize=7)
    figure.supylabel("Density", fontsize=7)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, title=plot.title)
    return figure


def _draw_panel(axis: "Axes", panel: Panel) -> None:
    its = panel.histogram
    for label, counts, colour, hatch in (
        ("ID", its.id_counts, style.ID_COLOUR, ""),
        ("OOD", its.ood_counts, style.OOD_COLOUR, "////"),
    ):
        heights = densities(counts, its.edges)
        axis.stairs(heights, its.edges, color=colour, linewidth=0.9)
        axis.stairs(
            heights,
            its.edges,
            fill=True,
            facecolor=(colour, 0.3),
            edgecolor=(colour, 0.6),
            linewidth=0,
            hatch=hatch,
            label=label,
        )
    name = f"{panel.title}: " if panel.title else ""
    axis.set_title(f"{name}AUROC {percent(panel.auroc)}")
    axis.set(xlim=(its.edges[0], its.edges[-1]), ylim=(0, None))
    for beyond, place, side in ((its.below, 0.01, "left"), (its.above, 0.99, "right")):
        if beyond:
            arrow = f"← {beyond}" if side == "left" else f"{beyond} →"
            axis.text(place, 0.97, arrow, transform=axis.transAxes, ha=side, va="top", fontsize=5)
