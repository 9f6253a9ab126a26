/* The table of averages, and that of each OOD set: rows are drawn only where they are looked at. */

/* global Tabulator */
import { columnsOf, valueOf } from "./data.js";
import { h, select } from "./dom.js";
import { boxes } from "./filters.js";
import { arrowKeys, reachable } from "./grid.js";
import { kinds, parts } from "./marks.js";
import { isShown, sectionOf } from "./state.js";

const NARROW = matchMedia("(max-width: 46rem)");

/** Return a view that shows a table; `view`: "mean" or "set". */
export function tableView(board, state, view, open) {
  const options = h("div", { class: "options" });
  const note = h("p", { class: "soft", role: "note" });
  const place = h("div", { class: "grid" });
  const element = h("section", {}, options, note, place);
  let table = null;

  function build() {
    options.replaceChildren(view === "mean" ? columnBoxes(board, state) : metricField(board, state));
    say();
    table?.destroy();
    table = new Tabulator(place, settings(board, state, view, open));
    const holder = table.element;
    arrowKeys(holder, (button, down, right) => neighbour(table, button, down, right));
    table.on("renderComplete", () => {
      if (!holder.querySelector('button.value[tabindex="0"]')) reachable(holder);
    });
    table.on("tableBuilt", () => {
      speakable(holder);
      filter();
    });
    table.built = new Promise((resolve) => table.on("tableBuilt", resolve));
  }
  function say() {
    note.textContent =
      state.seed === null
        ? ""
        : `Seed ${state.seed} alone: no SD, no interval, no best and no ties, which are over seeds.`;
  }
  const filter = () => table.setFilter((row) => isShown(state, row.row));
  async function update(changed) {
    if (!table) return;
    const rebuilds = ["section", view === "mean" ? "columns" : "metric"];
    if (rebuilds.some((name) => changed.has(name))) return build();
    await table.built;
    if (["search", "adapters", "detectors"].some((name) => changed.has(name))) filter();
    if (changed.has("seed")) {
      say();
      table.setSort(table.getSorters().map(({ field, dir }) => ({ column: field, dir })));
      table.redraw(true);
    }
  }
  state.onchange(update);
  return { element, show: () => (table ? table.redraw() : build()) };
}

/** Mend roles that Tabulator makes up, so that a screen reader reads a grid of rows and columns. */
function speakable(holder) {
  for (const group of holder.querySelectorAll(".tabulator-col-group")) {
    const title = group.getAttribute("aria-title");
    ["aria-title", "aria-sort"].forEach((name) => group.removeAttribute(name));
    group.setAttribute("role", "none");
    for (const column of group.querySelectorAll('[role="columnheader"]')) {
      column.setAttribute("aria-label", `${title}: ${column.textContent.trim()}`);
    }
  }
  const scrolled = holder.querySelector(".tabulator-tableholder");
  scrolled.removeAttribute("tabindex");
  scrolled.setAttribute("role", "none");
}

function columnBoxes(board, state) {
  const names = [...Object.entries(board.words.metrics), ["rank", "rank"]];
  names.push(["id-accuracy", "ID accuracy"], ["delta", "Δ"], ["cost", "seconds"]);
  return boxes("Columns", names, state.columns, (columns) => state.set({ columns }));
}

function metricField(board, state) {
  const names = Object.entries(board.words.metrics);
  return select("Metric", names, state.metric, (metric) => state.set({ metric }));
}

function settings(board, state, view, open) {
  const section = sectionOf(board, state);
  const columns = view === "mean" ? averages(board, state, section) : perSet(board, state, section);
  const first = columns.find(
    (column) =>
      column.name === (view === "mean" ? "auroc" : state.metric) && column.part === board.suite.main,
  );
  const by = { auroc: first?.field, detector: "detector", adapter: undefined }[state.order];
  const dir = by === "detector" || first?.better < 0 ? "asc" : "desc";
  return {
    data: section.rows.map((row) => ({ id: row.id, row })),
    columns: [...names(section), ...grouped(board, state, columns, open)],
    initialSort: by ? [{ column: by, dir }] : [],
    layout: "fitDataTable",
    maxHeight: "min(85vh, 60rem)",
    rowHeight: 32,
    renderVerticalBuffer: 300,
    placeholder: "No row is left: loosen the filters.",
    columnHeaderSortMulti: false,
    printAsHtml: true,
    printStyled: true,
    printRowRange: "active",
  };
}

