// What a generated token costs: a Mamba, and a Transformer of its width with half as many layers.
// Weights, keys, values and windows have 16 bits, Mamba's states 32. As the chapter, sec-training-cost.

const MAMBA = {n: 16, window: 4};

// All numbers of a Mamba with tied embeddings, eq-mamba-parameters and a norm before each block.
function mambaNumbers(d, layers, vocabulary) {
  const inner = 2 * d, rank = Math.ceil(d / 16);
  const block = inner * (3 * d + MAMBA.window + 2 * rank + 3 * MAMBA.n + 3);
  return layers * (block + d) + d + vocabulary * d;
}

// The same of a Transformer: 4 d^2 in attention, 8 d^2 behind it, and two norms of 2 d a layer.
function transformerNumbers(d, layers, vocabulary) {
  return layers * (12 * d * d + 4 * d) + 2 * d + vocabulary * d;
}

// Bytes that are kept for one text: a key and a value a token, or a state of constant size.
const cacheBytes = (d, layers, tokens) => 2 * 2 * d * layers * tokens;
const stateBytes = (d, layers) => 2 * d * layers * (4 * MAMBA.n + 2 * MAMBA.window);

// Bytes that one more token of each text moves: the weights once, a cache read, a state read and written.
function bytesMoved(kind, {d, layers, vocabulary}, texts, tokens) {
  if (kind === "mamba") return 2 * mambaNumbers(d, layers, vocabulary) + 2 * texts * stateBytes(d, layers);
  return 2 * transformerNumbers(d, layers / 2, vocabulary) + texts * cacheBytes(d, layers / 2, tokens);
}

// From how many tokens on the keys and values of all texts are as large as the weights, and a token
// costs the Transformer twice the time of its weights, eq-training-crossing with the embedding.
const crossing = ({d, layers, vocabulary}, texts) =>
  2 * transformerNumbers(d, layers / 2, vocabulary) / (texts * cacheBytes(d, layers / 2, 1));
