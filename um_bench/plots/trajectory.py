"""`um-bench plot trajectory`: how well a model in training detects OOD, epoch by epoch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from um_bench.errors import UsageError, unknown_name
from um_bench.leaderboard import Board
from um_bench.plots import style
from um_bench.plots.selection import (
    Choice,
    chosen_seeds,
    chosen_sets,
    of_one_detector,
    refuse_too_many,
)
from um_bench.render.words import METRIC, group_title
from um_bench.trajectories import BASE, Trajectory, read_trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """One quantity over epochs, seed by seed."""

    label: str
    place: int
    """Of its colour; it is the same in every panel."""
    by_seed: dict[int, dict[int, float]]
    """Seed -> epoch -> value."""

    @property
    def mean(self) -> dict[int, float]:
        """Epoch -> mean over the seeds, at the epochs that all of them have."""
        seeds = list(self.by_seed.values())
        epochs = sorted(set.intersection(*(set(values) for values in seeds)))
        return {epoch: float(np.mean([values[epoch] for values in seeds])) for epoch in epochs}


@dataclass(frozen=True)
class TrajectoryPlot:
    """Everything that is drawn."""

    title: str
    panels: dict[str, tuple[Line, ...]]
    """Name of an axis -> its lines; metrics in percent, loss in nats."""
    remarks: tuple[str, ...]


def trajectory_plot(folder: Path, board: Board, choice: Choice) -> TrajectoryPlot:
    """Return the trajectories that were asked for: by default of the base classifier's training.

    Raises:
        UsageError: if nothing was tracked, a name is unknown, or there is more than can be read.
    """
    found, remarks = _chosen_trajectories(folder, board, choice)
    detectors, further = _detectors(board, found, choice)
    adapters = tuple(dict.fromkeys(its.adapter for its in found))
    if len(adapters) > 1 and len(detectors) > 1:
        raise UsageError(
            "a trajectory is of several adapters with one detector, or of one adapter with several "
            f"detectors. Choose: --adapter, of {', '.join(adapters)}, or --detector, of "
            f"{', '.join(detectors)}."
        )
    refuse_too_many(
        "lines", len(adapters) * len(detectors), style.MOST_LINES, "--adapter, --detector"
    )
    sets = [name for name in chosen_sets(board, choice) if name in found[0].groups]
    where = ", ".join(choice.ood_sets) or group_title(board.info.main_group)
    pairs = [(adapter, detector) for adapter in adapters for detector in detectors]
    panels = {}
    for metric in ("auroc", f"fpr95_{board.info.fpr95}"):
        panels[f"{METRIC[metric]} ({where}), %"] = tuple(
            _metric_line(found, pair, sets, metric, place, named=len(pairs) > 1)
            for place, pair in enumerate(pairs)
        )
    panels["Training loss, nats"] = tuple(
        Line(adapter, place, {t.seed: _losses(t) for t in found if t.adapter == adapter})
        for place, adapter in enumerate(adapters)
    )
    panels["ID accuracy, %"] = tuple(
        Line(adapter, place, {t.seed: _accuracies(t) for t in found if t.adapter == adapter})
        for place, adapter in enumerate(adapters)
    )
    alarms = [
        f"{its.adapter}, seed {its.seed}: {words}" for its in found for words in its.alarms.values()
    ]
    return TrajectoryPlot(
        _title(found[0], adapters, detectors), panels, (*remarks, *further, *alarms)
    )


def _chosen_trajectories(
    folder: Path, board: Board, choice: Choice
) -> tuple[list[Trajectory], list[str]]:
    seeds = chosen_seeds(board, choice)
    known = [its for its in read_trajectories(folder) if its.points]
    if not known:
        raise UsageError(
            f"{folder}: no training was tracked. Run the suite with --track-every 1 or more."
        )
    backbones = {its.backbone for its in known}
    if choice.backbone and choice.backbone not in backbones:
        raise unknown_name("backbone among the trajectories", choice.backbone, backbones)
    if len(backbones) > 1 and not choice.backbone:
        raise UsageError(
            f"a plot is of one backbone; choose it with --backbone: {', '.join(sorted(backbones))}"
        )
    known = [t for t in known if t.seed in seeds and choice.backbone in ("", t.backbone)]
    adapters = tuple(dict.fromkeys(its.adapter for its in known))
    chosen, remarks = choice.adapters, []
    if not chosen:
        chosen = (BASE,) if BASE in adapters else adapters
        others = ", ".join(name for name in adapters if name not in chosen)
        if others:
            remarks.append(f"the training of {BASE}; --adapter chooses others: {others}")
    for name in chosen:
        if name not in adapters:
            raise unknown_name("adapter among the trajectories", name, adapters)
    found = [its for name in chosen for its in known if its.adapter == name]
    return found, remarks


def _detectors(
    board: Board, found: Sequence[Trajectory], choice: Choice
) -> tuple[tuple[str, ...], list[str]]:
    """Return the detectors that were asked for, or else the best of those that were tracked."""
    tracked = found[0].detectors
    for name in choice.detectors:
        if not _matching(tracked, name):
            raise unknown_name("detector among the trajectories", name, tracked)
    if choice.detectors:
        return tuple(d for name in choice.detectors for d in _matching(tracked, name)), []
    rows = [row for row in board.rows if row.key.detector_label in tracked]
    if not rows:
        return (tracked[0],), []
    best, remarks = of_one_detector(board, rows, choice)
    return (best[0].key.detector_label,), remarks


def _matching(labels: Iterable[str], name: str) -> list[str]:
    """Return the label itself, or else those with this bare name."""
    known = list(labels)
    return [name] if name in known else [its for its in known if its.split("@")[0] == name]


def _metric_line(
    found: Sequence[Trajectory],
    pair: tuple[str, str],
    sets: Sequence[str],
    metric: str,
    place: int,
    *,
    named: bool,
) -> Line:
    """Return a metric's unweighted mean over OOD sets, in percent, epoch by epoch."""
    adapter, detector = pair
    several = len({its.adapter for its in found}) > 1
    by_seed = {}
    for its in found:
        if its.adapter == adapter:
            values = [its.values(detector, name, metric) for name in sets]
            means = 100 * np.mean(values, axis=0)
            by_seed[its.seed] = dict(zip(its.epochs, means.tolist(), strict=True))
    return Line((adapter if several else detector) if named else "", place, by_seed)


