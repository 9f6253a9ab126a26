"""Measure a sweep: 20 detectors x 6 OOD sets, beside one plain pass and pytorch-ood's benchmark.

Plain is one forward pass over all images, those that detectors are fitted on included. Ours is what
a job does after training: the same passes, then fits, scores, metrics, alarms and files of scores.
The peer is `pytorch_ood.benchmark.Benchmark.evaluate`, given the same detectors as a list, fitted
already and with one encoder for all, so that it shares what it can; to its time is added the pass
over the images to fit on, and the fits are given to it for nothing. The three take turns. Images
are noise, and weights random: neither changes what is computed. Sets have the sizes of CIFAR-10's
suite times `--size`; distances to all fitted images grow with its square, the rest with it.

    OMP_NUM_THREADS=1 python benchmarks/sweep.py                  # 4 min on a core
    python benchmarks/sweep.py --size 1 --device cuda --rounds 5

On one thread of a CPU, time is the process's own, whatever else the machine does.
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hardware import RESULTS, described, device_name, page_of
from pytorch_ood.benchmark import Benchmark
from roofline import Share, Work, best_seconds, count, peak, share, timed
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from um_bench import backbones, watch
from um_bench.data import ImageSet, Loader, fingerprint
from um_bench.detectors import fit, prepare
from um_bench.outputs import collect
from um_bench.scores import save_scores
from um_bench.scoring import BATCH_SIZE, FitSets, Passes, score_id, score_ood
from um_bench.suite import Preprocessing

DETECTORS = (
    *("msp", "maxlogit", "energy", "entropy", "gen", "klmatching", "openmax"),
    *("mahalanobis", "rmd", "gmm", "knn", "nnguide", "vim", "fdbd", "nci", "dice", "she"),
    *("react", "ash-s", "scale"),
)
FIT, TEST, OOD = 50_000, 9_000, (7_793, 10_000, 26_032, 5_640, 35_195, 9_000)
"""Images, as in OpenOOD's benchmark of CIFAR-10."""
CLASSES = 10


class Sets(NamedTuple):
    """What is scored."""

    fit: ImageSet
    test: ImageSet
    ood: list[ImageSet]

    @property
    def all(self) -> list[ImageSet]:
        """Each set once."""
        return [self.fit, self.test, *self.ood]


def make_sets(size: float, side: int) -> Sets:
    """Return sets of noise; ID sets have no useful labels yet."""
    generator = torch.Generator().manual_seed(0)

    def noise(name: str, count: int) -> ImageSet:
        count = max(2 * CLASSES, round(count * size))
        images = torch.randint(
            0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator
        )
        labels = torch.full((count,), -1)
        return ImageSet(name, images, labels, fingerprint(images, labels))

    return Sets(
        noise("fit", FIT),
        noise("test", TEST),
        [noise(f"ood{index}", count) for index, count in enumerate(OOD)],
    )


def make_model(name: str, side: int, device: str, sets: Sets) -> tuple[backbones.Classifier, Sets]:
    """Return a classifier that finds every class in noise, and the sets labelled by it."""
    torch.manual_seed(0)
    model = backbones.create(
        name, num_classes=CLASSES, preprocessing=Preprocessing(size=side, resize="none")
    )
    model.requires_grad_(False).eval().to(device)
    head = model.head_layer
    logits = collect(model, Loader(sets.test, batch_size=BATCH_SIZE, device=device)).logits
    scale, middle = 3 / logits.std(dim=0).to(device), logits.mean(dim=0).to(device)
    head.bias.copy_((head.bias - middle) * scale)
    head.weight.mul_(scale[:, None])
    return model, Sets(_labelled(model, sets.fit), _labelled(model, sets.test), sets.ood)


def _labelled(model: backbones.Classifier, data: ImageSet) -> ImageSet:
    device = next(model.parameters()).device
    labels = collect(model, Loader(data, batch_size=BATCH_SIZE, device=device)).logits.argmax(1)
    return ImageSet(data.name, data.images, labels, fingerprint(data.images, labels))


# --- Ours, plain, and the peer ---


class Counted:
    """Counts the images that a classifier is given, at its first layer."""

    def __init__(self, model: backbones.Classifier) -> None:
        self.images = 0
        first = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
        first.register_forward_pre_hook(self._count)

    def _count(self, part: nn.Module, given: tuple[Tensor]) -> None:
        self.images += len(given[0])


def plain(model: backbones.Classifier, sets: Sequence[ImageSet], device: str) -> None:
    """Forward every image once, and keep the logits."""
    with torch.no_grad():
        for data in sets:
            loader = Loader(data, batch_size=BATCH_SIZE, device=device)
            torch.cat([model(images) for images, _ in loader]).cpu()


def ours(model: backbones.Classifier, sets: Sets, device: str, folder: Path) -> None:
    """Do what a job does after training."""
    passes, untouched = Passes(model, device), watch.Untouched(model)
    for name in DETECTORS:
        known = score_id(passes, prepare(name), FitSets(sets.fit), sets.test)
        for data in sets.ood:
            scored = score_ood(passes, known, data)
            both = scored.scores["id"], scored.scores["ood"]
            watch.of_scores(*both)
            watch.ranking_of(*both)
            save_scores(folder / f"{name}-{data.name}.npz", scored.scores)
        untouched.alarms()


