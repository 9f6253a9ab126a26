"""Entry points: found by name, with their origin; a broken one breaks only itself."""

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
