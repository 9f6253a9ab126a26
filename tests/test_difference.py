"""`um-bench diff`: what moved is found, and what is said to have caused it was what was planted."""

import dataclasses
import json
import random
import time

import pytest
import synthetic
from click.testing import CliRunner

from um_bench.cli import main
from um_bench.difference import Report, as_dict, as_text, compare, compare_folders, explain, grouped
from um_bench.errors import UsageError
from um_bench.records import Provenance, job_file, write_file
from um_bench.suite import OodSet


def moved(record, by=0.01, metric="auroc", **changes):
    """The same cell with another number, and whatever else differs."""
    metrics = {**record.metrics, metric: record.metrics[metric] - by}
    return dataclasses.replace(record, metrics=metrics, **changes)


def made(record, **changes):
    return dataclasses.replace(record.provenance, **changes)


def is_at(record, **place):
    return all(getattr(record, name) == value for name, value in place.items())


def kinds(one, other):
    return [cause.kind for cause in explain(one, other)]


# --- what moved


def test_a_folder_and_itself_have_nothing_between_them():
    records = synthetic.sweep()
    shuffled = random.Random(0).sample(records, len(records))
    found = compare(records, shuffled)
    assert found.is_empty
    assert found.identical == found.in_both == len(records)


@pytest.mark.parametrize(
    "metric", ["auroc", "fpr95_ood", "fpr95_id", "id_accuracy", "aupr_in", "base_id_accuracy"]
)
def test_one_number_of_one_cell_is_found(metric):
    records = synthetic.sweep()
    changed = [moved(records[7], metric=metric, by=1e-12), *records[:7], *records[8:]]
    found = compare(records, changed)
    (move,) = found.moved
    assert move.a is records[7]
    assert list(move.changes) == [metric]
    assert found.identical == len(records) - 1


def test_changes_are_after_minus_before_and_the_largest_comes_first():
    records = synthetic.sweep(adapters=("um",), detectors=("knn",), seeds=(0,))
    by = {0: 0.002, 1: -0.03, 2: 0.01}
    after = [moved(r, by=by.get(i, 0)) for i, r in enumerate(records)]
    found = compare(records, after)
    assert [m.changes["auroc"].points for m in found.moved] == pytest.approx([3, -1, -0.2])
    assert [m.a.ood_set for m in found.moved] == [records[i].ood_set for i in (1, 2, 0)]


def test_times_dates_and_notes_are_no_change():
    records = synthetic.sweep()
    after = [
        dataclasses.replace(
            r, seconds={"adapt": 1.0}, notes={}, provenance=made(r, created="2027-01-01T00:00:00Z")
        )
        for r in records
    ]
    assert compare(records, after).is_empty


def test_a_number_that_came_or_went_moved_more_than_any_other():
    one, other = synthetic.record(), synthetic.record(seed=1)
    gone = dataclasses.replace(
        one, metrics={k: v for k, v in one.metrics.items() if k != "fpr95_id"}
    )
    found = compare([one, other], [gone, moved(other, by=0.9)])
    assert found.moved[0].a is one
    assert found.moved[0].changes["fpr95_id"].after is None


def test_cells_of_one_side_and_other_ends_are_told_apart():
    records = synthetic.sweep(adapters=("none", "um"), detectors=("msp",), seeds=(0,))
    failed = synthetic.blank(records[3], "failed", "no space left")
    found = compare([records[0], *records[2:]], [*records[1:3], failed, *records[4:]])
    assert found.only_a == (records[0],)
    assert found.only_b == (records[1],)
    assert found.ended == ((records[3], failed),)
    assert not found.moved
    assert found.identical == len(records) - 3


def test_of_several_records_of_a_cell_the_latest_counts():
    one = synthetic.record()
    older = moved(one, provenance=made(one, created="2020-01-01T00:00:00Z"))
    found = compare([one], [older, one])
    assert found.is_empty
    assert found.set_aside == (0, 1)


# --- why


BASE = synthetic.record(weights={"base": "b", "adapted": "w"})
RECIPE = {**BASE.hyperparameters, "recipe": {"epochs": 50}}
DETECTOR = {**BASE.hyperparameters, "detector": {"k": 20}}
TORCH = {**BASE.provenance.versions, "torch": "2.15.0"}
OWN = {**BASE.provenance.versions, "um-bench": "0.2.0"}

