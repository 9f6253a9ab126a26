/* Light or dark: as the system has it, until the button says otherwise. */

import { h } from "./dom.js";

/** Return the button that changes to the other one. */
export function themeButton() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const button = h("button", { type: "button", class: "quiet", onclick: change });
  const name = () => (button.textContent = isDark() ? "Light colours" : "Dark colours");
  function change() {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
  }
  dark.addEventListener("change", name);
  name();
  return button;
}
