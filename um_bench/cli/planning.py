"""`um-bench run --dry-run`: what would be run, and what it would take."""

from pathlib import Path

import click

from um_bench.cli.options import OK
from um_bench.errors import UmBenchError
from um_bench.render.text import printable
from um_bench.suite import Suite


def dry_run_of(suite: Suite, data_dir: Path, results: Path) -> int:
    """Say what would be run, what of it is done, what the rest would take, and what is missing."""
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
