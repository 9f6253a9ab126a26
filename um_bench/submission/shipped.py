"""What a submission does otherwise than the suite that ships under its name."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from um_bench.leaderboard import Info
from um_bench.records import Record
from um_bench.submission.findings import Finding
from um_bench.suite import Suite, load_suite
from um_bench.suite import shipped as shipped_names

_RECIPES = ("preprocessing", "base", "recipe", "outlier_recipe")


def remarks(records: Iterable[Record], info: Info) -> Iterator[Finding]:
    """Yield each way in which sets and settings are not the shipped suite's; none if none ships.

    A suite may be changed: what differs must be known to who compares.
    """
    name = info.name.partition("@limit=")[0]
    if name not in shipped_names():
        return
    suite = load_suite(name)
    if name != info.name:
        yield _remark(f"only the first images of each set were used ({info.name})")
    yield from map(_remark, _sets(info, suite))
    yield from map(_remark, _settings(records, suite))


def _remark(text: str) -> Finding:
    return Finding("shipped", "", text, is_problem=False)


def _sets(info: Info, suite: Suite) -> Iterator[str]:
    ours = {ood.name: ood for ood in suite.ood}
    for ood in info.ood:
        if ood != ours.pop(ood.name, None):
            yield f"OOD set {ood.name} ({ood.group}, from {ood.source}) is not as it ships"
    for name in ours:
        yield f"OOD set {name} is left out"
    if info.seeds != suite.seeds:
        yield f"seeds {_listed(info.seeds)}; the suite ships with {_listed(suite.seeds)}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _settings(records: Iterable[Record], suite: Suite) -> Iterator[str]:
    found: Counter[str] = Counter()
    ours = {name: _plain(getattr(suite, name)) for name in _RECIPES}
    backbones: Counter[str] = Counter()
    for record in records:
        if record.state == "done":
            backbones[record.backbone] += 1
            for name, table in ours.items():
                found.update(_differing(name, record.hyperparameters.get(name), table))
    for backbone in backbones:
        if backbone != suite.backbone:
            yield f"backbone {backbone}; the suite ships with {suite.backbone}"
    for text, cells in found.items():
        yield f"{text} ({cells:,} cells)"


def _plain(recipe: Any) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe))) if recipe else {}
    return table


def _differing(name: str, used: Any, ours: dict[str, Any]) -> Iterator[str]:
    if not isinstance(used, dict) or not used:
        return  # nothing was trained by it
    for key, value in used.items():
        if value != ours.get(key):
            yield f"{name}.{key} is {value!r:.60}; the suite ships with {ours.get(key)!r}"
