// Complex numbers as pairs [re, im].

const times = ([a, b], [c, d]) => [a * c - b * d, a * d + b * c];

const over = ([a, b], [c, d]) => {
  const size = c * c + d * d;
  return [(a * c + b * d) / size, (b * c - a * d) / size];
};

const modulus = ([a, b]) => Math.hypot(a, b);

const exponential = ([a, b]) => [Math.exp(a) * Math.cos(b), Math.exp(a) * Math.sin(b)];
