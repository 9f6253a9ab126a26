/* The page: filters, views, and the dialog behind every number. */

import { load } from "./data.js";
import { h } from "./dom.js";
import { costView } from "./cost.js";
import { detailsDialog } from "./details.js";
import { filterBar } from "./filters.js";
import { heatmapView } from "./heatmap.js";
import { holesView } from "./holes.js";
import { startOf } from "./state.js";
import { tableView } from "./table.js";
import { themeButton } from "./theme.js";

/** Return the views by their key, each with its name. */
function viewsOf(board, state, open) {
  const missing = board.holes.reduce((sum, hole) => sum + hole.cells, 0);
  return {
    mean: ["Averages", tableView(board, state, "mean", open)],
    set: ["Each OOD set", tableView(board, state, "set", open)],
    heat: ["Heat map", heatmapView(board, state, open)],
    cost: ["Cost", costView(board, state, open)],
    ...(missing && { holes: [`Not done (${missing.toLocaleString("en")})`, holesView(board)] }),
  };
}

/** Return a list of tabs and their panels. */
function tabs(views, state) {
  const keys = Object.keys(views);
  const buttons = keys.map((key) =>
    h(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${key}`,
        "aria-controls": `panel-${key}`,
        onclick: () => state.set({ view: key }),
      },
      views[key][0],
    ),
  );
  const panels = keys.map((key) =>
    h(
      "div",
      { role: "tabpanel", id: `panel-${key}`, "aria-labelledby": `tab-${key}` },
      views[key][1].element,
    ),
  );
  const list = h("div", { role: "tablist", "aria-label": "Views", class: "tabs" }, buttons);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const place = (keys.indexOf(state.view) + step + keys.length) % keys.length;
    state.set({ view: keys[place] });
    buttons[place].focus();
  });
  const show = () => {
    keys.forEach((key, place) => {
      const chosen = key === state.view;
      buttons[place].setAttribute("aria-selected", String(chosen));
      buttons[place].tabIndex = chosen ? 0 : -1;
      panels[place].hidden = !chosen;
      if (!chosen) views[key][1].hide?.();
    });
    views[state.view][1].show();
  };
  state.onchange((changed) => changed.has("view") && show());
  return { elements: [list, ...panels], show };
}

const board = await load();
const state = startOf(board);
const { dialog, open } = detailsDialog(board, state);
const { elements, show } = tabs(viewsOf(board, state, open), state);
const app = document.getElementById("app");
document.querySelector("header.top").append(themeButton());
app.append(filterBar(board, state), ...elements);
document.body.append(dialog);
document.getElementById("tables").remove();
app.hidden = false;
document.querySelector(".about").open = !matchMedia("(max-width: 46rem)").matches;
show();
document.documentElement.dataset.ready = "true";
