"""The suite that the options of the command line name, with what they change in it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from um_bench import registry, starting_points
from um_bench.cli.options import names_of
from um_bench.errors import UsageError
from um_bench.suite import Suite, load_suite, shipped


def choose(suite: str | None, **choices: Any) -> Suite:
    """Return the suite with the options of the command line applied."""
    if suite is None:
        raise UsageError(f"give --suite NAME or FILE.toml. Known: {', '.join(shipped())}.")
    chosen = load_suite(suite)
    seeds = _seeds(choices.get("seeds"))
    if seeds is None and _is_one_base(choices):
        seeds = chosen.seeds[:1]  # it is one base classifier, whatever the seed
    changes = {
        "adapters": names_of(choices.get("adapters")),
        "detectors": _detectors(choices.get("detectors")),
        "backbone": choices.get("backbone"),
        "checkpoint": choices.get("checkpoint"),
        "auxiliary": choices.get("auxiliary"),
        "seeds": seeds,
        "limit": choices.get("limit"),
    }
    if changes["backbone"] not in (None, chosen.backbone):
        changes["backbone_options"] = {}
        changes["preprocessing"] = dataclasses.replace(chosen.preprocessing, mean=(), std=())
    chosen = chosen.replace(**{k: v for k, v in changes.items() if v is not None})
    chosen = chosen.with_ood_sets(names_of(choices.get("ood_sets")))
    chosen = chosen.replace(description=chosen.description + _changed_by_options(choices))
    for setting in choices.get("settings", ()):
        chosen = chosen.with_setting(setting)
    return chosen


def _is_one_base(choices: Mapping[str, Any]) -> bool:
    """Return whether the options name trained weights that are the same for every seed."""
    backbone = choices.get("backbone") or ""
    named = [choices.get("checkpoint") or ""]
    named += [backbone] if backbone.startswith(starting_points.PREFIX) else []
    return any(named) and not any("{seed}" in name for name in named)


def _detectors(text: str | None) -> tuple[str, ...] | None:
    """Return the detectors of the option; `all` stands for every one that is registered."""
    names = names_of(text)
    return tuple(registry.plugins("detector")) if names == ("all",) else names


def _changed_by_options(choices: Mapping[str, Any]) -> str:
    """Return what the suite's own description does not know."""
    shown = {name: choices.get(name) for name in ("backbone", "checkpoint", "auxiliary", "limit")}
    if shown["checkpoint"]:
        shown["checkpoint"] = Path(shown["checkpoint"]).name
    given = [f"--{name} {value}" for name, value in shown.items() if value]
    given += [f"--set {setting}" for setting in choices.get("settings", ())]
    if not given:
        return ""
    return f"\n\nRun with {', '.join(given)}: what is said above of these does not hold here.\n"


def _seeds(text: str | None) -> tuple[int, ...] | None:
    names = names_of(text)
    if names is None:
        return None
    try:
        return tuple(int(name) for name in names)
    except ValueError:
        raise UsageError(f"--seeds {text!r} is not a list of integers, as in 0,1,2") from None
