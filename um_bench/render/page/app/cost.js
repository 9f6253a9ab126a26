/* AUROC against seconds, with the rows that no other row beats in both. */

/* global Plot */
import { columnsOf, valueOf } from "./data.js";
import { h, plainTable, select } from "./dom.js";
import { alternative, figure } from "./charts.js";
import { places } from "./heatmap.js";
import { drawnView, rowsOf, sectionOf } from "./state.js";

const COSTS = [["scoring", "scoring one OOD set"], ["adapting", "adapting the model"]];
const SHAPES = ["circle", "square", "triangle", "diamond", "star", "wye", "cross"];
const MOST_ADAPTERS = 7;

/** Return the view. */
export function costView(board, state, open) {
  const options = h("div", { class: "options" });
  const place = h("div", {});
  const element = h("section", {}, options, place);
  const set = (key) => (value) => state.set({ [key]: value });

  function draw() {
    options.replaceChildren(
      select("Seconds of", COSTS, state.cost, set("cost")),
      select("AUROC on", places(board), state.part, set("part")),
    );
    const points = pointsOf(board, state);
    place.replaceChildren(
      points.length ? chart(board, state, points, place.clientWidth || 900, open) : nothing(),
    );
  }
  return drawnView(state, element, draw, { resized: true });
}

function nothing() {
  return h("p", {}, "No row that is shown has both an AUROC and a time.");
}

function pointsOf(board, state) {
  const section = sectionOf(board, state);
  const auroc = columnsOf(
    section,
    (column) => column.view !== "delta" && column.name === "auroc" && column.part === state.part,
  )[0];
  const cost = columnsOf(
    section,
    (column) => column.name === "cost" && column.head === state.cost,
  )[0];
  if (!auroc || !cost) return [];
  return rowsOf(board, state)
    .map((row) => ({
      row,
      adapter: row.adapter,
      auroc: valueOf(board, auroc, row.place, state.seed),
      seconds: valueOf(board, cost, row.place, state.seed),
    }))
    .filter(({ auroc, seconds }) => !auroc.missing && !auroc.incomplete && seconds.number > 0);
}

/** Return the points that no other has both more AUROC and less time than. */
function front(points) {
  const sorted = [...points].sort(
    (one, other) =>
      one.seconds.number - other.seconds.number || other.auroc.number - one.auroc.number,
  );
  let best = -Infinity;
  return sorted.filter(({ auroc }) => auroc.number > best && ((best = auroc.number), true));
}

const percent = ({ auroc }) => auroc.number / 100;
const seconds = ({ seconds: its }) => its.number;

/** Return what stands at a tick of the logarithmic axis: at 1, 2 and 5 only. */
function tick(number) {
  return /^[125]/.test(number.toExponential()) ? String(Number(number.toPrecision(2))) : "";
}

function chart(board, state, points, width, open) {
  const best = front(points);
  const adapters = [...new Set(points.map(({ adapter }) => adapter))];
  const many = adapters.length > MOST_ADAPTERS;
  const group = ({ adapter }) =>
    !many || adapters.indexOf(adapter) < MOST_ADAPTERS - 1 ? adapter : "other adapters";
  const domain = [...new Set(points.map(group))];
  const colours = domain.map((_, place) => `var(--series-${place + 1})`);
  const drawing = Plot.plot({
    width,
    height: Math.max(320, Math.min(480, width * 0.55)),
    className: "plot",
    marginLeft: 52,
    marginRight: 24,
    x: { type: "log", label: "seconds (logarithmic) →", grid: true, inset: 20, tickFormat: tick },
    y: { label: "↑ AUROC (%)", grid: true, insetTop: 16 },
    color: { domain, range: colours },
    symbol: { domain, range: SHAPES },
    marks: [
      Plot.line(best, { x: seconds, y: percent, curve: "step-after", stroke: "currentColor", strokeOpacity: 0.5 }),
      Plot.dot(points, { x: seconds, y: percent, stroke: group, symbol: group, r: 4, strokeWidth: 1.5 }),
      Plot.text(best, {
        x: seconds,
        y: percent,
        text: ({ row }) => `${row.adapter}, ${row.detector}`,
        dy: -10,
        filter: (_, place) => place === best.length - 1 || place === 0,
        textAnchor: (_, place) => (place ? "end" : "start"),
        fill: "currentColor",
        stroke: "var(--paper)",
        strokeWidth: 4,
      }),
      Plot.tip(
        points,
        Plot.pointer({
          x: seconds,
          y: percent,
          title: ({ row, auroc, seconds: its }) =>
            `${row.adapter} with ${row.detector}\nAUROC ${auroc.text}${auroc.sd ? ` (${auroc.sd})` : ""}\n${its.text} s`,
          fill: "var(--paper)",
        }),
      ),
    ],
  });
  drawing.addEventListener("click", () => drawing.value && open(drawing.value.row, state.part));
  return figure(
    "Up and to the left is better. The line joins the rows that no other row beats in both.",
    `AUROC against seconds of ${points.length} rows. The table below has the ${best.length} that no other beats in both.`,
    drawing,
    legend(domain, colours),
    ready(alternative("The rows on the line, as a table", frontTable(best, state, open))),
  );
}

function ready(details) {
  details.open = true;
  return details;
}

function legend(domain, colours) {
  return h(
    "p",
    { class: "legend" },
    domain.map((name, place) => {
      const symbol = Plot.plot({
        width: 14,
        height: 14,
        margin: 0,
        className: "key",
        axis: null,
        marks: [
          Plot.dot([0], { x: 0, y: 0, frameAnchor: "middle", symbol: SHAPES[place], stroke: colours[place], r: 4, strokeWidth: 1.5 }),
        ],
      });
      symbol.setAttribute("aria-hidden", "true");
      return h("span", {}, symbol, name);
    }),
  );
}

function frontTable(best, state, open) {
  const rows = best.map(({ row, auroc, seconds: its }) => [
    h(
      "button",
      { type: "button", class: "link", onclick: () => open(row, state.part) },
      `${row.adapter} with ${row.detector}`,
    ),
    `${auroc.text}${auroc.sd ? ` (${auroc.sd})` : ""}`,
    its.text,
  ]);
  return plainTable("Rows that no other row beats in both", ["row", "AUROC (%)", "seconds"], rows);
}
