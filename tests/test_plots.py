"""Plots to files: issue 6, points 3 and 4. The data part needs no matplotlib, the pictures do."""

import dataclasses
import importlib.util
import itertools
import json
import zlib

import numpy as np
import pytest
import synthetic
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from um_bench.cli import main
from um_bench.errors import UsageError
from um_bench.leaderboard import read_board
from um_bench.plots import Choice, heatmap, hist, pareto, roc, style, trajectory
from um_bench.records import job_file, write_file
from um_bench.scores import save_scores
from um_bench.trajectories import Point, Trajectory, write_trajectory

FAR = synthetic.OOD[2:4]
ADAPTERS = ("none", "finetune", "um@constraint=0.15")
DETECTORS = ("msp", "knn@k=50")
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
draws = pytest.mark.skipif(not HAS_MATPLOTLIB, reason="needs matplotlib: um-bench[plot]")
DRAWN = {"roc": roc, "hist": hist, "heatmap": heatmap, "pareto": pareto, "trajectory": trajectory}


def with_scores(folder, cell):
    """A cell whose scores are in the folder, and whose AUROC is that of the scores."""
    chance = np.random.default_rng(zlib.crc32(cell.key.encode()))
    shift = 1.0 + 0.4 * cell.adapter.startswith("um") + 0.5 * (cell.detector == "knn")
    sides = {"id": chance.normal(0, 1, 120), "ood": chance.normal(shift, 1, 90)}
    name = f"scores/{cell.key}.npz"
    check = save_scores(folder / name, sides)
    metrics = {**cell.metrics, "auroc": auroc(sides)}
    return dataclasses.replace(cell, scores=name, scores_check=check, metrics=metrics)


def auroc(sides):
    kept = {name: values.astype("f4") for name, values in sides.items()}
    labels = [0] * len(kept["id"]) + [1] * len(kept["ood"])
    return float(roc_auc_score(labels, np.concatenate([kept["id"], kept["ood"]])))


