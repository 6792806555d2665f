// How much of the past an average sees, and how much of it lies in a window.

function figure(place, data) {
  const prices = samples(data.prices), first = data.shown;
  const years = prices.map((_, k) => data.begin + (data.end - data.begin) * k / (prices.length - 1));
  const weights = makePanel(place, {
    title: "Weight of a price, by its age",
    x: {label: "age (days)"},
    y: {},
    series: [
      {name: "the average", colour: "blue", style: "line"},
      {name: "from the window", colour: "orange", style: "dashed"},
    ],
    keys: [{name: "the window", colour: "orange", style: "region"}],
    under(pen) { pen.region("orange", (age) => age >= 0 && age < window); },
  });
  const price = makePanel(place, {
    title: "A barrel of oil, in dollars",
    x: {label: "year", range: [years[first], data.end], whole: true},
    y: {range: [20, 150]},
    series: [
      {name: "price", colour: "soft", style: "thin"},
      {name: "average", colour: "blue", style: "line"},
      {name: "from the window", colour: "orange", style: "dashed"},
    ],
  });
  let window = 1;

  return ({tau, W}) => {
    window = W;
    const alpha = emaWeight(tau), lost = lostWeight(tau, W);
    const span = Math.max(3 * tau, 1.3 * W);
    const ages = Array.from({length: 301}, (_, i) => span * i / 300);
    const weight = ages.map((age) => alpha * (1 - alpha) ** age);
    const edge = [...ages.filter((age) => age < W), W];
    const inside = edge.map((age) => alpha * (1 - alpha) ** age / (1 - lost));
    weights([[ages, weight], [edge, inside]], {x: [0, span], y: [0, Math.min(1, 1.1 * inside[0])]});

    const average = ema(prices, tau), guess = windowedEma(prices, tau, W);
    const recent = (values) => values.slice(first);
    price([prices, average, guess].map((values) => [recent(years), recent(values)]));
    const errors = recent(average).map((y, k) => Math.abs(y - recent(guess)[k]));
    return `${percent(lost)} of the weight lies outside the window. Here the window is wrong by up to ` +
      `${spell(Math.max(...errors), 2)} dollars; whatever is made of it, some history makes it wrong by ` +
      `${spell(windowError(tau, W, data.low, data.high), 2)}. Right to a cent for all of them: ` +
      `${windowNeeded(tau, data.low, data.high, 0.01).toLocaleString("en")} days. The recurrence keeps one number.`;
  };
}
