// What browser.py asks the page about training, on the grammar of two plots that comes with it. The modules of lm336/web lie beside it.
import { StoryGrammar, wordTokenizer } from "./grammar.js";
import { GRAMMARS } from "./grammars.js";
import { makeKernels } from "./kernels.js";
import { uniforms } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";
import { Trainer } from "./train.js";
import { jaxStep } from "./browser_jax.js";
import { asks, watchStalls } from "./browser_worker.js";

const TEXT = Object.values(GRAMMARS)[1], BATCH = 16;
const median = numbers => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

// A run in the worker, as a panel would start it: seconds until it was at most 5 and 1.5 % above the line (null: never), how far
// above at its end, the longest time that the page's own thread was kept waiting, and ms from a pause to its answer.
export async function learn(seed, max_steps = 800) {
  const worker = new Worker("train-worker.js", { type: "module" });
  const ask = asks(worker), stalls = watchStalls(), found = { seed, seconds_to_5: null, seconds_to_1_5: null };
  const begin = performance.now(), since = () => (performance.now() - begin) / 1000;
  const end = await ask({ type: "start", grammar: TEXT, seed, max_steps }, ({ finished }) => finished, ({ above, type }) => {
    if (type !== "progress") return;
    if (above <= 0.05) found.seconds_to_5 ??= since();
    if (above <= 0.015) found.seconds_to_1_5 ??= since();
  });
  Object.assign(found, { seconds: since(), above: end.above, tokens: end.tokens, tokens_per_second: end.tokens / end.seconds });
  const waits = [];
  for (let i = 0; i < 5; i++) {
    await ask({ type: "resume" }, ({ type }) => type === "progress");
    const asked = performance.now();
    await ask({ type: "pause" }, ({ running }) => running === false);
    waits.push(performance.now() - asked);
  }
  worker.terminate();
  return { ...found, longest_stall_ms: stalls(), pause_ms: median(waits) };
}

// A trainer of the panel's shape, and batches.
function prepared(settings, count) {
  const grammar = new StoryGrammar(TEXT), { words, longest } = grammar.words(), tokenizer = Tokenizer.fromJSON(wordTokenizer(words)), random = uniforms(0);
  const config = { vocab_size: words.length + 2, context_length: longest + 1, d_model: 64, num_layers: 2, num_heads: 4, d_ff: 192,
    rope_theta: 10_000, norm_eps: 1e-5, tie_embeddings: false };
  const batches = Array.from({ length: count }, () => Array.from({ length: BATCH }, () => [0, ...tokenizer.encode(grammar.sample(random).text), 0]));
  return { config, trainer: new Trainer(config, settings), batches };
}

// GFLOP/s of the matrix product alone, at the shapes of the feed-forward network.
function productSpeed(simd) {
  const k = makeKernels(simd), [n, d, f] = [512, 64, 192], [x, W, y] = [n * d, f * d, n * f].map(size => k.take(size));
  k.view(x, n * d).fill(0.5);
  k.view(W, f * d).fill(0.5);
  const seconds = Array.from({ length: simd ? 40 : 6 }, () => {
    const begin = performance.now(), times = simd ? 20 : 1;
    for (let i = 0; i < times; i++) k.product(y, f, x, d, 1, W, 1, d, n, f, d, false);
    return (performance.now() - begin) / 1000 / times;
  });
  return 2 * n * d * f / median(seconds) / 1e9;
}

const parameters = trainer => Object.values(trainer.weights).reduce((sum, { length }) => sum + length, 0);

// Whole steps: tokens/s, GFLOP/s of their matrix products over the step's time, and what share of the step each kernel takes.
export function profile(simd, steps = simd ? 60 : 6) {
  const { trainer, batches } = prepared({ simd }, 8), seconds = [], shares = {};
  const step = i => { for (const _ of trainer.step(batches[i % 8])); };
  for (let i = 0; i < steps / 2; i++) step(i);
  for (let i = 0; i < steps; i++) {
    const begin = performance.now();
    step(i % 8);
    seconds.push((performance.now() - begin) / 1000);
  }
  let flop = 0, all = 0;
  const { kernels } = trainer;
  const names = ["product", "norm", "normBack", "rotate", "softmax", "softmaxBack", "swiglu", "swigluBack", "crossEntropy", "sumOfSquares", "adamw"];
  for (const name of names) {
    const plain = kernels[name].bind(kernels);
    kernels[name] = (...given) => {
      if (name === "product") flop += 2 * given[8] * given[9] * given[10];
      const begin = performance.now(), result = plain(...given);
      shares[name] = (shares[name] ?? 0) + performance.now() - begin;
      return result;
    };
  }
  const begin = performance.now();
  for (let i = 0; i < steps; i++) step(i % 8);
  all = performance.now() - begin;
  for (const name in shares) shares[name] = +(shares[name] / all).toFixed(3);
  const tokens = batches.flat().reduce((sum, story) => sum + story.length - 1, 0) / 8, each = median(seconds);
  return { simd: kernels.simd, parameters: parameters(trainer), tokens_per_second: tokens / each, gflops: flop / steps / each / 1e9, product_gflops: productSpeed(simd), shares };
}

// The same steps in jax-js, from the same weights: tokens/s, and the largest difference between the two losses.
export async function beside(address, steps) {
  const jax = await import(address), { config, trainer, batches } = prepared({}, steps);
  const weights = Object.fromEntries(Object.entries(trainer.weights).map(([name, x]) => [name, x.slice()]));
  const rates = batches.map((_, i) => { trainer.steps = i; return trainer.learningRate(); });
  trainer.steps = 0;
  const { losses, seconds } = await jaxStep(jax, config, { ...trainer.settings, rate: i => rates[i - 1] }, weights, trainer.shapes, batches);
  const differences = batches.map((batch, i) => {
    for (const _ of trainer.step(batch));
    return Math.abs(trainer.loss / losses[i] - 1);
  });
  return { tokens_per_second: trainer.tokens / steps / median(seconds.slice(2)), difference: Math.max(...differences) };
}
