"""`um-bench report`: what adapting changed, in words and tables."""

from pathlib import Path

import click

from um_bench.cli.folders import chosen_folders
from um_bench.cli.options import OK, reports_errors, results_option, suite_option
from um_bench.errors import UsageError


@click.command()
@suite_option
@results_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@reports_errors
def report(suite: str | None, results: Path, out: Path | None) -> int:
    """Say in Markdown what each adapter changed, for which detectors, beside what is published."""
    from um_bench.records import suite_folder, write_atomically
    from um_bench.report import report_of

    names = chosen_folders(suite, results)
    if len(names) > 1:
        raise UsageError(f"a report is of one suite; give --suite and one of: {', '.join(names)}")
    text = report_of(suite_folder(results, names[0]))
    if out is None:
        click.echo(text)
    else:
        write_atomically(out, f"{text}\n".encode())
    return OK
