// Training in the page: the forward pass of lm336/transformer.py, its derivative written out by hand, lm336/adamw.py.
//
// Stories of different lengths need no padding. Their tokens lie below each other, one row each, and all but attention treats
// a row by itself; attention goes story by story. A story's rows are its tokens from the start token on, its targets the
// same tokens one later: the start token is read and never predicted, the end token is predicted and never read.
//
// The loss is in nats per story: the sum over a story's targets, the mean over a batch's stories. Its expectation is at least the
// entropy of what tells the stories, and equal only for a model that knows all their probabilities. (A mean per token would weigh
// the stories of a short batch more.)
//
// Numbers live in one memory, that of kernels.js; a name like `x` is the place where an array begins there.
import { cosineSchedule } from "./cosine.js";
import { makeKernels } from "./kernels.js";
import { turns } from "./model.js";
import { uniforms } from "./sampling.js";

// Named as the fields of TrainingConfig; the gradient whose norm is held to max_grad_norm is that of the loss per story.
export const DEFAULTS = {
  learning_rate: 5e-3, min_learning_rate: 0, warmup_steps: 20, max_steps: 800, weight_decay: 0.01,
  betas: [0.9, 0.95], max_grad_norm: 5, seed: 0,
  rope: true,      // false: no positions
  mask: true,      // false: every token sees the whole story, its own target with it
  simd: true,      // false: plain JavaScript
  used: Infinity,  // ids from here on are never read and never a target: one row stands for all of them
};

// Name -> shape of every parameter, as parameter_shapes in Python; `rows` tokens have a row.
export function parameterShapes({ d_model: d, d_ff: f, num_layers, tie_embeddings }, rows) {
  const shapes = { "token_embeddings.weight": [rows, d] };
  for (let i = 0; i < num_layers; i++) {
    for (const name of ["q", "k", "v", "output"]) shapes[`layers.${i}.attn.${name}_proj.weight`] = [d, d];
    for (const name of ["ln1", "ln2"]) shapes[`layers.${i}.${name}.weight`] = [d];
    for (const [name, shape] of [["w1", [f, d]], ["w2", [d, f]], ["w3", [f, d]]]) shapes[`layers.${i}.ffn.${name}.weight`] = shape;
  }
  shapes["ln_final.weight"] = [d];
  return tie_embeddings ? shapes : { ...shapes, "lm_head.weight": [rows, d] };
}

// A normal number by Box and Muller, drawn again beyond three standard deviations.
function truncatedNormal(next) {
  for (;;) {
    const z = Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
    if (Math.abs(z) <= 3) return z;
  }
}

export class Trainer {
  // config: as in config.json; settings: those of DEFAULTS that differ; weights: name -> Float32Array, or null to draw them
  constructor(config, settings = {}, weights = null) {
    const { d_model: d, d_ff: f, num_heads: heads, num_layers, vocab_size, context_length: context, tie_embeddings: tied } = config;
    Object.assign(this, { config, settings: { ...DEFAULTS, ...settings }, steps: 0, tokens: 0 });
    const k = this.kernels = makeKernels(this.settings.simd);
    const rows = this.rows = Math.min(vocab_size, this.settings.used + 1);
    this.copies = vocab_size - rows + 1;       // how many ids the last row stands for
    this.shapes = parameterShapes(config, rows);
    this.room = Math.max(context, k.simd ? 512 : 64);   // rows that are worked on at once

    // Four numbers for each weight: itself, its gradient, and AdamW's two averages; each kind in one piece.
    const sizes = Object.values(this.shapes).map(([a, b = 1]) => Math.ceil(a * b / 4) * 4);
    this.size = sizes.reduce((sum, size) => sum + size);
    for (const kind of ["first", "gradient", "mean", "square"]) this[kind] = k.take(this.size);
    this.places = {};
    Object.keys(this.shapes).reduce((at, name, i) => { this.places[name] = at; return at + sizes[i]; }, this.first);
    const place = name => this.places[`${name}.weight`];
    Object.assign(this, { table: place("token_embeddings"), lnFinal: place("ln_final"), head: place(tied ? "token_embeddings" : "lm_head") });

    // What a row has on its way up, kept for the way down.
    const take = n => k.take(this.room * n), stride = this.stride = Math.ceil(rows / 4) * 4;
    this.layers = Array.from({ length: num_layers }, (_, i) => {
      const layer = { x: take(d), r1: take(1), h1: take(d), q: take(d), k: take(d), v: take(d), mix: take(d), probs: take(heads * (context + 3)) };
      Object.assign(layer, { mid: take(d), r2: take(1), h2: take(d), gate: take(f), up: take(f), act: take(f) });
      for (const name of ["q", "k", "v", "output"]) layer[`${name}_proj`] = place(`layers.${i}.attn.${name}_proj`);
      for (const name of ["ln1", "ln2"]) layer[name] = place(`layers.${i}.${name}`);
      for (const name of ["w1", "w2", "w3"]) layer[name] = place(`layers.${i}.ffn.${name}`);
      return layer;
    });
    Object.assign(this, { x: take(d), r: take(1), h: take(d), logits: take(stride), targets: take(1), cos: take(d), sin: take(d) });
    Object.assign(this, { dx: take(d), dh: take(d), dq: take(d), dk: take(d), dv: take(d), dact: take(f), dprobs: k.take(context * (context + 3)) });

    this.turns = turns(config);
    this.begin(weights);
  }