def _losses(its: Trajectory) -> dict[int, float]:
    return dict(enumerate(its.losses, start=1))


def _accuracies(its: Trajectory) -> dict[int, float]:
    return {point.epoch: 100 * point.id_accuracy for point in its.points}


def _title(its: Trajectory, adapters: Sequence[str], detectors: Sequence[str]) -> str:
    shared = [names[0] for names in (adapters, detectors) if len(names) == 1]
    return ", ".join([*shared, f"{its.backbone} on {its.id_set}"])


def draw(plot: TrajectoryPlot) -> "Figure":
    """Return the figure: thin lines are seeds, thick ones their mean."""
    figure = style.new_figure(style.COLUMN, 3.1)
    axes = style.panels(figure, len(plot.panels), 2, sharex=True)
    most = max(len(lines) for lines in plot.panels.values())
    for axis, (name, lines) in zip(axes, plot.panels.items(), strict=True):
        _draw_panel(axis, lines, single=len(lines) < most)
        axis.set_title(name)
    figure.supxlabel("Epochs of training", fontsize=7)
    handles = axes[0].get_legend_handles_labels()
    if handles[0]:
        figure.legend(*handles, loc="outside upper center", ncols=4, title=plot.title)
    else:
        figure.suptitle(plot.title, fontsize=7)
    return figure


def _draw_panel(axis: "Axes", lines: Sequence[Line], *, single: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in lines:
        # of one model, whatever detectors there are
        colour = style.GREY if single else style.COLOURS[line.place]
        for values in line.by_seed.values() if len(line.by_seed) > 1 else ():
            axis.plot(list(values), list(values.values()), color=colour, linewidth=0.4, alpha=0.5)
        mean = line.mean
        axis.plot(
            list(mean),
            list(mean.values()),
            color=colour,
            linestyle="-" if single else style.DASHES[line.place],
            marker="." if len(mean) < 15 else "",
            markersize=3,
            label=line.label or None,
        )
    axis.grid(color="#E6E6E6", linewidth=0.4)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
