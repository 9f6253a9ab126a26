"""Entry points: found by name, with their origin; a broken one breaks only itself."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import EntryPoint

import pytest

from um_bench import registry
from um_bench.errors import PluginError, UsageError


class FakeDistribution:
    def __init__(self, name: str) -> None:
        self.name, self.version = name, "9.9"


def entry(name: str, value: str, distribution: str) -> EntryPoint:
    point = EntryPoint(name, value, "um_bench.adapters")
    vars(point)["dist"] = FakeDistribution(distribution)
    return point


@pytest.fixture
def installed(monkeypatch):
    points = [
        entry("good", "collections:Counter", "alpha"),
        entry("broken", "no_such_module:Thing", "beta"),
        entry("twice", "collections:Counter", "alpha"),
        entry("twice", "collections:OrderedDict", "beta"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.plugins.cache_clear()
    yield
    registry.plugins.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_broken_plugin_is_named_and_breaks_only_itself():
    from collections import Counter

    assert registry.load("adapter", "good") is Counter
    with pytest.raises(PluginError, match=r"'broken'.*no_such_module:Thing of beta 9.9"):
        registry.load("adapter", "broken")
    assert list(registry.plugins("adapter")) == ["broken", "good", "twice"]


@pytest.mark.usefixtures("installed")
def test_a_name_claimed_twice_names_both():
    with pytest.raises(
        PluginError, match=r"Counter of alpha and by collections:OrderedDict of beta"
    ):
        registry.load("adapter", "twice")


@pytest.mark.usefixtures("installed")
def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(UsageError, match=r"no adapter named 'goood'. Did you mean good?"):
        registry.load("adapter", "goood")


def test_ours_come_through_the_same_door():
    found = registry.plugins("adapter")
    assert {"none", "finetune", "um", "umap"} <= set(found)
    assert found["um"].distribution == "um-bench"


def test_names_of_a_package_are_read_and_not_imported():
    package = import_module("pytorch_ood.benchmark")
    expected = tuple(name for name in package.__all__ if name != "Benchmark")
    assert registry.names_in("pytorch_ood.benchmark", without="Benchmark") == expected
    code = (
        "import sys\nfrom um_bench.suite import listed\n"
        "assert 'pytorch-ood:CIFAR10_ODIN' in listed()\n"
        "assert not {'torch', 'pytorch_ood'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "source", ["", "names = ['a']", "__all__ = other", "__all__ = [", "__all__ = 3"]
)
def test_a_package_that_does_not_say_its_names_has_none(tmp_path, monkeypatch, source):
    folder = tmp_path / "some_package" / "below"
    folder.mkdir(parents=True)
    (tmp_path / "some_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.names_in("some_package.below") == ()
    (folder / "__init__.py").write_text("__all__ = ['x']\n__all__ = ['b', 'a']")
    assert registry.names_in("some_package.below") == ("b", "a")
    assert registry.names_in("no_such_package.below") == ()
