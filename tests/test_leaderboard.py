import dataclasses
import json
import random
import statistics

import pytest
import synthetic

from um_bench.errors import UsageError
from um_bench.leaderboard import METRICS, make_board, newest, read_board, read_info
from um_bench.records import Provenance, job_file, write_file
from um_bench.suite import OodSet

NEAR = ("cifar100", "tin")
FAR = ("mnist", "svhn", "textures", "places365")
CELLS_PER_ROW = 18


def row_of(board, adapter="um", detector="knn"):
    (found,) = [
        row
        for row in board.rows
        if (row.key.adapter_label, row.key.detector_label) == (adapter, detector)
    ]
    return found


def value_of(records, adapter, detector, ood_set, seed, metric):
    (found,) = [
        r
        for r in records
        if (r.adapter_label, r.detector_label, r.ood_set, r.seed)
        == (adapter, detector, ood_set, seed)
    ]
    return found.metrics[metric]


def is_at(record, **place):
    return all(getattr(record, name) == value for name, value in place.items())


def changed_where(place, state=None, reason="", **changes):
    """Return a function that changes the records of one place."""

    def change(record):
        if not is_at(record, **place):
            return record
        if state is not None:
            return synthetic.blank(record, state, reason)
        return dataclasses.replace(record, **changes)

    return change


def left_out(**place):
    return lambda record: None if is_at(record, **place) else record


# --- Means, spreads, differences ---


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("group", "members"), [("near", NEAR), ("far", FAR)])
def test_group_is_mean_over_sets_then_mean_and_sample_sd_over_seeds(metric, group, members):
    records = synthetic.sweep()
    part = row_of(make_board(records, synthetic.info()), "umap", "energy").groups[group]
    by_seed = {
        seed: statistics.mean(
            value_of(records, "umap", "energy", name, seed, metric) for name in members
        )
        for seed in synthetic.SEEDS
    }
    spread = part.metrics[metric]
    assert spread.by_seed == pytest.approx(by_seed, rel=1e-12)
    assert spread.mean == pytest.approx(statistics.mean(by_seed.values()), rel=1e-12)
    assert spread.sd == pytest.approx(statistics.stdev(by_seed.values()), rel=1e-9)
    assert spread.n == 3
    assert part.complete
    assert part.averaged == members


def test_set_is_mean_and_sample_sd_over_seeds():
    records = synthetic.sweep()
    spread = row_of(make_board(records)).sets["svhn"].metrics["fpr95_id"]
    values = [value_of(records, "um", "knn", "svhn", s, "fpr95_id") for s in synthetic.SEEDS]
    assert list(spread.by_seed.values()) == values
    assert spread.mean == pytest.approx(statistics.mean(values), rel=1e-12)
    assert spread.sd == pytest.approx(statistics.stdev(values), rel=1e-9)


def test_single_seed_has_no_sd():
    spread = row_of(make_board(synthetic.sweep(seeds=(4,)))).groups["far"].metrics["auroc"]
    assert spread.n == 1
    assert spread.mean is not None
    assert spread.sd is None


@pytest.mark.parametrize("reference", ["none", "finetune"])
@pytest.mark.parametrize("metric", ["auroc", "fpr95_ood"])
def test_delta_is_taken_seed_by_seed(reference, metric):
    records = synthetic.sweep()
    row = row_of(make_board(records, synthetic.info()))
    differences = [
        statistics.mean(
            value_of(records, "um", "knn", name, seed, metric)
            - value_of(records, reference, "knn", name, seed, metric)
            for name in FAR
        )
        for seed in synthetic.SEEDS
    ]
    delta = row.groups["far"].deltas[reference][metric]
    assert list(delta.by_seed.values()) == pytest.approx(differences, rel=1e-9)
    assert delta.mean == pytest.approx(statistics.mean(differences), rel=1e-9)
    assert delta.sd == pytest.approx(statistics.stdev(differences), rel=1e-9)


def test_reference_has_no_delta_against_itself():
    board = make_board(synthetic.sweep())
    assert set(row_of(board, "none").groups["far"].deltas) == {"finetune"}
    assert set(row_of(board, "finetune").groups["far"].deltas) == {"none"}


