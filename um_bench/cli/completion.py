"""`um-bench completion`: the script by which a shell completes commands, options and names."""

import click
from click.shell_completion import get_completion_class

from um_bench.cli.options import OK, reports_errors

_PROGRAM = "um-bench"
_VARIABLE = "_UM_BENCH_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@reports_errors
def completion(shell: str) -> int:
    """Print the script that completes commands, options and names in a shell.

    For one session: eval "$(um-bench completion bash)".
    """
    from um_bench.cli import main

    kind = get_completion_class(shell)
    assert kind is not None, "click has these three"
    click.echo(kind(main, {}, _PROGRAM, _VARIABLE).source())
    return OK
