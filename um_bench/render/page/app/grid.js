/* Arrow keys in a table of buttons: one of them is reached by Tab, the others from it. */

const STEPS = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  PageUp: [-10, 0],
  PageDown: [10, 0],
  Home: [0, -Infinity],
  End: [0, Infinity],
};

/** Move the focus among the buttons of an element. `neighbour` returns the button that is so many
    rows and columns away, or a promise of it. */
export function arrowKeys(element, neighbour) {
  element.addEventListener("keydown", async (event) => {
    const step = STEPS[event.key];
    const button = event.target.closest("button.value");
    if (!step || !button || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const other = await neighbour(button, ...step);
    if (other) other.focus();
  });
  element.addEventListener("focusin", (event) => {
    if (event.target.matches("button.value")) reachable(element, event.target);
  });
}

/** Let Tab reach this button, or the first one. */
export function reachable(element, button = element.querySelector("button.value")) {
  for (const other of element.querySelectorAll('button.value[tabindex="0"]')) other.tabIndex = -1;
  if (button) button.tabIndex = 0;
}
