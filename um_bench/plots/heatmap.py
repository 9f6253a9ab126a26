"""`um-bench plot heatmap`: what each adapter gains with each detector, paired by seed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from um_bench.errors import UsageError
from um_bench.leaderboard import Board, Part, Row, Spread, higher_is_better
from um_bench.plots import style
from um_bench.plots.selection import Choice, chosen_rows, chosen_sets
from um_bench.render.values import percent
from um_bench.render.words import METRIC, group_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class HeatmapPlot:
    """Everything that is drawn; arrays are (detectors, adapters)."""

    adapters: tuple[str, ...]
    detectors: tuple[str, ...]
    deltas: NDArray[np.float64]
    """Fractions; NaN where there is none."""
    excludes_zero: NDArray[np.bool_]
    incomplete: NDArray[np.bool_]
    label: str
    notes: tuple[str, ...]
    """What the marks in the cells stand for, as far as they are used."""
    higher_is_better: bool
    remarks: tuple[str, ...]


def heatmap_plot(board: Board, choice: Choice, against: str, metric: str) -> HeatmapPlot:
    """Return the differences of a metric to a reference adapter, with the same detector.

    They are of the main group's average, or of the one OOD set that was asked for.

    Raises:
        UsageError: if a name is unknown, or there is no difference to the reference.
    """
    where, parts = _parts(board, choice)
    found = {key: its for key, part in parts.items() if (its := _delta(part, against, metric))}
    if not found:
        raise UsageError(
            f"no row has a difference to {against!r}: it must be among the adapters that were run, "
            "on the same seeds and base weights. --against takes none or finetune."
        )
    detectors = tuple(dict.fromkeys(detector for detector, _ in found))
    adapters = tuple(dict.fromkeys(adapter for _, adapter in found))
    deltas = np.full((len(detectors), len(adapters)), np.nan)
    excludes, incomplete = np.zeros_like(deltas, bool), np.zeros_like(deltas, bool)
    for (detector, adapter), delta in found.items():
        place = detectors.index(detector), adapters.index(adapter)
        deltas[place] = delta.mean
        interval, whole = delta.interval, parts[detector, adapter].complete
        incomplete[place] = not whole or delta.n < len(board.info.seeds)
        excludes[place] = interval is not None and not interval.low <= 0 <= interval.high
    levels = {its.interval.level for its in found.values() if its.interval}
    notes = [f"*: the {100 * level:g} % interval excludes 0" for level in levels]
    return HeatmapPlot(
        adapters,
        detectors,
        deltas,
        excludes,
        incomplete,
        f"Δ {METRIC[metric]} ({where}) against {against}, percentage points",
        (*notes, *(["†: cells are missing"] if incomplete.any() else [])),
        higher_is_better(metric),
        () if levels else ("no interval is known, so none is marked",),
    )


def _parts(board: Board, choice: Choice) -> tuple[str, dict[tuple[str, str], Part]]:
    """Return over what the numbers are, and (detector, adapter) -> the numbers."""
    rows = chosen_rows(board, choice)
    if len(choice.ood_sets) > 1:
        raise UsageError("a heat map is of one OOD set, or of all of a group: give one --ood-set")
    if choice.ood_sets:
        (name,) = chosen_sets(board, choice)
        return name, {_place(row): row.sets[name] for row in rows}
    group = board.info.main_group
    return group_title(group), {_place(row): row.groups[group] for row in rows}


def _place(row: Row) -> tuple[str, str]:
    return row.key.detector_label, row.key.adapter_label


def _delta(part: Part, against: str, metric: str) -> Spread | None:
    found = part.deltas.get(against, {}).get(metric)
    return found if found is not None and found.n else None


def limit_of(deltas: NDArray[np.float64]) -> float:
    """Return where the colours end: one far difference does not make all others pale."""
    sizes = np.abs(deltas[np.isfinite(deltas)])
    return max(float(np.quantile(sizes, 0.9)), 1e-4)


def draw(plot: HeatmapPlot) -> "Figure":
    """Return the figure: detectors down, adapters across; blue is better."""
    rows, columns = plot.deltas.shape
    widest = max(map(len, plot.detectors))
    width = min(max(style.COLUMN, 0.45 * columns + 0.06 * widest + 0.9), style.PAGE)
    tilted = max(map(len, plot.adapters)) > 9
    height = 0.17 * rows + 1.0 + (0.05 * max(map(len, plot.adapters)) if tilted else 0)
    figure = style.new_figure(width, height)
    axis = figure.subplots()
    limit = 100 * limit_of(plot.deltas)
    colours = "RdBu" if plot.higher_is_better else "RdBu_r"
    image = axis.imshow(100 * plot.deltas, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    axis.set_facecolor("#DDDDDD")
    axis.set_xticks(range(columns), plot.adapters, rotation=45 if tilted else 0)
    if tilted:
        axis.tick_params(axis="x", rotation=45)
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("right")
    axis.set_yticks(range(rows), plot.detectors)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    _write_values(axis, plot, limit)
    bar = figure.colorbar(image, ax=axis, extend="both", location="bottom", aspect=40, pad=0.03)
    figure.supxlabel("\n".join([plot.label, "; ".join(plot.notes)]).strip(), fontsize=7)
    bar.outline.set_linewidth(0.4)
    return figure


def _write_values(axis: "Axes", plot: HeatmapPlot, limit: float) -> None:
    for (row, column), delta in np.ndenumerate(plot.deltas):
        if np.isnan(delta):
            axis.text(column, row, "–", ha="center", va="center_baseline")  # noqa: RUF001 - as in the tables
            continue
        sure = bool(plot.excludes_zero[row, column])
        marks = "*" * sure + "†" * bool(plot.incomplete[row, column])
        axis.text(
            column,
            row,
            f"{percent(delta, signed=True)}{marks}".replace("-", "−"),  # noqa: RUF001 - a minus
            ha="center",
            va="center_baseline",
            fontsize=6,
            fontweight="bold" if sure else "normal",
            color="white" if abs(100 * delta) > 0.7 * limit else "black",
        )
