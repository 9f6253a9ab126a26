"""Suites: labels, settings, TOML and its errors."""

import dataclasses
import types

import pytest

from um_bench import registry
from um_bench.errors import MissingDataError, PluginError, UsageError
from um_bench.suite import (
    Choice,
    Job,
    OodSet,
    Recipe,
    Suite,
    listed,
    load_suite,
    parse_adapter,
    parse_choice,
    parse_suite,
    parse_value,
    shipped,
)

TABLE = {
    "name": "tiny",
    "backbone": "resnet20_cifar",
    "seeds": [0, 1],
    "adapters": ["none", "um"],
    "detectors": ["msp", "knn@k=20"],
    "id": {"name": "digits", "train": "digits/train", "test": "digits/test"},
    "preprocessing": {"size": 8, "resize": "none"},
    "base": {"epochs": 2},
    "recipe": {"epochs": 1, "lr": 0.02},
    "ood": {"near": {"held-out": "digits/heldout"}, "far": {"photos": "photos/test"}},
}


def suite(**changes) -> Suite:
    return parse_suite({**TABLE, **changes}, "tiny.toml")


def test_jobs_come_seed_by_seed_and_cells_cover_every_detector_and_set():
    jobs = list(suite().jobs())
    assert [(j.seed, j.adapter) for j in jobs] == [(0, "none"), (0, "um"), (1, "none"), (1, "um")]
    assert jobs[0] == Job("digits", "resnet20_cifar", 0, "none")
    cells = [(c.detector, c.ood_set) for c in suite().cells(jobs[0])]
    assert cells == [
        ("msp", "held-out"),
        ("msp", "photos"),
        ("knn@k=20", "held-out"),
        ("knn@k=20", "photos"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.15", 0.15), ("3", 3), ("true", True), ("[1, 2]", [1, 2]), ("layer", "layer")],
)
def test_values_are_read_as_toml_reads_them(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_a_label_is_read_back_whatever_the_order_of_its_settings():
    choice = parse_choice("um@keep=0.9:constraint=0.15")
    assert choice == Choice("um", {"keep": 0.9, "constraint": 0.15})
    assert choice.label == "um@constraint=0.15:keep=0.9"
    assert parse_choice(choice.label) == choice
    assert [[p.name for p in stage] for stage in parse_adapter("oe+um@constraint=0.1")] == [
        ["oe", "um"]
    ]
    assert suite(adapters=["um@keep=0.9:constraint=0.15"]).adapters == (
        "um@constraint=0.15:keep=0.9",
    )


def test_two_spellings_of_one_label_are_the_same_row():
    with pytest.raises(UsageError, match=r"adapters names um@beta=2:constraint=0.15 twice"):
        suite(adapters=["um@beta=2:constraint=0.15", "um@constraint=0.15:beta=2"])


def test_a_setting_reaches_adapters_detectors_and_tables():
    changed = suite().with_setting("um.constraint=0.15").with_setting("knn.k=5")
    assert changed.adapters == ("none", "um@constraint=0.15")
    assert changed.detectors == ("msp", "knn@k=5")
    assert suite().with_setting("recipe.epochs=7").recipe == Recipe(epochs=7, lr=0.02)
    assert suite().with_setting("backbone.bn_affine=false").backbone_options == {"bn_affine": False}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("um.constraint", "is not NAME.KEY=VALUE"),
        ("umm.constraint=1", "Did you mean um"),
        ("recipe.epoch=1", "no key named 'epoch'. Did you mean epochs"),
        ("recipe.epochs=many", "epochs must be int, got 'many'"),
        ("recipe.epochs=true", "epochs must be int, got True"),
        ("recipe.schedule=step", "no schedule named 'step'"),
    ],
)
def test_a_wrong_setting_says_what_is_known(setting, message):
    with pytest.raises(UsageError, match=message):
        suite().with_setting(setting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector": ["msp"]}, "tiny.toml: no key named 'detector'. Did you mean detectors"),
        ({"recipe": {"lr": 1.0}}, r"tiny.toml: \[recipe\]: epochs missing"),
        ({"recipe": 3}, "tiny.toml: recipe must be a table, got 3"),
        ({"id": {**TABLE["id"], "tset": "x"}}, r"\[id\]: no key named 'tset'"),
        ({"ood": {}}, "ood is empty"),
        ({"ood": {"close": {"a": "b"}}}, "no group named 'close'"),
        ({"ood": {"far": {"a": 3}}}, "ood.far.a must be str, got 3"),
        ({"seeds": ["0"]}, "seeds must be a list of int"),
        ({"seeds": []}, "seeds is empty"),
        ({"detectors": ["knn@k="]}, "'k=' is not KEY=VALUE"),
        ({"fpr95": "both"}, "no positive class for fpr95 named 'both'"),
        ({"preprocessing": {"size": 8, "resize": "stretch"}}, "no resize named 'stretch'"),
        ({"preprocessing": {"size": 0}}, "size must be at least 1"),
        ({"name": 3}, "name must be str, got 3"),
    ],
)
def test_a_malformed_suite_names_file_and_key(changes, message):
    with pytest.raises(UsageError, match=message):
        suite(**changes)


