// Ten thousand samples in N numbers, and what the numbers say about the past.

const MEASURES = {legs: "LegS", legt: "LegT", lagt: "LagT", fading: "LegS without 1/t"};

function figure(place, data, set) {
  const every = 100, u = samples(data.signal), L = u.length;
  const shown = Array.from({length: L / 20}, (_, i) => 20 * i + 10);
  const signal = makePanel(place, {
    title: "The signal, and what N numbers say about its past: drag the present",
    whole: true,
    x: {label: "sample", range: [0, L]},
    y: {range: [-0.7, 0.7]},
    series: [
      {name: "signal", colour: "soft", style: "broad"},
      {name: "recalled", colour: "blue", style: "line"},
    ],
    above(pen) { pen.line([[present, -0.7], [present, 0.7]], "blue", {width: 1}); },
    onDrag: (x) => set({now: Math.max(every, x)}),
  });
  const numbers = makePanel(place, {
    title: "The N numbers, square root of the size",
    whole: true,
    height: 140,
    x: {label: "n", whole: true},
    y: {range: [-0.75, 0.75]},
    series: [{colour: "orange", style: "bars"}],
  });
  let memory = "", states, present = 0;

  return ({measure, N, theta, now}, fields) => {
    fields.theta.disabled = measure === "legs";  // which has no scale
    if (memory !== (memory = `${measure} ${N} ${measure === "legs" || theta}`)) {
      states = project(u, measure, N, every, theta);
    }
    present = now;
    const state = Array.from(states[now / every - 1]);
    const reach = measure === "legt" ? Math.min(theta, now) : now;
    const moments = shown.filter((k) => k < now && k >= now - reach);
    const recalled = moments.map((k) => recall(state, measure, now - k - 0.5, now, theta));
    signal([[shown, shown.map((k) => u[k])], [moments, recalled]]);
    const height = state.map((x) => Math.sign(x) * Math.sqrt(Math.abs(x)));
    numbers([[state.map((_, n) => n), height]], {x: [-0.7, N - 0.3]});

    const error = (from, to) => {
      const part = moments.map((k, i) => [now - k, recalled[i] - u[k]]).filter(([age]) => age >= from && age < to);
      return Math.sqrt(part.reduce((sum, [, e]) => sum + e * e, 0) / part.length);
    };
    const all = `${MEASURES[measure]} after ${spell(now, 5)} samples, ${spell(now / N, 2)} per number. ` +
      `Typical error over ${measure === "legt" ? "the window" : "the whole past"}: ${spell(error(0, Infinity), 2)}`;
    return now < 2000 ? `${all}.` : `${all}, over the newest thousand samples ${spell(error(0, 1000), 2)}.`;
  };
}