def tracked(adapter, seed, epochs=4):
    """A training that was scored at every epoch."""
    return Trajectory(
        suite="synthetic",
        key="k",
        model_key="m",
        weights="w",
        id_set="cifar10",
        backbone="resnet18_cifar",
        seed=seed,
        adapter=adapter,
        every=1,
        groups={ood.name: ood.group for ood in FAR},
        losses=[1.0 / (n + seed + 1) for n in range(epochs)],
        rates=[0.1] * epochs,
        counts={"id": 1},
        fingerprints={},
        seconds={},
        alarms={"broken": "scoring failed"} if (adapter, seed) == ("base", 1) else {},
        points=[
            Point(
                epoch=n,
                id_accuracy=0.5 + 0.1 * n,
                metrics={
                    detector: {
                        ood.name: dict.fromkeys(("auroc", "fpr95_ood", "fpr95_id"), value)
                        for ood, value in zip(FAR, (0.02 * n + 0.1 * seed, 0.5), strict=True)
                    }
                    for detector in DETECTORS
                },
            )
            for n in range(epochs + 1)
        ],
        provenance=synthetic.record().provenance,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots") / "synthetic"
    cells = synthetic.sweep(ADAPTERS, DETECTORS, FAR, seeds=(0, 1))
    cells = sorted((with_scores(folder, cell) for cell in cells), key=lambda c: c.job)
    for job, its in itertools.groupby(cells, key=lambda cell: cell.job):
        write_file(job_file(folder, job), its)
    words = {"name": "synthetic", "adapters": ADAPTERS, "detectors": DETECTORS, "seeds": [0, 1]}
    words["ood"] = [{"name": ood.name, "group": ood.group} for ood in FAR]
    (folder / "suite.json").write_text(json.dumps(words), encoding="utf-8")
    for adapter, seed in itertools.product(("base", "um@constraint=0.15"), (0, 1)):
        write_trajectory(folder, tracked(adapter, seed, epochs=4 if seed else 3))
    return folder


@pytest.fixture(scope="module")
def board(results):
    return read_board(results)


@pytest.fixture(scope="module")
def plots(results, board):
    """Everything that can be drawn, by default."""
    return {
        "roc": roc.roc_plot(results, board, Choice()),
        "hist": hist.hist_plot(results, board, Choice()),
        "heatmap": heatmap.heatmap_plot(board, Choice(), "none", "auroc"),
        "pareto": pareto.pareto_plot(board, Choice(), "scoring"),
        "trajectory": trajectory.trajectory_plot(results, board, Choice()),
    }


# --- What is drawn ---


def test_roc_is_of_every_adapter_on_every_set_with_the_best_detector(plots):
    plot = plots["roc"]
    assert [panel.title for panel in plot.panels] == ["mnist", "svhn"]
    for panel in plot.panels:
        assert [line.label for line in panel.lines] == list(ADAPTERS)
    assert plot.title == "knn@k=50, ID: cifar10"
    assert plot.remarks == (
        "detector knn@k=50: the highest mean far AUROC; --detector chooses another",
    )


def test_roc_is_that_of_the_scores_and_its_mean_has_the_mean_area(results, board):
    choice = Choice(adapters=("um",), detectors=("msp",), ood_sets=("svhn",))
    (panel,) = roc.roc_plot(results, board, choice).panels
    (line,) = panel.lines
    assert sorted(line.curves) == [0, 1]
    areas = []
    for seed, curve in line.curves.items():
        name = f"key-um@constraint=0.15-msp-svhn-{seed}.npz"
        with np.load(results / "scores" / name) as sides:
            areas.append(auroc(sides))
        assert curve.auroc == pytest.approx(areas[-1], abs=1e-12)
    assert line.auroc.mean == pytest.approx(np.mean(areas), abs=1e-12)
    assert line.auroc.sd == pytest.approx(np.std(areas, ddof=1), abs=1e-12)
    area = np.sum(np.diff(line.mean.fpr) * (line.mean.tpr[1:] + line.mean.tpr[:-1]) / 2)
    assert area == pytest.approx(np.mean(areas), abs=0.5 / 1000 * 4)


def test_roc_of_detectors_names_the_detectors(results, board):
    plot = roc.roc_plot(results, board, Choice(adapters=("none",), detectors=("msp", "knn")))
    assert [line.label for line in plot.panels[0].lines] == ["msp", "knn@k=50"]
    assert plot.title == "none, ID: cifar10"
    both = roc.roc_plot(results, board, Choice(detectors=("msp", "knn"), seeds=(1,)))
    assert both.panels[0].lines[0].label == "none + msp"
    assert list(both.panels[0].lines[0].curves) == [1]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(adapters=("umm",)), "no adapter in the results named 'umm'"),
        (Choice(detectors=("kn",)), "no detector in the results named 'kn'"),
        (Choice(ood_sets=("places",)), "no OOD set in the results named 'places'"),
        (Choice(seeds=(7,)), "no seed in the results named '7'"),
        (Choice(backbone="vit"), "no backbone in the results named 'vit'"),
        (Choice(track="photos"), "no track named 'photos'"),
    ],
)
def test_an_unknown_name_is_an_error(results, board, choice, message):
    with pytest.raises(UsageError, match=message):
        roc.roc_plot(results, board, choice)


def test_more_than_can_be_told_apart_is_an_error(results, board, monkeypatch):
    monkeypatch.setattr(style, "MOST_LINES", 2)
    with pytest.raises(UsageError, match=r"3 lines in one plot; at most 2.*--adapter, --detector"):
        roc.roc_plot(results, board, Choice())
    with pytest.raises(UsageError, match="3 adapters in one plot"):
        pareto.pareto_plot(board, Choice(), "scoring")
    with pytest.raises(UsageError, match="12 cells in one plot"):
        hist.hist_plot(results, board, Choice(detectors=("msp", "knn"), seeds=(0, 1)))


