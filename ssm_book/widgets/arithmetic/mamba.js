// One state with A = -1, B = 1 whose step depends on the sample. As ssm_core.scan.

// How much of a new sample a step writes: Mamba's Euler for B, or the hold of eq-mamba-gate.
const written = (rule, delta) => (rule === "mamba" ? delta : -Math.expm1(-delta));

// x_k = e^{-delta_k} x_{k-1} + written(delta_k) u_k from zero, eq-selective-scan.
function selectiveStates(u, delta, rule) {
  let x = 0;
  return u.map((value, k) => (x = Math.exp(-delta[k]) * x + written(rule, delta[k]) * value));
}

// The weight of each sample in the last state, eq-selective-matrix: written, then faded.
function selectiveWeights(delta, rule) {
  let later = 0;
  return delta.map((_, k) => delta.length - 1 - k).map((k) => {
    const weight = written(rule, delta[k]) * Math.exp(-later);
    later += delta[k];
    return weight;
  }).reverse();
}
