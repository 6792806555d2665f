// A mass on a spring: the mass itself, its two eigenvalues, and where it goes under a constant force.

const REACH = [-2, 10];  // centimetres

// The spring from the wall to the mass, the force, and a ruler; returns draw(position, mass).
function makeSpring(place) {
  const at = (cm) => 150 + 40 * cm, ruler = Array.from({length: 6}, (_, i) => 2 * i);
  const ticks = ruler.map((cm) => `<path d="M${at(cm)} 74v5"/><text x="${at(cm)}" y="92">${cm}</text>`).join("");
  const panel = place.appendChild(document.createElement("div"));
  panel.className = "panel whole";
  panel.innerHTML = `<svg class="spring" viewBox="0 0 640 96" role="img" aria-label="The mass on its spring, pushed to the right">
    <path class="wall" d="M20 10v64h600"/>${ticks}<path class="coil"/><rect/><path class="force"/><text class="name" y="46">m</text></svg>`;
  const find = (part) => panel.querySelector(part);
  return (cm, mass) => {
    const size = 28 + 14 * mass, left = at(Math.min(Math.max(cm, REACH[0]), REACH[1])), turns = 12;
    const coil = Array.from({length: turns}, (_, i) => `${20 + (left - 20) * (i + 0.5) / turns} ${i % 2 ? 52 : 32}`);
    find(".coil").setAttribute("d", `M20 42L${coil.join("L")}L${left} 42`);
    find(".force").setAttribute("d", `M${left + size} 42h38m-8 -5l8 5l-8 5`);
    for (const [name, value] of Object.entries({x: left, y: 74 - size, width: size, height: size})) find("rect").setAttribute(name, value);
    find(".name").setAttribute("x", left + size / 2);
    find(".name").setAttribute("y", 79 - size / 2);
  };
}

function figure(place, data, set) {
  const seconds = 4, dt = 0.02, times = Array.from({length: seconds / dt + 1}, (_, i) => i * dt);
  const halfCircle = Array.from({length: 91}, (_, i) => Math.PI / 2 + Math.PI * i / 90);
  let poles = [], radius = 1, mass = 1, now = [0, 0];
  const spring = makeSpring(place);
  const plane = makePanel(place, {
    title: "The two eigenvalues of A: drag one",
    x: {label: "real part (1/s)", range: [-24, 8]},
    y: {range: [-16, 16]},
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
    onDrag: (re, im) => set({b: -2 * mass * re, k: mass * (re * re + im * im)}),
  });
  const position = makePanel(place, {
    title: "Position under a force of 1 N, in cm",
    x: {label: "time (s)", range: [0, seconds]},
    y: {range: REACH},
    square: true,
    series: [
      {name: "where it goes", colour: "blue", style: "line"},
      {name: "at rest, 1/κ", colour: "soft", style: "dashed"},
    ],
    above(pen) { pen.dot(now, "blue", 6); },
  });

  return ({k, b, m, t}) => {
    poles = springPoles(k, b, m);
    radius = Math.sqrt(k / m);
    mass = m;
    const x = springStepResponse(k, b, m, dt, times.length).map((metres) => 100 * metres);
    now = [t, x[Math.round(t / dt)]];
    spring(now[1], m);
    plane([]);
    position([[times, x], [[0, seconds], [100 / k, 100 / k]]]);

    const [[left, minus], [right, plus]] = poles, meet = spell(2 * Math.sqrt(k * m));
    if (plus === 0) {
      return `λ = ${spell(left)} and ${spell(right)} per second: no ringing. The slower mode falls to 1/e in ` +
        `${spell(-1 / right)} s. The eigenvalues meet at γ = ${meet}.`;
    }
    const swing = `λ = ${spell(right)} ± ${spell(plus)} i per second: one swing takes ${spell(2 * Math.PI / plus)} s`;
    if (right > 0) return `${swing}, and each is larger than the one before. The poles lie in the right half plane.`;
    if (right === 0) return `${swing}, and it swings for ever.`;
    return `${swing} and leaves ${percent(Math.exp(2 * Math.PI * right / plus))} of its height. ` +
      `The eigenvalues meet at γ = ${meet}.`;
  };
}
