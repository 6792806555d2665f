// A mass on a spring: its two eigenvalues, and where it goes under a constant force.

function figure(place) {
  const seconds = 4, dt = 0.01, times = Array.from({length: seconds / dt + 1}, (_, i) => i * dt);
  const halfCircle = Array.from({length: 91}, (_, i) => Math.PI / 2 + Math.PI * i / 90);
  let poles = [], radius = 1;
  const plane = makePanel(place, {
    title: "The two eigenvalues of A",
    x: {label: "real part (1/s)", range: [-15, 5]},
    y: {range: [-10, 10]},
    square: true,
    keys: [
      {name: "stable", colour: "green", style: "region"},
      {name: "eigenvalues", colour: "blue", style: "dots"},
    ],
    under(pen) {
      pen.region("green", (re) => re < 0);
      const way = halfCircle.map((angle) => [radius * Math.cos(angle), radius * Math.sin(angle)]);
      pen.line(way, "soft", {dash: [2, 4]});  // of the poles, while the friction grows
      pen.line([[-99, 0], [0, 0]], "soft", {dash: [2, 4]});
    },
    above(pen) { for (const pole of poles) pen.dot(pole, "blue", 6); },
  });
  const position = makePanel(place, {
    title: "Position under a force of 1 N, in cm",
    x: {label: "time (s)", range: [0, seconds]},
    y: {},
    square: true,
    series: [
      {name: "where it goes", colour: "blue", style: "line"},
      {name: "at rest, 1/κ", colour: "soft", style: "dashed"},
    ],
  });

  return ({k, b, m}) => {
    poles = springPoles(k, b, m);
    radius = Math.sqrt(k / m);
    const reach = Math.max(...poles.map(([re, im]) => Math.max(-re / 1.4, re / 0.4, Math.abs(im))));
    const R = [10, 20, 40].find((size) => reach < size);
    plane([], {x: [-1.5 * R, 0.5 * R], y: [-R, R]});

    const x = springStepResponse(k, b, m, dt, times.length).map((metres) => 100 * metres);
    const rest = 100 / k, top = Math.max(...x), bottom = Math.min(...x);
    position([[times, x], [[0, seconds], [rest, rest]]], {y: [Math.min(1.2 * bottom, -0.1 * rest), Math.max(1.15 * top, 1.3 * rest)]});

    const [[left, minus], [right, plus]] = poles;
    if (plus === 0) {
      return `λ = ${spell(left)} and ${spell(right)} per second. No ringing: the slower mode needs ` +
        `${spell(-1 / right)} s for a factor of e. Between ringing and creeping: γ = ${spell(2 * Math.sqrt(k * m))}.`;
    }
    const swing = `λ = ${spell(right)} ± ${spell(plus)} i per second: one swing takes ${spell(2 * Math.PI / plus)} s`;
    if (right > 0) return `${swing}, and each is larger than the one before. The poles lie in the right half plane.`;
    if (right === 0) return `${swing}, and it swings for ever.`;
    return `${swing} and leaves ${percent(Math.exp(2 * Math.PI * right / plus))} of its height. ` +
      `The ringing ends at γ = ${spell(2 * Math.sqrt(k * m))}.`;
  };
}
