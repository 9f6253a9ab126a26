"""`um-bench plot pareto`: AUROC over what it costs, and which rows nothing cheaper beats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from um_bench.errors import UsageError
from um_bench.leaderboard import Board
from um_bench.plots import style
from um_bench.plots.selection import Choice, chosen_rows, refuse_too_many
from um_bench.render.columns import COSTS
from um_bench.render.words import group_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox


class Point(NamedTuple):
    """One row."""

    adapter: str
    detector: str
    seconds: float
    auroc: float
    sd: float | None


@dataclass(frozen=True)
class ParetoPlot:
    """Everything that is drawn."""

    points: tuple[Point, ...]
    frontier: tuple[Point, ...]
    """From the cheapest on; each has a higher AUROC than all that cost no more."""
    cost: str
    group: str
    remarks: tuple[str, ...]


def frontier_of(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points that no other one beats at the same or a lower cost."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.auroc)):
        if not found or point.auroc > found[-1].auroc:
            found.append(point)
    return tuple(found)


def pareto_plot(board: Board, choice: Choice, cost: str) -> ParetoPlot:
    """Return the main group's AUROC and the cost of each complete row.

    Args:
        board: the leaderboard.
        choice: which rows.
        cost: `adapting` or `scoring`, as in the tables.

    Raises:
        UsageError: if a name is unknown, or no row is complete.
    """
    rows = chosen_rows(board, choice)
    refuse_too_many(
        "adapters", len({row.key.adapter_label for row in rows}), style.MOST_LINES, "--adapter"
    )
    group = board.info.main_group
    points = []
    for row in rows:
        auroc, seconds = row.groups[group].metrics["auroc"], COSTS[cost](row).mean
        if row.groups[group].complete and auroc.mean is not None and seconds is not None:
            key = row.key
            points.append(
                Point(key.adapter_label, key.detector_label, seconds, auroc.mean, auroc.sd)
            )
    if not points:
        raise UsageError("no row that was asked for is complete: run the suite to its end")
    left = len(rows) - len(points)
    remarks = (f"{left} incomplete rows are left out",) if left else ()
    return ParetoPlot(tuple(points), frontier_of(points), cost, group_title(group), remarks)


def draw(plot: ParetoPlot) -> "Figure":
    """Return the figure: a sign for each adapter, numbers along the frontier, and their key."""
    lines = -(-len(plot.frontier) // 2)
    figure = style.new_figure(style.COLUMN, 2.5 + 0.12 * lines)
    axis = figure.subplots()
    for place, adapter in enumerate(dict.fromkeys(point.adapter for point in plot.points)):
        its = [point for point in plot.points if point.adapter == adapter]
        axis.scatter(
            [point.seconds for point in its],
            [100 * point.auroc for point in its],
            s=12,
            marker=style.MARKERS[place],
            facecolor=style.COLOURS[place],
            edgecolor="white",
            linewidth=0.3,
            label=adapter,
            zorder=3,
        )
    _draw_frontier(axis, plot)
    if min(point.seconds for point in plot.points) > 0:
        _set_log_scale(axis)
    stage = "adapting one model" if plot.cost == "adapting" else "scoring one OOD set, on average"
    axis.set(xlabel=f"Seconds: {stage}", ylabel=f"AUROC ({plot.group}), %")
    axis.grid(color="#E6E6E6", linewidth=0.4)
    axis.margins(x=0.08, y=0.08)
    figure.legend(loc="outside upper center", ncols=4, handletextpad=0.1, columnspacing=1)
    _number(figure, axis, plot.frontier)
    return figure


def _draw_frontier(axis: "Axes", plot: ParetoPlot) -> None:
    seconds = [point.seconds for point in plot.frontier]
    percents = [100 * point.auroc for point in plot.frontier]
    dearest = max(point.seconds for point in plot.points)
    axis.step(
        [*seconds, dearest],
        [*percents, percents[-1]],
        where="post",
        color=style.GREY,
        linewidth=0.8,
        zorder=2,
    )
    axis.errorbar(
        seconds,
        percents,
        yerr=[100 * (point.sd or 0.0) for point in plot.frontier],
        fmt="none",
        ecolor="#B0B0B0",
        elinewidth=0.5,
        capsize=1.5,
        capthick=0.5,
        zorder=1,
    )


def _set_log_scale(axis: "Axes") -> None:
    axis.set_xscale("log", subs=(2, 5))
    axis.xaxis.set_major_formatter(_seconds)
    axis.xaxis.set_minor_formatter(_seconds)
    axis.tick_params(axis="x", which="both", labelsize=6, length=3, pad=3)


def _seconds(value: float, _: float) -> str:
    return f"{value:g}"


_OFFSETS = [
    (dx, dy)
    for reach in (4, 7, 10, 14, 19)
    for dy in (reach, 0, -reach)
    for dx in (-reach, reach, 0)
    if dx or dy
]
"""Where a number may stand beside its point, in points of print, the nearest first."""


def _number(figure: "Figure", axis: "Axes", frontier: Sequence[Point]) -> None:
    """Number the frontier's points, where no number covers another one or a point; add the key."""
    from matplotlib.lines import Line2D

    key = [
        Line2D([], [], linestyle="", label=f"{number}: {point.adapter} + {point.detector}")
        for number, point in enumerate(frontier, start=1)
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=2, handlelength=0, handletextpad=0)
    figure.draw_without_rendering()
    spots = [
        tuple(at) for c in axis.collections for at in axis.transData.transform(c.get_offsets())
    ]
    taken: list[Bbox] = []
    for number, point in enumerate(frontier, start=1):
        taken.append(_placed(axis, str(number), point, taken, spots))


def _placed(
    axis: "Axes", text: str, point: Point, taken: Sequence["Bbox"], spots: Sequence[Any]
) -> "Bbox":
    """Write beside a point where there is room, and return the box that it takes."""
    label = axis.annotate(
        text,
        (point.seconds, 100 * point.auroc),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=5.5,
        ha="center",
        va="center",
    )
    for offset in _OFFSETS:
        label.set_position(offset)
        box = label.get_window_extent()
        reach = box.padded(1.5)
        if not any(box.overlaps(its) for its in taken) and not any(
            reach.contains(*at) for at in spots
        ):
            break
    return label.get_window_extent()
