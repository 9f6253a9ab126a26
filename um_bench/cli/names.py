"""Options whose values are registered names, which a shell completes; without torch."""

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from um_bench import registry, starting_points
from um_bench.suite import listed


class Names(StringParamType):
    """Any text; completed by what is registered. Of a list by commas, its last name is.

    Args:
        kind: a key of `registry.GROUPS`.
        several: whether a list is given.
        more: names that are known beside these.
    """

    def __init__(self, kind: str, *, several: bool = False, more: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._several = several
        self._more = more

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return what the text may become."""
        before, comma, last = incomplete.rpartition(",") if self._several else ("", "", incomplete)
        # Of adapters, the last part of a stage: oe+u, um>o.
        cut = max(last.rfind("+"), last.rfind(">")) + 1 if self._kind == "adapter" else 0
        start, begun = f"{before}{comma}{last[:cut]}", last[cut:]
        given = set(before.split(","))
        names = (name for name in self._known() if name.startswith(begun) and name not in given)
        # A file is the shell's to complete.
        files = [CompletionItem(incomplete, type="file")] if self._kind == "suite" else []
        return [*(CompletionItem(f"{start}{name}") for name in names), *files]

    def _known(self) -> tuple[str, ...]:
        if self._kind == "suite":
            return tuple(listed())
        names = tuple(registry.plugins(self._kind))
        if self._kind == "backbone":
            names += tuple(point.backbone for point in starting_points.listed())
        return (*names, *self._more)


SUITE = Names("suite")
BACKBONE = Names("backbone")
DATASET = Names("dataset")
ADAPTERS = Names("adapter", several=True)
DETECTORS = Names("detector", several=True, more=("all",))
