"""The command line as its user meets it: what it prints, what it writes, and how it ends."""

import csv
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from pytorch_ood.api import LogitsDetector
from safetensors.torch import load_file, save_file

from um_bench import cli, detectors, registry, render, runner, scoring, together
from um_bench.cli import choice
from um_bench.records import read_file, read_folder, write_file
from um_bench.suite import load_suite, shipped

TINY = """
name = "tiny"
title = "A tiny suite"
backbone = "resnet20_cifar"
seeds = [0]
adapters = ["none", "um@constraint=0.4"]
detectors = ["msp", "knn@k=5"]

[id]
name = "digits"
train = "digits/train"
test = "digits/test"

[preprocessing]
size = 8
resize = "none"

[base]
epochs = 1
batch_size = 64
augmentation = "none"

[recipe]
epochs = 1
batch_size = 64
lr = 0.02
augmentation = "none"

[ood.near]
held-out = "digits/heldout"

[ood.far]
noise = "uniform-noise/100-grey"
"""
NOISE = '"uniform-noise/100-grey"'
QUICK = ("--limit", "64", "--adapters", "none", "--detectors", "msp")
"""One step of training, two cells."""

# From click 8.2 on the two streams are always apart.
_APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
RUNNER = CliRunner(**_APART, env={"UM_BENCH_RESULTS": None, "UM_BENCH_DATA": None})


def um_bench(*arguments, **env):
    """Call the command line in this process; nothing of the surroundings is seen by it."""
    return RUNNER.invoke(cli.main, [str(argument) for argument in arguments], env=env)


def suite_file(folder: Path, *replacements: tuple[str, str], text: str = TINY) -> Path:
    """Write the tiny suite with some of its text replaced."""
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(result, code: int = cli.BAD_INPUT) -> str:
    """Return the one line that says what is wrong, having checked that there is nothing else."""
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("um-bench: error: ")] == lines[-1:]
    assert all(re.fullmatch(r"seed \d+, .*: .*", line) for line in lines[:-1]), lines
    assert "please report it" not in lines[-1]
    return lines[-1]


def unwrapped(text: str) -> str:
    """Return text without the line breaks of a narrow terminal."""
    return " ".join(text.split())


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def states_of(results: Path, folder: str) -> dict[tuple[str, str], str]:
    return {(r.detector, r.ood_set): r.state for r in read_folder(results / folder)}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One run that has ended well. Read its files, but do not change them."""
    folder = tmp_path_factory.mktemp("finished")
    suite = suite_file(folder)
    result = um_bench("run", "--suite", suite, "--results", folder / "results", "--device", "cpu")
    return SimpleNamespace(suite=suite, results=folder / "results", result=result)


@pytest.fixture
def tiny(tmp_path) -> Path:
    return suite_file(tmp_path)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The finished results, to be changed."""
    shutil.copytree(finished.results, tmp_path / "results")
    return tmp_path / "results"


def nothing_is_computed(monkeypatch) -> None:
    for module, name in ((together, "adapt"), (scoring, "collect"), (scoring, "fit")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("computed again"))


# --- run


def test_a_run_writes_records_and_prints_the_leaderboard(finished):
    assert finished.result.exit_code == cli.OK, finished.result.stderr
    records = list(read_folder(finished.results / "tiny"))
    assert [r.state for r in records] == ["done"] * 8
    assert {r.provenance.device for r in records} == {"cpu"}
    shown = json.loads((finished.results / "tiny" / "suite.json").read_text(encoding="utf-8"))
    assert (shown["name"], shown["seeds"]) == ("tiny", [0])
    out = finished.result.stdout
    assert out.startswith("A tiny suite\n")
    for label in ("um@constraint=0.4", "knn@k=5"):
        assert label in out
    auroc = [r.metrics["auroc"] for r in records if r.group == "far"]
    assert all(f"{100 * value:.2f}" in out for value in auroc)
    assert f"8 cells: 8 done. Records: {finished.results}" in out


def test_a_run_says_on_stderr_how_each_job_ended(finished):
    said = [line for line in finished.result.stderr.splitlines() if line.strip()]
    assert said[:2] == ["seed 0, none: 4 done", "seed 0, um@constraint=0.4: 4 done"]


def test_a_run_says_on_stderr_where_its_time_went(finished):
    said = [line for line in finished.result.stderr.splitlines() if line.strip()][2:]
    assert re.fullmatch(r"8 of 8 cells computed now, in \d+\.\d s", said[0])
    assert said[1].split() == ["time", "s", "share"]
    stages = [re.sub(r"\s+\d+\.\d\s+\d+ %", "", line) for line in said[3:]]
    assert stages == [
        *("reading data", "training the base", "adapting", "pass over the images"),
        *("fitting detectors", "scoring", "resampling", "other"),
    ]


