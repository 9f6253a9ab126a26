"""Records that no model ever made, for tests of what is done with records."""

import dataclasses
import random

from um_bench.leaderboard import METRICS, Info
from um_bench.records import Provenance, Record
from um_bench.suite import OodSet, adapter_name, parse_adapter, parse_choice

OOD = (
    OodSet("cifar100", "near", "cifar100/test"),
    OodSet("tin", "near", "tin/val"),
    OodSet("mnist", "far", "mnist/test"),
    OodSet("svhn", "far", "svhn/test"),
    OodSet("textures", "far", "textures/all"),
    OodSet("places365", "far", "places365/val"),
)
ADAPTERS = ("none", "finetune", "um", "umap")
DETECTORS = ("msp", "energy", "knn")
SEEDS = (0, 1, 2)
IMAGES = {"cifar100": 9000, "tin": 7793, "mnist": 70000, "svhn": 26032, "textures": 5640}
SHIFT = {"none": 0.0, "finetune": 0.002, "um": 0.016, "umap": 0.011}
LEVEL = {"msp": 0.90, "energy": 0.912, "knn": 0.925}


def info(**changes):
    """A suite's own words."""
    standard = Info(
        name="synthetic",
        title="CIFAR-10, far- and near-OOD",
        description="Made-up numbers.\n\nThey measure nothing.",
        ood=OOD,
        seeds=SEEDS,
        adapters=ADAPTERS,
        detectors=DETECTORS,
    )
    return dataclasses.replace(standard, **changes)


def record(adapter="um", detector="knn", ood=OOD[3], seed=0, **changes):
    """One done cell; its numbers depend on its names only."""
    name = adapter_name(parse_adapter(adapter))
    chance = random.Random(f"{adapter}/{detector}/{ood.name}/{seed}")
    detector_name = parse_choice(detector).name
    level = LEVEL.get(detector_name, 0.9) + SHIFT.get(name, 0.01)
    level -= 0.04 if ood.group == "near" else 0.0
    metrics = {metric: level + chance.gauss(0, 0.006) for metric in METRICS}
    for metric in ("fpr95_ood", "fpr95_id"):
        metrics[metric] = max(0.0, 3.5 * (1 - metrics[metric]) + chance.gauss(0, 0.02))
    job = random.Random(f"{adapter}/{seed}")
    base = random.Random(f"base/{seed}").gauss(0.945, 0.002)
    metrics["base_id_accuracy"] = base
    metrics["id_accuracy"] = base if name == "none" else base - abs(job.gauss(0.008, 0.004))
    values = {
        "suite": "synthetic",
        "key": f"key-{adapter}-{detector}-{ood.name}-{seed}",
        "job_key": f"job-{adapter}-{seed}",
        "state": "done",
        "id_set": "cifar10",
        "backbone": "resnet18_cifar",
        "seed": seed,
        "adapter": name,
        "adapter_label": adapter,
        "detector": detector_name,
        "detector_label": detector,
        "ood_set": ood.name,
        "group": ood.group,
        "metrics": metrics,
        "counts": {"id": 9000, "ood": IMAGES.get(ood.name, 35195), "train": 50000},
        "fingerprints": {"id": "1d" * 32, "ood": f"{len(ood.name):02x}" * 32},
        "hyperparameters": {"adapter": {}, "detector": {"k": 50}, "recipe": {"epochs": 100}},
        "notes": {"constraint": job.gauss(0.3, 0.1)} if name.startswith("um") else {},
        "weights": {"base": f"base{seed}", "adapted": f"{adapter}{seed}"},
        "seconds": {"base": 900.0, "adapt": 800.0, "outputs": 4.5, "fit": 0.5, "score": 0.25},
        "scores": f"scores/{adapter}/{detector}-{ood.name}-{seed}.npz",
        "provenance": Provenance(
            created="2026-11-23T12:00:00Z",
            device="Test GPU",
            platform="Linux",
            versions={"um-bench": "0.1.0", "torch": "2.4.0", "pytorch-ood": "0.4.0"},
        ),
    }
    return Record(**{**values, **changes})


def sweep(adapters=ADAPTERS, detectors=DETECTORS, ood=OOD, seeds=SEEDS, change=None):
    """All cells of a sweep; `change` maps a record to another one, or to None to leave it out."""
    cells = [
        record(adapter, detector, one, seed)
        for adapter in adapters
        for detector in detectors
        for one in ood
        for seed in seeds
    ]
    changed = [change(cell) for cell in cells] if change else cells
    return [cell for cell in changed if cell is not None]


def blank(cell, state, reason):
    """The record of the same cell, without numbers."""
    return dataclasses.replace(cell, state=state, reason=reason, metrics={}, counts={})