def test_another_base_checkpoint_is_not_paired():
    other = {"base": "another", "adapted": "um1"}
    board = make_board(
        synthetic.sweep(change=changed_where({"adapter": "um", "seed": 1}, weights=other))
    )
    row = row_of(board)
    assert row.groups["far"].metrics["auroc"].n == 3
    for reference in ("none", "finetune"):
        assert list(row.groups["far"].deltas[reference]["auroc"].by_seed) == [0, 2]
        assert list(row.sets["svhn"].deltas[reference]["auroc"].by_seed) == [0, 2]
        assert list(row.adapted.id_accuracy_deltas[reference].by_seed) == [0, 2]
    assert sum("um, seed 1, is not compared with" in warning for warning in board.warnings) == 2


def test_unknown_base_is_not_paired():
    board = make_board(synthetic.sweep(change=lambda r: dataclasses.replace(r, weights={})))
    assert row_of(board).groups["far"].deltas["none"]["auroc"].n == 0


@pytest.mark.parametrize("kind", ["id", "ood"])
def test_other_images_are_not_paired(kind):
    def change(record):
        if not is_at(record, adapter="um", seed=0, ood_set="svhn"):
            return record
        return dataclasses.replace(record, fingerprints={**record.fingerprints, kind: "ff" * 32})

    board = make_board(synthetic.sweep(change=change))
    row = row_of(board)
    assert list(row.sets["svhn"].deltas["none"]["auroc"].by_seed) == [1, 2]
    assert list(row.sets["mnist"].deltas["none"]["auroc"].by_seed) == [0, 1, 2]
    assert list(row.groups["far"].deltas["none"]["auroc"].by_seed) == [1, 2]
    name = "cifar10" if kind == "id" else "svhn"
    assert any(w.startswith(f"{name} is not the same images") for w in board.warnings)


def test_only_the_same_detector_is_paired():
    board = make_board(synthetic.sweep(change=left_out(adapter="none", detector="knn")))
    assert row_of(board).groups["far"].deltas["none"]["auroc"].n == 0
    assert row_of(board, "um", "msp").groups["far"].deltas["none"]["auroc"].n == 3


def test_backbones_are_not_mixed():
    records = synthetic.sweep()
    others = [dataclasses.replace(r, backbone="wrn40_2_cifar") for r in records]
    board = make_board(records + [r for r in others if r.adapter != "none"])
    assert len(board.sections) == 2
    wide = [row for row in board.rows if row.key.backbone == "wrn40_2_cifar"]
    assert {name for row in wide for name in row.groups["far"].deltas} == {"finetune"}


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["finetune"], True),
        (["finetune@lr=0.01"], True),
        (["finetune@lr=0.01", "finetune"], True),
        (["finetune@lr=0.01", "finetune@lr=0.02"], False),
    ],
)
def test_reference_is_the_bare_label_or_the_only_one(labels, found):
    board = make_board(synthetic.sweep(adapters=("um", *labels)))
    deltas = row_of(board).groups["far"].deltas
    assert ("finetune" in deltas) == found
    if found:
        label = "finetune" if "finetune" in labels else labels[0]
        mine = row_of(board).groups["far"].metrics["auroc"].by_seed[0]
        theirs = row_of(board, label).groups["far"].metrics["auroc"].by_seed[0]
        assert deltas["finetune"]["auroc"].by_seed[0] == pytest.approx(mine - theirs, abs=1e-12)


# --- What is missing ---


def test_missing_seed_leaves_the_row_incomplete_and_the_others_alone():
    place = {"adapter": "um", "detector": "knn", "seed": 1, "ood_set": "svhn"}
    board = make_board(synthetic.sweep(change=changed_where(place, "failed", "out of memory")))
    far = row_of(board).groups["far"]
    assert not far.complete
    assert list(far.metrics["auroc"].by_seed) == [0, 2]
    assert list(far.deltas["none"]["auroc"].by_seed) == [0, 2]
    assert far.states == {"done": 11, "failed": 1}
    assert row_of(board).groups["near"].complete
    assert row_of(board).sets["mnist"].complete
    others = [row for row in board.rows if row is not row_of(board)]
    assert all(row.groups["far"].complete for row in others)


def test_set_that_one_row_lacks_leaves_it_without_an_average():
    place = {"adapter": "um", "detector": "knn", "ood_set": "svhn"}
    records = synthetic.sweep(change=changed_where(place, "unsupported", "no"))
    board = make_board(records, synthetic.info())
    far = row_of(board).groups["far"]
    assert far.averaged == FAR
    assert far.metrics["auroc"] == ({}, None, None, None)
    assert row_of(board, "none").groups["far"].complete