@pytest.mark.parametrize("jobs", ["0", "-1", "two", ""])
def test_a_number_of_jobs_that_is_none_is_refused(finished, jobs):
    result = um_bench("run", "--suite", finished.suite, f"--jobs={jobs}")
    assert result.exit_code == cli.BAD_INPUT
    assert "is neither a number from 1 on nor auto" in result.stderr


def test_the_same_run_again_computes_nothing(finished, copied, monkeypatch):
    nothing_is_computed(monkeypatch)
    before = files_of(copied)
    result = um_bench("run", "--suite", finished.suite, "--results", copied)
    assert result.exit_code == cli.OK
    assert files_of(copied) == before
    assert result.stdout.replace(str(copied), "") == finished.result.stdout.replace(
        str(finished.results), ""
    )


def test_a_dry_run_computes_and_writes_nothing(tiny, tmp_path, monkeypatch):
    nothing_is_computed(monkeypatch)
    suite = suite_file(tmp_path, (NOISE, '"folder/absent"'), ("[0]", "[0, 1]"))
    before = files_of(tmp_path)
    results = tmp_path / "results"
    result = um_bench("run", "--suite", suite, "--dry-run", "--results", results)
    assert result.exit_code == cli.OK
    assert not results.exists()
    assert files_of(tmp_path) == before
    assert "4 jobs, 16 cells on resnet20_cifar" in result.stdout
    assert "seed 1: um@constraint=0.4" in result.stdout
    assert "train: 725 images" in result.stdout
    assert re.search(r"noise: missing: .*there is no folder", result.stdout)


def test_a_dry_run_names_id_data_that_is_missing(tmp_path):
    result = um_bench("run", "--suite", "cifar10-um", "--data-dir", tmp_path, "--dry-run")
    assert result.exit_code == cli.OK
    assert re.search(r"missing: cifar10/train is not in .*download=True", result.stdout)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--adapters", "umm", "Did you mean um"),
        ("--detectors", "mps", "Did you mean msp"),
        ("--set", "um.constrain=0.1", "Did you mean constraint"),
    ],
)
def test_a_dry_run_finds_the_same_mistakes(tiny, option, value, message):
    assert message in error_of(um_bench("run", "--suite", tiny, "--dry-run", option, value))


def test_a_limited_run_has_a_folder_of_its_own(finished, copied):
    before = files_of(copied / "tiny")
    result = um_bench("run", "--suite", finished.suite, "--results", copied, *QUICK)
    assert result.exit_code == cli.OK
    assert files_of(copied / "tiny") == before
    records = list(read_folder(copied / "tiny@limit=64"))
    assert [r.counts for r in records] == [{"id": 64, "ood": 64, "train": 64, "fit": 64}] * 2
    both = um_bench("leaderboard", "--results", copied).stdout
    assert both.count("A tiny suite\n============") == 2
    assert both.count("Run with --limit 64") == 1


def test_options_choose_what_is_run(tiny, tmp_path):
    results = tmp_path / "results"
    chosen = ("--adapters", "um", "--detectors", "msp, energy", "--ood-sets", "noise")
    settings = ("--set", "um.constraint=0.15", "--set", "energy.t=2.0", "--set", "base.lr=0.05")
    result = um_bench(
        "run", "--suite", tiny, "--results", results, "--limit", 32, "--seeds", "3,4",
        *chosen, *settings,
    )  # fmt: skip
    assert result.exit_code == cli.OK, result.stderr
    records = list(read_folder(results / "tiny@limit=32"))
    assert {(r.seed, r.adapter_label, r.detector_label, r.ood_set) for r in records} == {
        (seed, "um@constraint=0.15", detector, "noise")
        for seed in (3, 4)
        for detector in ("msp", "energy@T=2.0")
    }
    assert {r.notes["constraint"] for r in records} == {0.15}
    assert {r.hyperparameters["base"]["lr"] for r in records} == {0.05}


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        (["{file}"], {0}),
        (["{file}", "--seeds", "1,2"], {1, 2}),
        (["{folder}/{{seed}}.safetensors"], {0, 1}),
    ],
)
def test_one_checkpoint_is_one_seed(finished, tmp_path, options, seeds):
    suite = suite_file(tmp_path, ("[0]", "[0, 1]"))
    weights = next((finished.results / "models").glob("base-*.safetensors"))
    for seed in (0, 1):
        shutil.copy(weights, tmp_path / f"{seed}.safetensors")
    given = [option.format(file=tmp_path / "0.safetensors", folder=tmp_path) for option in options]
    results = tmp_path / "results"
    result = um_bench("run", "--suite", suite, "--results", results, *QUICK, "--checkpoint", *given)
    assert result.exit_code == cli.OK, result.stderr
    records = list(read_folder(results / "tiny@limit=64"))
    assert {r.seed for r in records} == seeds
    trained = {r.weights["base"] for r in read_folder(finished.results / "tiny")}
    assert {r.weights["base"] for r in records} == trained
    assert not (results / "models").exists()