PLANTED = {
    "nothing": ({}, ["unexplained"]),
    "a setting of the detector": ({"hyperparameters": DETECTOR, "key": "k2"}, ["settings"]),
    "a recipe that changed the weights": (
        {"hyperparameters": RECIPE, "weights": {"base": "b", "adapted": "w2"}, "key": "k2"},
        ["settings", "weights"],
    ),
    "a recipe of nothing that was trained": ({"hyperparameters": RECIPE}, ["unexplained"]),
    "images": ({"fingerprints": {"id": "1d" * 32, "ood": "ff" * 32}, "key": "k2"}, ["data"]),
    "training images": (
        {
            "fingerprints": {**BASE.fingerprints, "train": "aa"},
            "weights": {"base": "b", "adapted": "w2"},
            "key": "k2",
            "job_key": "j2",
        },
        ["data", "weights"],
    ),
    "versions": ({"provenance": made(BASE, versions=TORCH)}, ["versions"]),
    "um-bench itself": ({"provenance": made(BASE, versions=OWN)}, ["code"]),
    "the device": ({"provenance": made(BASE, device="cpu")}, ["device"]),
    "deterministic kernels": ({"provenance": made(BASE, deterministic=True)}, ["device"]),
    "another checkpoint": (
        {"weights": {"base": "b2", "adapted": "w2"}, "key": "k2", "job_key": "j2"},
        ["weights", "weights"],
    ),
    "training that does not repeat": (
        {"weights": {"base": "b", "adapted": "w2"}, "key": "k2"},
        ["unexplained", "weights"],
    ),
    "a plugin whose version is not recorded": ({"key": "k2"}, ["code"]),
    "one key of other weights": (
        {"weights": {"base": "b2", "adapted": "w2"}},
        ["contradiction", "weights", "weights"],
    ),
    "one key of other images": (
        {"fingerprints": {"id": "1d" * 32, "ood": "ff" * 32}},
        ["contradiction", "data"],
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_planted_cause_is_named(planted):
    changes, expected = PLANTED[planted]
    assert kinds(BASE, moved(BASE, **changes)) == expected


def test_a_base_that_was_trained_alike_and_is_another_is_not_explained():
    trained = {**BASE.hyperparameters, "base": {"epochs": 15}}
    one = dataclasses.replace(BASE, hyperparameters=trained)
    other = moved(one, weights={"base": "b2", "adapted": "w2"}, key="k2", job_key="j2")
    assert kinds(one, other) == ["unexplained", "weights", "weights"]


def test_names_and_both_values_are_given():
    changes = {
        "hyperparameters": {"adapter": {}, "detector": {"k": 20, "new": "x" * 500}},
        "provenance": Provenance(created="", device="cpu", platform="Linux", versions=TORCH),
        "fingerprints": {"id": "1d" * 32, "ood": "ff" * 32},
        "key": "k2",
    }
    details = [cause.detail for cause in explain(BASE, moved(BASE, **changes))]
    assert "detector.k: 50 -> 20" in details
    assert "torch: 2.4.0 -> 2.15.0" in details
    assert "device: Test GPU -> cpu" in details
    assert "ood (svhn): 04040404 -> ffffffff" in details
    assert "um-bench: 0.1.0 -> not there" not in details
    assert max(map(len, details)) < 200


def test_what_alarms_comes_first_though_it_moved_less():
    one, other, third = (synthetic.record(seed=seed) for seed in (0, 1, 2))
    after = [
        moved(one, by=0.2, provenance=made(one, device="cpu")),
        moved(other, by=0.001),
        moved(third, by=0.0001, weights={"base": "x", "adapted": "y"}),
    ]
    groups = grouped(compare([one, other, third], after).moved)
    assert [group.causes[0].kind for group in groups] == ["unexplained", "contradiction", "device"]


def test_rows_with_the_largest_change_come_first():
    records = synthetic.sweep(adapters=("um", "umap"), detectors=("knn",), seeds=(0, 1))
    large = {"adapter": "umap", "ood_set": "svhn", "seed": 1}
    after = [moved(r, by=0.3 if is_at(r, **large) else 0.01) for r in records]
    (group,) = grouped(compare(records, after).moved)
    assert [place.adapter for place in group.rows] == ["umap", "um"]
    assert {len(moves) for moves in group.rows.values()} == {12}


# --- as text


def report_of(before, after, **changes):
    values = {"a": "A", "b": "B", "suites": {"s": compare(before, after)}}
    return Report(**{**values, "only_a": (), "only_b": (), **changes})


def test_the_summary_counts_and_names_the_largest():
    records = synthetic.sweep()
    after = [moved(records[0], by=0.05), moved(records[1], by=-0.02), *records[2:]]
    text = as_text(report_of(records, after))
    assert "216 cells in both: 214 identical, 2 moved; largest AUROC -5.00 points" in text
    flat = " ".join(text.split())
    assert "ALARM: for 2 cells, nothing that is recorded explains it." in flat
    assert "none with msp on cifar100, seed 0" in flat


def test_a_change_too_small_for_its_digits_is_not_shown_as_none():
    record = synthetic.record()
    assert " -1e-10 " in as_text(report_of([record], [moved(record, by=1e-12)]))


def test_what_is_left_out_is_counted():
    records = synthetic.sweep(adapters=[f"um@constraint=0.{i}" for i in range(1, 10)])
    after = [
        moved(r, provenance=made(r, device=f"gpu{r.seed % 3}-{r.ood_set}"), by=0.01)
        for r in records
    ]
    text = as_text(report_of(records, after))
    assert "further rows with" in text
    groups = grouped(compare(records, after).moved)
    assert len(groups) == 18
    left = sum(len(group.moves) for group in groups[12:])
    assert f"{left} cells moved for 6 further sets of causes" in text
    found = as_dict(report_of(records, after))["suites"]["s"]["moved"]
    assert sum(len(group["cells"]) for group in found) == len(records)


def test_text_from_records_cannot_act_on_a_terminal():
    evil = "\x1b[2J\r\n<script>"
    one = synthetic.record(detector=f"knn{evil}", reason="")
    other = moved(one, provenance=made(one, device=evil))
    blank = synthetic.blank(synthetic.record(seed=1), "failed", evil)
    text = as_text(
        report_of(
            [
                one,
                synthetic.record(seed=1),
                synthetic.record("um", ood=OodSet(evil, "far", ""), seed=2),
            ],
            [other, blank],
            only_b=(evil,),
        )
    )
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\\x1b[2J" in text


def test_json_has_all_and_is_json():
    records = synthetic.sweep(adapters=("um",), detectors=("knn",))
    after = [moved(records[0]), synthetic.blank(records[1], "failed", "why"), *records[2:-1]]
    found = json.loads(json.dumps(as_dict(report_of(records, after))))["suites"]["s"]
    assert (found["in_both"], found["identical"]) == (17, 15)
    (group,) = found["moved"]
    assert group["causes"][0]["kind"] == "unexplained"
    assert group["alarming"] is True
    change = group["cells"][0]["changes"]["auroc"]
    assert change["change"] == pytest.approx(-0.01)
    assert change["after"] - change["before"] == pytest.approx(change["change"])
    assert found["ended"][0]["after"] == {"state": "failed", "reason": "why"}
    assert found["only_a"][0]["seed"] == 2


# --- folders and the command


def write(folder, records):
    jobs = {}
    for record in records:
        jobs.setdefault(record.job, []).append(record)
    for job, its in jobs.items():
        write_file(job_file(folder, job), its)
    return folder


@pytest.fixture
def folders(tmp_path):
    records = synthetic.sweep(adapters=("none", "um"), detectors=("msp",))
    after = [moved(records[0]), *records[1:]]
    return write(tmp_path / "a" / "one", records), write(tmp_path / "b" / "one", after)


def call(*arguments):
    return CliRunner().invoke(main, ["diff", *map(str, arguments)])


def test_folders_of_all_suites_of_one_and_of_both_kinds(folders, tmp_path):
    a, b = folders
    for one, other in ((a, b), (a.parent, b.parent), (a, b.parent), (a.parent, b)):
        report = compare_folders(one, other)
        assert len(report.suites["one"].moved) == 1
    renamed = b.rename(tmp_path / "b" / "another")
    assert len(compare_folders(a, renamed).suites["one"].moved) == 1
    with pytest.raises(UsageError, match="no suite in common: the first has one, the second anoth"):
        compare_folders(a.parent, b.parent)


def test_a_suite_of_one_side_is_named_and_another_suite_can_be_chosen(folders):
    a, b = folders
    write(b.parent / "two", synthetic.sweep(adapters=("none",)))
    done = call(a.parent, b.parent)
    assert done.exit_code == 1
    assert "Suites in B only: two." in done.output
    assert compare_folders(a.parent, b.parent, "one").only_b == ()
    with pytest.raises(UsageError, match="a has no results of 'two'; it has one"):
        compare_folders(a.parent, b.parent, "two")


def test_exit_codes(folders, tmp_path):
    a, b = folders
    assert call(a, a).exit_code == 0
    assert "0 moved" in call(a, a).output
    assert call(a, b).exit_code == 1
    for bad in (tmp_path / "nowhere", tmp_path):
        done = call(a, bad)
        assert done.exit_code == 2
        assert done.output.startswith("um-bench: error:")


def test_the_command_prints_json(folders):
    done = call(*folders, "--format", "json")
    assert json.loads(done.output)["exit_status"] == done.exit_code == 1


def test_a_damaged_record_is_named(folders):
    a, b = folders
    path = next((b / "records").iterdir())
    path.write_text(path.read_text().replace('"auroc": 0.', '"auroc": 0.1', 1))
    done = call(a, b)
    assert done.exit_code == 2
    assert path.name in done.output


def test_it_is_fast():
    records = [
        record
        for number in range(12)
        for record in synthetic.sweep(seeds=range(100 * number, 100 * number + 8))
    ]
    after = [
        moved(r, weights={"base": "x", "adapted": "y"}, hyperparameters=RECIPE) for r in records
    ]
    start = time.process_time()
    text = as_text(report_of(records, after))
    seconds = time.process_time() - start
    assert f"{len(records):,} moved" in text
    # 100,000 cells in less than 20 s, with the time to read them (50 us each)
    assert seconds / len(records) < 150e-6