def test_set_that_nobody_has_is_left_out_of_every_average_and_nothing_is_complete():
    gone = changed_where({"ood_set": "places365"}, "missing-data", "get it")
    records = synthetic.sweep(change=gone)
    board = make_board(records, synthetic.info())
    for row in board.rows:
        far = row.groups["far"]
        assert far.averaged == FAR[:3]
        assert far.metrics["auroc"].n == 3
        assert not far.complete
        assert row.groups["near"].complete
    expected = statistics.mean(value_of(records, "um", "knn", name, 2, "auroc") for name in FAR[:3])
    assert row_of(board).groups["far"].metrics["auroc"].by_seed[2] == pytest.approx(expected)
    assert [facts.name for facts in board.sets if not facts.here] == ["places365"]


def test_stale_numbers_are_not_averaged():
    def change(record):
        old = is_at(record, adapter="um", detector="knn", seed=0)
        return dataclasses.replace(record, state="stale", reason="changed") if old else record

    board = make_board(synthetic.sweep(change=change))
    assert list(row_of(board).groups["near"].metrics["auroc"].by_seed) == [1, 2]
    assert list(row_of(board, "umap").groups["near"].metrics["auroc"].by_seed) == [0, 1, 2]
    assert board.states["stale"] == 6


def test_holes_are_grouped_by_reason_and_counted():
    def change(record):
        if record.ood_set == "places365":
            return synthetic.blank(record, "missing-data", "get places365")
        if is_at(record, adapter="umap", detector="knn", seed=2):
            return synthetic.blank(record, "failed", "boom")
        return None if is_at(record, detector="msp", seed=1) else record

    board = make_board(synthetic.sweep(change=change), synthetic.info())
    found = {(hole.state, hole.reason): hole for hole in board.holes}
    assert {why: hole.cells for why, hole in found.items()} == {
        ("failed", "boom"): 5,
        ("missing-data", "get places365"): 4 * 3 * 3,
        ("not-run", ""): 4 * 5,
    }
    failed = found["failed", "boom"]
    assert failed[3:] == (("umap",), ("knn",), (*NEAR, *FAR[:3]), (2,))
    assert sum(board.states.values()) == 12 * CELLS_PER_ROW
    assert board.states["done"] == 12 * CELLS_PER_ROW - 5 - 36 - 20


def test_rows_that_never_ran_are_holes_not_rows():
    board = make_board(synthetic.sweep(adapters=("um",)), synthetic.info())
    assert {row.adapter for row in board.rows} == {"um"}
    (hole,) = board.holes
    assert hole.state == "not-run"
    assert hole.adapters == ("none", "finetune", "umap")
    assert hole.cells == 9 * CELLS_PER_ROW


@pytest.mark.parametrize("value", [float("nan"), 1.01, -0.1, None, "0.9", True])
def test_done_without_usable_numbers_is_failed(value):
    def change(record):
        if not is_at(record, adapter="um", detector="knn", seed=0, ood_set="svhn"):
            return record
        return dataclasses.replace(record, metrics={**record.metrics, "auroc": value})

    board = make_board(synthetic.sweep(change=change))
    (hole,) = board.holes
    assert (hole.state, hole.cells) == ("failed", 1)
    assert f"auroc = {value!r}" in hole.reason
    assert list(row_of(board).sets["svhn"].metrics["auroc"].by_seed) == [1, 2]


# --- Once per job ---


def test_accuracy_is_the_jobs_even_where_a_detector_failed():
    records = synthetic.sweep(
        change=changed_where({"adapter": "um", "detector": "knn"}, "failed", "boom")
    )
    board = make_board(records)
    expected = {s: synthetic.record("um", seed=s).metrics["id_accuracy"] for s in synthetic.SEEDS}
    assert row_of(board).adapted.id_accuracy.by_seed == expected
    assert row_of(board, "um", "msp").adapted.id_accuracy.by_seed == expected


def test_base_accuracy_is_that_of_none_where_it_is_not_recorded():
    def change(record):
        metrics = {k: v for k, v in record.metrics.items() if k != "base_id_accuracy"}
        return dataclasses.replace(record, metrics=metrics)

    adapted = row_of(make_board(synthetic.sweep(change=change))).adapted
    expected = [synthetic.record("none", seed=s).metrics["id_accuracy"] for s in synthetic.SEEDS]
    assert list(adapted.base_id_accuracy.by_seed.values()) == expected
    without = make_board(synthetic.sweep(adapters=("um",), change=change))
    assert row_of(without).adapted.base_id_accuracy.n == 0


