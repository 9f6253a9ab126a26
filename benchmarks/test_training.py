"""One epoch by each loop, for pytest-benchmark: `pytest benchmarks/test_training.py`.

`python benchmarks/training.py` interleaves the loops and writes the page; here, each has its own
rounds, so that a change of ours can be compared with the last one (`--benchmark-compare`).
"""

from functools import partial
from typing import Any

import pytest
import torch
from training import OURS, PLAIN, Setting, classifier, noise, trainings

from um_bench.suite import Recipe

LOOPS = [PLAIN, f"{OURS}, float32", f"{OURS}, masks, float32"]


@pytest.mark.parametrize("name", LOOPS)
def test_an_epoch(benchmark: Any, name: str) -> None:
    """Train ResNet-20 on two batches of 64 images."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train = trainings(Setting("resnet20_cifar", device, workers=0), ["float32"])[name]
    model, data = classifier("resnet20_cifar", 0, 32), noise(128)
    recipe = Recipe(epochs=1, batch_size=64, lr=0.01)
    benchmark.pedantic(partial(train, model, data, recipe, seed=0), rounds=3, warmup_rounds=1)
