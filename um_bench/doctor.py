"""What `um-bench doctor` says: what is installed, and whether every plugin keeps its contract."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from um_bench import registry
from um_bench.adapters import Adapter
from um_bench.adapters import create as create_adapter
from um_bench.detectors import DetectorSpec
from um_bench.environment import provenance
from um_bench.errors import MissingDataError, PluginError, UnsupportedError, UsageError
from um_bench.registry import Plugin
from um_bench.render.text import printable
from um_bench.suite import parse_adapter
from um_bench.testing import check_adapter, check_detector

OK, BROKEN, UNCHECKED = "ok", "broken", "cannot be checked"
_ABSENT = "not installed"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    kind: str
    """`version`, `device`, or a kind of plugin: `adapter`, `detector`, ..."""
    name: str
    distribution: str = ""
    """Where a plugin comes from, with its version."""
    state: str
    """`ok`, `broken`, or `cannot be checked`."""
    reason: str = ""
    """Why it is not ok; what was found, where it is."""


def doctor(distribution: str | None = None) -> tuple[Finding, ...]:
    """Return what is installed and whether the plugins work; it takes about a minute on a CPU.

    Every plugin is loaded; adapters and detectors, with their defaults, are held to
    `um_bench.testing`. Data sets are not looked for.

    Args:
        distribution: look at the plugins of this one only; None = of every one.

    Raises:
        UsageError: if no plugin comes from that distribution.
    """
    plugins = [
        (kind, plugin)
        for kind in registry.GROUPS
        for plugin in registry.plugins(kind).values()
        if distribution in (None, plugin.distribution)
    ]
    if not plugins:
        known = {
            p.distribution for kind in registry.GROUPS for p in registry.plugins(kind).values()
        }
        raise UsageError(
            f"no plugin comes from a distribution named {distribution!r}; plugins come from "
            f"{', '.join(sorted(known))}"
        )
    found = (_of_plugin(kind, plugin) for kind, plugin in plugins)
    return (*_versions({plugin.distribution for _, plugin in plugins}), _device(), *found)


def report(findings: Sequence[Finding]) -> str:
    """Return the findings as text: what is not ok with its reason, the rest by name and count."""
    versions = ", ".join(f"{f.name} {f.reason}" for f in findings if f.kind == "version")
    lines = [f"versions: {versions}"]
    lines += [f"device: {f.name}, {f.state} {f.reason}" for f in findings if f.kind == "device"]
    for kind in registry.GROUPS:
        its = [finding for finding in findings if finding.kind == kind]
        if its:
            states = Counter(finding.state for finding in its)
            lines.append(f"{kind}s: {', '.join(f'{n} {state}' for state, n in states.items())}")
            lines += [_line(finding) for finding in its if finding.state != OK]
    return "\n".join(printable(line.rstrip()) for line in lines)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 if anything is broken, else 0."""
    return int(any(finding.state == BROKEN for finding in findings))


def _line(finding: Finding) -> str:
    return f"  {finding.name} ({finding.distribution}): {finding.state}: {finding.reason}"


def _versions(distributions: set[str]) -> Iterator[Finding]:
    made_with = provenance("cpu", distributions, deterministic=True, threads=1)
    for name, version in made_with.versions.items():
        state = UNCHECKED if version.startswith(_ABSENT) else OK
        yield Finding(kind="version", name=name, state=state, reason=version)


def _device() -> Finding:
    """Return whether the device that a run takes by itself can compute."""
    if not torch.cuda.is_available():
        return Finding(kind="device", name="cpu", state=OK, reason="(no GPU that torch can use)")
    name = torch.cuda.get_device_name()
    try:
        torch.ones(2, 2, device="cuda").mm(torch.ones(2, 2, device="cuda")).cpu()
    except RuntimeError as error:
        return Finding(kind="device", name=name, state=BROKEN, reason=_first_line(error))
    return Finding(kind="device", name=name, state=OK)


def _of_plugin(kind: str, plugin: Plugin) -> Finding:
    state, reason = _tried(_CHECKS.get(kind, registry.load), kind, plugin.name)
    return Finding(
        kind=kind,
        name=plugin.name,
        distribution=f"{plugin.distribution} {plugin.version}",
        state=state,
        reason=reason,
    )


def _tried(check: Callable[[str, str], object], kind: str, name: str) -> tuple[str, str]:
    """Return how a check ended, and why if not well. Whatever a plugin raises, the others go on."""
    try:
        check(kind, name)
    except (UnsupportedError, MissingDataError) as error:
        return UNCHECKED, _first_line(error)
    except PluginError as error:
        return BROKEN, _first_line(error)
    except Exception as error:
        return BROKEN, f"{type(error).__name__}: {_first_line(error)}"
    return OK, ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _conforming_adapter(kind: str, name: str) -> None:
    check_adapter(_with_defaults(name))


def _with_defaults(name: str) -> Adapter:
    """Return an adapter without settings.

    Raises:
        PluginError: if it cannot be loaded or is no adapter.
        UnsupportedError: if it has a hyperparameter without a default.
    """
    try:
        return create_adapter(parse_adapter(name))
    except UsageError as error:
        raise UnsupportedError(f"it cannot be made with its defaults: {error}") from error


def _conforming_detector(kind: str, name: str) -> None:
    spec = registry.load(kind, name)
    if not isinstance(spec, DetectorSpec):
        raise PluginError(f"it is a {type(spec).__name__}, not a um_bench.detectors.DetectorSpec")
    check_detector(spec)


_CHECKS: dict[str, Callable[[str, str], object]] = {
    "adapter": _conforming_adapter,
    "detector": _conforming_detector,
}
