// Blelloch's scan of steps x -> a x + b, as pairs [a, b]. As in the chapter, sec-scan-blelloch.

// First one step, then another, as one, eq-scan-combine.
const combine = ([a1, b1], [a2, b2]) => [a2 * a1, a2 * b1 + b2];

const evens = (list) => list.filter((_, i) => i % 2 === 0);
const odds = (list) => list.filter((_, i) => i % 2 === 1);

// The levels of the tree, leaves first; the number of steps is a power of two.
function upSweep(steps) {
  const levels = [steps];
  while (levels.at(-1).length > 1) {
    const left = evens(levels.at(-1)), right = odds(levels.at(-1));
    levels.push(left.map((step, i) => combine(step, right[i])));
  }
  return levels;
}

// What happens before each node, level by level, root first.
function downSweep(levels) {
  const before = [[[1, 0]]];
  for (const level of levels.slice(0, -1).reverse()) {
    const siblings = evens(level);
    before.push(before.at(-1).flatMap((step, i) => [step, combine(step, siblings[i])]));
  }
  return before;
}

// The states after each step, from a state of zero.
function blelloch(steps) {
  const levels = upSweep(steps), before = downSweep(levels).at(-1);
  return [...before.slice(1).map(([, b]) => b), levels.at(-1)[0][1]];
}
