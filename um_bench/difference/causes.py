"""Why the numbers of one cell differ between two records: which of what decides them differs.

Only what can have had an effect is named. A recipe decides nothing where the adapted weights are
the same, the settings of the base classifier nothing where its weights are.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from um_bench.records import Record

UNEXPLAINED = "unexplained"
CONTRADICTION = "contradiction"
DATA = "data"
SETTINGS = "settings"
WEIGHTS = "weights"
CODE = "code"
VERSIONS = "versions"
DEVICE = "device"

KINDS = {
    UNEXPLAINED: "nothing that is recorded explains it",
    CONTRADICTION: "the records contradict themselves",
    DATA: "other images",
    SETTINGS: "other settings",
    WEIGHTS: "other weights",
    CODE: "other code",
    VERSIONS: "other versions of what um-bench uses",
    DEVICE: "another device, platform or mode",
}
"""Name of each cause -> what it says; what calls for a look comes first."""
ALARMING = (UNEXPLAINED, CONTRADICTION)

_OWN = "um-bench"
_OF_BASE = ("base",)
_OF_TRAINING = ("adapter", "recipe", "outlier_recipe")
_TRAINED_ON = ("train", "auxiliary")
_SHOWN_DIGITS = 8
_SHOWN_LETTERS = 60


class Cause(NamedTuple):
    """One thing that differs."""

    kind: str
    """A key of `KINDS`."""
    detail: str
    """What it is, with both values where these are short: `recipe.epochs: 8 -> 10`."""


def explain(a: Record, b: Record) -> tuple[Cause, ...]:
    """Return what can have made the numbers of one cell differ, in the order of `KINDS`.

    Args:
        a: a done record.
        b: a done record of the same cell, with other numbers.

    Returns:
        At least one cause. Weights that differ are named beside what made them differ.
    """
    other_base = a.weights.get("base") != b.weights.get("base")
    other_model = other_base or a.weights.get("adapted") != b.weights.get("adapted")
    inputs = [
        *_data(a, b, trained=other_model),
        *_settings(a, b, trained=other_model, based=other_base),
        *_versions(a, b),
        *_device(a, b),
    ]
    found = [*inputs, *_weights(a, b)]
    found += _contradictions(a, b, found)
    found += _unexplained(a, b, inputs)
    order = list(KINDS)
    return tuple(sorted(found, key=lambda cause: order.index(cause.kind)))


def _data(a: Record, b: Record, *, trained: bool) -> Iterator[Cause]:
    if a.fingerprints == b.fingerprints:
        return
    names = {"id": a.id_set, "ood": a.ood_set, "auxiliary": b.auxiliary or a.auxiliary}
    for role, (before, after) in _differing(a.fingerprints, b.fingerprints):
        if trained or role not in _TRAINED_ON:
            called = f"{role} ({names[role]})" if role in names else role
            yield Cause(DATA, f"{called}: {_print(before)} -> {_print(after)}")


def _print(fingerprint: str | None) -> str:
    if fingerprint is None:
        return "none"
    return "+".join(one[:_SHOWN_DIGITS] for one in fingerprint.split("+"))


def _settings(a: Record, b: Record, *, trained: bool, based: bool) -> Iterator[Cause]:
    for group, (before, after) in _differing(a.hyperparameters, b.hyperparameters):
        if (group in _OF_BASE and not based) or (group in _OF_TRAINING and not trained):
            continue
        for name, one, other in _leaves(group, before, after):
            yield Cause(SETTINGS, f"{name}: {_value(one)} -> {_value(other)}")
    if trained and a.auxiliary != b.auxiliary:
        yield Cause(
            SETTINGS, f"trained with outliers: {a.auxiliary or 'none'} -> {b.auxiliary or 'none'}"
        )


def _leaves(name: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name and both values of what differs in two tables of tables."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key, (one, other) in _differing(a, b):
            yield from _leaves(f"{name}.{key}", one, other)
    else:
        yield name, a, b


def _value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."


def _versions(a: Record, b: Record) -> Iterator[Cause]:
    for name, (before, after) in _differing(a.provenance.versions, b.provenance.versions):
        kind = CODE if name == _OWN else VERSIONS
        yield Cause(kind, f"{name}: {before or 'not there'} -> {after or 'not there'}")
    if a.schema != b.schema:
        yield Cause(CODE, f"schema of the record: {a.schema} -> {b.schema}")


def _device(a: Record, b: Record) -> Iterator[Cause]:
    # Whatever a provenance says besides: a later version may know more of where it ran.
    before, after = vars(a.provenance), vars(b.provenance)
    for name, values in _differing(before, after):
        if name not in ("created", "versions"):
            yield Cause(DEVICE, f"{name}: {_plain(values[0])} -> {_plain(values[1])}")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _value(value)


def _weights(a: Record, b: Record) -> Iterator[Cause]:
    for name, what in (("base", "base classifier"), ("adapted", "adapted classifier")):
        if a.weights.get(name) != b.weights.get(name):
            yield Cause(WEIGHTS, what)


def _contradictions(a: Record, b: Record, found: list[Cause]) -> Iterator[Cause]:
    """Yield what cannot be: one key, which is a hash of weights and images, and others of these."""
    if not a.key or a.key != b.key:
        return
    parts = []
    if a.weights.get("adapted") != b.weights.get("adapted"):
        parts.append("adapted weights")
    if any(cause.kind == DATA and not _is_of_training(cause) for cause in found):
        parts.append("images")
    if parts:
        yield Cause(
            CONTRADICTION,
            f"one key, but other {' and '.join(parts)}: the key is a hash of these. One of the "
            "records was edited.",
        )


def _is_of_training(cause: Cause) -> bool:
    return cause.detail.split(":")[0].split(" ")[0] in _TRAINED_ON


def _unexplained(a: Record, b: Record, inputs: list[Cause]) -> Iterator[Cause]:
    """Yield what it means that nothing differs that could have made the numbers differ."""
    if inputs:
        return
    if a.weights.get("base") != b.weights.get("base"):
        if a.hyperparameters.get("base"):
            yield Cause(
                UNEXPLAINED,
                "the base classifier was trained on the same images, with the same settings, "
                "versions and device, and is another",
            )
        return  # weights from a file: another file is the cause
    if a.weights.get("adapted") != b.weights.get("adapted"):
        yield _same_inputs(
            a.job_key == b.job_key,
            "the adapter started from the same weights, with the same images, settings, versions "
            "and device, and ended elsewhere",
            "job_key",
        )
        return
    yield _same_inputs(
        a.key == b.key,
        "the same weights, images, settings, versions and device gave other numbers",
        "key",
    )


def _same_inputs(same_key: bool, words: str, name: str) -> Cause:
    if same_key:
        return Cause(UNEXPLAINED, words)
    return Cause(
        CODE,
        f"the {name} differs, and no recorded part of it does: another version of a plugin, other "
        "values that were searched, or a change of what um-bench hashes",
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    """Return name -> both values of what is not the same in two tables; None = not there."""
    if a == b:
        return []
    names = dict.fromkeys([*a, *b])
    values = ((name, (a.get(name), b.get(name))) for name in names)
    return [(name, pair) for name, pair in values if pair[0] != pair[1]]