def test_base_accuracy_is_not_that_of_another_base():
    def change(record):
        metrics = {k: v for k, v in record.metrics.items() if k != "base_id_accuracy"}
        other = is_at(record, adapter="none", seed=1)
        weights = {"base": "other", "adapted": "other"} if other else record.weights
        return dataclasses.replace(record, metrics=metrics, weights=weights)

    adapted = row_of(make_board(synthetic.sweep(change=change))).adapted
    assert list(adapted.base_id_accuracy.by_seed) == [0, 2]


def test_accuracy_delta_is_paired():
    adapted = row_of(make_board(synthetic.sweep())).adapted
    expected = [
        synthetic.record("um", seed=s).metrics["id_accuracy"]
        - synthetic.record("finetune", seed=s).metrics["id_accuracy"]
        for s in synthetic.SEEDS
    ]
    assert list(adapted.id_accuracy_deltas["finetune"].by_seed.values()) == expected


def test_notes_over_seeds():
    notes = row_of(make_board(synthetic.sweep())).adapted.notes["constraint"]
    values = [synthetic.record("um", seed=s).notes["constraint"] for s in synthetic.SEEDS]
    assert notes.mean == pytest.approx(statistics.mean(values))
    assert notes.sd == pytest.approx(statistics.stdev(values))
    assert row_of(make_board(synthetic.sweep()), "none").adapted.notes == {}


def test_seconds_are_means_over_a_rows_cells():
    def change(record):
        taken = 1.0 if record.ood_set == "svhn" else 0.25
        return dataclasses.replace(record, seconds={"adapt": 800.0 + record.seed, "score": taken})

    seconds = row_of(make_board(synthetic.sweep(change=change))).seconds
    assert set(seconds) == {"adapt", "score"}
    assert seconds["adapt"].mean == pytest.approx(801.0)
    assert seconds["score"].mean == pytest.approx((5 * 0.25 + 1.0) / 6)


# --- What the records say together ---


def test_latest_record_of_a_cell_counts_in_any_order():
    old = synthetic.record()
    made = dataclasses.replace(old.provenance, created="2026-11-24T00:00:00Z")
    new = dataclasses.replace(old, provenance=made, state="failed", reason="later")
    for records in ([old, new], [new, old]):
        assert newest(records) == ([new], 1)
    board = make_board([new, old])
    assert board.states == {"failed": 1}
    assert board.warnings == ("Older records of the same cells were set aside: 1.",)


def test_clean_sweep_has_no_warning_and_no_hole():
    board = make_board(synthetic.sweep(), synthetic.info())
    assert board.warnings == ()
    assert board.holes == ()
    assert board.states == {"done": 12 * CELLS_PER_ROW}


@pytest.mark.parametrize(
    ("place", "changes", "warning"),
    [
        (
            {"adapter": "um", "detector": "knn", "seed": 0},
            {"hyperparameters": {"adapter": {}, "detector": {"k": 20}, "recipe": {"epochs": 100}}},
            "um with knn did not have the same settings",
        ),
        (
            {"adapter": "um"},
            {"hyperparameters": {"adapter": {}, "detector": {"k": 50}, "recipe": {"epochs": 2}}},
            "Not all cells were run with the same recipe (2 different ones)",
        ),
        (
            {"adapter": "um", "seed": 0, "ood_set": "svhn"},
            {"weights": {"base": "base0", "adapted": "other"}},
            "The cells of um, seed 0, do not agree on their adapted weights",
        ),
    ],
)
def test_what_does_not_belong_together_is_named(place, changes, warning):
    board = make_board(synthetic.sweep(change=changed_where(place, **changes)))
    not_compared = [w for w in board.warnings if "not trained by the same recipe" in w]
    assert len(board.warnings) - len(not_compared) == 1
    assert board.warnings[0].startswith(warning)
    assert bool(not_compared) == ("recipe" in warning)


def test_facts_come_from_the_records():
    board = make_board(synthetic.sweep(), synthetic.info())
    facts = {f.name: f for f in board.sets}
    assert facts["cifar10"].images == (9000,)
    assert facts["svhn"].images == (26032,)
    assert facts["svhn"].fingerprints == ("04" * 6,)
    assert board.made_with["torch"] == ("2.4.0",)
    assert board.made_with["device"] == ("Test GPU",)


