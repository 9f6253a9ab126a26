"""Intervals and ranks of results: from scores through files to rows; issue 5, point 3."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import synthetic
from test_runner import run

from um_bench import replicates as replicates_of
from um_bench.errors import UsageError
from um_bench.leaderboard import make_board, read_board, read_results, reading, write_statistics
from um_bench.leaderboard.significance import FILE
from um_bench.records import job_file, write_file
from um_bench.replicates import read_replicates, replicates_file, update_replicates
from um_bench.scores import load_scores
from um_bench.statistics import (
    METRICS,
    REPLICATES,
    ImageSet,
    mean_over_sets,
    paired_delta,
    rank,
    sample_metrics,
)

SWEEP = {
    "seeds": [0, 1],
    "adapters": ["none", "finetune", "um@constraint=0.4"],
    "detectors": ["msp", "knn@k=5"],
    "ood": {
        "near": {"held-out": "digits/heldout"},
        "far": {"noise": "uniform-noise/100-grey", "grey": "gaussian-noise/80-grey"},
    },
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    results = tmp_path_factory.mktemp("judged")
    return results, run(results, **SWEEP)


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0] / "tiny", tmp_path / "tiny")
    return tmp_path / "tiny"


def sampled(folder, record):
    """Replicates of one cell, made here from its scores."""
    scores = load_scores(folder / record.scores)
    sets = [ImageSet(record.fingerprints[r], record.counts[r]) for r in ("id", "ood")]
    return sample_metrics({"it": (scores["id"], scores["ood"])}, *sets, REPLICATES)["it"]


def literally(folder, records, adapter, detector, sets, metric):
    """Seed -> a model's metric over some sets, from the scores alone."""
    found = {}
    for record in records:
        if (record.adapter, record.detector) == (adapter, detector) and record.ood_set in sets:
            found.setdefault(record.seed, []).append(sampled(folder, record)[metric])
    return {seed: mean_over_sets(parts) for seed, parts in found.items()}


def row_of(board, adapter, detector):
    return next(row for row in board.rows if (row.adapter, row.detector) == (adapter, detector))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("kind", "name"), [("groups", "far"), ("sets", "noise")])
def test_intervals_are_those_of_the_scores(finished, kind, name, metric):
    folder, records = finished[0] / "tiny", finished[1]
    part = getattr(row_of(read_board(folder), "um", "knn"), kind)[name]
    sets = ("noise", "grey") if kind == "groups" else ("noise",)
    for reference in ("none", "finetune"):
        sides = [literally(folder, records, a, "knn", sets, metric) for a in ("um", reference)]
        expected = paired_delta(*sides)
        delta = part.deltas[reference][metric]
        assert delta.mean == pytest.approx(expected.mean, abs=1e-12)
        assert delta.interval.over == expected.interval.over == "seeds and images"
        found = delta.interval.low, delta.interval.high
        assert found == pytest.approx(expected.interval[:2], abs=1e-6)


def test_ranks_are_those_of_the_scores(finished):
    folder, records = finished[0] / "tiny", finished[1]
    board = read_board(folder)
    names = [(row.adapter, row.detector) for row in board.rows]
    for metric in METRICS:
        rows = {n: literally(folder, records, *n, ("noise", "grey"), metric) for n in names}
        expected = rank(rows, higher_is_better=metric == "auroc")
        found = {n: row_of(board, *n).groups["far"].ranks[metric] for n in names}
        assert found == expected.by_row
        assert expected.over == "images"  # of two seeds


def test_no_reference_has_a_difference_to_itself_and_aupr_has_no_interval(finished):
    board = read_board(finished[0] / "tiny")
    assert set(row_of(board, "none", "msp").groups["far"].deltas) == {"finetune"}
    delta = row_of(board, "um", "msp").groups["far"].deltas["none"]
    assert delta["aupr_in"].interval is None


def test_a_run_that_computes_nothing_resamples_nothing(finished, monkeypatch):
    results, records = finished
    before = (results / "tiny" / FILE).read_bytes()
    monkeypatch.setattr(replicates_of, "sample_metrics", lambda *_: pytest.fail("resampled"))
    monkeypatch.setattr(reading, "make_board", lambda *_, **__: pytest.fail("tested again"))
    assert run(results, **SWEEP) == records
    assert (results / "tiny" / FILE).read_bytes() == before


def test_what_was_written_without_scores_is_written_anew_once_they_are_there(copied):
    board = read_board(copied)
    (copied / FILE).unlink()
    (copied / "replicates").rename(copied.parent / "replicates")
    (copied / "scores").rename(copied.parent / "scores")
    write_statistics(copied)
    assert not read_board(copied).judged.whole
    (copied.parent / "replicates").rename(copied / "replicates")
    (copied.parent / "scores").rename(copied / "scores")
    write_statistics(copied)
    assert read_board(copied) == board


def test_a_further_detector_resamples_its_own_cells_only(copied, monkeypatch):
    resampled = []
    original = replicates_of.sample_metrics

    def counted(scores, *rest):
        resampled.extend(scores)
        return original(scores, *rest)

    monkeypatch.setattr(replicates_of, "sample_metrics", counted)
    shutil.copytree(copied, copied.parent / "results" / "tiny")
    more = {**SWEEP, "detectors": ["msp", "knn@k=5", "energy"], "adapters": ["none", "finetune"]}
    run(copied.parent / "results", **more)
    # The base classifiers are trained anew there, and come out the same.
    assert len(resampled) == 2 * 2 * 3


