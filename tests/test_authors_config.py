"""The paper authors' YAML files as suites: what becomes of each key, and what is said of it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from um_bench import cli
from um_bench.authors_config import (
    Matter,
    as_text,
    read_config,
    remarks,
    suite_toml,
    translate,
)
from um_bench.authors_config.keys import KEYS
from um_bench.errors import UsageError
from um_bench.suite import load_suite, parse_suite, shipped
from um_bench.sweep import bind_adapters, bind_detectors

DENSE = {
    "arch": "DenseNet",
    "data": "/somewhere",
    "set": "CIFAR10",
    "ood_set": ["CIFAR100", "SUN", "SVHN"],
    "name": "mine",
    "optimizer": "sgd",
    "lr": 0.1,
    "lr_policy": "cosine_lr",
    "pretrained": "weights/last.state",
    "multigpu": [0],
    "epochs": 7,
    "weight_decay": 0.0005,
    "momentum": 0.8,
    "batch_size": 128,
    "num_classes": 10,
    "criterion": "UM",
    "UM": 0.15,
    "conv_type": "DenseConv",
    "linear_type": "DenseLinear",
    "bn_type": "NonAffineBatchNorm",
    "prune_rate": 1.0,
    "freeze_weights": False,
    "energy": True,
    "final": True,
}
"""A file in which everything is as it says."""
MASKED = {
    "conv_type": "SubnetConv",
    "linear_type": "SubnetLinear",
    "prune_rate": 0.9,
    "freeze_weights": True,
}
OUTLIERS = {"oe_ood_method": "oe", "ood_factor": 1, "epochs": 10, "lr": 0.01}


def config_of(folder: Path, text: str = "", without: tuple[str, ...] = (), **changes):
    """Return what a file says that differs from `DENSE` by this."""
    table = {k: v for k, v in (DENSE | changes).items() if k not in without}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(table) + text, encoding="utf-8")
    return read_config(path)


def said(config, matter: Matter | None = None) -> str:
    """Return all remarks, or those that matter so much, as one text."""
    return "\n".join(
        f"{r.what} | {r.there} | {r.here}" for r in remarks(config) if matter in (None, r.matter)
    )


# --- the suite


def test_every_value_arrives_in_the_suite(tmp_path):
    suite = translate(config_of(tmp_path, nesterov=True, seed=5, droprate=0.3))
    assert (suite.name, suite.id.name, suite.fpr95, suite.seeds) == ("mine", "cifar10", "id", (5,))
    assert (suite.backbone, suite.checkpoint) == ("densenet100_bc_cifar", "weights/last.state")
    assert suite.backbone_options == {"bn_affine": False, "drop_rate": 0.3}
    assert [tuple(ood) for ood in suite.ood] == [
        ("CIFAR100", "near", "cifar100/test"),
        ("SUN", "far", "mos/sun"),
        ("SVHN", "far", "svhn/test"),
    ]
    recipe = suite.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (7, 128, 0.1)
    assert (recipe.momentum, recipe.weight_decay, recipe.nesterov) == (0.8, 0.0005, True)
    assert (suite.adapters, suite.detectors) == (
        ("none", "finetune", "um@constraint=0.15"),
        ("energy",),
    )


def test_what_a_file_leaves_out_has_the_authors_default(tmp_path):
    left = ("lr", "momentum", "weight_decay", "epochs", "batch_size", "seed", "pretrained")
    suite = translate(config_of(tmp_path, without=left))
    recipe = suite.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (100, 256, 0.1)
    assert (recipe.momentum, recipe.weight_decay, recipe.nesterov) == (0.9, 1e-4, False)
    assert (suite.checkpoint, suite.seeds) == (None, (0, 1, 2))


@pytest.mark.parametrize(
    ("changes", "adapters"),
    [
        ({"UM": 0.0, "criterion": "CrossEntropyLoss"}, ["um"]),
        ({"criterion": "CrossEntropyLoss"}, ["um@constraint=0.15"]),
        ({"beta": 2.0}, ["um@beta=2.0:constraint=0.15"]),
        (MASKED, ["umap@constraint=0.15:keep=0.9"]),
        (
            MASKED | {"freeze_weights": False},
            ["umap@constraint=0.15:keep=0.9:train_weights=true"],
        ),
        (
            MASKED | {"conv_type": "_SubnetConv", "prune_type": "model_wise"},
            ["umap@constraint=0.15:keep=0.9:scope=model"],
        ),
        (OUTLIERS | {"UM": 0.0}, ["oe"]),
        (OUTLIERS, ["oe", "oe+um@constraint=0.15"]),
        (
            OUTLIERS | {"oe_ood_method": "energy", "m_in": -23.0, "UM": 0.0},
            ["energy@margin_in=-23.0"],
        ),
        (
            OUTLIERS | {"oe_ood_method": "poem", "conf": 3.0, "pool_size": 100, "UM": 0.0},
            ["poem@conf=3.0:pool=4"],
        ),
        (OUTLIERS | {"oe_ood_method": "doe", "warmup": 2, "UM": 0.0}, ["doe@warmup=2"]),
    ],
)
def test_the_method_is_that_which_is_meant(tmp_path, changes, adapters):
    suite = translate(config_of(tmp_path, **changes))
    assert list(suite.adapters) == ["none", "finetune", *adapters]
    bind_adapters(suite)  # every name and setting is one


def test_a_file_of_estimate_loss_estimates_with_its_share(tmp_path):
    config = config_of(tmp_path, without=("ood_set", "UM", "criterion"), **MASKED)
    suite = translate(config)
    assert config.script == "estimate_loss"
    assert suite.adapters[-1] == "um@estimate_keep=0.9"
    assert [ood.name for ood in suite.ood] == [ood.name for ood in load_suite("cifar10-um").ood]
    bind_adapters(suite)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"layers": 40, "growth": 24, "reduce": 1.0}, {"depth": 40, "growth": 24, "reduction": 1}),
        ({"arch": "cWideResNet"}, {}),
        ({"arch": "cWideResNet", "layers": 28, "widen_factor": 10}, {"depth": 28, "widen": 10}),
        ({"arch": "cWideResNet", "depth": 16}, {"depth": 16}),
    ],
)
def test_the_network_has_the_depth_that_is_meant(tmp_path, changes, options):
    suite = translate(config_of(tmp_path, **changes))
    assert suite.backbone_options == {"bn_affine": False, **options}


def test_detectors_are_those_that_are_on(tmp_path):
    suite = translate(config_of(tmp_path, msp=True, odin=True, mahalanobis=True))
    assert suite.detectors == ("msp", "energy", "odin", "feature-ensemble")
    bind_detectors(suite)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"arch": "ResNet50"}, "arch: ResNet50 .* DenseNet, cWideResNet"),
        ({"set": "ImageNet"}, "set: ImageNet"),
        ({"optimizer": "adam"}, "optimizer: adam"),
        ({"lr_policy": "multistep_lr"}, "lr_policy: multistep_lr"),
        ({"conv_type": "SampleSubnetConv"}, "conv_type: SampleSubnetConv"),
        ({"bottleneck": False}, "bottleneck: False"),
        ({"ood_set": ["SVHN", "Moon"]}, "'Moon' .* iNaturalist"),
        ({"ood_set": ["CIFAR10"]}, "CIFAR10 is the ID set"),
        (OUTLIERS | {"oe_ood_method": "enregy"}, "enregy .* energy"),
        (MASKED | {"prune_rate": 1.5}, "prune_rate: 1.5"),
        ({"arch": "Conv4", "optimizer": "adam"}, "arch.*optimizer"),
    ],
)
def test_what_no_suite_can_say_is_refused_by_name(tmp_path, changes, named):
    with pytest.raises(UsageError, match=named):
        translate(config_of(tmp_path, **changes))


@pytest.mark.parametrize("name", shipped())
def test_a_suite_that_is_written_reads_back_as_it_was(name):
    suite = load_suite(name)
    assert parse_suite(tomllib.loads(suite_toml(suite)), name) == suite


# --- what is said


def test_a_file_in_which_um_is_on_is_not_told_that_it_is_off(tmp_path):
    assert "UM is off" not in said(config_of(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"criterion": "CrossEntropyLoss"},
        {"UM": 0.0},
        {"UM": 0.0, "criterion": "CrossEntropyLoss"},
        {"label_smoothing": 0.1},
    ],
)
def test_um_that_is_off_comes_first(tmp_path, changes):
    first = remarks(config_of(tmp_path, **changes))[0]
    assert first.matter == Matter.METHOD
    assert "UM is off" in first.there


FACTS = {
    "another criterion": ({"criterion": "umm"}, "criterion: umm .*whatever it is named"),
    "keep": (MASKED, r"prune_rate: 0.9 .*90 % .* kept, not pruned .*keep = 0.9"),
    "keeps nothing": (MASKED | {"prune_rate": 0.0}, "keeps no weight at all.*keep = 0.8"),
    "masks by cross-entropy": (MASKED | {"UM": 0.0}, "learned by plain cross-entropy"),
    "convolutions alone": (MASKED | {"linear_type": "DenseLinear"}, "last layer has no mask"),
    "weights train too": (MASKED | {"freeze_weights": False}, "first classifier is lost"),
    "mask's type": (MASKED | {"prune_type": "model_wise"}, "prune_type: model_wise .*_SubnetConv"),
    "nothing to train": ({"freeze_weights": True}, "nothing is left to train"),
    "no file": ({}, "last.state .* random weights .*has to be here"),
    "no weights": ({"pretrained": None}, "pretrained: none .*random weights"),
    "best": ({"pretrained": "densenet_cifar100_best.state"}, "middle of training"),
    "depth": ({"arch": "cWideResNet", "depth": 40}, r"builds a WRN-100 \| depth 40"),
    "dropout": ({"droprate": 0.3}, "droprate: 0.3 .*backbone.drop_rate=0"),
    "classes": ({"num_classes": 100}, "100 outputs for a set of 10 classes"),
    "twice": ({"ood_set": ["LSUN", "SVHN", "LSUN"]}, "LSUN twice .* 2/3 of the true one"),
    "nesterov": ({}, "nesterov: False .*paper's text"),
    "float": (OUTLIERS | {"ood_factor": 1.0}, "ood_factor: 1.0 .*DataLoader refuses"),
    "poem": (OUTLIERS | {"oe_ood_method": "poem"}, "first 256 of its 50,000"),
    "doe": (OUTLIERS | {"oe_ood_method": "doe"}, "clips the gradient"),
    "outliers": (OUTLIERS, "drawn once for all epochs.*refused before"),
    "no scores": ({"energy": False}, "nothing is scored"),
    "not final": ({"final": False}, "without it no OOD set is scored"),
    "only evaluated": ({"evaluate": True}, "adapter `none`"),
    "softmax": ({"msp": True}, "softmax is taken twice"),
    "leak": ({"mahalanobis": True}, "1,000 ID test images"),
    "fpr": ({}, "FPR95 .*nearest to 95 %"),
    "no suite": ({"warmup_length": 5}, "warmup_length: 5 .*not taken"),
    "dead": ({"low_data": 0.1, "temperature": 10.0}, "low_data, temperature .*nothing reads it"),
    "machine": ({"workers": 3}, "data, multigpu, workers .*no part in the numbers"),
    "no batch norm": ({"bn_type": None}, "bn_type: none .*fails"),
    "unknown": ({"criterium": "UM"}, "criterium .*read by nothing.*Did you mean criterion"),
    "with a dash": ({"batch-size": 8}, "batch-size .*Did you mean batch_size"),
}


@pytest.mark.parametrize(("changes", "fact"), FACTS.values(), ids=FACTS)
def test_a_fact_is_told_where_it_holds(tmp_path, changes, fact):
    assert re.search(fact, said(config_of(tmp_path, **changes)))


@pytest.mark.parametrize(("changes", "fact"), FACTS.values(), ids=FACTS)
def test_a_fact_is_not_told_where_it_does_not_hold(tmp_path, changes, fact):
    (tmp_path / "weights.pt").touch()
    quiet = {"nesterov": True, "seed": 1, "pretrained": str(tmp_path / "weights.pt")}
    text = said(config_of(tmp_path, without=("data", "multigpu"), **quiet))
    always = "FPR95" in fact
    assert bool(re.search(fact, text)) == always


def test_a_whole_batch_of_outliers_works_there_too(tmp_path):
    assert "DataLoader" not in said(config_of(tmp_path, **OUTLIERS))
    assert "DataLoader" in said(config_of(tmp_path, without=("ood_factor",), oe_ood_method="oe"))


def test_remarks_come_in_the_order_of_how_much_they_matter(tmp_path):
    config = config_of(tmp_path, UM=0.0, droprate=0.3, low_data=0.5, bn_type=None)
    matters = [remark.matter for remark in remarks(config)]
    assert matters == sorted(matters)
    assert set(matters) == set(Matter)


CONTEXTS = (
    DENSE | {"pretrained": None},
    DENSE | MASKED | {"conv_type": "_SubnetConv"},
    DENSE | {"arch": "cWideResNet"},
    *(DENSE | OUTLIERS | {"oe_ood_method": method} for method in ("oe", "energy", "poem", "doe")),
)
OTHERWISE = {
    "prune_type": "model_wise",
    "prune_subject": "weight",
    "bn_type": "LearnedBatchNorm",
    "lr_policy": "constant_lr",
    "ood_set": ["LSUN"],
    "auxiliary_dataset": "80m_tiny_images",
    "seed": 3,
    "prune_rate": 0.5,
    "pool_size": 400,
    "ood_batch_size": 1000,
    "layers": 52,
    "depth": 52,
}
"""Values that mean something there."""


@pytest.mark.parametrize("name", KEYS)
def test_a_key_changes_the_suite_or_is_spoken_of(tmp_path, name):
    kinds = {"int": 13, "float": 0.375, "str": "other", "names": ["SVHN"], "bool": None}
    key = KEYS[name]
    for number, context in enumerate(CONTEXTS):
        before = context.get(name, key.default)
        value = not before if key.kind == "bool" else OTHERWISE.get(name, kinds[key.kind])
        configs = []
        without = {k: v for k, v in context.items() if k != name or key.use == "taken"}
        for table in (without, context | {name: value}):
            path = tmp_path / f"{number}.yaml"
            path.write_text(yaml.safe_dump(table), encoding="utf-8")
            configs.append(read_config(path))
        plain, changed = configs
        if re.search(rf"\b{name}\b", said(changed)) and said(changed) != said(plain):
            return
        try:
            if translate(changed) != translate(plain):
                return
        except UsageError as error:
            assert f"{name}: " in str(error)  # noqa: PT017 - one of two ways to be taken
            return
    pytest.fail(f"{name} = {value!r} is dropped without a word")


def test_a_file_without_ood_sets_has_that_of_the_authors_default(tmp_path):
    config = config_of(tmp_path, without=("ood_set",))
    assert [ood.name for ood in translate(config).ood] == ["SVHN"]
    assert "ood_set: none | SVHN alone" in said(config)


# --- reading


@pytest.mark.parametrize("text", ["weight_decay: 1e-4", "lr: 1e-1", "seed: None"])
def test_what_yaml_takes_for_text_is_read_and_told(tmp_path, text):
    key = text.partition(":")[0]
    config = config_of(tmp_path, text=text, without=(key,))
    assert config[key] in (1e-4, 0.1, None)
    assert f"{key} as text" in said(config, Matter.STOPS)


def test_a_key_that_comes_twice_is_told(tmp_path):
    config = config_of(tmp_path, text="epochs: 3\n")
    assert config["epochs"] == 3
    assert "epochs | given more than once" in said(config, Matter.RESULT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must map names to values"),
        ("- a\n- b\n", "must map names to values"),
        ("lr: [0.1\n", "not valid YAML"),
        ("lr: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("? [a, b]\n: 1\n? {c: 1}\n: 2\n", "not valid YAML"),
        (f"lr: {'[' * 1100}", "not valid YAML"),
        ("lr: fast\n", "lr must be float, not str 'fast'"),
        ("lr: .inf\n", "lr must be float"),
        ("epochs: 1.5\n", "epochs must be int"),
        ("epochs: true\n", "epochs must be int"),
        ("energy: 1\n", "energy must be bool"),
        ("set: [CIFAR10]\n", "set must be str"),
        ("ood_set: [[SVHN]]\n", "ood_set must be a list of names"),
        ("lr: 2020-01-01\n", "lr must be float, not date"),
        ("lr:\n", "lr must be float, not NoneType"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(message)):
        read_config(path)


def test_what_is_no_text_is_an_error(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00lr")
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(path)


def test_nothing_in_a_file_reaches_the_terminal_as_it_is(tmp_path):
    config = config_of(tmp_path, **{"\x1b[2Jkey": "x", "criterion": "\x1b]0;t\x07"})
    assert "\x1b" not in as_text(config)


# --- the command

SHAPES = {
    "um": {},
    "umap": MASKED,
    "oe": OUTLIERS | {"ood_set": ["LSUN", "CIFAR100", "LSUN"]},
    "wide": {"arch": "cWideResNet", "set": "CIFAR100", "ood_set": ["CIFAR10"], "depth": 40},
}


def run(*arguments: object):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_a_dry_run_accepts_what_is_written(tmp_path, changes):
    config_of(tmp_path, **changes)
    out = tmp_path / "suite.toml"
    result = run("import-config", tmp_path / "config.yaml", "--out", out)
    assert result.exit_code == cli.OK, result.output
    assert "has to be here when the suite runs" in " ".join(result.output.split())
    assert load_suite(out).description.startswith("Made by um-bench import-config")
    again = run("run", "--suite", out, "--dry-run", "--data-dir", tmp_path)
    assert again.exit_code == cli.OK, again.output
    assert again.output.startswith("mine: ")


def test_without_a_file_the_suite_is_all_of_standard_output(tmp_path):
    config_of(tmp_path)
    code = (
        "import sys; from um_bench.cli import main\n"
        f"sys.argv = ['um-bench', 'import-config', {json.dumps(str(tmp_path / 'config.yaml'))}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert parse_suite(tomllib.loads(done.stdout), "it").name == "mine"
    assert "It changes the numbers" in done.stderr


def test_a_script_can_be_named(tmp_path):
    config_of(tmp_path, without=("ood_set",), **MASKED)
    result = run("import-config", tmp_path / "config.yaml", "--script", "main")
    assert "read as a configuration of main.py" in result.output
    assert "umap@constraint=0.15:keep=0.9" in result.output
