"""Measure the statistics on simulated models: coverage, false separations, power, seconds.

Prints Markdown. Run by hand; it takes about 20 minutes on a core.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py > benchmarks/results/intervals.md
    OMP_NUM_THREADS=1 python benchmarks/intervals.py --repeats 100    # fewer, for a look
    OMP_NUM_THREADS=1 python benchmarks/intervals.py --only ranks

Simulated scores have all that real ones share: images that are hard for every model, for one row,
or for one model, and base classifiers that are good for every row.
"""

import argparse
import math
import platform
import time
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import scipy
from hardware import device_name
from numpy.typing import NDArray
from scipy.stats import t as student

from um_bench.statistics import ALPHA, ImageSet, Sampled, paired_delta, rank, sample_metrics

LEVEL = 0.95
IMAGES = 300
Cells = dict[int, Sampled]


class Case(NamedTuple):
    """How scores of OOD images vary: SDs in units of the noise of one score."""

    name: str
    seeds: float
    """Of a row's mean score, over seeds."""
    row: float
    """Of an image's score, for one row and all seeds alike."""


CASES = (Case("seeds", 0.3, 0.3), Case("both", 0.1, 0.7), Case("images", 0.0, 1.0))


# --- Coverage ---


def scores_of(
    rng: np.random.Generator, case: Case, means: tuple[float, ...], seeds: int
) -> dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return scores (IMAGES,) of ID and OOD images, by row and seed."""
    hard = rng.normal(size=(2, IMAGES))
    of_row = case.row * rng.normal(size=(len(means), 2, IMAGES))
    base = 0.3 * rng.normal(size=seeds)
    found = {}
    for row, mean in enumerate(means):
        for seed in range(seeds):
            scores = hard + of_row[row] + rng.normal(size=(2, IMAGES))
            shift = mean + base[seed] + case.seeds * rng.normal()
            found[row, seed] = (scores[0], scores[1] + shift)
    return found


def expected_auroc(case: Case, mean: float) -> float:
    """Return the AUROC over all seeds and images."""
    of_scores = 2 * (1 + case.row**2 + 1)
    return NormalDist().cdf(mean / math.sqrt(of_scores + 0.3**2 + case.seeds**2))


def intervals(ours: Cells, theirs: Cells, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """Yield the name and half width of each kind of interval."""
    n = len(ours)
    yield "um-bench", _half(paired_delta(ours, theirs, LEVEL).interval)
    values = np.array([ours[s].value - theirs[s].value for s in range(n)])
    replicates = np.array([ours[s].replicates - theirs[s].replicates for s in range(n)])  # type: ignore[operator]
    count = replicates.shape[1]
    drawn = replicates[rng.integers(n, size=(n, count)), np.arange(count)].mean(axis=0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    plain = (high - low) / 2
    wider = math.sqrt(n / (n - 1))
    yield "two-level bootstrap", plain
    yield "... times sqrt(n / (n - 1))", plain * wider
    at = (1 + LEVEL) / 2
    yield (
        "... times t / z as well",
        plain * wider * student.ppf(at, n - 1) / NormalDist().inv_cdf(at),
    )
    of_mean, of_one = replicates.mean(axis=0).var(ddof=1), replicates.var(axis=1, ddof=1).mean()
    shared = max((n * of_mean - of_one) / (n - 1), 0.0)
    of_seeds = values.var(ddof=1) / n
    freedom = max((of_seeds + shared) ** 2 * (n - 1) / max(of_seeds, 1e-12) ** 2, n - 1)
    yield "Satterthwaite", float(student.ppf(at, freedom)) * math.sqrt(of_seeds + shared)


def _half(interval: object) -> float:
    assert isinstance(interval, tuple)
    return float(interval[1] - interval[0]) / 2


def coverage(case: Case, seeds: int, metric: str, repeats: int) -> dict[str, tuple[float, float]]:
    """Return kind of interval -> share that holds the truth, and mean half width."""
    rng = np.random.default_rng([seeds, CASES.index(case), metric == "auroc"])
    means = (1.8, 1.4) if metric == "auroc" else (1.8, 1.8)
    truth = expected_auroc(case, means[0]) - expected_auroc(case, means[1])
    held: dict[str, list[bool]] = {}
    halves: dict[str, list[float]] = {}
    for repeat in range(repeats):
        scores = scores_of(rng, case, means, seeds)
        id_set, ood_set = (ImageSet(f"{side}{repeat}", IMAGES) for side in ("id", "ood"))
        found = sample_metrics(scores, id_set, ood_set, replicates=300)
        ours, theirs = ({s: found[row, s][metric] for s in range(seeds)} for row in (0, 1))
        delta = paired_delta(ours, theirs).mean
        for name, half in intervals(ours, theirs, rng):
            held.setdefault(name, []).append(abs(delta - truth) <= half)
            halves.setdefault(name, []).append(half)
    return {name: (float(np.mean(held[name])), float(np.mean(halves[name]))) for name in held}


# --- Ranks ---


SPREADS = {
    "alike": "seeds vary every row by the same SD",
    "wild": "one row varies ten times as much",
    "uneven": "each row's SD is drawn, log-normal",
    "adapters": "all rows of an adapter vary as one",
    "wide": "SDs from 0.1 to 10 points",
    "two levels": "half of the rows are 10 points better, and all of a half are equal",
}


def table_of(
    rng: np.random.Generator,
    shape: tuple[int, int],
    seeds: int,
    spread: str = "alike",
    sd: float = 0.005,
    gap: float = 0.0,
) -> dict[int, Cells]:
    """Return rows that differ by chance alone, except that the first is better by `gap`.

    Args:
        rng: draws everything.
        shape: how many adapters and detectors; every row is one of each.
        seeds: how many.
        spread: as in `SPREADS`.
        sd: of a row over seeds, beyond what all rows share; in AUROC.
        gap: in AUROC.
    """
    adapters, detectors = shape
    rows = adapters * detectors
    of_row = np.full(rows, sd)
    if spread == "wild":
        of_row[0] *= 10
    if spread == "uneven":
        of_row *= np.exp(rng.normal(size=rows))
    if spread == "wide":
        of_row = 10 ** rng.uniform(-3, -1, size=rows)
    alone = 0.05 if spread == "adapters" else math.sqrt(0.5)
    of_adapter = np.repeat(rng.normal(size=(adapters, seeds)), detectors, axis=0)
    of_seeds = 2 * sd * rng.normal(size=(1, seeds)) + of_row[:, None] * (
        math.sqrt(1 - alone**2) * of_adapter + alone * rng.normal(size=(rows, seeds))
    )

    def images(count: int) -> NDArray[np.float64]:
        common = 2 * rng.normal(size=(count, 1, 1))
        detector = 0.5 * np.tile(rng.normal(size=(count, detectors, 1)), (1, adapters, 1))
        model = 0.5 * np.repeat(rng.normal(size=(count, adapters, seeds)), detectors, axis=1)
        return 0.003 * (common + detector + model + 0.5 * rng.normal(size=(count, rows, seeds)))

    values = 0.9 + of_seeds + images(1)[0]
    values[0] += gap
    if spread == "two levels":
        values[: rows // 2] += 0.1
    replicates = values + images(150)
    return {
        row: {s: Sampled(float(values[row, s]), replicates[:, row, s]) for s in range(seeds)}
        for row in range(rows)
    }


def false_separations(shape: tuple[int, int], seeds: int, spread: str, repeats: int) -> float:
    """Return the share of tables in which any two equal rows were told apart."""
    rng, false = np.random.default_rng(2026), 0
    for _ in range(repeats):
        ranks = rank(table_of(rng, shape, seeds, spread))
        upper = len(ranks.by_row) // 2
        if spread == "two levels":  # nothing beats the upper half, and the lower half nothing
            ranges = [*ranks.by_row.values()]
            false += any(r.first > 1 for r in ranges[:upper]) or any(
                r.last < len(ranges) for r in ranges[upper:]
            )
        else:
            false += ranks.separated > 0
    return false / repeats


def power(shape: tuple[int, int], seeds: int, sd: float, gap: float, repeats: int) -> float:
    """Return the share of the other rows from which the one better row was told apart."""
    rng = np.random.default_rng(13)
    found = []
    for _ in range(repeats):
        ranks = rank(table_of(rng, shape, seeds, sd=sd, gap=gap)).by_row
        found.append((len(ranks) - ranks[0].last) / (len(ranks) - 1))
    return float(np.mean(found))


# --- Seconds ---


def seconds() -> Iterator[str]:
    """Yield lines of a table of what things cost."""
    rng = np.random.default_rng(17)
    images = 10_000
    sets = ImageSet("id", images), ImageSet("ood", images)
    scores = {i: (rng.normal(size=images), rng.normal(1, size=images)) for i in range(6)}
    start = time.perf_counter()
    found = sample_metrics(scores, *sets)
    cells = [{s: found[3 * row + s]["auroc"] for s in range(3)} for row in (0, 1)]
    yield f"| 1,000 replicates of six models' metrics, 10,000 + 10,000 images | {since(start)} |"
    start = time.perf_counter()
    paired_delta(*cells)
    yield f"| one delta and interval, 3 seeds, from these | {since(start)} |"
    table = table_of(rng, (6, 10), 3)
    start = time.perf_counter()
    rank(table)
    yield f"| ranks of 60 rows, 3 seeds, 150 replicates | {since(start)} |"


def since(start: float) -> str:
    """Return how long ago that was."""
    return f"{time.perf_counter() - start:.3f} s"


# --- The page ---


def print_coverage(repeats: int) -> None:
    """Print a table for AUROC, and one line of FPR95."""
    print(f"\n## Coverage of nominal {LEVEL:.0%} intervals, % (mean half width, points)\n")
    print(f"{repeats} repeats: one SD is {100 * math.sqrt(0.95 * 0.05 / repeats):.1f}.\n")
    header = False
    for metric, case in [("auroc", case) for case in CASES] + [("fpr95_ood", CASES[1])]:
        for seeds in (2, 3, 5, 10):
            found = coverage(case, seeds, metric, repeats)
            if not header:
                print("| metric | varies by | seeds |", " | ".join(found), "|")
                print("|---|---|---|" + "---|" * len(found))
                header = True
            cells = (f"{100 * share:.1f} ({100 * half:.1f})" for share, half in found.values())
            print(f"| {metric} | {case.name} | {seeds} |", " | ".join(cells), "|", flush=True)


def print_ranks(repeats: int) -> None:
    """Print the tables of false separations and of power."""
    shapes: Mapping[int, tuple[int, int]] = {6: (6, 1), 20: (4, 5), 60: (6, 10)}
    print("\n## Tables in which any two equal rows were told apart, %\n")
    print(
        f"At most {100 * ALPHA:g} % are allowed. One SD at 4 % is",
        f"{100 * math.sqrt(0.0384 / repeats):.1f} for {repeats} tables. All rows are equal,",
        "save in the last column.",
    )
    print("", *(f"- {name}: {what}." for name, what in SPREADS.items()), "", sep="\n")
    print("| rows | seeds | tables |", " | ".join(SPREADS), "|")
    print("|---|---|---|" + "---|" * len(SPREADS))
    for rows, shape in shapes.items():
        for seeds in (3, 5, 10):
            # many rows take longest; three seeds are what most tables have
            tables = repeats if rows < 60 or seeds == 3 else repeats // 4
            shares = (false_separations(shape, seeds, spread, tables) for spread in SPREADS)
            cells = " | ".join(f"{100 * s:.1f}" for s in shares)
            print(f"| {rows} | {seeds} | {tables} | {cells} |", flush=True)
    tables_of_power = repeats // 40
    gaps = [(sd, gap) for sd in (0.003, 0.01) for gap in (0.01, 0.03, 0.1)]
    print("\n## Other rows from which one better row was told apart, %\n")
    print("By the SD of one row over seeds, and the gap; both in points of AUROC.", end=" ")
    print(f"{tables_of_power} tables each.\n")
    print("| rows | seeds |", " | ".join(f"{100 * s:g}: {100 * g:g}" for s, g in gaps), "|")
    print("|---|---|" + "---|" * len(gaps))
    for rows, shape in shapes.items():
        for seeds in (3, 5, 10):
            cells = (power(shape, seeds, sd, gap, tables_of_power) for sd, gap in gaps)
            print(
                f"| {rows} | {seeds} |",
                " | ".join(f"{100 * c:.0f}" for c in cells),
                "|",
                flush=True,
            )


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--only", choices=("seconds", "ranks", "coverage"))
    options = parser.parse_args()
    print("# Intervals and ranks, on simulated models\n")
    print(
        "Made by `benchmarks/intervals.py`;", f"numpy {np.__version__}, scipy {scipy.__version__},"
    )
    print(f"Python {platform.python_version()}, one core of {device_name()}.")
    if options.only in (None, "seconds"):
        print("\n## Seconds, one run\n\n| what | time |\n|---|---|")
        print(*seconds(), sep="\n", flush=True)
    if options.only in (None, "ranks"):
        print_ranks(options.repeats // 2)
    if options.only in (None, "coverage"):
        print_coverage(options.repeats)


if __name__ == "__main__":
    main()
