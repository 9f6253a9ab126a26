"""What each registered detector is, as a table for people: that in docs is this one."""

from collections.abc import Iterator

from um_bench import registry
from um_bench.detectors.spec import DetectorSpec, prepare

_READS = {
    "logits": "logits",
    "features": "features",
    "feature_maps": "features",
    "layers": "inner layers",
    "images": "images",
}
HEADERS = ("detector", "reads", "fitted on", "settings", "since", "paper")
_RULE = ("---",) * len(HEADERS)


def catalogue() -> str:
    """Return a Markdown table of the detectors that come with um-bench."""
    plugins = registry.plugins("detector").values()
    names = [plugin.name for plugin in plugins if plugin.distribution == "um-bench"]
    rows = sorted((tuple(_row(name, prepare(name).spec)) for name in names), key=_order)
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEADERS, _RULE, *rows))


def _order(row: tuple[str, ...]) -> tuple[int, str]:
    return list(_READS.values()).index(row[1]), row[0]


def _row(name: str, spec: DetectorSpec) -> Iterator[str]:
    yield f"`{name}`"
    yield _READS[spec.reads]
    yield {"nothing": "", "validation": "held-out ID"}.get(spec.fits_on, spec.fits_on)
    yield ", ".join(_setting(key, value, spec) for key, value in spec.defaults.items())
    yield f"unsupported: {spec.unsupported}" if spec.unsupported else spec.since
    paper = spec.paper
    yield f"[{paper.venue} {paper.year}]({paper.url})" if paper else ""


def _setting(key: str, value: object, spec: DetectorSpec) -> str:
    shown = "follows" if value is None else str(value).lower() if value is True else str(value)
    search = "*" if spec.candidates(key) else ""
    return f"{key} {shown}{search}"
