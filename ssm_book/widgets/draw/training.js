// What a generated token costs, against the tokens that came before it: memory, and least time.

function figure(place, data) {
  const range = [16, 1e6], contexts = Array.from({length: 101}, (_, i) => 16 * (range[1] / 16) ** (i / 100));
  const bounds = {memory: [0.001, 1e5], time: [0.01, 1e5]};
  let here = 2048;
  const marked = (limits) => (pen) => pen.line([[here, limits[0]], [here, limits[1]]], "soft", {width: 1});
  const panel = (title, limits, series) => makePanel(place, {
    title, x: {label: "tokens before", log: true, range}, y: {log: true, range: limits}, series, above: marked(limits),
  });
  const memory = panel("Kept, in gigabytes", bounds.memory, [
    {name: "keys and values", colour: "orange", style: "line"},
    {name: "states", colour: "blue", style: "line"},
    {name: "weights", colour: "soft", style: "dashed"},
  ]);
  const time = panel("A token for each text, in ms, at least", bounds.time, [
    {name: "Transformer", colour: "orange", style: "line"},
    {name: "Mamba", colour: "blue", style: "line"},
  ]);

  return ({size, texts, tokens}) => {
    const model = {...data.sizes[size], vocabulary: data.vocabulary}, {d, layers} = model;
    const gigabytes = (bytes) => bytes / 1e9, flat = (value) => contexts.map(() => value);
    const kept = (L) => gigabytes(texts * cacheBytes(d, layers / 2, L)), states = gigabytes(texts * stateBytes(d, layers));
    const weights = gigabytes(2 * mambaNumbers(d, layers, data.vocabulary));
    const ms = (kind, L) => 1000 * bytesMoved(kind, model, texts, L) / data.bandwidth;
    here = tokens;
    memory([[contexts, contexts.map(kept)], [contexts, flat(states)], [contexts, flat(weights)]]);
    time(["transformer", "mamba"].map((kind) => [contexts, contexts.map((L) => ms(kind, L))]));

    const cache = kept(tokens), ratio = ms("transformer", tokens) / ms("mamba", tokens);
    const count = texts === 1 ? "one text" : `${texts} texts`;
    const verdict = ratio > 1.05 ? `${spell(ratio, 2)} times as long for the Transformer`
      : ratio < 0.95 ? `${spell(1 / ratio, 2)} times as long for Mamba` : "about the same";
    return `For ${count} of ${spell(tokens)} tokens the Transformer keeps ${spell(cache)} GB of keys and values, Mamba ${spell(states)} GB of states; the weights have ${spell(weights)} GB. ` +
      `To move the bytes, one more token for each text takes at least ${spell(ms("transformer", tokens))} ms and ${spell(ms("mamba", tokens))} ms: ${verdict}.`;
  };
}
