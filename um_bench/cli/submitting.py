"""`um-bench submit` and `um-bench verify`: records for others, and records from others."""

from pathlib import Path

import click

from um_bench.cli.folders import chosen_folders
from um_bench.cli.options import (
    FAILED_CELLS,
    OK,
    report_option,
    reports_errors,
    results_option,
    suite_option,
)
from um_bench.errors import UsageError


@click.command()
@suite_option
@results_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.zip",
    help="The archive.",
)
@click.option("--partial", is_flag=True, help="Pack it though cells are missing, and say so in it.")
@reports_errors
def submit(suite: str | None, results: Path, out: Path, partial: bool) -> int:
    """Pack a suite's records and scores for others, who check them with `um-bench verify`."""
    from um_bench import submission
    from um_bench.records import suite_folder

    names = chosen_folders(suite, results)
    if len(names) > 1:
        raise UsageError(
            f"a submission is of one suite; give --suite and one of: {', '.join(names)}"
        )
    found = submission.pack(suite_folder(results, names[0]), out, partial=partial)
    if isinstance(found, submission.Report):
        click.echo(submission.as_text(found))
        click.echo("\nnot packed: see above; --partial packs what is not finished.", err=True)
        return FAILED_CELLS
    click.echo(submission.receipt(found))
    return OK


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Results that are known, such as leaderboards: sets must be the same images there.",
)
@report_option
@reports_errors
def verify(paths: tuple[Path, ...], against: Path | None, kind: str) -> int:
    """Check submissions, or folders of records: nothing is unpacked, run, or believed.

    PATHS are archives of `um-bench submit`, suites' folders, or folders of these. All metrics are
    computed again from the scores, where there are scores. Exit code 1 if there is a problem.
    """
    import json

    from um_bench import submission

    reports = [report for path in paths for report in submission.verify(path, against)]
    if kind == "json":
        click.echo(json.dumps([submission.as_dict(report) for report in reports], indent=1))
    else:
        click.echo("\n\n".join(map(submission.as_text, reports)))
    return max(report.exit_status for report in reports)
