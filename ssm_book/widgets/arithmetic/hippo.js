// HiPPO memories: matrices, online projection, reconstruction. As ssm_core.hippo.

const legendreScale = (N) => Array.from({length: N}, (_, n) => Math.sqrt(2 * n + 1));

// A and B of a measure, eq-legs, eq-legt (theta = 1) and eq-lagt.
function transition(measure, N) {
  if (measure === "lagt") {
    const A = zeros(N, N).map((row, i) => row.map((_, j) => (i === j ? -0.5 : i > j ? -1 : 0)));
    return [A, new Array(N).fill(1)];
  }
  const scale = legendreScale(N);
  const entry = measure === "legs"
    ? (i, j) => (i === j ? -(i + 1) : i > j ? -scale[i] * scale[j] : 0)
    : (i, j) => -scale[i] * scale[j] * (i >= j || (j - i) % 2 === 0 ? 1 : -1);
  return [zeros(N, N).map((row, i) => row.map((_, j) => entry(i, j))), scale];
}

// The states after each every-th sample, one Float64Array a row. Bilinear rule.
// legs: the O(N) step of eq-legs-update. Otherwise x' = (A x + B u) / theta, theta in samples.
function project(u, measure, N, every, theta) {
  return measure === "legs" ? projectLegs(u, N, every) : projectFixed(u, measure, N, every, theta);
}

function projectLegs(u, N, every) {
  const scale = legendreScale(N), v = new Float64Array(N), states = [];
  v[0] = u[0];  // the memory of one sample is a constant
  for (let k = 1; k <= u.length; k++) {
    const h = k > 1 ? 1 / (k - 0.5) : 0;
    let r = u[k - 1];  // what the coefficients so far leave unexplained of the newest sample
    for (let n = 0; n < N && k > 1; n++) {
      const y = (v[n] + h / 2 * r) / (1 + h / 2 * (n + 1));
      v[n] = y + h / 2 * (r - (n + 1) * y);
      r -= (2 * n + 1) * y;
    }
    if (k % every === 0) states.push(v.map((value, n) => scale[n] * value));
  }
  return states;
}

function projectFixed(u, measure, N, every, theta) {
  const [A, B] = transition(measure === "fading" ? "legs" : measure, N);
  const [Ab, Bb] = bilinear(A, B, 1 / theta);
  const rows = Ab.map((row) => Float64Array.from(row)), states = [];
  let x = new Float64Array(N), next = new Float64Array(N);
  for (let k = 0; k < u.length; k++) {
    for (let n = 0; n < N; n++) {
      const row = rows[n];
      let sum = Bb[n] * u[k];
      for (let m = 0; m < N; m++) sum += row[m] * x[m];
      next[n] = sum;
    }
    [x, next] = [next, x];
    if ((k + 1) % every === 0) states.push(x.slice());
  }
  return states;
}

// sqrt(2n+1) P_n(2z-1) for n < N, at one z in [0, 1].
function legendreBasis(N, z) {
  const x = 2 * z - 1, p = [1, x];
  for (let n = 1; n + 1 < N; n++) p.push(((2 * n + 1) * x * p[n] - n * p[n - 1]) / (n + 1));
  return legendreScale(N).map((scale, n) => scale * p[n]);
}

// L_n(s) e^{-s/2} for n < N, at one age s.
function laguerreBasis(N, s) {
  const fade = Math.exp(-s / 2), p = [fade, (1 - s) * fade];
  for (let n = 1; n + 1 < N; n++) p.push(((2 * n + 1 - s) * p[n] - n * p[n - 1]) / (n + 1));
  return p.slice(0, N);
}

// What the state says about the input of an age, in samples, when "now" samples have come in.
function recall(state, measure, age, now, theta) {
  const N = state.length;
  if (measure === "legs") return dot(legendreBasis(N, 1 - age / now), state);
  if (measure === "legt") return dot(legendreBasis(N, 1 - age / theta), state);
  if (measure === "fading") return dot(legendreBasis(N, Math.exp(-age / theta)), state);
  return dot(laguerreBasis(N, age / theta), state);
}
