"""How plots look on paper, and how they become files: the same bytes for the same input."""

import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from um_bench.errors import UsageError
from um_bench.records import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
COLUMN, PAGE = 3.35, 6.9
"""Widths in inches of one column, and of a page of two."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart whatever one's colour vision; without yellow, too light on white.

Source: Okabe and Ito 2008, Color Universal Design.
"""
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 0.6)))
"""Beside the colours, for those who print in grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_LINES = len(COLOURS)
ID_COLOUR, OOD_COLOUR = COLOURS[0], COLOURS[1]
GREY = "#666666"

_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.borderpad": 0.2,
    "legend.title_fontsize": 7,
    "legend.handlelength": 2.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.5,
    "savefig.dpi": 300,
    "savefig.facecolor": "white",
    "text.parse_math": False,  # names come from plugins: a $ is a $
    "axes.unicode_minus": True,
    "svg.hashsalt": "um-bench",
    "svg.fonttype": "path",  # the same everywhere, whatever fonts there are
    "pdf.fonttype": 42,  # publishers refuse Type 3
}
_WITHOUT_DATES: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def check_out(path: Path) -> None:
    """Raise an error if a plot cannot be written there, before anything is computed.

    Raises:
        UsageError: if matplotlib is not installed, or the ending is unknown.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out {path}: its ending is none of {', '.join(ENDINGS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "plots need matplotlib, which is not installed: pip install 'um-bench[plot]'"
        )


@contextmanager
def for_print() -> Iterator[None]:
    """Set fonts and sizes for a paper, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, which no window knows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in one step, in the format of the path's ending.

    Raises:
        StorageError: if it cannot be written.
    """
    ending = path.suffix.lower()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending[1:], metadata=_WITHOUT_DATES[ending])
    write_atomically(path, buffer.getvalue())


def panels(figure: "Figure", count: int, columns: int, **shared: Any) -> list["Axes"]:
    """Return axes for so many panels, row by row."""
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for unused in grid[count:]:
        unused.remove()
    return list(grid[:count])
