"""Measure the most memory that scoring takes: 50,000 x 512 to fit on, 150,000 x 512 to score.

Prints the peak after each detector. What a detector holds does not grow with the number of images
that it scores, so that it scores two blocks of each 4,096 of them; `--all` scores every one.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --write     # 2 min on a core
"""

import argparse
import platform
import resource
import sys
from importlib.metadata import version

import torch
from hardware import RESULTS, device_name, page_of

from um_bench import backbones
from um_bench.detectors import fit, prepare
from um_bench.metrics import ood_metrics
from um_bench.outputs import Outputs
from um_bench.suite import Preprocessing

DETECTORS = (
    *("msp", "maxlogit", "energy", "entropy", "gen", "klmatching", "temperature-scaling"),
    *("openmax", "mahalanobis", "rmd", "gmm", "knn", "nnguide", "vim", "fdbd", "nci", "pnml"),
    *("dice", "gradnorm", "graduncertainty", "react", "ash-s", "scale", "vra"),
)
FIT, SCORED = 50_000, 150_000
SOME = 2 * 4096
CLASSES = 10


def features_of(model: backbones.Classifier, count: int) -> Outputs:
    """Return outputs of images of every class."""
    labels = torch.arange(count) % CLASSES
    middles = torch.randn(CLASSES, model.feature_dim, generator=torch.Generator().manual_seed(0))
    features = (middles[labels] + torch.randn(count, model.feature_dim)).relu_()
    return Outputs(torch.cat([model.head(part) for part in features.split(4096)]), features, labels)


def peak() -> float:
    """Return the most memory that this process had so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    """Print the peak, and write it into a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="score all: it takes an hour")
    parser.add_argument("--write", action="store_true", help="write a file in results/ as well")
    given = parser.parse_args()
    count = SCORED if given.all else SOME
    torch.manual_seed(0)
    model = backbones.create(
        "resnet18_cifar", num_classes=CLASSES, preprocessing=Preprocessing(size=32, resize="none")
    )
    model.requires_grad_(False).eval()
    known, unknown = features_of(model, FIT), features_of(model, SCORED)
    scored = Outputs(unknown.logits[:count], unknown.features[:count], unknown.labels[:count])
    peaks: dict[str, float] = {}
    for name in DETECTORS:
        binding = prepare(name)
        scorer = fit(binding, model, known)
        scores = scorer.score(scored, None)  # type: ignore[arg-type]  # reads no images
        ood_metrics(scores, scores.flip(0))
        peaks[name] = peak()
        print(f"{name}: {peaks[name]:.2f} GB", flush=True)
    print(f"{len(known)} x {model.feature_dim} to fit on, {len(unknown)} held: {peak():.2f} GB")
    if given.write:
        page_of(RESULTS, "memory", device_name(), "n1").write_text(report(peaks, count))


def report(peaks: dict[str, float], count: int) -> str:
    """Return a page of the peaks, by what was fitted and scored in turn."""
    rows = "\n".join(f"| {name} | {its:.2f} |" for name, its in peaks.items())
    return f"""# The most memory that scoring takes

Made by `benchmarks/memory.py`; {device_name()}, {torch.get_num_threads()} thread, torch
{version("torch")}, Python {platform.python_version()}; n = 1.

One process fits each detector on {FIT:,} x 512 features, holds {SCORED:,} x 512 of OOD images, and
scores {count:,} of these, in blocks. Its peak so far, in GB (1e9 bytes):

| after | GB |
| --- | ---: |
{rows}
"""


if __name__ == "__main__":
    main()
