// A model that learns to tell a grammar's stories: new Worker("train-worker.js", { type: "module" }). README.md lists its messages.
import { readFolder, writeFolder, zip } from "./folder.js";
import { generateStream } from "./generation.js";
import { StoryGrammar, describe, wordTokenizer } from "./grammar.js";
import { makeKernels } from "./kernels.js";
import { Model, sentence, softmax, turns } from "./model.js";
import { uniforms } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";
import { DEFAULTS, Trainer, parameterShapes } from "./train.js";

const SHAPE = { d_model: 64, num_layers: 2, num_heads: 4, rope_theta: 10_000, norm_eps: 1e-5, tie_embeddings: false };
let run = null;   // what learns; a start makes a new one, and with that the loop of the one before ends

// Let waiting messages in, in microseconds (a timer would take 4 ms), and while the run is paused wait for one that goes on.
const channel = new MessageChannel(), waiting = [];
channel.port1.onmessage = () => waiting.shift()();
async function rest(mine) {
  mine.seconds += (performance.now() - mine.clock) / 1000;
  await new Promise(resolve => { waiting.push(resolve); channel.port2.postMessage(0); });
  while (run === mine && mine.trainer.steps >= mine.limit) await new Promise(resolve => { mine.wake = resolve; });
  mine.clock = performance.now();
}

const chosen = (defaults, settings) => Object.fromEntries(Object.keys(defaults).map(name => [name, settings[name] ?? defaults[name]]));

// The model's shape: with 8/3 d_model in the feed-forward network, as in Python.
function shapeOf(settings, vocab_size, context_length) {
  const shape = chosen(SHAPE, settings), { d_model: d, num_heads: heads } = shape;
  if (d % (2 * heads)) throw new Error(`${heads} heads cannot share a width of ${d}: each needs an even number of features.`);
  return { vocab_size, context_length, ...shape, d_ff: Math.max(64, Math.round(d / 24) * 64) };
}

// FLOP/s of a matrix product here, the best of a few tries; measured once.
let speed = 0;
function productSpeed() {
  if (speed) return speed;
  const k = makeKernels(), n = 64, [a, b, c] = [0, 0, 0].map(() => k.take(n * n)), end = performance.now() + 50;
  while (!speed || performance.now() < end) {
    const begin = performance.now(), times = k.simd ? 20 : 1;
    for (let i = 0; i < times; i++) k.product(c, n, a, n, 1, b, n, 1, n, n, n, false);
    speed = Math.max(speed, times * 2000 * n ** 3 / Math.max(performance.now() - begin, 0.1));
  }
  return speed;
}

// A new run: of a model of the settings' shape, or of that in a folder's files, which goes on to learn.
function begin({ grammar: text, files, batch_size = 16, paused = false, tag, ...settings }, say) {
  const grammar = new StoryGrammar(text), { words, longest } = grammar.words();
  const read = files ? readFolder(files) : { tokenizer: wordTokenizer(words) };
  const tokenizer = Tokenizer.fromJSON(read.tokenizer), ids = tokenizer.vocab.length, end = tokenizer.endOfText;
  const config = read.config ?? shapeOf(settings, ids, longest + 1);
  if (end === undefined) throw new Error("tokenizer.json has no <|endoftext|>, which begins and ends a story.");
  if (ids > config.vocab_size) throw new Error(`tokenizer.json has ${ids} tokens, the model only ${config.vocab_size}: they do not belong together.`);
  const known = files ? ids : words.length + 1;    // the others are in no story
  const trainer = new Trainer(config, { ...chosen(DEFAULTS, settings), used: files ? Infinity : known }, read.tensors);
  const { kernels, rows } = trainer, { seed, max_steps } = trainer.settings;
  const speaker = new Model({ ...config, vocab_size: rows }, trainer.weights, kernels);
  run = { trainer, speaker, grammar, tokenizer, json: read.tokenizer, end, known, batch_size, say, random: uniforms(seed), max_steps,
    limit: paused ? 0 : max_steps, seconds: 0, clock: performance.now(), past: [], fresh: 0 };
  position(run);
  const parameters = Object.values(trainer.weights).reduce((sum, { length }) => sum + length, 0);
  say({ type: "ready", config, parameters, words: words.length, floor: grammar.entropyBits, max_steps, simd: kernels.simd });
  train(run);
}

// The speaker's positions, switched on or off as the trainer's.
function position({ speaker: { kernels, config, ...places }, trainer: { settings } }) {
  for (const [name, table] of Object.entries(turns(config)))
    kernels.floats.set(settings.rope ? table : table.fill(name === "cos" ? 1 : 0), places[name]);
}

// Update after update, with a rest after a layer wherever 20 ms have passed.
async function train(mine) {
  const { trainer, grammar, tokenizer, random, batch_size, end, past, say } = mine;
  let told = 0;
  try {
    for (await rest(mine); run === mine; await rest(mine)) {
      const stories = Array.from({ length: batch_size }, () => grammar.sample(random));
      for (const _ of trainer.step(stories.map(({ text }) => [end, ...tokenizer.encode(text), end])))
        if (performance.now() - mine.clock > 20) {
          await rest(mine);
          if (run !== mine) return;
        }
      const truth = stories.reduce((sum, { bits }) => sum + bits, 0) / batch_size;
      const seconds = mine.seconds + (performance.now() - mine.clock) / 1000;
      past.push({ step: trainer.steps, bits: trainer.loss / Math.LN2, truth, seconds, tokens: trainer.tokens });
      mine.fresh++;
      if (trainer.steps < mine.limit && seconds - told < 0.1) continue;
      told = seconds;
      report(mine);
    }
  } catch (error) {
    mine.limit = 0;
    say({ type: "error", message: sentence(error) });
  }
}

