"""What a page shows first, and the words that its script needs."""

from typing import Any, NamedTuple

from um_bench.leaderboard import METRICS, Board
from um_bench.leaderboard.curve_file import MOST_CURVES
from um_bench.render import words
from um_bench.render.columns import named


class Start(NamedTuple):
    """What is shown first; as in `render`."""

    columns: tuple[str, ...]
    per_set: bool
    order: str


def start_of(board: Board, start: Start) -> dict[str, Any]:
    """Return what the page's script starts from."""
    info = board.info
    return {
        "start": {**start._asdict(), "columns": named(info, start.columns)},
        "suite": {
            "name": info.name,
            "seeds": info.seeds,
            "sets": [{"name": ood.name, "group": ood.group} for ood in info.ood],
            "groups": [{"name": name, "title": words.group_title(name)} for name in info.groups],
            "main": info.main_group,
            "fpr95": f"fpr95_{info.fpr95}",
            "adapters": info.adapters,
            "detectors": info.detectors,
        },
        "words": {
            "metrics": {name: words.METRIC[name] for name in METRICS},
            "meanings": words.MEANING,
            "none": words.NO_NUMBER,
            "incomplete": words.INCOMPLETE,
            "alarm": words.ALARM,
            "states": words.STATE,
            "no_curves": _no_curves(board),
        },
    }


def _no_curves(board: Board) -> str:
    """Return why a cell may have no curves."""
    if board.states.get("done", 0) > MOST_CURVES:
        return (
            f"Curves are not kept beside the records of more than {MOST_CURVES:,} cells. "
            "um-bench plot draws them where the scores are."
        )
    return "No curves are kept of this cell's scores. A run writes them when it ends."
