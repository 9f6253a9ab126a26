"""`um-bench data`: which image sets are here, getting them, and whether they are whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from um_bench.cli.names import DATASET
from um_bench.cli.options import FAILED_CELLS, OK, data_option, reports_errors
from um_bench.errors import UmBenchError
from um_bench.render.text import printable

if TYPE_CHECKING:
    from um_bench.downloads import Archive, State


@click.group()
def data() -> None:
    """Say which image sets are here, get them, and check them."""


@data.command(name="list")
@data_option
@reports_errors
def list_sets(data_dir: Path) -> int:
    """List the sets that shipped suites use: whether each is here, and where it is from."""
    from tabulate import tabulate

    from um_bench.downloads import in_suites, state_of

    rows = []
    for reference, suites in in_suites().items():
        state = state_of(reference, data_dir)
        more = f" and {len(suites) - 1} more" if len(suites) > 1 else ""
        rows.append((reference, state.word, _images(state), _from(state), f"{suites[0]}{more}"))
    head = ("set", "in the folder", "images", "to get it", "used by")
    click.echo(tabulate(rows, headers=head, disable_numparse=True))
    click.echo("\num-bench data verify SET says what is missing, and how to get it.")
    return OK


def _images(state: "State") -> str:
    found = "?" if state.found is None else f"{state.found:,}"
    if state.found is None and state.expected is None:
        return ""
    return found if state.expected in (None, state.found) else f"{found} of {state.expected:,}"


def _from(state: "State") -> str:
    """Return where a set that is not here comes from."""
    from urllib.parse import urlsplit

    from um_bench.downloads import archives_of

    if state.word == "here":
        return ""
    archives = archives_of(state.reference)
    return f"data get, {urlsplit(archives[0].addresses[0]).hostname}" if archives else "by hand"


@data.command()
@click.argument("names", nargs=-1, required=True, type=DATASET, metavar="SET...")
@data_option
@reports_errors
def get(names: Sequence[str], data_dir: Path) -> int:
    """Download sets, such as cifar10 or svhn/test; what was interrupted goes on where it was.

    Only sets whose address and checksum are known can be had so; of the others, it says how to get
    them. Exit code 1 if one could not be had.
    """
    # All names first: a typo in the last one is not found out after an hour.
    from um_bench.downloads import archives_of

    archives = {name: archives_of(name) for name in names}
    had = [_get(name, archives[name], data_dir) for name in names]
    return OK if all(had) else FAILED_CELLS


def _get(name: str, archives: "Sequence[Archive]", data_dir: Path) -> bool:
    from um_bench import downloads

    parts = _parts(name)
    states = [downloads.state_of(part, data_dir) for part in parts]
    if all(state.word == "here" for state in states):
        click.echo(f"{name}: is in {data_dir}")
        return True
    if not archives:
        click.echo(printable(f"{name}: no address with a checksum is known. {_reason(states)}"))
        return False
    licence = downloads.licence_of(name)
    if licence:
        click.echo(printable(f"{name}: licence {licence}, says pytorch-ood"), err=True)
    try:
        with _Bytes(name) as bar:
            downloads.get(archives, data_dir, on_bytes=bar.show)
    except UmBenchError as error:
        click.echo(printable(f"{name}: {error}"), err=True)
        return False
    states = [downloads.state_of(part, data_dir) for part in parts]
    whole = all(state.word == "here" for state in states)
    count = ", ".join(f"{state.found:,}" for state in states if state.found is not None)
    click.echo(printable(f"{name}: {f'{count} images' if whole else _reason(states)}"))
    return whole


def _parts(name: str) -> tuple[str, ...]:
    """Return the sets that a name stands for: a family is all of its parts."""
    from um_bench import registry

    family, slash, _ = name.partition("/")
    parts = getattr(registry.load("dataset", family), "parts", None)
    if slash or not parts:
        return (name,)
    return tuple(f"{family}/{part}" if part else family for part in parts)


def _reason(states: "Sequence[State]") -> str:
    return next((state.reasons[-1] for state in states if state.reasons), "")


@data.command()
@click.argument("names", nargs=-1, type=DATASET, metavar="[SET]...")
@data_option
@reports_errors
def verify(names: Sequence[str], data_dir: Path) -> int:
    """Check files that are here by checksums, lists and counts, and decode every image.

    Without a name, all sets that shipped suites use are checked, as far as they are here. Exit code
    1 if one is damaged or incomplete, or one that is named is missing.
    """
    from um_bench import downloads

    chosen = [part for name in names for part in _parts(name)] or list(downloads.in_suites())
    wrong = 0
    for reference in chosen:
        state = downloads.checked(reference, data_dir)
        if state.word == "missing" and not names:
            continue
        wrong += state.word != "here"
        click.echo(printable(f"{reference}: {state.word} {_images(state)}".rstrip()))
        for reason in state.reasons:
            click.echo(printable(f"  {reason}"))
    return FAILED_CELLS if wrong else OK


class _Bytes:
    """Shows how far a download is."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(printable(name), total=None)

    def __enter__(self) -> "_Bytes":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, here: int, size: int | None) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=here, total=size)
