// One output, twice: the kernel laid over the input, and the recurrence, which needs no kernel.

function figure(place, data, set) {
  const L = 80, at = Array.from({length: L}, (_, k) => k);
  const u = at.map((k) => (k === 4 ? 1.5 : k >= 22 && k < 34 ? 1 : k >= 50 && k < 56 ? -1 : 0));
  const range = [-0.5, L - 0.5], drag = (x) => set({k: Math.round(x)});
  const inputs = makePanel(place, {
    title: "Input, and the kernel laid over it backwards: drag it",
    whole: true,
    height: 170,
    x: {range, whole: true},
    y: {range: [-1.4, 1.8]},
    series: [
      {name: "input u", colour: "soft", style: "bars", opacity: 0.5},
      {name: "kernel, scaled, read from k backwards", colour: "orange", style: "line"},
    ],
    onDrag: drag,
  });
  let now = 0, output = 0;
  const outputs = makePanel(place, {
    title: "Output",
    whole: true,
    height: 200,
    x: {label: "sample k", range, whole: true},
    y: {range: [-1.6, 1.6]},
    series: [
      {name: "by the recurrence", colour: "blue", style: "line"},
      {name: "by the convolution", colour: "orange", style: "dots"},
    ],
    above(pen) { pen.dot([now, output], "orange", 7); },
    onDrag: drag,
  });

  return ({system: which, dt, k}) => {
    const {A, B, C} = system(which);
    const [Ab, Bb] = zeroOrderHold(A, B, dt);
    const K = kernel(Ab, Bb, C, L);
    const stepped = recurrence(Ab, Bb, C, u), convolved = convolve(K, u);
    const largest = Math.max(...K.map(Math.abs));
    const seen = at.slice(0, k + 1);
    now = k;
    output = convolved[k];
    inputs([[at, u], [seen, seen.map((i) => K[k - i] / largest)]]);
    outputs([[at, stepped], [seen, convolved.slice(0, k + 1)]]);

    const apart = Math.max(...stepped.map((y, i) => Math.abs(y - convolved[i])));
    const products = seen.filter((i) => u[i] !== 0).length;
    return `Output ${k} is a sum of ${k + 1} products, kernel times input, of which ${products} ` +
      `${products === 1 ? "is" : "are"} not zero: y = ${spell(output)}. The recurrence, with a state of size ` +
      `${Ab.length}, gives the same to ${spell(apart, 2)}.`;
  };
}
