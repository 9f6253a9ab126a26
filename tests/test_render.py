import csv
import dataclasses
import io
import json
import random
import re
import statistics
from html.parser import HTMLParser

import pytest
import synthetic
from scipy import stats

from um_bench.errors import UsageError
from um_bench.leaderboard import METRICS, Table, make_board
from um_bench.render import FORMATS, JOINABLE, render
from um_bench.render.view import percent
from um_bench.suite import OodSet

PAGES = ("table", "markdown", "latex", "html")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[1em] a|b\\|c * & # _ ^ ~ {",
    "**x** _y_ `z` [l](http://e.example) $m$",
    "line\nbreak\r\n| --- |",
    "\x1b[31mred\x1b[0m\x00\u202e",
    r"\input{/etc/passwd} \end{tabular} %",
    "a|b",
    '=cmd|"/c calc"!A1',
    "é ü 中文 \ud800",
)


def board_of(records=None, **changes):
    return make_board(synthetic.sweep() if records is None else records, synthetic.info(**changes))


def messy():
    """Every state there is, and a warning."""

    def change(record):
        where = (record.adapter, record.detector, record.seed)
        if record.ood_set == "places365":
            return synthetic.blank(record, "missing-data", "get places365")
        if where[:2] == ("umap", "knn"):
            return synthetic.blank(record, "failed", "boom")
        if where[:2] == ("um", "knn"):
            return synthetic.blank(record, "unsupported", "cannot") if record.seed == 0 else record
        if where[:2] == ("finetune", "msp"):
            return synthetic.blank(record, "stale", "changed") if record.seed == 2 else record
        return None if where == ("none", "msp", 1) else record

    other = dataclasses.replace(
        synthetic.record("um", "msp"), weights={"base": "b", "adapted": "c"}
    )
    records = synthetic.sweep(change=change)
    return board_of([r for r in records if r.cell != other.cell] + [other])


def hostile_board():
    names = HOSTILE

    def change(record):
        place = synthetic.DETECTORS.index(record.detector)
        return dataclasses.replace(
            record,
            adapter=names[place],
            adapter_label=names[place],
            detector=names[place + 3],
            detector_label=names[place + 3],
            ood_set=names[6] if record.ood_set == "svhn" else record.ood_set,
            backbone=names[7],
            id_set=names[8],
            notes={names[0]: 1.0},
            state="failed" if record.seed == 2 else "done",
            reason=" ".join(names) if record.seed == 2 else "",
        )

    records = synthetic.sweep(adapters=("um",), change=change)
    text = "\n\n".join(names)
    return make_board(records, synthetic.info(name=names[0], title=names[9], description=text))


def line_of(text, *names):
    found = [
        line for line in text.splitlines() if re.split(r"[ |&]+", line.strip("| "))[:2] == [*names]
    ]
    assert len(found) == 1, found
    return found[0]


# --- All formats ---


@pytest.mark.parametrize("format", FORMATS)
def test_same_records_in_any_order_give_the_same_bytes(format):
    def change(record):
        return None if (record.detector, record.seed) == ("msp", 1) else record

    records = synthetic.sweep(change=change)
    text = render(board_of(records), format, per_set=True)
    for seed in range(3):
        shuffled = random.Random(seed).sample(records, len(records))
        assert render(board_of(shuffled), format, per_set=True) == text
    assert not text.endswith("\n")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("make", [messy, hostile_board])
def test_every_format_can_be_written_as_utf8(format, make):
    assert render(make(), format, per_set=True).encode("utf-8")


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "bibtex"])
def test_sweep_without_any_number_can_be_shown(format):
    records = synthetic.sweep(change=lambda r: synthetic.blank(r, "missing-data", "get cifar10"))
    text = render(board_of(records), format, per_set=True)
    assert "get cifar10" in text
    assert "NaN" not in text


