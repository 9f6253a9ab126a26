"""How long the page of many records takes, and how large it is.

    python benchmarks/page.py --records 100000

writes made-up records of a sweep (adapters x detectors x OOD sets x seeds) into a temporary
folder, renders their page with `um-bench leaderboard --format html` in a process of its own, and
prints seconds and bytes; `--write` writes them into `results/`. The numbers in the records
measure nothing. `--keep FOLDER` leaves records and page there.
"""

import argparse
import json
import math
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from hardware import RESULTS, device_name, page_of

from um_bench.leaderboard import write_statistics
from um_bench.records import Provenance, Record, content_key, job_file, write_file
from um_bench.suite import OodSet

SEEDS = 10
SETS = tuple(OodSet(f"near {i}", "near", f"near/{i}") for i in range(4)) + tuple(
    OodSet(f"far {i}", "far", f"far/{i}") for i in range(6)
)
RECIPE = {
    **{"augmentation": "crop", "batch_size": 64, "epochs": 8, "lr": 0.02, "momentum": 0.9},
    **{"nesterov": False, "schedule": "cosine", "weight_decay": 0.0001},
}
MADE = Provenance(
    created="2026-11-28T12:00:00+00:00",
    device="cpu",
    platform="Linux x86_64",
    versions={"python": "3.11.7", "pytorch-ood": "0.4.0", "torch": "2.4.0", "um-bench": "0.1.0"},
)
SCALE = 0.9, 0.03
"""Mean and spread over rows of the AUROC that is made up."""


def sweep(records: int) -> tuple[list[str], list[str]]:
    """Return as many adapters and detectors as make this number of records."""
    rows = records / (SEEDS * len(SETS))
    adapters = max(3, round(math.sqrt(rows)))
    detectors = max(1, math.ceil(rows / adapters))
    labels = [f"um@constraint={i / 100:.2f}" for i in range(1, adapters - 1)]
    return ["none", "finetune", *labels], [f"knn@k={i}" for i in range(1, detectors + 1)]


def job_records(adapter: str, seed: int, detectors: list[str]) -> Iterator[Record]:
    """Yield the records of one job."""
    chance = random.Random(f"{adapter}/{seed}")
    name = adapter.partition("@")[0]
    shared = {
        "suite": "made-up",
        "job_key": content_key("job", adapter, seed),
        "state": "done",
        "id_set": "made-up",
        "backbone": "resnet18_cifar",
        "seed": seed,
        "adapter": name,
        "adapter_label": adapter,
        "detector": "knn",
        "counts": {"fit": 725, "id": 577, "ood": 354, "train": 725},
        "notes": {"constraint": chance.gauss(0.3, 0.1)} if name == "um" else {},
        "weights": {"base": content_key("base", seed), "adapted": content_key(adapter, seed)},
        "losses": [chance.random() for _ in range(8)],
        "opened": {"adapt": ["made-up/train"], "base": ["made-up/train"]},
        "provenance": MADE,
    }
    accuracy = {"id_accuracy": chance.gauss(0.95, 0.004), "base_id_accuracy": 0.95}
    seconds = {"adapt": chance.uniform(5, 20), "base": 4.3, "data": 0.8}
    for detector in detectors:
        level = min(0.99, random.Random(f"{adapter}/{detector}").gauss(*SCALE))
        for ood in SETS:
            yield Record(
                **shared,
                key=content_key(adapter, seed, detector, ood.name),
                detector_label=detector,
                ood_set=ood.name,
                group=ood.group,
                metrics={**metrics(level, chance), **accuracy},
                fingerprints={
                    role: content_key(role, ood.name if role == "ood" else "")
                    for role in ("fit", "id", "ood", "train")
                },
                hyperparameters={
                    "adapter": {"beta": 1.0, "constraint": None, "estimate_keep": 0.965},
                    "detector": {"k": int(detector.partition("=")[2]), "normalize": True},
                    "preprocessing": {"mean": [0.3] * 3, "size": 8, "std": [0.4] * 3},
                    "base": RECIPE,
                    "recipe": RECIPE,
                },
                scores=f"scores/{adapter}/{detector}/{ood.name.replace(' ', '_')}-{seed}.npz",
                scores_check=content_key(adapter, detector, ood.name, seed)[:16],
                seconds={**seconds, "outputs": 0.1, "fit": 0.02, "score": chance.uniform(0.01, 1)},
            )


def metrics(level: float, chance: random.Random) -> dict[str, float]:
    """Return metrics near a level."""
    auroc = min(1.0, max(0.0, level + chance.gauss(0, 0.005)))
    names = ("auroc", "aupr_in", "aupr_out")
    high = {name: min(1.0, auroc + abs(chance.gauss(0, 0.002))) for name in names}
    return high | {name: min(1.0, 3 * (1 - auroc)) for name in ("fpr95_ood", "fpr95_id")}


def write(folder: Path, records: int) -> int:
    """Write a suite's records below a folder of results; return how many."""
    adapters, detectors = sweep(records)
    suite = {
        "name": "made-up",
        "title": f"{records:,} made-up records",
        "description": "Made up to measure the page.",
        "ood": [ood._asdict() for ood in SETS],
        "seeds": list(range(SEEDS)),
        "adapters": adapters,
        "detectors": detectors,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.json").write_text(json.dumps(suite), encoding="utf-8")
    written = 0
    for adapter in adapters:
        for seed in range(SEEDS):
            its = list(job_records(adapter, seed, detectors))
            write_file(job_file(folder, its[0].job), its)
            written += len(its)
    # As a run does when it ends.
    write_statistics(folder)
    return written


def timed(arguments: list[str]) -> tuple[float, float]:
    """Return seconds of wall-clock and of processor that a command takes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(arguments, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def main() -> None:
    """Write, render, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write a file in results/ as well")
    parser.add_argument("--keep", type=Path, help="write into this folder, and leave it there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = options.keep or Path(temporary)
        folder = results / "made-up"
        records = write(folder, options.records)
        size = sum(path.stat().st_size for path in folder.glob("records/*"))
        page = results / "page.html"
        command = [sys.executable, "-m", "um_bench", "leaderboard", "--results", str(results)]
        command += ["--format", "html", "--out", str(page)]
        runs = [timed(command) for _ in range(options.runs)]
        text = report(records, size, page.stat().st_size, runs)
    print(text)
    if options.write:
        path = page_of(RESULTS, "page", device_name(), f"n{options.runs}")
        path.write_text(text, encoding="utf-8")


def report(records: int, size: int, page: int, runs: list[tuple[float, float]]) -> str:
    """Return what was measured, as Markdown."""
    wall, used = (statistics.median(its) for its in zip(*runs, strict=True))
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    spread = ", ".join(f"{one:.2f}" for _, one in sorted(runs))
    return f"""# The page of many records

Made by `benchmarks/page.py --records {records}`; msgspec {version("msgspec")}, Python
{platform.python_version()}, one core of {device_name()}; median of n = {len(runs)} runs.

| what | measured |
|---|---|
| records | {records:,}, {size / 1e6:.1f} MB |
| page | {page / 1e6:.2f} MB |
| processor | {used:.2f} s ({spread}) |
| wall-clock | {wall:.2f} s; other work was on the machine |
| memory at most | {most:,.0f} MiB |
"""


if __name__ == "__main__":
    main()
