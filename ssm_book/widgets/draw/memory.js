// How much of the past an average sees, and how much of it lies in a window.

function figure(place, data, set) {
  const prices = samples(data.prices), first = data.shown, span = 10;  // time constants
  const years = prices.map((_, k) => data.begin + (data.end - data.begin) * k / (prices.length - 1));
  const ages = Array.from({length: 301}, (_, i) => span * i / 300), faded = ages.map((age) => Math.exp(-age));
  const recent = (values) => values.slice(first);
  let edge = 1, scale = 1, apart = [];
  const weights = makePanel(place, {
    title: "Weight by age: drag the end of the window",
    x: {label: "age, in time constants τ", range: [0, span]},
    y: {range: [0, 1.6]},
    series: [
      {name: "average", colour: "blue", style: "line"},
      {name: "window", colour: "orange", style: "dashed"},
    ],
    keys: [{name: "outside the window", colour: "orange", style: "region"}],
    under(pen) {
      const lost = ages.filter((age) => age > edge);
      pen.area([[edge, 0], [edge, Math.exp(-edge)], ...lost.map((age) => [age, Math.exp(-age)]), [span, 0]], "orange");
      pen.line([[edge, 0], [edge, 2]], "orange", {width: 1});
    },
    onDrag: (age) => set({W: Math.max(1, age * scale)}),
  });
  const price = makePanel(place, {
    title: "A barrel of oil, in dollars",
    x: {label: "year", range: [years[first], data.end], whole: true},
    y: {range: [20, 150]},
    series: [
      {name: "price", colour: "soft", style: "thin"},
      {name: "average", colour: "blue", style: "line"},
      {name: "window", colour: "orange", style: "dashed"},
    ],
    under(pen) { pen.area(apart, "orange"); },
  });

  return ({tau, W}) => {
    edge = W / tau;
    scale = tau;
    const lost = lostWeight(tau, W), inside = [...ages.filter((age) => age < edge), Math.min(edge, span)];
    weights([[ages, faded], [inside, inside.map((age) => Math.exp(-age) / (1 - lost))]]);

    const average = ema(prices, tau), guess = windowedEma(prices, tau, W);
    const ways = [average, guess].map((values) => recent(values).map((value, k) => [years[first + k], value]));
    apart = [...ways[0], ...ways[1].reverse()];
    price([prices, average, guess].map((values) => [recent(years), recent(values)]));
    const errors = recent(average).map((y, k) => Math.abs(y - recent(guess)[k]));
    return `${percent(lost)} of the weight lies outside the window of ${spell(W / tau, 2)} τ, which is wrong by up to ` +
      `${spell(Math.max(...errors), 2)} dollars here and by ${spell(windowError(tau, W, data.low, data.high), 2)} for some history. ` +
      `Right to a cent for every history: ${windowNeeded(tau, data.low, data.high, 0.01).toLocaleString("en")} days.`;
  };
}
