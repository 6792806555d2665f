// Blelloch's two sweeps over eight steps, round by round, as a table whose cells span their steps.

const STEPS = {
  chapter: [[1, 1], [0.5, 2], [1, 0], [0, 3], [0.5, 4], [1, 1], [0.5, 2], [1, 1]],
  sum: [1, 2, 3, 4, 5, 6, 7, 8].map((b) => [1, b]),
  fade: [1, 0, 0, 2, 0, 0, 0, 1].map((b) => [0.5, b]),
};

// The cells that cell i of a row was made of, as [kind, level, place]; levels count from the leaves
// in both sweeps.
function parentsOf(kind, level, i, top) {
  if (kind === "up") return level === 0 ? [] : [[kind, level - 1, 2 * i], [kind, level - 1, 2 * i + 1]];
  if (level === top) return [];
  const above = ["down", level + 1, Math.floor(i / 2)];
  return i % 2 ? [above, ["up", level, i - 1]] : [above];
}

function figure(place) {
  place.innerHTML = `<table class="sweeps"><caption>Each cell is a step x ↦ a x + b, written a over b.
    Point at one to see what it was made of.</caption><colgroup>${"<col>".repeat(9)}</colgroup><tbody></tbody></table><p class="made"></p>`;
  const body = place.querySelector("tbody"), made = place.querySelector(".made");
  const cells = new Map(), key = (...where) => where.join(" ");

  const show = (cell) => {
    const parents = cell?.parents ?? [];
    cells.forEach((each) => each.classList.toggle("parent", parents.includes(each)));
    const pairs = parents.map(({step: [a, b]}) => `(${spell(a)}, ${spell(b)})`);
    made.textContent = pairs.length === 2 ? `First ${pairs[0]}, then ${pairs[1]}: together (${cell.step.map((x) => spell(x)).join(", ")}).`
      : pairs.length === 1 ? "Nothing more comes before its left half: passed down as it is." : "";
  };
  for (const event of ["pointerover", "focusin", "click"]) body.addEventListener(event, ({target}) => show(target.closest("td")));
  for (const event of ["pointerleave", "focusout"]) body.addEventListener(event, () => show());

  return ({steps, fourth, round}) => {
    const leaves = STEPS[steps].map(([a, b], k) => [k === 3 ? fourth : a, b]);
    const up = upSweep(leaves), down = downSweep(up), rounds = up.length - 1;
    // The rows from top to bottom, with the round that fills each of them.
    const rows = [
      ...up.map((steps, level) => ({steps, level, since: level, name: level === 0 ? "the steps" : `up ${level}`, kind: "up"})).reverse(),
      ...down.map((steps, h) => ({steps, level: rounds - h, since: rounds + h, name: h === 0 ? "before all" : `down ${h}`, kind: "down"})),
    ];
    cells.clear();
    body.replaceChildren(...rows.map(({steps, level, since, name, kind}) => {
      const row = document.createElement("tr");
      row.className = `${kind}${since === round ? " now" : ""}`;
      row.append(Object.assign(document.createElement("th"), {scope: "row", textContent: name}));
      steps.forEach(([a, b], i) => {
        const cell = Object.assign(document.createElement("td"), {colSpan: leaves.length / steps.length, step: [a, b]});
        if (since <= round) {
          cell.innerHTML = `<span>${spell(a)}</span><span>${spell(b)}</span>`;
          cells.set(key(kind, level, i), cell);
        }
        if (since === round) cell.tabIndex = 0;
        row.append(cell);
      });
      return row;
    }));
    for (const [where, cell] of cells) {
      const [kind, level, i] = where.split(" ");
      cell.parents = parentsOf(kind, Number(level), Number(i), rounds).map((parent) => cells.get(key(...parent)));
    }
    show();

    if (round === 0) return "Round 0: the eight steps, and nothing combined yet. Press Play.";
    const sizes = [...up.slice(1).map(({length}) => length), ...down.slice(1).map(({length}) => length / 2)];
    const total = sizes.slice(0, round).reduce((sum, size) => sum + size, 0);
    const size = sizes[round - 1], at = size === 1 ? "one combination" : `${size} combinations at the same time`;
    return `Round ${round} of ${sizes.length}, ${round <= rounds ? "up" : "down"} the tree: ${at}, ${total} so far. ` + (round < sizes.length ? ""
      : `The b of the last row are the states before the steps; after them: ${blelloch(leaves).map((x) => spell(x)).join(", ")}.`);
  };
}