def test_another_backbone_does_not_get_the_options_of_the_suites_own(tmp_path):
    suite = suite_file(tmp_path, ("seeds =", "backbone_options = { depht = 3 }\nseeds ="))
    weights = tmp_path / "empty.pt"
    weights.write_bytes(b"")
    arguments = ("run", "--suite", suite, "--results", tmp_path / "r", "--checkpoint", weights)
    for backbone, message in (
        ("resnet20_cifar", "cannot be made with depht=3"),
        ("resnet18_cifar", "empty.pt cannot be read as a checkpoint"),
    ):
        assert message in error_of(um_bench(*arguments, "--backbone", backbone))


def test_another_backbone_normalises_in_its_own_way():
    suite = load_suite("cifar10-far-ood")
    assert suite.preprocessing.mean
    for backbone, mean in ((suite.backbone, suite.preprocessing.mean), ("resnet20_cifar", ())):
        chosen = choice.choose("cifar10-far-ood", backbone=backbone)
        assert chosen.preprocessing.mean == mean


def test_a_run_is_deterministic_if_asked_to_be(tiny, tmp_path):
    asked = []
    for options in ([], ["--deterministic"]):
        result = um_bench("run", "--suite", tiny, "--results", tmp_path / "r", *QUICK, *options)
        asked.append(torch.are_deterministic_algorithms_enabled())
        torch.use_deterministic_algorithms(False)
        assert result.exit_code == cli.OK, result.stderr
    assert asked == [False, True]


def test_folders_may_be_named_by_the_environment(tmp_path):
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for grey in (10, 20):
        Image.new("L", (8, 8), grey).save(images / f"{grey}.png")
    suite = suite_file(tmp_path, (NOISE, '"folder/images"'))
    env = {"UM_BENCH_RESULTS": str(tmp_path / "r"), "UM_BENCH_DATA": str(tmp_path / "data")}
    result = um_bench("run", "--suite", suite, *QUICK, "--ood-sets", "noise", **env)
    assert result.exit_code == cli.OK, result.stderr
    (record,) = read_folder(tmp_path / "r" / "tiny@limit=64")
    assert (record.state, record.counts["ood"]) == ("done", 2)
    assert um_bench("leaderboard", **env).stdout.startswith("A tiny suite")


def test_an_ood_set_that_is_missing_is_named_and_no_failure(tmp_path):
    suite = suite_file(tmp_path, (NOISE, '"svhn/test"'))
    result = um_bench("run", "--suite", suite, "--results", tmp_path / "r", *QUICK)
    assert result.exit_code == cli.OK, result.stderr
    assert states_of(tmp_path / "r", "tiny@limit=64") == {
        ("msp", "held-out"): "done",
        ("msp", "noise"): "missing-data",
    }
    assert "To get it:" in unwrapped(result.stdout)
    assert "2 cells: 1 done, 1 missing-data." in result.stdout


# --- leaderboard


def is_csv(text: str) -> bool:
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row["state"] for row in rows] == ["done"] * 8


def is_json(text: str) -> bool:
    return "um@constraint=0.4" in json.dumps(json.loads(text))


FORMATS = {
    "table": lambda text: text.startswith("A tiny suite\n============\n"),
    "markdown": lambda text: "| --" in text or "|:--" in text or "|---" in text,
    "csv": is_csv,
    "latex": lambda text: "\\begin{tabular}" in text,
    "bibtex": lambda text: "@inproceedings{um2023," in text and "detector" in text,
    "json": is_json,
    "html": lambda text: "</html>" in text,
}


def test_every_format_is_tested():
    assert set(FORMATS) == set(render.FORMATS)
    (option,) = (p for p in cli.leaderboard.params if p.name == "kind")
    assert set(option.type.choices) == set(render.FORMATS)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_leaderboard_is_printed_or_written(finished, tmp_path, kind):
    arguments = ("leaderboard", "--results", finished.results, "--format", kind)
    printed = um_bench(*arguments)
    assert printed.exit_code == cli.OK, printed.stderr
    assert FORMATS[kind](printed.stdout)
    written = um_bench(*arguments, "--out", tmp_path / "new" / "board.txt")
    assert (written.exit_code, written.stdout) == (cli.OK, "")
    assert (tmp_path / "new" / "board.txt").read_text(encoding="utf-8") == printed.stdout


