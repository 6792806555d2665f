// The modes that S4D begins with: how fast each fades and turns, and what it multiplies the past with.

function figure(place, data, set) {
  const span = 4, ages = Array.from({length: 2001}, (_, i) => span * i / 2000);
  let chosen = 0, lambda = [-1, 0];
  const spectrum = makePanel(place, {
    title: "The eigenvalues by n: choose one",
    x: {label: "n", whole: true},
    y: {log: true, range: [0.1, 3000]},
    series: [
      {name: "turns, Im λ", colour: "blue", style: "dots"},
      {name: "fades, −Re λ", colour: "green", style: "dots"},
      {name: "limit π/Δ", colour: "orange", style: "dashed"},
    ],
    above(pen) {
      pen.line([[chosen, 0.1], [chosen, 3000]], "soft", {width: 1});
      for (const [part, colour] of [[lambda[1], "blue"], [-lambda[0], "green"]]) if (part > 1e-9) pen.dot([chosen, part], colour, 6);
    },
    onDrag: (n) => set({n: Math.round(n)}),
  });
  const mode = makePanel(place, {
    title: "Mode n, by the age of the input",
    x: {label: "age t", range: [0, span]},
    y: {range: [-1.1, 1.1]},
    series: [
      {name: "the mode", colour: "blue", style: "line"},
      {name: "samples, Δ apart", colour: "orange", style: "dots"},
    ],
  });

  return ({init, N, n, dt}, fields) => {
    const modes = s4dModes(init, Number(N), data.legs[N]);
    fields.n.max = modes.length - 1;  // moves the slider back where it is beyond
    chosen = Number(fields.n.value);
    lambda = modes[chosen];
    const order = modes.map((_, i) => i);
    const positive = (value) => (value > 0 ? value : null);
    const ends = [-0.03 * modes.length - 0.3, 1.03 * modes.length - 0.7];
    spectrum([
      [order, modes.map(([, im]) => positive(im))],
      [order, modes.map(([re]) => -re)],
      [ends, [Math.PI / dt, Math.PI / dt]],
    ], {x: ends});
    const at = Array.from({length: Math.floor(span / dt) + 1}, (_, k) => k * dt);
    mode([ages, at].map((times) => [times, times.map((t) => modeAt(lambda, t))]));

    const [re, im] = lambda, lost = aliased(modes, dt);
    const turn = im > 1e-9 ? `turns once in ${spell(2 * Math.PI / im)}, which is ${spell(2 * Math.PI / im / dt)} samples` : "does not turn";
    return `λ = ${spell(re)}${im > 1e-9 ? ` + ${spell(im)} i` : ""}: the mode fades to 1/e in ${spell(-1 / re)} and ${turn}. ` +
      `${lost === 0 ? "No mode turns" : `${lost} of ${modes.length} modes turn`} too fast for this Δ.`;
  };
}
