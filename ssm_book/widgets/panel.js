// A panel: axes, lines, dots and bars in the colours of the page, drawn by uPlot.

const STYLES = {
  line: {width: 2},
  thin: {width: 1},
  broad: {width: 5, opacity: 0.4},
  dashed: {width: 1.5, dash: [6, 4]},
  dots: {paths: () => null, points: {show: true, size: 7, width: 1}},
  bars: {width: 0, paths: uPlot.paths.bars({size: [0.7, 30]}), opacity: 0.9},
};

// A variable of the page's style as a colour that a canvas understands.
function colourOf(place, name, opacity = 1) {
  const probe = place.appendChild(document.createElement("i"));
  probe.style.color = `color-mix(in srgb, var(--${name}) ${100 * opacity}%, transparent)`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

// Call back whenever the page changes between light and dark.
function onThemeChange(place, redraw) {
  const redrawIfSeen = () => (place.isConnected ? redraw() : observer.disconnect());
  const observer = new MutationObserver(redrawIfSeen);
  for (const root of [document.documentElement, document.body]) {
    observer.observe(root, {attributes: true, attributeFilter: ["data-theme", "theme", "class", "data-jp-theme-light"]});
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawIfSeen);
}

// Simple shapes in the units of the axes, for what is not a function of x.
function makePen(u, place) {
  const {ctx} = u, px = devicePixelRatio;
  const at = ([x, y]) => [u.valToPos(x, "x", true), u.valToPos(y, "y", true)];
  const clipped = (draw) => {
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    draw();
    ctx.restore();
  };
  return {
    // Everything where inside(x, y) holds, in a pale colour: each column of pixels is searched in
    // steps, and each change found there is narrowed down by halving.
    region(colour, inside) {
      clipped(() => {
        ctx.fillStyle = colourOf(place, colour, 0.16);
        const {left, top, width, height} = u.bbox, step = 8;
        for (let i = 0; i < width; i++) {
          const x = u.posToVal(left + i + 0.5, "x", true);
          const holds = (j) => inside(x, u.posToVal(top + j, "y", true));
          const edges = holds(0) ? [0] : [];
          for (let j = 0; j < height; j += step) {
            if (holds(j) === holds(j + step)) continue;
            let low = j, high = j + step;
            while (high - low > 0.1) {
              const middle = (low + high) / 2;
              if (holds(middle) === holds(j)) low = middle; else high = middle;
            }
            edges.push(low);
          }
          if (edges.length % 2) edges.push(height);
          for (let e = 0; e < edges.length; e += 2) ctx.fillRect(left + i, top + edges[e], 1, edges[e + 1] - edges[e]);
        }
      });
    },
    line(points, colour, {width = 1.5, dash = []} = {}) {
      clipped(() => {
        ctx.strokeStyle = colourOf(place, colour);
        ctx.lineWidth = width * px;
        ctx.setLineDash(dash.map((length) => length * px));
        ctx.beginPath();
        for (const point of points) ctx.lineTo(...at(point));
        ctx.stroke();
      });
    },
    // Where the point lies beyond the edge, a triangle there points to it.
    dot(point, colour, radius = 5) {
      const {left, top, width, height} = u.bbox, [x, y] = at(point), size = radius * px, rim = 1.5 * size;
      const edgeX = Math.min(Math.max(x, left + rim), left + width - rim);
      const edgeY = Math.min(Math.max(y, top + rim), top + height - rim);
      const inside = x >= left && x <= left + width && y >= top && y <= top + height;
      const angle = Math.atan2(y - edgeY, x - edgeX), corners = [0, 2.4, -2.4];
      ctx.fillStyle = colourOf(place, colour);
      ctx.beginPath();
      if (inside) ctx.arc(x, y, size, 0, 2 * Math.PI);
      else for (const turn of corners) ctx.lineTo(edgeX + rim * Math.cos(angle + turn), edgeY + rim * Math.sin(angle + turn));
      ctx.fill();
    },
    // The area between a way there and the way back.
    area(points, colour, opacity = 0.3) {
      clipped(() => {
        ctx.fillStyle = colourOf(place, colour, opacity);
        ctx.beginPath();
        for (const point of points) ctx.lineTo(...at(point));
        ctx.fill();
      });
    },
  };
}

// Powers of ten for an axis, at most eight of them.
function decades(low, high) {
  const first = Math.ceil(Math.log10(low)), last = Math.floor(Math.log10(high));
  const step = Math.ceil((last - first + 1) / 8);
  return Array.from({length: Math.floor((last - first) / step) + 1}, (_, i) => 10 ** (first + i * step));
}

// Make a panel in a place. x, y: {range: [low, high], log, whole: whole numbers only}, x: {label};
// series: [{name, colour, style, opacity}]; keys: the same for what the pens draw; under, above:
// (pen) => drawings below and above the series; square: as high as wide; whole: across all columns;
// onDrag, onClick: (x, y) => what to do where a reader takes hold of the panel.
// Returns draw(tables, ranges): one table [x, y] for each series, and ranges {x, y} where they have
// changed; null fits the data.
function makePanel(place, {title, x, y, series = [], keys = [], height = 210, square, whole, under, above, onDrag, onClick}) {
  const panel = place.appendChild(document.createElement("div"));
  panel.className = whole ? "panel whole" : "panel";
  panel.innerHTML = `<p class="title"></p><ul class="keys"></ul><div class="plot" role="img"></div>`;
  panel.querySelector(".title").textContent = title;
  const named = [...series, ...keys].filter(({name}) => name);
  for (const [i, {name, colour, style}] of named.entries()) {
    const key = panel.querySelector(".keys").appendChild(document.createElement("li"));
    key.className = series.includes(named[i]) ? `${style} read` : style;
    key.style.setProperty("--colour", `var(--${colour})`);
    key.innerHTML = "<i></i><span></span><b></b>";
    key.querySelector("span").textContent = name;
  }
  const values = panel.querySelectorAll(".keys b");
  const plot = panel.querySelector(".plot");
  plot.classList.toggle("drag", Boolean(onDrag));
  plot.classList.toggle("click", Boolean(onClick));
  plot.setAttribute("aria-label", [title, ...named.map(({name}) => name)].join("; "));

  const ranges = {x: x.range, y: y.range};
  const scale = (axis, {log}) => ({
    time: false,
    distr: log ? 3 : 1,
    range: (u, low, high) => ranges[axis] ?? uPlot.rangeNum(low, high, 0.1, true),
  });
  const font = `12px ${getComputedStyle(panel).fontFamily}`;
  const axis = ({label, log, whole}, more) => ({
    stroke: () => colourOf(panel, "soft"),
    grid: {stroke: () => colourOf(panel, "rule", 0.6), width: 1},
    ticks: {stroke: () => colourOf(panel, "rule"), width: 1, size: 4},
    font, gap: 4, label, labelFont: font, labelGap: 0, labelSize: 18,
    values: (u, splits) => splits.map((v) => (log ? powerOfTen(Math.round(Math.log10(v))) : whole ? v : spell(v, 5))),
    ...(log ? {splits: (u, i, low, high) => decades(low, high), filter: (u, splits) => splits} : {}),
    ...(whole ? {incrs: [1, 2, 5, 10, 20, 50, 100, 1000, 2000, 5000]} : {}),
    ...more,
  });

  const size = () => {
    const width = Math.max(plot.clientWidth, 200);
    return {width, height: square ? width - 20 : height};  // 20: what the axes take more in width
  };
  const readOut = (u) => {
    named.forEach((key, i) => {
      const value = u.data[series.indexOf(key) + 1]?.[u.cursor.idx];
      values[i].textContent = value == null ? "" : spell(value);
    });
  };
  const chart = new uPlot({
    ...size(),
    padding: [10, 20, 0, 0],
    legend: {show: false},
    cursor: {show: series.length > 0, y: false, points: {show: false}, drag: {x: false, y: false}},
    scales: {x: scale("x", x), y: scale("y", y)},
    axes: [axis(x, {size: 24, space: 45}), axis(y, {size: 46, space: 28})],
    series: [{}, ...series.map(({colour, style, opacity}) => {
      const {width, dash, paths, points = {show: false}, ...more} = STYLES[style];
      const paint = () => colourOf(panel, colour, opacity ?? more.opacity);
      return {
        stroke: paint, width, dash, paths, spanGaps: false,
        fill: style === "bars" ? paint : undefined,
        points: {...points, stroke: paint, fill: paint},
      };
    })],
    hooks: {
      drawAxes: under ? [(u) => under(makePen(u, panel))] : [],
      draw: above ? [(u) => above(makePen(u, panel))] : [],
      setCursor: [readOut],
    },
  }, series.length ? uPlot.join(series.map(() => [[0, 1], [0, 0]])) : [[0, 1]], plot);

  const pointed = ({clientX, clientY}) => {
    const {left, top} = chart.over.getBoundingClientRect();
    return [chart.posToVal(clientX - left, "x"), chart.posToVal(clientY - top, "y")];
  };
  if (onClick) chart.over.addEventListener("click", (event) => onClick(...pointed(event)));
  if (onDrag) {
    const drag = (event) => onDrag(...pointed(event));
    chart.over.addEventListener("pointerdown", (event) => {
      chart.over.setPointerCapture(event.pointerId);
      drag(event);
    });
    chart.over.addEventListener("pointermove", (event) => {
      if (chart.over.hasPointerCapture(event.pointerId)) drag(event);
    });
  }

  new ResizeObserver(() => {
    if (plot.clientWidth && plot.clientWidth !== chart.width) chart.setSize(size());
  }).observe(plot);
  onThemeChange(panel, () => chart.redraw());

  return (tables, changed = {}) => {
    Object.assign(ranges, changed);
    chart.setData(series.length ? uPlot.join(tables) : [[0, 1]]);
  };
}