def test_a_suite_is_chosen_by_name_or_by_its_file(finished):
    arguments = ("leaderboard", "--results", finished.results)
    whole = um_bench(*arguments).stdout
    for suite in ("tiny", finished.suite):
        assert um_bench(*arguments, "--suite", suite).stdout == whole
    assert whole.strip() in finished.result.stdout


def test_views_of_the_leaderboard(finished):
    arguments = ("leaderboard", "--results", finished.results, "--format", "markdown")
    headers = {
        view: [
            row for row in um_bench(*arguments, *view).stdout.splitlines() if "held-out |" in row
        ]
        for view in ((), ("--per-set",))
    }
    assert not headers[()]
    assert headers["--per-set",]
    for order, column in (("detector", 2), ("adapter", 1)):
        rows = um_bench(*arguments, "--order", order).stdout.splitlines()
        cells = [
            [c.strip(" *`") for c in row.split("|")]
            for row in rows
            if "constraint=0.4" in row or "| none" in row
        ]
        groups = [row[column] for row in cells[:4]]
        assert groups[0] == groups[1] != groups[2] == groups[3]


def test_several_suites_follow_each_other_where_the_format_allows_it(copied):
    shutil.copytree(copied / "tiny", copied / "other")
    for kind in render.FORMATS:
        result = um_bench("leaderboard", "--results", copied, "--format", kind)
        if kind in render.JOINABLE:
            assert result.stdout.count("um@constraint=0.4") >= 4
        else:
            message = error_of(result)
            assert f"--format {kind} is for one suite" in message
            assert "other, tiny" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "holds no results. Run a suite first"), (["--suite", "tiny"], "no records in it")],
)
def test_a_leaderboard_of_nothing_says_what_to_do(tmp_path, options, message):
    assert message in error_of(um_bench("leaderboard", "--results", tmp_path, *options))


def test_a_leaderboard_needs_no_torch(finished):
    code = (
        "import sys\nfrom um_bench.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules\nassert 'sklearn' not in sys.modules\n"
    )
    arguments = ["leaderboard", "--results", str(finished.results)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False, cwd=finished.results,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "um@constraint=0.4" in done.stdout


def test_a_reader_that_stops_early_is_no_error(finished, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(render, "render", closed)
        result = um_bench("leaderboard", "--results", finished.results)
    assert result.stderr == ""
    assert isinstance(result.exception, SystemExit)


# --- list


@pytest.mark.parametrize(
    ("what", "name", "value"),
    [
        ("adapters", "um", "um_bench_um:UM"),
        ("detectors", "knn", "um_bench.detectors.table:KNN"),
        ("backbones", "resnet20_cifar", "um_bench.backbones.cifar:resnet20_cifar"),
        ("datasets", "digits", "um_bench.data.sources:digits"),
    ],
)
def test_what_is_registered_is_listed_with_its_origin(what, name, value):
    result = um_bench("list", what)
    assert result.exit_code == cli.OK
    rows = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    plugin = registry.plugins(what.removesuffix("s"))[name]
    assert [name, value, f"um-bench {plugin.version}"] in rows
    known = {row[0] for row in rows}
    assert known >= set(registry.plugins(what.removesuffix("s")))
    assert ("timm" in result.stdout) == (what == "backbones")


def test_suites_are_listed_with_their_titles():
    result = um_bench("list", "suites")
    assert result.exit_code == cli.OK
    for name, path in shipped().items():
        assert re.search(rf"^{name}\s+{re.escape(load_suite(path).title)}$", result.stdout, re.M)


def test_a_name_that_two_distributions_claim_is_listed_as_such(monkeypatch):
    ours = dict(registry.plugins("detector"))
    ours["msp"] = ours["msp"]._replace(rivals=("theirs:MSP of um-bench-theirs",))
    monkeypatch.setattr(registry, "plugins", lambda _: ours)
    (row,) = (r for r in um_bench("list", "detectors").stdout.splitlines() if r.startswith("msp "))
    assert row.endswith("; also claimed by theirs:MSP of um-bench-theirs")


# --- estimate


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_an_estimate_shows_every_mask_the_mean_and_the_spread(finished, monkeypatch):
    monkeypatch.setattr(together, "adapt", lambda *_, **__: pytest.fail("trained again"))
    arguments = ("estimate", "--suite", finished.suite, "--results", finished.results)
    result = um_bench(*arguments, "--masks", 3, "--keep", 0.9)
    assert result.exit_code == cli.OK, result.stderr
    losses = numbers(r"mask \d, keep 0.9: (\S+) nats", result.stdout)
    (mean,) = numbers(r"constraint: (\S+) nats", result.stdout)
    (sd,) = numbers(r"SD over masks (\S+)", result.stdout)
    assert len(losses) == 3
    assert mean == pytest.approx(sum(losses) / 3, abs=1e-4)
    assert sd == pytest.approx(torch.tensor(losses).std().item(), abs=1e-4)
    assert sd > 0


def test_an_estimate_that_keeps_all_weights_is_the_training_loss(finished):
    arguments = ("estimate", "--suite", finished.suite, "--results", finished.results)
    result = um_bench(*arguments, "--masks", 2, "--keep", 1)
    (loss,) = numbers(r"training loss (\S+) nats", result.stdout)
    values = numbers(r": (\S+) nats", result.stdout)
    assert len(values) == 3
    assert values == pytest.approx([loss] * 3, abs=2e-4)
    assert numbers(r"SD over masks (\S+)", result.stdout) == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "0"], "keep"),
        (["--keep", "1.5"], "keep"),
        (["--masks", "0"], "at least one mask"),
    ],
)
def test_an_estimate_refuses_what_it_cannot_do(finished, options, message):
    arguments = ("estimate", "--suite", finished.suite, "--results", finished.results)
    assert message in error_of(um_bench(*arguments, *options))


