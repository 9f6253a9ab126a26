"""The interactive page: its data, its policy, and what a real browser makes of it."""

import base64
import dataclasses
import hashlib
import importlib.util
import json
import re
import shutil
import zlib
from importlib.resources import files

import numpy as np
import pytest
import synthetic
from sklearn.metrics import roc_auc_score

from um_bench.leaderboard import curve_file, make_board
from um_bench.leaderboard.curve_drawing import curve_of
from um_bench.leaderboard.curve_file import read_curves, update_curves
from um_bench.render import render
from um_bench.render.page import packing
from um_bench.scores import save_scores

VENDORED = files("um_bench.render.page").joinpath("vendor")
SCRIPT = re.compile(r"<script([^>]*)>(.*?)</script>", re.DOTALL)


def messy(record):
    """A failed row, a stale cell, a missing set, an alarm."""
    if (record.adapter, record.detector) == ("umap", "knn"):
        return synthetic.blank(record, "failed", "the loss is NaN")
    if record.ood_set == "places365":
        return synthetic.blank(record, "missing-data", "get places365")
    if (record.adapter, record.detector, record.seed) == ("um", "msp", 2):
        return synthetic.blank(record, "stale", "changed")
    if (record.adapter, record.detector) == ("um", "energy"):
        return dataclasses.replace(record, alarms={"constant-scores": "371 of 577 have one score"})
    return record


def with_curves(board):
    rng = np.random.default_rng(0)
    checks = [slot.record.scores_check for row in board.rows for slot in row.slots if slot.record]
    curve = curve_of(rng.normal(size=50), rng.normal(1.5, 1, size=60))
    return dataclasses.replace(board, curves={check: curve for check in sorted({*checks}) if check})


def board_of(change=messy, **changes):
    def checked(record):
        name = f"{record.adapter}/{record.detector}/{record.ood_set}/{record.seed}"
        check = hashlib.sha256(name.encode()).hexdigest()[:16] if record.state == "done" else ""
        return dataclasses.replace(record, scores_check=check)

    records = [checked(change(record)) for record in synthetic.sweep()]
    extra = [
        dataclasses.replace(checked(record), auxiliary="photos")
        for record in synthetic.sweep(adapters=("oe", "oe+um"))
    ]
    return with_curves(make_board(records + extra, synthetic.info(**changes)))


def data_of(page):
    (text,) = (body for head, body in SCRIPT.findall(page) if "application/json" in head)
    return json.loads(text)


# --- What Python writes ---


def test_every_number_is_that_of_the_json_format():
    board = board_of()
    data, table = data_of(render(board, "html")), json.loads(render(board, "json"))
    seen = 0
    for section in data["sections"]:
        for place, row in enumerate(section["rows"]):
            known = table["rows"][row]
            assert section["detectors"][place] == known["detector_label"]
            for column in section["columns"]:
                if column["view"] == "delta" or column["name"] not in data["words"]["metrics"]:
                    continue
                kind = "groups" if column["view"] == "mean" else "ood_sets"
                value = known[kind][column["part"]][column["name"]]
                mean = column.get("mean", [None] * 99)[place]
                assert (mean is None) == (value["mean"] is None)
                if mean is not None:
                    assert mean == pytest.approx(10_000 * value["mean"], abs=0.5 + 1e-6)
                    seen += 1
    assert seen > 300


def test_the_policy_names_exactly_the_scripts_that_run():
    page = render(board_of(), "html")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src 'none'; ")
    scripts = [body for head, body in SCRIPT.findall(page) if "json" not in head]
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == hashes
    assert len(hashes) == 4
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_no_name_can_end_the_data():
    attack = "</script><script>alert(1)</script><!--<script>"
    plain, page = (
        render(
            board_of(lambda r, t=text: dataclasses.replace(r, backbone=t, notes={t: 1.0})), "html"
        )
        for text in ("plain", attack)
    )
    assert page.lower().count("<script") == plain.lower().count("<script")
    assert data_of(page)["sections"][0]["backbone"] == attack


