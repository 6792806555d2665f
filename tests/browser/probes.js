// Questions to a page that need its own eyes: called as probes.name(...) by the tests.

window.probes = (() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const colours = new Map();

  // [red, green, blue, opacity] of a colour as CSS spells it, each from 0 to 1.
  function read(css) {
    if (!colours.has(css)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = css;
      canvas.fillRect(0, 0, 1, 1);
      colours.set(css, [...canvas.getImageData(0, 0, 1, 1).data].map((value) => value / 255));
    }
    return colours.get(css);
  }

  const over = (below, [r, g, b, a]) => [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);

  function luminance(colour) {
    const [r, g, b] = colour.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(one, other) {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }

  // What lies behind the text of an element, if no picture does.
  function ground(element) {
    if (!element) return [1, 1, 1];
    const colour = read(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(ground(element.parentElement), colour);
  }

  const opacity = (element) => (element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1);
  const seen = (element) => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const words = (element) => element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);

  // An element as a person would find it: its tag, classes and first words.
  function name(element) {
    const text = words(element) || element.getAttribute("aria-label") || element.getAttribute("name") || "";
    return `${element.localName}.${[...element.classList].join(".")} ${JSON.stringify(text)}`;
  }

  // Text that stands out too little: 4.5 to 1, or 3 to 1 where it is large. What cannot be used now
  // may be pale.
  function faintText() {
    const found = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || element.closest("script, style, noscript, option, mjx-assistive-mml")) continue;
      if (!seen(element) || element.closest(":disabled, :has(> :disabled)")) continue;
      const style = getComputedStyle(element), size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      const below = ground(element), [r, g, b, a] = read(style.color);
      const ratio = contrast(over(below, [r, g, b, a * opacity(element)]), below);
      if (ratio < (large ? 3 : 4.5)) found.add(`${name(element)} has ${ratio.toFixed(1)}`);
    }
    return [...found];
  }

  // What reaches beyond the right edge of the window and has no box of its own to scroll in.
  function beyond() {
    const scrolls = (element) => element && (getComputedStyle(element).overflowX !== "visible" || scrolls(element.parentElement));
    return [...document.querySelectorAll("main article *")]
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !scrolls(element.parentElement))
      .map(name);
  }

  const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1'])";
  let asked = [];
  const reached = new Map();  // from an element that had the focus to whether one could see that

  const reachable = () => [...document.querySelectorAll(FOCUSABLE)].filter(
    (element) => element.checkVisibility({visibilityProperty: true}) && !element.disabled);

  function ringed(element, pseudo) {
    const {outlineStyle, outlineWidth, outlineColor, boxShadow} = getComputedStyle(element, pseudo);
    const ring = outlineStyle !== "none" && parseFloat(outlineWidth) > 0 && read(outlineColor)[3] > 0;
    return (ring || boxShadow !== "none") && opacity(element) > 0.9;
  }

  // Has an element a ring or a shadow, or the label around it, the title of the fold it opens, or the
  // arrow in it?
  function marked(element) {
    const label = element.closest("label");
    const title = element.closest(".admonition-title");
    const arrow = element.querySelector(".toctree-toggle");
    return ringed(element) || (label && ringed(label)) || (title && ringed(title, "::before"))
      || (arrow && ringed(arrow));
  }

  // Note from now on what gets the focus in a part of the page, and put the focus before that part.
  function watchFocus(part) {
    const all = reachable(), inside = document.querySelector(part);
    asked = all.filter((element) => inside.contains(element));
    reached.clear();
    document.activeElement.blur();
    all[all.indexOf(asked[0]) - 1]?.focus();
    document.addEventListener("focusin", ({target}) => reached.set(target, marked(target)));
  }

  // What was there all the time (a table of contents unfolds its parts on the way) and got no focus.
  function missed() {
    const still = new Set(reachable());
    return asked.filter((element) => still.has(element) && !reached.has(element));
  }

  return {
    faintText, beyond, ground, watchFocus,
    asked: () => asked.length,
    missed: () => missed().map(name),
    unmarked: () => [...reached].filter(([, mark]) => !mark).map(([element]) => name(element)),

    // Formulas that are not set, or set wrongly, and TeX that nobody has read.
    unset() {
      const raw = [...document.querySelectorAll(".math")].filter((place) => !place.querySelector("mjx-container"));
      const wrong = [...document.querySelectorAll("mjx-merror, [data-mjx-error]")];
      const main = document.querySelector("main").cloneNode(true);
      main.querySelectorAll("pre, code, script, .math").forEach((part) => part.remove());
      const tex = main.textContent.match(/\\\(|\\\[|\$\$|\\begin\{|\\[a-z]{3,}/g) ?? [];
      return [...[...raw, ...wrong].map(name), ...tex];
    },

    // What a figure shows, as a string that changes with the picture.
    picture(figure) {
      const drawings = [...figure.querySelectorAll("canvas")].map((chart) => chart.toDataURL());
      return [figure.querySelector(".panels").innerHTML, ...drawings].join();
    },

    drawn: () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),

    // Address and bytes of all that the page has loaded, itself included.
    loaded: () => ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
      .map(({name: address, decodedBodySize}) => [address, decodedBodySize]),
  };
})();
