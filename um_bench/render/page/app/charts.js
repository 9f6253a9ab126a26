/* ROC and histogram of a cell's scores, drawn by Observable Plot from what was kept of them. */

/* global Plot */
import { h, plainTable } from "./dom.js";

const SERIES = ["var(--one)", "var(--two)", "var(--three)", "var(--four)", "var(--five)"];

/** Return a picture with what it shows in words. */
export function figure(caption, label, drawing, ...alternative) {
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", label);
  for (const mark of drawing.querySelectorAll("g[aria-label]")) {
    mark.dataset.mark = mark.getAttribute("aria-label");
    mark.removeAttribute("aria-label"); // Plot's names of marks, which are no words to read aloud
  }
  return h("figure", {}, h("figcaption", {}, caption), drawing, ...alternative);
}

/** Return the points of a kept ROC as shares of ID and OOD images that are flagged. */
export function rocPoints(curve) {
  const points = [{ fpr: 0, tpr: 0 }];
  curve.fpr.forEach((step, place) => {
    const { fpr, tpr } = points.at(-1);
    points.push({ fpr: fpr + step / 1000, tpr: tpr + curve.tpr[place] / 1000 });
  });
  return points;
}

/** Return the ROC of some cells, one for each seed. */
export function rocChart(cells, width) {
  const points = cells.flatMap((cell) =>
    rocPoints(cell.curve).map((point) => ({ ...point, seed: `seed ${cell.seed}` })),
  );
  const seeds = [...new Set(points.map(({ seed }) => seed))];
  const drawing = Plot.plot({
    width,
    height: Math.min(width, 320),
    className: "plot",
    marginLeft: 48,
    x: { label: "ID images flagged (%) →", domain: [0, 100], grid: true },
    y: { label: "↑ OOD images flagged (%)", domain: [0, 100], grid: true },
    color: { domain: seeds, range: seeds.map((_, place) => SERIES[place % SERIES.length]) },
    marks: [
      Plot.line([[0, 0], [100, 100]], { stroke: "currentColor", strokeOpacity: 0.35, strokeDasharray: "4 4" }),
      Plot.line(points, {
        x: (point) => 100 * point.fpr,
        y: (point) => 100 * point.tpr,
        stroke: "seed",
        strokeWidth: 1.75,
      }),
    ],
  });
  const legend = h(
    "p",
    { class: "legend" },
    seeds.map((seed, place) => {
      const line = h("span", { class: "line", "aria-hidden": "true" });
      line.style.setProperty("--colour", SERIES[place % SERIES.length]);
      return h("span", {}, line, seed);
    }),
  );
  return figure(
    "ROC: OOD is the positive class",
    `ROC curves of ${cells[0].set}: ${seeds.join(", ")}. The table below has points of them.`,
    drawing,
    legend,
    alternative("ROC as a table", rocTable(cells)),
  );
}

function rocTable(cells) {
  const at = [1, 5, 10, 20, 50];
  const rows = cells.map((cell) => [
    `seed ${cell.seed}`,
    ...at.map((percent) => `${(100 * tprAt(rocPoints(cell.curve), percent / 100)).toFixed(1)}`),
  ]);
  const head = ["", ...at.map((percent) => `${percent} % of ID`)];
  return plainTable("OOD images flagged (%), when so many ID images are", head, rows);
}

/** Return the height of a line of points at a place. */
function tprAt(points, fpr) {
  const after = points.findIndex((point) => point.fpr > fpr);
  if (after <= 0) return after ? 1 : 0;
  const [one, other] = [points[after - 1], points[after]];
  return one.tpr + ((other.tpr - one.tpr) * (fpr - one.fpr)) / (other.fpr - one.fpr);
}

/** Return the histogram of one cell's scores. */
export function histogram(cell, width) {
  const { edges, id, ood } = cell.curve;
  const step = (edges[1] - edges[0]) / id.length;
  const bars = [["ID", id], [`OOD: ${cell.set}`, ood]].flatMap(([side, counts]) => {
    const all = counts.reduce((sum, count) => sum + count, 0) || 1;
    return counts.map((count, place) => ({
      side,
      from: edges[0] + place * step,
      to: edges[0] + (place + 1) * step,
      share: (100 * count) / all,
    }));
  });
  const sides = [...new Set(bars.map(({ side }) => side))];
  const drawing = Plot.plot({
    width,
    height: Math.min(width, 320),
    className: "plot",
    marginLeft: 48,
    x: { label: "outlier score →", ticks: Math.max(3, Math.round(width / 90)) },
    y: { label: "↑ images (%)", grid: true },
    color: { domain: sides, range: ["var(--one)", "var(--two)"] },
    marks: [
      Plot.rectY(bars, { x1: "from", x2: "to", y2: "share", fill: "side", fillOpacity: 0.55, inset: 0 }),
      Plot.ruleY([0], { stroke: "currentColor" }),
    ],
  });
  const legend = h(
    "p",
    { class: "legend" },
    sides.map((side, place) => h("span", { class: `swatch ${["one", "two"][place]}` }, side)),
  );
  return figure(
    `Outlier scores, seed ${cell.seed}`,
    `Histogram of outlier scores of ${sides.join(" and ")}, seed ${cell.seed}; the table below has it.`,
    drawing,
    legend,
    alternative("Histogram as a table", histogramTable(cell, step)),
  );
}

function histogramTable(cell, step) {
  const { edges, id, ood } = cell.curve;
  const edge = (place) => (edges[0] + place * step).toPrecision(4);
  const rows = id.map((count, place) => [`${edge(place)} to ${edge(place + 1)}`, count, ood[place]]);
  return plainTable("Images by outlier score", ["score", "ID", "OOD"], rows.map((row) => row.map(String)));
}

/** Return what can be opened in place of a picture. */
export function alternative(name, table) {
  return h("details", { class: "alternative" }, h("summary", {}, name), table);
}