def test_unknown_names_are_errors():
    board = board_of()
    with pytest.raises(UsageError, match=r"no format named 'htm'\. Did you mean html"):
        render(board, "htm")
    with pytest.raises(UsageError, match="no order of rows named 'rank'"):
        render(board, "table", order="rank")
    with pytest.raises(UsageError, match="no column named 'fpr'"):
        render(board, "table", columns=["fpr"])


@pytest.mark.parametrize("format", PAGES)
@pytest.mark.parametrize(
    ("convention", "words"),
    [
        ("ood", "share of ID images that are flagged when 95 % of the OOD images are caught"),
        ("id", "share of OOD images that are accepted when 95 % of the ID images are"),
    ],
)
def test_convention_of_fpr95_is_said_in_words_above_the_table(format, convention, words):
    text = render(board_of(fpr95=convention), format)
    flat = " ".join(text.replace("\\%", "%").split())
    assert words in flat
    assert flat.index(words) < flat.index("energy")
    assert f"FPR95 {convention.upper()}+" in text


def test_convention_decides_which_numbers_are_shown():
    board = board_of()
    for convention in ("ood", "id"):
        line = line_of(render(board_of(fpr95=convention), "table"), "um", "knn")
        row = next(r for r in board.rows if (r.adapter, r.detector) == ("um", "knn"))
        assert percent(row.groups["far"].metrics[f"fpr95_{convention}"].mean) in line


def alike(record):
    """Every row has the same numbers, but for chance."""
    chance = random.Random(f"{record.cell}")
    return dataclasses.replace(record, metrics={m: chance.uniform(0.4, 0.6) for m in METRICS})


@pytest.mark.parametrize("format", PAGES)
def test_page_ranks_rows_that_can_be_told_apart_and_marks_what_ties_with_the_best(format):
    board = board_of()
    table = Table(board.sections[0], "far", "auroc")
    assert 0 < board.judged.tables[table].separated < board.judged.tables[table].pairs
    text = render(board, format)
    words = " ".join(text.split())
    assert f"AUROC tells apart {board.judged.tables[table].separated} of 66 pairs" in words
    assert re.search(r"\brank\b", text)
    assert "Holm's procedure" in words or "Holm&#x27;s procedure" in words


def test_ranks_and_ties_of_a_table_are_those_of_the_tests():
    board = board_of()
    head, rows = cells_of(render(board, "markdown"))
    place, shown = head.index("far rank"), {}
    for row in rows:
        shown[row[0], row[1]] = row[place], row[head.index("far AUROC ↑")]
    for row in board.rows:
        rank = row.groups["far"].ranks["auroc"]
        text, auroc = shown[row.key.adapter_label, row.key.detector_label]
        assert text == str(rank)
        if not auroc.startswith("**"):
            assert auroc.startswith("_") == (rank.first == 1)
    assert sum(auroc.startswith("**") for _, auroc in shown.values()) == 1


@pytest.mark.parametrize("format", PAGES)
def test_page_ranks_nothing_where_nothing_can_be_told_apart(format):
    text = render(board_of(synthetic.sweep(change=alike)), format)
    assert "AUROC tells apart none of 66 pairs of 12 rows on near" in " ".join(text.split())
    assert not re.search(r"\brank\b", text)


@pytest.mark.parametrize("format", PAGES)
def test_page_says_why_rows_are_not_ranked(format):
    text = " ".join(
        render(board_of(synthetic.sweep(seeds=(0, 1))), format).replace("%", "").split()
    )
    assert "rows are not ranked" in text
    assert "either their scores are kept or there are three seeds" in text


