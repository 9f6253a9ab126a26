/* What is not done, and why: every reason, where the page's notes name the first. */

import { h, plainTable } from "./dom.js";

/** Return the view. */
export function holesView(board) {
  const rows = board.holes.map((hole) => [
    hole.state,
    hole.cells.toLocaleString("en"),
    hole.reason || "–",
    listed(hole.adapters),
    listed(hole.detectors),
    listed(hole.ood_sets),
    hole.seeds.join(", "),
  ]);
  const head = ["state", "cells", "reason", "adapters", "detectors", "OOD sets", "seeds"];
  const element = h("section", { class: "holes" }, plainTable("Cells without numbers", head, rows));
  return { element, show: () => {} };
}

function listed(names) {
  const text = names.join(", ");
  if (names.length <= 4) return text;
  return h("details", {}, h("summary", {}, `${names.length} of them`), text);
}
