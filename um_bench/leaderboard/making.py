"""Records -> a leaderboard."""

from collections.abc import Iterable

from um_bench import comparability
from um_bench.errors import UsageError
from um_bench.leaderboard.arrangement import arrange, completed, newest, unnamed_sets
from um_bench.leaderboard.board import Board, Info, Judgement
from um_bench.leaderboard.facts import made_with, set_facts, warnings_of_records
from um_bench.leaderboard.holes import holes_of
from um_bench.leaderboard.rows import row_of
from um_bench.leaderboard.significance import Resampled, judge, with_judgement
from um_bench.records import Record


def make_board(
    records: Iterable[Record],
    info: Info | None = None,
    *,
    resampled: Resampled | None = None,
    judged: Judgement | None = None,
) -> Board:
    """Return the leaderboard of a suite's records, in any order.

    Args:
        records: of one suite; of several records of one cell, the latest counts.
        info: the suite's own words and order. What only the records name (sets, seeds,
            adapters, detectors) is shown as well; with None that is all there is.
        resampled: replicates of cells. Without them, intervals and ranks are over seeds alone.
        judged: intervals and ranks, where they are known already.

    Raises:
        UsageError: if there is no record.
    """
    latest, superseded = newest(records)
    if not latest:
        raise UsageError("there are no records to make a leaderboard of")
    unnamed = unnamed_sets(info, latest) if info else {}
    info = completed(info, latest)
    sweep = arrange(latest, info)
    rows = tuple(row_of(sweep, key) for key in sweep.rows)
    judged = judged or judge(rows, sweep.references, resampled or {})
    rows = tuple(with_judgement(row, judged) for row in rows)
    holes, states = holes_of(sweep)
    done = [r for cells in sweep.rows.values() for r in cells.values() if r.state == "done"]
    facts = tuple(set_facts(info, done))
    return Board(
        info=info,
        rows=rows,
        states=states,
        holes=holes,
        sets=facts,
        made_with=made_with(done),
        warnings=(
            *warnings_of_records(superseded, unnamed),
            *comparability.of_sets((f.name, f.fingerprints) for f in facts),
            *comparability.of_settings(done),
            *comparability.of_jobs(done),
            *comparability.of_references(sweep.models, sweep.references),
            *comparability.of_recipes(sweep.models, sweep.references),
        ),
        alarms=sweep.alarms,
        judged=judged,
    )