def test_an_estimate_without_its_data_says_how_to_get_them(tmp_path):
    folders = ("--results", tmp_path / "r", "--data-dir", tmp_path)
    message = error_of(um_bench("estimate", "--suite", "cifar10-um", *folders))
    assert "cifar10/train is not in" in message
    assert "download=True" in message


# --- names and values that are wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "digits-far-odd"], "named 'digits-far-odd'. Did you mean digits-far-ood"),
        (["--suite", "absent.toml"], "absent.toml: cannot be read"),
        ([], "give --suite NAME or FILE.toml. Known: "),
    ],
)  # fmt: skip
def test_a_suite_that_is_not_known(arguments, message, tmp_path):
    for command in ("run", "estimate"):
        assert message in error_of(um_bench(command, "--results", tmp_path / "r", *arguments))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapters", "umm"], "no adapter named 'umm'. Did you mean um"),
        (["--adapters", "um,um"], "adapters names um twice"),
        (["--adapters", ","], "adapters is empty"),
        (["--adapters", "um@constraint"], "'constraint' is not KEY=VALUE"),
        (["--detectors", "enrgy"], "no detector named 'enrgy'. Did you mean energy"),
        (["--detectors", "knn@k=0"], "knn@k=0: k"),
        (["--ood-sets", "noize"], "no OOD set in suite tiny named 'noize'. Did you mean noise"),
        (["--backbone", "resnet20_cifr"], "named 'resnet20_cifr'. Did you mean resnet20_cifar"),
        (["--backbone", "pytorch-ood:nothing"], "no backbone named 'pytorch-ood:nothing'"),
        (["--backbone", "vit_tiny_patch16_224"], "cannot take 8x8 images"),
        (["--seeds", "a,b"], "--seeds 'a,b' is not a list of integers"),
        (["--seeds", "1,1"], "seeds names 1 twice"),
        (["--set", "um.constraint"], "--set 'um.constraint' is not NAME.KEY=VALUE"),
        (["--set", "constraint=1"], "--set 'constraint=1' is not NAME.KEY=VALUE"),
        (["--set", "umm.constraint=1"], "named 'umm'. Did you mean um"),
        (["--set", "um.constraint=high"], "got 'high'"),
        (["--set", "recipe.epoch=1"], "no key named 'epoch'. Did you mean epochs"),
        (["--set", "recipe.epochs=0"], "epochs must be at least 1"),
        (["--set", "base.epochs=many"], "epochs must be int, got 'many'"),
        (["--set", "backbone.depht=3"], "cannot be made with depht=3"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--checkpoint", "absent.safetensors"], "no checkpoint at absent.safetensors"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_option_is_named(tiny, tmp_path, monkeypatch, arguments, message):
    nothing_is_computed(monkeypatch)
    result = um_bench("run", "--suite", tiny, "--results", tmp_path / "r", *arguments)
    assert message in error_of(result)
    assert not list((tmp_path / "r").rglob("*.jsonl"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(tiny, tmp_path):
    for command in ("run", "estimate"):
        arguments = ("--suite", tiny, "--results", tmp_path / "r", "--device", "cuda")
        message = error_of(um_bench(command, *arguments))
        assert "device 'cuda' cannot be used" in message
        assert "--device auto" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--limit", "0"],
        ["run", "--limit", "some"],
        ["run", "--sede", "1"],
        ["leaderboard", "--format", "pdf"],
        ["list", "models"],
        ["runn"],
    ],
)
def test_what_click_refuses_ends_with_the_same_code(arguments):
    result = um_bench(*arguments)
    assert result.exit_code == cli.BAD_INPUT
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', 'name = "tiny', "not valid TOML"),
        ("epochs = 1", "epoch = 1", "no key named 'epoch'. Did you mean epochs"),
        ("epochs = 1", 'epochs = "1"', "epochs must be int, got '1'"),
        ("seeds = [0]", 'seeds = ["0"]', "seeds must be a list of int"),
        ("seeds = [0]", "seeds = []", "seeds is empty"),
        ('train = "digits/train"\n', "", "train missing"),
        ("[ood.near]", "[ood.middle]", "no group named 'middle'"),
        ("seeds = [0]", "seed = [0]", "no key named 'seed'. Did you mean seeds"),
        ("size = 8", "size = 0", "size must be at least 1"),
        ('resize = "none"', 'resize = "cropp"', "Did you mean crop"),
        ("digits/train", "digit/train", "no dataset named 'digit'. Did you mean digits"),
        ("digits/train", "digits/trian", "no part of digits named 'trian'. Did you mean train"),
        ("size = 8", "size = 9", "the image is 8x8 pixels, but the suite wants 9x9"),
    ],
)  # fmt: skip
def test_a_malformed_suite_is_named_with_its_key(tmp_path, old, new, message):
    suite = suite_file(tmp_path, (old, new))
    shown = error_of(um_bench("run", "--suite", suite, "--results", tmp_path / "r"))
    assert message in shown
    assert str(suite) in shown or "digit" in shown


