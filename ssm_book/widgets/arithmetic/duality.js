// One system, three computations. As ssm_core.lti and ssm_core.convolution.

// Four systems of the chapter, in units of a time in which sixty are on the screen.
function system(name) {
  if (name === "average") return {A: [[-0.1]], B: [0.1], C: [1]};
  if (name === "spring") return {A: [[0, 1], [-0.16, -0.2]], B: [0, 0.16], C: [1, 0]};
  if (name === "resonance") return {A: [[-0.02, 0.6], [-0.6, -0.02]], B: [0, 0.25], C: [1, 0]};
  const theta = 24, N = 12, [A, B] = transition("legt", N);  // a window, read in its middle
  return {
    A: A.map((row) => row.map((a) => a / theta)),
    B: B.map((b) => b / theta),
    C: legendreBasis(N, 0.5),
  };
}

// K_j = C A^j B, eq-kernel: what comes out if a single 1 goes in.
const kernel = (A, B, C, L) => recurrence(A, B, C, [1, ...new Array(L - 1).fill(0)]);

// y_k = sum_j K_j u_{k-j}, eq-causal-convolution.
const convolve = (K, u) => u.map((_, k) => dot(K.slice(0, k + 1), u.slice(0, k + 1).reverse()));