def test_large_data_are_compressed(monkeypatch):
    board = board_of()
    plain = data_of(render(board, "html"))
    monkeypatch.setattr(packing, "MOST_PLAIN", 100)
    page = render(board, "html")
    (text,) = re.findall(r'data-encoding="deflate">([^<]*)<', page)
    assert json.loads(zlib.decompress(base64.b64decode(text))) == plain


@pytest.mark.parametrize(
    "values", [["a", "a", "b", "a"], [{"x": 1}, {"x": 2}, {"x": 1}], [None, None], [[1], [], [1]]]
)
def test_a_packed_column_gives_its_values_back(values):
    for alike in (None, range(len(values))):
        column = packing.packed(values, alike)
        places = column.at or [0] * len(values)
        assert [column.of[place] for place in places] == values


def test_a_table_without_scripts_is_there_and_long_ones_end():
    def many(record):
        return record

    records = synthetic.sweep(detectors=[f"knn@k={i}" for i in range(1, 90)], change=many)
    page = render(make_board(records, synthetic.info()), "html")
    assert page.count('<th scope="row">') == 2 * 300
    assert "56 further rows" in page


def test_the_libraries_are_those_of_their_registry():
    """SHA512SUMS was written from packages whose integrity package-lock.json pins."""
    for line in VENDORED.joinpath("SHA512SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        assert hashlib.sha512(VENDORED.joinpath(name).read_bytes()).hexdigest() == digest, name
    pins = json.loads(VENDORED.joinpath("package.json").read_text(encoding="utf-8"))["dependencies"]
    lock = json.loads(VENDORED.joinpath("package-lock.json").read_text(encoding="utf-8"))
    for name, version in pins.items():
        locked = lock["packages"][f"node_modules/{name}"]
        assert locked["version"] == version
        assert locked["integrity"].startswith("sha512-")
        licence = VENDORED.joinpath(f"LICENSE-{name.removeprefix('@').replace('/', '-')}")
        assert "Copyright" in licence.read_text(encoding="utf-8")


# --- Curves ---


def scored(folder, seed=0):
    rng = np.random.default_rng(seed)
    scores = {"id": rng.normal(size=300), "ood": rng.normal(1, 1, size=200)}
    record = dataclasses.replace(synthetic.record(seed=seed), scores=f"scores/{seed}.npz")
    check = save_scores(folder / record.scores, scores)
    return dataclasses.replace(record, scores_check=check), scores


def test_a_curve_has_the_area_of_its_scores(tmp_path):
    _, scores = scored(tmp_path)
    curve = curve_of(**scores)
    fpr, tpr = (np.concatenate([[0], np.cumsum(curve[side])]) / 1000 for side in ("fpr", "tpr"))
    assert (fpr[-1], tpr[-1]) == (1, 1)
    labels = np.repeat([0, 1], [300, 200])
    auroc = roc_auc_score(labels, np.concatenate([scores["id"], scores["ood"]]))
    assert np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2) == pytest.approx(auroc, abs=0.006)
    assert (sum(curve["id"]), sum(curve["ood"])) == (300, 200)


def test_curves_outlive_their_scores(tmp_path):
    records = [scored(tmp_path, seed)[0] for seed in range(3)]
    update_curves(tmp_path, records)
    before = (tmp_path / "curves.json").read_bytes()
    assert list(read_curves(tmp_path)) == sorted(r.scores_check for r in records)
    shutil.rmtree(tmp_path / "scores")
    update_curves(tmp_path, reversed(records))
    assert (tmp_path / "curves.json").read_bytes() == before


def test_no_curve_is_kept_of_scores_that_are_not_the_records(tmp_path):
    record, _ = scored(tmp_path)
    update_curves(tmp_path, [dataclasses.replace(record, scores_check="0" * 16)])
    assert not read_curves(tmp_path)


