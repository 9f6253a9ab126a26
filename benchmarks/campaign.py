"""The CIFAR-10 campaign on one GPU, in slices: call it again until it says that all is done.

    python benchmarks/campaign.py --packed KIT --data data --results results

It unpacks the images (a folder of tars with an `unpack.py`, as far as they are there; leave it out
where the data are in place), measures how fast this device trains each backbone, writes down a plan
whose number of epochs fits into `--minutes`, and then runs `um-bench run --suite cifar10-campaign`,
backbone after backbone and seed after seed, so that what is cut off leaves complete seeds. A slice
ends after `--seconds`; what is finished is kept, and a training that was cut off goes on where it
was. The exit code is 0 when all is done, and 75 when there is more to do.

The plan is made once and kept in RESULTS/campaign.json: all slices train by the same recipe. Epochs
are shortened by one factor for all; what was used is in every record.
"""

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from um_bench.suite import Recipe, Suite

MORE_TO_DO = 75
"""As sysexits.h has it: try again."""
FAILED_CELLS = 1
"""Of um-bench: there are some, the rest is done."""
GRACE = 20
"""Seconds from the interrupt to the end of a slice: records are written meanwhile."""
TRACKED = 10
"""Points of a trajectory, at most."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the time is spent."""

    device: str
    speeds: dict[str, float]
    """Backbone -> images a second in training."""
    epochs: dict[str, int]
    """Recipe (base, recipe, outlier_recipe) -> epochs, of every backbone."""
    minutes: dict[str, dict[str, float]]
    """Backbone -> adapter -> minutes of one seed; the base classifier is with the first adapter."""

    def lines(self, seeds: int) -> Iterator[str]:
        """Yield the plan in words."""
        yield f"on {self.device}, epochs: {self.epochs}"
        for backbone, stages in self.minutes.items():
            total = seeds * sum(stages.values())
            speed = f"{self.speeds[backbone]:,.0f} images/s in training"
            yield f"{backbone}: {speed}; {total:.1f} minutes for {seeds} seeds"
            yield from (f"  {name:24} {its:7.2f} minutes a seed" for name, its in stages.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one slice; return the exit code."""
    start = time.monotonic()
    options = _options().parse_args(arguments)
    if options.packed:
        subprocess.run(
            [sys.executable, str(options.packed / "unpack.py"), str(options.data)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    plan = _plan(options)
    print("\n".join(plan.lines(len(options.seeds.split(",")))), flush=True)
    if options.plan_only:
        return 0
    worst = 0
    for step in _steps(plan, options.seeds.split(","), options.sensitivity):
        code = _run(options, plan, step, options.seconds - (time.monotonic() - start))
        if code not in (0, FAILED_CELLS):
            return code
        worst = max(worst, code)
    print("all done" if not worst else "all done; some cells failed", flush=True)
    return worst


class Step(NamedTuple):
    """One call of um-bench."""

    backbone: str
    seed: str
    adapters: str
    """Empty = the suite's."""


def _steps(plan: Plan, seeds: Sequence[str], sensitivity: str) -> Iterator[Step]:
    """Yield the first backbone, seed by seed, then what is varied on it, then the others."""
    first, *others = plan.speeds
    yield from (Step(first, seed, "") for seed in seeds)
    varied = ",".join(f"um@constraint={value}" for value in sensitivity.split(",") if value)
    yield from (Step(first, seed, varied) for seed in seeds if varied)
    yield from (Step(backbone, seed, "") for backbone in others for seed in seeds)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packed", type=Path, help="folder of packed images with an unpack.py")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--suite", default="cifar10-campaign", help="name or TOML file")
    parser.add_argument("--backbones", default="densenet100_bc_cifar,resnet18_cifar,wrn40_2_cifar")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--sensitivity", default="0.02,0.05,0.1,0.2,0.3,0.5,1.0", help="constraints of um to try"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", default="auto", help="as of um-bench run")
    parser.add_argument("--seconds", type=float, default=520, help="of this slice")
    parser.add_argument("--minutes", type=float, default=28, help="for the first backbone's seeds")
    parser.add_argument("--limit", type=int, help="images of each set: to try it out")
    parser.add_argument("--plan-only", action="store_true", help="measure, write the plan, stop")
    return parser


# --- The plan ---


def _plan(options: argparse.Namespace) -> Plan:
    path = options.results / "campaign.json"
    if path.exists():
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    plan = _made(options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(plan), indent=1) + "\n", encoding="utf-8")
    return plan


