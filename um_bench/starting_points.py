"""The trained classifiers in pytorch-ood's registry, from which adapters can start."""

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = "pytorch-ood:"
"""What the name of a backbone begins with that comes from the registry."""

_REGISTRY = ("pytorch_ood", "model", "registry")
_TOLD = {
    "arch": "architecture",
    "dataset": "id_set",
    "loss": "loss",
    "seed": "seed",
    "description": "description",
}
"""Argument of pytorch-ood's ModelEntry -> field of a StartingPoint."""
_WITHOUT_OUTLIERS = frozenset(("crossentropy", "logitnorm"))
"""Losses of the registry that see ID images alone. Its VOS has real outliers, too, in the place of
those that the method would make up."""


class StartingPoint(NamedTuple):
    """A trained classifier, by the words of pytorch-ood."""

    key: str
    """As in `--backbone pytorch-ood:KEY`."""
    architecture: str
    id_set: str
    """What it was trained on."""
    classes: int | None
    """Number of logits; None where it is not told."""
    loss: str
    """By which method it was trained."""
    seed: str
    """Empty where nobody knows."""
    description: str

    @property
    def uses_outliers(self) -> bool:
        """Whether it was trained with auxiliary outliers, as far as we know: else True."""
        return self.loss not in _WITHOUT_OUTLIERS

    @property
    def backbone(self) -> str:
        """The name of the backbone in a suite."""
        return PREFIX + self.key


def listed() -> tuple[StartingPoint, ...]:
    """Return all classifiers of the registry, in the order of their keys.

    They are read from the registry's source, which takes 0.1 s; importing it means to import torch
    and torchvision. That is done only where its source is not as it was when this was written.
    """
    try:
        found = tuple(_in_source())
    except (OSError, ValueError, SyntaxError, TypeError, KeyError):
        found = ()
    return tuple(sorted(found or _imported()))


def _in_source() -> Iterator[StartingPoint]:
    """Yield the entries of the list that the registry's source writes out.

    Raises:
        ValueError: if an entry is not written out.
        KeyError: if one has no key.
        SyntaxError: if it is not Python.
        OSError: if it cannot be read.
    """
    top, *below = _REGISTRY
    home = importlib.util.find_spec(top)
    if home is None or home.origin is None:
        return
    source = Path(home.origin).parent.joinpath(*below).with_suffix(".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_ENTRIES":
            yield from map(_written, getattr(node.value, "elts", ()))


def _written(entry: ast.expr) -> StartingPoint:
    """Return what a call of ModelEntry says."""
    if not isinstance(entry, ast.Call) or entry.args:
        raise ValueError(f"not an entry by keywords: {ast.unparse(entry)}")
    given = {keyword.arg: keyword.value for keyword in entry.keywords}
    told = {ours: _text(given.get(theirs)) for theirs, ours in _TOLD.items()}
    classes = _classes(given["arch_kwargs"]) if "arch_kwargs" in given else None
    return StartingPoint(key=ast.literal_eval(given["key"]), classes=classes, **told)


def _text(node: ast.expr | None) -> str:
    return (None if node is None else ast.literal_eval(node)) or ""


def _classes(arguments: ast.expr) -> int | None:
    """Return `num_classes` of a dictionary, written with braces or as dict(...)."""
    if isinstance(arguments, ast.Call):
        pairs = [(keyword.arg, keyword.value) for keyword in arguments.keywords]
    elif isinstance(arguments, ast.Dict):
        keys = [ast.literal_eval(key) if key else None for key in arguments.keys]
        pairs = list(zip(keys, arguments.values, strict=True))
    else:
        raise ValueError(f"not a dictionary: {ast.unparse(arguments)}")
    return next((ast.literal_eval(value) for name, value in pairs if name == "num_classes"), None)


def _imported() -> Iterator[StartingPoint]:
    """Yield the entries of the registry itself."""
    registry: Any = importlib.import_module(".".join(_REGISTRY))
    for key in registry.list_models():
        entry = registry.get_model_info(key)
        told = {ours: getattr(entry, theirs) or "" for theirs, ours in _TOLD.items()}
        yield StartingPoint(key=key, classes=entry.arch_kwargs.get("num_classes"), **told)