def test_no_curves_are_kept_of_very_many_cells(tmp_path, monkeypatch):
    records = [scored(tmp_path, seed)[0] for seed in range(3)]
    update_curves(tmp_path, records)
    monkeypatch.setattr(curve_file, "MOST_CURVES", 2)
    update_curves(tmp_path, records)
    assert not (tmp_path / "curves.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": 2, "curves": {}}',
        '{"schema": 1, "curves": {"a": {"fpr": ["<script>"]}}}',
        '{"schema": 1, "curves": {"a": {"fpr":["x"],"tpr":[1],"edges":[0,1],"id":[],"ood":[]}}}',
        '{"schema": 1, "curves": {"a": {"fpr":[1],"tpr":[1],"edges":[0,1e999],"id":[],"ood":[]}}}',
    ],
)
def test_a_file_that_holds_no_curves_is_as_none(text, tmp_path):
    (tmp_path / "curves.json").write_text(text, encoding="utf-8")
    assert read_curves(tmp_path) == {}


# --- In a browser ---

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
NO_BROWSER = "needs Playwright for Python and a Chromium on the path"
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and importlib.util.find_spec("playwright")), reason=NO_BROWSER
    ),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as launched,
    ):
        yield launched


@pytest.fixture
def show(browser, tmp_path):
    """Open a board's page; when the test ends, nothing was said on the console or asked for."""
    said, tabs = [], []

    def opened(board=None, **options):
        path = tmp_path / "page.html"
        path.write_text(render(board or board_of(), "html", **options.pop("first", {})), "utf-8")
        tab = browser.new_page(**options)
        tabs.append(tab)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda asked: asked.url == path.as_uri() or said.append(asked.url))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]")
        return tab

    yield opened
    for tab in tabs:
        tab.wait_for_timeout(50)
        tab.close()
    assert said == []


def rows(tab, panel="mean"):
    """The rows that are drawn, each as the texts of its cells."""
    cells = f"#panel-{panel} .tabulator-tableholder .tabulator-row"
    script = """rows => rows.map((row) => [...row.querySelectorAll("span.name, button.value")]
        .map((cell) => cell.innerText))"""
    tab.wait_for_selector(cells)
    found = tab.eval_on_selector_all(cells, script)
    return [[re.sub(r"(?s)^.*:\s", "", text) for text in row] for row in found]


def numbers(tab, name):
    """What the rows that are drawn have in a column."""
    script = """(rows, name) => rows.map((row) => [...row.querySelectorAll("button.value")]
        .find((button) => button.innerText.includes(name)).querySelector(".number").innerText)"""
    return tab.eval_on_selector_all("#panel-mean .tabulator-row", script, name)


def column(tab, name, place=0):
    return tab.locator("#panel-mean button.head", has_text=name).nth(place)


