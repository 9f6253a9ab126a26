"""`um-bench list` and `um-bench doctor`: what is installed, and whether it keeps its contract."""

import click

from um_bench import registry, starting_points
from um_bench.cli.options import OK, reports_errors
from um_bench.errors import UsageError
from um_bench.suite import listed


@click.command()
@click.option("--distribution", metavar="NAME", help="Only the plugins of this distribution.")
@reports_errors
def doctor(distribution: str | None) -> int:
    """Say what is installed, and whether every plugin keeps its contract; about a minute."""
    from um_bench.doctor import doctor as examine
    from um_bench.doctor import exit_code, report

    findings = examine(distribution)
    click.echo(report(findings))
    return exit_code(findings)


@click.command(name="list")
@click.argument(
    "what", type=click.Choice(["adapters", "detectors", "backbones", "datasets", "suites"])
)
@click.option("--long", "details", is_flag=True, help="Detectors: what each reads and needs.")
@reports_errors
def list_(what: str, details: bool) -> int:
    """List what is registered, with the distribution and version that it comes from."""
    from tabulate import tabulate

    if details:
        from um_bench.detectors.catalogue import catalogue

        if what != "detectors":
            raise UsageError(f"--long tells more of detectors alone, not of {what}")
        click.echo(catalogue())
        return OK
    if what == "suites":
        click.echo(tabulate(listed().items(), headers=("suite", "title"), disable_numparse=True))
        return OK
    found = registry.plugins(what.removesuffix("s")).values()
    rows = [(p.name, p.value, f"{p.distribution} {p.version}{_clash(p)}") for p in found]
    click.echo(tabulate(rows, headers=(what, "from", "distribution"), disable_numparse=True))
    if what == "backbones":
        _list_starting_points()
    return OK


def _list_starting_points() -> None:
    from tabulate import tabulate

    rows = [
        (p.backbone, p.id_set, p.loss, "yes" if p.uses_outliers else "")
        for p in starting_points.listed()
    ]
    head = ("trained, from pytorch-ood", "on", "by", "saw outliers")
    click.echo(f"\n{tabulate(rows, headers=head, disable_numparse=True)}")
    click.echo("\nAny model of timm with a linear head works too, by its name.")


def _clash(plugin: registry.Plugin) -> str:
    return f"; also claimed by {', '.join(plugin.rivals)}" if plugin.rivals else ""
