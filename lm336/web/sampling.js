// lm336/generation.py in the page: from logits to the next token by temperature, top-k, top-p.

import { softmax } from "./model.js";

const pick = (numbers, ids) => Float32Array.from(ids, id => numbers[id]);

// The ids of the `count` largest scores, the largest first; of two equal ones the lower id.
function largest(scores, count = scores.length) {
  if (count * 16 > scores.length)
    return Uint32Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count);
  const ids = [];
  for (let id = 0; id < scores.length; id++) {   // a few: each finds its place in a short list
    if (ids.length === count && !(scores[id] > scores[ids[count - 1]])) continue;
    let place = Math.min(ids.length, count - 1);
    for (; place && scores[id] > scores[ids[place - 1]]; place--) ids[place] = ids[place - 1];
    ids[place] = id;
  }
  return Uint32Array.from(ids);
}

// The same rule as in Python: NaN anywhere, an infinite score, or nothing but minus infinity is said.
function checkScores(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!Number.isFinite(top))
    throw new Error(`The model's scores cannot be drawn from: the largest is ${top}. Its weights may be damaged.`);
}

function check(value, allowed, sentence) {
  if (value != null && !(Number.isFinite(value) && allowed)) throw new Error(`${sentence}, not ${value}.`);
}

// Probabilities and their ids, likeliest first; ids are null for all of the vocabulary in its order.
function shortlist(logits, { temperature = 1, topK, topP } = {}) {
  check(temperature, temperature >= 0, "Temperature must be 0 or more");
  check(topK, topK >= 1 && topK % 1 === 0, "Top-k must be a whole number of 1 or more");
  check(topP, topP > 0 && topP <= 1, "Top-p must be above 0 and at most 1");
  checkScores(logits);
  let ids = null;
  if (temperature === 0) topK = temperature = 1;
  if (topK && topK < logits.length) logits = pick(logits, ids = largest(logits, topK));
  let probabilities = softmax(logits.slice(), 1 / Math.max(temperature, 1e-300));
  if (topP && topP < 1) {
    if (!ids) probabilities = pick(probabilities, ids = largest(probabilities));
    let likelier = 0, kept = 0;   // the probability of all likelier tokens
    while (kept < ids.length && Math.fround(likelier) < topP) likelier += probabilities[kept++];
    ids = ids.slice(0, kept);
    probabilities = probabilities.slice(0, kept).map(p => p / likelier);
  }
  return { ids, probabilities };
}

// The `count` likeliest of the tokens that can be drawn.
export function distribution(logits, settings, count) {
  const { ids, probabilities } = shortlist(logits, settings), order = largest(probabilities, count);
  return { ids: ids ? order.map(i => ids[i]) : order, probabilities: pick(probabilities, order) };
}

// The token that a dart hits, a number from 0 to below 1.
export function sample(logits, dart, settings) {
  const { ids, probabilities } = shortlist(logits, settings), goal = dart * probabilities.reduce((a, b) => a + b);
  let i = 0, end = probabilities[0];
  while (end <= goal && i + 1 < probabilities.length) end += probabilities[++i];
  return ids ? ids[i] : i;
}

// -log2 of a token's probability at temperature 1, in bits.
export function surprise(logits, id) {
  return -Math.log2(softmax(Float64Array.from(logits), 1)[id]);
}

// torch.rand of torch.Generator().manual_seed(seed), which is MT19937 (Matsumoto & Nishimura 1998).
export function darts(seed) {
  const state = Uint32Array.of(seed, ...Array(623));
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ state[i - 1] >>> 30) + i;
  let next = 0;
  return () => {
    const i = next, low = (i + 1) % 624, far = (i + 397) % 624;
    let y = state[i] & 0x80000000 | state[low] & 0x7fffffff;
    y = state[i] = state[far] ^ y >>> 1 ^ (y & 1 && 0x9908b0df);
    next = low;
    y ^= y >>> 11;
    y ^= y << 7 & 0x9d2c5680;
    y ^= y << 15 & 0xefc60000;
    return ((y ^ y >>> 18) & 0xffffff) / 0x1000000;   // 24 bits, as many as a float32 holds
  };
}
