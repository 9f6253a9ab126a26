"""`um-bench run`: fill the cells of a suite, and show how far it is."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from um_bench.cli.choice import choose
from um_bench.cli.folders import table_of
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
from um_bench.errors import UmBenchError
from um_bench.render.text import printable
from um_bench.suite import Suite

if TYPE_CHECKING:
    from um_bench.records import Record


@click.command()
@suite_option
@click.option("--adapters", metavar="A,B", help="Adapters to run, e.g. none,um,oe+um.")
@click.option("--detectors", metavar="A,B", help="Detectors to run, e.g. msp,knn@k=20, or all.")
@click.option("--ood-sets", metavar="A,B", help="OOD sets to score, by the suite's names.")
@click.option(
    "--auxiliary",
    metavar="SET",
    help="Outliers to train with, for adapters that do, e.g. folder/FOLDER_BELOW_THE_DATA.",
)
@with_model_options
@device_option
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
@click.option("--retry-failed", is_flag=True, help="Compute failed cells again.")
@click.option("--deterministic", is_flag=True, help="Only deterministic kernels on a GPU.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and stop.")
@reports_errors
def run(
    suite: str | None,
    data_dir: Path,
    results: Path,
    device: str,
    retry_failed: bool,
    deterministic: bool,
    dry_run: bool,
    budget: str | None,
    **choices: Any,
) -> int:
    """Fill the cells of a suite, and show them. What is already there is not computed again."""
    chosen = choose(suite, **choices)
    if dry_run:
        return _dry_run(chosen, data_dir, results)
    from um_bench.budget import Budget, seconds_of
    from um_bench.executors import local
    from um_bench.runner import run_suite

    limit = Budget(seconds_of(budget)) if budget else None

    with _ProgressBar() as bar:
        records = run_suite(
            chosen,
            results=results,
            data_dir=data_dir,
            device=device,
            retry_failed=retry_failed,
            deterministic=deterministic,
            on_progress=bar.show,
            executor=limit.over(local) if limit else local,
        )
        cells = bar.follow(records)
    click.echo(table_of(results, chosen.folder, "table"))
    if limit and limit.left:
        click.echo(f"{budget} are used up; run it again for the {len(limit.left)} jobs left.")
    return _summary(cells, results)


def _dry_run(suite: Suite, data_dir: Path, results: Path) -> int:
    from um_bench.data import ImageSet
    from um_bench.sweep import bind_adapters, bind_detectors, open_sets, with_outliers

    exposed = with_outliers(bind_adapters(suite))
    suite, _ = bind_detectors(suite)
    sets = open_sets(suite, data_dir, auxiliary=bool(exposed))
    jobs = list(suite.jobs())
    cells = sum(1 for job in jobs for _ in suite.cells(job))
    click.echo(f"{suite.name}: {len(jobs)} jobs, {cells} cells on {suite.backbone}")
    for job in jobs:
        click.echo(f"  seed {job.seed}: {job.adapter}")
    click.echo(_expected(suite, results))
    if isinstance(sets, UmBenchError):
        click.echo(f"missing: {sets}")
        return OK
    named = {"train": sets.train, "test": sets.test, **sets.ood}
    if sets.auxiliary is not None:
        named["auxiliary"] = sets.auxiliary
    for name, data in named.items():
        here = f"{len(data)} images" if isinstance(data, ImageSet) else f"missing: {data}"
        click.echo(f"  {name}: {here}")
    return OK


def _expected(suite: Suite, results: Path) -> str:
    """Return what is done, and what the rest would take, as far as it was ever measured."""
    from um_bench.forecast import forecast
    from um_bench.records import read_folder, suite_folder

    records = read_folder(suite_folder(results, suite.folder))
    try:
        found = forecast(suite, records, results / "models")
    except UmBenchError as error:
        return printable(f"no estimate: {error}")
    said = [f"{found.done} cells are done, {found.left} are left"]
    if not found.left:
        return said[0]
    if found.seconds is None:
        said.append("time: no estimate, nothing of it measured yet")
    else:
        took = f"time: about {_duration(found.seconds)}, one job after another, by {found.measured}"
        said.append(f"{took} cells measured on {found.device}")
    if found.unmeasured and found.seconds is not None:
        said.append(f"  without {', '.join(found.unmeasured)}: never measured")
    for what, size in (("models", found.model_bytes), ("scores", found.score_bytes)):
        known = "no estimate, none is here yet" if size is None else f"up to {size / 1e6:.1f} MB"
        said.append(f"disk for {what}: {known}")
    return "\n".join(map(printable, said))


def _duration(seconds: float) -> str:
    """Return a time as one reads it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _ProgressBar:
    """Shows how far a sweep is, and a line for each job that has ended."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeLeft(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("reading the data", total=None)

    def __enter__(self) -> "_ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Any) -> None:
        """Move the bar."""
        text = printable(f"seed {progress.job.seed}: {progress.stage}")
        self._bar.update(
            self._task, description=text, completed=progress.done, total=progress.total
        )

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
        self._bar.console.print(text, highlight=False, markup=False)


def _summary(records: "Sequence[Record]", results: Path) -> int:
    """Say how the cells ended, each reason once; return the exit code."""
    states = Counter(record.state for record in records)
    ends = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    click.echo(f"{len(records)} cells: {ends}. Records: {results}")
    if not states["failed"]:
        return OK
    click.echo(f"failed: {states['failed']}; --retry-failed computes them again.", err=True)
    return FAILED_CELLS