def test_without_a_description_all_comes_from_the_records():
    info = make_board(synthetic.sweep()).info
    assert info.name == "synthetic"
    assert [(ood.name, ood.group) for ood in info.ood] == [
        ("cifar100", "near"),
        ("tin", "near"),
        ("mnist", "far"),
        ("places365", "far"),
        ("svhn", "far"),
        ("textures", "far"),
    ]
    assert info.seeds == (0, 1, 2)
    assert info.main_group == "far"


def test_description_that_is_narrower_than_the_records_hides_nothing():
    narrow = synthetic.info(ood=synthetic.OOD[3:4], seeds=(1,), adapters=("um",))
    board = make_board(synthetic.sweep(), narrow)
    assert len(board.rows) == 12
    assert board.rows[0].adapter == "um"
    assert board.info.seeds == (0, 1, 2)
    assert board.info.groups == ("near", "far")
    assert set(board.info.members("far")) == set(FAR)
    assert any("OOD sets that the suite does not name: cifar100" in w for w in board.warnings)


def test_far_is_the_main_group_in_whatever_order_the_suite_has_them():
    board = make_board(synthetic.sweep(), synthetic.info(ood=synthetic.OOD[::-1]))
    assert board.info.groups == ("near", "far")
    near_only = make_board(synthetic.sweep(ood=synthetic.OOD[:2]))
    assert near_only.info.main_group == "near"


def test_order_of_records_does_not_matter():
    def change(record):
        return None if is_at(record, detector="msp", seed=1) else record

    records = synthetic.sweep(change=change)
    board = make_board(records, synthetic.info())
    for seed in range(3):
        shuffled = random.Random(seed).sample(records, len(records))
        assert make_board(shuffled, synthetic.info()) == board


# --- Full spectrum ---

TWINS = tuple(OodSet(f"{o.name}-fs", f"{o.group}-fs", o.source) for o in synthetic.OOD)
SHIFTED = (("noisy", "noisy/test"), ("painted", "painted/all"))


def as_scored(record):
    """A full-spectrum cell as a sweep writes it: the shifted sets have a place of their own."""
    if not record.group.endswith("-fs"):
        return record
    return dataclasses.replace(
        record,
        counts={**record.counts, "shifted": 1500},
        fingerprints={**record.fingerprints, "shifted": f"{'aa' * 32}+{'bb' * 32}"},
    )


def full_spectrum(change=as_scored, **changes):
    records = synthetic.sweep(ood=(*synthetic.OOD, *TWINS), change=change)
    told = {"ood": (*synthetic.OOD, *TWINS), "shifted": SHIFTED, **changes}
    return records, make_board(records, synthetic.info(**told))


@pytest.mark.parametrize(
    ("group", "members"),
    [
        ("near", NEAR),
        ("far", FAR),
        ("near-fs", tuple(f"{name}-fs" for name in NEAR)),
        ("far-fs", tuple(f"{name}-fs" for name in FAR)),
    ],
)
def test_full_spectrum_groups_are_averaged_apart(group, members):
    records, board = full_spectrum()
    assert board.info.groups == ("near", "far", "near-fs", "far-fs")
    part = row_of(board).groups[group]
    assert part.averaged == members
    by_seed = {
        seed: statistics.mean(
            value_of(records, "um", "knn", name, seed, "auroc") for name in members
        )
        for seed in synthetic.SEEDS
    }
    assert part.metrics["auroc"].by_seed == pytest.approx(by_seed, rel=1e-12)


def test_full_spectrum_changes_nothing_in_the_other_groups():
    _, board = full_spectrum()
    alone = make_board(synthetic.sweep(), synthetic.info())
    for group in ("near", "far"):
        assert row_of(board).groups[group] == row_of(alone).groups[group]
    assert board.info.main_group == alone.info.main_group == "far"
    assert row_of(board).adapted == row_of(alone).adapted
    assert board.warnings == ()


def test_full_spectrum_groups_come_last_in_whatever_order_they_are_named():
    told = {"ood": (*TWINS[::-1], *synthetic.OOD[::-1])}
    _, board = full_spectrum(**told)
    assert board.info.groups == ("near", "far", "near-fs", "far-fs")
    only = make_board(synthetic.sweep(ood=TWINS, change=as_scored))
    assert only.info.groups == ("near-fs", "far-fs")
    assert only.info.main_group == "far-fs"