def test_a_suite_that_is_no_text(tmp_path):
    (tmp_path / "tiny.toml").write_bytes(b"\xff\xfe\x00")
    message = error_of(um_bench("run", "--suite", tmp_path / "tiny.toml"))
    assert "tiny.toml: cannot be read" in message


def test_with_debug_there_is_a_traceback_and_the_same_line_and_code(tiny):
    arguments = ("run", "--suite", tiny, "--detectors", "enrgy", "--dry-run")
    plain, debug = um_bench(*arguments), um_bench(*arguments, "--debug")
    assert "Traceback (most recent call last)" in debug.stderr
    assert "in unknown_name" not in error_of(plain)
    assert debug.stderr.splitlines()[-1] == error_of(plain)
    assert debug.exit_code == plain.exit_code


def test_what_nobody_foresaw_is_one_line_that_says_so(tiny, monkeypatch):
    def breaks(*_, **__):
        raise ValueError("two\nlines")

    monkeypatch.setattr(choice, "load_suite", breaks)
    result = um_bench("run", "--suite", tiny)
    assert result.exit_code == cli.BAD_INPUT
    (line,) = result.stderr.splitlines()
    assert line.startswith("um-bench: error: unexpected ValueError: two lines (--debug shows where")


# --- checkpoints


def reshaped(weights: dict, folder: Path) -> Path:
    state = {name: value[:1].clone() for name, value in weights.items() if value.ndim}
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


def of_other_classes(weights: dict, folder: Path) -> Path:
    heads = {
        n: v[:5].clone() if len(v.shape) and v.shape[0] == 8 else v for n, v in weights.items()
    }
    assert any(v.shape != weights[n].shape for n, v in heads.items())
    save_file(heads, folder / "w.safetensors")
    return folder / "w.safetensors"


class Opaque:
    """Of this only pickle knows what it is."""


def pickled(weights: dict, folder: Path) -> Path:
    torch.save({"state_dict": weights, "trainer": Opaque()}, folder / "w.pt")
    return folder / "w.pt"


