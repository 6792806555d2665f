// The exponential moving average, and what a window of W values can know of it.

// alpha for a time constant in samples, eq-ema-alpha with a step of 1.
const emaWeight = (tau) => -Math.expm1(-1 / tau);

// y_k = (1 - alpha) y_{k-1} + alpha u_k, eq-ema; the first value stands for all before it.
function ema(u, tau) {
  const alpha = emaWeight(tau);
  let y = u[0];
  return u.map((value) => (y = (1 - alpha) * y + alpha * value));
}

// The part of its weight that the average has on values older than the newest W.
const lostWeight = (tau, W) => Math.exp(-W / tau);

// The same average from the newest W values alone, rescaled so that its weights sum to one. Before
// W values have come in, the first value stands for those that are missing. By eq-ema-tail.
function windowedEma(u, tau, W) {
  const y = ema(u, tau), lost = lostWeight(tau, W);
  return y.map((value, k) => (value - lost * (k >= W ? y[k - W] : u[0])) / (1 - lost));
}

// What the best function of the window is wrong by in the worst case, thm-memory-window.
const windowError = (tau, W, low, high) => lostWeight(tau, W) * (high - low) / 2;

// The window that is right to an error for every history, eq-memory-cent.
const windowNeeded = (tau, low, high, error) => Math.ceil(tau * Math.log((high - low) / (2 * error)));
