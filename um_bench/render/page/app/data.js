/* The data of the page, as Python wrote it, and how its values are read. */

/** Return the board; large ones are compressed. */
export async function load() {
  const element = document.getElementById("data");
  const text = element.textContent;
  const board = JSON.parse(element.dataset.encoding === "deflate" ? await inflated(text) : text);
  element.remove();
  board.sections.forEach(complete);
  return board;
}

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

/** Give a section its rows, and each column a name of its own and sets of marked rows. */
function complete(section) {
  section.rows = section.rows.map((id, place) => ({
    id,
    place,
    adapter: section.adapters[place],
    detector: section.detectors[place],
  }));
  section.columns.forEach((column, place) => {
    column.field = `c${place}`;
    column.rows = section.rows;
    for (const mark of ["best", "tied", "sure"]) column[mark] = new Set(column[mark]);
  });
}

/** Return the columns of a section that a test holds for. */
export function columnsOf(section, test) {
  return section.columns.filter(test);
}

/** Return what a column has of a row: over seeds, or of one seed, which has no spread and no mark. */
export function valueOf(board, column, place, seed = null) {
  const number = seed === null ? column.mean?.[place] : ofSeed(board, column, place, seed);
  const missing = number === null || number === undefined;
  const value = {
    missing,
    number: missing ? null : Number.parseFloat(number),
    text: missing ? column.instead?.[place] ?? board.words.none : written(column.kind, number),
    alarms: column.alarms?.[place] ?? [],
  };
  if (seed !== null) return value;
  return {
    ...value,
    sd: spread(column.sd?.[place]),
    half: spread(column.half?.[place]),
    best: column.best.has(place),
    tied: column.tied.has(place),
    sure: column.sure.has(place),
    incomplete: column.incomplete?.[place] ?? "",
  };
}

/** Return the number of one seed; on one OOD set it is a cell's. */
function ofSeed(board, column, place, seed) {
  if (column.view !== "set") return column.seeds?.[seed]?.[place];
  const { sets, seeds } = board.suite;
  const set = sets.findIndex(({ name }) => name === column.part);
  const seedPlace = seeds.findIndex((one) => String(one) === String(seed));
  return board.cells.metrics[column.name][placeOf(board, column.rows[place].id, set, seedPlace)];
}

/** Return the place of a cell among all. */
function placeOf(board, row, set, seed) {
  return (row * board.suite.sets.length + set) * board.suite.seeds.length + seed;
}

/** Return a number as Python wrote it: hundredths of a percent, or a text already. */
export function written(kind, number) {
  if (kind === "text") return number;
  const text = (Math.abs(number) / 100).toFixed(2);
  if (number < 0) return `−${text}`;
  return kind === "difference" && number > 0 ? `+${text}` : text;
}

function spread(number) {
  return number === null || number === undefined ? "" : (number / 100).toFixed(2);
}

/** Return the value of a packed column. */
export function unpacked(column, place) {
  return column.of[column.at.length ? column.at[place] : 0];
}

/** Return what is known of one cell, the image set and seed given by their places in the suite. */
export function cellOf(board, row, setPlace, seedPlace) {
  const { cells, suite } = board;
  const place = placeOf(board, row.id, setPlace, seedPlace);
  const of = (name) => unpacked(cells[name], place);
  return {
    set: suite.sets[setPlace].name,
    seed: suite.seeds[seedPlace],
    state: of("state"),
    reason: of("reason"),
    traceback: of("traceback"),
    created: of("created"),
    made: of("made"),
    model: of("model"),
    images: of("images"),
    settings: of("settings")?.all,
    accuracy: of("accuracy"),
    stages: of("stages"),
    alarms: of("alarms").map((alarm) => board.alarms[alarm]),
    key: cells.key[place],
    scores: cells.scores[place],
    curve: board.curves[cells.scores[place]],
    metrics: Object.fromEntries(
      Object.entries(cells.metrics).map(([name, column]) => [name, column[place]]),
    ),
    seconds: Object.fromEntries(
      Object.entries(cells.seconds).map(([name, column]) => [name, unpacked(column, place)]),
    ),
  };
}
