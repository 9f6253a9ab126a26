"""A Suite -> the text of a TOML file that reads back as the same suite."""

import dataclasses
from typing import Any

import tomli_w

from um_bench.suite import GROUPS, Suite


def suite_toml(suite: Suite) -> str:
    """Return the file's text."""
    table = _plain(suite)
    # The full-spectrum twins of sets are made when the file is read.
    groups = {g: {o.name: o.source for o in suite.ood if o.group == g} for g in GROUPS}
    table["ood"] = {group: sets for group, sets in groups.items() if sets}
    return tomli_w.dumps(table, multiline_strings=True)


def _plain(part: Any) -> dict[str, Any]:
    """Return a dataclass as a table; what is not set is left out, as TOML has no word for it."""
    found = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            value = _plain(value)
        if value is not None and value not in ("", {}, ()):
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found
