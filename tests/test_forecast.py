"""What the rest of a suite would take, from records whose times are known."""

import dataclasses

import pytest
from click.testing import CliRunner
from synthetic import record

from um_bench import cli
from um_bench.forecast import forecast
from um_bench.records import job_file, suite_folder, write_file
from um_bench.suite import IdData, OodSet, Preprocessing, Recipe, Suite, load_suite

OOD = (OodSet("mnist", "far", "mnist/test"), OodSet("svhn", "far", "svhn/test"))
SUITE = Suite(
    name="synthetic",
    id=IdData(name="cifar10", train="cifar10/train", test="cifar10/test"),
    ood=OOD,
    preprocessing=Preprocessing(size=32),
    backbone="resnet18_cifar",
    seeds=(0, 1),
    adapters=("none", "um"),
    detectors=("msp", "knn"),
    base=Recipe(epochs=1),
    recipe=Recipe(epochs=1),
)
SECONDS = {"data": 99.0, "base": 100.0, "outputs": 4.0, "fit": 2.0, "score": 1.0}


def cells(seed, adapters=("none", "um"), detectors=("msp", "knn"), **changes):
    """Done cells of one seed: `um` trains 30 s, and every other time is that of `SECONDS`."""
    return [
        record(
            adapter,
            detector,
            ood,
            seed,
            seconds={**SECONDS, "adapt": 30.0 if adapter == "um" else 0.0},
            counts={"id": 10, "ood": 5 if ood.name == "mnist" else 7},
            **changes,
        )
        for adapter in adapters
        for detector in detectors
        for ood in OOD
    ]


def test_a_new_seed_takes_what_the_first_one_took(tmp_path):
    found = forecast(SUITE, cells(0), tmp_path)
    job = 2 * 4.0 + 2 * 2.0 + 4 * 1.0  # a pass for each set, a fit for each detector, the scores
    assert found.seconds == pytest.approx(100.0 + job + (job + 30.0))
    assert (found.done, found.left, found.measured, found.device) == (8, 8, 8, "Test GPU")
    assert (found.unmeasured, found.score_bytes) == ((), 4 * (15 + 17) * 4)


def test_a_detector_that_is_added_needs_no_training(tmp_path):
    known = cells(0, detectors=("msp",))
    found = forecast(SUITE.replace(seeds=(0,)), known, tmp_path)
    assert found.seconds == pytest.approx(2 * (2 * 4.0 + 2.0 + 2 * 1.0))


def test_an_adapter_that_never_ran_is_named_and_not_guessed(tmp_path):
    found = forecast(SUITE, cells(0, adapters=("none",)), tmp_path)
    assert found.unmeasured == ("um",)
    assert found.seconds == pytest.approx(100.0 + 16.0)  # the base, and `none` of seed 1


def test_a_checkpoint_is_not_trained(tmp_path):
    found = forecast(SUITE.replace(checkpoint="there.pt"), cells(0), tmp_path)
    assert found.seconds == pytest.approx(16.0 + 46.0)


@pytest.mark.parametrize("records", [[], cells(0)])
def test_nothing_measured_or_nothing_left_is_no_estimate(tmp_path, records):
    suite = SUITE.replace(seeds=(0,))
    found = forecast(suite, records, tmp_path)
    assert found.seconds is None
    assert found.left == 8 - len(records)


def test_records_of_another_device_do_not_mix_in(tmp_path):
    slow = [
        dataclasses.replace(
            r,
            provenance=dataclasses.replace(r.provenance, device="cpu"),
            seconds=dict.fromkeys(r.seconds, 1e6),
        )
        for r in cells(1, adapters=("none",))
    ]
    found = forecast(SUITE, cells(0) + slow, tmp_path)
    assert (found.device, found.measured) == ("Test GPU", 8)
    assert found.seconds == pytest.approx(46.0)


def test_models_are_as_large_as_those_that_are_there(tmp_path):
    (tmp_path / "base-a.safetensors").write_bytes(bytes(300))
    (tmp_path / "b.safetensors").write_bytes(bytes(100))
    assert forecast(SUITE, cells(0), tmp_path).model_bytes == 2 * 200  # a base, and um's
    assert forecast(SUITE, cells(0), tmp_path / "none").model_bytes is None


def dry_run(tmp_path, *more):
    arguments = ("run", "--suite", "digits-far-ood", "--dry-run", "--results", str(tmp_path))
    return CliRunner().invoke(cli.main, [*arguments, *more]).output


def test_a_dry_run_says_that_nothing_is_measured(tmp_path):
    out = dry_run(tmp_path)
    assert "0 cells are done, 720 are left" in out
    assert "time: no estimate, nothing of it measured yet" in out


def test_a_dry_run_says_on_what_its_estimate_rests(tmp_path):
    suite = load_suite("digits-far-ood")
    job = next(suite.jobs())
    given = {
        "suite": suite.name,
        "id_set": suite.id.name,
        "backbone": suite.backbone,
        "scores": "",
        "seconds": {"base": 600.0, "adapt": 0.0, "outputs": 0.0, "fit": 0.0, "score": 0.0},
    }
    one = record(job.adapter, "msp", suite.ood[0], job.seed, **given)
    write_file(job_file(suite_folder(tmp_path, suite.name), job), [one])
    out = dry_run(tmp_path)
    assert "1 cells are done, 719 are left" in out
    assert "time: about 20 min, one job after another, by 1 cells measured on Test GPU" in out
    assert "  without finetune, um, umap: never measured" in out


def test_a_record_that_cannot_be_read_costs_the_estimate_alone(tmp_path):
    suite = load_suite("digits-far-ood")
    path = job_file(suite_folder(tmp_path, suite.name), next(suite.jobs()))
    path.parent.mkdir(parents=True)
    path.write_text("{}\n", encoding="utf-8")
    out = dry_run(tmp_path)
    assert "no estimate: " in out
    assert "train: 725 images" in out
