// The mass on a spring, m x'' + b x' + k x = u. As ssm_core.lti.ContinuousSSM.

const springMatrices = (k, b, m) => ({A: [[0, 1], [-k / m, -b / m]], B: [0, 1 / m], C: [1, 0]});

// The two eigenvalues of A, as pairs [re, im].
function springPoles(k, b, m) {
  const middle = -b / (2 * m), square = middle * middle - k / m;
  const root = Math.sqrt(Math.abs(square));
  return square < 0 ? [[middle, -root], [middle, root]] : [[middle - root, 0], [middle + root, 0]];
}

// Positions at the times 0, dt, 2 dt, ... under a force of one newton that begins at time 0.
function springStepResponse(k, b, m, dt, samples) {
  const {A, B, C} = springMatrices(k, b, m);
  const [Ab, Bb] = zeroOrderHold(A, B, dt);
  return [0, ...recurrence(Ab, Bb, C, new Array(samples - 1).fill(1))];
}
