// What a step of each rule does to one mode x' = lambda x. As ssm_core.discretize.

const ALPHA = {euler: 0, bilinear: 0.5, backward_euler: 1};  // members of eq-gbt

// R(z) with z = dt lambda: what one step multiplies the mode by, eq-stability-function.
function stabilityFunction(rule, z) {
  if (rule === "zoh") return exponential(z);
  const alpha = ALPHA[rule];
  return over([1 + (1 - alpha) * z[0], (1 - alpha) * z[1]], [1 - alpha * z[0], -alpha * z[1]]);
}

// The first states 0, 1, ... of x' = lambda (x - 1), x(0) = 0, by a rule: 1 - R^k, the real part.
// A constant input is the same at every moment of a step, so all rules come to rest at 1.
function modeStepResponse(rule, lambda, dt, steps) {
  const R = stabilityFunction(rule, [dt * lambda[0], dt * lambda[1]]);
  const x = [0];
  for (let power = R; x.length <= steps; power = times(power, R)) x.push(1 - power[0]);
  return x;
}

// The same at any time, without steps.
const modeTruth = (lambda, t) => 1 - exponential([t * lambda[0], t * lambda[1]])[0];

// The largest step for which Euler's rule is stable, eq-euler-limit; 0 if there is none.
const eulerLimit = ([re, im]) => Math.max(0, -2 * re / (re * re + im * im));
