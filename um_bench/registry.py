"""Entry points by name: found without importing them, loaded on demand, each with its origin."""

import ast
import functools
import importlib.util
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from um_bench.errors import PluginError, unknown_name

GROUPS = {
    "adapter": "um_bench.adapters",
    "detector": "um_bench.detectors",
    "dataset": "um_bench.datasets",
    "backbone": "um_bench.backbones",
    "suite": "um_bench.suites",
}
"""What can be registered -> its entry points' group. Ours come through the same door as yours."""


class Plugin(NamedTuple):
    """One registered name and where it comes from."""

    name: str
    value: str
    """`module:attribute`."""
    distribution: str
    version: str
    entry_point: EntryPoint
    rivals: tuple[str, ...] = ()
    """Other distributions that register the name for something else: it cannot be loaded then."""


@functools.cache
def plugins(kind: str) -> Mapping[str, Plugin]:
    """Return everything registered as `kind`, a key of `GROUPS`, by name.

    Nothing is imported. What is installed is looked up once a process: it takes 16 ms.
    """
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=GROUPS[kind]):
        distribution = entry.dist.name if entry.dist else "an unnamed distribution"
        version = entry.dist.version if entry.dist else "unknown"
        plugin = Plugin(entry.name, entry.value, distribution, version, entry)
        first = found.setdefault(entry.name, plugin)
        if first.value != plugin.value:
            rival = f"{plugin.value} of {plugin.distribution}"
            found[entry.name] = first._replace(rivals=(*first.rivals, rival))
    return MappingProxyType(dict(sorted(found.items())))


def find(kind: str, name: str) -> Plugin:
    """Return what is registered under a name, without importing it.

    Raises:
        UsageError: if nothing is; near names are suggested.
    """
    known = plugins(kind)
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def load(kind: str, name: str) -> Any:
    """Return the object that is registered under a name.

    Raises:
        UsageError: if nothing is registered under it; near names are suggested.
        PluginError: if two distributions claim the name, or importing it fails; both are named.
    """
    plugin = find(kind, name)
    if plugin.rivals:
        raise PluginError(
            f"{kind} {name!r} is claimed by {plugin.value} of {plugin.distribution} and by "
            f"{', '.join(plugin.rivals)}. Uninstall all but one."
        )
    try:
        return plugin.entry_point.load()
    except Exception as error:
        raise PluginError(
            f"{kind} {name!r} cannot be loaded: {plugin.value} of {plugin.distribution} "
            f"{plugin.version} raised {type(error).__name__}: {error}"
        ) from error


def names_in(package: str, without: str = "") -> tuple[str, ...]:
    """Return the names in a package's `__all__`, but for one, or none if it cannot be told.

    The package is not imported: `__all__` is read from its source.
    """
    top, *below = package.split(".")
    home = importlib.util.find_spec(top)
    if home is None or home.origin is None:
        return ()
    source = Path(home.origin).parent.joinpath(*below, "__init__.py")
    try:
        body = ast.parse(source.read_text(encoding="utf-8")).body
        lists = [n.value for n in body if isinstance(n, ast.Assign) and _assigns_all(n)]
        names = ast.literal_eval(lists[-1]) if lists else ()
        return tuple(str(name) for name in names if name != without)
    except (OSError, ValueError, SyntaxError, TypeError):
        return ()


def _assigns_all(node: ast.Assign) -> bool:
    return any(isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets)
