/* Where a number comes from: a row's numbers, curves of its scores, and its records. */

import { cellOf, columnsOf, valueOf, written } from "./data.js";
import { counted, h, plainTable, select } from "./dom.js";
import { histogram, rocChart } from "./charts.js";
import { parts } from "./marks.js";
import { sectionOf } from "./state.js";

/** Return the dialog, and how it is opened for a row and an OOD set or group. */
export function detailsDialog(board, state) {
  const title = h("h2", { id: "details-title", tabindex: "-1" });
  const close = h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close");
  const body = h("div", { class: "inside" });
  const dialog = h(
    "dialog",
    { "aria-labelledby": "details-title" },
    h("header", {}, title, close),
    body,
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => body.replaceChildren());
  function open(row, part) {
    title.replaceChildren(
      `${row.adapter} with ${row.detector}`,
      h("small", {}, ` ${nameOf(board, part)}`),
    );
    const sets = setsOf(board, part);
    if (!dialog.open) dialog.showModal();
    const curves = curvesPart(board, state, row, sets, Math.min(body.clientWidth - 8, 460));
    body.replaceChildren(
      section("Numbers", numbers(board, state, row)),
      ...alarmsPart(board, row, sets),
      section("Scores", curves),
      section("Records", recordsPart(board, state, row, sets)),
    );
    title.focus();
    dialog.scrollTop = 0;
  }
  return { dialog, open };
}

function nameOf(board, part) {
  return board.suite.groups.find(({ name }) => name === part)?.title ?? part;
}

function section(name, ...content) {
  return h("section", {}, h("h3", {}, name), ...content);
}

/** Return the places of the OOD sets that a part is about: one, those of a group, or all. */
function setsOf(board, part) {
  const all = board.suite.sets.map((_, place) => place);
  const its = all.filter((place) => {
    const set = board.suite.sets[place];
    return set.name === part || set.group === part;
  });
  return its.length ? its : all;
}

// --- Numbers ---

function numbers(board, state, row) {
  const its = sectionOf(board, state);
  const names = Object.keys(board.words.metrics);
  const partsOfRow = [...board.suite.groups, ...board.suite.sets];
  const rows = partsOfRow.map((one) => [
    one.title ? `${one.title}, mean` : one.name,
    ...names.map((name) => cell(board, state, its, row, (c) => c.view !== "delta" && c.name === name && c.part === one.name)),
    ...["vs none", "vs finetune"].map((head) =>
      cell(board, state, its, row, (c) => c.view === "delta" && c.part === one.name && c.head === head),
    ),
  ]);
  const head = ["", ...names.map((name) => board.words.metrics[name]), "Δ AUROC vs none", "Δ AUROC vs finetune"];
  const over = state.seed === null ? "mean (SD) over seeds; differences ± half their interval" : `seed ${state.seed} alone`;
  return plainTable(`Percent: ${over}`, head, rows);
}

function cell(board, state, its, row, test) {
  const [column] = columnsOf(its, test);
  return column ? parts(board, valueOf(board, column, row.place, state.seed)) : board.words.none;
}

// --- Alarms ---

function alarmsPart(board, row, sets) {
  const found = new Set(
    sets.flatMap((set) => board.suite.seeds.flatMap((_, seed) => cellOf(board, row, set, seed).alarms)),
  );
  if (!found.size) return [];
  const items = [...found].map((alarm) =>
    h("li", {}, h("strong", {}, `${alarm.means || alarm.name}. `), h("span", { class: "soft" }, alarm.text)),
  );
  return [section(`${board.words.alarm} Alarms`, h("ul", { class: "alarms" }, items))];
}

// --- Curves ---

function curvesPart(board, state, row, sets, width) {
  const place = h("div", { class: "figures" });
  const { suite } = board;
  let set = sets[0];
  let seed = Math.max(0, suite.seeds.map(String).indexOf(String(state.seed)));
  const draw = () => {
    const cells = suite.seeds.map((_, one) => cellOf(board, row, set, one)).filter((one) => one.curve);
    if (!cells.length) return place.replaceChildren(h("p", { class: "soft" }, why(board, row, set)));
    const chosen = cells.find((one) => one.seed === suite.seeds[seed]) ?? cells[0];
    place.replaceChildren(rocChart(cells, width), histogram(chosen, width));
  };
  const sides = h(
    "div",
    { class: "options" },
    select("OOD set", suite.sets.map(({ name }, i) => [String(i), name]), String(set), (value) => {
      set = Number(value);
      draw();
    }),
    select("Seed of the histogram", suite.seeds.map((one, i) => [String(i), String(one)]), String(seed), (value) => {
      seed = Number(value);
      draw();
    }),
  );
  draw();
  return h("div", {}, sides, place);
}