def test_what_is_committed_without_scores_has_the_same_intervals_and_ranks(copied):
    board = read_board(copied)
    for folder in ("scores", "replicates"):
        shutil.rmtree(copied / folder)
    assert read_board(copied) == board
    assert board.judged.half_widths
    assert board.judged.tables
    (copied / FILE).unlink()
    alone = row_of(read_board(copied), "um", "knn").groups["far"].deltas["none"]["auroc"]
    assert alone.interval.over == "seeds"


def test_replicates_stand_in_where_the_file_of_statistics_is_of_other_records(copied):
    board = read_board(copied)
    table = json.loads((copied / FILE).read_text())
    table["of"] = "0" * 16
    (copied / FILE).write_text(json.dumps(table))
    assert read_board(copied) == board
    write_statistics(copied)
    assert json.loads((copied / FILE).read_text())["of"] != "0" * 16


def test_statistics_of_records_that_have_changed_are_not_shown(copied):
    for folder in ("scores", "replicates"):
        shutil.rmtree(copied / folder)
    records, _ = read_results(copied)
    first = [r for r in records if r.job == records[0].job]
    changed = [dataclasses.replace(r, scores_check="0" * 16) for r in first]
    write_file(job_file(copied, first[0].job), changed)
    delta = row_of(read_board(copied), "um", "knn").groups["far"].deltas["none"]["auroc"]
    assert delta.interval.over == "seeds"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema": 1}',
        b"[" * 100_000,
        b"\xff\xfe",
        lambda text: text.replace('"seeds and images"', '"the moon"'),
        lambda text: text.replace('"auroc": 0.', '"auroc": 1e999, "b": 0.'),
        lambda text: text[: len(text) // 2],
    ],
)
def test_a_damaged_file_of_statistics_is_no_file(copied, damage):
    board = read_board(copied)
    path = copied / FILE
    text = path.read_text()
    path.write_bytes(damage(text).encode() if callable(damage) else damage)
    assert path.read_text(errors="replace") != text
    assert read_board(copied) == board  # from the replicates


@pytest.mark.parametrize("damage", ["absent", "truncated", "flipped", "foreign"])
def test_a_damaged_file_of_replicates_is_made_again(finished, copied, damage):
    records = [r for r in finished[1] if r.job == finished[1][0].job]
    path = replicates_file(copied, records[0].job)
    content = path.read_bytes()
    if damage == "absent":
        path.unlink()
    elif damage == "foreign":
        np.savez(path, keys=np.array(["a"]), replicates=np.zeros((1, 2), np.float32))
    else:
        half = content[: len(content) // 2]
        path.write_bytes(half if damage == "truncated" else half + b"x" + content[len(half) + 1 :])
    update_replicates(copied, records[0].job, records)
    assert path.read_bytes() == content


def test_replicates_of_other_scores_or_other_images_are_not_read(finished):
    folder, records = finished[0] / "tiny", finished[1]
    one = records[0]
    assert set(read_replicates(folder, [one])) == {one.cell}
    other = dataclasses.replace(one, fingerprints={**one.fingerprints, "ood": "0" * 64})
    assert read_replicates(folder, [other]) == {}
    assert read_replicates(folder, [dataclasses.replace(one, scores_check="0" * 16)]) == {}


def test_scores_that_are_of_other_images_than_the_record_says_are_an_error(copied, finished):
    one = dataclasses.replace(finished[1][0], counts={**finished[1][0].counts, "ood": 7})
    with pytest.raises(UsageError, match=r"scores, but the sets have 577 and 7 images"):
        update_replicates(copied, one.job, [one])


# --- Without scores ---


def test_rows_on_different_images_are_not_ranked_together():
    def change(record):
        prints = {**record.fingerprints, "ood": "ff" * 32}
        other = record.adapter == "umap" and record.ood_set == "mnist"
        return dataclasses.replace(record, fingerprints=prints) if other else record

    whole = make_board(synthetic.sweep(), synthetic.info())
    assert {table.group for table in whole.judged.tables} == {"near", "far"}
    board = make_board(synthetic.sweep(change=change), synthetic.info())
    assert {table.group for table in board.judged.tables} == {"near"}


def test_incomplete_rows_have_no_rank_and_change_nobodys():
    def change(record):
        left_out = (record.adapter, record.detector, record.ood_set, record.seed)
        return None if left_out == ("um", "knn", "svhn", 2) else record

    board = make_board(synthetic.sweep(change=change), synthetic.info())
    assert row_of(board, "um", "knn").groups["far"].ranks == {}
    assert "auroc" in row_of(board, "um", "knn").groups["near"].ranks
    others = [row.groups["far"].ranks["auroc"] for row in board.rows if row.adapter != "um"]
    assert all(its.last <= 11 for its in others)


def test_tracks_are_ranked_each_by_itself():
    records = synthetic.sweep()
    records += [
        dataclasses.replace(r, auxiliary="outliers")
        for r in synthetic.sweep(adapters=("oe", "energy"))
    ]
    board = make_board(records, synthetic.info())
    assert sorted(
        (table.section.auxiliary, ranking.rows)
        for table, ranking in board.judged.tables.items()
        if (table.group, table.metric) == ("far", "auroc")
    ) == [("", 12), ("outliers", 6)]
