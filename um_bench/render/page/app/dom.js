/* Elements. Text only ever becomes a text node: nothing here parses HTML. */

/** Return an element. Attributes that begin with "on" are listeners; false and null are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return a select with a label. Options are [value, text]. */
export function select(label, options, value, onchange) {
  const list = h(
    "select",
    { onchange: (event) => onchange(event.target.value) },
    options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)),
  );
  return h("label", { class: "field" }, h("span", {}, label), list);
}

/** Return a table of texts or elements whose first column names the rows. */
export function plainTable(caption, head, rows) {
  return h(
    "div",
    { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head.map(plainHead))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(plainCell)))),
    ),
  );
}

function plainHead(text) {
  return text ? h("th", { scope: "col" }, text) : h("td");
}

function plainCell(content, place) {
  return place ? h("td", {}, content) : h("th", { scope: "row" }, content);
}

/** Return "1 row", "2 rows". */
export function counted(number, what) {
  return `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
}