def test_scores_that_are_gone_or_others_are_an_error(results, board, tmp_path):
    with pytest.raises(UsageError, match="scores of none, knn@k=50, mnist, seed 0 are not in"):
        roc.roc_plot(tmp_path, board, Choice())
    record = next(row.slots[0].record for row in board.rows if row.slots[0].record)
    save_scores(tmp_path / record.scores, {"id": [0.0], "ood": [1.0]})
    one = Choice(
        adapters=(record.adapter,), detectors=("msp",), ood_sets=(record.ood_set,), seeds=(0,)
    )
    with pytest.raises(UsageError, match="or not those of the record"):
        hist.hist_plot(tmp_path, board, one)


def test_tracks_and_backbones_are_not_mixed_unasked(results):
    folder_cells = [record for row in read_board(results).rows for record in records_of(row)]
    seen = [
        dataclasses.replace(c, auxiliary="tin/train", adapter="oe", adapter_label="oe", key=c.key)
        for c in folder_cells
        if c.adapter == "um"
    ]
    from um_bench.leaderboard import make_board
    from um_bench.plots.selection import chosen_rows

    def adapters(cells, **choice):
        rows = chosen_rows(make_board(cells), Choice(**choice))
        return list(dict.fromkeys(row.key.adapter_label for row in rows))

    plain = sorted(ADAPTERS)
    assert sorted(adapters([*folder_cells, *seen])) == plain
    assert adapters([*folder_cells, *seen], track="tin/train") == ["oe"]
    assert sorted(adapters([*folder_cells, *seen], track="none")) == plain
    assert set(adapters([*folder_cells, *seen], adapters=("none", "oe"))) == {"none", "oe"}
    other = [dataclasses.replace(c, backbone="vit") for c in folder_cells]
    with pytest.raises(UsageError, match=r"choose it with --backbone\. Known: resnet18_cifar, vit"):
        adapters([*folder_cells, *other])
    assert sorted(adapters([*folder_cells, *other], backbone="vit")) == plain


def records_of(row):
    return [slot.record for slot in row.slots if slot.record]


def test_hist_is_of_every_adapter_and_says_what_it_chose(plots):
    plot = plots["hist"]
    assert [panel.title for panel in plot.panels] == list(ADAPTERS)
    assert plot.title == "knn@k=50, ID: cifar10, OOD: mnist, seed 0"
    assert [remark.split(":")[0] for remark in plot.remarks] == [
        "detector knn@k=50",
        "OOD set mnist",
        "seed 0",
    ]
    for panel in plot.panels:
        its = panel.histogram
        assert (its.id_counts.sum(), its.ood_counts.sum()) == (120, 90)
        density = hist.densities(its.ood_counts, its.edges)
        assert np.sum(density * np.diff(its.edges)) == pytest.approx(1)


def test_heatmap_has_the_differences_of_the_table(board, plots):
    plot = plots["heatmap"]
    assert (plot.detectors, plot.adapters) == (DETECTORS, ADAPTERS[1:])
    by_name = {(row.key.detector_label, row.key.adapter_label): row for row in board.rows}
    for (i, detector), (j, adapter) in itertools.product(
        enumerate(plot.detectors), enumerate(plot.adapters)
    ):
        mine, reference = by_name[detector, adapter], by_name[detector, "none"]
        literal = np.mean(
            [
                record.metrics["auroc"] - other.metrics["auroc"]
                for record, other in zip(records_of(mine), records_of(reference), strict=True)
            ]
        )
        assert plot.deltas[i, j] == pytest.approx(literal, abs=1e-12)
        interval = mine.groups["far"].deltas["none"]["auroc"].interval
        excluded = interval is not None and (interval.low > 0 or interval.high < 0)
        assert plot.excludes_zero[i, j] == excluded
    assert plot.label == "Δ AUROC (far) against none, percentage points"


def test_heatmap_of_one_set_and_of_another_reference(board):
    plot = heatmap.heatmap_plot(board, Choice(ood_sets=("svhn",)), "finetune", "fpr95_id")
    assert plot.label == "Δ FPR95 ID+ (svhn) against finetune, percentage points"
    assert not plot.higher_is_better
    assert "none" in plot.adapters
    assert "finetune" not in plot.adapters
    with pytest.raises(UsageError, match="no row has a difference to 'none'"):
        heatmap.heatmap_plot(board, Choice(adapters=("none",)), "none", "auroc")
    with pytest.raises(UsageError, match="give one --ood-set"):
        heatmap.heatmap_plot(board, Choice(ood_sets=("svhn", "mnist")), "none", "auroc")