class Theirs(Benchmark):  # type: ignore[misc]  # pytorch-ood has no types
    """pytorch-ood's loop over sets that are here."""

    def __init__(self, sets: Sets) -> None:
        self.sets = sets
        self.ood_names = [data.name for data in sets.ood]

    def train_set(self) -> Dataset[Any]:
        """Return the images to fit on."""
        return _tensors(self.sets.fit)

    def test_sets(self, known: bool = True, unknown: bool = True) -> list[Dataset[Any]]:
        """Return each OOD set with the ID test set before it."""
        return [ConcatDataset([_tensors(self.sets.test), _tensors(o)]) for o in self.sets.ood]


class _AsFloats(TensorDataset):
    """Hands out images as floats, one by one, as a transform would."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return image.float().div_(255), label


def _tensors(data: ImageSet) -> Dataset[Any]:
    return _AsFloats(data.images, data.labels)


def their_detectors(model: backbones.Classifier, sets: Sets, device: str) -> list[Any]:
    """Return the detectors as pytorch-ood has them, fitted, on top of one model and encoder."""
    outputs = collect(model, Loader(sets.fit, batch_size=BATCH_SIZE, device=device))
    encoder = model.features
    maps = lambda images: encoder(images)[:, :, None, None]  # noqa: E731
    found = []
    for name in DETECTORS:
        binding = prepare(name)
        fitted = fit(binding, model, outputs).fitted
        fitted.__class__ = binding.spec.kind  # pytorch-ood's own, where ours is derived from it
        reads = binding.spec.reads
        attribute = {"logits": "model", "features": "encoder", "feature_maps": "backbone"}[reads]
        assert hasattr(fitted, attribute), name
        setattr(fitted, attribute, {"logits": model, "features": encoder}.get(reads, maps))
        found.append(fitted)
    return found


def theirs(detectors: list[Any], sets: Sets, device: str) -> None:
    """Evaluate all detectors in one call."""
    with torch.no_grad():
        Theirs(sets).evaluate(detectors, loader_kwargs={"batch_size": BATCH_SIZE}, device=device)


# --- The measurement ---


class Measured(NamedTuple):
    """Medians, and what was forwarded."""

    seconds: Mapping[str, float]
    images: Mapping[str, int]
    minimum: int
    share: Share
    """Of the device's peak, by the plain pass."""


def measure(backbone: str, side: int, size: float, device: str, rounds: int) -> Measured:
    """Return the times of the three, which take turns."""
    model, sets = make_model(backbone, side, device, make_sets(size, side))
    counted, fitted = Counted(model), their_detectors(model, sets, device)
    seconds: dict[str, list[float]] = {}
    images: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        works = {
            "plain": lambda: plain(model, sets.all, device),
            "ours": lambda: ours(model, sets, device, Path(folder)),
            "theirs": lambda: theirs(fitted, sets, device),
            "fit pass": lambda: plain(model, [sets.fit], device),
        }
        plain(model, [sets.test], device)
        for _ in range(rounds):
            for name, work in works.items():
                counted.images = 0
                seconds.setdefault(name, []).append(timed(work, device))
                images[name] = counted.images
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    medians["theirs"] += medians["fit pass"]
    images["theirs"] += images["fit pass"]
    return Measured(medians, images, sum(map(len, sets.all)), _share(model, sets.test, device))


def _share(model: backbones.Classifier, data: ImageSet, device: str) -> Share:
    """Return the share of the device's peak that the pass over one batch reaches."""
    batch = next(iter(Loader(data, batch_size=BATCH_SIZE, device=device)))[0]

    def forward() -> None:
        with torch.no_grad():
            model(batch)

    work: Work = count(forward)
    return share(work, best_seconds(forward, device), peak(device, torch.float32))


def report(found: Measured, facts: str) -> Iterator[str]:
    """Yield the lines of a result."""
    times, plain_time = found.seconds, found.seconds["plain"]
    yield "# A sweep: 20 detectors, 6 OOD sets"
    yield ""
    yield facts
    yield ""
    yield "| | seconds | times plain | images forwarded |"
    yield "| --- | --- | --- | --- |"
    names = {"plain": "one plain pass", "ours": "um-bench", "theirs": "pytorch-ood's benchmark"}
    for name, words in names.items():
        ratio = times[name] / plain_time
        yield f"| {words} | {times[name]:.2f} | {ratio:.2f} | {found.images[name]} |"
    yield ""
    yield f"Least number of images that can be forwarded: {found.minimum}. "
    yield f"pytorch-ood takes {times['theirs'] / times['ours']:.1f} times as long as um-bench."
    yield (
        f"The pass reaches {found.share.arithmetic:.0%} of the device's measured arithmetic and "
        f"{found.share.bandwidth:.0%} of its bandwidth (`benchmarks/roofline.py`)."
    )


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure, and write a result that is named for the hardware."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet20_cifar")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--size", type=float, default=0.05, help="of the sets; 1 = CIFAR-10's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    found = measure(given.backbone, given.side, given.size, given.device, given.rounds)
    versions = ", ".join(f"{n} {version(n)}" for n in ("um-bench", "pytorch-ood", "torch"))
    facts = (
        f"{described(given.device)}; {versions}, Python {platform.python_version()}; "
        f"{given.backbone}, {given.side}x{given.side} pixels, {given.size:g} of CIFAR-10's sets; "
        f"medians of n = {given.rounds} rounds."
    )
    words = ("sweep", given.backbone, f"size{given.size:g}", device_name(given.device))
    path = page_of(given.out, *words, f"n{given.rounds}")
    path.write_text("\n".join(report(found, facts)) + "\n")
    print(path.read_text())
    return path


if __name__ == "__main__":
    main()
