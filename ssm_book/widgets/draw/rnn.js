// Gradients through a recurrent network, and the trace that one bit leaves in it.

function figure(place, data) {
  const L = data.noise.length, steps = data.noise.map((_, k) => k);
  const gradient = makePanel(place, {
    title: "Gradient that is left",
    x: {label: "steps back", range: [0, L]},
    y: {log: true, range: [1e-12, 1e4]},
    series: [
      {name: "this network", colour: "blue", style: "line"},
      {name: "spectral radius to the power k", colour: "soft", style: "dashed"},
    ],
  });
  const state = makePanel(place, {
    title: "One unit of the state, for both bits",
    x: {label: "step", range: [0, 40]},
    y: {},
    series: [
      {name: "bit +1", colour: "blue", style: "line"},
      {name: "bit −1", colour: "orange", style: "line"},
    ],
  });

  return ({gain, matrix, activation, noise}) => {
    const W = data[matrix].map((row) => row.map((w) => gain * w));
    const run = (bit) => rnn([bit, ...data.noise.slice(1).map((u) => noise * u)], W, data.U, activation);
    const plus = run(1), minus = run(-1);
    const norms = jacobianNorms(W, plus, activation);
    const back = norms.map((_, k) => k);
    const visible = (values) => values.map((value) => (value > 1e-300 ? value : null));
    gradient([[back, visible(norms)], [back, visible(back.map((k) => gain ** k))]]);
    const bounded = activation === "tanh" ? [-1.1, 1.1] : [-4, 4];
    state([[steps, plus.map((h) => h[0])], [steps, minus.map((h) => h[0])]], {y: bounded});

    const apart = Math.hypot(...plus.at(-1).map((h, i) => h - minus.at(-1)[i]));
    const rate = (norms[L] / norms[L / 2]) ** (2 / L);
    return `After ${L / 2} steps ${spell(norms[L / 2], 2)} of the gradient is left, after ${L} ` +
      `${spell(norms[L], 2)}: a factor of ${spell(rate, 2)} per step. ` +
      `The states after the two bits end ${spell(apart, 2)} apart.`;
  };
}