def test_one_far_difference_does_not_make_the_others_pale():
    deltas = np.full((5, 5), 0.01)
    deltas[0, 0], deltas[1, 1] = -0.5, np.nan
    assert heatmap.limit_of(deltas) == pytest.approx(0.01)
    assert heatmap.limit_of(np.zeros((2, 2))) > 0


def test_the_frontier_is_what_nothing_cheaper_beats():
    chance = np.random.default_rng(1)
    points = [
        pareto.Point("a", str(n), float(cost), float(value), None)
        for n, (cost, value) in enumerate(chance.integers(0, 12, (60, 2)))
    ]
    found = pareto.frontier_of(points)
    literal = {
        (p.seconds, p.auroc)
        for p in points
        if not any(
            (q.seconds <= p.seconds and q.auroc > p.auroc)
            or (q.seconds < p.seconds and q.auroc >= p.auroc)
            for q in points
        )
    }
    assert [(p.seconds, p.auroc) for p in found] == sorted(literal)


def test_pareto_has_the_costs_of_the_table(board, plots):
    assert {point.seconds for point in plots["pareto"].points} == {4.5 + 0.5 + 0.25}
    adapting = pareto.pareto_plot(board, Choice(), "adapting")
    assert {point.seconds for point in adapting.points} == {800.0}
    assert len(adapting.points) == len(board.rows) == 6
    assert len(adapting.frontier) == 1


def test_trajectory_is_the_mean_over_sets_at_the_epochs_that_all_seeds_have(plots):
    plot = plots["trajectory"]
    auroc_line, fpr_line, loss, accuracy = (lines[0] for lines in plot.panels.values())
    assert list(plot.panels) == [
        "AUROC (far), %",
        "FPR95 OOD+ (far), %",
        "Training loss, nats",
        "ID accuracy, %",
    ]
    assert auroc_line.by_seed[1] == pytest.approx({n: 50 * (0.02 * n + 0.6) for n in range(5)})
    assert auroc_line.mean == pytest.approx({n: 50 * (0.02 * n + 0.55) for n in range(4)})
    assert fpr_line.mean == auroc_line.mean
    assert loss.by_seed[0] == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3})
    assert accuracy.mean == pytest.approx({n: 50 + 10 * n for n in range(4)})
    assert plot.remarks[0] == ("the training of base; --adapter chooses others: um@constraint=0.15")
    assert plot.remarks[-1] == "base, seed 1: scoring failed"


def test_trajectory_of_several(results, board, tmp_path):
    both = Choice(adapters=("base", "um@constraint=0.15"))
    lines = trajectory.trajectory_plot(results, board, both).panels["AUROC (far), %"]
    assert [line.label for line in lines] == list(both.adapters)
    detectors = Choice(adapters=("base",), detectors=("msp", "knn"), ood_sets=("svhn",))
    panels = trajectory.trajectory_plot(results, board, detectors).panels
    assert [line.label for line in panels["AUROC (svhn), %"]] == ["msp", "knn@k=50"]
    assert len(panels["ID accuracy, %"]) == 1
    for choice, message in (
        (dataclasses.replace(both, detectors=("msp", "knn")), "of several adapters with one"),
        (Choice(adapters=("um",)), "no adapter among the trajectories named 'um'"),
        (Choice(detectors=("odin",)), "no detector among the trajectories named 'odin'"),
    ):
        with pytest.raises(UsageError, match=message):
            trajectory.trajectory_plot(results, board, choice)
    with pytest.raises(UsageError, match=r"no training was tracked.*--track-every"):
        trajectory.trajectory_plot(tmp_path, board, Choice())


# --- How it is drawn ---


