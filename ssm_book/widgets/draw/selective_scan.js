// Blelloch's two sweeps over eight steps, round by round, as a table whose cells span their steps.

const PRESETS = {
  chapter: [[1, 1], [0.5, 2], [1, 0], [0, 3], [0.5, 4], [1, 1], [0.5, 2], [1, 1]],
  sum: [1, 2, 3, 4, 5, 6, 7, 8].map((b) => [1, b]),
  fade: [1, 0, 0, 2, 0, 0, 0, 1].map((b) => [0.5, b]),
};

function figure(place) {
  place.innerHTML = `<table class="sweeps"><caption>Each cell is a step x ↦ a x + b, written a over b</caption><colgroup>${"<col>".repeat(9)}</colgroup><tbody></tbody></table>`;
  const body = place.querySelector("tbody");

  return ({steps, reset, round}) => {
    const leaves = PRESETS[steps].map(([a, b], k) => [k === 3 ? reset : a, b]);
    const up = upSweep(leaves), down = downSweep(up), rounds = up.length - 1;
    // The rows from top to bottom, with the round that fills each of them.
    const rows = [
      ...up.map((level, h) => ({level, since: h, name: h === 0 ? "the steps" : `up ${h}`, kind: "up"})).reverse(),
      ...down.map((level, h) => ({level, since: rounds + h, name: h === 0 ? "before all" : `down ${h}`, kind: "down"})),
    ];
    body.replaceChildren(...rows.map(({level, since, name, kind}) => {
      const row = document.createElement("tr");
      row.className = `${kind}${since === round ? " now" : ""}`;
      row.append(Object.assign(document.createElement("th"), {scope: "row", textContent: name}));
      for (const [a, b] of level) {
        const cell = Object.assign(document.createElement("td"), {colSpan: leaves.length / level.length});
        if (since <= round) cell.innerHTML = `<span>${spell(a)}</span><span>${spell(b)}</span>`;
        row.append(cell);
      }
      return row;
    }));

    const states = `The states after the steps: ${blelloch(leaves).map((x) => spell(x)).join(", ")}.`;
    if (round === 0) return "Round 0: the eight steps, and nothing combined yet. Move the slider.";
    const sizes = [...up.slice(1).map(({length}) => length), ...down.slice(1).map(({length}) => length / 2)];
    const total = sizes.slice(0, round).reduce((sum, size) => sum + size, 0);
    const size = sizes[round - 1], at = size === 1 ? "one combination" : `${size} combinations at the same time`;
    return `Round ${round} of ${sizes.length}, ${round <= rounds ? "up" : "down"} the tree: ${at}, ${total} so far. ` +
      (round < sizes.length ? "" : `The second numbers of the last row are the states before the steps. ${states}`);
  };
}
