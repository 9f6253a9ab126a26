"""Data in a page: lists that repeat are kept once, and no text can end its element."""

import base64
import itertools
import json
import zlib
from collections.abc import Hashable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from um_bench.render.text import printable

T = TypeVar("T")
MOST_PLAIN = 3_000_000
"""Letters of JSON that are written as they are. zlib's versions do not make the same bytes of the
same text, so pages that are compared with committed ones should not need it."""
_LEVEL = 4
"""Of zlib's compression: a quarter of the usual level's time, 3 % more bytes."""


def packed(values: Iterable[T], alike: Iterable[Hashable] | None = None) -> "Packed[T]":
    """Return a column in which few different values stand, each of them kept once.

    Args:
        values: JSON values, in their order.
        alike: for each value, where it most likely stood before: under the same of these.
    """
    found: list[T] = []
    places: list[int] = []
    known: dict[str, int] = {}
    last: dict[Hashable, tuple[T, int]] = {}
    for value, like in zip(values, alike or itertools.repeat(None), strict=False):
        before = last.get(like)
        if before is not None and value == before[0]:
            places.append(before[1])
            continue
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        place = known.setdefault(text, len(found))
        if place == len(found):
            found.append(value)
        last[like] = value, place
        places.append(place)
    return Packed(found, places if len(found) > 1 else [])


class Packed(NamedTuple, Generic[T]):
    """A packed column."""

    of: list[T]
    """The different values."""
    at: list[int]
    """The place of each value of the column; empty where all are the same."""


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
        return Embedded("deflate", base64.b64encode(zlib.compress(text.encode(), _LEVEL)).decode())
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Embedded("json", text)
