"""What several commands share: options, and errors as one line and an exit code."""

import functools
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from um_bench.cli.names import BACKBONE, SUITE
from um_bench.errors import UmBenchError
from um_bench.render.text import printable

OK, FAILED_CELLS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


"""Exit codes. Missing data and what is unsupported are named, and are no failures."""


_level_option = click.option(
    "--log-level",
    type=click.Choice(["info", "warning", "error"]),
    envvar="UM_BENCH_LOG_LEVEL",
    default="warning",
    show_default=True,
    show_envvar=True,
    help="Which messages are shown.",
)


def reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into one line and an exit code; with --debug, into a traceback."""

    @_level_option
    @click.option("--debug", is_flag=True, help="Show tracebacks, and every warning and message.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, log_level: str, **options: Any) -> None:
        _set_up_messages("info" if debug else log_level, everything=debug)
        try:
            code = command(*args, **options) or OK
        except KeyboardInterrupt:
            click.echo("\ninterrupted; what is finished is kept: run the command again.", err=True)
            code = INTERRUPTED
        except (click.ClickException, BrokenPipeError):
            raise  # click says the one, and keeps quiet about the other: `um-bench ... | head`
        except Exception as error:
            if debug:
                traceback.print_exc()
            click.echo(f"um-bench: error: {_one_line(error)}", err=True)
            code = BAD_INPUT
        sys.exit(code)

    return wrapped


def _one_line(error: Exception) -> str:
    text = printable(" ".join(str(error).split("\n")))
    if isinstance(error, UmBenchError):
        return text
    return f"unexpected {type(error).__name__}: {text} (--debug shows where; please report it)"


def _set_up_messages(level: str, *, everything: bool) -> None:
    """Show our messages from a level on; those of libraries, and warnings, only with everything."""
    logging.basicConfig(
        level=logging.INFO if everything else logging.ERROR, format="%(name)s: %(message)s"
    )
    logging.getLogger("um_bench").setLevel(level.upper())
    if not everything:
        warnings.simplefilter("ignore")


def names_of(text: str | None) -> tuple[str, ...] | None:
    """Return the items of a comma-separated option."""
    if text is None:
        return None
    return tuple(item.strip() for item in text.split(",") if item.strip())


suite_option = click.option(
    "--suite", type=SUITE, metavar="NAME|FILE", help="A shipped suite, or a TOML file."
)


results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    envvar="UM_BENCH_RESULTS",
    default=Path("results"),
    show_default=True,
    show_envvar=True,
    help="Folder of all results.",
)


data_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="UM_BENCH_DATA",
    default=Path("data"),
    show_default=True,
    show_envvar=True,
    help="Folder of the image sets.",
)


device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."
)


_model_options = (
    click.option(
        "--backbone",
        type=BACKBONE,
        metavar="NAME",
        help="A timm model, or pytorch-ood:KEY; {seed} is replaced.",
    ),
    click.option(
        "--checkpoint", metavar="FILE", help="Weights to start from; {seed} in it is replaced."
    ),
    click.option("--seeds", metavar="0,1,2", help="Seeds to run."),
    click.option(
        "--set",
        "settings",
        metavar="NAME.KEY=VALUE",
        multiple=True,
        help="A hyperparameter: um.constraint=0.15, knn.k=20, recipe.epochs=5. Repeatable.",
    ),
)


def with_model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that decide which base classifiers there are."""
    for option in reversed(_model_options):
        command = option(command)
    return command


report_option = click.option(
    "--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True
)
