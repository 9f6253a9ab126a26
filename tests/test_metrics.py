"""ood_metrics and accuracy against scikit-learn and against counting by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor

from um_bench.errors import UmBenchError
from um_bench.metrics import accuracy, ood_metrics


def normal(count: int, mean: float, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) + mean


def integers(count: int, high: int, seed: int) -> Tensor:
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed)).float()


CASES = {
    "random": (normal(500, 0, 1), normal(400, 0, 2)),
    "useful": (normal(500, 0, 1), normal(400, 1.5, 2)),
    "inverted": (normal(500, 1.5, 1), normal(400, 0, 2)),
    "heavily tied": (integers(300, 4, 1), integers(350, 5, 2)),
    "two values": (integers(300, 2, 1), integers(20, 2, 2)),
    "constant": (torch.full((50,), 3.0), torch.full((70,), 3.0)),
    "separated": (torch.arange(40.0), torch.arange(40.0, 100.0)),
    "separated, wrong way": (torch.arange(60.0, 100.0), torch.arange(60.0)),
    "few OOD": (normal(2000, 0, 1), normal(7, 1, 2)),
    "few ID": (normal(7, 0, 1), normal(2000, 1, 2)),
    "one of each": (torch.tensor([0.0]), torch.tensor([1.0])),
    "exactly 95 % of 20": (torch.arange(20.0), torch.arange(20.0) + 0.5),
    "steps of one float32": (1 + torch.arange(64) * 2.0**-23, 1 + torch.arange(32, 96) * 2.0**-23),
    "signed zeros tie": (torch.tensor([0.0, -0.0, 1.0]), torch.tensor([-0.0, 0.0, 2.0])),
    "huge": (normal(100, 0, 1) * 1e37, normal(100, 1, 2) * 1e37),
}


def reference(id_scores: Tensor, ood_scores: Tensor) -> dict[str, float]:
    scores = torch.cat([id_scores, ood_scores]).numpy()
    is_ood = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]

    def area(positive: np.ndarray, towards: np.ndarray) -> float:
        precision, recall, _ = precision_recall_curve(positive, towards)
        return float(auc(recall, precision))

    def fpr95(positive: np.ndarray, towards: np.ndarray) -> float:
        fpr, tpr, _ = roc_curve(positive, towards, drop_intermediate=False)
        return float(fpr[np.argmax(tpr >= 0.95)])

    return {
        "auroc": float(roc_auc_score(is_ood, scores)),
        "aupr_in": area(1 - is_ood, -scores),
        "aupr_out": area(is_ood, scores),
        "fpr95_ood": fpr95(is_ood, scores),
        "fpr95_id": fpr95(1 - is_ood, -scores),
    }


@pytest.mark.parametrize("case", CASES)
def test_equals_scikit_learn(case):
    found = ood_metrics(*CASES[case])
    # the same counts, summed in another order
    assert found == pytest.approx(reference(*CASES[case]), rel=0, abs=1e-12)
    assert all(type(value) is float and 0 <= value <= 1 + 1e-12 for value in found.values())


@pytest.mark.parametrize("case", ["useful", "heavily tied", "few OOD", "exactly 95 % of 20"])
def test_equals_counting_every_pair_and_threshold(case):
    id_scores, ood_scores = (side.tolist() for side in CASES[case])
    found = ood_metrics(*CASES[case])
    wins = sum((o > i) + (o == i) / 2 for o in ood_scores for i in id_scores)
    assert found["auroc"] == pytest.approx(wins / len(id_scores) / len(ood_scores), abs=1e-12)

    flagged, accepted = [], []
    for t in {*id_scores, *ood_scores}:
        if sum(s >= t for s in ood_scores) / len(ood_scores) >= 0.95:
            flagged.append(sum(s >= t for s in id_scores) / len(id_scores))
        if sum(s <= t for s in id_scores) / len(id_scores) >= 0.95:
            accepted.append(sum(s <= t for s in ood_scores) / len(ood_scores))
    assert found["fpr95_ood"] == min(flagged)
    assert found["fpr95_id"] == min(accepted)


def test_two_fpr95_are_different_quantities():
    # a tenth of OOD looks like the most typical ID: 95 % of OOD takes nearly all ID with it
    id_scores = torch.arange(100.0)
    ood_scores = torch.cat([torch.full((10,), -1.0), torch.full((90,), 200.0)])
    found = ood_metrics(id_scores, ood_scores)
    assert found["fpr95_ood"] == 1.0
    assert found["fpr95_id"] == pytest.approx(0.1)


def test_top_ties_count_as_reached_only_at_95_percent():
    # 92 % of ID tied at the top: the nearest recall is 0.92, at least 0.95 costs every OOD image
    id_scores = torch.cat([torch.zeros(92), torch.full((8,), 2.0)])
    ood_scores = torch.cat([torch.zeros(30), torch.full((70,), 1.0)])
    assert ood_metrics(id_scores, ood_scores)["fpr95_id"] == 1.0


def test_constant_scores_are_chance():
    found = ood_metrics(torch.zeros(30), torch.zeros(10))
    assert found["auroc"] == 0.5
    assert (found["fpr95_ood"], found["fpr95_id"]) == (1.0, 1.0)


def test_float32_scores_are_not_squashed():
    # a sigmoid, or a shift into [0, 1], would tie these
    id_scores, ood_scores = torch.full((20,), 1e6), torch.full((20,), 1e6 + 1)
    assert ood_metrics(id_scores, ood_scores)["auroc"] == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_scores_that_are_not_finite_are_counted(value, side):
    scores = [normal(10, 0, 1), normal(10, 0, 2)]
    scores[side][[2, 5]] = value
    with pytest.raises(UmBenchError, match=f"2 of 10 {('ID', 'OOD')[side]} scores"):
        ood_metrics(*scores)


@pytest.mark.parametrize("bad", [torch.empty(0), torch.zeros(3, 1), torch.tensor(1.0)])
def test_a_side_without_one_score_per_image_is_refused(bad):
    with pytest.raises(UmBenchError, match="ID scores"):
        ood_metrics(bad, torch.zeros(3))
    with pytest.raises(UmBenchError, match="OOD scores"):
        ood_metrics(torch.zeros(3), bad)


def test_accuracy_is_the_share_of_id_images_that_are_right():
    logits = torch.eye(4)[[0, 1, 2, 3, 0, 0]]
    labels = torch.tensor([0, 1, 2, 0, -1, -1])
    assert accuracy(logits, labels) == 0.75
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1000, 10, generator=generator)
    labels = torch.randint(10, (1000,), generator=generator)
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert accuracy(logits, labels) == right / 1000


def test_accuracy_needs_id_images_and_finite_logits():
    with pytest.raises(UmBenchError, match="all 3 labels are below 0"):
        accuracy(torch.zeros(3, 2), torch.full((3,), -1))
    with pytest.raises(UmBenchError, match="finite"):
        accuracy(torch.tensor([[0.0, math.nan]]), torch.tensor([0]))


@pytest.mark.parametrize("count", [85, 137, 155, 170, 228, 310, 320])
def test_a_perfect_detector_has_areas_of_one_and_no_more(count):
    # pytorch-ood's sum comes to 1 + 2e-16 for these sizes, which no record may hold.
    found = ood_metrics(torch.linspace(-1, -0.5, count), torch.linspace(0.5, 1, count + 7))
    areas = [found[name] for name in ("auroc", "aupr_in", "aupr_out")]
    assert areas == pytest.approx([1.0] * 3, abs=1e-12)
    assert all(0 <= value <= 1 for value in found.values())
