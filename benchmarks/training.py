"""The training loop beside the plain loop that the field uses: speed, masks, roofline, accuracy.

The plain loop is the authors' (ZFancy/Unleashing-Mask, 1640ce6) as others write it too: PIL images
cropped, flipped and turned into float tensors by the workers of a DataLoader, normalised inside the
network, float32, NCHW, one kernel for each weight in the optimiser, loss and accuracy read after
each step. Their `set_detect_anomaly(True)` is left out, which makes a step slower still.

Each round trains one epoch by every loop in turn, after one that is not counted; ratios are of the
same round, and their median is shown. Of one thread on a CPU, seconds are those of the processes
themselves, the workers' included: a machine that is busy otherwise shifts them little.

    python benchmarks/training.py [--device cuda] [--backbone densenet100_bc_cifar] [--data-dir DIR]

writes a page to benchmarks/results/. Rounds end after --minutes (default 10); the accuracies take
about as long again. On a GPU add `--images 50000 --precision bfloat16 --compiled`.
"""

import argparse
import copy
import dataclasses
import datetime
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import roofline
import torch
import torch.nn.functional as F
from hardware import RESULTS, described, page_of
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from um_bench.adapters import Adapter, Finetune, Plan
from um_bench.backbones import create
from um_bench.data import ImageSet, Loader, fingerprint, load_set
from um_bench.suite import Preprocessing, Recipe
from um_bench.training import adapt
from um_bench_um.masks import bake, mask_weights

PLAIN, OURS = "plain loop", "um-bench"


# --- The plain loop ---


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets hand them out: PIL, then transformed one by one."""

    def __init__(self, data: ImageSet, augmentation: str) -> None:
        self.images = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in data.images]
        self.labels = data.labels.tolist()
        padding = {"crop-flip": 4, "crop": 1}[augmentation]
        flip = [transforms.RandomHorizontalFlip()] if augmentation == "crop-flip" else []
        size = data.images.shape[-1]
        self.transform = transforms.Compose(
            [transforms.RandomCrop(size, padding=padding), *flip, transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain_training(
    model: nn.Module, data: ImageSet, recipe: Recipe, *, seed: int, device: str, workers: int
) -> nn.Module:
    """Return a trained copy of a classifier, by the loop that the field uses."""
    torch.manual_seed(seed)
    model = copy.deepcopy(model).to(device).requires_grad_(True).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        foreach=False,
        fused=False,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    loader = DataLoader(
        PilImages(data, recipe.augmentation),
        recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
        multiprocessing_context="fork" if workers else None,
    )
    losses, correct = 0.0, 0.0
    for _ in range(recipe.epochs):
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item()
            correct += (logits.argmax(1) == labels).float().mean().item()
        schedule.step()
    return model.eval()


# --- What is compared ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled(Finetune):
    """`finetune` through torch.compile with CUDA graphs, which um-bench does not use."""

    mode: str = "reduce-overhead"

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Compile the forward and backward pass."""
        model.compile(mode=self.mode)
        return super().prepare(model, train)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Finetune):
    """Plain cross-entropy on UMAP's masks, without the pass over the images that UM begins with."""

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Train the scores of masks over frozen weights."""
        mask_weights(model.requires_grad_(False), 0.8)
        return dataclasses.replace(super().prepare(model, train), finish=bake)


class Setting(NamedTuple):
    """On what, and how, everything is trained."""

    backbone: str
    device: str
    workers: int


Training = Callable[..., nn.Module]
"""Model, data, recipe, seed=... -> a trained copy."""


def trainings(
    setting: Setting, precisions: Sequence[str], *, compiled: bool = False
) -> dict[str, Training]:
    """Return the loops by name, the plain one first."""
    found: dict[str, Training] = {
        PLAIN: partial(plain_training, device=setting.device, workers=setting.workers)
    }
    adapters: dict[str, Adapter] = {"": Finetune(), ", masks": Masked()}
    if compiled:
        adapters[", compiled"] = Compiled()
    for precision in precisions:
        for name, adapter in adapters.items():
            of_ours = partial(_ours, adapter, precision, setting.device)
            found[f"{OURS}{name}, {precision}"] = of_ours
    return found


def _ours(
    adapter: Adapter,
    precision: str,
    device: str,
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
) -> nn.Module:
    recipe = dataclasses.replace(recipe, precision=precision)
    return adapt(adapter, model, data, recipe, seed=seed, device=device).model


def noise(count: int, size: int = 32) -> ImageSet:
    """Return random images of 10 classes: for speed alone."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 10
    return ImageSet("noise", pixels, labels, fingerprint(pixels, labels))


