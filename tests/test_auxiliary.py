"""Auxiliary outliers in a sweep: their identity, their absence, and that none is tested on."""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import synthetic
from PIL import Image
from test_runner import run, suite

from um_bench import run_suite
from um_bench.data import load_set
from um_bench.errors import UsageError
from um_bench.leaderboard import make_board, read_board
from um_bench.render import render
from um_bench.sweep import bind_adapters, tracks

SHORT = {"epochs": 1, "batch_size": 64, "lr": 0.01, "augmentation": "none"}
CHOICE = {
    "adapters": ["none", "oe", "um@constraint=0.4>oe"],
    "detectors": ["msp"],
    "auxiliary": "photos/auxiliary",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    results = tmp_path_factory.mktemp("finished")
    return results, run(results, **CHOICE)


def loaded(reference):
    return load_set(reference, data_dir=Path(), preprocessing=suite().preprocessing, ood=True)


def by_adapter(records):
    found = {}
    for record in records:
        found.setdefault(record.adapter, []).append(record)
    return found


def weights(records):
    return {name: its[0].weights["adapted"] for name, its in by_adapter(records).items()}


def test_records_say_which_outliers_a_model_has_seen(finished):
    _, records = finished
    assert {r.state for r in records} == {"done"}
    outliers = loaded("photos/auxiliary")
    for record in records:
        exposed = "oe" in record.adapter
        assert record.auxiliary == ("photos/auxiliary" if exposed else "")
        expected = outliers.fingerprint if exposed else None
        assert record.fingerprints.get("auxiliary") == expected
        assert record.counts.get("auxiliary") == (448 if exposed else None)
    assert by_adapter(records).keys() == {"none", "oe", "um>oe"}
    assert by_adapter(records)["um>oe"][0].adapter_label == "um@constraint=0.4>oe"
    assert by_adapter(records)["um>oe"][0].notes["1.um@constraint=0.4.constraint"] == 0.4


def test_a_second_run_computes_nothing(finished):
    results, records = finished
    again = run(results, **CHOICE)
    assert [r.provenance.created for r in again] == [r.provenance.created for r in records]
    assert again == records


def test_other_outliers_give_other_models_and_leave_the_rest(finished, tmp_path):
    results, records = finished
    shutil.copytree(results, tmp_path / "copy")
    other = run(tmp_path / "copy", **{**CHOICE, "auxiliary": "gaussian-noise/50-grey"})
    assert by_adapter(other)["none"] == by_adapter(records)["none"]
    before, after = weights(records), weights(other)
    assert after["none"] == before["none"]
    assert after["oe"] != before["oe"]
    assert after["um>oe"] != before["um>oe"]
    assert {r.auxiliary for r in other} == {"", "gaussian-noise/50-grey"}


def test_a_recipe_for_outliers_is_that_of_the_stages_that_see_them(finished, tmp_path):
    _, records = finished
    longer = {**SHORT, "epochs": 2}
    adapters = ["none", "um@constraint=0.4", "oe", "um@constraint=0.4>oe"]
    changed = run(tmp_path, **{**CHOICE, "adapters": adapters}, outlier_recipe=longer)
    before, after = weights(records), weights(changed)
    assert after["none"] == before["none"]
    assert after["oe"] != before["oe"]
    for name, its in by_adapter(changed).items():
        used = its[0].hyperparameters
        assert used.get("outlier_recipe", {}).get("epochs") == (2 if "oe" in name else None)
        assert used["recipe"]["epochs"] == 1
    plain = run(tmp_path, **{**CHOICE, "adapters": adapters})
    assert by_adapter(plain)["um"] == by_adapter(changed)["um"]
    assert weights(plain)["oe"] == before["oe"]


def test_progress_counts_every_stage_and_the_outliers(tmp_path):
    seen = []
    run(tmp_path, **CHOICE, on_progress=seen.append)
    trained = [p for p in seen if p.stage.startswith("training um")]
    assert len(trained) == 2
    steps = [b.done - a.done for a, b in itertools.pairwise(trained)]
    assert steps == [pytest.approx(3 * 2 * 725)]
    assert seen[-1].done == pytest.approx(seen[-1].total)


def test_outliers_that_are_not_here_stop_only_the_adapters_that_need_them(tmp_path):
    records = run(tmp_path, **{**CHOICE, "auxiliary": "folder/nowhere"})
    states = {r.adapter: r.state for r in records}
    assert states == {"none": "done", "oe": "missing-data", "um>oe": "missing-data"}
    assert "nowhere" in by_adapter(records)["oe"][0].reason
    assert {r.auxiliary for r in by_adapter(records)["oe"]} == {"folder/nowhere"}


@pytest.mark.parametrize("label", ["oe", "poem+um", "um>oe"])
def test_an_adapter_that_needs_outliers_is_refused_where_none_are_named(tmp_path, label):
    with pytest.raises(
        UsageError, match=f"^{re.escape(label)}: trained with auxiliary outliers.*--auxiliary"
    ):
        run(tmp_path, adapters=["none", label])
    assert not list(tmp_path.rglob("*.*"))


def test_an_outlier_that_is_tested_on_is_refused_by_name(tmp_path):
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    tested = loaded("uniform-noise/100-grey")
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        if number == 3:
            pixels = tested.images[42].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    chosen = suite(**{**CHOICE, "auxiliary": "folder/mine"})
    options = {"results": tmp_path / "results", "data_dir": tmp_path / "data", "device": "cpu"}
    with pytest.raises(UsageError, match=r"1 of the 5 auxiliary outliers.*noise") as caught:
        list(run_suite(chosen, **options))
    assert "42" in str(caught.value)
    assert not (tmp_path / "results").exists()
    # Without an adapter that trains with them, nobody asks for them.
    alone = chosen.replace(adapters=("none",))
    assert {r.state for r in run_suite(alone, **options)} == {"done"}


@pytest.mark.parametrize("source", ["digits/heldout", "digits/test", "Uniform-Noise/100-Grey"])
def test_a_suite_cannot_name_a_test_set_as_its_outliers(source):
    with pytest.raises(UsageError, match=f"auxiliary and .* are the same set, {source}"):
        suite(auxiliary=source)


def test_the_leaderboard_has_a_table_for_each_track(finished):
    results, _ = finished
    board = read_board(results / "tiny")
    page = render(board, "markdown")
    tables = {part.split("\n")[0]: part for part in page.split("\n## ") if "\n| " in part}
    assert len(tables) == 2
    (plain, exposed) = tables
    assert "trained with outliers" not in plain
    assert exposed.endswith("trained with outliers: photos/auxiliary")
    assert ("| oe " in tables[plain], "| oe " in tables[exposed]) == (False, True)
    assert ("| none " in tables[plain], "| none " in tables[exposed]) == (True, False)
    # One row of none: nothing to be the best of. Two with outliers: among each other alone.
    assert "**" not in tables[plain]
    assert "**" in tables[exposed]
    table = json.loads(render(board, "json"))
    assert {row["adapter"]: row["auxiliary"] for row in table["rows"]} == {
        "none": "",
        "oe": "photos/auxiliary",
        "um>oe": "photos/auxiliary",
    }
    exposed = dict.fromkeys(("oe", "um@constraint=0.4>oe"), "photos/auxiliary")
    assert board.info.tracks == {"none": "", **exposed}


def test_settings_reach_every_stage_and_the_recipe_for_outliers():
    chosen = suite(**{**CHOICE, "adapters": ["um", "um>oe+um"]})
    changed = chosen.with_setting("um.constraint=0.2").with_setting("outlier_recipe.epochs=7")
    assert changed.adapters == ("um@constraint=0.2", "um@constraint=0.2>oe+um@constraint=0.2")
    assert changed.outlier_recipe == dataclasses.replace(chosen.recipe, epochs=7)


# --- bases that have seen outliers before


REGISTRY = "pytorch-ood:wrn-40-2/cifar10"


@pytest.mark.parametrize(
    ("backbone", "of_base"),
    [
        ("resnet20_cifar", ""),
        (f"{REGISTRY}/logitnorm/s0", ""),
        (f"{REGISTRY}/oe/s0", f"{REGISTRY}/oe/s0"),
        (f"{REGISTRY}/oe/s{{seed}}", f"{REGISTRY}/oe/s{{seed}}"),
    ],
)
def test_outliers_that_the_base_has_seen_count(backbone, of_base):
    chosen = suite(backbone=backbone, adapters=["none", "um", "oe"], auxiliary="photos/auxiliary")
    own = "photos/auxiliary"
    assert tracks(chosen, bind_adapters(chosen)) == {
        "none": of_base,
        "um": of_base,
        "oe": f"{of_base} and {own}" if of_base else own,
    }


def test_what_starts_from_such_a_base_is_compared_with_its_own_references():
    def change(record):
        seen = "its base's" if record.adapter != "oe" else "its base's and photos/auxiliary"
        return dataclasses.replace(record, auxiliary=seen)

    board = make_board(synthetic.sweep(adapters=("none", "finetune", "um", "oe"), change=change))
    assert len(board.sections) == 2
    for row in board.rows:
        others = {"none", "finetune"} - {row.adapter}
        assert {n for n, of in row.groups["far"].deltas.items() if of["auroc"].n == 3} == others


def test_each_seed_can_have_a_backbone_of_its_own():
    chosen = suite(backbone=f"{REGISTRY}/logitnorm/s{{seed}}", seeds=[0, 2])
    assert [chosen.backbone_of(seed) for seed in chosen.seeds] == [
        f"{REGISTRY}/logitnorm/s0",
        f"{REGISTRY}/logitnorm/s2",
    ]
    assert not chosen.trains_base
    assert {job.backbone for job in chosen.jobs()} == {chosen.backbone}
