// lm336/generation.py in the page: from logits to the next token.

import { softmax } from "./model.js";

// Loops run through places: `for of`, `from` and `reduce` take four to ten times as long.
function pick(numbers, ids) {
  const some = new Float32Array(ids.length);
  for (let i = 0; i < ids.length; i++) some[i] = numbers[ids[i]];
  return some;
}

// The ids of the `count` largest scores, the largest first; of two equal ones the lower id.
function largest(scores, count = scores.length) {
  if (count * 16 > scores.length)
    return Uint32Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count);
  const ids = new Uint32Array(count);
  for (let id = 0, least = 0; id < scores.length; id++) {   // a few: each finds its place in a short list
    const score = scores[id];
    if (id >= count && !(score > least)) continue;
    let place = Math.min(id, count - 1);
    for (; place && score > scores[ids[place - 1]]; place--) ids[place] = ids[place - 1];
    ids[place] = id;
    least = scores[ids[count - 1]];
  }
  return ids;
}

// The same rule as in Python: NaN anywhere, an infinite score, or nothing but minus infinity is said.
function checkScores(logits) {
  let top = -Infinity;
  for (let i = 0; i < logits.length; i++) top = Math.max(top, logits[i]);
  if (!Number.isFinite(top))
    throw new Error(`The model's scores cannot be drawn from: the largest is ${top}. Its weights may be damaged.`);
}

// The settings, named as SamplingConfig's fields in Python and refused in the same words; null stands for none.
export function samplingConfig({ temperature, top_k, top_p, min_p, repetition_penalty, seed, stop_token, stop_strings } = {}) {
  const whole = Number.isInteger, finite = Number.isFinite;
  const need = (name, value, holds, needed) => { if (value != null && !holds(value)) throw new Error(`${name} is ${value}: ${needed}.`); };
  need("temperature", temperature, x => finite(x) && x >= 0, "a finite number of at least 0 is needed");
  need("top_k", top_k, x => whole(x) && x >= 1, "a whole number of at least 1 is needed, or null");
  need("top_p", top_p, x => finite(x) && x > 0 && x <= 1, "a number above 0 and up to 1 is needed, or null");
  need("min_p", min_p, x => finite(x) && x >= 0 && x <= 1, "a number from 0 to 1 is needed, or null");
  need("repetition_penalty", repetition_penalty, x => finite(x) && x > 0, "a finite number above 0 is needed");
  need("seed", seed, whole, "a whole number is needed, or null");
  need("stop_token", stop_token, whole, "a whole number is needed, or null");
  const strings = [stop_strings ?? []].flat();
  need("stop_strings", strings, all => all.every(text => text && typeof text === "string"), "texts of at least one character are needed");
  return { temperature: temperature ?? 1, top_k, top_p, min_p, repetition_penalty: repetition_penalty ?? 1, seed, stop_token, stop_strings: strings };
}

// Scores that make the ids in `seen` less likely (Keskar et al. 2019, section 4.1).
function penalise(logits, seen, penalty) {
  const out = logits.slice();
  for (const id of new Set(seen)) if (id < out.length) out[id] = out[id] > 0 ? out[id] / penalty : out[id] * penalty;
  return out;
}

// What of `probabilities` passes `keep`, made to add up to 1 again.
function keepSome(probabilities, ids, keep) {
  const kept = [...probabilities.keys()].filter(keep), sum = kept.reduce((sum, i) => sum + probabilities[i], 0);
  return [pick(probabilities, kept).map(p => p / sum), Uint32Array.from(kept, i => ids ? ids[i] : i)];
}

// What can be drawn: probabilities and ids, in the order of top-k and top-p; ids are null for the whole vocabulary in its order.
// config: what samplingConfig gives; seen: the ids so far. First the penalty, then temperature, top-k, top-p, min-p.
export function shortlist(logits, { temperature, top_k, top_p, min_p, repetition_penalty }, seen = []) {
  let ids = null;
  if (repetition_penalty !== 1) logits = penalise(logits, seen, repetition_penalty);
  checkScores(logits);
  if (temperature === 0) top_k = temperature = 1;
  if (top_k && top_k < logits.length) logits = pick(logits, ids = largest(logits, top_k));
  let probabilities = softmax(logits.slice(), 1 / Math.max(temperature, 1e-300));
  if (top_p && top_p < 1) {
    const all = probabilities, sorted = ids !== null;
    let likelier = 0, kept = 0;   // the probability of all likelier tokens
    for (const count of sorted ? [all.length] : [64, all.length]) {   // a few are enough for most texts
      if (!sorted) probabilities = pick(all, ids = largest(all, count));
      for (likelier = kept = 0; kept < ids.length && Math.fround(likelier) < top_p; kept++) likelier += probabilities[kept];
      if (Math.fround(likelier) >= top_p) break;
    }
    ids = ids.slice(0, kept);
    probabilities = probabilities.slice(0, kept).map(p => p / likelier);
  }
  if (min_p) {
    const least = min_p * probabilities.reduce((a, b) => Math.max(a, b));
    [probabilities, ids] = keepSome(probabilities, ids, i => probabilities[i] >= least);
  }
  return { ids, probabilities };
}

// The `count` likeliest of a shortlist, the likeliest first.
export function likeliest({ ids, probabilities }, count) {
  const order = largest(probabilities, count);
  return { ids: ids ? order.map(i => ids[i]) : order, probabilities: pick(probabilities, order) };
}

// The token of a shortlist in whose piece a uniform number falls. The pieces lie in the order of the vocabulary.
export function draw({ ids, probabilities }, uniform) {
  const order = ids?.map((_, i) => i).sort((a, b) => ids[a] - ids[b]), at = i => order ? order[i] : i;
  let sum = 0, i = 0, end = probabilities[at(0)];
  for (let i = 0; i < probabilities.length; i++) sum += probabilities[i];
  while (end <= uniform * sum && i + 1 < probabilities.length) end += probabilities[at(++i)];
  return ids ? ids[at(i)] : i;
}

// torch.rand of torch.Generator().manual_seed(seed), which is MT19937 (Matsumoto & Nishimura 1998).
export function uniforms(seed) {
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