def _made(options: argparse.Namespace) -> Plan:
    """Measure, and shorten the epochs until the first backbone's seeds fit."""
    from um_bench.suite import load_suite
    from um_bench.sweep import choose_device

    suite, device = load_suite(options.suite), choose_device(options.device)
    if options.limit:
        suite = suite.replace(limit=options.limit)
    backbones = options.backbones.split(",")
    speeds = {name: _speed(_on(suite, name), device) for name in backbones}
    seeds = len(options.seeds.split(","))

    def minutes(name: str, share: float) -> dict[str, float]:
        return _minutes(_shortened(_on(suite, name), share), options.data, speeds[name])

    # Time is linear in the epochs: what is left of it at the smallest share is scoring.
    least, whole = (seeds * sum(minutes(backbones[0], share).values()) for share in (0.0, 1.0))
    share = min(1.0, max(0.0, (options.minutes - least) / max(whole - least, 1e-9)))
    short = _shortened(suite, share)
    recipes = {"base": short.base, "recipe": short.recipe, "outlier_recipe": short.outlier_recipe}
    return Plan(
        device=device,
        speeds=speeds,
        epochs={name: recipe.epochs for name, recipe in recipes.items() if recipe},
        minutes={name: minutes(name, share) for name in backbones},
    )


def _on(suite: "Suite", backbone: str) -> "Suite":
    if backbone == suite.backbone:
        return suite
    return suite.replace(backbone=backbone, backbone_options={})


def _shortened(suite: "Suite", share: float) -> "Suite":
    def of(recipe: "Recipe") -> "Recipe":
        return dataclasses.replace(recipe, epochs=max(1, round(recipe.epochs * share)))

    outliers = of(suite.outlier_recipe) if suite.outlier_recipe else None
    return suite.replace(base=of(suite.base), recipe=of(suite.recipe), outlier_recipe=outliers)


def _minutes(suite: "Suite", data: Path, speed: float) -> dict[str, float]:
    """Return the minutes of one seed by adapter, at so many images a second in training."""
    from um_bench.sweep import prepare

    with tempfile.TemporaryDirectory() as scratch:
        sweep = prepare(
            suite.replace(seeds=suite.seeds[:1]), results=Path(scratch), data_dir=data, device="cpu"
        )
        # A training step on an image is the work of three forward passes.
        return {job.adapter: sweep.work(job) / 3 / speed / 60 for job in sweep.suite.jobs()}


def _speed(suite: "Suite", device: str) -> float:
    """Return how many images a second plain fine-tuning of a backbone takes."""
    from um_bench.adapters import Finetune
    from um_bench.backbones import create
    from um_bench.data import ImageSet
    from um_bench.training import adapt

    size, batch = suite.preprocessing.size, suite.recipe.batch_size
    count = batch * (40 if device.startswith("cuda") else 1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    labels[:10] = torch.arange(10)
    images = ImageSet("random pixels", pixels, labels, "random pixels", classes=10)
    model = create(
        suite.backbone,
        num_classes=10,
        preprocessing=suite.preprocessing,
        options=suite.backbone_options,
    )
    done: list[float] = []
    recipe = dataclasses.replace(suite.recipe, epochs=3)
    adapt(
        Finetune(),
        model,
        images,
        recipe,
        seed=0,
        device=device,
        on_epoch=lambda _: done.append(time.perf_counter()),
    )
    return count / (done[-1] - done[-2])  # the first epochs warm up


# --- A slice ---


def _run(options: argparse.Namespace, plan: Plan, step: Step, seconds: float) -> int:
    """Run a step until it is done or the slice ends; return the exit code."""
    command = [sys.executable, "-m", "um_bench", "run", "--suite", options.suite]
    command += ["--data-dir", str(options.data), "--results", str(options.results)]
    command += ["--backbone", step.backbone, "--seeds", step.seed, "--device", options.device]
    command += ["--adapters", step.adapters] if step.adapters else []
    command += ["--jobs", options.jobs] if options.jobs != "1" else []
    for recipe, epochs in plan.epochs.items():
        command += ["--set", f"{recipe}.epochs={epochs}"]
    command += ["--track-every", str(max(1, plan.epochs["recipe"] // TRACKED))]
    command += ["--limit", str(options.limit)] if options.limit else []
    if seconds <= GRACE:
        return MORE_TO_DO
    print(" ".join(command), flush=True)
    process = subprocess.Popen(command)
    try:
        return process.wait(seconds - GRACE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print("this slice is over; call it again", flush=True)
        return MORE_TO_DO


if __name__ == "__main__":
    sys.exit(main())
