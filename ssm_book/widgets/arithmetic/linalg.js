// Small dense matrices as arrays of rows.

const zeros = (rows, columns) => Array.from({length: rows}, () => new Array(columns).fill(0));

const identity = (N) => zeros(N, N).map((row, i) => row.map((_, j) => Number(i === j)));

const transpose = (A) => A[0].map((_, j) => A.map((row) => row[j]));

function matmul(A, B) {
  const C = zeros(A.length, B[0].length);
  for (let i = 0; i < A.length; i++) {
    for (let k = 0; k < B.length; k++) {
      const a = A[i][k];
      if (a !== 0) for (let j = 0; j < B[0].length; j++) C[i][j] += a * B[k][j];
    }
  }
  return C;
}

// A^-1 B by Gaussian elimination with row pivoting.
function solve(A, B) {
  const N = A.length, rows = A.map((row, i) => [...row, ...B[i]]);
  for (let k = 0; k < N; k++) {
    let pivot = k;
    for (let i = k + 1; i < N; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[pivot][k])) pivot = i;
    [rows[k], rows[pivot]] = [rows[pivot], rows[k]];
    for (let i = 0; i < N; i++) {
      const factor = i === k ? 0 : rows[i][k] / rows[k][k];
      if (factor !== 0) for (let j = k; j < rows[i].length; j++) rows[i][j] -= factor * rows[k][j];
    }
  }
  return rows.map((row, k) => row.slice(N).map((value) => value / row[k]));
}

// The matrix exponential: a Taylor series of a matrix halved until it is small, then squared back.
function expm(A) {
  const size = Math.max(...A.map((row) => row.reduce((sum, a) => sum + Math.abs(a), 0)));
  const halvings = Math.max(0, Math.ceil(Math.log2(size)) + 2);
  const small = A.map((row) => row.map((a) => a / 2 ** halvings));  // norm at most 1/4
  let E = identity(A.length), term = E;
  for (let n = 1; n <= 14; n++) {
    term = matmul(term, small).map((row) => row.map((a) => a / n));
    E = E.map((row, i) => row.map((e, j) => e + term[i][j]));
  }
  for (let i = 0; i < halvings; i++) E = matmul(E, E);
  return E;
}

// Zero-order hold, eq-zoh: both blocks of exp([[A, B], [0, 0]] dt). No division by A.
function zeroOrderHold(A, B, dt) {
  const N = A.length;
  const rows = [...A.map((row, i) => [...row, B[i]]), new Array(N + 1).fill(0)];
  const E = expm(rows.map((row) => row.map((a) => a * dt)));
  return [E.slice(0, N).map((row) => row.slice(0, N)), E.slice(0, N).map((row) => row[N])];
}

// The bilinear rule, eq-bilinear.
function bilinear(A, B, dt) {
  const half = (sign) => A.map((row, i) => row.map((a, j) => Number(i === j) + sign * a * dt / 2));
  const right = half(1).map((row, i) => [...row, B[i] * dt]);
  const both = solve(half(-1), right);
  return [both.map((row) => row.slice(0, -1)), both.map((row) => row.at(-1))];
}

const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);

// x_k = A x_{k-1} + B u_k, y_k = C x_k from a state of zero: the outputs, eq-discrete-ssm.
function recurrence(A, B, C, u) {
  let x = B.map(() => 0);
  return u.map((value) => {
    x = A.map((row, n) => dot(row, x) + B[n] * value);
    return dot(C, x);
  });
}
