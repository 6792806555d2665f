// A recurrent network with a nonlinearity, and what is left of its gradients. As ssm_core.rnn.

const ACTIVATIONS = {  // the function, and its derivative in terms of its value
  tanh: [Math.tanh, (h) => 1 - h * h],
  relu: [(a) => Math.max(a, 0), (h) => Number(h > 0)],
  identity: [(a) => a, () => 1],
};

// h_k = f(W h_{k-1} + U u_k) from a state of zero: all states (L, N), eq-rnn.
function rnn(u, W, U, activation) {
  const [f] = ACTIVATIONS[activation];
  let h = U.map(() => 0);
  return u.map((value) => (h = W.map((row, i) => f(dot(row, h) + U[i] * value))));
}

// The norms of the products of the newest k Jacobians diag(f') W, k = 0 ... L, eq-jacobian-product.
function jacobianNorms(W, states, activation) {
  const [, slope] = ACTIVATIONS[activation];
  let product = identity(W.length);
  const norms = [1];
  for (const h of [...states].reverse()) {
    product = matmul(product, W.map((row, i) => row.map((w) => slope(h[i]) * w)));
    norms.push(spectralNorm(product));
  }
  return norms;
}

// The largest singular value. Rotations in the plane of two columns (Hestenes' one-sided Jacobi
// method) make all columns orthogonal; then their lengths are the singular values.
function spectralNorm(A) {
  const columns = transpose(A);
  const scale = Math.max(...A.flat().map(Math.abs));
  if (scale === 0) return 0;
  for (const column of columns) column.forEach((a, i) => (column[i] = a / scale));
  for (let sweep = 0, turned = true; turned && sweep < 30; sweep++) {
    turned = false;
    for (let p = 0; p < columns.length; p++) {
      for (let q = p + 1; q < columns.length; q++) {
        const x = columns[p], y = columns[q];
        const xx = dot(x, x), yy = dot(y, y), xy = dot(x, y);
        if (Math.abs(xy) <= 1e-14 * Math.sqrt(xx * yy)) continue;
        turned = true;
        const zeta = (yy - xx) / (2 * xy);
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const c = 1 / Math.hypot(1, t), s = c * t;
        for (let i = 0; i < x.length; i++) [x[i], y[i]] = [c * x[i] - s * y[i], s * x[i] + c * y[i]];
      }
    }
  }
  return scale * Math.sqrt(Math.max(...columns.map((column) => dot(column, column))));
}
