"""Try the smallest architecture of every timm module, and pytorch-ood's, with random weights.

Prints a Markdown table of what works and why the rest does not. Run by hand: it needs no data, no
network and no GPU, some minutes, and 4 GB of memory.

    OMP_NUM_THREADS=1 python benchmarks/backbones.py > backbones.md
    OMP_NUM_THREADS=1 python benchmarks/backbones.py resnet vgg     # these modules alone

Images are noise, and so are the heads' weights. For each architecture this checks, to 1e-5 of the
largest logit, that the head of its features gives the logits of its own forward pass, that its
inner layers agree with both, and that one forward pass gives all of them.
"""

import datetime
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import pytorch_ood.model
import timm
import torch
from hardware import device_name
from torch import Tensor, nn

from um_bench.backbones import Classifier, create
from um_bench.errors import UnsupportedError, UsageError
from um_bench.suite import Preprocessing

CLASSES = 10
SIZES = (64, 96, 112, 128, 224, 256)
"""Sides of the images that are tried, besides a model's own, until one fits. At 64, nearly every
network has more than one position left, so that a mistake in the layout of a map shows."""
LIMIT = 60.0
"""Seconds for each model."""
TOLERANCE = 1e-5
"""Relative to the largest logit."""
GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
POOD = {
    "pytorch-ood:wrn-40-2": (pytorch_ood.model.WideResNet, 32),
    "pytorch-ood:resnet-18": (pytorch_ood.model.ResNet18, 64),
    "pytorch-ood:resnet-50": (pytorch_ood.model.ResNet50, 64),
}
"""Architectures whose published weights pytorch-ood names, and the size to try."""


class Row(NamedTuple):
    """What became of one architecture."""

    family: str
    model: str
    size: str
    supported: bool
    stages: int
    """0 = none are shown."""
    note: str
    seconds: float


class TooSlowError(BaseException):
    """A model that took longer than `LIMIT`; um-bench, which reports whatever breaks, must not."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooSlowError if the block takes longer."""

    def stop(signum: int, frame: Any) -> None:
        raise TooSlowError(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def smallest(module: str) -> str:
    """Return the architecture of a timm module with the fewest parameters that has a head."""
    counts = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=CLASSES)
        if hasattr(net, "get_classifier"):
            counts[name] = sum(p.numel() for p in net.parameters())
    return min(counts, key=lambda name: counts[name])


def made(name: str) -> tuple[Classifier, int]:
    """Return a classifier and the size of its images, the first that it accepts.

    Raises:
        UnsupportedError: if um-bench refuses it.
        UsageError: if no size fits.
    """
    config = timm.get_pretrained_cfg(name)
    own = config.input_size[-1] if config else SIZES[-1]
    refused = UsageError(f"no size fits {name}")
    for size in dict.fromkeys((*SIZES, own)):
        for options in ({"img_size": size}, {}):
            try:
                preprocessing = Preprocessing(size=size, **GREY)
                model = create(
                    name, num_classes=CLASSES, preprocessing=preprocessing, options=options
                )
            except UsageError as error:
                refused = error
            else:
                return model, size
    raise refused


def try_timm(module: str) -> Row:
    """Return what becomes of a timm module's smallest architecture."""
    name = smallest(module)
    return row(module, name, lambda: made(name))


def try_pytorch_ood(name: str) -> Row:
    """Return what becomes of an architecture of pytorch-ood."""
    kind, size = POOD[name]

    def make() -> tuple[Classifier, int]:
        model = Classifier(kind(num_classes=CLASSES), num_classes=CLASSES, **GREY).eval()
        model.try_inside(noise(size, 1))
        return model, size

    return row("pytorch-ood", name.partition(":")[2], make)


def row(family: str, name: str, make: Callable[[], tuple[Classifier, int]]) -> Row:
    """Return what becomes of an architecture; whatever breaks ends up in the row."""
    start = time.perf_counter()
    torch.manual_seed(0)
    size, supported, stages, note = 0, False, 0, ""
    try:
        with limited(LIMIT), torch.no_grad():
            model, size = make()
            draw_head(model.net)
            check(model, size)
            supported = True
            stages, note = inside(model, size)
    except (UnsupportedError, UsageError, TooSlowError) as error:
        note = str(error)
    except Exception as error:
        note = f"BROKEN: {type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    return Row(family, name, f"{size}x{size}" if size else "", supported, stages, note, seconds)


def heads(net: Any) -> tuple[nn.Module, ...]:
    """Return the modules that a network calls its classifier."""
    head = net.get_classifier() if hasattr(net, "get_classifier") else net.fc
    return head if isinstance(head, tuple) else (head,)


def draw_head(net: Any) -> None:
    """Add noise to a head: some start at zero, and zero logits agree with anything."""
    for head in heads(net):
        for value in head.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.1)


def check(model: Classifier, size: int) -> None:
    """Check that features, head and logits agree with the network's own forward pass."""
    images = noise(size, 2)
    expected = model.net((images - model.mean) / model.std)
    require_close("forward", model(images), expected)
    require_close("head of features", model.head(model.features(images)), expected)