  // Given weights; or drawn as in Python: embeddings of variance 1, matrices of variance 2 / (in + out), cut at three standard deviations.
  begin(given) {
    const next = uniforms(this.settings.seed), mine = this.weights, { vocab_size, tie_embeddings: tied } = this.config;
    for (const [name, [rows, columns]] of Object.entries(parameterShapes(this.config, vocab_size))) {
      const w = mine[name], size = columns ?? 1;
      if (given && given[name]?.length !== rows * size) throw new Error(`The weights do not fit config.json: ${name} should have ${rows * size} numbers.`);
      const std = name.startsWith("token") && !tied ? 1 : Math.sqrt(2 / (rows + size));
      if (given) w.set(given[name].subarray(0, w.length));
      else if (!columns) w.fill(1);
      else for (let i = 0; i < w.length; i++) w[i] = std * truncatedNormal(next);
    }
  }

  // Name -> Float32Array, live.
  get weights() { return this.named(0); }
  get gradients() { return this.named(this.gradient - this.first); }
  named(shift) {
    return Object.fromEntries(Object.entries(this.shapes).map(([name, [a, b = 1]]) => [name, this.kernels.view(this.places[name] + shift, a * b)]));
  }

  // ---- linear layers, W (out, in)

  // y = x W^T, or y += x W^T
  linear(y, x, W, out, input, add = false) {
    this.kernels.product(y, out, x, input, 1, W, 1, input, this.n, out, input, add);
  }

  // From dy: dW += dy^T x, and dx = dy W, or dx += dy W.
  linearBack(dx, dy, x, W, out, input, add = false) {
    const dW = W + this.gradient - this.first;
    this.kernels.product(dW, input, dy, 1, out, x, input, 1, out, input, this.n, true);
    this.kernels.product(dx, input, dy, out, 1, W, input, 1, this.n, input, out, add);
  }

  // ---- attention, for each head of each story; the probabilities of a story's head are kept as (query, key), `stride` apart

  *heads() {
    const { d_model: d, num_heads: heads } = this.config, width = d / heads;
    let row = 0, kept = 0;
    for (const length of this.lengths) {
      const stride = Math.ceil(length / 4) * 4;
      for (let head = 0; head < heads; head++, kept += length * stride) yield { at: row * d + head * width, kept, length, stride, width };
      row += length;
    }
  }

  // softmax(q k^T / sqrt(width)) v, each key only for queries that are not before it
  attend({ q, k, v, probs, mix }) {
    const { kernels, config: { d_model: d }, settings: { mask } } = this;
    for (const { at, kept, length, stride, width } of this.heads()) {
      const p = probs + kept;
      kernels.product(p, stride, q + at, d, 1, k + at, 1, d, length, length, width, false);
      kernels.softmax(p, stride, length, length, 1 / Math.sqrt(width), mask);
      kernels.product(mix + at, d, p, stride, 1, v + at, d, 1, length, width, length, false);
    }
  }

