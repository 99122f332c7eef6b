// lm336/generation.py in the page: from logits to the next token by temperature, top-k, top-p.

const max = numbers => numbers.reduce((a, b) => b > a ? b : a);

// The ids of the `count` largest scores, the largest first; of two equal ones the lower id.
function largest(scores, count = scores.length) {
  if (count * 16 > scores.length)
    return Uint32Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count);
  const ids = [];
  for (let id = 0; id < scores.length; id++) {              // a few: each finds its place in a short list
    if (ids.length === count && !(scores[id] > scores[ids[count - 1]])) continue;
    let place = Math.min(ids.length, count - 1);
    for (; place && scores[id] > scores[ids[place - 1]]; place--) ids[place] = ids[place - 1];
    ids[place] = id;
  }
  return Uint32Array.from(ids);
}

function softmax(logits, temperature) {
  const top = max(logits), p = logits.map(logit => Math.exp((logit - top) / temperature));
  const sum = p.reduce((a, b) => a + b);
  return p.map(x => x / sum);
}

function check(name, value, allowed, words) {
  if (value != null && !(Number.isFinite(value) && allowed(value)))
    throw new Error(`${name} is ${value}: ${words} is needed.`);
}

// Probabilities and their ids: the likeliest first behind a filter; ids null: all of the vocabulary in its order.
function shortlist(logits, { temperature = 1, topK, topP } = {}) {
  check("Temperature", temperature, t => t >= 0, "a number of at least 0");
  check("Top-k", topK, k => k >= 1 && k % 1 === 0, "a whole number of at least 1");
  check("Top-p", topP, p => p > 0 && p <= 1, "a number above 0 and up to 1");
  const pick = (numbers, ids) => Float32Array.from(ids, id => numbers[id]);
  let ids = null;
  if (temperature === 0) topK = temperature = 1;
  if (topK < logits.length) logits = pick(logits, ids = largest(logits, topK));
  let probabilities = softmax(logits, temperature);
  if (topP < 1) {
    if (!ids) probabilities = pick(probabilities, ids = largest(probabilities));
    let likelier = 0, kept = 0;                              // the probability of all likelier tokens
    while (kept < ids.length && Math.fround(likelier) < topP) likelier += probabilities[kept++];
    ids = ids.slice(0, kept);
    probabilities = probabilities.slice(0, kept).map(p => p / likelier);
  }
  return { ids, probabilities };
}

// The tokens that can be drawn, the likeliest first, or only the first `count` of them.
export function distribution(logits, settings, count) {
  let { ids, probabilities } = shortlist(logits, settings);
  if (ids) return { ids: ids.slice(0, count), probabilities: probabilities.slice(0, count) };
  ids = largest(probabilities, count);
  return { ids, probabilities: Float32Array.from(ids, id => probabilities[id]) };
}

// The token that a dart from 0 to below 1 hits: the first whose cumulative probability exceeds it.
export function sample(logits, dart, settings) {
  const { ids, probabilities } = shortlist(logits, settings), goal = dart * probabilities.reduce((a, b) => a + b);
  let i = 0, end = probabilities[0];
  while (end <= goal && i + 1 < probabilities.length) end += probabilities[++i];
  return ids ? ids[i] : i;
}

// How unexpected a token is to the model itself, in bits: -log2 of its probability at temperature 1.
export function surprise(logits, id) {
  const top = max(logits), sum = logits.reduce((total, logit) => total + Math.exp(logit - top), 0);
  return (Math.log(sum) + top - logits[id]) / Math.LN2;
}

// MT19937 (Matsumoto & Nishimura 1998) as torch.Generator().manual_seed(seed) runs it, and the darts that
// torch.rand makes of it: a seed tells the same story here as in Python.
export function darts(seed) {
  const state = Uint32Array.of(Number(BigInt.asUintN(32, BigInt(seed))), ...Array(623));
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
    return ((y ^ y >>> 18) & 0xffffff) / 0x1000000;          // 24 bits, as many as a float32 holds
  };
}
