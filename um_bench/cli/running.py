"""`um-bench run`: fill the cells of a suite, and show how far it is."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from um_bench.cli.choice import choose
from um_bench.cli.clock import Clock
from um_bench.cli.folders import table_of
from um_bench.cli.names import ADAPTERS, DETECTORS
from um_bench.cli.options import (
    FAILED_CELLS,
    OK,
    data_option,
    device_option,
    reports_errors,
    results_option,
    suite_option,
    with_model_options,
)
from um_bench.cli.placing import Place, with_place
from um_bench.cli.planning import dry_run_of
from um_bench.errors import UsageError
from um_bench.render.text import printable

if TYPE_CHECKING:
    from rich.console import Group

    from um_bench.records import Record
    from um_bench.suite import Suite


@click.command()
@suite_option
@click.option(
    "--adapters", type=ADAPTERS, metavar="A,B", help="Adapters to run, e.g. none,um,oe+um."
)
@click.option(
    "--detectors",
    type=DETECTORS,
    metavar="A,B",
    help="Detectors to run, e.g. msp,knn@k=20, or all.",
)
@click.option("--ood-sets", metavar="A,B", help="OOD sets to score, by the suite's names.")
@click.option(
    "--auxiliary",
    metavar="SET",
    help="Outliers to train with, for adapters that do, e.g. folder/FOLDER_BELOW_THE_DATA.",
)
@with_model_options
@device_option
@with_place
@data_option
@results_option
@click.option(
    "--limit", type=click.IntRange(min=1), help="Only N images of each set: a quick look."
)
@click.option(
    "--budget",
    metavar="TIME",
    help="Start no new job after this time, as in 30m; cheapest first, seed by seed.",
)
@click.option(
    "--track-every",
    metavar="N",
    type=click.IntRange(min=1),
    help="Score each model after every N epochs of its training too; nothing is chosen by it.",
)
@click.option(
    "--tensorboard",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write event files of what is trained; needs um-bench[tensorboard].",
)
@click.option("--retry-failed", is_flag=True, help="Compute failed cells again.")
@click.option("--deterministic", is_flag=True, help="Only deterministic kernels on a GPU.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and stop.")
@reports_errors
def run(
    suite: str | None,
    data_dir: Path,
    results: Path,
    device: str,
    place: Place,
    track_every: int | None,
    tensorboard: Path | None,
    retry_failed: bool,
    deterministic: bool,
    dry_run: bool,
    budget: str | None,
    **choices: Any,
) -> int:
    """Fill the cells of a suite, and show them. What is already there is not computed again."""
    chosen = choose(suite, **choices)
    if dry_run:
        return dry_run_of(chosen, data_dir, results)
    executor = place.executor_for(device, budget)
    clock = Clock()
    from um_bench import distributed
    from um_bench.budget import Budget, seconds_of
    from um_bench.records import suite_folder
    from um_bench.runner import run_suite

    if _followed(chosen, place, data_dir=data_dir, device=device, deterministic=deterministic):
        return OK
    limit = Budget(seconds_of(budget)) if budget else None
    executor = limit.over(executor) if limit else executor
    with _ProgressBar() as bar:
        records = run_suite(
            chosen,
            results=results,
            data_dir=data_dir,
            device=device,
            retry_failed=retry_failed,
            deterministic=deterministic,
            on_progress=bar.show,
            executor=executor,
            stopwatch=clock.stopwatch,
            track_every=track_every,
            tensorboard=tensorboard,
        )
        cells = bar.follow(records)
    distributed.leave()
    click.echo(table_of(results, chosen.folder, "table"))
    click.echo(clock.report(len(cells)), err=True)
    if track_every:
        click.echo(_tracked(suite_folder(results, chosen.folder)))
    if tensorboard and not any(tensorboard.rglob("events.out.tfevents.*")):
        click.echo("Event files: none, as nothing was trained; what is trained already has none.")
    if limit and limit.left:
        click.echo(f"{budget} are used up; run it again for the {len(limit.left)} jobs left.")
    return _summary(cells, results)


def _followed(chosen: "Suite", place: Place, **how: Any) -> bool:
    """Return whether this process was one of torchrun's that only train, which it then has.

    Raises:
        UsageError: if there are several, and each job is to have a process of its own as well, or
            one GPU is named for all of them.
    """
    from um_bench import distributed
    from um_bench.runner import follow

    if distributed.launched() and not place.is_here:
        raise UsageError(
            "torchrun's processes train one model together; leave out --jobs and --executor"
        )
    if distributed.launched() and ":" in how["device"]:
        raise UsageError(
            f"--device {how['device']}: each of torchrun's processes has a GPU of its own; give "
            "cuda, or leave it out"
        )
    team = distributed.join()
    if team.rank == 0:
        return False
    follow(chosen, **how)
    distributed.leave()
    return True


def _tracked(folder: Path) -> str:
    """Return how many trajectories a suite has, and what it took to make them."""
    from um_bench.trajectories import read_trajectories

    found = list(read_trajectories(folder))
    if not found:
        return "Trajectories: none, as nothing is trained."
    train, track = (sum(t.seconds[part] for t in found) for part in ("train", "track"))
    return (
        f"Trajectories: {len(found)} in {folder / 'trajectories'}. Training took {train:.0f} s, "
        f"scoring in its course {track:.0f} s more."
    )


class _ProgressBar:
    """Shows how far a sweep is, and a line for each job that has ended."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self._workers: dict[int, str] = {}
        """What each process does, where there are several."""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeLeft(),
        )
        self._console = Console(stderr=True)
        self._live = Live(get_renderable=self._view, console=self._console, transient=True)
        self._task = self._bar.add_task("reading the data", total=None)

    def __enter__(self) -> "_ProgressBar":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Any) -> None:
        """Move the bar."""
        text = printable(f"seed {progress.job.seed}: {progress.stage}")
        if progress.worker:
            self._workers[progress.worker] = text
            text = f"{len(self._workers)} at once"
        self._bar.update(
            self._task, description=text, completed=progress.done, total=progress.total
        )

    def _view(self) -> "Group":
        """Return the bar, and below it a line for each process."""
        from rich.console import Group
        from rich.text import Text

        lines = (f"  {number} {text}" for number, text in sorted(self._workers.items()))
        return Group(self._bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def follow(self, records: Any) -> "list[Record]":
        """Return all records, having said of each job how its cells ended."""
        seen: list[Record] = []
        for record in records:
            if seen and record.job != seen[-1].job:
                self._say_job(seen)
            seen.append(record)
        if seen:
            self._say_job(seen)
        return seen

    def _say_job(self, records: "list[Record]") -> None:
        job = records[-1].job
        states = Counter(r.state for r in records if r.job == job)
        ends = ", ".join(f"{n} {state}" for state, n in states.items())
        text = printable(f"seed {job.seed}, {job.adapter}: {ends}")
        self._console.print(text, highlight=False, markup=False)


def _summary(records: "Sequence[Record]", results: Path) -> int:
    """Say how the cells ended, each reason once; return the exit code."""
    states = Counter(record.state for record in records)
    ends = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    click.echo(f"{len(records)} cells: {ends}. Records: {results}")
    if not states["failed"]:
        return OK
    click.echo(f"failed: {states['failed']}; --retry-failed computes them again.", err=True)
    return FAILED_CELLS