def inside(model: Classifier, size: int) -> tuple[int, str]:
    """Return the number of stages that a classifier shows, and what is missing; check the rest."""
    images = noise(size, 2)
    try:
        count = model.num_maps
    except UnsupportedError as error:
        return 0, str(error)
    ran = calls(model, lambda: model.inner(images))
    if ran != calls(model, lambda: model.features(images)):
        raise AssertionError("inner runs other modules, or more often, than features")
    check_inner(model, images)
    try:
        stages = model.stages
    except UnsupportedError as error:
        return count, str(error)
    outputs = {}
    for place, stage in enumerate(stages):
        stage.register_forward_hook(partial(keep, outputs, place))
    model(images)
    for place, shown in enumerate(model.inner(images).maps):
        require_mean(f"stage {place}", model.stage_map(outputs[place]), shown)
    return count, ""


def keep(outputs: dict[int, Tensor], place: int, *call: Any) -> None:
    """Keep the output of a hooked stage."""
    outputs[place] = call[-1].clone()


def check_inner(model: Classifier, images: Tensor) -> None:
    """Check that inner layers agree with features, logits and each other."""
    inner = model.inner(images)
    require_close("features of inner", inner.features, model.features(images))
    require_close("logits of inner", inner.logits, model(images))
    require_close("head of map", model.head_of_map(inner.final), model(images))
    positions = [shown.shape[2] * shown.shape[3] for shown in inner.maps]
    if positions != sorted(positions, reverse=True):
        raise AssertionError(f"positions of the maps grow: {positions}")


def require_mean(what: str, output: Tensor, shown: Tensor) -> None:
    """Raise AssertionError if a stage's output has other channels' means than its map."""
    # Class tokens, which maps leave out, are in front.
    positions = shown.shape[2] * shown.shape[3]
    tokens = output.flatten(2)[:, :, -positions:]
    require_close(what, tokens.mean(2), shown.flatten(2).mean(2))


def calls(model: Classifier, run: Callable[[], object]) -> dict[str, int]:
    """Return how often each convolution and linear layer runs, the head left out."""
    ran: dict[str, int] = {}

    def tick(name: str, *_: object) -> None:
        ran[name] = ran.get(name, 0) + 1

    last = {part for head in heads(model.net) for part in head.modules()}
    handles = [
        layer.register_forward_hook(partial(tick, name))
        for name, layer in model.net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in last
    ]
    run()
    for handle in handles:
        handle.remove()
    return ran


def noise(size: int, images: int) -> Tensor:
    """Return the same images for every model of a size."""
    return torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(1))


def require_close(what: str, given: Tensor, expected: Tensor) -> None:
    """Raise AssertionError if two tensors differ by more than `TOLERANCE`."""
    gap = ((given - expected).abs().max() / expected.abs().max()).item()
    if given.shape != expected.shape or not gap <= TOLERANCE:
        raise AssertionError(f"{what} differs by {gap:.1e}")


def main(modules: list[str]) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    rows = []
    for module in modules or [*timm.list_modules(), *POOD]:
        rows.append((try_pytorch_ood if module in POOD else try_timm)(module))
        print(f"{module}: {rows[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    report(rows, time.perf_counter() - start)


def report(rows: list[Row], seconds: float) -> None:
    """Print rows and their counts as Markdown."""
    packages = ("um-bench", "timm", "torch", "torchvision", "pytorch-ood")
    scored = [row for row in rows if row.supported]
    shown = [row for row in scored if row.stages]
    unhooked = sum(bool(row.note) for row in shown)
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"""# Backbones: one architecture of every family

Of {len(rows)} families, {len(scored)} give logits and features, and {len(rows) - len(scored)} is \
unsupported. Of the {len(scored)}, {len(shown)} show
inner layers ({unhooked} of them without modules to hook, which only `nac` needs) and \
{len(scored) - len(shown)} do not.

- Date: {today}. Time: {seconds / 60:.1f} min, {torch.get_num_threads()} thread, \
{device_name()}, Python {platform.python_version()}.
- Versions: {", ".join(f"{name} {version(name)}" for name in packages)}.
- Command: `OMP_NUM_THREADS={os.environ.get("OMP_NUM_THREADS", "")} python benchmarks/backbones.py`

A family is a module of timm (`cifar`: um-bench's own); tried is the smallest architecture in it
that has a head, with random weights, at the first of the sizes {", ".join(map(str, SIZES))}
that fits. *Stages* are the inner layers that detectors can read; a dash means that detectors which
need them are `unsupported` with this backbone, for the reason in the last column. The script says
what is checked.

| family | architecture | images | logits, features | stages | reason |
| --- | --- | --- | --- | --- | --- |""")
    for row in rows:
        cells = (row.size, "yes" if row.supported else "no", str(row.stages or "-"), row.note)
        print(f"| {row.family} | `{row.model}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
