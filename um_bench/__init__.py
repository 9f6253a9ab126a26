"""um-bench: a benchmark suite for out-of-distribution detection, on top of pytorch-ood and timm."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from um_bench.adapters import Adapter as Adapter
    from um_bench.adapters import Plan as Plan
    from um_bench.records import Record as Record
    from um_bench.runner import run_suite as run_suite
    from um_bench.suite import Suite as Suite
    from um_bench.suite import load_suite as load_suite
    from um_bench_um import UMLoss as UMLoss
    from um_bench_um import estimate_constraint as estimate_constraint
    from um_bench_um import um_loss as um_loss

# Importing torch takes seconds: a name is imported when it is first used.
_HOMES = {
    "Adapter": "um_bench.adapters",
    "Plan": "um_bench.adapters",
    "Record": "um_bench.records",
    "Suite": "um_bench.suite",
    "load_suite": "um_bench.suite",
    "run_suite": "um_bench.runner",
    "UMLoss": "um_bench_um",
    "um_loss": "um_bench_um",
    "estimate_constraint": "um_bench_um",
}

__all__ = [
    "Adapter",
    "Plan",
    "Record",
    "Suite",
    "UMLoss",
    "estimate_constraint",
    "load_suite",
    "run_suite",
    "um_loss",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'um_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
