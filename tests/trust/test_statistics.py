"""Issue 5, point 3: intervals and ranks, against scikit-learn, literal resampling, simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from um_bench.errors import UsageError
from um_bench.metrics import ood_metrics
from um_bench.statistics import (
    METRICS,
    ImageSet,
    RankRange,
    Sampled,
    mean_over_sets,
    paired_delta,
    rank,
    sample_metrics,
)
from um_bench.statistics.ranks import holm, p_values, rotated_apart
from um_bench.statistics.resampling import arrange, draw_counts, weighted_metrics

ID, OOD, OTHER = ImageSet("id", 200), ImageSet("ood", 250), ImageSet("other", 90)


def scores(seed, shift=1.0, id_set=ID, ood_set=OOD):
    rng = np.random.default_rng(seed)
    return rng.normal(size=id_set.images), rng.normal(shift, size=ood_set.images)


def models(rng, rows, seeds, images, *, seed_sd, gap=0.0):
    """Scores by (row, seed) of rows that differ by chance, but for the first: shifted by `gap`.

    They share base models (seeds), images that are hard for all, and, two by two, adapters.
    """
    hard = rng.normal(size=(2, images))
    base = seed_sd * rng.normal(size=seeds)
    adapter = seed_sd * rng.normal(size=(rows, seeds))
    of_row = 0.4 * rng.normal(size=(rows, 2, images))
    found = {}
    for row in range(rows):
        for seed in range(seeds):
            pair = hard + of_row[row] + rng.normal(size=(2, images))
            shift = 2.5 + base[seed] + adapter[row // 2, seed] + seed_sd * rng.normal()
            found[row, seed] = (pair[0], pair[1] + shift + (gap if row == 0 else 0.0))
    return found


def cells(by_model, row, seeds, metric="auroc"):
    return {seed: by_model[row, seed][metric] for seed in range(seeds)}


def table(rng, rows, seeds, *, images=120, repeat=0, replicates=100, **how):
    sets = ImageSet(f"id {repeat}", images), ImageSet(f"ood {repeat}", images)
    found = sample_metrics(models(rng, rows, seeds, images, **how), *sets, replicates)
    return {f"row {row}": cells(found, row, seeds) for row in range(rows)}


# --- Metrics of weighted images ---


def rounded(pair, digits):
    return tuple(np.round(side, digits) for side in pair)


CASES = {
    "no ties": scores(1),
    "many ties": rounded(scores(2), 0),
    "some ties": rounded(scores(3), 1),
    "constant": (np.full(30, 2.0), np.full(20, 2.0)),
    "constant, apart": (np.full(30, 1.0), np.full(20, 2.0)),
    "one image each": (np.array([1.0]), np.array([0.5])),
    "one OOD image": (np.arange(40.0), np.array([20.0])),
    "exactly 95 % of 20": (np.arange(20.0), np.arange(20.0) + 3.5),
    "signed zeros": (np.array([0.0, -0.0, 1.0]), np.array([-0.0, 2.0])),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_auroc_of_weighted_images_is_that_of_scikit_learn(case):
    rng = np.random.default_rng(4)
    id_weights = rng.uniform(0.1, 3, size=(5, len(case[0])))
    ood_weights = rng.uniform(0.1, 3, size=(5, len(case[1])))
    found = weighted_metrics(arrange(*case), id_weights, ood_weights)["auroc"]
    labels = np.repeat([0, 1], [len(case[0]), len(case[1])])
    for i, value in enumerate(found):
        weights = np.concatenate([id_weights[i], ood_weights[i]])
        expected = roc_auc_score(labels, np.concatenate(case), sample_weight=weights)
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_weights_that_count_are_repeated_images(case):
    rng = np.random.default_rng(5)
    for _ in range(20):
        counts = [rng.multinomial(len(side), np.full(len(side), 1 / len(side))) for side in case]
        found = weighted_metrics(arrange(*case), counts[0][None], counts[1][None])
        repeated = [torch.tensor(np.repeat(*pair)) for pair in zip(case, counts, strict=True)]
        expected = ood_metrics(*repeated)
        for metric in METRICS:
            assert found[metric][0] == pytest.approx(expected[metric], abs=1e-12), metric


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_values_are_those_of_the_records(case):
    sets = ImageSet("id", len(case[0])), ImageSet("ood", len(case[1]))
    found = sample_metrics({"model": case}, *sets, replicates=2)["model"]
    expected = ood_metrics(*map(torch.tensor, case))
    assert {m: s.value for m, s in found.items()} == pytest.approx(
        {m: expected[m] for m in METRICS}, abs=1e-12
    )


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [1.0]), "ID scores must be"),
        (([[1.0]], [1.0]), "ID scores must be"),
        (([1.0], [np.nan, np.inf, 1.0]), "2 of 3 OOD scores are not finite"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(pair, message):
    with pytest.raises(UsageError, match=message):
        arrange(*pair)


def test_a_different_number_of_images_is_refused():
    with pytest.raises(UsageError, match=r"m: 200 ID and 250 OOD scores.* 200 and 90 images"):
        sample_metrics({"m": scores(1)}, ID, OTHER)


# --- Replicates ---


def test_replicates_are_the_metrics_of_the_drawn_images():
    pair = rounded(scores(7), 1)
    found = sample_metrics({"model": pair}, ID, OOD, replicates=30)["model"]
    drawn = zip(draw_counts(ID, 30), draw_counts(OOD, 30), strict=True)
    for i, counts in enumerate(drawn):
        repeated = [torch.tensor(np.repeat(*both)) for both in zip(pair, counts, strict=True)]
        expected = ood_metrics(*repeated)
        for metric in METRICS:
            assert found[metric].replicates[i] == pytest.approx(expected[metric], abs=1e-12)


def test_images_are_drawn_with_replacement_and_evenly():
    counts = np.array(list(draw_counts(ImageSet("any", 50), 4000)))
    assert (counts.sum(axis=1) == 50).all()
    # Multinomial: each image 4000 times on average, SD 62.6; pairs correlate by -1 / 49.
    assert np.abs(counts.sum(axis=0) - 4000).max() < 4.5 * 62.6
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 50, rel=0.02)


def test_what_is_drawn_depends_on_the_images_alone():
    # Written out: another numpy, machine or number of replicates must draw the same.
    first = next(iter(draw_counts(ImageSet("an ID set", 12), 1)))
    assert first.tolist() == FIRST_DRAW
    many = list(draw_counts(ImageSet("big", 30_001), 40))  # in several portions
    few = list(draw_counts(ImageSet("big", 30_001), 3))
    assert all((a == b).all() for a, b in zip(many[:3], few, strict=True))
    assert (many[0] != next(iter(draw_counts(ImageSet("other", 30_001), 1)))).any()


FIRST_DRAW = [1, 0, 3, 2, 1, 0, 0, 0, 1, 1, 2, 1]


def test_a_model_has_the_same_replicates_beside_others_and_alone():
    by_model = {"a": scores(8), "b": scores(9)}
    both = sample_metrics(by_model, ID, OOD, replicates=20)
    alone = sample_metrics({"b": by_model["b"]}, ID, OOD, replicates=20)
    for metric in METRICS:
        assert (both["b"][metric].replicates == alone["b"][metric].replicates).all()


def test_a_group_is_the_mean_over_sets_with_the_id_images_drawn_once():
    of_id, near = scores(10)
    far = np.random.default_rng(11).normal(2, size=OTHER.images)
    parts = [
        sample_metrics({0: (of_id, near)}, ID, OOD, replicates=5)[0]["auroc"],
        sample_metrics({0: (of_id, far)}, ID, OTHER, replicates=5)[0]["auroc"],
    ]
    group = mean_over_sets(parts)
    drawn = (draw_counts(one, 5) for one in (ID, OOD, OTHER))
    for i, (w, u, v) in enumerate(zip(*drawn, strict=True)):
        again = np.repeat(of_id, w)
        values = [
            float(ood_metrics(torch.tensor(again), torch.tensor(np.repeat(*o)))["auroc"])
            for o in ((near, u), (far, v))
        ]
        assert group.replicates[i] == pytest.approx(sum(values) / 2, abs=1e-12)
    assert group.value == (parts[0].value + parts[1].value) / 2
    assert mean_over_sets([parts[0], Sampled(0.5)]).replicates is None


def test_nothing_to_average_is_refused():
    with pytest.raises(UsageError, match="no set to average"):
        mean_over_sets([])


# --- Paired differences ---


def two_rows(seeds=3, gap=0.0, images=150, seed_sd=0.1, replicates=400, metric="auroc"):
    rng = np.random.default_rng(12)
    sets = ImageSet("id", images), ImageSet("ood", images)
    by_model = models(rng, 2, seeds, images, seed_sd=seed_sd, gap=gap)
    found = sample_metrics(by_model, *sets, replicates)
    return by_model, [cells(found, row, seeds, metric) for row in (0, 1)]


def literal(metric, of_id, of_ood):
    """The metric, counted."""
    if metric == "auroc":
        return (of_ood[:, None] > of_id).mean() + (of_ood[:, None] == of_id).mean() / 2
    threshold = np.sort(of_ood)[::-1][math.ceil(0.95 * len(of_ood)) - 1]
    return (of_id >= threshold).mean()


def literal_deltas(by_model, metric, n, images, replicates):
    """(replicates, n): ours minus theirs on images drawn and scored anew, one by one."""
    rng = np.random.default_rng(13)
    found = []
    for _ in range(replicates):
        i, j = rng.integers(images, size=(2, images))
        values = {model: literal(metric, s[0][i], s[1][j]) for model, s in by_model.items()}
        found.append([values[0, seed] - values[1, seed] for seed in range(n)])
    return np.array(found)


@pytest.mark.parametrize("metric", ["auroc", "fpr95_ood"])
def test_the_interval_is_that_of_a_literal_resampling(metric):
    n, images = 3, 150
    by_model, (ours, theirs) = two_rows(n, gap=0.3, images=images, metric=metric)
    drawn = literal_deltas(by_model, metric, n, images, 1000)
    values = np.array([ours[s].value - theirs[s].value for s in range(n)])
    covariance = np.cov(drawn.T)
    shared = covariance[~np.eye(n, dtype=bool)].mean()
    single = covariance.diagonal().mean() - shared
    by_seeds = max(values.var(ddof=1) - single, 0) / n
    expected = math.hypot(
        stats.t.ppf(0.975, n - 1) * math.sqrt(by_seeds),
        stats.norm.ppf(0.975) * drawn.mean(axis=1).std(ddof=1),
    )
    low, high, level, over = paired_delta(ours, theirs).interval
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=1e-12)
    assert (level, over) == (0.95, "seeds and images")
    # SDs of 400 and of 1000 replicates differ by 4 % (one SD).
    assert (high - low) / 2 == pytest.approx(expected, rel=0.12)
    # Drawing seeds as well varies by what the docstring says of it.
    seeds = np.random.default_rng(14).integers(n, size=drawn.shape)
    two_level = np.take_along_axis(drawn, seeds, axis=1).mean(axis=1).var()
    counted = (n - 1) / n * (values.var(ddof=1) + single) / n + shared + single / n
    assert two_level == pytest.approx(counted, rel=0.15)


def test_one_seed_varies_by_images_only_and_says_so():
    _, (ours, theirs) = two_rows(1, replicates=2000)
    low, high, _, over = paired_delta(ours, theirs).interval
    drawn = ours[0].replicates - theirs[0].replicates
    assert over == "images"
    assert (high - low) / 2 == pytest.approx(1.96 * drawn.std(), rel=0.01)
    # The images alone vary no more than percentiles of the replicates say.
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.1 * (high - low))


def test_without_replicates_only_seeds_vary():
    by_seed = {0: 0.9, 1: 0.94, 2: 0.91, 3: 0.97}
    ours = {seed: Sampled(value) for seed, value in by_seed.items()}
    theirs = {seed: Sampled(0.9) for seed in by_seed}
    delta = paired_delta(ours, theirs, level=0.9)
    expected = stats.ttest_1samp([*delta.by_seed.values()], 0).confidence_interval(0.9)
    assert delta.interval[:2] == pytest.approx(tuple(expected))
    assert delta.interval.over == "seeds"
    assert paired_delta({0: Sampled(0.9)}, theirs).interval is None


def test_a_seed_that_one_row_lacks_is_left_out():
    _, (ours, theirs) = two_rows(3)
    delta = paired_delta(ours, {seed: theirs[seed] for seed in (0, 2)})
    assert delta == paired_delta({s: ours[s] for s in (0, 2)}, {s: theirs[s] for s in (0, 2)})
    assert [*delta.by_seed] == [0, 2]
    with pytest.raises(UsageError, match=r"no seed is in both: \[0\] and \[2\]"):
        paired_delta({0: ours[0]}, {2: theirs[2]})


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("metric", METRICS)
def test_a_row_does_not_differ_from_itself(seeds, metric):
    _, (ours, _) = two_rows(seeds, metric=metric)
    delta = paired_delta(ours, ours)
    assert delta.mean == 0
    assert delta.interval[:2] == (0, 0)


def test_two_seeds_show_little_and_the_interval_says_so():
    rng, held, repeats = np.random.default_rng(23), 0, 1000  # one SD at 95 % is 0.7 %
    for _ in range(repeats):
        values = 0.8 + math.hypot(0.01, 0.007) * rng.normal(size=(2, 2))
        images = 0.007 * rng.normal(size=(2, 2, 100))
        rows = [
            {seed: Sampled(values[i, seed], values[i, seed] + images[i, seed]) for seed in (0, 1)}
            for i in (0, 1)
        ]
        low, high, *_ = paired_delta(*rows).interval
        held += low <= 0 <= high
    assert held / repeats >= 0.95


def test_constant_scores_and_single_images():
    constant = (np.zeros(ID.images), np.zeros(OOD.images))
    found = sample_metrics({0: scores(1), 1: constant}, ID, OOD, replicates=50)
    assert found[1]["auroc"].value == 0.5
    assert (found[1]["auroc"].replicates == 0.5).all()
    assert paired_delta({0: found[0]["auroc"]}, {0: found[1]["auroc"]}).interval.low > 0.1
    one = ImageSet("one", 1)
    alone = sample_metrics({0: ([1.0], [2.0]), 1: ([2.0], [1.0])}, one, one)
    assert [alone[i]["auroc"] for i in (0, 1)] == [Sampled(1.0), Sampled(0.0)]  # no replicates
    assert paired_delta({0: alone[0]["auroc"]}, {0: alone[1]["auroc"]}).interval is None


def test_different_numbers_of_replicates_are_refused():
    ours, theirs = Sampled(0.9, np.zeros(10)), Sampled(0.9, np.zeros(11))
    with pytest.raises(UsageError, match=r"these have \[10, 11\]"):
        paired_delta({0: ours}, {0: theirs})


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(UsageError, match="level must be between 0 and 1"):
        paired_delta({0: Sampled(0.9)}, {0: Sampled(0.9)}, level)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.3), (3, 0.0), (5, 0.1), (10, 0.1)])
def test_intervals_of_95_percent_cover(seeds, seed_sd):
    # 200 repeats: one SD is 1.5 %. benchmarks/intervals.py has 2000 and more.
    rng, held, repeats = np.random.default_rng([24, seeds]), 0, 200
    for repeat in range(repeats):
        rows = table(
            rng, 2, seeds, seed_sd=seed_sd, images=60, repeat=repeat, replicates=100, gap=0.0
        )
        # Rows 0 and 1 share an adapter and are equal in expectation.
        low, high, *_ = paired_delta(rows["row 0"], rows["row 1"]).interval
        held += low <= 0 <= high
    assert 0.91 <= held / repeats <= 0.985


# --- Tests ---


def test_p_values_over_images_are_normal():
    expected = [2 * stats.norm.sf(1.5), 0.0]
    assert p_values(np.array([-3.0, 1.0]), np.array([4.0, 0.0])) == pytest.approx(expected)
    assert p_values(np.zeros(2), np.array([4.0, 0.0])).tolist() == [1, 1]


@pytest.mark.parametrize("n", [3, 4, 5, 10])
def test_two_rows_over_seeds_alone_are_told_apart_by_students_test(n):
    # Rotating one pair is Student's test, whatever the constant is: it only orders pairs.
    rng, alpha = np.random.default_rng(25), 0.1
    for values in rng.normal(rng.uniform(0, 1.5, size=(300, 1)), 1, size=(300, n)):
        p = float(stats.ttest_1samp(values, 0).pvalue)
        if 0.8 * alpha <= p <= 1.2 * alpha:
            continue  # 1,024 rotations do not resolve that
        table = np.stack([values, np.zeros(n)])
        pair = np.array([0]), np.array([1])
        assert rotated_apart(table, None, pair, alpha).item() == (p < alpha)


def test_rotated_tables_are_as_far_from_equal_as_literal_ones():
    # The largest statistic of all pairs, by tables that are turned whole, by matrices.
    rng = np.random.default_rng(26)
    values = rng.normal(size=(5, 4)) + np.array([[0.0], [0], [0], [1.2], [3]])
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    constant = np.median([((values[i] - values[j]) ** 2).sum() for i, j in pairs]) / 4

    def largest(table, among):
        found = []
        for i, j in among:
            d = table[i] - table[j]
            found.append(abs(d.mean()) / math.sqrt(d.var(ddof=1) + constant))
        return max(found)

    turns = [np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(3000)]
    left, told = list(pairs), set()
    while left:
        best = max(left, key=lambda pair: largest(values, [pair]))
        share = np.mean([largest(values @ t, left) >= largest(values, [best]) for t in turns])
        if share > 0.3:
            break
        assert share < 0.25 or share > 0.35, "too near to 0.3 to be sure"
        told.add(best)
        left.remove(best)
    upper, lower = (np.array(side) for side in zip(*pairs, strict=True))
    found = rotated_apart(values, None, (upper, lower), 0.3)
    assert {pair for pair, apart in zip(pairs, found, strict=True) if apart} == told
    assert 0 < len(told) < len(pairs)


def test_images_that_all_seeds_share_count_in_a_rotated_table():
    # No seed differs from another: by seeds alone it is certain, by images it is anybody's guess.
    values = np.array([[0.81] * 3, [0.8] * 3])
    values[0, 0] += 1e-6
    pair = np.array([0]), np.array([1])
    rng = np.random.default_rng(27)
    errors = np.repeat(0.02 * rng.normal(size=(2, 1, 300)), 3, axis=1)
    assert rotated_apart(values, None, pair, 0.05).item()
    assert rotated_apart(values, values[:, :, None] + errors / 100, pair, 0.05).item()
    assert not rotated_apart(values, values[:, :, None] + errors, pair, 0.05).item()


def test_holm_by_hand():
    # Sorted: .009 <= .05 / 5, .011 <= .05 / 4, .02 > .05 / 3, and so .021 <= .05 / 2 is too late.
    p = np.array([0.02, 0.011, 0.5, 0.009, 0.021])
    assert holm(p, 0.05).tolist() == [False, True, False, True, False]
    assert holm(np.array([]), 0.05).tolist() == []


# --- Ranks ---


def certain(values, seeds=5, noise=0.001, replicates=50):
    """Rows with given means, hardly varying over seeds and images."""
    rng = np.random.default_rng(17)
    found = {}
    for name, mean in values.items():
        found[name] = {}
        for seed in range(seeds):
            value = mean + noise * rng.normal()
            found[name][seed] = Sampled(value, value + noise * rng.normal(size=replicates))
    return found


def shown(ranks):
    return {label: str(ranges) for label, ranges in ranks.by_row.items()}


def test_rows_that_differ_have_ranks_of_their_own_and_others_share():
    rows = certain({"mid": 0.8, "best": 0.9, "also mid": 0.8, "worst": 0.6})
    ranks = rank(rows)
    assert shown(ranks) == {"mid": "2-3", "best": "1", "also mid": "2-3", "worst": "4"}
    assert [*ranks.by_row] == [*rows]
    assert (ranks.over, ranks.seeds, ranks.separated, ranks.pairs) == ("seeds and images", 5, 5, 6)
    flipped = rank(rows, higher_is_better=False)
    assert shown(flipped) == {"mid": "2-3", "best": "4", "also mid": "2-3", "worst": "1"}


def test_an_interval_of_ranks_counts_what_is_better_and_worse():
    # b differs from neither a nor c, which differ from each other.
    noise = 0.01 * np.array([[1, -1, 1, -1, 0], [-1, 1, 0, 1, -1], [0, 1, -1, -1, 1]])
    values = np.array([[0.82], [0.8], [0.78]]) + noise
    ranks = rank(
        {name: dict(enumerate(map(Sampled, row))) for name, row in zip("abc", values, strict=True)}
    )
    assert ranks.by_row == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}
    assert str(RankRange(3, 3)) == "3"


def test_ranks_do_not_depend_on_the_order_of_rows():
    rows = table(np.random.default_rng(18), 8, 4, seed_sd=0.2, gap=2.0)
    backwards = rank(dict(reversed(rows.items())))
    ranks = rank(rows)
    assert backwards == ranks
    assert ranks.separated
    assert [*backwards.by_row] == [*reversed(rows)]


def test_identical_rows_are_never_told_apart():
    rows = certain({"a": 0.9, "b": 0.5})
    rows["copy of a"] = rows["a"]
    assert shown(rank(rows)) == {"a": "1-2", "copy of a": "1-2", "b": "3"}
    same = dict.fromkeys("abc", rows["a"])
    assert set(shown(rank(same)).values()) == {"1-3"}


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_fewer_than_three_seeds_only_images_are_tested(seeds):
    ranks = rank(certain({"a": 0.9, "b": 0.8}, seeds=seeds))
    assert (ranks.over, ranks.separated) == ("images", 1)
    bare = {
        label: {seed: Sampled(cell.value) for seed, cell in row.items()}
        for label, row in certain({"a": 0.9, "b": 0.8}, seeds=seeds).items()
    }
    nothing = rank(bare)
    assert (nothing.over, nothing.separated, shown(nothing)) == (
        "nothing",
        0,
        {"a": "1-2", "b": "1-2"},
    )


def test_without_replicates_only_seeds_are_tested():
    rows = {
        label: {seed: Sampled(cell.value) for seed, cell in row.items()}
        for label, row in certain({"a": 0.9, "b": 0.8}, seeds=3).items()
    }
    assert (rank(rows).over, shown(rank(rows))) == ("seeds", {"a": "1", "b": "2"})


def test_one_row_has_rank_one():
    ranks = rank(certain({"a": 0.9}))
    assert (shown(ranks), ranks.pairs) == ({"a": "1"}, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "no rows to rank"),
        ({"a": {}}, "no seeds"),
        ({"a": {0: Sampled(0.9)}, "b": {1: Sampled(0.9)}}, r"a has no value for seeds \[1\]"),
        ({"a": {0: Sampled(0.9)}, "b": {0: Sampled(0.9, np.zeros(3))}}, "1 of 2 values have"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(rows, message):
    with pytest.raises(UsageError, match=message):
        rank(rows)


def test_an_alpha_that_is_none_is_refused():
    with pytest.raises(UsageError, match="alpha must be between 0 and 1"):
        rank(certain({"a": 0.9}), alpha=5)


@pytest.mark.parametrize("rows", [3, 6])
def test_issue_5_equal_rows_are_told_apart_in_at_most_5_percent_of_tables(rows):
    # Scores of rows that share images, base models and, two by two, adapters. With a true share
    # of 5 % one of 200 tables has an SD of 1.5 %; the draws are fixed, and no slack is needed.
    rng, repeats = np.random.default_rng(19), 200
    false = sum(
        rank(table(rng, rows, 5, images=50, repeat=repeat, replicates=60, seed_sd=0.2)).separated
        > 0
        for repeat in range(repeats)
    )
    assert false / repeats <= 0.05


def test_a_test_that_ignores_seeds_would_not_pass_that():
    # The simulation has teeth: what is tested over images alone fails it.
    rng, repeats = np.random.default_rng(20), 40
    false = 0
    for repeat in range(repeats):
        rows = table(rng, 8, 1, images=200, repeat=repeat, replicates=100, seed_sd=0.4)
        false += rank(rows).separated > 0
    assert false / repeats > 0.3


def test_a_wild_row_is_not_told_apart_more_often():
    # Its variance over seeds is drawn towards that of the others, but not by much.
    rng, repeats = np.random.default_rng(21), 400
    false = 0
    for _ in range(repeats):
        spread = np.array([0.05] + [0.005] * 9)[:, None]
        values = 0.8 + spread * rng.normal(size=(10, 3))
        rows = {i: {s: Sampled(values[i, s]) for s in range(3)} for i in range(10)}
        false += rank(rows).separated > 0
    assert false / repeats <= 0.05


def test_a_real_gap_is_found():
    # 3 points of AUROC, 5 seeds, rows whose seeds vary by half a point.
    rng, repeats, found = np.random.default_rng(22), 50, []
    for _ in range(repeats):
        values = 0.85 + 0.005 * rng.normal(size=(12, 5)) + 0.01 * rng.normal(size=(1, 5))
        values[0] += 0.03
        images = 0.002 * rng.normal(size=(12, 1, 100))
        rows = {
            i: {s: Sampled(values[i, s], values[i, s] + images[i, 0]) for s in range(5)}
            for i in range(12)
        }
        found.append(rank(rows).by_row[0] == (1, 1))
    assert np.mean(found) > 0.9
