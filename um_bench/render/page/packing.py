"""Data in a page: lists that repeat are kept once, and no text can end its element."""

import base64
import json
import zlib
from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from um_bench.render.text import printable

T = TypeVar("T")
MOST_PLAIN = 3_000_000
"""Letters of JSON that are written as they are. zlib's versions do not make the same bytes of the
same text, so pages that are compared with committed ones should not need it."""


class Packed(Generic[T]):
    """A column in which few different values stand, in the order in which they are met."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self.places: list[int] = []
        self._known: dict[str, int] = {}
        self._last: dict[Hashable, tuple[T, int]] = {}

    def add(self, value: T, like: Hashable = None) -> None:
        """Take the next value. It is looked for first where the last one with this `like` is."""
        before = self._last.get(like)
        if before is not None and (value is before[0] or value == before[0]):
            self.places.append(before[1])
            return
        text = json.dumps(value, sort_keys=True)
        place = self._known.setdefault(text, len(self.values))
        if place == len(self.values):
            self.values.append(value)
        self._last[like] = (value, place)
        self.places.append(place)

    def table(self) -> dict[str, Any]:
        """Return `of`, the different values, and `at`, the place of each value of the column."""
        return {"of": shown(self.values), "at": self.places}


def shown(value: Any) -> Any:
    """Return JSON values with all text printable and every number finite, or null."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


class Embedded(NamedTuple):
    """Data as the content of an element."""

    encoding: str
    """`json`, or `deflate`: JSON, compressed by zlib, in base64."""
    text: str


def embedded(value: Any) -> Embedded:
    """Return data as ASCII in which neither an end tag nor a comment can begin."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    if len(text) > MOST_PLAIN:
        return Embedded("deflate", base64.b64encode(zlib.compress(text.encode(), 6)).decode())
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Embedded("json", text)
