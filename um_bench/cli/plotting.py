"""`um-bench plot`: pictures of results for a paper, as PNG, SVG or PDF."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from um_bench.cli.folders import chosen_folders
from um_bench.cli.options import OK, names_of, reports_errors, results_option, suite_option
from um_bench.errors import UsageError
from um_bench.render.text import printable

_choosing = (
    suite_option,
    results_option,
    click.option("--adapter", "adapters", metavar="A,B", help="Adapters, as none,um."),
    click.option("--detector", "detectors", metavar="A,B", help="Detectors, as msp,knn."),
    click.option("--backbone", metavar="NAME", default="", help="Where there are several."),
    click.option(
        "--track",
        metavar="OUTLIERS",
        default="",
        help="Models that have seen these auxiliary outliers; none: without any.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        metavar="FILE",
        help="A .png, .svg or .pdf file.",
    ),
)
_sets_option = click.option("--ood-set", "ood_sets", metavar="A,B", help="OOD sets.")
_seeds_option = click.option("--seed", "seeds", metavar="0,1", help="Seeds.")


def _with_choice(
    *further: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that choose what is drawn."""

    def added(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((*_choosing, *further)):
            command = option(command)
        return command

    return added


@click.group()
def plot() -> None:
    """Draw results for a paper. Needs matplotlib: pip install 'um-bench[plot]'."""


@plot.command()
@_with_choice(_sets_option, _seeds_option)
@reports_errors
def roc(out: Path, **chosen: Any) -> int:
    """ROC curves: a panel for each OOD set, a line for each adapter and detector.

    Thin lines are seeds, thick ones the mean of their TPR at each FPR, so that the area under a
    mean is the mean AUROC. OOD is the positive class.
    """
    from um_bench.plots import write_roc

    return _say(write_roc(*_chosen(chosen), out))


@plot.command()
@_with_choice(_sets_option, _seeds_option)
@reports_errors
def hist(out: Path, **chosen: Any) -> int:
    """Densities of the outlier scores of ID and OOD images: a panel for each cell.

    The first and last bar also hold the scores beyond them; their number stands above.
    """
    from um_bench.plots import write_hist

    return _say(write_hist(*_chosen(chosen), out))


@plot.command()
@_with_choice(_sets_option)
@click.option(
    "--against", type=click.Choice(["none", "finetune"]), default="none", show_default=True
)
@click.option(
    "--metric",
    type=click.Choice(["auroc", "aupr_in", "aupr_out", "fpr95_ood", "fpr95_id"]),
    default="auroc",
    show_default=True,
    help="Whose differences are shown.",
)
@reports_errors
def heatmap(out: Path, against: str, metric: str, **chosen: Any) -> int:
    """What each adapter gains over none or finetune with each detector, paired by seed."""
    from um_bench.plots import write_heatmap

    return _say(write_heatmap(*_chosen(chosen), out, against=against, metric=metric))


@plot.command()
@_with_choice()
@click.option(
    "--cost",
    type=click.Choice(["adapting", "scoring"]),
    default="adapting",
    show_default=True,
    help="Seconds of what.",
)
@reports_errors
def pareto(out: Path, cost: str, **chosen: Any) -> int:
    """AUROC over cost in seconds, and the rows that nothing cheaper beats."""
    from um_bench.plots import write_pareto

    return _say(write_pareto(*_chosen(chosen), out, cost=cost))


@plot.command()
@_with_choice(_sets_option, _seeds_option)
@reports_errors
def trajectory(out: Path, **chosen: Any) -> int:
    """AUROC, FPR95, loss and accuracy over the epochs of a training.

    Drawn from what `um-bench run --track-every N` measured; by default for the base classifier,
    which --adapter base names.
    """
    from um_bench.plots import write_trajectory

    return _say(write_trajectory(*_chosen(chosen), out))


def _chosen(options: dict[str, Any]) -> tuple[Path, Any]:
    """Return the suite's folder, and what is drawn of it."""
    from um_bench.plots import Choice
    from um_bench.records import suite_folder

    folders = chosen_folders(options["suite"], options["results"])
    if len(folders) > 1:
        raise UsageError(f"a plot is of one suite; give --suite and one of: {', '.join(folders)}")
    choice = Choice(
        adapters=names_of(options["adapters"]) or (),
        detectors=names_of(options["detectors"]) or (),
        ood_sets=names_of(options.get("ood_sets")) or (),
        seeds=_seeds(options.get("seeds")),
        backbone=options["backbone"],
        track=options["track"],
    )
    return suite_folder(options["results"], folders[0]), choice


def _seeds(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(map(int, names_of(text) or ()))
    except ValueError as error:
        raise UsageError(f"--seed {text}: not whole numbers, as in --seed 0,1") from error


def _say(remarks: Iterable[str]) -> int:
    for remark in remarks:
        click.echo(printable(remark), err=True)
    return OK
