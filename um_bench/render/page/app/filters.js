/* What narrows the rows, whatever the view. */

import { counted, h, select } from "./dom.js";
import { rowsOf, sectionOf } from "./state.js";

/** Return the bar of filters; it follows the state. */
export function filterBar(board, state) {
  const bar = h("div", { class: "bar", role: "search", "aria-label": "Filters" });
  const count = h("output", { class: "count", "aria-live": "polite" });
  const search = h("input", {
    type: "search",
    placeholder: "knn, um …",
    oninput: (event) => state.set({ search: event.target.value.trim() }),
  });
  const build = () => {
    const section = sectionOf(board, state);
    bar.replaceChildren(
      h("label", { class: "field" }, h("span", {}, "Search"), search),
      ...sectionFields(board, state),
      choice("Adapters", section.adapters, state, "adapters"),
      choice("Detectors", section.detectors, state, "detectors"),
      seedField(board, state),
      h("button", { type: "button", class: "quiet reset", onclick: reset }, "Reset filters"),
      count,
    );
  };
  function reset() {
    search.value = "";
    state.set({ search: "", adapters: null, detectors: null, seed: null });
    build();
    search.focus();
  }
  const recount = () => {
    const all = sectionOf(board, state).rows.length;
    count.textContent = `${rowsOf(board, state).length.toLocaleString("en")} of ${counted(all, "row")}`;
  };
  state.onchange((changed) => {
    if (changed.has("section")) build();
    recount();
  });
  build();
  recount();
  return bar;
}

/** Return a select of classifiers and one of tracks, where there are several. */
function sectionFields(board, state) {
  const key = (section) => `${section.backbone} on ${section.id_set}`;
  const now = sectionOf(board, state);
  const go = (test) => {
    const section = board.sections.findIndex(test);
    state.set({ section, adapters: null, detectors: null });
  };
  const models = [...new Set(board.sections.map(key))];
  const tracks = board.sections.filter((section) => key(section) === key(now));
  return [
    models.length > 1 &&
      select("Classifier", models.map((name) => [name, name]), key(now), (name) =>
        go((section) => key(section) === name),
      ),
    tracks.length > 1 &&
      select(
        "Auxiliary outliers",
        tracks.map((section) => [section.auxiliary, section.auxiliary || "trained without"]),
        now.auxiliary,
        (auxiliary) => go((one) => key(one) === key(now) && one.auxiliary === auxiliary),
      ),
  ].filter(Boolean);
}

function seedField(board, state) {
  const seeds = board.suite.seeds.map(String);
  const options = [["", `all (${seeds.length})`], ...seeds.map((seed) => [seed, seed])];
  const value = state.seed === null ? "" : String(state.seed);
  return select("Seed", options, value, (seed) => state.set({ seed: seed === "" ? null : seed }));
}

/** Return a list of boxes that opens below its button; `key`: where the state keeps the choice. */
function choice(label, all, state, key) {
  const names = [...new Set(all)];
  return boxes(label, names.map((name) => [name, name]), state[key] ?? new Set(names), (chosen) =>
    state.set({ [key]: chosen.size === names.length ? null : chosen }),
  );
}

/** Return boxes of [value, text] below a button that says how many are chosen. */
export function boxes(label, options, chosen, onchange) {
  const now = new Set(chosen);
  const said = h("span", { class: "soft" });
  const say = () => {
    said.textContent = now.size === options.length ? "all" : `${now.size} of ${options.length}`;
  };
  const inputs = options.map(([value]) =>
    h("input", {
      type: "checkbox",
      checked: now.has(value),
      onchange: (event) => change([value], event.target.checked),
    }),
  );
  function change(values, on) {
    for (const value of values) on ? now.add(value) : now.delete(value);
    say();
    onchange(new Set(now));
  }
  const every = (on) => () => {
    for (const input of inputs) input.checked = on;
    change(options.map(([value]) => value), on);
  };
  const panel = h(
    "div",
    { class: "panel" },
    h(
      "div",
      { class: "both" },
      h("button", { type: "button", class: "quiet", onclick: every(true) }, "All"),
      h("button", { type: "button", class: "quiet", onclick: every(false) }, "None"),
    ),
    options.map(([, text], place) => h("label", { class: "box" }, inputs[place], h("span", {}, text))),
  );
  const list = h("details", { class: "choice" }, h("summary", {}, `${label} `, said), panel);
  list.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !list.open) return;
    list.open = false;
    list.querySelector("summary").focus();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!list.contains(event.target)) list.open = false;
  });
  say();
  return list;
}
