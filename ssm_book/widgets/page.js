// The frame of a figure that computes in the page: controls in, a drawing and a sentence out.

const SUPERSCRIPTS = {"-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹"};

const powerOfTen = (n) => "10" + [...String(n)].map((digit) => SUPERSCRIPTS[digit]).join("");

// A number as one writes it: three digits, a true minus sign, powers of ten where it is long.
function spell(value, digits = 3) {
  if (!Number.isFinite(value)) return "∞";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e").map(Number);
  const plain = Math.abs(exponent) < 5 || value === 0;
  const text = plain
    ? Number(value.toPrecision(Math.max(digits, exponent + 1))).toLocaleString("en", {maximumFractionDigits: 8})
    : `${mantissa} · ${powerOfTen(exponent)}`;
  return text.replace("-", "−");
}

const percent = (share) => `${spell(100 * share, 2)} %`;

// Numbers that came as 16-bit whole multiples of a unit.
function samples({base64, unit}) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return Array.from(new Int16Array(bytes.buffer), (value) => unit * value);
}

const fieldsOf = (control) => [...control.querySelectorAll("input, select")];

// What a control stands at: a number, the value of an option, or a list of true and false.
function valueOf(control) {
  const fields = fieldsOf(control), [field] = fields, {base, whole} = control.dataset;
  if (control.matches("fieldset")) return fields.map((box) => box.checked);
  if (field.matches("select")) return field.value;
  if (!base) return Number(field.value);
  const value = Number((base ** field.value).toPrecision(base === "10" ? 2 : 9));
  return whole === "true" ? Math.round(value) : value;
}

// The opposite; the marks of a fieldset come as a list of positions.
function setValue(control, value) {
  const fields = fieldsOf(control), [field] = fields, {base} = control.dataset;
  if (control.matches("fieldset")) fields.forEach((box, k) => { box.checked = value.includes(k); });
  else field.value = base ? Math.log(value) / Math.log(base) : value;
}

// Show beside a slider, and say to a screen reader, what it stands at.
function label(control) {
  const slider = control.querySelector("input[type=range]");
  if (!slider) return;
  const text = `${spell(valueOf(control), 4)} ${control.dataset.unit}`.trim();
  control.querySelector("output").textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

// Bring the buttons of a slider through time to life. A run ends at the end of the slider or of the
// figure, and begins again from the start.
function makePlayer(player, slider, figure, changed) {
  const [back, play, on] = player.querySelectorAll("button");
  const move = (steps) => {
    if (steps > 0) slider.stepUp(steps); else slider.stepDown(-steps);
    changed();
  };
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    figure.querySelector(".summary").ariaLive = "polite";
  };
  const advance = () => {
    if (!figure.isConnected || slider.value === slider.max) return stop();
    move(1);
    if (slider.value === slider.max) stop();
  };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = slider.min;
    changed();
    play.textContent = "Pause";
    figure.querySelector(".summary").ariaLive = "off";  // not a sentence a step
    timer = setInterval(advance, Number(player.dataset.pause));
  });
  for (const [button, steps] of [[back, -1], [on, 1]]) button.addEventListener("click", () => { stop(); move(steps); });
  return stop;
}

// Bring the figures of an id to life. setUp(place, data, set) makes the panels in a place and returns
// draw(values, fields), which draws them and returns a sentence on what they show; set(values) moves
// the controls, for what a reader takes hold of in a panel. Each drawing raises the figure's
// data-drawn by one and sends the event "ssm-drawn" with the values.
function start(id, data, setUp) {
  for (const figure of document.querySelectorAll(`#${id}:not([data-ready])`)) {
    figure.dataset.ready = "";
    const form = figure.querySelector("form"), presets = [...form.querySelectorAll("[data-preset]")];
    const controls = Object.fromEntries([...form.querySelectorAll("[data-control]")].map((c) => [c.dataset.control, c]));
    const all = (what) => Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, what(control)]));
    const fields = all((control) => fieldsOf(control)[0]);
    let waiting = 0;
    const changed = () => { waiting ||= requestAnimationFrame(update); };
    const press = (button) => presets.forEach((each) => each.setAttribute("aria-pressed", each === button));
    const set = (values) => {
      stop();
      for (const [name, value] of Object.entries(values)) setValue(controls[name], value);
      press();
      changed();
    };
    const draw = setUp(figure.querySelector(".panels"), data, set);
    const update = () => {
      waiting = 0;
      const values = all(valueOf);
      figure.querySelector(".summary").textContent = draw(values, fields);
      Object.values(controls).forEach(label);
      figure.dataset.drawn = Number(figure.dataset.drawn || 0) + 1;
      figure.dispatchEvent(new CustomEvent("ssm-drawn", {bubbles: true, detail: values}));
    };
    const stops = [...form.querySelectorAll(".player")].map((player) => makePlayer(player, fields[player.dataset.plays], figure, changed));
    const stop = () => stops.forEach((each) => each());
    for (const button of presets) {
      button.addEventListener("click", () => {
        form.reset();
        set(JSON.parse(button.dataset.preset));
        press(button);
      });
    }
    form.addEventListener("input", () => { stop(); press(); changed(); });
    form.addEventListener("reset", () => { stop(); press(); changed(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    update();
  }
}