def test_a_missing_full_spectrum_cell_leaves_the_other_groups_complete():
    def change(record):
        if is_at(record, adapter="um", seed=1, ood_set="svhn-fs"):
            return synthetic.blank(record, "missing-data", "get it")
        return as_scored(record)

    _, board = full_spectrum(change)
    groups = row_of(board).groups
    assert groups["far"].complete
    assert not groups["far-fs"].complete
    assert list(groups["far-fs"].metrics["auroc"].by_seed) == [0, 2]


def test_shifted_id_images_are_facts_of_their_own():
    _, board = full_spectrum()
    own = [facts for facts in board.sets if facts.group in ("id", "shifted")]
    assert [(f.group, f.name, f.source, f.images, f.fingerprints) for f in own] == [
        ("id", "cifar10", "", (9000,), ("1d" * 6,)),
        ("shifted", "noisy, painted", "noisy/test, painted/all", (1500,),
         (f"{'aa' * 6}+{'bb' * 6}",)),
    ]  # fmt: skip
    plain = make_board(synthetic.sweep(), synthetic.info())
    assert [facts.group for facts in plain.sets if facts.group == "shifted"] == []


def test_other_shifted_images_are_warned_of():
    def change(record):
        record = as_scored(record)
        if not is_at(record, adapter="um", ood_set="svhn-fs"):
            return record
        prints = {**record.fingerprints, "shifted": "cc" * 32}
        return dataclasses.replace(record, fingerprints=prints)

    _, board = full_spectrum(change)
    (warning,) = board.warnings
    assert warning.startswith("noisy, painted is not the same images in every record")


# --- From a folder ---


def write(folder, records):
    jobs = {}
    for record in records:
        jobs.setdefault(record.job, []).append(record)
    for job, its in jobs.items():
        write_file(job_file(folder, job), its)


def describe(folder, **changes):
    described = {
        "name": "synthetic",
        "title": "A title",
        "description": "Words.",
        "fpr95": "id",
        "ood": [ood._asdict() for ood in synthetic.OOD],
        "seeds": [0, 1, 2],
        "adapters": ["um", "none"],
        "detectors": ["knn"],
        **changes,
    }
    (folder / "suite.json").write_text(json.dumps(described), encoding="utf-8")


def test_folder_is_read_with_its_description(tmp_path):
    records = synthetic.sweep()
    write(tmp_path, records)
    describe(tmp_path)
    board = read_board(tmp_path)
    assert (board.info.title, board.info.fpr95) == ("A title", "id")
    assert [row.adapter for row in board.rows[:4]] == ["um", "um", "um", "none"]
    assert board.rows[0].detector == "knn"
    assert row_of(board) == row_of(make_board(records, board.info))


def test_shifted_sets_are_read_from_the_description(tmp_path):
    describe(tmp_path, shifted=dict(SHIFTED))
    assert read_info(tmp_path / "suite.json").shifted == SHIFTED
    describe(tmp_path)
    assert read_info(tmp_path / "suite.json").shifted == ()
    describe(tmp_path, shifted=["noisy"])
    with pytest.raises(UsageError, match=r"suite\.json: does not describe a suite"):
        read_info(tmp_path / "suite.json")


def test_folder_without_description(tmp_path):
    write(tmp_path, synthetic.sweep())
    assert read_board(tmp_path) == make_board(synthetic.sweep())


def test_folder_without_records_says_what_to_do(tmp_path):
    describe(tmp_path)
    with pytest.raises(UsageError, match=r"no records in it.*um-bench run"):
        read_board(tmp_path)
    with pytest.raises(UsageError, match="no records"):
        make_board([])


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"name": "x"}', '{"name": "x", "ood": [{"name": "a"}]}', '{"name":"x","ood":3}'],
)
def test_broken_description_is_named(tmp_path, text):
    path = tmp_path / "suite.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"suite\.json: does not describe a suite"):
        read_info(path)


def test_unknown_convention_is_an_error(tmp_path):
    describe(tmp_path, fpr95="both")
    with pytest.raises(UsageError, match="fpr95 must be 'ood' or 'id', got 'both'"):
        read_info(tmp_path / "suite.json")