function why(board, row, set) {
  const cells = board.suite.seeds.map((_, seed) => cellOf(board, row, set, seed));
  const missing = cells.find((one) => one.state !== board.words.states.done);
  return missing ? `No scores: ${missing.state}. ${missing.reason}` : board.words.no_curves;
}

// --- Records ---

function recordsPart(board, state, row, sets) {
  const seeds = board.suite.seeds.map((_, place) => place);
  const chosen = seeds.filter((place) => state.seed === null || String(board.suite.seeds[place]) === String(state.seed));
  const items = sets.flatMap((set) => chosen.map((seed) => record(board, cellOf(board, row, set, seed))));
  return h("div", {}, h("p", { class: "soft" }, `${counted(items.length, "cell")}; open one for what it was made from.`), items);
}

function record(board, its) {
  const numbers = its.metrics.auroc === null
    ? its.reason
    : ["auroc", board.suite.fpr95].map((name) => `${board.words.metrics[name]} ${written("percent", its.metrics[name])}`).join(", ");
  const done = its.state === board.words.states.done;
  const list = h(
    "details",
    { class: "record" },
    h(
      "summary",
      {},
      h("span", { class: "what" }, `${its.set}, seed ${its.seed}`),
      h("span", { class: done ? "soft" : "state" }, done ? "" : `${its.state}: `),
      h("span", { class: "soft" }, numbers),
      its.alarms.length ? h("abbr", { title: "has alarms" }, board.words.alarm) : null,
    ),
  );
  list.addEventListener("toggle", () => {
    if (list.open && list.children.length === 1) list.append(provenance(board, its));
  });
  return list;
}

/** Return everything that is known of a cell, as names and values. */
function provenance(board, its) {
  const made = its.made ?? {};
  const model = its.model ?? {};
  const images = its.images ?? {};
  const percent = ([name, number]) => [
    board.words.metrics[name],
    number === null ? null : `${written("percent", number)} %`,
  ];
  const metrics = Object.entries(its.metrics).map(percent);
  return h(
    "div",
    { class: "provenance" },
    facts("Result", [["state", its.state], ["reason", its.reason], ...metrics, ...shares(its.accuracy)]),
    facts("Alarms", its.alarms.map((alarm) => [alarm.name, alarm.means])),
    facts("Model, by the hash of its weights", [...Object.entries(model.weights ?? {}), ["job", model.job]]),
    facts("Images", Object.entries(images.counts ?? {}).map(([role, count]) => [role, count.toLocaleString("en")])),
    facts("Fingerprints of the images", Object.entries(images.fingerprints ?? {})),
    facts("Seconds", [...Object.entries(its.seconds), ...Object.entries(its.stages ?? {}).map(([n, t]) => [n, short(t)])]),
    facts("Estimated by the adapter", Object.entries(model.notes ?? {}).map(([n, v]) => [n, short(v)])),
    facts("Training loss by epoch, in nats", [["", (model.losses ?? []).map(short).join(", ")]]),
    facts("Read of the data", Object.entries(model.opened ?? {}).map(([stage, names]) => [stage, names.join(", ")])),
    facts("Settings", Object.entries(its.settings ?? {}).map(([name, value]) => [name, settings(value)])),
    facts("Made", [["at", its.created], ["on", made.device], ["platform", made.platform], ["threads", made.threads], ["deterministic", made.deterministic]]),
    facts("Versions", Object.entries(made.versions ?? {})),
    facts("Checks", [["cell key", its.key && `${its.key}…`], ["file of scores", its.scores]]),
    its.traceback ? h("pre", { tabindex: "0", "aria-label": "Traceback" }, its.traceback) : null,
  );
}

function shares(accuracy) {
  const names = { id_accuracy: "ID accuracy", base_id_accuracy: "of the base" };
  return Object.entries(accuracy ?? {}).map(([name, share]) => [
    names[name],
    share === null ? null : `${(100 * share).toFixed(2)} %`,
  ]);
}

function short(number) {
  return number === null ? null : String(Number(number.toPrecision(4)));
}

function settings(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return JSON.stringify(value);
  return Object.entries(value).map(([name, one]) => `${name} ${JSON.stringify(one)}`).join(", ");
}

/** Return a list of names and values; without those that have none, and nothing if none has. */
function facts(name, pairs) {
  const known = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  if (!known.length) return null;
  return h(
    "div",
    { class: "facts" },
    h("h4", {}, name),
    h("dl", {}, known.map(([term, value]) => h("div", {}, term && h("dt", {}, term), h("dd", {}, String(value))))),
  );
}
