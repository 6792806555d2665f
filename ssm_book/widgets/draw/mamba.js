// Sixteen samples, a step for each: what is left of every one of them in the state.

function figure(place, data, set) {
  const u = data.u, at = u.map((_, k) => k), range = [-0.7, u.length - 0.3];
  let marked = [];
  const weights = makePanel(place, {
    title: "Share of the last state: click a sample",
    x: {label: "sample", range, whole: true},
    y: {range: [0, 1.05]},
    series: [
      {name: "wanted", colour: "blue", style: "bars"},
      {name: "all others", colour: "orange", style: "bars"},
    ],
    onClick(x) {
      const here = Math.round(x);
      set({wanted: at.filter((k) => marked[k] !== (k === here))});
    },
  });
  const states = makePanel(place, {
    title: "The state",
    x: {label: "sample", range, whole: true},
    y: {range: [-1.6, 3.3]},
    series: [
      {name: "input", colour: "soft", style: "bars", opacity: 0.5},
      {name: "these steps", colour: "blue", style: "line"},
      {name: "their mean", colour: "orange", style: "dashed"},
    ],
  });

  return ({wanted, open, closed, rule}) => {
    const delta = wanted.map((is) => (is ? open : closed));
    const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
    const weight = selectiveWeights(delta, rule), all = sum(weight);
    const only = (kind) => weight.map((w, k) => (wanted[k] === kind ? w / all : null));
    marked = wanted;
    weights([[at, only(true)], [at, only(false)]]);
    const mean = sum(delta) / delta.length;
    const chosen = selectiveStates(u, delta, rule), fixed = selectiveStates(u, delta.map(() => mean), rule);
    states([[at, u], [at, chosen], [at, fixed]]);

    const first = wanted.indexOf(true);
    const oldest = first < 0 ? "No sample is wanted."
      : `The oldest of them, sample ${first}, has a weight of ${spell(weight[first], 2)}.`;
    return `${percent(sum(only(true)))} of the weight in the last state is on wanted samples. ${oldest} ` +
      `A step of ${spell(open)} keeps ${percent(Math.exp(-open))} of the state, a step of ${spell(closed)} keeps ${percent(Math.exp(-closed))}.`;
  };
}
