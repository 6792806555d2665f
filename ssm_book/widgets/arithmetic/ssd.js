// State space duality in chunks: what each of its four parts multiplies. As in the chapter, eq-ssd-chunk.

// Multiplications of one head for each of L steps, with chunks of Q, states n and channels p.
function ssdMultiplications(L, Q, n, p) {
  return {
    inside: Q * (n + p),           // C Bᵀ and the masked product with the inputs, in full squares
    states: n * p,                 // what each chunk writes
    passing: n * p / Q,            // one decayed state a chunk
    outputs: n * p,                // what each step reads of the state before its chunk
    waiting: Math.ceil(L / Q),     // chunks, one after the other
  };
}

// The recurrence: decay the state, write the outer product, read.
const recurrenceMultiplications = (n, p) => 3 * n * p;

// The blocks of the matrix: [first row, first column, size] of those on and those below the diagonal.
function ssdBlocks(L, Q) {
  const starts = Array.from({length: Math.ceil(L / Q)}, (_, c) => c * Q);
  return {
    diagonal: starts.map((s) => [s, s, Math.min(Q, L - s)]),
    below: starts.flatMap((row) => starts.filter((column) => column < row).map((column) => [row, column, Q])),
  };
}
