"""The campaign in slices: a plan that fits, whole seeds first, and a tiny run to its end."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import campaign

pytestmark = pytest.mark.slow  # runs the campaign, at tiny size

SUITE = """
name = "tiny"
backbone = "resnet20_cifar"
seeds = [0, 1]
adapters = ["none", "um"]
detectors = ["msp", "energy"]
id = { name = "digits", train = "digits/train", test = "digits/test" }
preprocessing = { size = 8, resize = "none" }
base = { epochs = 4, batch_size = 64, augmentation = "none" }
recipe = { epochs = 4, batch_size = 64, lr = 0.02, augmentation = "none" }
[ood.near]
held-out = "digits/heldout"
"""


def plan(**changes):
    standard = {
        "device": "cpu",
        "speeds": {"one": 100.0, "two": 50.0},
        "epochs": {"base": 2, "recipe": 1},
        "minutes": {"one": {"none": 1.0, "um": 2.0}, "two": {"none": 2.0, "um": 4.0}},
    }
    return campaign.Plan(**{**standard, **changes})


def test_the_first_backbones_seeds_are_whole_before_anything_else_begins():
    steps = list(campaign._steps(plan(), ["0", "1"], "0.1,0.5"))
    assert [(s.backbone, s.seed, s.adapters) for s in steps] == [
        ("one", "0", ""),
        ("one", "1", ""),
        ("one", "0", "um@constraint=0.1,um@constraint=0.5"),
        ("one", "1", "um@constraint=0.1,um@constraint=0.5"),
        ("two", "0", ""),
        ("two", "1", ""),
    ]


def test_the_plan_says_minutes_for_all_seeds():
    text = "\n".join(plan().lines(3))
    assert "one: 100 images/s in training; 9.0 minutes for 3 seeds" in text
    assert "um" in text


@pytest.fixture
def options(tmp_path):
    (tmp_path / "tiny.toml").write_text(SUITE)

    def of(*more):
        arguments = ["--suite", tmp_path / "tiny.toml", "--results", tmp_path / "results"]
        arguments += ["--backbones", "resnet20_cifar", "--device", "cpu", "--jobs", "1"]
        return [str(argument) for argument in (*arguments, *more)]

    return of


def test_epochs_are_shortened_until_the_seeds_fit_and_stay_so(options, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "_speed", lambda *_: 100.0)
    assert campaign.main(options("--plan-only", "--minutes", "1", "--seeds", "0,1")) == 0
    made = json.loads((tmp_path / "results" / "campaign.json").read_text())
    total = 2 * sum(made["minutes"]["resnet20_cifar"].values())
    assert total < 1.1  # whole epochs: a little more than what is asked for
    assert made["epochs"]["base"] == made["epochs"]["recipe"] < 4
    monkeypatch.setattr(campaign, "_speed", lambda *_: pytest.fail("measured again"))
    assert campaign.main(options("--plan-only", "--minutes", "99")) == 0
    assert json.loads((tmp_path / "results" / "campaign.json").read_text()) == made


def test_a_slice_that_has_no_time_left_says_that_there_is_more_to_do(options, monkeypatch):
    monkeypatch.setattr(campaign, "_speed", lambda *_: 1e6)
    assert campaign.main(options("--seconds", "1")) == campaign.MORE_TO_DO


@pytest.mark.slow
def test_slices_from_packed_images_to_the_end(options, tmp_path):
    """The whole script, in processes: unpacked, measured, run, cut off, and gone on."""
    packed, data = tmp_path / "packed", tmp_path / "data"
    packed.mkdir()
    (packed / "unpack.py").write_text(
        "import sys, pathlib\npathlib.Path(sys.argv[1]).mkdir()\n"
        "pathlib.Path(sys.argv[1], 'here').touch()\n"
    )
    more = ["--data", data, "--seeds", "0", "--minutes", "60", "--sensitivity", "0.1"]
    codes = [campaign.main(options("--packed", packed, "--seconds", "26", *more))]
    assert (data / "here").exists()
    while codes[-1] == campaign.MORE_TO_DO and len(codes) < 5:
        codes.append(campaign.main(options("--seconds", "300", *more)))
    assert codes[-1] == 0
    records = sorted(f.name for f in (tmp_path / "results" / "tiny" / "records").glob("*.jsonl"))
    assert records == [
        f"digits--resnet20_cifar--seed0--{name}.jsonl"
        for name in ("none", "um", "um@constraint=0.1")
    ]
    assert list((tmp_path / "results" / "tiny" / "trajectories").iterdir())
