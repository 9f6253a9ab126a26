"""The command line: it reads options, calls one function, and prints. torch is imported late.

A command is a file here, or shares one with its counterpart.
"""

import click

from um_bench.cli.comparing import check, diff
from um_bench.cli.estimating import estimate
from um_bench.cli.installed import doctor, list_
from um_bench.cli.options import BAD_INPUT, FAILED_CELLS, INTERRUPTED, OK
from um_bench.cli.plotting import plot
from um_bench.cli.reporting import report
from um_bench.cli.running import run
from um_bench.cli.submitting import submit, verify
from um_bench.cli.tables import leaderboard

__all__ = ["BAD_INPUT", "FAILED_CELLS", "INTERRUPTED", "OK", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="um-bench")
def main() -> None:
    """Benchmark out-of-distribution detection: adapters x detectors x data sets, resumable."""


for _command in (
    run,
    leaderboard,
    plot,
    report,
    estimate,
    list_,
    check,
    diff,
    submit,
    verify,
    doctor,
):
    main.add_command(_command)
