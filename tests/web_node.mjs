// The page's modules under Node, for test_web.py: a line of JSON in, a line of JSON out.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { tokenCauses } from "../lm336/web/causes.js";
import { makeKernels } from "../lm336/web/kernels.js";
import { Model } from "../lm336/web/model.js";
import { generateStream } from "../lm336/web/generation.js";
import { StoryGrammar } from "../lm336/web/grammar.js";
import { StoryReader } from "../lm336/web/oracle.js";
import { draw, likeliest, samplingConfig, shortlist, uniforms } from "../lm336/web/sampling.js";
import { Tokenizer } from "../lm336/web/tokenizer.js";
import { Trainer } from "../lm336/web/train.js";

globalThis.fetch = async (url, { signal } = {}) => {                // Node's own takes no file: addresses
  await new Promise(setImmediate);
  signal?.throwIfAborted();
  try { return new Response(readFileSync(new URL(url))); } catch { return new Response("", { status: 404 }); }
};
let model, tokenizer;

// worker.js sees this instead of a worker's global object; `heard` gets what it posts, one by one.
let heard = () => {};
const plain = (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
const post = messages => [JSON.parse(JSON.stringify(messages, plain))].flat().forEach(message => heard(message));
globalThis.self = { location: "file:///", postMessage: post };
await import("../lm336/web/worker.js");
const sampler = self.onmessage;
await import("../lm336/web/train-worker.js");
const learner = self.onmessage;
await import("../lm336/web/oracle-worker.js");
const reader = self.onmessage;

const commands = {
  // Post messages to the worker: all its answers up to one of the type `until`, or one that shows that it will not come. `then` is posted
  // once `after` answers are there.
  worker: ({ send, until, after, then }) => new Promise(resolve => {
    const answers = [], last = until === "error" ? ["error", "ready", "bars", "attention", "done"] : [until, "error"];
    heard = answer => {
      answers.push(answer);
      if (answers.length === after) queueMicrotask(() => sampler({ data: then }));   // no message comes while the worker works
      if (last.includes(answer.type)) resolve(answers);
    };
    for (const data of send) sampler({ data });
  }),
  // Messages to train-worker.js, one after the other: the next once an answer has come of the type that is named with it (and has what
  // else is named), or an error; null: at once. All answers.
  async learner(dialogue) {
    const answers = [];
    for (const [data, until] of dialogue) {
      if (data.files) for (const name in data.files) data.files[name] = Uint8Array.from(data.files[name]);
      await new Promise(resolve => {
        heard = answer => {
          answers.push(answer);
          if (answer.type === "error" || until && Object.entries(until).every(([name, value]) => answer[name] === value)) resolve();
        };
        learner({ data });
        if (!until) resolve();
      });
    }
    return answers;
  },
  // Messages to oracle-worker.js, and an answer to each.
  async oracle(messages) {
    const answers = [];
    heard = answer => answers.push(answer);
    for (const data of messages) await reader({ data });
    return answers;
  },
  // A function of a widget's module.
  call: async ([module, name, ...rest]) => (await import(`../lm336/web/${module}`))[name](...rest),
  value: async ([module, name]) => (await import(`../lm336/web/${module}`))[name],
  // All that a grammar says: of itself; of these numbers, stories and beginnings; and some stories of its own.
  grammar({ text, numbers = [], stories = [], beginnings = [], seed = 0, samples = 0, words = false, whole = true }) {
    const grammar = new StoryGrammar(text), { entropyBits, meanBytes, bitsPerByte } = grammar, random = uniforms(seed);
    return { entropyBits, meanBytes, bitsPerByte, ambiguous: whole ? grammar.ambiguousText() : undefined, unnamed: grammar.unnamed(),
      told: numbers.map(some => grammar.tell(ways => some.shift() % ways)), prices: stories.map(story => grammar.log2Prob(story)),
      next: beginnings.map(text => Object.fromEntries(grammar.next(text))),
      sampled: Array.from({ length: samples }, () => grammar.sample(random)), ...words && grammar.words() };
  },
  // What the perfect reader expects at each of these ids, and their bits; refused, if no story goes on with one.
  reader({ text, ids }) {
    const reader = new StoryReader(new StoryGrammar(text), tokenizer);
    return ids.map(id => {
      const expected = Object.fromEntries(reader.expected()), bits = reader.read(id);
      if (bits === Infinity) throw new Error(`no story goes on with ${id}`);
      return { expected, bits };
    });
  },
  // What each of the ids of these texts hangs on.
  causes({ text, texts }) {
    const grammar = new StoryGrammar(text);
    return texts.map(ids => tokenCauses(grammar, tokenizer, ids).map(({ name, about, distance }) => [name, about, distance]));
  },
  async load(folder) {
    const progress = [];
    model = await Model.load(`file://${folder}`, (...both) => progress.push(both));
    return progress;
  },
  tokenizer(json) { tokenizer = Tokenizer.fromJSON(json); },
  encode: text => tokenizer.encode(text),
  decode: ids => tokenizer.decode(ids),
  stream(ids) { const next = tokenizer.decoder(); return [...ids.map(id => next(id)), next()]; },
  classes() {                                                       // of every character but the surrogates
    let classes = "";
    for (let c = 0; c < 0x110000; c++) {
      if (c === 0xd800) c = 0xe000;
      const text = String.fromCodePoint(c);
      classes += /\p{L}/u.test(text) ? "L" : /\p{N}/u.test(text) ? "N" : /\p{White_Space}/u.test(text) ? "S" : "O";
    }
    return classes;
  },
  logits(ids) { model.reset(); return ids.map(id => Array.from(model.step(id))); },
  last(ids) { model.rewind(ids); let logits; for (const id of ids.slice(model.ids.length)) logits = model.step(id); return Array.from(logits); },
  // The stream of the model that was loaded; without the tokenizer, of which each id would be the Latin character.
  generate({ ids, plain, ...settings }) {
    const vocab = Array.from({ length: model.config.vocab_size }, (_, i) => String.fromCharCode(i % 128));
    model.reset();
    return Array.from(generateStream(model, plain ? { vocab } : tokenizer, ids, settings), ({ id, logits, logprob, text, cut }) =>
      ({ id, logits: Array.from(logits), logprob, text, cut }));
  },
  distribution({ logits, count, seen, ...settings }) {              // JSON has no NaN: "NaN" and "Infinity" stand for them
    const { ids, probabilities } = likeliest(shortlist(Float32Array.from(logits, Number), samplingConfig(settings), seen), count);
    return [Array.from(ids), Array.from(probabilities)];
  },
  sample: ({ logits, uniform, seen, ...settings }) => draw(shortlist(Float32Array.from(logits, Number), samplingConfig(settings), seen), uniform),
  logSum({ numbers, simd }) {
    const kernels = makeKernels(simd), place = kernels.take(numbers.length);
    kernels.view(place, numbers.length).set(numbers);
    return kernels.logSum(place, numbers.length);
  },
  // Updates on batches, one after the other: their losses, the last gradients, the weights, and the loss of the last batch after.
  train({ config, settings, weights, batches }) {
    const floats = named => Object.fromEntries(Object.entries(named).map(([name, x]) => [name, Float32Array.from(x)]));
    const lists = named => Object.fromEntries(Object.entries(named).map(([name, x]) => [name, Array.from(x)]));
    const trainer = new Trainer(config, settings, weights && floats(weights)), losses = [], norms = [];
    let parts = 0;
    for (const batch of batches) {
      for (const _ of trainer.step(batch)) parts++;
      losses.push(trainer.loss);
      norms.push(trainer.norm);
    }
    const steps = trainer.measure(batches.at(-1));
    let after;
    do after = steps.next(); while (!after.done);
    const { simd } = trainer.kernels;
    return { losses, norms, parts, simd, after: after.value, gradients: lists(trainer.gradients), weights: lists(trainer.weights) };
  },
  uniforms({ seed, count }) { const next = uniforms(seed); return Array.from({ length: count }, () => next()); },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = JSON.parse(line);
  let answer;
  try { answer = { result: (await commands[command](argument)) ?? null }; }
  catch (error) { answer = { error: error.message }; }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit();                                                     // the worker's port would wait for more
