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

// What a control stands at: a number, the value of an option, or a list of true and false.
function valueOf(control) {
  if (control.matches("fieldset")) {
    return [...control.querySelectorAll("input")].map((box) => box.checked);
  }
  const field = control.querySelector("input, select");
  if (field.matches("select")) return field.value;
  if (control.dataset.scale !== "log") return Number(field.value);
  const value = Number((10 ** field.value).toPrecision(2));
  return control.dataset.whole === "true" ? Math.round(value) : value;
}

// Show beside a slider, and say to a screen reader, what it stands at.
function label(control) {
  const slider = control.querySelector("input[type=range]");
  if (!slider) return;
  const text = `${spell(valueOf(control), 4)} ${control.dataset.unit}`.trim();
  control.querySelector("output").textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

// Bring the figures of an id to life. setUp(place, data) makes the panels in a place and returns
// draw(values, fields), which draws them and returns a sentence on what they show. Each drawing
// raises the figure's data-drawn by one and sends the event "ssm-drawn" with the values.
function start(id, data, setUp) {
  for (const figure of document.querySelectorAll(`#${id}:not([data-ready])`)) {
    figure.dataset.ready = "";
    const controls = [...figure.querySelectorAll("[data-control]")];
    const fields = Object.fromEntries(controls.map((c) => [c.dataset.control, c.querySelector("input, select")]));
    const draw = setUp(figure.querySelector(".panels"), data);
    let waiting = 0;
    const update = () => {
      waiting = 0;
      const values = Object.fromEntries(controls.map((c) => [c.dataset.control, valueOf(c)]));
      figure.querySelector(".summary").textContent = draw(values, fields);
      controls.forEach(label);
      figure.dataset.drawn = Number(figure.dataset.drawn || 0) + 1;
      figure.dispatchEvent(new CustomEvent("ssm-drawn", {bubbles: true, detail: values}));
    };
    figure.addEventListener("input", () => { waiting ||= requestAnimationFrame(update); });
    update();
  }
}
