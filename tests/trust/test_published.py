"""Published numbers: the data is what the sources print, and nothing unlike is compared."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_curve
from synthetic import record

from um_bench import published
from um_bench.detectors.spec import prepare
from um_bench.errors import UsageError
from um_bench.leaderboard import Info
from um_bench.metrics import ood_metrics
from um_bench.published.compare import check_records
from um_bench.published.entries import read_published
from um_bench.suite import OodSet, load_suite, parse_choice

ROOT = Path(__file__).parents[2]
ENTRIES = read_published()
BY_FILE = {path.stem: read_published(path) for path in published.shipped_files()}

SETS = {
    "CIFAR100": ("near", 9000),
    "TinyImageNet": ("near", 7793),
    "MNIST": ("far", 70000),
    "SVHN": ("far", 26032),
    "Textures": ("far", 5640),
    "Places365": ("far", 35195),
}
HYPERPARAMETERS = {
    "adapter": {},
    "backbone": {},
    "base": {
        "epochs": 100,
        "batch_size": 128,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "nesterov": True,
        "schedule": "cosine",
        "augmentation": "crop-flip",
    },
    "recipe": {"epochs": 100},
    "preprocessing": {
        "size": 32,
        "resize": "crop",
        "resize_to": None,
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
    },
}
DETECTORS = {
    "msp": {"T": 1.0},
    "energy": {"T": 1.0},
    "knn@k=search": {"k": 100, "normalize": True},
}
CHOSEN = {"search_auroc": 0.9, "search_tried": 5.0, "search_skipped": 0.0}
AUROC = {"MNIST": 0.93, "SVHN": 0.92, "Textures": 0.90, "Places365": 0.89}
SHIFT = {0: -0.004, 1: 0.0, 2: 0.007}


def words(**changes):
    sets = [OodSet(name, group, f"openood-cifar10/{name}") for name, (group, _) in SETS.items()]
    told = {"name": "like OpenOOD", "ood": tuple(sets), "id_test": "openood-cifar10/test"}
    return Info(**{**told, "seeds": (0, 1, 2), **changes})


def cell(name, seed, detector="msp", **changes):
    group, images = SETS[name]
    numbers = dict.fromkeys(("aupr_in", "aupr_out", "fpr95_ood", "fpr95_id"), 0.5)
    numbers |= {"auroc": AUROC.get(name, 0.88) + SHIFT[seed], "id_accuracy": 0.95 + SHIFT[seed]}
    searched = {"chosen": CHOSEN} if "search" in detector else {}
    values = {
        "id_set": "cifar10",
        "backbone": "resnet18_cifar",
        "metrics": numbers,
        "counts": {"id": 9000, "ood": images, "train": 50000, "fit": 50000},
        "hyperparameters": {**HYPERPARAMETERS, "detector": DETECTORS[detector], **searched},
        "weights": {"base": f"base{seed}", "adapted": f"base{seed}"},
    }
    ood = OodSet(name, group, "")
    return record("none", detector, ood, seed, **{**values, **changes})


def cells(detectors=("msp",), sets=tuple(SETS), **changes):
    return [cell(n, seed, d, **changes) for d in detectors for n in sets for seed in (0, 1, 2)]


def entry(over="far", metric="auroc", detector="MSP", training="CrossEntropy", file="", **changes):
    found = [
        one
        for one in BY_FILE[file or "openood-v1.5-cifar10"]
        if (one.over, one.metric, one.training.name) == (over, metric, training)
        and (one.detector.name if one.detector else "") == detector
    ]
    assert len(found) == 1
    return dataclasses.replace(found[0], **changes)


def compared(records, one, words=None, **options):
    report = check_records(records, words or WORDS, [one], **options)
    assert not report.refused, report.refused[0].reasons
    return report


def reasons(records, one, words=None, **options):
    report = check_records(records, words or WORDS, [one], **options)
    assert not report.compared
    return report.refused[0].reasons


WORDS = words()


def with_settings(group, **values):
    used = {**HYPERPARAMETERS, "detector": DETECTORS["msp"]}
    return {"hyperparameters": {**used, group: {**used[group], **values}}}


# --- The data ---

TYPED = [
    # file, training, detector, over, metric, mean, SD: typed from the documents
    ("openood-v1.5-cifar10", "CrossEntropy", "MSP", "near", "auroc", 0.8803, 0.0025),
    ("openood-v1.5-cifar10", "CrossEntropy", "MSP", "far", "auroc", 0.9073, 0.0043),
    ("openood-v1.5-cifar10", "CrossEntropy", "ODIN", "near", "auroc", 0.8287, 0.0185),
    ("openood-v1.5-cifar10", "CrossEntropy", "KNN", "far", "auroc", 0.9296, 0.0014),
    ("openood-v1.5-cifar10", "CrossEntropy", "VIM", "near", "auroc", 0.8868, 0.0028),
    ("openood-v1.5-cifar10", "CrossEntropy", "", "id", "id_accuracy", 0.9506, 0.0030),
    ("openood-v1.5-cifar10", "CrossEntropy", "fDBD", "near", "auroc", 0.9042, None),
    ("openood-v1.5-cifar10", "OE", "MSP", "near", "auroc", 0.9482, 0.0021),
    ("openood-v1.5-cifar10", "LogitNorm", "MSP", "far", "auroc", 0.9674, 0.0006),
    ("openood-v1.5-cifar100", "CrossEntropy", "MSP", "near", "auroc", 0.8027, 0.0011),
    ("openood-v1.5-cifar100", "CrossEntropy", "EBO", "far", "auroc", 0.7977, 0.0061),
    ("openood-v1.5-cifar100", "OE", "", "id", "id_accuracy", 0.7684, 0.0042),
    ("openood-v1.5-imagenet200", "CrossEntropy", "KNN", "far", "auroc", 0.9316, 0.0022),
    ("openood-v1.5-imagenet1k", "CrossEntropy", "ReAct", "far", "auroc", 0.9367, None),
    ("openood-v1.5-imagenet1k", "CrossEntropy", "", "id", "id_accuracy", 0.7618, None),
    ("nac-cifar10", "CrossEntropy", "MSP", "far", "fpr95", 0.3172, 0.0184),
    ("nac-cifar10", "CrossEntropy", "EBO", "far", "fpr95", 0.4169, 0.0532),
    ("nac-cifar10", "CrossEntropy", "NAC-UE", "far", "auroc", 0.9460, 0.0050),
    ("nac-cifar10", "CrossEntropy", "ODIN", "SVHN", "fpr95", 0.6861, 0.0052),
    ("nac-cifar10", "CrossEntropy", "VIM", "Textures", "auroc", 0.9515, 0.0034),
    ("nac-cifar10", "CrossEntropy", "ASH", "MNIST", "auroc", 0.8316, 0.0466),
    ("um-cifar10", "CrossEntropy", "Energy", "average", "fpr95", 0.4269, 0.0131),
    ("um-cifar10", "UM", "Energy", "average", "auroc", 0.9373, 0.0036),
    ("um-cifar10", "UM", "", "id", "id_accuracy", 0.9280, 0.0047),
    ("um-cifar10", "OE", "Energy", "average", "aupr_in", 0.9731, 0.0005),
    ("um-cifar10", "OE+UM", "Energy", "average", "fpr95", 0.1122, 0.0016),
    ("um-imagenet1k", "UMAP", "ODIN", "average", "fpr95", 0.4094, None),
    ("um-imagenet1k", "UMAP", "ODIN", "Textures", "auroc", 0.8835, None),
    ("divoe-cifar100", "OE", "not named", "average", "auroc", 0.9189, None),
]


@pytest.mark.parametrize(
    ("file", "training", "detector", "over", "metric", "mean", "sd"), TYPED, ids=lambda v: str(v)
)
def test_numbers_are_those_of_the_documents(file, training, detector, over, metric, mean, sd):
    one = entry(over, metric, detector, training, file)
    assert one.mean == pytest.approx(mean, abs=1e-12)
    assert one.sd == (None if sd is None else pytest.approx(sd, abs=1e-12))


def test_every_entry_has_its_source_and_is_a_fraction():
    assert len(ENTRIES) > 700
    for one in ENTRIES:
        assert one.source.url.startswith("https://")
        assert one.source.table
        assert 0.01 < one.mean < 1
        assert one.sd is None or 0 < one.sd < 0.3


def test_no_number_is_there_twice():
    places = [(one.source.name, one.label) for one in ENTRIES]
    assert len(places) == len(set(places))


def test_an_average_over_the_far_sets_is_that_of_its_members():
    # the figure has both: a digit mistyped in one of them would show
    for metric in ("fpr95", "auroc"):
        for name in ("MSP", "ODIN", "EBO", "KNN", "GEN", "NAC-UE", "ASH", "VIM", "SHE", "KLM"):
            parts = [entry(s, metric, name, file="nac-cifar10").mean for s in AUROC]
            file = "nac-cifar10" if metric == "fpr95" or name == "NAC-UE" else ""
            whole = entry("far", metric, name, file=file).mean
            assert math.fsum(parts) / 4 == pytest.approx(whole, abs=1.1e-4)


def test_detectors_and_settings_are_ones_that_um_bench_has():
    for detector in {one.detector.name: one.detector for one in ENTRIES if one.detector}.values():
        if detector.detector:
            binding = prepare(parse_choice(detector.detector))
            assert {*detector.settings, *detector.searched} <= set(binding.settings)


def test_searches_are_those_that_um_bench_does():
    # but ViM's and NCI's: 1000 dimensions are more than ResNet-18 has features
    for name in ("ODIN", "ReAct", "KNN", "ASH", "SCALE", "GEN"):
        detector = entry("near", "auroc", name).detector
        spec = prepare(parse_choice(detector.detector)).spec
        for setting, values in detector.searched.items():
            assert sorted(spec.candidates(setting)) == pytest.approx(sorted(values))


@pytest.mark.parametrize(
    ("suite", "file", "over"),
    [
        ("cifar10-far-ood", "openood-v1.5-cifar10", "far"),
        ("cifar10-near-ood", "openood-v1.5-cifar10", "near"),
        ("cifar100-far-ood", "openood-v1.5-cifar100", "far"),
        ("cifar100-near-ood", "openood-v1.5-cifar100", "near"),
        ("imagenet1k-openood", "openood-v1.5-imagenet1k", "far"),
        ("imagenet200-openood", "openood-v1.5-imagenet200", "near"),
        ("cifar10-um", "um-cifar10", "average"),
    ],
)
def test_protocols_are_those_of_the_suites_that_follow_them(suite, file, over):
    followed = load_suite(suite)
    one = next(e for e in BY_FILE[file] if e.over == over)
    sources = {ood.source for ood in followed.ood}
    assert {wanted.source for wanted in one.sets} <= sources
    protocol = one.protocol
    assert followed.backbone == protocol.backbone
    assert followed.id.name == protocol.id_set
    assert protocol.id_test == ("" if suite == "cifar10-um" else followed.id.test)
    assert followed.backbone_options.items() >= protocol.backbone_options.items()
    assert list(followed.preprocessing.mean) == protocol.preprocessing["mean"]
    assert followed.preprocessing.resize == protocol.preprocessing["resize"]
    same = {k: getattr(followed.base, k) == v for k, v in protocol.recipe.items()}
    # ImageNet-200's suite says so itself
    assert [k for k, v in same.items() if not v] == (["augmentation"] if "200" in suite else [])


FILE = """
unit = "percent"
rows = [{ training = "Plain", detector = "MSP", over = "far", auroc = [90.7, 0.4] }]
[source]
name = "x"
title = "X"
url = "https://example.org/x"
table = "1"
[protocol]
id_set = "cifar10"
network = "ResNet"
[sets.A]
[averages]
far = ["A"]
[trainings.Plain]
adapter = "none"
[detectors.MSP]
detector = "msp"
"""


def read_text(tmp_path, text):
    path = tmp_path / "file.toml"
    path.write_text(text)
    return read_published(path)


def test_percent_becomes_a_fraction_and_a_fraction_stays(tmp_path):
    (one,) = read_text(tmp_path, FILE)
    assert (one.mean, one.sd) == pytest.approx((0.907, 0.004))
    text = FILE.replace("percent", "fraction").replace("90.7, 0.4", "0.907, 0.004")
    (one,) = read_text(tmp_path, text)
    assert (one.mean, one.sd) == (0.907, 0.004)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('unit = "percent"', 'unit = "fraction"', "cannot be in fraction"),
        ("[90.7, 0.4]", "[0.907, 0.004]", "cannot be in percent"),
        ("[90.7, 0.4]", "[90.7, 0.0]", "SD of 0.0"),
        ("[90.7, 0.4]", "[90.7, 0.4, 3]", "must be"),
        ("[90.7, 0.4]", "90.7", "must be"),
        ("percent", "percents", "Did you mean percent"),
        ("auroc =", "aurok =", "aurok"),
        ('over = "far"', 'over = "afar"', "afar"),
        ('over = "far"', 'over = "id"', "id_accuracy"),
        ('detector = "MSP", ', "", "needs a detector"),
        ('training = "Plain"', 'training = "Plane"', "Did you mean Plain"),
        ('far = ["A"]', 'far = ["B"]', "B"),
        ('far = ["A"]', 'far = "A"', "list of sets"),
        ('table = "1"', 'table = "1"\npage = 2', "page"),
        ('url = "https://example.org/x"', "", "url missing"),
        ("https://", "http://", "https"),
        ('table = "1"', 'table = "1"\nlet_pass = "no"', "list of strings"),
        ('network = "ResNet"', 'network = "ResNet"\nruns = "3"', "runs must be int"),
        ('network = "ResNet"', 'network = "ResNet"\nsd = "both"', "sd"),
        ('network = "ResNet"', 'network = "ResNet"\nrecipe = 3', "must be a table"),
        ("[sets.A]", "[sets.A]\nimage = 3", "image"),
        ("[sets.A]", '[sets.A]\nname = "B"', "leave it out"),
        ("[averages]", "[extra]\na = 1\n[averages]", "extra"),
        ("rows =", "row =", "row"),
    ],
)
def test_a_file_is_read_strictly(tmp_path, old, new, said):
    assert FILE.count(old) >= 1
    with pytest.raises(UsageError, match=said):
        read_text(tmp_path, FILE.replace(old, new, 1))


# --- What compares ---


def test_like_for_like_compares_and_gives_the_right_z():
    report = compared(cells(), entry())
    (one,) = report.compared
    by_seed = [sum(AUROC.values()) / 4 + shift for shift in SHIFT.values()]
    ours = np.std(by_seed, ddof=1)
    theirs = 0.0043 * math.sqrt(3 / 2)
    assert one.measured.mean == pytest.approx(np.mean(by_seed))
    assert one.measured.sd == pytest.approx(ours)
    assert one.measured.n == 3
    assert one.difference == pytest.approx(np.mean(by_seed) - 0.9073)
    assert one.sds == pytest.approx((np.mean(by_seed) - 0.9073) / math.hypot(ours, theirs))
    assert "by n; 0.53 by n - 1" in one.basis
    assert one.let_pass == one.entry.source.let_pass
    assert report.exit_status == 0


def test_id_accuracy_compares_once_whatever_the_detectors():
    report = compared(cells(("msp", "energy")), entry("id", "id_accuracy", ""))
    (one,) = report.compared
    assert one.measured.mean == pytest.approx(0.951)


def test_one_set_compares_alone_and_further_sets_do_not_matter():
    one = entry("SVHN", file="nac-cifar10")
    (alone,) = compared(cells(sets=("SVHN",)), one).compared
    (among,) = compared(cells(), one).compared
    assert alone.measured == among.measured
    assert alone.measured.mean == pytest.approx(0.921)


def test_fpr95_is_compared_by_its_positive_class():
    numbers = {"auroc": 0.9, "fpr95_ood": 0.3, "fpr95_id": 0.6, "aupr_in": 0.9, "aupr_out": 0.9}
    one = entry("far", "fpr95", file="nac-cifar10")
    (found,) = compared(cells(metrics=numbers), one).compared
    assert (found.metric, found.measured.mean) == ("fpr95_ood", pytest.approx(0.3))
    other = dataclasses.replace(one.protocol, fpr95_positive="id")
    (found,) = compared(cells(metrics=numbers), entry_of(one, protocol=other)).compared
    assert (found.metric, found.measured.mean) == ("fpr95_id", pytest.approx(0.6))


def entry_of(one, **changes):
    return dataclasses.replace(one, **changes)


def test_the_same_search_compares():
    compared(cells(("knn@k=search",)), entry(detector="KNN"))


def test_without_a_published_sd_there_are_points_alone():
    (one,) = compared(cells(), entry(sd=None)).compared
    assert (one.sd, one.sds) == (None, None)
    assert "points only" in one.basis
    assert one.difference == pytest.approx(0.911 - 0.9073)


def test_a_number_outside_ends_with_status_1():
    def lower(record):
        return dataclasses.replace(
            record, metrics={**record.metrics, "auroc": record.metrics["auroc"] - 0.1}
        )

    report = compared([lower(record) for record in cells()], entry())
    assert report.exit_status == 1
    assert "! " in published.as_text(report)
    assert compared([lower(r) for r in cells()], entry(), max_sds=30.0).exit_status == 0


def test_one_checkpoint_that_everybody_can_load_compares():
    large = {
        "id_set": "imagenet1k",
        "backbone": "resnet50.tv_in1k",
        "counts": {"id": 45000, "train": 1000},
        "hyperparameters": {
            "backbone": {"pretrained": True},
            "detector": {"T": 1.0},
            "preprocessing": {
                "size": 224,
                "resize": "crop",
                "resize_to": 256,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        },
        "weights": {"base": "tv", "adapted": "tv"},
    }
    images = {"iNaturalist": 10000, "Textures": 5160, "OpenImagesO": 15869}
    sets = [OodSet(name, "far", f"openood-imagenet1k/{name}") for name in images]
    records = []
    for ood in sets:
        counts = {**large["counts"], "ood": images[ood.name]}
        records.append(record("none", "msp", ood, 0, **{**large, "counts": counts}))
    one = entry("far", "auroc", "MSP", file="openood-v1.5-imagenet1k")
    here = words(ood=tuple(sets), id_test="openood-imagenet1k/test", seeds=(0,))
    (found,) = compared(records, one, here).compared
    assert found.sds is None
    changed = {**large["hyperparameters"], "backbone": {}}
    others = [dataclasses.replace(r, hyperparameters=changed) for r in records]
    assert any("weights:" in reason for reason in reasons(others, one, here))


def records_of(suite, detector, images, settings):
    """What a run of a shipped suite leaves, with made-up numbers."""
    followed = load_suite(suite)
    used = {
        "base": dataclasses.asdict(followed.base),
        "backbone": followed.backbone_options,
        "preprocessing": dataclasses.asdict(followed.preprocessing),
        "detector": settings,
    }
    return [
        record(
            "none",
            detector,
            ood,
            seed,
            id_set=followed.id.name,
            backbone=followed.backbone,
            hyperparameters=json.loads(json.dumps(used)),
            counts={**images, "ood": images[ood.name]},
            weights={"base": f"base{seed}"},
        )
        for ood in followed.ood
        for seed in followed.seeds
    ], Info(name=followed.name, ood=followed.ood, id_test=followed.id.test, seeds=followed.seeds)


def test_the_unleashing_mask_suite_compares_with_the_papers_energy():
    images = dict.fromkeys(("CIFAR100", "iNaturalist", "SUN", "Places", "LSUN", "id"), 10000)
    images |= {"dtd": 5640, "SVHN": 26032, "train": 50000}
    records, here = records_of("cifar10-um", "energy", images, {"T": 1.0})
    report = check_records(records, here, BY_FILE["um-cifar10"])
    found = {one.entry.metric: one for one in report.compared}
    assert set(found) == {"auroc", "aupr_in", "fpr95", "id_accuracy"}
    assert all(one.entry.training.name == "CrossEntropy" for one in report.compared)
    assert found["fpr95"].metric == "fpr95_id"
    assert "closest to 95 %" in found["fpr95"].let_pass[-1]
    # how many runs, and how the SD was taken, is not known: as printed
    sd = math.hypot(0.0131, found["fpr95"].measured.sd)
    assert found["fpr95"].sd == pytest.approx(sd)
    assert "an unknown number of runs" in found["fpr95"].basis
    for one in report.refused:
        assert any("not known of the published number" in reason for reason in one.reasons)


def test_the_far_suite_compares_with_openood():
    images = {name: count for name, (_, count) in SETS.items()} | {"id": 9000, "train": 50000}
    records, here = records_of("cifar10-far-ood", "maxlogit", images, {})
    report = check_records(records, here, BY_FILE["openood-v1.5-cifar10"])
    names = {one.entry.label for one in report.compared}
    assert names == {"CrossEntropy + MLS, far: auroc", "CrossEntropy: id_accuracy"}


def test_given_weights_compare_on_the_users_word_only():
    given = {**HYPERPARAMETERS, "detector": DETECTORS["msp"], "base": {}}
    records = cells(hyperparameters=given)
    assert "was given, not trained here" in reasons(records, entry())[0]
    (one,) = compared(records, entry(), same_weights=True).compared
    assert any("user's word" in note for note in one.let_pass)


# --- What is refused ---

DEVIATIONS = {
    "backbone": (cells(backbone="resnet20_cifar"), {}, "backbone: resnet20_cifar here"),
    "ID set": (cells(id_set="cifar100"), {}, "ID set: cifar100 here, published with cifar10"),
    "adapter": (
        [dataclasses.replace(r, adapter_label="um", adapter="um") for r in cells()],
        {},
        "adapter: um here, published with CrossEntropy (none)",
    ),
    "outliers": (
        [dataclasses.replace(r, auxiliary="tin") for r in cells()],
        {},
        "auxiliary outliers: tin here",
    ),
    "detector": (cells(("energy",)), {}, "detector: energy here, published with MSP"),
    "a set missing": (
        cells(sets=("CIFAR100", "MNIST", "SVHN", "Textures")),
        {},
        "OOD set Places365 (openood-cifar10/Places365): not in these results",
    ),
    "another list": (
        cells(),
        {"ood": (*WORDS.ood[:2], OodSet("MNIST", "far", "mnist/test"), *WORDS.ood[3:])},
        "OOD set MNIST: mnist/test here, published with openood-cifar10/MNIST",
    ),
    "images of a set": (
        [cell(n, s) for n in SETS for s in (0, 1, 2) if n != "SVHN"]
        + cells(sets=("SVHN",), counts={"id": 9000, "ood": 10000, "train": 50000}),
        {},
        "images of SVHN: 10000 here, published with 26032",
    ),
    "ID images": (
        [dataclasses.replace(r, counts={**r.counts, "id": 10000}) for r in cells()],
        {},
        "ID test images: 10000 here, published with 9000",
    ),
    "ID test list": (
        cells(),
        {"id_test": "cifar10/test"},
        "ID test set: cifar10/test here, published with openood-cifar10/test",
    ),
    "ID test list, not told": (
        cells(),
        {"id_test": ""},
        "ID test set: not recorded, published with openood-cifar10/test",
    ),
    "training images": (
        [dataclasses.replace(r, counts={**r.counts, "train": 45000}) for r in cells()],
        {},
        "training images: 45000 here, published with 50000",
    ),
    "detector setting": (
        cells(**with_settings("detector", T=1000.0)),
        {},
        "detector setting T: 1000.0 here, published with 1.0",
    ),
    "recipe": (
        cells(**with_settings("base", epochs=200)),
        {},
        "training recipe: epochs: 200 here, published with 100",
    ),
    "image size": (
        cells(**with_settings("preprocessing", size=64)),
        {},
        "preprocessing: size: 64 here, published with 32",
    ),
    "normalisation": (
        cells(**with_settings("preprocessing", mean=[])),
        {},
        "preprocessing: mean: [] here",
    ),
    "resizing": (
        cells(**with_settings("preprocessing", resize="squash")),
        {},
        "preprocessing: resize: squash here, published with crop",
    ),
    "limit": (cells(suite="cifar10-far-ood@limit=100"), {}, "limit: cifar10-far-ood@limit=100"),
    "one seed": (
        [r for r in cells() if r.seed == 0],
        {"seeds": (0,)},
        "single checkpoint: one seed here, published over 3 runs",
    ),
    "one base classifier": (
        cells(weights={"base": "same", "adapted": "same"}),
        {},
        "single checkpoint: 3 seeds start from 1 base classifiers here",
    ),
    "no base weights": (cells(weights={}), {}, "the records do not name the base weights"),
    "a hole": (
        [r for r in cells() if (r.ood_set, r.seed) != ("SVHN", 2)],
        {},
        "seeds: only 2 of the suite's 3 are done on all sets",
    ),
    "failed": ([dataclasses.replace(r, state="failed") for r in cells()], {}, "no seed has it"),
    "settings that differ within": (
        [
            r if r.seed else dataclasses.replace(r, **with_settings("base", lr=0.05))
            for r in cells()
        ],
        {},
        "training recipe: lr: 0.05 here, published with 0.1",
    ),
}


@pytest.mark.parametrize(("records", "changes", "said"), DEVIATIONS.values(), ids=DEVIATIONS)
def test_each_deviation_is_refused_with_words_that_name_it(records, changes, said):
    found = reasons(records, entry(), words(**changes))
    assert any(said in reason for reason in found), found


# a size is a short side as well; what is not done has no settings either
ALONE = [name for name in DEVIATIONS if name not in ("image size", "failed")]


@pytest.mark.parametrize("name", ALONE)
def test_one_deviation_gives_one_reason(name):
    records, changes, _ = DEVIATIONS[name]
    assert len(reasons(records, entry(), words(**changes))) == 1


def test_an_entry_that_is_not_told_enough_of_is_refused():
    protocol = entry().protocol
    told = {
        "ID test images: not stated": {"id_images": None},
        "preprocessing: not stated": {"preprocessing": {}},
        "training recipe: not stated": {"recipe": {}},
    }
    for said, change in told.items():
        less = dataclasses.replace(protocol, **change)
        assert [said in r for r in reasons(cells(), entry(protocol=less))] == [True]
    assert "OOD sets: not stated" in reasons(cells(), entry(sets=()))[0]
    assert reasons(cells(), entry(unknown=("why",))) == ("not known of the published number: why",)
    unknown = tuple(dataclasses.replace(one, images=None) for one in entry().sets)
    assert len(reasons(cells(), entry(sets=unknown))) == 4
    assert "one run" in reasons(cells(), entry(runs=1))[0]


def test_another_convention_is_refused():
    one = entry("far", "fpr95", file="nac-cifar10")
    for changes, said in (
        ({"fpr95_positive": "not stated"}, "which class is positive"),
        ({"fpr95_rule": "closest to 95 %"}, "published by 'closest to 95 %'"),
        ({"fpr95_rule": "not stated"}, "how fpr95 is computed"),
    ):
        other = dataclasses.replace(one.protocol, **changes)
        (found,) = reasons(cells(), entry_of(one, protocol=other))
        assert found.startswith("convention:")
        assert said in found


def test_another_rule_passes_where_scores_hardly_tie():
    one = entry("far", "fpr95", "EBO", file="nac-cifar10")
    other = dataclasses.replace(one.protocol, fpr95_rule="closest to 95 %")
    (found,) = compared(cells(("energy",)), entry_of(one, protocol=other)).compared
    assert "closest to 95 %" in found.let_pass[-1]


def test_without_ties_the_rules_agree_as_the_report_says():
    rng = np.random.default_rng(0)
    for gap in (0.5, 1.5, 3.0):
        known, other = rng.normal(0, 1, 10000), rng.normal(gap, 1, 5640)
        scores = torch.tensor(known), torch.tensor(other)
        ours = ood_metrics(*scores)
        labels = np.r_[np.ones(10000), np.zeros(5640)]
        confidence = -np.r_[known, other]
        assert abs(ours["aupr_in"] - average_precision_score(labels, confidence)) < 1e-4
        fpr, tpr, _ = roc_curve(labels, confidence, drop_intermediate=False)
        closest = fpr[np.argmin(np.abs(tpr - 0.95))]
        # one ID image more or less passes few OOD images
        assert abs(ours["fpr95_id"] - closest) < 1e-3


def test_settings_that_were_searched_are_not_compared_with_fixed_ones():
    DETECTORS["knn"] = {"k": 50, "normalize": True}
    (found,) = reasons(cells(("knn",)), entry(detector="KNN"))
    assert "detector setting k: fixed here (50)" in found
    other = {**HYPERPARAMETERS, "detector": DETECTORS["knn"]}
    short = {**other, "chosen": {**CHOSEN, "search_tried": 3.0}}
    (found,) = reasons(cells(("knn@k=search",), hyperparameters=short), entry(detector="KNN"))
    assert "3.0 combinations" in found


def test_a_method_that_trains_from_the_start_is_refused():
    found = reasons(cells(), entry(training="LogitNorm"))
    assert any("LogitNorm trained the classifier from the start" in reason for reason in found)


def test_without_the_suites_words_nothing_compares():
    report = check_records(cells(), None, [entry()])
    (refused,) = report.refused
    assert any("there is no suite.json" in reason for reason in refused.reasons)


def test_full_spectrum_sets_are_not_taken_for_the_plain_ones():
    fs = tuple(OodSet(f"{o.name}-fs", "far-fs", o.source) for o in WORDS.ood)
    records = [dataclasses.replace(r, ood_set=f"{r.ood_set}-fs") for r in cells()]
    found = reasons(records, entry(), words(ood=fs))
    assert sum("not in these results" in reason for reason in found) == 4


# --- Reports ---


def test_the_text_says_what_was_compared_and_how():
    report = check_records(cells(("msp", "energy")), WORDS, BY_FILE["openood-v1.5-cifar10"])
    text = published.as_text(report)
    assert len(report.compared) == 5
    for part in ("90.73 (0.43) n=3", "91.10 (0.56) n=3", "+0.37", "best.ckpt", "KNN", "5 compared"):
        assert part in text
    assert "nothing comparable" not in text.lower()


def test_the_dictionary_is_json_and_holds_every_entry():
    report = check_records(cells(), WORDS, ENTRIES)
    table = json.loads(json.dumps(published.as_dict(report), allow_nan=False))
    assert len(table["compared"]) + len(table["refused"]) == len(ENTRIES)
    one = next(c for c in table["compared"] if c["published"]["over"] == "far")
    assert one["sds"] == pytest.approx(one["difference"] / one["sd"])
    assert all(r["reasons"] and r["published"]["url"] for r in table["refused"])


def test_control_sequences_in_names_do_not_reach_the_terminal():
    report = check_records(cells(suite="\x1b[31m"), words(name="\x1b[31m"), [entry()])
    assert "\x1b" not in published.as_text(report)


def test_the_committed_digits_have_nothing_comparable():
    report = published.check_folder(ROOT / "leaderboards" / "digits-far-ood")
    assert not report.compared
    assert len(report.refused) == len(ENTRIES)
    assert all(any("ID set: digits here" in r for r in one.reasons) for one in report.refused)
    text = published.as_text(report)
    assert "Nothing comparable" in text
    assert "Nearest:" in text
    assert report.exit_status == 0


def test_a_folder_without_records_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="um-bench run"):
        published.check_folder(tmp_path)


def test_no_records_at_all_is_a_refusal():
    report = check_records([], WORDS, [entry()])
    assert report.refused[0].reasons == ("there are no records",)
