"""`um-bench import-config`: a configuration of the paper's authors, as a suite."""

from pathlib import Path

import click

from um_bench.cli.options import OK, reports_errors


@click.command(name="import-config")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.toml",
    help="Write the suite here, not to the terminal.",
)
@click.option(
    "--script",
    type=click.Choice(["main", "main_OE", "estimate_loss"]),
    help="The authors' program that the file is for; else told from what is in it.",
)
@reports_errors
def import_config(file: Path, out: Path | None, script: str | None) -> int:
    """Turn a YAML file of the paper's authors into a suite.

    Says what in it does something else there than it says, or nothing, and what the suite has
    instead; what matters most comes first.
    """
    from um_bench import authors_config
    from um_bench.records import write_atomically

    config = authors_config.read_config(file, script)
    suite = authors_config.translate(config)
    suite = suite.replace(description=authors_config.description(config))
    text = authors_config.suite_toml(suite)
    report = authors_config.as_text(config)
    if out is None:
        click.echo(text, nl=False)
        click.echo(report, err=True)
        return OK
    write_atomically(out, text.encode())
    click.echo(report)
    click.echo(f"\nRun it: um-bench run --suite {out} --data-dir FOLDER")
    return OK
