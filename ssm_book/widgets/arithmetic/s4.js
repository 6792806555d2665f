// S4D: eigenvalues to begin with, and the modes they make. As ssm_core.s4.s4d_modes.

// One eigenvalue [re, im] of each pair, eq-s4d-init. legs: the imaginary parts, from ssm_core.
function s4dModes(init, N, legs) {
  if (init === "real") return Array.from({length: N}, (_, n) => [-(n + 1), 0]);
  const frequency = {
    lin: (n) => Math.PI * n,
    inv: (n) => N / Math.PI * (N / (2 * n + 1) - 1),
    legs: (n) => legs[n],
  }[init];
  return Array.from({length: N / 2}, (_, n) => [-0.5, frequency(n)]);
}

// What the mode multiplies the past with, by age: the real part of e^{lambda t}.
const modeAt = (lambda, t) => exponential([t * lambda[0], t * lambda[1]])[0];

// How many modes turn by more than half a circle within a step: samples show them as slower ones.
const aliased = (modes, dt) => modes.filter(([, im]) => im * dt > Math.PI).length;
