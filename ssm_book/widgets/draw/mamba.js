// Sixteen samples, a step for each: what is left of every one of them in the state.

function figure(place, data) {
  const u = data.u, at = u.map((_, k) => k), range = [-0.7, u.length - 0.3];
  const weights = makePanel(place, {
    title: "Weight in the last state",
    x: {label: "sample", range, whole: true},
    y: {},
    series: [
      {name: "wanted", colour: "blue", style: "bars"},
      {name: "all others", colour: "orange", style: "bars"},
    ],
  });
  const states = makePanel(place, {
    title: "The state",
    x: {label: "sample", range, whole: true},
    y: {},
    series: [
      {name: "input", colour: "soft", style: "bars", opacity: 0.5},
      {name: "state, step by sample", colour: "blue", style: "line"},
      {name: "state, one step for all", colour: "orange", style: "dashed"},
    ],
  });

  return ({wanted, open, closed, rule}) => {
    const delta = wanted.map((is) => (is ? open : closed));
    const weight = selectiveWeights(delta, rule);
    const only = (kind) => weight.map((w, k) => (wanted[k] === kind ? w : null));
    weights([[at, only(true)], [at, only(false)]], {y: [0, 1.1 * Math.max(...weight)]});
    const mean = delta.reduce((sum, step) => sum + step, 0) / delta.length;
    const chosen = selectiveStates(u, delta, rule), fixed = selectiveStates(u, delta.map(() => mean), rule);
    states([[at, u], [at, chosen], [at, fixed]]);

    const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
    const first = wanted.indexOf(true);
    const oldest = first < 0 ? "No sample is wanted."
      : `The oldest wanted sample, number ${first}, still counts ${spell(weight[first], 2)}.`;
    return `${percent(sum(only(true)) / sum(weight))} of the weight in the last state is on wanted samples. ${oldest} ` +
      `A step of ${spell(open)} keeps ${percent(Math.exp(-open))} of the state, one of ${spell(closed)} keeps ${percent(Math.exp(-closed))}.`;
  };
}