def test_a_missing_key_is_named():
    table = {key: value for key, value in TABLE.items() if key != "recipe"}
    with pytest.raises(UsageError, match=r"tiny.toml: recipe missing"):
        parse_suite(table, "tiny.toml")


def test_files_that_are_no_suites(tmp_path):
    with pytest.raises(
        UsageError, match=r"no suite named 'digits-far-odo'. Did you mean digits-far-ood"
    ):
        load_suite("digits-far-odo")
    with pytest.raises(UsageError, match=r"absent.toml: cannot be read"):
        load_suite(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(UsageError, match=r"broken.toml: not valid TOML"):
        load_suite(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"broken.toml: cannot be read"):
        load_suite(broken)


def test_a_suite_takes_some_of_its_ood_sets():
    assert [o.name for o in suite().with_ood_sets(("photos",)).ood] == ["photos"]
    with pytest.raises(
        UsageError, match=r"no OOD set in suite tiny named 'photo'. Did you mean photos"
    ):
        suite().with_ood_sets(("photo",))


def test_who_trains_the_base_classifier():
    assert suite().trains_base
    assert not suite(checkpoint="model.safetensors").trains_base
    assert not suite(backbone="pytorch-ood:wrn-40-2/cifar10/oe/s0").trains_base
    assert not suite(backbone_options={"pretrained": True}).trains_base


# --- Full spectrum ---

SHIFTED = {**TABLE["id"], "shifted": {"blurred": "digits/shifted"}}


def test_shifted_id_sets_let_every_ood_set_appear_a_second_time():
    both = suite(id=SHIFTED)
    assert both.ood == (
        OodSet("held-out", "near", "digits/heldout"),
        OodSet("photos", "far", "photos/test"),
        OodSet("held-out-fs", "near-fs", "digits/heldout"),
        OodSet("photos-fs", "far-fs", "photos/test"),
    )
    assert [ood.full_spectrum for ood in both.ood] == [False, False, True, True]
    assert both.id.shifted == {"blurred": "digits/shifted"}
    assert suite().id.shifted == {}
    assert len(suite().ood) == 2


def test_a_set_and_its_full_spectrum_twin_are_chosen_one_by_one():
    both = suite(id=SHIFTED)
    assert both.with_ood_sets(None) is both
    twin = both.with_ood_sets(("photos-fs", "held-out"))
    assert [o.name for o in twin.ood] == ["photos-fs", "held-out"]
    assert twin.id.shifted == both.id.shifted
    plain = both.with_ood_sets(("photos",))
    assert [o.name for o in plain.ood] == ["photos"]
    assert plain.id.shifted == {}, "nobody scores them"
    assert dataclasses.replace(plain.id, shifted=both.id.shifted) == both.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": {**TABLE["id"], "shifted": "a"}}, r"\[id\]: shifted must be dict, got 'a'"),
        ({"id": {**TABLE["id"], "shifted": {"a": 3}}}, "shifted.a must be str, got 3"),
        (
            {"id": {**TABLE["id"], "shifted": {"a": "digits/test"}}},
            "id.shifted.a and id.test are the same set, digits/test",
        ),
        (
            {"id": {**TABLE["id"], "shifted": {"a": "digits/Heldout"}}},
            "id.shifted.a and OOD set held-out are the same set",
        ),
        (
            {"id": {**TABLE["id"], "shifted": {"a": "x/y", "b": "x/y"}}},
            "id.shifted.b and id.shifted.a are the same set",
        ),
        ({"ood": {"near-fs": {"a": "b"}}}, "no group named 'near-fs'. Did you mean near"),
        ({"validation_ood": "photos/test"}, "validation_ood and OOD set photos are the same set"),
        ({"validation_ood": "Photos/Test"}, "validation_ood and OOD set photos are the same set"),
        ({"validation_ood": "digits/test"}, "validation_ood and id.test are the same set"),
        ({"validation_ood": "digits/train"}, "validation_ood and id.train are the same set"),
        (
            {"id": {**TABLE["id"], "validation": "v/v"}, "validation_ood": "v/v"},
            "validation_ood and id.validation are the same set",
        ),
        (
            {"id": SHIFTED, "validation_ood": "digits/shifted"},
            "validation_ood and id.shifted.blurred are the same set",
        ),
        ({"validation_ood": 3}, "validation_ood must be str, got 3"),
    ],
)
def test_no_set_is_used_for_two_things_that_must_be_apart(changes, message):
    with pytest.raises(UsageError, match=message):
        suite(**changes)


