"""Shell completion, asked as a shell asks: through click, and in a process of its own."""

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from um_bench import cli, registry
from um_bench.suite import shipped


def completed(*words: str) -> list[str]:
    """Return what the last word may become."""
    complete = ShellComplete(cli.main, {}, "um-bench", "_UM_BENCH_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_every_name_is_offered():
    assert completed("run", "--detectors", "") == [*registry.plugins("detector"), "all"]
    assert completed("run", "--adapters", "") == list(registry.plugins("adapter"))
    assert completed("data", "get", "") == list(registry.plugins("dataset"))
    assert set(shipped()) < set(completed("run", "--suite", ""))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("run", "--adapters", "fine"), ["finetune"]),
        (("run", "--adapters", "none,uma"), ["none,umap"]),
        (("run", "--adapters", "none,um,uma"), ["none,um,umap"]),
        (("run", "--adapters", "none,oe+uma"), ["none,oe+umap"]),
        (("run", "--adapters", "um>poe"), ["um>poem"]),
        (("run", "--detectors", "msp,ash-"), ["msp,ash-b", "msp,ash-p", "msp,ash-s"]),
        (("run", "--detectors", "ash-s,ash-b,ash-"), ["ash-s,ash-b,ash-p"]),
        (("run", "--backbone", "wrn40_"), ["wrn40_2_cifar", "wrn40_4_cifar"]),
        (("data", "verify", "cifar10", "svh"), ["svhn"]),
        (("leaderboard", "--suite", "digits-f"), ["digits-far-ood", "digits-full-spectrum"]),
        (("estimate", "--backbone", "densen"), ["densenet100_bc_cifar"]),
        (("run", "--adapters", "nothing-of-that-name"), []),
    ],
)
def test_a_name_that_is_begun_is_completed(words, offered):
    found = completed(*words)
    assert [value for value in found if value != words[-1]] == offered


def test_trained_classifiers_are_backbones_too():
    assert any(name.startswith("pytorch-ood:wrn") for name in completed("run", "--backbone", "py"))


def test_a_suite_may_be_a_file():
    complete = ShellComplete(cli.main, {}, "um-bench", "_UM_BENCH_COMPLETE")
    items = complete.get_completions(["run", "--suite"], "my/su")
    assert [item.type for item in items] == ["file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_that_of_the_shell(shell):
    result = CliRunner().invoke(cli.main, ["completion", shell])
    assert result.exit_code == cli.OK
    assert f"_UM_BENCH_COMPLETE={shell}_complete" in result.output
    assert "um-bench" in result.output


def test_a_shell_is_answered_without_torch():
    code = (
        "import sys\n"
        "from um_bench.cli import main\n"
        "try:\n    main(prog_name='um-bench')\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "print([m for m in ('torch', 'timm', 'sklearn', 'pytorch_ood') if m in sys.modules])\n"
    )
    words = "um-bench run --adapters none,uma"
    asked = {"_UM_BENCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **asked},
    )
    assert done.stdout.splitlines() == ["plain,none,umap", "[]"]
