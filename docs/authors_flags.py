"""What the flags of the paper's code become here: found by trying `um-bench import-config`.

A flag is changed in a configuration, the configuration is translated, and what is then different in
the suite is what the flag became. So the table cannot say what the translation does not do.
"""

import functools
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from um_bench.authors_config import suite_toml, translate
from um_bench.authors_config.keys import KEYS
from um_bench.authors_config.reading import Config
from um_bench.authors_config.translation import (
    AUXILIARY,
    BACKBONES,
    ID_SETS,
    SCHEDULES,
    obstacles,
)
from um_bench.suite import parse_adapter, parts_of

_PLAIN = {"seed": 0, "arch": "DenseNet", "bn_type": "NonAffineBatchNorm", "conv_type": "DenseConv"}
_UM = {"criterion": "UM", "UM": 0.15}
_MASKS = {"conv_type": "_SubnetConv", "linear_type": "SubnetLinear", "prune_rate": 0.8}
_FROZEN = {"freeze_weights": True}
TRIED_IN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("main", _PLAIN | _UM),
    ("main", _PLAIN | {"arch": "cWideResNet"}),
    ("main", _PLAIN | _UM | _MASKS | _FROZEN),
    ("main", _PLAIN | _UM | _MASKS),
    ("main", _PLAIN | {"msp": True}),
    ("main_OE", _PLAIN),
    *(("main_OE", _PLAIN | {"oe_ood_method": name}) for name in ("energy", "poem", "doe")),
)
"""Configurations, and the programs that they are for."""
_WORDS = {
    "arch": tuple(BACKBONES),
    "set": tuple(ID_SETS),
    "lr_policy": tuple(SCHEDULES),
    "auxiliary_dataset": tuple(AUXILIARY),
    "bn_type": ("LearnedBatchNorm",),
    "conv_type": ("_SubnetConv",),
    "oe_ood_method": ("energy", "poem", "doe"),
    "ood_set": (["SVHN", "LSUN"],),
    "pretrained": ("weights.state",),
    "prune_type": ("model_wise",),
    "prune_subject": ("weight",),
    "seed": (7,),
    "name": ("mine",),
}
"""Values to try, of flags that are neither a number nor a switch."""
_HOW = {
    "machine": "nothing: it has no part in the numbers",
    "dead": "nothing: their code never reads it",
    "taken": "no setting of its own: `um-bench import-config` says what it makes of it",
}


def taken() -> Iterator[tuple[str, str, str]]:
    """Yield each flag that becomes something: name, default there, what it is here."""
    for name, key in KEYS.items():
        became = became_of(name)
        if became:
            yield f"`{name}`", shown(key.default), ", ".join(f"`{it}`" for it in became)


def left() -> Iterator[tuple[str, str]]:
    """Yield the other flags, those with the same reason together: names, reason."""
    found = defaultdict(list)
    for name, key in KEYS.items():
        if not became_of(name):
            found[_HOW.get(key.use, f"no counterpart: it {key.use}")].append(f"`{name}`")
    for reason, names in found.items():
        yield ", ".join(names), reason


def shown(default: Any) -> str:
    """Return a default of their code."""
    if default is None:
        return "none"
    return f"`{', '.join(default) if isinstance(default, list) else default}`"


@functools.cache
def became_of(name: str) -> tuple[str, ...]:
    """Return what differs in a suite when the flag does, from the first place where anything does.

    Values that `import-config` refuses become nothing.
    """
    if KEYS[name].use != "taken":
        return ()
    for script, given in TRIED_IN:
        before = said(config(script, given))
        found: dict[str, None] = {}
        for value in values_of(name, given.get(name, KEYS[name].default)):
            after = said(config(script, given | {name: value})) or before
            changed = (k for k in (after | before) if after.get(k) != before.get(k))
            found |= dict.fromkeys(changed)
        if "adapters" in found:
            return ("adapters",)  # with all of their settings
        if found:
            return tuple(found)
    return ()


def values_of(name: str, now: Any) -> Iterator[Any]:
    """Yield other values of a flag than the one it has."""
    if name in _WORDS:
        yield from (value for value in _WORDS[name] if value != now)
    elif KEYS[name].kind == "bool":
        yield not now
    elif KEYS[name].kind in ("int", "float"):
        yield now / 2 if 0 < (now or 0) < 1 else (now or 0) + 400


def config(script: str, given: dict[str, Any]) -> Config:
    """Return a configuration as it would be read from a file."""
    values = {name: key.default for name, key in KEYS.items()} | given
    return Config(
        file="tried",
        script=script,
        values=values,
        given=frozenset(given),
        unknown=(),
        twice=(),
        as_text=(),
    )


def said(given: Config) -> dict[str, Any]:
    """Return what a suite says, by names as in `--set`: `recipe.lr`, `um.constraint`."""
    if any(obstacles(given)):
        return {}
    whole = tomllib.loads(suite_toml(translate(given)))
    found = {
        name: whole.get(name)
        for name in ("name", "backbone", "checkpoint", "seeds", "detectors", "auxiliary")
    }
    found |= {"id": whole["id"], "ood": whole["ood"]}
    found |= {f"recipe.{name}": value for name, value in whole["recipe"].items()}
    found |= {f"backbone.{k}": v for k, v in whole.get("backbone_options", {}).items()}
    adapters = [parts_of(parse_adapter(label)) for label in whole["adapters"]]
    found["adapters"] = [[part.name for part in parts] for parts in adapters]
    for part in (part for parts in adapters for part in parts):
        found |= {f"{part.name}.{name}": value for name, value in part.settings.items()}
    return {name: value for name, value in found.items() if value is not None}
