// What a generated token costs, against the tokens that came before it: memory, and least time.

function figure(place, data, set) {
  const range = [16, 1e6], contexts = Array.from({length: 101}, (_, i) => 16 * (range[1] / 16) ** (i / 100));
  const bounds = {memory: [0.001, 1e5], time: [0.01, 1e5]};
  let here = 2048, cross = [[1, 1], [1, 1]];
  const panel = (i, title, limits, series) => makePanel(place, {
    title, x: {label: "tokens before", log: true, range}, y: {log: true, range: limits}, series,
    keys: [{name: "crossing", colour: "green", style: "dots"}],
    above(pen) {
      pen.line([[here, limits[0]], [here, limits[1]]], "soft", {width: 1});
      pen.dot(cross[i], "green", 5);
    },
    onDrag: (tokens) => set({tokens: Math.min(Math.max(tokens, range[0]), range[1])}),
  });
  const memory = panel(0, "Kept, in gigabytes", bounds.memory, [
    {name: "keys and values", colour: "orange", style: "line"},
    {name: "states", colour: "blue", style: "line"},
    {name: "weights", colour: "soft", style: "dashed"},
  ]);
  const time = panel(1, "A token for each text, in ms, at least", bounds.time, [
    {name: "Transformer", colour: "orange", style: "line"},
    {name: "Mamba", colour: "blue", style: "line"},
  ]);

  return ({size, texts, tokens}) => {
    const model = {...data.sizes[size], vocabulary: data.vocabulary}, {d, layers} = model;
    const gigabytes = (bytes) => bytes / 1e9, flat = (value) => contexts.map(() => value);
    const kept = (L) => gigabytes(texts * cacheBytes(d, layers / 2, L)), states = gigabytes(texts * stateBytes(d, layers));
    const weights = gigabytes(2 * transformerNumbers(d, layers / 2, data.vocabulary));
    const ms = (kind, L) => 1000 * bytesMoved(kind, model, texts, L) / data.bandwidth;
    const from = crossing(model, texts);
    here = tokens;
    cross = [[from, kept(from)], [from, ms("transformer", from)]];
    memory([[contexts, contexts.map(kept)], [contexts, flat(states)], [contexts, flat(weights)]]);
    time(["transformer", "mamba"].map((kind) => [contexts, contexts.map((L) => ms(kind, L))]));

    const cache = kept(tokens), ratio = ms("transformer", tokens) / ms("mamba", tokens);
    const count = texts === 1 ? "one text" : `${texts} texts`;
    const verdict = ratio > 1.05 ? `${spell(ratio, 2)} times as long for the Transformer`
      : ratio < 0.95 ? `${spell(1 / ratio, 2)} times as long for Mamba` : "about the same";
    return `For ${count} of ${spell(tokens)} tokens the Transformer keeps ${spell(cache)} GB, Mamba ${spell(states)} GB. ` +
      `One more token takes at least ${spell(ms("transformer", tokens))} ms and ${spell(ms("mamba", tokens))} ms: ${verdict}. ` +
      `The crossing is at ${spell(from)} tokens.`;
  };
}