def test_validation_ood_is_declared_or_not():
    assert suite().validation_ood is None
    assert suite(validation_ood="photos/validation").validation_ood == "photos/validation"


def test_full_spectrum_sets_need_shifted_images():
    twin = OodSet("photos-fs", "far-fs", "photos/test")
    with pytest.raises(UsageError, match=r"photos-fs need covariate-shifted ID images.*id.shifted"):
        suite().replace(ood=(twin,))


# --- Families of suites ---


@pytest.fixture
def families(monkeypatch):
    """Register functions as families of suites; each counts what it is asked for."""
    asked = []

    def register(**functions):
        found = {
            name: types.SimpleNamespace(distribution="theirs", version="2.0") for name in functions
        }
        monkeypatch.setattr(registry, "plugins", lambda kind: found)

        def load(kind, name):
            def make(rest):
                asked.append((name, rest))
                return functions[name](rest)

            return make

        monkeypatch.setattr(registry, "load", load)
        return asked

    return register


def test_a_suite_of_a_family_is_made_by_its_function(families):
    asked = families(mine=lambda name: suite(name=f"mine:{name}"))
    assert load_suite("mine:some.Name:x").name == "mine:some.Name:x"
    assert asked == [("mine", "some.Name:x")]


def test_a_family_that_breaks_is_named(families):
    def fail(name):
        raise ValueError("boom")

    def miss(name):
        raise MissingDataError("get it there")

    families(broken=fail, wrong=lambda name: name, missing=miss)
    with pytest.raises(
        PluginError, match=r"'broken' of theirs 2.0 failed on 'a': ValueError: boom"
    ):
        load_suite("broken:a")
    with pytest.raises(PluginError, match=r"'wrong' of theirs 2.0 returned a str, not a Suite"):
        load_suite("wrong:a")
    with pytest.raises(MissingDataError, match=r"^get it there$"):
        load_suite("missing:a")
    with pytest.raises(
        UsageError, match=r"no family of suites named 'brokn'\. Did you mean broken"
    ):
        load_suite("brokn:a")


def test_every_suite_that_can_be_named_is_listed():
    found = listed()
    assert found["digits-far-ood"] == "Digits, far- and near-OOD"
    assert list(found)[: len(shipped())] == list(shipped())
    assert found["pytorch-ood:CIFAR10_ODIN"] == "pytorch_ood.benchmark.CIFAR10_ODIN"
    assert "pytorch-ood:Benchmark" not in found


def test_other_families_are_listed_by_their_distribution(families):
    families(mine=lambda name: suite())
    assert listed()["mine:NAME"] == "of theirs"
