// The matrix of a head in four colours, and what its four parts cost, as the chunk size moves.

const CHUNKS = [1, 2, 4, 8, 16, 32, 64];

const FOUR = [["inside chunks", "orange"], ["chunk states", "green"], ["passing", "soft"], ["outputs", "blue"]];

// The matrix, rows downwards; returns draw(L, Q).
function makeBlocks(place) {
  const panel = place.appendChild(document.createElement("div"));
  panel.className = "panel";
  const keys = FOUR.map(([name, colour]) => `<li class="bars" style="--colour: var(--${colour})"><i></i><span>${name}</span></li>`).join("");
  panel.innerHTML = `<p class="title">The matrix of 64 steps</p><ul class="keys">${keys}</ul>
    <svg viewBox="-5 -2 74 70" style="display: block; max-width: 340px; width: 100%" role="img" aria-label="A lower triangular matrix, cut into chunks"></svg>`;
  const svg = panel.querySelector("svg");
  const box = (x, y, wide, high, colour, opacity) =>
    `<rect x="${x}" y="${y}" width="${wide}" height="${high}" style="fill: var(--${colour}); fill-opacity: ${opacity}"/>`;
  return (L, Q) => {
    const {diagonal, below} = ssdBlocks(L, Q), strip = Q / 5, gap = Q / 25;
    const parts = below.map(([row, column]) => box(column + gap, row + gap, Q - 2 * gap, Q - 2 * gap, "soft", 0.15));
    for (const [at, , size] of diagonal) {
      parts.push(`<path d="M${at} ${at}v${size}h${size}z" style="fill: var(--orange); fill-opacity: 0.8"/>`);
      if (at + size < L) parts.push(box(at + gap, at + size + gap, size - 2 * gap, strip, "green", 1));
      if (at > 0) parts.push(box(at - gap - strip, at + gap, strip, size - 2 * gap, "blue", 1));
      if (at + 2 * size < L) {
        const from = at + size / 2, row = at + size + strip, next = at + 1.5 * size;
        parts.push(`<path d="M${from} ${row}V${next + size / 2}H${next}" style="fill: none; stroke: var(--soft); stroke-width: 0.5; stroke-dasharray: 1.2 0.8"/>`);
      }
    }
    const axes = `<path d="M0 0V${L}H${L}" style="fill: none; stroke: var(--soft); stroke-width: 0.3"/>`;
    const word = (x, y, text, turned) => `<text x="${x}" y="${y}" style="fill: var(--soft); font-size: 3px; text-anchor: middle" ${turned ? `transform="rotate(-90 ${x} ${y})"` : ""}>${text}</text>`;
    svg.innerHTML = parts.join("") + axes + word(L / 2, L + 3.5, "input j → ") + word(-1.5, L / 2, "← output k", true);
  };
}

function figure(place, data, set) {
  const {L, p} = data;
  const nearest = (x) => CHUNKS.reduce((best, q) => (Math.abs(Math.log(q / x)) < Math.abs(Math.log(best / x)) ? q : best));
  let here = [1, 1];
  const blocks = makeBlocks(place);
  const cost = makePanel(place, {
    title: "Multiplications a step: drag",
    height: 300,
    x: {label: "chunk size Q", log: true, range: [1, 64]},
    y: {log: true, range: [100, 1e5]},
    series: [
      {name: "all four", colour: "blue", style: "line"},
      {name: "inside chunks", colour: "orange", style: "line"},
      {name: "the recurrence", colour: "soft", style: "dashed"},
    ],
    above(pen) {
      pen.dot(here, "blue", 6);
    },
    onDrag: (x) => set({Q: nearest(x)}),
  });

  return ({Q, n}) => {
    const curve = Array.from({length: 61}, (_, i) => 64 ** (i / 60));
    const parts = (q) => ssdMultiplications(L, q, n, p);
    const all = (q) => {
      const {inside, states, passing, outputs} = parts(q);
      return inside + states + passing + outputs;
    };
    const flat = (value) => curve.map(() => value);
    here = [Q, all(Q)];
    blocks(L, Q);
    cost([
      [curve, curve.map(all)],
      [curve, curve.map((q) => parts(q).inside)],
      [curve, flat(recurrenceMultiplications(n, p))],
    ]);

    const now = parts(Q), share = now.inside / all(Q), ratio = all(Q) / recurrenceMultiplications(n, p);
    const kind = Q === 1 ? "Chunks of one step: the recurrence, written as four parts. "
      : Q === L ? "A single chunk: attention with a decaying mask. " : "";
    const waits = now.waiting === 1 ? "no state waits for another" : `${now.waiting} states come one after the other`;
    return `${kind}${spell(all(Q), 4)} multiplications a step, ${spell(ratio, 2)} times those of the recurrence; ` +
      `${percent(share)} of them are inside chunks, and ${waits}.`;
  };
}
