"""`um-bench leaderboard`: tables and pages, from the records alone."""

import functools
from collections.abc import Sequence
from pathlib import Path

import click

from um_bench.cli.folders import chosen_folders, table_of
from um_bench.cli.options import (
    FAILED_CELLS,
    OK,
    names_of,
    reports_errors,
    results_option,
    suite_option,
)
from um_bench.errors import UsageError
from um_bench.render.text import printable


@click.command()
@suite_option
@results_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "markdown", "csv", "latex", "bibtex", "json", "html"]),
    default="table",
    show_default=True,
)
@click.option("--per-set", is_flag=True, help="A column for each OOD set, not for near and far.")
@click.option(
    "--order",
    type=click.Choice(["auroc", "detector", "adapter"]),
    default="auroc",
    show_default=True,
    help="By mean AUROC, or grouped to compare adapters or detectors.",
)
@click.option(
    "--columns",
    metavar="A,B",
    help="Of each group auroc, fpr95, fpr95_ood, fpr95_id, aupr_in, aupr_out, rank; then "
    "id-accuracy, delta, cost; or all.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option(
    "--check",
    is_flag=True,
    help="Only say whether the file of --out is up to date; without --out, whether the pages are "
    "that lie beside the records, as in leaderboards/.",
)
@reports_errors
def leaderboard(
    suite: str | None,
    results: Path,
    kind: str,
    per_set: bool,
    order: str,
    columns: str | None,
    out: Path | None,
    check: bool,
) -> int:
    """Print the tables of what has been run, from the records alone."""
    from um_bench.records import write_atomically
    from um_bench.render import JOINABLE

    names = chosen_folders(suite, results)
    if check and out is None:
        return _check_pages(results, names)
    if len(names) > 1 and kind not in JOINABLE:
        raise UsageError(
            f"--format {kind} is for one suite; give --suite and one of: {', '.join(names)}"
        )
    shown = {"per_set": per_set, "order": order, **_columns(columns)}
    tables = [table_of(results, name, kind, **shown) for name in names]
    text = "\n\n".join(tables)
    if out is None:
        click.echo(text)
    elif not check:
        write_atomically(out, f"{text}\n".encode())
    elif not out.exists() or out.read_text(encoding="utf-8") != f"{text}\n":
        click.echo(f"{out} is not what the records say; write it again without --check", err=True)
        return FAILED_CELLS
    return OK


def _check_pages(results: Path, names: Sequence[str]) -> int:
    """Say which pages beside the records are not what these say, and how to write them."""
    from um_bench.pages import stale_pages

    stale = [
        page
        for name in names
        for page in stale_pages(results, name, functools.partial(_page, results, name))
    ]
    for page in stale:
        click.echo(printable(f"{page.path} {page.why}. Write it again:"), err=True)
        click.echo(printable(f"  {page.command}"), err=True)
    if not stale:
        click.echo(f"the pages of {', '.join(names)} are what their records say")
    return FAILED_CELLS if stale else OK


def _columns(text: str | None) -> dict[str, tuple[str, ...]]:
    """Return the columns of the option; `all` stands for every one, nothing for the standard."""
    from um_bench.render import COLUMNS

    names = names_of(text)
    return {} if names is None else {"columns": COLUMNS if names == ("all",) else names}


def _page(results: Path, folder: str, kind: str) -> str:
    from um_bench.pages import REPORT
    from um_bench.records import suite_folder

    if kind == REPORT:
        from um_bench.report import report_of

        return f"{report_of(suite_folder(results, folder))}\n"
    return f"{table_of(results, folder, kind)}\n"