  // From dmix: dv = p^T dmix, dp = dmix v^T, ds from dp, dq = ds k, dk = ds^T q.
  attendBack({ q, k, v, probs }, dmix) {
    const { kernels, config: { d_model: d }, dq, dk, dv, dprobs: dp } = this;
    for (const { at, kept, length, stride, width } of this.heads()) {
      const p = probs + kept;
      kernels.product(dv + at, d, p, 1, stride, dmix + at, d, 1, length, width, length, false);
      kernels.product(dp, stride, dmix + at, d, 1, v + at, 1, d, length, length, width, false);
      kernels.softmaxBack(dp, p, stride, length, 1 / Math.sqrt(width));
      kernels.product(dq + at, d, dp, stride, 1, k + at, d, 1, length, width, length, false);
      kernels.product(dk + at, d, dp, 1, stride, q + at, d, 1, length, width, length, false);
    }
  }

  // ---- a block: x + attn(ln1(x)), then x + ffn(ln2(x))

  block(layer, next) {
    const { kernels, n, cos, sin, config: { d_model: d, d_ff: f, norm_eps: eps } } = this, { x, h1, q, k, v, mix, mid, h2, gate, up, act } = layer;
    kernels.norm(h1, layer.r1, x, layer.ln1, n, d, eps);
    this.linear(q, h1, layer.q_proj, d, d);
    this.linear(k, h1, layer.k_proj, d, d);
    this.linear(v, h1, layer.v_proj, d, d);
    kernels.rotate(q, cos, sin, n * d, 1);
    kernels.rotate(k, cos, sin, n * d, 1);
    this.attend(layer);
    this.copy(mid, x, n * d);
    this.linear(mid, mix, layer.output_proj, d, d, true);
    kernels.norm(h2, layer.r2, mid, layer.ln2, n, d, eps);
    this.linear(gate, h2, layer.w1, f, d);
    this.linear(up, h2, layer.w3, f, d);
    kernels.swiglu(act, gate, up, n * f);
    this.copy(next, mid, n * d);
    this.linear(next, act, layer.w2, d, f, true);
  }

  // The same lines from the last to the first. dx comes in as the gradient of the block's result and leaves as that of its x;
  // both additions pass it on as it is, and each branch adds what it has to say.
  blockBack(layer) {
    const { kernels, n, cos, sin, dx, dh, dq, dk, dv, dact, config: { d_model: d, d_ff: f } } = this, slope = this.gradient - this.first;
    const { x, h1, mix, mid, h2, gate, up, act } = layer;
    this.linearBack(dact, dx, act, layer.w2, d, f);
    kernels.swigluBack(gate, up, dact, n * f);
    this.linearBack(dh, gate, h2, layer.w1, f, d);
    this.linearBack(dh, up, h2, layer.w3, f, d, true);
    kernels.normBack(dx, layer.ln2 + slope, dh, mid, layer.r2, layer.ln2, n, d);
    this.linearBack(dh, dx, mix, layer.output_proj, d, d);
    this.attendBack(layer, dh);
    kernels.rotate(dq, cos, sin, n * d, -1);
    kernels.rotate(dk, cos, sin, n * d, -1);
    this.linearBack(dh, dq, h1, layer.q_proj, d, d);
    this.linearBack(dh, dk, h1, layer.k_proj, d, d, true);
    this.linearBack(dh, dv, h1, layer.v_proj, d, d, true);
    kernels.normBack(dx, layer.ln1 + slope, dh, x, layer.r1, layer.ln1, n, d);
  }

  // ---- the model

  copy(to, from, n) { this.kernels.floats.copyWithin(to, from, from + n); }

  // Rows of these stories: inputs into the first layer's x, targets, turns.
  read(stories) {
    const { kernels: { floats, ints }, config: { d_model: d }, settings: { rope } } = this;
    this.lengths = stories.map(story => story.length - 1);
    this.ids = stories.flatMap(story => Array.from(story).slice(0, -1));
    this.n = this.ids.length;
    ints.set(stories.flatMap(story => Array.from(story).slice(1)), this.targets);
    this.ids.forEach((id, row) => this.copy(this.layers[0].x + row * d, this.table + id * d, d));
    if (!rope) floats.fill(1, this.cos, this.cos + this.n * d).fill(0, this.sin, this.sin + this.n * d);
    let row = 0;
    for (const length of rope ? this.lengths : []) {
      for (const name of ["cos", "sin"]) floats.set(this.turns[name].subarray(0, length * d), this[name] + row * d);
      row += length;
    }
  }

