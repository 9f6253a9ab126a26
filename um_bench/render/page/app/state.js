/* What is shown: one object, and who wants to know when it changes. */

/** Return the state that the page starts in. */
export function startOf(board) {
  const listeners = [];
  const { start, suite } = board;
  const state = {
    view: start.per_set ? "set" : "mean",
    section: 0,
    search: "",
    adapters: null,
    detectors: null,
    seed: null,
    columns: new Set(start.columns),
    metric: start.columns.find((name) => name in board.words.metrics) ?? "auroc",
    part: suite.main,
    reference: null,
    cost: "scoring",
    order: start.order,
    onchange: (listener) => listeners.push(listener),
    set(changes) {
      Object.assign(state, changes);
      for (const listener of listeners) listener(new Set(Object.keys(changes)));
    },
  };
  return state;
}

/** Return whether a row is to be shown. */
export function isShown(state, row) {
  if (state.adapters && !state.adapters.has(row.adapter)) return false;
  if (state.detectors && !state.detectors.has(row.detector)) return false;
  const name = `${row.adapter} ${row.detector}`.toLowerCase();
  return state.search.toLowerCase().split(/\s+/).every((word) => name.includes(word));
}

/** Return the section that is shown. */
export function sectionOf(board, state) {
  return board.sections[state.section];
}

/** Return the rows that are shown. */
export function rowsOf(board, state) {
  return sectionOf(board, state).rows.filter((row) => isShown(state, row));
}

/** Return a view that is drawn when it comes up, and while it is up whenever the state changes;
    `resized`: also when the window's size does. */
export function drawnView(state, element, draw, { resized = false } = {}) {
  let shown = false;
  const again = () => shown && draw();
  state.onchange(again);
  if (resized) addEventListener("resize", again);
  return {
    element,
    show: () => {
      shown = true;
      draw();
    },
    hide: () => (shown = false),
  };
}
