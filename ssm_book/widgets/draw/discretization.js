// One mode under four rules: stable for which step, and how right.

const RULES = {euler: "Euler", backward_euler: "backward Euler", bilinear: "the bilinear rule", zoh: "the hold"};

function figure(place, data, set) {
  const seconds = 3, times = Array.from({length: 601}, (_, i) => seconds * i / 600);
  let rule = "zoh", lambda = [-1, 0], z = [-1, 0];
  const plane = makePanel(place, {
    title: "z = Δλ: drag it along its way",
    x: {label: "real part of z", range: [-4, 2]},
    y: {range: [-3, 3]},
    square: true,
    keys: [
      {name: "stable", colour: "green", style: "region"},
      {name: "z", colour: "orange", style: "dots"},
    ],
    under(pen) {
      pen.region("green", (re, im) => modulus(stabilityFunction(rule, [re, im])) < 1);
      pen.line([[-9, 0], [9, 0]], "soft", {width: 1});
      pen.line([[0, -9], [0, 9]], "soft", {width: 1});
    },
    above(pen) {
      for (const sign of [1, -1]) {
        pen.line([[0, 0], [9 * lambda[0], 9 * sign * lambda[1]]], "orange", {dash: [3, 3]});
        pen.dot([z[0], sign * z[1]], "orange", 6);
      }
    },
    onDrag(re, im) {  // the step whose z is nearest
      const [a, b] = lambda, size = a * a + b * b;
      if (size) set({dt: Math.max(1e-3, (re * a + Math.abs(im) * b) / size)});
    },
  });
  const response = makePanel(place, {
    title: "A constant input sets in",
    x: {label: "time (s)", range: [0, seconds]},
    y: {range: [-1, 3]},
    square: true,
    series: [
      {name: "truth", colour: "soft", style: "broad"},
      {colour: "orange", style: "thin"},
      {name: "samples of the rule", colour: "orange", style: "dots"},
    ],
  });

  return (values) => {
    ({rule} = values);
    lambda = [values.re, values.im];
    z = lambda.map((part) => values.dt * part);
    plane([]);
    const steps = Math.floor(seconds / values.dt);
    const at = Array.from({length: steps + 1}, (_, k) => k * values.dt);
    const samples = modeStepResponse(rule, lambda, values.dt, steps);
    response([[times, times.map((t) => modeTruth(lambda, t))], [at, samples], [at, samples]]);

    const factor = modulus(stabilityFunction(rule, z)), truth = Math.exp(z[0]);
    const verdict = factor < 1 ? "forgets its beginning" : factor === 1 ? "keeps it for ever" : "explodes";
    const limit = eulerLimit(lambda);
    const edge = rule !== "euler" || lambda[0] >= 0 ? "" : ` Euler is stable below Δ = ${spell(limit)} s.`;
    return `z = ${spell(z[0])}${z[1] ? ` ± ${spell(z[1])} i` : ""}. Each step multiplies the distance from rest by ` +
      `${spell(factor)}; the truth is ${spell(truth)}. With this step ${RULES[rule]} ${verdict}.${edge}`;
  };
}
