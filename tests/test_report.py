"""The report: differences, verdicts, what is published beside them, a setting varied."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from synthetic import ADAPTERS, OOD, info, sweep

from um_bench.cli import main
from um_bench.leaderboard import Spread, make_board
from um_bench.published import check_records, read_published
from um_bench.records import job_file, write_file
from um_bench.report import (
    Change,
    as_markdown,
    beside_published,
    changes,
    report_of,
    settings_of,
    verdicts,
)
from um_bench.report.differences import between, over_seeds
from um_bench.statistics import Interval


def change(detector, low, high):
    delta = Spread({0: low, 1: high}, (low + high) / 2, 0.0, Interval(low, high, 0.95, "seeds"))
    return Change("um", detector, delta)


def test_a_gain_is_an_interval_on_the_better_side_of_nothing():
    found = [change("a", 0.01, 0.02), change("b", -0.02, -0.01), change("c", -0.01, 0.02)]
    (of_auroc,) = verdicts(found, "auroc")
    assert (of_auroc.gains, of_auroc.loses, of_auroc.undecided) == (("a",), ("b",), ("c",))
    (of_fpr95,) = verdicts(found, "fpr95_id")
    assert (of_fpr95.gains, of_fpr95.loses, of_fpr95.undecided) == (("b",), ("a",), ("c",))


def test_without_an_interval_nothing_is_decided():
    assert Change("um", "a", Spread({0: 0.5}, 0.5, None)).verdict("auroc") == "undecided"


def test_an_interval_over_seeds_is_students():
    values = {0: 0.01, 1: 0.03, 2: 0.035, 4: 0.02}
    expected = stats.ttest_1samp([*values.values()], 0.0).confidence_interval(0.95)
    found = over_seeds(values)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected))
    assert found.sd == pytest.approx(np.std([*values.values()], ddof=1))


def board(**kwargs):
    return make_board(sweep(**kwargs), info(adapters=kwargs.get("adapters", ADAPTERS)))


def test_differences_are_those_of_the_leaderboard():
    made = board()
    row = next(r for r in made.rows if (r.adapter, r.detector) == ("um", "energy"))
    found = {(c.adapter, c.detector): c for c in changes(made, "far", "finetune", "auroc")}
    assert found["um", "energy"].delta == row.groups["far"].deltas["finetune"]["auroc"]
    assert {adapter for adapter, _ in found} == {"um", "umap"}  # no reference beside itself


def near_auroc(row):
    return row.groups["near"].metrics["auroc"]


def test_two_rows_pair_by_seed_and_base_alone():
    made = board()
    um, umap = (next(r for r in made.rows if r.adapter == name) for name in ("um", "umap"))
    one, other = (near_auroc(row).by_seed for row in (um, umap))
    found = between(um, umap, near_auroc)
    assert found is not None
    assert found.by_seed == {seed: one[seed] - other[seed] for seed in (0, 1, 2)}

    def elsewhere(cell):
        moved = {**cell.weights, "base": "another"}
        return dataclasses.replace(cell, weights=moved) if cell.adapter == "umap" else cell

    apart = board(change=elsewhere)
    um, umap = (next(r for r in apart.rows if r.adapter == name) for name in ("um", "umap"))
    assert between(um, umap, near_auroc) is None


def test_the_papers_differences_stand_beside_ours():
    adapters = ("none", "finetune", "um", "oe", "oe+um")
    made = board(adapters=adapters)
    paper = [e for e in read_published() if e.source.name == "um-cifar10"]
    found = {(b.adapter, b.metric): b for b in beside_published(made, paper)}
    # METHOD: Energy 42.69 -> 33.29, 92.07 -> 93.73, 94.01 -> 92.80; OE 13.80 -> 11.22, ...
    assert round(found["um", "fpr95"].published, 4) == -0.0940
    assert round(found["um", "auroc"].published, 4) == 0.0166
    assert round(found["um", "id_accuracy"].published, 4) == -0.0121
    assert round(found["oe+um", "fpr95"].published, 4) == -0.0258
    assert round(found["oe+um", "auroc"].published, 4) == 0.0053
    assert round(found["oe+um", "id_accuracy"].published, 4) == 0.0107
    assert found["oe+um", "auroc"].reference == "oe"
    um, none = (
        next(r for r in made.rows if (r.adapter, r.detector) == (name, "energy"))
        for name in ("um", "none")
    )
    ours = [row.groups["far"].metrics["fpr95_id"].mean for row in (um, none)]
    assert found["um", "fpr95"].here["far"].mean == pytest.approx(ours[0] - ours[1])


def test_a_varied_setting_is_in_order_with_the_estimate_among_it():
    adapters = ("none", "um", "um@constraint=0.5", "um@constraint=0.05", "um@constraint=0.5:beta=2")
    found = settings_of(board(adapters=adapters), "um", "constraint", "energy")
    values = [one.value for one in found]
    assert values == sorted(values)
    assert [one.value for one in found if not one.estimated] == [0.05, 0.5]  # beta is not varied
    (estimated,) = (one for one in found if one.estimated)
    assert estimated.value == estimated.row.adapted.notes["constraint"].mean


def test_in_short_has_each_adapters_difference_and_counts_all_detectors():
    made = board()
    text = as_markdown(made, check_records(sweep(), None, ()), (), {})
    lines = text.partition("## In short")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line][2:]
    expected = [[name, to] for to in ("none", "finetune") for name in ("um", "umap")]
    assert [row[:2] for row in rows] == expected
    for row in rows:
        found = [c for c in changes(made, "far", row[1], "auroc") if c.adapter == row[0]]
        told = [one.verdict("auroc") for one in found]
        assert row[5:] == [str(told.count(name)) for name in ("gains", "loses", "undecided")]
        (energy,) = (one for one in found if one.detector == "energy")
        assert f"{100 * energy.delta.mean:+.2f}" in row[3]
        models = (r.adapted for r in made.rows if r.adapter == row[0])
        (points,) = {100 * model.id_accuracy_deltas[row[1]].mean for model in models}
        assert row[2].startswith(f"{points:+.2f}")


def test_settings_beyond_the_suites_adapters_are_in_their_section_alone():
    varied = [f"um@constraint={value}" for value in (0.1, 0.2)]
    made = board(adapters=(*ADAPTERS, *varied))
    made = dataclasses.replace(made, info=dataclasses.replace(made.info, adapters=ADAPTERS))
    text = as_markdown(made, check_records(sweep(), None, ()), (), {})
    section = text.partition("## um: sensitivity")[2].partition("\n## ")[0]
    assert all(f"| {value} " in section for value in (0.1, 0.2))
    matrices = text.partition(": differences from none")[2]
    assert not any(label in matrices for label in varied)


@pytest.fixture
def results(tmp_path):
    adapters = (*ADAPTERS, "um@constraint=0.5")
    for adapter in adapters:
        for seed in (0, 1, 2):
            cells = sweep(adapters=[adapter], seeds=[seed], ood=OOD[:4])
            write_file(job_file(tmp_path / "synthetic", cells[0].job), cells)
    return tmp_path


def test_the_command_writes_what_the_function_returns(results, tmp_path):
    text = report_of(results / "synthetic")
    out = tmp_path / "report.md"
    shown = CliRunner().invoke(main, ["report", "--results", str(results)])
    written = CliRunner().invoke(main, ["report", "--results", str(results), "--out", str(out)])
    assert (shown.exit_code, written.exit_code) == (0, 0)
    assert shown.stdout == out.read_text() == f"{text}\n"
    for heading in ("far-OOD, AUROC: differences from finetune", "sensitivity to the constraint"):
        assert heading in text


def test_a_stranger_among_the_names_stays_a_name():
    def named(cell):
        return dataclasses.replace(cell, detector_label="<b>|x|</b>")

    records = sweep(change=named)
    made = make_board(records)
    text = as_markdown(made, check_records(records, None, ()), read_published(), {})
    assert "<b>" not in text
    assert "&lt;b&gt;&#124;x&#124;&lt;/b&gt;" in text
