"""Every detector on every family of architectures: a score for each image, or why not."""

import re

import pytest
import torch
from test_families import FAMILIES, IDS, made, training_set

from um_bench import registry
from um_bench.data import Loader
from um_bench.detectors import fit, prepare
from um_bench.errors import UnsupportedError
from um_bench.outputs import collect

SETTINGS = {
    "knn": "knn@k=5",
    "nnguide": "nnguide@k=5",
    "openmax": "openmax@tailsize=5",
    "mcd": "mcd@samples=2",
    # 32 images of noise are few to hold some back from
    "feature-ensemble": "feature-ensemble@held_out=0.5:tune_on=12",
}
NEVER = {"mcm", "weighted-ebo"}
ALLOWED = {
    "mcd": "no dropout",
    "gram": "inner layers",
    "multi-mahalanobis": "inner layers",
    "rankfeat": "one position only|inner layers",
    "nac": "inner layers",
    "feature-ensemble": "inner layers",
    "she": "No correct predictions for class",
}
"""What an architecture may not have, and how the reason says so."""

NAMES = sorted(
    name
    for name, plugin in registry.plugins("detector").items()
    if plugin.distribution == "um-bench" and name not in NEVER
)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_every_detector_scores_or_says_why_not(family):
    model = made(family).requires_grad_(False)
    data = Loader(training_set(family.size), batch_size=16)
    bindings = [prepare(SETTINGS.get(name, name)) for name in NAMES]
    readers = [binding for binding in bindings if binding.spec.digest]
    digests = {b.label: b.spec.digest(model, b.settings) for b in readers}
    outputs = collect(model, data, digests)
    unsupported = {}
    for binding in bindings:
        try:
            scores = fit(binding, model, outputs, data).score(outputs, data)
        except UnsupportedError as error:
            unsupported[binding.choice.name] = str(error)
            continue
        assert scores.shape == (32,)
        assert scores.isfinite().all()
        assert scores.dtype == torch.float32
    for name, reason in unsupported.items():
        assert re.search(ALLOWED.get(name, "nothing is allowed"), reason), (name, reason)
