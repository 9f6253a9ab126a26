"""Thinned ROC curves and shared histograms: issue 6, points 2 and 3."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from um_bench.curves import shared_histogram, thinned_roc
from um_bench.errors import UmBenchError

CHANCE = np.random.default_rng(0)
SCORES = {
    "apart": (CHANCE.normal(0, 1, 700), CHANCE.normal(2, 1.5, 400)),
    "alike": (CHANCE.normal(0, 1, 400), CHANCE.normal(0, 1, 700)),
    "backwards": (CHANCE.normal(1, 1, 600), CHANCE.normal(0, 1, 600)),
    "tied": (CHANCE.integers(0, 9, 800) * 1.0, CHANCE.integers(2, 12, 500) * 1.0),
    "half tied": (np.round(CHANCE.normal(0, 1, 800), 2), np.round(CHANCE.normal(1, 2, 500), 2)),
    "heavy": (CHANCE.standard_cauchy(600), 5 + CHANCE.standard_cauchy(600)),
    "perfect": (CHANCE.uniform(0, 1, 300), CHANCE.uniform(2, 3, 300)),
    "constant": (np.full(50, 2.5), np.full(70, 2.5)),
    "two values": (np.zeros(30), np.ones(40)),
    "one image": (np.array([0.25]), np.array([0.5])),
    "float32": (
        CHANCE.normal(0, 1e-4, 500).astype("f4") - 1,
        CHANCE.normal(3e-4, 2e-4, 500).astype("f4") - 1,
    ),
}


def by_scikit_learn(ids, oods, **options):
    """FPR and TPR of the whole curve, with OOD positive."""
    labels = np.concatenate([np.zeros(len(ids)), np.ones(len(oods))])
    return roc_curve(labels, np.concatenate([ids, oods]), **options)[:2]


def distance(points, line):
    """Euclidean distance of each point (N, 2) to the nearest place on a polyline (P, 2)."""
    start, step = line[:-1], np.diff(line, axis=0)
    square = np.maximum((step**2).sum(axis=1), 1e-30)
    along = ((points[:, None] - start) * step).sum(axis=2) / square
    nearest = start + np.clip(along, 0, 1)[..., None] * step
    return np.sqrt(((points[:, None] - nearest) ** 2).sum(axis=2)).min(axis=1)


@pytest.mark.parametrize("name", SCORES)
def test_unthinned_it_is_the_curve_of_scikit_learn(name):
    ids, oods = SCORES[name]
    curve = thinned_roc(ids, oods, points=10_000)
    fpr, tpr = by_scikit_learn(ids, oods, drop_intermediate=False)
    every = np.column_stack([fpr, tpr])
    corners = np.column_stack([curve.fpr, curve.tpr])
    assert distance(every, corners).max() < 1e-12
    assert distance(corners, every).max() < 1e-12
    assert len(corners) <= len(by_scikit_learn(ids, oods)[0])


@pytest.mark.parametrize("name", SCORES)
def test_the_area_is_that_of_scikit_learn(name):
    ids, oods = SCORES[name]
    labels = np.concatenate([np.zeros(len(ids)), np.ones(len(oods))])
    expected = roc_auc_score(labels, np.concatenate([ids, oods]))
    for points in (3, 1000):
        assert thinned_roc(ids, oods, points).auroc == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("points", [3, 4, 20, 101, 200])
@pytest.mark.parametrize("name", SCORES)
def test_thinned_it_stays_as_near_to_the_curve_as_it_says(name, points):
    ids, oods = SCORES[name]
    curve = thinned_roc(ids, oods, points)
    assert 2 <= len(curve.fpr) == len(curve.tpr) <= points
    whole = np.column_stack(by_scikit_learn(ids, oods))
    drawn = np.column_stack([curve.fpr, curve.tpr])
    assert distance(drawn, whole).max() < 1e-12  # its points are on the curve
    assert distance(whole, drawn).max() <= 0.71 / (points - 1)
    area = np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1]) / 2)
    assert area == pytest.approx(curve.auroc, abs=0.5 / (points - 1))


@pytest.mark.parametrize("points", [3, 20, 1000])
@pytest.mark.parametrize("name", SCORES)
def test_both_rates_rise_from_nothing_to_all(name, points):
    curve = thinned_roc(*SCORES[name], points)
    for rate in (curve.fpr, curve.tpr):
        assert rate[0] == 0.0
        assert rate[-1] == 1.0
        assert (np.diff(rate) >= 0).all()


def test_ood_is_the_positive_class():
    curve = thinned_roc([0.0, 1.0, 2.0, 3.0], [2.5, 4.0], points=10)
    # from the highest score down: OOD, ID, OOD, ID, ID, ID
    assert list(zip(curve.fpr, curve.tpr, strict=True)) == [
        (0, 0),
        (0, 0.5),
        (0.25, 0.5),
        (0.25, 1),
        (1, 1),
    ]
    assert curve.auroc == 7 / 8


def test_a_perfect_detector_keeps_its_corner():
    for points in (3, 4, 50):
        curve = thinned_roc(*SCORES["perfect"], points)
        assert (curve.fpr.tolist(), curve.tpr.tolist()) == ([0, 0, 1], [0, 1, 1])


@pytest.mark.parametrize("bins", [1, 7, 60])
@pytest.mark.parametrize("name", SCORES)
def test_no_score_is_lost_and_each_is_in_its_bin(name, bins):
    ids, oods = SCORES[name]
    drawn = shared_histogram(ids, oods, bins)
    assert len(drawn.edges) == bins + 1
    assert (np.diff(drawn.edges) > 0).all()
    below = above = 0
    for side, counts in ((ids, drawn.id_counts), (oods, drawn.ood_counts)):
        assert len(counts) == bins
        assert counts.sum() == len(side)
        place = np.searchsorted(drawn.edges, side.astype("f8"), side="right") - 1
        place[side == drawn.edges[-1]] = bins - 1
        below += (place < 0).sum()
        above += (place >= bins).sum()
        literal = [(np.clip(place, 0, bins - 1) == bin_).sum() for bin_ in range(bins)]
        assert counts.tolist() == literal
    assert (drawn.below, drawn.above) == (below, above)


@pytest.mark.parametrize("name", ["apart", "alike", "tied", "perfect", "two values", "float32"])
def test_without_heavy_tails_the_edges_are_the_extremes(name):
    drawn = shared_histogram(*SCORES[name])
    both = np.concatenate(SCORES[name])
    assert drawn.edges[[0, -1]].tolist() == pytest.approx([both.min(), both.max()], rel=1e-12)
    assert (drawn.below, drawn.above) == (0, 0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_heavy_tails_do_not_squeeze_the_rest_into_one_bin(scale):
    ids, oods = (scale * side for side in SCORES["heavy"])
    drawn = shared_histogram(ids, oods)
    assert drawn.below > 0
    assert drawn.above > 0
    for counts in (drawn.id_counts, drawn.ood_counts):
        assert counts.max() < 0.2 * counts.sum()
    literal = np.histogram(ids, 60)[0]
    assert literal.max() > 0.5 * literal.sum()  # what equal bins over all scores would show


@pytest.mark.parametrize("value", [0.0, -1.0, 3e38, 1e-40])
def test_constant_scores_are_in_one_bin(value):
    drawn = shared_histogram(np.full(5, value, "f4"), np.full(3, value, "f4"), bins=3)
    assert drawn.id_counts.tolist() == [0, 5, 0]
    assert drawn.ood_counts.tolist() == [0, 3, 0]


def test_scores_most_of_which_tie_still_show_the_others():
    ids = np.concatenate([np.zeros(90), [0.5] * 10])
    drawn = shared_histogram(ids, np.concatenate([np.zeros(90), [1.0] * 10]), bins=2)
    assert drawn.edges.tolist() == [0.0, 0.5, 1.0]
    assert drawn.id_counts.tolist() == [90, 10]


@pytest.mark.parametrize("of", [thinned_roc, shared_histogram])
@pytest.mark.parametrize(
    ("ids", "oods", "message"),
    [
        ([], [1.0], r"ID scores must be \(N,\) with N >= 1, got \(0,\)"),
        ([1.0], [[1.0]], r"OOD scores must be \(N,\)"),
        ([1.0, np.nan, -np.inf], [1.0], "2 of 3 ID scores are not finite"),
    ],
)
def test_what_cannot_be_drawn_is_said(of, ids, oods, message):
    with pytest.raises(UmBenchError, match=message):
        of(ids, oods)
    with pytest.raises(ValueError, match="needs at least"):
        of([1.0], [2.0], 0)