// How far it is: what is new, and over the last tenth of the updates how far above the line, and how fast.
function report(mine) {
  const { trainer: { steps, tokens, rate, norm, settings: { learning_rate } }, grammar, past, fresh, max_steps, say } = mine;
  const late = past.slice(-Math.max(8, Math.ceil(steps / 10))), first = late[0], last = late.at(-1);
  const pace = (last?.seconds - first?.seconds) / (late.length - 1);    // seconds for an update
  const running = run === mine && steps < mine.limit;
  say({ type: "progress", step: steps, max_steps, tokens, running, finished: steps >= max_steps, learning_rate: rate ?? learning_rate, norm,
    losses: fresh ? past.slice(-fresh).map(({ step, bits, truth }) => [step, bits, truth]) : [],
    above: late.length ? late.reduce((sum, { bits, truth }) => sum + bits - truth, 0) / late.length / grammar.entropyBits : null,
    tokensPerSecond: (last?.tokens - first?.tokens) / (last?.seconds - first?.seconds) || 0,
    seconds: last?.seconds ?? 0, secondsLeft: Math.max(0, max_steps - steps) * pace || 0 });
  mine.fresh = 0;
}

const answers = {
  grammar({ text }, say) { say({ type: "grammar", ...describe(text), speed: productSpeed() }); },
  start: begin,
  load: begin,
};

// Those that need a run. What changes its limit wakes its loop.
const orders = {
  pause() { run.limit = 0; report(run); },
  resume() { run.limit = run.trainer.steps < run.max_steps ? run.max_steps : Infinity; },
  step() { run.limit = run.trainer.steps + 1; },

  settings({ learning_rate, rope, mask }) {
    const given = Object.entries({ learning_rate, rope, mask }).filter(([, value]) => value !== undefined);
    Object.assign(run.trainer.settings, Object.fromEntries(given));
    position(run);
  },

  // A story as the model tells it now.
  sample({ temperature, seed }, say) {
    const { trainer, speaker, tokenizer, end, known } = run, max_new_tokens = speaker.config.context_length, ids = [];
    speaker.reset();
    const stream = generateStream(speaker, { vocab: tokenizer.vocab.slice(0, known) }, [end], { max_new_tokens, temperature, seed, stop_token: end });
    for (const { id } of stream) if (id !== end) ids.push(id);
    say({ type: "sample", text: tokenizer.decode(ids), ids, step: trainer.steps });
  },

  // What the model believes to come after a text, and what is true.
  probe({ prompt, count = 10 }, say) {
    const { trainer, speaker, grammar, tokenizer, end, known } = run, ids = [end, ...tokenizer.encode(prompt)];
    if (ids.length > speaker.config.context_length) throw new Error(`The beginning has ${ids.length} tokens; this model reads at most ${speaker.config.context_length}.`);
    speaker.reset();
    const logits = speaker.read(ids);
    logits[trainer.rows - 1] += Math.log(trainer.copies);
    const beliefs = softmax(logits, 1), likeliest = [...beliefs.keys()].slice(0, known).sort((a, b) => beliefs[b] - beliefs[a]).slice(0, count);
    const bars = likeliest.map(id => ({ id, text: id === end ? "" : tokenizer.decode([id]), probability: beliefs[id] }));
    const truth = Array.from(grammar.next(prompt), ([text, probability]) => ({ text, probability })).sort((a, b) => b.probability - a.probability);
    say({ type: "probe", prompt, bars, truth, step: trainer.steps });
  },

  // The folder that Python opens: of the last row as many copies as there are ids that it stands for.
  download(_, say) {
    const { trainer: { config, weights, copies, settings }, json } = run, d = config.d_model;
    if (!settings.rope) throw new Error("lm336 has no model without positions: switch RoPE on to take this one with you.");
    for (const name of ["token_embeddings.weight", "lm_head.weight"]) if (copies > 1 && weights[name]) {
      const some = weights[name], all = weights[name] = new Float32Array(config.vocab_size * d);
      all.set(some);
      for (let at = some.length; at < all.length; at += d) all.set(some.subarray(-d), at);
    }
    const files = writeFolder(config, json, weights, parameterShapes(config, config.vocab_size));
    say({ type: "download", files, zip: zip(Object.fromEntries(Object.entries(files).map(([name, file]) => [`stories/${name}`, file]))) });
  },
};

self.onmessage = ({ data }) => {
  const say = message => self.postMessage({ ...message, tag: data.tag });
  const work = answers[data.type] ?? orders[data.type];
  try {
    if (!work) throw new Error(`There is no message of type ${data.type}.`);
    if (orders[data.type] && !run) throw new Error("Nothing has been started yet.");
    work(data, say);
    run?.wake?.();
  } catch (error) { say({ type: "error", message: sentence(error) }); }
};
