"""`um-bench check` and `um-bench diff`: beside published numbers, and beside other results."""

from pathlib import Path

import click

from um_bench.cli.folders import chosen_folders, folder_of
from um_bench.cli.names import SUITE
from um_bench.cli.options import report_option, reports_errors, results_option


@click.command()
@click.option(
    "--suite", type=SUITE, metavar="NAME|FILE", help="Of all suites with results, this one only."
)
@results_option
@click.option("--against", type=click.Choice(["published"]), default="published", show_default=True)
@click.option(
    "--max-sds", default=3.0, show_default=True, help="Differences of more SDs than that exit 1."
)
@click.option(
    "--same-weights",
    is_flag=True,
    help="I vouch for it that --checkpoint was the published base classifier.",
)
@report_option
@reports_errors
def check(
    suite: str | None,
    results: Path,
    against: str,
    max_sds: float,
    same_weights: bool,
    kind: str,
) -> int:
    """Say how far results are from published numbers, where these can be compared at all."""
    import json

    from um_bench import published
    from um_bench.records import suite_folder

    names = chosen_folders(suite, results)
    reports = {
        name: published.check_folder(
            suite_folder(results, name), max_sds=max_sds, same_weights=same_weights
        )
        for name in names
    }
    if kind == "json":
        found = {name: published.as_dict(report) for name, report in reports.items()}
        click.echo(json.dumps(found, indent=1))
    else:
        texts = [f"{name}\n\n{published.as_text(report)}" for name, report in reports.items()]
        click.echo("\n\n".join(texts))
    return max(report.exit_status for report in reports.values())


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--suite", type=SUITE, metavar="NAME|FILE", help="Of all suites in both, this one only."
)
@report_option
@reports_errors
def diff(a: Path, b: Path, suite: str | None, kind: str) -> int:
    """Say what moved from results A to results B, and what of it the records explain.

    A and B are folders of all results, or of one suite's. Exit code 1 if anything moved.
    """
    import json

    from um_bench import difference

    report = difference.compare_folders(a, b, folder_of(suite) if suite else None)
    as_json = kind == "json"
    click.echo(
        json.dumps(difference.as_dict(report), indent=1) if as_json else difference.as_text(report)
    )
    return report.exit_status