  // Nats of these stories; gradients, times scale, are added to what is there. It may be interrupted after each layer.
  *pass(stories, scale) {
    const { kernels, layers, x, r, h, logits, lnFinal, head, stride, rows, dx, dh, config: { d_model: d, norm_eps: eps } } = this;
    this.read(stories);
    const { n } = this, slope = this.gradient - this.first;
    for (const [i, layer] of layers.entries()) { this.block(layer, layers[i + 1]?.x ?? x); yield; }
    kernels.norm(h, r, x, lnFinal, n, d, eps);
    kernels.product(logits, stride, h, d, 1, head, 1, d, n, rows, d, false);
    const nats = kernels.crossEntropy(logits, stride, this.targets, n, rows, this.copies, scale);
    if (!scale) return nats;
    yield;
    kernels.product(head + slope, d, logits, 1, stride, h, d, 1, rows, d, n, true);
    kernels.product(dh, d, logits, stride, 1, head, d, 1, n, d, rows, false);
    kernels.floats.fill(0, dx, dx + n * d);
    kernels.normBack(dx, lnFinal + slope, dh, x, r, lnFinal, n, d);
    for (const layer of layers.toReversed()) { this.blockBack(layer); yield; }
    this.ids.forEach((id, row) => {
      const to = this.table + slope + id * d, from = dx + row * d;
      for (let i = 0; i < d; i++) kernels.floats[to + i] += kernels.floats[from + i];
    });
    return nats;
  }

  // The batch in parts that fit into the room.
  *parts(stories) {
    const known = this.copies > 1 ? this.rows - 1 : this.rows;
    let part = [], rows = 0;
    for (const story of stories) {
      const length = story.length - 1, strange = story.find(id => !(id >= 0 && id < known));
      if (strange !== undefined) throw new Error(`A story has the token id ${strange}; there are the ids 0 to ${known - 1}.`);
      if (!(length > 0 && length <= this.config.context_length))
        throw new Error(`A story has ${story.length} tokens, start and end included; from 2 to ${this.config.context_length + 1} are needed.`);
      if (rows + length > this.room) { yield part; part = []; rows = 0; }
      part.push(story);
      rows += length;
    }
    yield part;
  }

  // The loss of a batch, in nats per story, without a change; it may be interrupted wherever it yields.
  *measure(stories, scale = 0) {
    let nats = 0;
    for (const part of this.parts(stories)) nats += yield* this.pass(part, scale);
    return nats / stories.length;
  }

  learningRate() {
    const { learning_rate: peak, min_learning_rate: floor, warmup_steps: warmup, max_steps: steps } = this.settings;
    return cosineSchedule(this.steps + 1, peak, Math.min(floor, peak), Math.min(warmup, steps), steps);
  }

  // One update. Stories are arrays of ids, from the start token to the end token. Its loss is that before the update.
  *step(stories) {
    const { kernels, settings: { betas: [beta1, beta2], max_grad_norm: most, weight_decay: decay }, first, gradient, mean, square, size } = this;
    kernels.floats.fill(0, gradient, gradient + size);
    const loss = yield* this.measure(stories, 1 / stories.length);
    const norm = Math.sqrt(kernels.sumOfSquares(gradient, size)), rate = this.learningRate();
    if (!Number.isFinite(loss + norm)) throw new Error(`Step ${this.steps + 1}: the loss is ${loss}, the gradient's norm ${norm}. A smaller learning rate may help.`);
    const time = ++this.steps, clip = Math.min(1, most / (norm + 1e-6));
    kernels.adamw(first, gradient, mean, square, size, clip, rate, beta1, beta2, 1 - beta1 ** time, 1 - beta2 ** time, 1e-8, decay);
    this.tokens += stories.reduce((sum, story) => sum + story.length - 1, 0);
    Object.assign(this, { loss, norm, rate });
  }
}
