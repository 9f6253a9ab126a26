"""Records -> aggregated rows: means over seeds, paired deltas, and every hole with its reason.

A row is one (ID set, backbone, adapter, detector). Its numbers are given for each OOD set and for
each group of sets. A group's number is the unweighted mean over its sets, seed by seed, and only
then mean and standard deviation are taken over seeds.

What is not there is never averaged away:

- A set on which no cell at all is done (nobody has its images) is left out of its group's average,
  for every row alike. The average is then one over "3 of 4 sets", and no row is complete.
- A row that lacks any other set on some seed has no group average on that seed.
- A row is complete for a group if every set of it is done on every seed. Only complete rows are
  compared with each other.

Groups `near-fs` and `far-fs` are the full spectrum: the same OOD sets, scored against the ID test
set and its covariate-shifted sets together. They are groups of their own, never averaged with
`near` and `far`.

Models that were trained with auxiliary outliers are a track of their own, in a table of its own:
they have seen what the others have not. Their deltas are taken from the same references, which are
trained without.
"""

from um_bench.leaderboard.arrangement import newest
from um_bench.leaderboard.board import (
    METRICS,
    REFERENCES,
    SECONDS,
    Adapted,
    Board,
    Hole,
    Info,
    Judgement,
    Part,
    Place,
    Ranking,
    Row,
    RowKey,
    SetFacts,
    Slot,
    Spread,
    Table,
    higher_is_better,
)
from um_bench.leaderboard.making import make_board
from um_bench.leaderboard.reading import (
    board_of,
    info_of,
    read_board,
    read_info,
    read_results,
    write_statistics,
)
from um_bench.leaderboard.rows import over_seeds, spread

__all__ = [
    "METRICS",
    "REFERENCES",
    "SECONDS",
    "Adapted",
    "Board",
    "Hole",
    "Info",
    "Judgement",
    "Part",
    "Place",
    "Ranking",
    "Row",
    "RowKey",
    "SetFacts",
    "Slot",
    "Spread",
    "Table",
    "board_of",
    "higher_is_better",
    "info_of",
    "make_board",
    "newest",
    "over_seeds",
    "read_board",
    "read_info",
    "read_results",
    "spread",
    "write_statistics",
]