/** Return the columns of the averages that are chosen. */
function averages(board, state, section) {
  const has = (column) => state.columns.has(column.name);
  const means = columnsOf(section, (column) => column.view === "mean");
  const deltas = columnsOf(
    section,
    (column) => column.view === "delta" && column.part === board.suite.main,
  );
  return [
    ...means.filter((column) => has(column) && column.name !== "cost"),
    ...(state.columns.has("delta") ? deltas : []),
    ...means.filter((column) => has(column) && column.name === "cost"),
  ];
}

/** Return the columns of one metric: each group's sets, then its mean. */
function perSet(board, state, section) {
  return board.suite.groups.flatMap(({ name, title }) => {
    const members = board.suite.sets.filter((set) => set.group === name).map((set) => set.name);
    const of = (view) =>
      columnsOf(section, (column) => column.view === view && column.name === state.metric);
    const means = of("mean").filter((column) => column.part === name);
    return [
      ...of("set").filter((column) => members.includes(column.part)),
      ...means.map((column) => ({ ...column, group: title, head: "mean" })),
    ];
  });
}

function names(section) {
  const column = (title, field) => {
    const order = new Map([...new Set(section.rows.map((row) => row[field]))].map((n, i) => [n, i]));
    return {
      title,
      field,
      frozen: true,
      width: NARROW.matches ? 92 : undefined,
      minWidth: 92,
      cssClass: "name",
      titleFormatter: () => heading({ head: title }),
      formatter: (cell) => h("span", { class: "name" }, cell.getData().row[field]),
      accessorPrint: (_, data) => data.row[field],
      sorter: (a, b, one, other) =>
        order.get(one.getData().row[field]) - order.get(other.getData().row[field]),
    };
  };
  return [column("adapter", "adapter"), column("detector", "detector")];
}

/** Return Tabulator's columns, those of one group below one head. */
function grouped(board, state, columns, open) {
  const groups = [];
  for (const column of columns) {
    if (groups.at(-1)?.title !== column.group) groups.push({ title: column.group, columns: [] });
    groups.at(-1).columns.push(definition(board, state, column, open));
  }
  groups.forEach((group) => (group.columns[0].cssClass = "first"));
  return groups.map((group) => ({ ...group, titleFormatter: () => h("span", {}, group.title) }));
}

function definition(board, state, column, open) {
  const value = (row) => valueOf(board, column, row.place, state.seed);
  return {
    title: column.head,
    field: column.field,
    hozAlign: "right",
    headerHozAlign: "right",
    headerSortStartingDir: column.better < 0 || column.name === "rank" ? "asc" : "desc",
    titleFormatter: () => heading(column),
    formatter: (cell) => {
      const { row } = cell.getData();
      const its = value(row);
      const label = `${row.adapter} with ${row.detector}, ${column.group} ${column.head}`;
      return h(
        "button",
        {
          type: "button",
          tabindex: "-1",
          class: kinds(board, its),
          title: "Where this number comes from",
          onclick: () => open(row, column.part),
        },
        h("span", { class: "unseen" }, `${label}: `),
        parts(board, its),
      );
    },
    accessorPrint: (_, data) => value(data.row).text,
    sorter: (a, b, one, other, __, dir) =>
      compared(value(one.getData().row), value(other.getData().row), dir),
  };
}

/** Return the order of two values; what is incomplete, and then what is missing, comes last. */
function compared(one, other, dir) {
  const last = (value) => (value.missing ? 2 : value.incomplete ? 1 : 0);
  if (last(one) !== last(other)) return (last(one) - last(other)) * (dir === "asc" ? 1 : -1);
  return one.missing ? 0 : one.number - other.number;
}

/** Return the head of a column: a button, so that a keyboard sorts too. */
function heading(column) {
  return h(
    "button",
    { type: "button", class: "head" },
    h("span", {}, column.head),
    column.note && h("small", {}, column.note),
  );
}

async function neighbour(table, button, down, right) {
  const cellElement = button.closest(".tabulator-cell");
  const row = table.getRow(button.closest(".tabulator-row"));
  const cells = [...row.getElement().querySelectorAll(".tabulator-cell button.value")];
  const at = cells.indexOf(cellElement.querySelector("button.value"));
  const column = Math.max(0, Math.min(cells.length - 1, at + right));
  const rows = table.getRows("active");
  const to = Math.max(0, Math.min(rows.length - 1, rows.indexOf(row) + down));
  if (rows[to] !== row) await table.scrollToRow(rows[to], "nearest", false);
  return rows[to].getElement().querySelectorAll(".tabulator-cell button.value")[column];
}