def test_work_grows_with_the_number_of_records_only():
    # Counted, not timed: how often the records' states are looked at, for 4 times as many rows.
    class Counting(str):
        looks = 0

        def __eq__(self, other):
            Counting.looks += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def looks(detectors):
        records = synthetic.sweep(
            detectors=[f"d{i}" for i in range(detectors)],
            ood=(OodSet("svhn", "far", ""),),
            change=lambda r: dataclasses.replace(r, state=Counting("done")),
        )
        Counting.looks = 0
        make_board(records)
        return Counting.looks

    assert looks(40) < 4.5 * looks(10)


def test_provenance_of_another_machine_is_kept_apart():
    def change(record):
        made = Provenance(created="", device="CPU", platform="Linux", versions={"torch": "2.15"})
        return dataclasses.replace(record, provenance=made) if record.seed == 2 else record

    made_with = make_board(synthetic.sweep(change=change)).made_with
    assert made_with["device"] == ("CPU", "Test GPU")
    assert made_with["torch"] == ("2.15", "2.4.0")


# --- tracks


TRACK = "photos/auxiliary"
WITH = ("oe", "um>oe", "oe+um")


def of_both_tracks(recipe=None, **changes):
    """Records of none, finetune and um, and of adapters that were trained with outliers."""

    def change(record):
        if record.adapter not in WITH:
            return record
        counts = {**record.counts, "auxiliary": 448}
        prints = {**record.fingerprints, "auxiliary": "ab" * 32}
        used = dict(record.hyperparameters) | ({"outlier_recipe": recipe} if recipe else {})
        return dataclasses.replace(
            record, auxiliary=TRACK, counts=counts, fingerprints=prints, hyperparameters=used
        )

    adapters = ("none", "finetune", "um", *WITH)
    return synthetic.sweep(adapters=adapters, change=change, **changes)


def test_what_was_trained_with_outliers_is_a_track_of_its_own():
    board = make_board(of_both_tracks())
    assert [section.auxiliary for section in board.sections] == ["", TRACK]
    tracks = {row.key.adapter_label: row.key.auxiliary for row in board.rows}
    assert tracks == dict.fromkeys(("none", "finetune", "um"), "") | dict.fromkeys(WITH, TRACK)
    facts = {one.group: one for one in board.sets}
    assert facts["auxiliary"].name == TRACK
    assert facts["auxiliary"].images == (448,)


def test_a_track_with_outliers_is_compared_with_the_references_without():
    board = make_board(of_both_tracks())
    deltas = row_of(board, "oe").groups["far"].deltas
    assert set(deltas) == {"none", "finetune"}
    mine, theirs = row_of(board, "oe"), row_of(board, "finetune")
    for seed, delta in deltas["finetune"]["auroc"].by_seed.items():
        values = [row.groups["far"].metrics["auroc"].by_seed[seed] for row in (mine, theirs)]
        assert delta == pytest.approx(values[0] - values[1], abs=1e-12)
    assert row_of(board, "oe").adapted.id_accuracy_deltas.keys() == {"none", "finetune"}


def test_only_what_trained_by_one_recipe_is_compared_with_finetune():
    plain = make_board(of_both_tracks())
    assert row_of(plain, "um>oe").groups["far"].deltas["finetune"]["auroc"].n == 0
    assert row_of(plain, "um>oe").groups["far"].deltas["none"]["auroc"].n == 3
    board = make_board(of_both_tracks(recipe={"epochs": 10}))
    for adapter in WITH:
        row = row_of(board, adapter)
        assert row.groups["far"].deltas["finetune"]["auroc"].n == 0
        assert row.adapted.id_accuracy_deltas["finetune"].n == 0
        assert row.groups["far"].deltas["none"]["auroc"].n == 3
    assert row_of(board, "um").groups["far"].deltas["finetune"]["auroc"].n == 3
    said = [w for w in board.warnings if "not trained by the same recipe" in w]
    assert [w.split()[0] for w in said] == sorted(WITH)


def test_adapters_of_a_track_that_have_not_run_are_expected_in_it():
    info = synthetic.info(
        adapters=("none", "finetune", "um", *WITH), tracks=dict.fromkeys(WITH, TRACK)
    )
    records = [r for r in of_both_tracks() if r.adapter != "um>oe"]
    board = make_board(records, info)
    cells = len(synthetic.DETECTORS) * len(synthetic.OOD) * len(synthetic.SEEDS)
    assert board.states == {"done": 5 * cells, "not-run": cells}
    assert [hole.adapters for hole in board.holes] == [("um>oe",)]