@draws
@pytest.mark.parametrize(
    ("kind", "ending"), [*((kind, ".svg") for kind in DRAWN), ("pareto", ".png"), ("hist", ".pdf")]
)
def test_the_same_input_gives_the_same_bytes_without_a_date(plots, kind, ending, tmp_path):
    made = []
    for name in ("a", "b"):
        with style.for_print():
            style.save(DRAWN[kind].draw(plots[kind]), tmp_path / f"{name}{ending}")
        made.append((tmp_path / f"{name}{ending}").read_bytes())
    assert made[0] == made[1]
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending]
    assert made[0].startswith(start)
    for dated in (b"Date", b"dc:date", b"tIME", b"atplotlib v"):
        assert dated not in made[0]


@draws
def test_no_text_leaves_the_picture(results, board, plots):
    several = Choice(adapters=("um", "none"), detectors=("msp", "knn"))
    further = {
        "roc": roc.roc_plot(results, board, several),
        "heatmap": heatmap.heatmap_plot(board, Choice(ood_sets=("svhn",)), "finetune", "fpr95_ood"),
    }
    for kind, plot in (*plots.items(), *further.items()):
        with style.for_print():
            figure = DRAWN[kind].draw(plot)
            figure.draw_without_rendering()
            legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
            texts = [*figure.texts, *(axis.title for axis in figure.axes)]
            texts += [text for legend in legends for text in legend.get_texts()]
            for text in (text for text in texts if text.get_text()):
                box = text.get_window_extent()
                inside = box.x0 >= 0 and box.y0 >= 0
                inside &= box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
                assert inside, f"{kind}: {text.get_text()}"


@draws
def test_numbers_on_the_frontier_cover_neither_each_other_nor_a_point():
    points = [
        pareto.Point("a", str(n), 1 + 0.01 * n, 0.9 + 0.0005 * (n % 9), 0.1) for n in range(30)
    ]
    plot = pareto.ParetoPlot(tuple(points), pareto.frontier_of(points), "scoring", "far", ())
    assert len(plot.frontier) > 5
    with style.for_print():
        figure = pareto.draw(plot)
        (axis,) = figure.axes
        boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == len(plot.frontier)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    spots = axis.transData.transform([(p.seconds, 100 * p.auroc) for p in points])
    assert not any(box.contains(*spot) for box in boxes for spot in spots)


@draws
def test_names_are_text_whatever_is_in_them(plots, tmp_path):
    panel = plots["roc"].panels[0]
    odd = [dataclasses.replace(line, label=r"$\frac{ <&") for line in panel.lines]
    hostile = dataclasses.replace(
        plots["roc"], panels=(roc.Panel("$_{", tuple(odd)),), title="100 % $x"
    )
    with style.for_print():
        style.save(roc.draw(hostile), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000


@draws
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("roc --detector msp", ""),
        ("hist", "seed 0: the first; --seed chooses others"),
        ("heatmap --against finetune --metric fpr95_ood", ""),
        ("pareto --cost adapting", ""),
        ("trajectory --adapter um@constraint=0.15 --detector msp,knn", ""),
    ],
)
def test_the_command_writes_the_file(results, tmp_path, arguments, said):
    out = tmp_path / "plot.png"
    options = ["--results", str(results.parent), "--out", str(out)]
    done = CliRunner().invoke(main, ["plot", *arguments.split(), *options])
    assert (done.exit_code, done.exception and done.exception.code) in ((0, None), (0, 0))
    assert out.read_bytes().startswith(b"\x89PNG")
    assert said in done.output
    assert bool(said) == bool(done.output)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a.jpg", "", "its ending is none of .png, .svg, .pdf"),
        ("a.svg", "--seed x", "--seed x: not whole numbers"),
        ("a.svg", "--results nowhere", "holds no results"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(results, tmp_path, monkeypatch, out, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    where = ["--results", str(results.parent), "--out", out]
    done = CliRunner().invoke(main, ["plot", "roc", *where, *options.split()])
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1


def test_without_matplotlib_the_extra_is_named_before_anything_is_read(monkeypatch, tmp_path):
    from um_bench.plots import write_roc

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'um-bench\[plot\]'"):
        write_roc(tmp_path / "nowhere", Choice(), tmp_path / "a.png")