def cells_of(markdown):
    """The head and the rows of the first table."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    table = [re.split(r" *\| *", line)[1:-1] for line in lines]
    return table[0], table[2:]


def test_columns_are_those_that_are_asked_for():
    board = board_of()
    head, rows = cells_of(render(board, "markdown", columns=["aupr_out", "cost"]))
    assert head == [
        *("adapter", "detector", "near AUPR out ↑", "far AUPR out ↑"),
        *("seconds adapting", "seconds scoring"),
    ]
    assert {tuple(row[-2:]) for row in rows} == {("800", "5.25")}
    assert "which all detectors share" in render(board, "markdown", columns=["cost"])
    assert "which all detectors share" not in render(board, "markdown")


@pytest.mark.parametrize("format", PAGES)
def test_page_says_what_is_missing_and_why(format):
    text = " ".join(render(messy(), format).replace("\n%", "").split())
    assert "failed, 15 cells (umap with knn on" in text
    for reason in ("boom", "get places365", "cannot", "changed"):
        assert reason in text
    assert "not run, 5 cells (none with msp on" in text
    assert "3 of 4 sets: nothing is done on the other sets of far" in text
    assert "The cells of um, seed 0, do not agree on their base weights" in text


# --- Terminal ---


def test_numbers_of_a_row_are_means_and_sds_in_percent():
    records = synthetic.sweep()
    line = line_of(render(board_of(records), "table"), "umap", "energy")
    shown = re.findall(r"([-+]?\d+\.\d\d)(?: (?:\( ?|± ?)(\d+\.\d\d))?", line)

    def expected(metric, group, reference=None):
        def values(adapter, seed):
            return statistics.mean(
                r.metrics[metric]
                for r in records
                if (r.adapter, r.detector, r.group, r.seed) == (adapter, "energy", group, seed)
            )

        by_seed = [
            values("umap", s) - (values(reference, s) if reference else 0) for s in synthetic.SEEDS
        ]
        sign = "+" if reference else ""
        mean, sd = 100 * statistics.mean(by_seed), 100 * statistics.stdev(by_seed)
        # A difference has the interval of Student's t with 2 degrees of freedom.
        spread = stats.t.ppf(0.975, 2) * sd / 3**0.5 if reference else sd
        return f"{mean:{sign}.2f}", f"{spread:.2f}"

    assert shown[:4] == [
        expected("auroc", "near"),
        expected("fpr95_ood", "near"),
        expected("auroc", "far"),
        expected("fpr95_ood", "far"),
    ]
    assert shown[6:] == [expected("auroc", "far", "none"), expected("auroc", "far", "finetune")]
    accuracy = [100 * synthetic.record("umap", seed=s).metrics["id_accuracy"] for s in range(3)]
    assert shown[4] == (f"{statistics.mean(accuracy):.2f}", f"{statistics.stdev(accuracy):.2f}")


def test_rows_are_ordered_by_the_main_groups_auroc_with_what_is_incomplete_last():
    text = render(messy(), "markdown")
    rows = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if "|" in line][2:]
    auroc = [row[4] for row in rows]
    kinds = ["number" if "(" in v and "†" not in v else "part" if "†" in v else v for v in auroc]
    assert kinds == ["number"] * 8 + ["part"] * 3 + ["failed"]
    values = [float(v.strip("*").split()[0]) for v in auroc[:-1]]
    assert values[:8] == sorted(values[:8], reverse=True)
    assert values[8:] == sorted(values[8:], reverse=True)
    assert max(values[8:]) > values[7]


@pytest.mark.parametrize("order", ["detector", "adapter"])
def test_other_orders_keep_things_together(order):
    text = render(board_of(), "table", order=order)
    table = next(block for block in text.split("\n\n") if "---" in block).splitlines()[3:]
    column = 0 if order == "adapter" else 1
    names = [line.split()[column] for line in table]
    expected = synthetic.ADAPTERS if order == "adapter" else synthetic.DETECTORS
    assert list(dict.fromkeys(names)) == list(expected)
    assert names == sorted(names, key=expected.index)
    assert f"in the suite's order, by {order}." in text


def test_best_is_marked_once_per_column_and_ties_alike():
    records = synthetic.sweep()
    text = render(board_of(records), "table")
    marked = [line for line in text.splitlines() if re.search(r"\*\d", line)]
    assert sum(line.count("*") for line in marked) == 4
    rows = [row.groups["far"].metrics for row in board_of(records).rows]
    assert f"*{percent(max(row['auroc'].mean for row in rows))} (" in text
    assert f"*{percent(min(row['fpr95_ood'].mean for row in rows))} (" in text

    def same(record):
        return dataclasses.replace(record, metrics=dict.fromkeys(METRICS, 0.5))

    tied = render(board_of([same(r) for r in records]), "table")
    assert tied.count("*50.00") == 4 * 12


def test_best_is_not_marked_where_a_set_is_missing_or_a_row_incomplete():
    def change(record):
        if record.ood_set == "places365":
            return synthetic.blank(record, "missing-data", "gone")
        best = (record.adapter, record.detector, record.seed) == ("um", "knn", 0)
        if best and record.ood_set == "tin":
            return synthetic.blank(record, "failed", "boom")
        return record

    text = render(board_of(synthetic.sweep(change=change)), "table")
    line = line_of(text, "um", "knn")
    assert "*" not in line
    assert line.count("†") == 2
    others = [other for other in text.splitlines() if re.search(r"\*\d", other)]
    assert sum(other.count("*") for other in others) == 2


def test_single_seed_shows_no_sd():
    records = synthetic.sweep(seeds=(0,))
    text = render(make_board(records), "table")
    assert "from a single seed (0): the spread is not known" in text
    assert "(" not in line_of(text, "um", "knn")


def test_delta_that_rounds_to_zero_has_no_sign():
    assert percent(-0.00001, signed=True) == "0.00"
    assert percent(0.00001, signed=True) == "0.00"
    assert percent(0.0123, signed=True) == "+1.23"
    assert percent(-0.0123, signed=True) == "-1.23"
    assert percent(1.0) == "100.00"


def test_table_of_a_full_suite_fits_a_wide_terminal():
    detectors = ("msp", "energy", "knn", "mahalanobis", "klmatching")
    adapters = (*synthetic.ADAPTERS, "um@constraint=0.15:keep=0.965")
    records = synthetic.sweep(adapters, detectors)
    short = render(make_board(r for r in records if "@" not in r.adapter_label), "table")
    assert max(map(len, short.splitlines())) <= 145
    assert max(map(len, render(make_board(records), "table").splitlines())) <= 160


def test_long_names_go_on_in_the_next_line_and_lose_nothing():
    label = "um@constraint=0.15:keep=0.965" + "+abcdefghijklmnopqrstuvwxyz0123456789"
    text = render(make_board(synthetic.sweep(adapters=(label,), detectors=("knn",))), "table")
    rows = text[text.index("---") :].split("\n\n")[0].splitlines()[1:]
    assert "".join(row[:22].strip() for row in rows) == label


def test_per_set_has_a_column_for_each_set_and_a_table_for_each_metric():
    text = render(board_of(), "table", per_set=True, columns=("auroc", "aupr_in"))
    blocks = [b for b in text.split("\n\n") if "---" in b]
    assert len(blocks) == 3
    for block in blocks[1:]:
        head = block.splitlines()[1].split()
        assert head == [
            *("adapter", "detector", "cifar100", "tin", "mean"),
            *("mnist", "svhn", "textures", "places365", "mean"),
        ]
    row = next(r for r in board_of().rows if (r.adapter, r.detector) == ("um", "knn"))
    line = next(x for x in blocks[2].splitlines() if x.split()[:2] == ["um", "knn"])
    assert percent(row.sets["textures"].metrics["aupr_in"].mean) in line


def test_two_backbones_have_a_table_each():
    records = synthetic.sweep()
    records += [dataclasses.replace(r, backbone="wrn40_2_cifar") for r in records]
    text = render(board_of(records), "table")
    titles = ("resnet18_cifar on cifar10\n\n", "wrn40_2_cifar on cifar10\n\n")
    assert all(title in text for title in titles)
    assert len([b for b in text.split("\n\n") if "---" in b]) == 2


def test_sets_are_listed_with_what_the_records_hold():
    text = " ".join(render(messy(), "table").split())
    assert "tin from tin/val, 7,793 images (030303030303)" in text
    assert "places365 from places365/val, no cell done" in text
    assert "um: constraint" in text


# --- Full spectrum ---

TWINS = tuple(OodSet(f"{o.name}-fs", f"{o.group}-fs", o.source) for o in synthetic.OOD)


def full_spectrum_board():
    ood = (*synthetic.OOD, *TWINS)
    shifted = (("painted", "painted/all"),)
    return board_of(synthetic.sweep(ood=ood), ood=ood, shifted=shifted)


@pytest.mark.parametrize("format", PAGES)
def test_full_spectrum_groups_are_named_in_words(format):
    text = " ".join(render(full_spectrum_board(), format, per_set=True).split())
    for name in ("near-OOD, full-spectrum", "far-OOD, full-spectrum"):
        # At the heads of columns and in the notes, but for the terminal's, whose heads are stacked.
        assert text.count(name) >= (2 if format == "table" else 4)
    assert "covariate-shifted ID images count as ID" in text
    assert "painted from painted/all" in text
    plain = render(board_of(), format, per_set=True)
    assert "full-spectrum" not in plain
    assert "shifted" not in plain


def test_full_spectrum_columns_show_their_own_numbers():
    board = full_spectrum_board()
    line = line_of(render(board, "table"), "um", "knn")
    shown = re.findall(r"(\d+\.\d\d) \(", line)
    row = next(r for r in board.rows if (r.adapter, r.detector) == ("um", "knn"))
    assert shown[:8] == [
        percent(row.groups[group].metrics[metric].mean)
        for group in ("near", "far", "near-fs", "far-fs")
        for metric in ("auroc", "fpr95_ood")
    ]
    assert len({*shown[:8:2]}) == 4


def test_a_groups_name_of_several_words_does_not_widen_its_columns():
    board = full_spectrum_board()
    head = render(board, "table").split("\n\n")[4].splitlines()[:2]
    assert [line.split() for line in head] == [
        [*["near-OOD,"] * 3, *["far-OOD,"] * 3],
        [*["near"] * 3, *["far"] * 3, *["full-spectrum"] * 6, *head[1].split()[12:]],
    ]


def test_json_names_the_shifted_sets():
    content = strict(render(full_spectrum_board(), "json"))
    assert content["suite"]["shifted"] == {"painted": "painted/all"}
    assert set(content["rows"][0]["groups"]) == {"near", "far", "near-fs", "far-fs"}
    assert strict(render(board_of(), "json"))["suite"]["shifted"] == {}


# --- CSV and JSON ---


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_every_cell_with_its_exact_numbers():
    records = synthetic.sweep()
    lines = read_csv(render(board_of(records), "csv"))
    assert len(lines) == len(records)
    found = {
        (x["adapter_label"], x["detector_label"], x["ood_set"], int(x["seed"])): x for x in lines
    }
    for record in records:
        place = (record.adapter_label, record.detector_label, record.ood_set, record.seed)
        line = found[place]
        for metric in (*METRICS, "id_accuracy", "base_id_accuracy"):
            assert float(line[metric]) == record.metrics[metric]
        assert line["state"] == "done"
        assert line["group"] == record.group
        assert int(line["ood_images"]) == record.counts["ood"]
        assert line["ood_fingerprint"] == record.fingerprints["ood"][:12]
        assert float(line["adapt_seconds"]) == 800.0


def test_only_times_are_named_seconds_and_they_come_last():
    names = list(read_csv(render(board_of(), "csv"))[0])
    times = [name for name in names if re.search("seconds|cost", name)]
    assert times == [
        f"{stage}_seconds" for stage in ("data", "base", "adapt", "outputs", "fit", "score")
    ]
    assert names[-6:] == times


@pytest.mark.parametrize("format", ["csv", "json"])
def test_every_row_names_adapter_and_detector(format):
    text = render(messy(), format)
    rows = (
        read_csv(text)
        if format == "csv"
        else [*json.loads(text)["rows"], *json.loads(text)["cells"]]
    )
    assert {row["adapter"] for row in rows} == set(synthetic.ADAPTERS)
    assert {row["detector"] for row in rows} == set(synthetic.DETECTORS)


def test_csv_names_state_and_reason_and_leaves_numbers_empty():
    lines = read_csv(render(messy(), "csv"))
    states = {line["state"] for line in lines}
    assert states == {"done", "failed", "unsupported", "missing-data", "stale", "not-run"}
    for line in lines:
        assert (line["auroc"] == "") == (line["state"] != "done")
    assert {x["reason"] for x in lines if x["state"] == "failed"} == {"boom"}


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_aggregated_rows_and_cells():
    board = board_of()
    content = strict(render(board, "json"))
    assert content["suite"]["name"] == "synthetic"
    assert content["suite"]["main_group"] == "far"
    assert len(content["rows"]) == 12
    assert len(content["cells"]) == 12 * 18
    row = next(r for r in content["rows"] if (r["adapter"], r["detector"]) == ("um", "knn"))
    own = next(r for r in board.rows if (r.adapter, r.detector) == ("um", "knn"))
    far = own.groups["far"]
    assert row["groups"]["far"]["complete"] is True
    assert row["groups"]["far"]["auroc"]["mean"] == far.metrics["auroc"].mean
    assert row["groups"]["far"]["auroc"]["sd"] == far.metrics["auroc"].sd
    assert row["groups"]["far"]["auroc"]["by_seed"]["2"] == far.metrics["auroc"].by_seed[2]
    delta = row["groups"]["far"]["deltas"]["finetune"]["fpr95_id"]
    assert delta["mean"] == far.deltas["finetune"]["fpr95_id"].mean
    assert row["notes"]["constraint"]["n"] == 3
    assert row["score_seconds"]["mean"] == 0.25
    assert row["states"] == {"done": 18}


def test_json_of_a_messy_sweep_is_strict_and_counts_the_holes():
    board = messy()
    content = strict(render(board, "json"))
    assert content["states"] == board.states
    assert sum(h["cells"] for h in content["holes"]) + content["states"]["done"] == 12 * 18
    assert content["warnings"]


def test_json_has_no_nan_even_where_a_record_has():
    def change(record):
        return dataclasses.replace(
            record,
            notes={"constraint": float("nan")},
            seconds={"adapt": float("inf")},
            hyperparameters={"detector": {"norm": float("inf")}},
        )

    content = strict(render(board_of(synthetic.sweep(change=change)), "json"))
    assert content["cells"][0]["notes"] == {"constraint": None}
    assert content["rows"][0]["notes"]["constraint"]["n"] == 0


# --- Hostile names ---


class Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


PAGE_TAGS = {"html", "head", "meta", "title", "style", "body", "main", "section"}
TEXT_TAGS = {"h1", "h2", "p", "ul", "li", "div", "small", "strong", "abbr", "span", "wbr"}
TABLE_TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_html_shows_hostile_names_as_text():
    page = render(hostile_board(), "html", per_set=True)
    reader = Reader()
    reader.feed(page)
    assert set(reader.tags) <= PAGE_TAGS | TEXT_TAGS | TABLE_TAGS
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name == "src"]
    assert HOSTILE[0] in "".join(reader.text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", page)


def test_html_loads_nothing():
    page = render(messy(), "html", per_set=True)
    assert not re.search(r"https?:|//|@import|url\(|<script|<link|<img", page)
    assert "default-src 'none'" in page


def test_html_rows_have_a_cell_for_every_column():
    page = render(messy(), "html")
    rows = page.split("<tr>")[1:]
    widths = [len(re.findall(r"<t[hd][ >]", row)) for row in rows]
    spanned = sum(int(n) - 1 for n in re.findall(r'colspan="(\d+)"', rows[0]))
    assert len(rows) == 2 + 12
    assert widths[0] + spanned == widths[1] + 2 == 10
    assert rows[0].count('rowspan="2"') == 2
    assert set(widths[2:]) == {10}


def test_html_table_can_be_read_aloud_and_reached_by_keyboard():
    page = render(messy(), "html")
    assert page.count("<caption>") == page.count("<table>") == 1
    assert '<html lang="en">' in page
    assert 'role="region"' in page
    assert 'tabindex="0"' in page
    assert not re.search(r"<th(?![^>]*scope=)[ >]", page.replace("<thead", ""))
    assert page.count('<th scope="row">') == 2 * 12
    assert "2 of 3 seeds" in page
    assert "prefers-color-scheme: dark" in page


def test_markdown_keeps_hostile_names_in_their_cells():
    text = render(hostile_board(), "markdown", per_set=True)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = text.count("| adapter ")
    assert tables == 3
    assert {row.count("|") for row in rows[:5]} == {11 - 2}
    assert "<" not in text
    assert not re.search(r"(?<!\\)[`\[\]$]", text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)


def test_markdown_marks_best_in_bold_and_has_one_line_per_row():
    text = render(board_of(), "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 12
    assert len({row.count("|") for row in rows}) == 1
    assert len(re.findall(r"\*\*\d+\.\d\d \(\d+\.\d\d\)\*\*", text)) == 4


@pytest.mark.parametrize("start", ["# title", "- item", "1. item", "+ item", "> quote", "=== x"])
def test_markdown_description_starts_no_list_and_no_heading(start):
    text = render(board_of(description=f"First.\n\n{start}"), "markdown")
    line = text.splitlines()[4]
    assert not re.match(r"(#|[-+*] |\d+[.)] |>|=)", line)


def test_terminal_gets_no_control_character():
    text = render(hostile_board(), "table", per_set=True)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert r"\x1b[31mred" in text


def test_csv_gives_hostile_names_back():
    lines = read_csv(render(hostile_board(), "csv"))
    assert {line["adapter"] for line in lines} == set(HOSTILE[:3])
    assert {line["detector"] for line in lines} == set(HOSTILE[3:6])
    assert {line["id_set"] for line in lines} == {f"'{HOSTILE[8]}"}, "no formula"


# --- LaTeX ---


def test_latex_escapes_what_means_something_to_it():
    text = render(hostile_board(), "latex", per_set=True)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"\input{" not in code
    assert r"\textbackslash{}input\{/etc/passwd\}" in code
    assert code.count(r"\end{tabular}") == 3
    # After a line's \\ and after \midrule these would be an argument.
    assert not re.search(r"^\s*[\[*]", code, re.MULTILINE)


def test_latex_of_many_rows_is_several_tables_that_a_page_can_take():
    detectors = [f"knn@k={k}" for k in range(1, 31)]
    cells = synthetic.sweep(detectors=detectors)
    board = make_board(cells, synthetic.info(detectors=tuple(detectors)))
    text = render(board, "latex")
    tables = text.split(r"\begin{table*}")[1:]
    rows = [re.findall(r"^\S+ & (knn@k=\d+) & ", table, re.MULTILINE) for table in tables]
    assert [len(one) for one in rows] == [40, 40, 40]
    shown = re.findall(r"^(\S+) +(knn@k=\d+) ", render(board, "table"), re.MULTILINE)
    assert [name for one in rows for name in one] == [detector for _, detector in shown]
    assert len(set(re.findall(r"\\label{(.*?)}", text))) == 3
    captions = re.findall(r"\\caption{(.*)}", text)
    assert [("Percent" in caption) for caption in captions] == [True, False, False]
    assert "(part 3 of 3)" in captions[2]


def test_latex_explains_the_marks_that_a_table_has():
    for board in (board_of(), messy()):
        text = render(board, "latex")
        caption = re.search(r"\\caption{(.*)}", text).group(1)
        body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
        for sign, words in (
            (r"\textbf", "Bold: best mean"),
            (r"\underline", "Underlined"),
            (r"$\pm$", "half the width"),
            (r"$^\dagger$", "over fewer seeds"),
            (r"$^\ddagger$", "second look"),
        ):
            assert (sign in body) == (words in caption), sign
    assert r"$^\dagger$" in body


def test_texts_of_several_suites_can_follow_each_other():
    assert set(JOINABLE) < set(FORMATS)
    assert not {"json", "html", "csv"} & set(JOINABLE)
