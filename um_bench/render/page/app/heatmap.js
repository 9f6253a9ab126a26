/* Adapter x detector: what each adapter gained over its reference, with the same detector. */

import { columnsOf, valueOf } from "./data.js";
import { h, select } from "./dom.js";
import { arrowKeys, reachable } from "./grid.js";
import { drawnView, isShown, sectionOf } from "./state.js";

/** Return the view. */
export function heatmapView(board, state, open) {
  const options = h("div", { class: "options" });
  const place = h("div", { class: "heat" });
  const element = h("section", {}, options, place);
  arrowKeys(place, (button, down, right) => {
    const row = button.closest("tr");
    const rows = [...row.parentElement.rows];
    const cells = rows[within(rows.indexOf(row) + down, rows.length)].cells;
    return cells[within(button.parentElement.cellIndex - 1 + right, cells.length - 1) + 1].firstChild;
  });

  function draw() {
    const columns = columnsOf(sectionOf(board, state), (column) => column.view === "delta");
    if (!columns.length) {
      options.replaceChildren();
      place.replaceChildren(nothing("none or finetune"));
      return;
    }
    const references = [...new Set(columns.map((column) => column.head.replace("vs ", "")))];
    const reference = references.includes(state.reference) ? state.reference : references.at(-1);
    options.replaceChildren(
      select("Against", references.map((name) => [name, name]), reference, set("reference")),
      select("On", places(board), state.part, set("part")),
    );
    const column = columns.find(
      (one) => one.part === state.part && one.head === `vs ${reference}`,
    );
    place.replaceChildren(legend(state, column), map(board, state, column, open));
    reachable(place);
  }
  const set = (key) => (value) => state.set({ [key]: value });
  return drawnView(state, element, draw);
}

function nothing(reference) {
  return h("p", {}, `Nothing here can be compared with ${reference}.`);
}

function within(place, length) {
  return Math.max(0, Math.min(length - 1, place));
}

/** Return the groups and the OOD sets, as options. */
export function places(board) {
  const { groups, sets } = board.suite;
  return [
    ...groups.map(({ name, title }) => [name, `${title}, mean`]),
    ...sets.map(({ name }) => [name, name]),
  ];
}

function legend(state, column) {
  return h(
    "p",
    { class: "legend" },
    h("span", { class: "swatch gain" }, "better"),
    h("span", { class: "swatch loss" }, "worse"),
    ` Percentage points of AUROC ${column.head}. `,
    state.seed === null
      ? "Bold: the interval of the difference excludes 0. Among many, some do by chance."
      : `Seed ${state.seed} alone: no intervals.`,
  );
}

function map(board, state, column, open) {
  const rows = sectionOf(board, state).rows.filter((row) => isShown(state, row));
  const found = rows.map((row) => [row, valueOf(board, column, row.place, state.seed)]);
  const any = (key) => [
    ...new Set(found.filter(([, value]) => !value.missing).map(([row]) => row[key])),
  ];
  const [adapters, detectors] = [any("adapter"), any("detector")];
  if (!detectors.length) return nothing(column.head.replace("vs ", ""));
  const largest = Math.max(0.01, ...found.map(([, value]) => Math.abs(value.number ?? 0)));
  const cells = new Map(found.map(([row, value]) => [`${row.adapter}\n${row.detector}`, [row, value]]));
  const cell = (adapter, detector) => {
    const [row, value] = cells.get(`${adapter}\n${detector}`) ?? [];
    return h("td", {}, row && box(column, largest, row, value, open));
  };
  const title = `${column.group} ${column.head}`;
  return h(
    "div",
    { class: "scroll", role: "region", "aria-label": title },
    h(
      "table",
      { class: "map" },
      h("caption", {}, title),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "detector"), adapters.map(top))),
      h(
        "tbody",
        {},
        detectors.map((detector) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, detector),
            adapters.map((adapter) => cell(adapter, detector)),
          ),
        ),
      ),
    ),
  );
}

function top(adapter) {
  return h("th", { scope: "col" }, adapter);
}

/** Return a button whose colour is the share of the largest difference. */
function box(column, largest, row, value, open) {
  const gain = value.number > 0;
  const spread = value.half ? ` ± ${value.half}` : "";
  const button = h(
    "button",
    {
      type: "button",
      tabindex: "-1",
      class: `value ${value.missing ? "state" : gain ? "gain" : "loss"} ${value.sure ? "sure" : ""}`,
      title: `${row.adapter} with ${row.detector}: ${value.text}${spread}`,
      onclick: () => open(row, column.part),
    },
    h("span", { class: "unseen" }, `${row.adapter} with ${row.detector}: `),
    value.text,
    h("span", { class: "unseen" }, `${spread}${value.sure ? ", interval excludes 0" : ""}`),
  );
  const share = Math.round((70 * Math.abs(value.number ?? 0)) / largest);
  button.style.setProperty("--share", `${share}%`);
  return button;
}