class TestInABrowser:
    pytestmark = in_browser

    def test_incomplete_rows_come_last_whichever_way_it_is_sorted(self, show):
        def change(record):
            lost = (record.adapter, record.detector, record.seed) == ("um", "knn", 0)
            return synthetic.blank(record, "failed", "boom") if lost else record

        tab = show(board_of(change))
        for _ in range(2):
            column(tab, "AUROC", 1).click()
            tab.wait_for_timeout(100)
            drawn = numbers(tab, "far AUROC")
            assert len(drawn) == 12
            assert [row[:2] for row in rows(tab)][-1] == ["um", "knn"]
            values = [float(text) for text in drawn[:-1]]
            assert values in (sorted(values), sorted(values, reverse=True))

    def test_a_head_sorts_by_keyboard_and_says_so(self, show):
        tab = show(board_of(lambda record: record))
        head = column(tab, "FPR95", 1)
        for direction in ("ascending", "descending"):
            head.focus()
            tab.keyboard.press("Enter")
            tab.wait_for_selector(f'.tabulator-col[aria-sort="{direction}"]')
            drawn = [float(text) for text in numbers(tab, "far FPR95 OOD+")]
            assert drawn == sorted(drawn, reverse=direction == "descending")
            assert len(set(drawn)) > 5

    def test_search_and_boxes_filter_and_are_counted_aloud(self, show):
        tab = show()
        count = tab.locator("output.count")
        assert count.get_attribute("aria-live") == "polite"
        assert count.inner_text() == "12 of 12 rows"
        tab.get_by_label("Search").fill("knn")
        assert count.inner_text() == "4 of 12 rows"
        tab.wait_for_function("document.querySelectorAll('#panel-mean .tabulator-row').length == 4")
        tab.locator("details.choice summary", has_text="Adapters").click()
        tab.get_by_label("umap", exact=True).uncheck()
        assert count.inner_text() == "3 of 12 rows"
        assert {row[1] for row in rows(tab)} == {"knn"}
        assert "umap" not in {row[0] for row in rows(tab)}
        tab.keyboard.press("Escape")
        assert tab.locator("details.choice[open]").count() == 0
        tab.get_by_role("button", name="Reset filters").click()
        assert count.inner_text() == "12 of 12 rows"

    def test_the_track_with_outliers_is_a_table_of_its_own(self, show):
        tab = show()
        assert {row[0] for row in rows(tab)} == set(synthetic.ADAPTERS)
        tab.get_by_role("combobox", name="Auxiliary outliers").select_option("photos")
        tab.wait_for_function("document.querySelectorAll('#panel-mean .tabulator-row').length == 6")
        assert {row[0] for row in rows(tab)} == {"oe", "oe+um"}

    def test_one_seed_has_its_numbers_and_no_spread(self, show):
        board = board_of(lambda record: record)
        tab = show(board)
        tab.get_by_role("combobox", name="Seed", exact=True).select_option("1")
        tab.wait_for_selector("text=Seed 1 alone: no SD, no interval, no best and no ties")
        tab.wait_for_function("!document.querySelector('#panel-mean button.value small')")
        assert tab.locator("#panel-mean button.best, #panel-mean button.tied").count() == 0
        shown = {(row[0], row[1]): row[2] for row in rows(tab)}
        for row in board.rows[:4]:
            value = row.groups["near"].metrics["auroc"].by_seed[1]
            assert shown[row.key.adapter_label, row.key.detector_label].startswith(
                f"{100 * value:.2f}"
            )

    def test_an_ood_set_of_a_seed_has_its_cells_number(self, show):
        board = board_of(lambda record: record)
        tab = show(board, first={"per_set": True})
        tab.get_by_role("combobox", name="Seed", exact=True).select_option("2")
        tab.wait_for_function("!document.querySelector('#panel-set button.value small')")
        shown = {(row[0], row[1]): row[2:] for row in rows(tab, "set")}
        for row in board.rows[:3]:
            value = row.sets["cifar100"].metrics["auroc"].by_seed[2]
            assert shown[row.key.adapter_label, row.key.detector_label][0] == f"{100 * value:.2f}"

    def test_a_number_opens_its_records_and_escape_goes_back(self, show):
        tab = show()
        button = tab.locator("#panel-mean button.value").first
        button.focus()
        tab.keyboard.press("Enter")
        dialog = tab.get_by_role("dialog")
        dialog.wait_for()
        assert dialog.locator("figure svg[role=img]").count() >= 2
        record = dialog.locator("details.record").first
        record.locator("summary").focus()
        tab.keyboard.press("Enter")
        record.locator(".provenance").wait_for()
        text = record.inner_text()
        for known in ("1d" * 32, "base0", "Test GPU", "2.4.0", "9,000", "epochs 100"):
            assert known in text, known
        tab.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        assert tab.evaluate("document.activeElement.matches('button.value')")

    def test_arrows_move_among_the_numbers(self, show):
        tab = show()
        tab.locator("#panel-mean button.value").first.focus()
        for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
            tab.keyboard.press(key)
            tab.wait_for_timeout(60)
        place = tab.evaluate(
            """() => { const row = document.activeElement.closest(".tabulator-row");
            return [[...row.parentElement.children].indexOf(row),
                    [...row.querySelectorAll("button.value")].indexOf(document.activeElement)]; }"""
        )
        assert place == [2, 1]
        assert tab.locator('#panel-mean button.value[tabindex="0"]').count() == 1

    def test_states_and_alarms_are_shown_with_their_reason(self, show):
        tab = show()
        assert tab.locator("#panel-mean button.state.failed").count() > 0
        assert tab.locator("#panel-mean abbr", has_text="‡").count() > 0
        tab.locator("#panel-mean button.failed").first.click()
        assert "the loss is NaN" in tab.get_by_role("dialog").inner_text()
        tab.keyboard.press("Escape")
        tab.get_by_role("tab", name=re.compile("Not done")).click()
        text = tab.locator("#panel-holes").inner_text()
        assert "get places365" in text
        assert "stale" in text

    def test_heat_map_and_cost_are_drawn(self, show):
        board = board_of(lambda record: record)
        tab = show(board)
        tab.get_by_role("tab", name="Averages").focus()
        for _ in range(2):
            tab.keyboard.press("ArrowRight")
        (row,) = (r for r in board.rows if r.key[3:] == ("um", "msp"))
        delta = 100 * row.groups["far"].deltas["finetune"]["auroc"].mean
        cell = tab.locator("#panel-heat button", has_text="um with msp:")
        assert f"{delta:+.2f}".replace("-", "\N{MINUS SIGN}") in cell.inner_text()
        tab.get_by_role("tab", name="Cost").click()
        assert tab.locator("#panel-cost svg[role=img] [data-mark=dot] > *").count() == 12
        tab.locator("#panel-cost button.link").first.click()
        assert tab.get_by_role("dialog").is_visible()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_every_view_passes_axe(self, show, scheme):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        tab = show(board_of(), color_scheme=scheme, viewport={"width": 1280, "height": 900})
        for name in ("Averages", "Each OOD set", "Heat map", "Cost", "Not done"):
            tab.get_by_role("tab", name=re.compile(name)).click()
            found = axe.run(tab)
            assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        tab.get_by_role("tab", name="Averages").click()
        tab.locator("#panel-mean button.value").first.click()
        found = axe.run(tab)
        assert found.violations_count == 0, found.generate_report()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_colours_follow_the_system_and_the_button(self, show, scheme):
        tab = show(color_scheme=scheme)
        paper = "getComputedStyle(document.body).backgroundColor"
        before = tab.evaluate(paper)
        assert (before == "rgb(255, 255, 255)") == (scheme == "light")
        tab.get_by_role("button", name=re.compile("colours")).click()
        assert tab.evaluate(paper) != before

    def test_a_phone_need_not_scroll_sideways(self, show):
        tab = show(viewport={"width": 375, "height": 812})
        for name in ("Averages", "Each OOD set", "Heat map", "Cost"):
            tab.get_by_role("tab", name=name).click()
            tab.wait_for_timeout(50)
            assert tab.evaluate("document.documentElement.scrollWidth") <= 375, name
        tab.get_by_role("tab", name="Averages").click()
        tab.locator("#panel-mean button.value").first.click()
        assert tab.evaluate("document.querySelector('dialog').scrollWidth") <= 375

    def test_planted_names_do_not_run(self, show):
        attack = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
        names = ("adapter", "adapter_label", "detector", "detector_label", "backbone", "reason")

        def change(record):
            return dataclasses.replace(
                record,
                **{n: f"{attack}{getattr(record, n)}" for n in names},
                notes={attack: 1.0},
                hyperparameters={attack: {attack: attack}},
            )

        board = board_of(change, title=attack, description=attack, adapters=(), detectors=())
        tab = show(board)
        assert attack in rows(tab)[0][0]
        for name in ("Each OOD set", "Heat map", "Cost", "Averages"):
            tab.get_by_role("tab", name=name).click()
        tab.locator("#panel-mean button.value").first.click()
        tab.locator("dialog details.record summary").first.click()
        assert tab.locator("img").count() == 0

    def test_without_a_script_the_tables_are_there(self, browser, tmp_path):
        path = tmp_path / "page.html"
        path.write_text(render(board_of(), "html"), "utf-8")
        with browser.new_context(java_script_enabled=False) as context:
            tab = context.new_page()
            tab.goto(path.as_uri())
            assert tab.locator("#tables tbody tr").count() == 18
            assert tab.locator("#app").is_hidden()

    def test_options_say_what_is_shown_first(self, show):
        first = {"columns": ("aupr_out",), "order": "detector"}
        tab = show(board_of(lambda record: record), first=first)
        assert [row[1] for row in rows(tab)[:4]] == ["msp"] * 4
        heads = tab.locator("#panel-mean button.head").all_inner_texts()
        assert heads == ["adapter", "detector", "AUPR out ↑", "AUPR out ↑"]