def damaged(weights: dict, folder: Path) -> Path:
    save_file(weights, folder / "w.safetensors")
    content = (folder / "w.safetensors").read_bytes()
    (folder / "w.safetensors").write_bytes(content[: len(content) // 2])
    return folder / "w.safetensors"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (reshaped, "a checkpoint of another shape"),
        (of_other_classes, "the number of classes"),
        (pickled, "needs pickle"),
        (damaged, "cannot be read as a checkpoint"),
        (lambda weights, folder: folder, "it is a folder"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(finished, tmp_path, make, message):
    weights = load_file(next((finished.results / "models").glob("base-*.safetensors")))
    path = make(weights, tmp_path)
    arguments = ("--suite", finished.suite, "--results", tmp_path / "r", "--checkpoint", path)
    for command in ("run", "estimate"):
        shown = error_of(um_bench(command, *arguments))
        assert message in shown
        assert str(path) in shown
    assert not list((tmp_path / "r").rglob("*.jsonl"))


# --- data


def test_an_empty_ood_set_fails_its_cells_only(tmp_path):
    (tmp_path / "EMPTY").mkdir()
    suite = suite_file(tmp_path, (NOISE, '"folder/EMPTY"'))
    folders = ("--results", tmp_path / "r", "--data-dir", tmp_path)
    result = um_bench("run", "--suite", suite, *folders, *QUICK)
    assert result.exit_code == cli.FAILED_CELLS
    assert states_of(tmp_path / "r", "tiny@limit=64") == {
        ("msp", "held-out"): "done",
        ("msp", "noise"): "failed",
    }
    assert "folder/EMPTY has no images" in unwrapped(result.stdout)
    assert result.stderr.splitlines()[-1] == "failed: 1; --retry-failed computes them again."
    assert "Traceback" not in result.stdout + result.stderr


def image_folder(root: Path, *classes: str) -> None:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for copy in range(4):
            Image.new("L", (8, 8), 20 * number + copy).save(root / name / f"{copy}.png")


@pytest.mark.parametrize(
    ("classes", "test_classes", "message"),
    [
        (["a", "b"], [], "folder/test has no images"),
        ([], ["a", "b"], "folder/train has no images"),
        (["a", "b"], ["a", "b", "c"], "labels up to 2, but folder/train only the classes 0 to 1"),
        (["a", "b"], ["a", "."], "a label below 0, which means OOD"),
    ],
)
def test_id_sets_that_cannot_be_used(tmp_path, classes, test_classes, message):
    for part, names in (("train", classes), ("test", test_classes)):
        (tmp_path / "data" / part).mkdir(parents=True)
        image_folder(tmp_path / "data" / part, *names)
    suite = suite_file(tmp_path, ("digits/train", "folder/train"), ("digits/test", "folder/test"))
    folders = ("--results", tmp_path / "r", "--data-dir", tmp_path / "data")
    for command in (["run"], ["run", "--dry-run"], ["estimate"]):
        assert message in error_of(um_bench(*command, "--suite", suite, *folders))
    assert not (tmp_path / "r").exists()


def test_a_damaged_image_is_named(tmp_path):
    image_folder(tmp_path / "data" / "images", "a")
    (tmp_path / "data" / "images" / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    suite = suite_file(tmp_path, (NOISE, '"folder/images"'))
    folders = ("--results", tmp_path / "r", "--data-dir", tmp_path / "data")
    result = um_bench("run", "--suite", suite, *folders, *QUICK)
    assert result.exit_code == cli.FAILED_CELLS
    reasons = {r.ood_set: r.reason for r in read_folder(tmp_path / "r" / "tiny@limit=64")}
    assert re.search(r"image 1 \(.*1\.png\) cannot be read", reasons["noise"])
    assert not reasons["held-out"]


def test_a_data_folder_that_may_not_be_read(tmp_path, monkeypatch):
    """The system's refusal is played: it does not refuse the superuser, as whom tests may run."""
    image_folder(tmp_path / "data" / "images", "a", "b")

    def refused(path=".", *, original=os.scandir):
        if str(path).endswith("images"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refused)
    folders = ("--results", tmp_path / "r", "--data-dir", tmp_path / "data")
    as_id = suite_file(tmp_path, ("digits/train", "folder/images"))
    message = error_of(um_bench("run", "--suite", as_id, *folders))
    assert re.search(r"folder/images: .*images cannot be read: .*Permission denied", message)
    as_ood = suite_file(tmp_path, (NOISE, '"folder/images"'))
    result = um_bench("run", "--suite", as_ood, *folders, *QUICK)
    assert result.exit_code == cli.FAILED_CELLS
    assert "Permission denied" in unwrapped(result.stdout)


def test_scores_that_are_no_numbers_fail_their_cells_only(tiny, tmp_path, monkeypatch):
    class Undefined(LogitsDetector):
        def predict_logits(self, logits):
            return logits.new_full((len(logits),), float("nan"))

    spec = detectors.DetectorSpec(reads="logits", build=lambda *_: Undefined())
    monkeypatch.setattr("um_bench.detectors.table.MSP", spec)
    options = ("--limit", 64, "--adapters", "none")
    result = um_bench("run", "--suite", tiny, "--results", tmp_path / "r", *options)
    assert result.exit_code == cli.FAILED_CELLS
    states = states_of(tmp_path / "r", "tiny@limit=64")
    assert {d: {s for (name, _), s in states.items() if name == d} for d, _ in states} == {
        "msp": {"failed"},
        "knn": {"done"},
    }
    assert "msp: 64 of 64 scores are not finite" in unwrapped(result.stdout)
    assert "Traceback" not in result.stdout + result.stderr
    monkeypatch.undo()
    arguments = ("run", "--suite", tiny, "--results", tmp_path / "r", *options)
    assert um_bench(*arguments).exit_code == cli.FAILED_CELLS
    assert um_bench(*arguments, "--retry-failed").exit_code == cli.OK


# --- files


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(tiny, tmp_path, monkeypatch):
    results = tmp_path / "r"
    arguments = ("run", "--suite", tiny, "--results", results, "--limit", 64, "--adapters", "none")
    left = [6]  # suite.json, the base classifier, msp's two files of scores, its records, ...

    def fsync(handle, original=os.fsync):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        message = error_of(um_bench(*arguments))
    assert "cannot be written (No space left on device)" in message
    assert "run the same command again" in message
    before = {r.cell: r for r in read_folder(results / "tiny@limit=64")}
    assert {cell.detector for cell in before} == {"msp"}
    assert not [path for path in results.rglob(".*") if path.name != ".locks"]
    again = um_bench(*arguments)
    assert again.exit_code == cli.OK, again.stderr
    after = {r.cell: r for r in read_folder(results / "tiny@limit=64")}
    assert len(after) == 4
    assert {cell: after[cell] for cell in before} == before


def test_a_results_folder_that_is_a_file(tiny, tmp_path):
    results = tmp_path / "r"
    results.write_text("not a folder", encoding="utf-8")
    assert "cannot be written" in error_of(um_bench("run", "--suite", tiny, "--results", results))
    assert "holds no results" in error_of(um_bench("leaderboard", "--results", results))
    assert results.read_text(encoding="utf-8") == "not a folder"


def test_a_leaderboard_that_cannot_be_written(finished, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    out = tmp_path / "file" / "board.md"
    message = error_of(um_bench("leaderboard", "--results", finished.results, "--out", out))
    assert f"{out}: cannot be written" in message


@pytest.mark.parametrize("broken", ["{\n", '{"schema": 1}\n', "[]\n", "\n", "\x00\x85\u2028\n"])
def test_a_damaged_record_is_named_then_set_aside(finished, copied, broken):
    (path,) = (copied / "tiny" / "records").glob("*none*.jsonl")
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + broken, encoding="utf-8")
    arguments = ("--suite", finished.suite, "--results", copied)
    message = error_of(um_bench("leaderboard", *arguments))
    assert f"{path}, line 5: not a record as um-bench wrote it" in message
    assert um_bench("run", *arguments).exit_code == cli.OK
    assert path.read_text(encoding="utf-8") == whole
    aside = path.with_name(f"{path.name}.damaged")
    assert aside.read_text(encoding="utf-8") == whole + broken
    assert um_bench("leaderboard", *arguments).exit_code == cli.OK


def test_records_of_a_newer_schema_are_named_and_left_alone(finished, copied):
    (path,) = (copied / "tiny" / "records").glob("*none*.jsonl")
    newer = [dataclasses.replace(r, schema=99) for r in read_file(path)]
    write_file(path, newer)
    before = files_of(copied)
    arguments = ("--suite", finished.suite, "--results", copied)
    for command in ("run", "leaderboard"):
        message = error_of(um_bench(command, *arguments))
        assert f"{path}, line 1: schema 99 is newer" in message
    assert files_of(copied) == before


def test_a_damaged_description_of_a_suite_is_named(copied):
    path = copied / "tiny" / "suite.json"
    path.write_text("{", encoding="utf-8")
    assert str(path) in error_of(um_bench("leaderboard", "--results", copied))


# --- being interrupted


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_control_c_ends_a_run_and_the_same_command_goes_on(tiny, tmp_path, monkeypatch, options):
    arguments = ("run", "--suite", tiny, "--results", tmp_path / "r", "--limit", 64)

    def interrupted(passes, binding, *rest, original=runner.score_id):
        if binding.choice.name == "knn":
            signal.raise_signal(signal.SIGINT)
        return original(passes, binding, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "score_id", interrupted)
        result = um_bench(*arguments, *options)
    assert result.exit_code == cli.INTERRUPTED
    assert result.stderr.strip().splitlines()[-1] == (
        "interrupted; what is finished is kept: run the command again."
    )
    assert "Traceback" not in result.stderr
    before = list(read_folder(tmp_path / "r" / "tiny@limit=64"))
    assert [(r.adapter, r.detector, r.state) for r in before] == [("none", "msp", "done")] * 2
    assert um_bench(*arguments).exit_code == cli.OK
    after = {r.cell: r for r in read_folder(tmp_path / "r" / "tiny@limit=64")}
    assert [after[r.cell] for r in before] == before
    assert {r.state for r in after.values()} == {"done"}
    assert len(after) == 8


def test_an_interruption_before_anything_runs(tiny, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_suite", interrupted)
    result = um_bench("run", "--suite", tiny, "--results", tmp_path / "r")
    assert result.exit_code == cli.INTERRUPTED
    assert "interrupted; what is finished is kept" in result.stderr
    assert not (tmp_path / "r").exists()