def classifier(backbone: str, seed: int, size: int) -> nn.Module:
    """Return a classifier of 10 classes with fresh weights."""
    torch.manual_seed(seed)
    preprocessing = Preprocessing(size=size, mean=(0.5,) * 3, std=(0.25,) * 3)
    return create(backbone, num_classes=10, preprocessing=preprocessing)


# --- Speed ---


class Spent(NamedTuple):
    """What one epoch took, in seconds."""

    wall: float
    cpu: float
    """Of this process and its workers."""


def spent(work: Callable[[], object], device: str) -> Spent:
    """Return what one call took."""
    roofline.finish(device)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    work()
    roofline.finish(device)
    return Spent(time.perf_counter() - wall, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def rounds(
    loops: Mapping[str, Training], setting: Setting, data: ImageSet, recipe: Recipe, given: Any
) -> dict[str, list[Spent]]:
    """Return what an epoch took by each loop, round by round; at least one round."""
    model = classifier(setting.backbone, 0, data.images.shape[-1])
    found: dict[str, list[Spent]] = {name: [] for name in loops}
    deadline = time.monotonic() + 60 * given.minutes
    first = ImageSet("first", data.images[: given.batch_size], data.labels[: given.batch_size], "")
    for train in loops.values():
        train(model, first, recipe, seed=0)
    for number in range(given.rounds):
        if number and time.monotonic() > deadline:
            break
        for name, train in loops.items():
            epoch = partial(train, model, data, recipe, seed=number)
            found[name].append(spent(epoch, setting.device))
    return found


def of_one_thread(setting: Setting) -> bool:
    """Return whether seconds are those of the processes, not those of the clock on the wall."""
    return torch.device(setting.device).type == "cpu" and torch.get_num_threads() == 1


def seconds(found: Sequence[Spent], setting: Setting) -> list[float]:
    """Return the seconds that count."""
    return [one.cpu if of_one_thread(setting) else one.wall for one in found]


def speed_lines(
    found: Mapping[str, Sequence[Spent]], setting: Setting, images: int
) -> Iterator[str]:
    """Yield a table of images a second and ratios."""
    unit = "a CPU second" if of_one_thread(setting) else "a second"
    yield f"| loop | images {unit} | x the plain loop's speed | range over rounds | wall clock |"
    yield "|---|---|---|---|---|"
    plain = found[PLAIN]
    for name, times in found.items():
        rate = images / statistics.median(seconds(times, setting))
        pairs = zip(seconds(plain, setting), seconds(times, setting), strict=True)
        ratios = [a / b for a, b in pairs]
        wall = statistics.median(a.wall / b.wall for a, b in zip(plain, times, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        yield f"| {name} | {rate:.0f} | {statistics.median(ratios):.2f} | {spread} | {wall:.2f} |"


def mask_lines(
    found: Mapping[str, Sequence[Spent]], setting: Setting, precisions: Sequence[str]
) -> Iterator[str]:
    """Yield what UMAP's masks cost, as a multiple of the same epoch without."""
    for precision in precisions:
        plain = seconds(found[f"{OURS}, {precision}"], setting)
        masked = seconds(found[f"{OURS}, masks, {precision}"], setting)
        ratios = [b / a for a, b in zip(plain, masked, strict=True)]
        yield (
            f"UMAP's masks, {precision}: an epoch takes {statistics.median(ratios):.2f} times one "
            f"without ({min(ratios):.2f} to {max(ratios):.2f})."
        )


# --- Roofline ---


def roofline_lines(
    found: Mapping[str, Sequence[Spent]],
    setting: Setting,
    data: ImageSet,
    recipe: Recipe,
    size: int | None,
) -> Iterator[str]:
    """Yield a table of the shares of the device's measured peak that the loops reach."""
    work = step_work(setting, data, recipe)
    peaks = {
        precision: roofline.peak(setting.device, getattr(torch, precision), size=size)
        for precision in ("float32", "bfloat16")
        if precision == "float32" or any(precision in name for name in found)
    }
    steps = len(data) / recipe.batch_size
    yield (
        f"A step on {recipe.batch_size} images: {work.flops / 1e9:.1f} GFLOP, and "
        f"{work.traffic / 1e9:.2f} GB read and written in float32 if nothing is fused or cached."
    )
    for precision, most in peaks.items():
        yield (
            f"Measured peak, {precision}: {most.flops / 1e9:.0f} GFLOP/s, "
            f"{most.bandwidth / 1e9:.1f} GB/s."
        )
    yield from ("", "| loop | share of arithmetic | share of bandwidth |", "|---|---|---|")
    for name, times in found.items():
        if "masks" in name:
            continue
        precision = "bfloat16" if "bfloat16" in name else "float32"
        one = statistics.median(seconds(times, setting)) / steps
        reached = roofline.share(work, one, peaks[precision])
        # In bfloat16 the maps are half as large.
        bandwidth = reached.bandwidth / (2 if precision == "bfloat16" else 1)
        yield f"| {name} | {reached.arithmetic:.0%} | {bandwidth:.0%} |"


def step_work(setting: Setting, data: ImageSet, recipe: Recipe) -> roofline.Work:
    """Return what a training step asks of the device."""
    model = classifier(setting.backbone, 0, data.images.shape[-1]).to(setting.device)
    model.train().requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    images = data.images[: recipe.batch_size].to(setting.device) / 255
    labels = data.labels[: recipe.batch_size].to(setting.device)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    work = roofline.count(step)
    share = recipe.batch_size / len(images)
    return roofline.Work(work.flops * share, work.traffic * share)


# --- Accuracy ---


class Task(NamedTuple):
    """A small classification problem with real images."""

    name: str
    train: ImageSet
    test: ImageSet
    recipe: Recipe


def tasks(data_dir: Path | None, epochs: int) -> Iterator[Task]:
    """Yield digits, and CIFAR-10 at 16x16 where it is."""
    at_8 = Preprocessing(size=8)
    digits = [
        load_set(f"digits/{p}", data_dir=Path(), preprocessing=at_8) for p in ("train", "test")
    ]
    recipe = Recipe(epochs=epochs, batch_size=64, lr=0.1, augmentation="crop")
    yield Task("digits, 8x8", *digits, recipe)
    if data_dir is not None:
        at_16 = Preprocessing(size=16, resize="squash")
        load = partial(load_set, data_dir=data_dir, preprocessing=at_16, every_class=False)
        train = load("openood-cifar10/train", limit=2000)
        test = load("openood-cifar10/test", limit=2000)
        yield Task("CIFAR-10, 16x16", train, test, dataclasses.replace(recipe, batch_size=128))


def accuracy_lines(
    loops: Mapping[str, Training], setting: Setting, data_dir: Path | None, given: Any
) -> Iterator[str]:
    """Yield a table of test accuracies, mean and SD over seeds, and of paired differences."""
    yield "| task | loop | accuracy, % | minus the plain loop's, points: mean, SD over seeds |"
    yield "|---|---|---|---|"
    for task in tasks(data_dir, given.epochs):
        reached: dict[str, list[float]] = {}
        for seed in range(given.seeds):
            start = classifier(given.accuracy_backbone, seed, task.train.images.shape[-1])
            for name, train in loops.items():
                model = train(start, task.train, task.recipe, seed=seed)
                reached.setdefault(name, []).append(100 * accuracy(model, task.test, setting))
        what = f"{task.name}, {len(task.train)} + {len(task.test)} images"
        for name, values in reached.items():
            deltas = [a - b for a, b in zip(values, reached[PLAIN], strict=True)]
            yield f"| {what} | {name} | {_spread(values)} | {_spread(deltas)} |"


def _spread(values: Sequence[float]) -> str:
    sd = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.2f} ± {sd:.2f}"


@torch.no_grad()
def accuracy(model: nn.Module, data: ImageSet, setting: Setting) -> float:
    """Return the share of a set that a classifier gets right, in float32."""
    loader = Loader(data, batch_size=500, device=setting.device)
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    return right / len(data)


# --- The page ---


def page(given: Any) -> Iterator[str]:
    """Yield the lines of the page."""
    setting = Setting(given.backbone, given.device, given.workers)
    loops = trainings(setting, given.precision, compiled=given.compiled)
    data = noise(given.images, given.size)
    recipe = Recipe(epochs=1, batch_size=given.batch_size, lr=0.01)
    found = rounds(loops, setting, data, recipe, given)
    count = len(found[PLAIN])
    yield f"# Training {given.backbone}: um-bench beside the plain loop\n"
    yield f"- {described(given.device)}, {platform.system()} {platform.machine()}"
    yield f"- torch {torch.__version__}, Python {platform.python_version()}, {_today()}"
    yield f"- n = {count} rounds; in each, every loop trains an epoch of {given.images} images of"
    yield f"  {given.size}x{given.size} in batches of {given.batch_size}, the plain one with"
    yield f"  {given.workers} workers; load average {os.getloadavg()[0]:.1f}"
    yield f"- `python benchmarks/training.py {_command(given)}`"
    yield from ("", "## Speed", "", *speed_lines(found, setting, given.images), "")
    yield from mask_lines(found, setting, given.precision)
    yield from ("", "## Roofline", "")
    yield from roofline_lines(found, setting, data, recipe, given.peak_size)
    if not given.seeds:
        return
    yield from ("", "## Accuracy", "", f"{given.accuracy_backbone} from fresh weights,")
    yield f"{given.epochs} epochs, {given.seeds} seeds.\n"
    alike = {name: train for name, train in loops.items() if "masks" not in name}
    yield from accuracy_lines(alike, setting, given.data_dir, given)


def _command(given: Any) -> str:
    """Return what was given, without the folders of this machine."""
    shown = {**vars(given), "data_dir": "DIR" if given.data_dir else None, "out": None}
    words = []
    for name, value in shown.items():
        if value is not None and value is not False:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the training loop with the plain one.")
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--backbone", default="resnet20_cifar")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=4 if on_gpu else 2)
    parser.add_argument("--precision", nargs="+", default=["float32"])
    parser.add_argument("--compiled", action="store_true", help="torch.compile and CUDA graphs too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--peak-size", type=int, help="side of the matrices of the peak")
    parser.add_argument("--accuracy-backbone", default="resnet20_cifar")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5, help="of the accuracies; 0 = none")
    parser.add_argument(
        "--data-dir", type=Path, help="with CIFAR-10 in OpenOOD's layout: accuracy on it too"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, write the page and print its name."""
    given = _arguments(arguments)
    lines = [*page(given)]
    words = ("training", given.backbone, described(given.device), f"torch {torch.__version__}")
    n = next(line for line in lines if line.startswith("- n = ")).split()[3]
    path = page_of(given.out, *words, f"n{n}")
    path.write_text("\n".join(lines) + "\n")
    print(path)


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True  # as `um-bench run` has it
    main(sys.argv[1:])
