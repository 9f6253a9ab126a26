/* One value as an element, marked as in every other format. */

import { h } from "./dom.js";

/** Return the parts of a value: number, spread, signs; what a sign means is said to who listens. */
export function parts(board, value) {
  const spread = value.sd ? `(${value.sd})` : value.half ? `±${value.half}` : "";
  return [
    h(value.best ? "strong" : "span", { class: "number" }, value.text),
    spread && h("small", {}, ` ${spread}`),
    value.incomplete && sign(board.words.incomplete, value.incomplete),
    value.alarms.length > 0 && sign(board.words.alarm, value.alarms.map(meaning(board)).join("; ")),
    value.best && h("span", { class: "unseen" }, ", best"),
    value.tied && h("span", { class: "unseen" }, ", tied with the best"),
  ].filter(Boolean);
}

/** Return the classes of a value. */
export function kinds(board, value) {
  const states = Object.entries(board.words.states);
  const state = value.missing && states.find(([, word]) => word === value.text);
  return [
    "value",
    value.best && "best",
    value.tied && "tied",
    state && `state ${state[0]}`,
  ].filter(Boolean).join(" ");
}

function sign(letter, note) {
  return h(
    "span",
    {},
    h("abbr", { title: note, "aria-hidden": "true" }, letter),
    h("span", { class: "unseen" }, `, ${note}`),
  );
}

function meaning(board) {
  return (name) => board.alarms.find((alarm) => alarm.name === name)?.means || name;
}
