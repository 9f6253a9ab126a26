"""One hyperparameter of an adapter, varied, and the rest left as it is."""

from collections.abc import Iterator
from typing import NamedTuple

from um_bench.leaderboard import Board, Row
from um_bench.suite import parse_adapter


class Setting(NamedTuple):
    """A row, and the value of the setting that is varied."""

    value: float
    """As given; or, where it was estimated, the mean over seeds."""
    estimated: bool
    row: Row


def settings_of(board: Board, adapter: str, setting: str, detector: str) -> list[Setting]:
    """Return the rows of an adapter that differ in one setting, by its value.

    Args:
        board: of one suite.
        adapter: bare name, of one adapter.
        setting: of numbers; where a row does not give it, the adapter's note of the same name says
            what was estimated.
        detector: bare name.
    """
    rows = [row for row in board.rows if row.adapter == adapter and row.detector == detector]
    return sorted(
        (found for row in rows for found in _setting(row, setting)), key=lambda one: one.value
    )


def _setting(row: Row, setting: str) -> Iterator[Setting]:
    ((part,),) = parse_adapter(row.key.adapter_label)
    given = dict(part.settings)
    if set(given) == {setting}:
        yield Setting(float(given[setting]), estimated=False, row=row)
    elif not given and setting in row.adapted.notes:
        mean = row.adapted.notes[setting].mean
        if mean is not None:
            yield Setting(mean, estimated=True, row=row)
