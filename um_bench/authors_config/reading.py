"""A YAML file of the authors' format -> a Config, as their code would see it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from um_bench.authors_config.keys import KEYS
from um_bench.errors import UsageError, unknown_name

SCRIPTS = ("main", "main_OE", "estimate_loss")
"""The authors' programs that take such a file; it does not say itself for which it is."""

_MASKS = "Subnet"
_WORDS_FOR_NOTHING = ("None", "none", "")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What one file says."""

    file: str
    """The file's name without its ending."""
    script: str
    """The program that it is read for: one of `SCRIPTS`."""
    values: Mapping[str, Any]
    """Every key of `KEYS`: as given, or the default of the authors' code."""
    given: frozenset[str]
    """The keys of `KEYS` that are in the file."""
    unknown: tuple[str, ...]
    """Keys in the file that the authors' code does not know."""
    twice: tuple[str, ...]
    """Keys that are in the file more than once: the last one holds."""
    as_text: tuple[str, ...]
    """Keys whose number, or whose None, YAML takes for text."""

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def masked(self) -> bool:
        """Whether convolutions have learned masks."""
        return _MASKS in str(self["conv_type"])

    @property
    def smoothed(self) -> bool:
        """Whether labels are smoothed, which takes the place of any other loss."""
        return self["label_smoothing"] is not None

    @property
    def um_is_on(self) -> bool:
        """Whether the authors' code trains with UM's loss."""
        named = self["criterion"] != "CrossEntropyLoss"
        return named and not self.smoothed and self["UM"] > 0


def read_config(path: Path, script: str | None = None) -> Config:
    """Return what a file says.

    Args:
        path: a YAML file in the authors' format.
        script: the program that it is for; None = told from what is in it.

    Raises:
        UsageError: if it cannot be read, is not a mapping of names to values, or a value is of the
            wrong kind.
    """
    table, twice = _load(path)
    values = {name: key.default for name, key in KEYS.items()}
    as_text = []
    for name in KEYS.keys() & table.keys():
        values[name], odd = _value(name, table[name], str(path))
        as_text += [name] if odd else []
    unknown = tuple(str(name) for name in table if name not in KEYS)
    given = frozenset(KEYS.keys() & table.keys())
    if script is not None and script not in SCRIPTS:
        raise unknown_name("script of the authors", script, SCRIPTS)
    return Config(
        file=path.stem,
        script=script or _script(given, str(values["conv_type"])),
        values=values,
        given=given,
        unknown=unknown,
        twice=twice,
        as_text=tuple(sorted(as_text)),
    )


def _load(path: Path) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """Return what a file holds, and the keys that are in it more than once."""
    try:
        text = path.read_text(encoding="utf-8")
        table: Any = yaml.safe_load(text)
        top: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not valid YAML: {reason}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path}: must map names to values, as in `lr: 0.1`")
    keys = [str(key.value) for key, _ in top.value]
    return table, tuple(dict.fromkeys(key for key in keys if keys.count(key) > 1))


def _script(given: frozenset[str], conv_type: str) -> str:
    if "oe_ood_method" in given:
        return "main_OE"
    return "estimate_loss" if _MASKS in conv_type and "ood_set" not in given else "main"


def _value(name: str, value: Any, where: str) -> tuple[Any, bool]:
    """Return a key's value in its kind, and whether YAML had it as text that is none."""
    default, kind = KEYS[name].default, KEYS[name].kind
    if default is None and (value is None or value in _WORDS_FOR_NOTHING):
        return None, value == "None"
    if kind == "names":
        return list(_names(name, value, where)), False
    if kind == "str" and isinstance(value, str | int | float | bool):
        return str(value), False
    if kind == "bool" and isinstance(value, bool):
        return value, False
    if kind in ("int", "float") and isinstance(value, int | float | str):
        return _number(name, value, where)
    raise _wrong(name, value, where)


def _number(name: str, value: Any, where: str) -> tuple[Any, bool]:
    # 1e-4 is text in YAML 1.1, which wants 1.0e-4.
    try:
        number = float(value)
    except ValueError:
        raise _wrong(name, value, where) from None
    whole = KEYS[name].kind == "int"
    finite = math.isfinite(number) and not isinstance(value, bool)
    if not finite or (whole and number != int(number)):
        raise _wrong(name, value, where)
    # The type that was given counts: their batch size is multiplied by ood_factor.
    keep = whole or isinstance(value, int)
    return int(number) if keep else number, isinstance(value, str)


def _names(name: str, value: Any, where: str) -> Iterator[str]:
    items = value if isinstance(value, list) else str(value).split(",")
    for item in items:
        if not isinstance(item, str | int):
            raise _wrong(name, value, where)
        yield str(item).strip()


def _wrong(name: str, value: Any, where: str) -> UsageError:
    kind = {"names": "a list of names"}.get(KEYS[name].kind, KEYS[name].kind)
    return UsageError(f"{where}: {name} must be {kind}, not {type(value).__name__} {value!r:.80}")
