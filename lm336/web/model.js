// lm336/transformer.py in the page: float32, sums in float64.

// The bytes of a file; or one sentence that says what went wrong.
export async function download(folder, name, signal, onPart = () => {}) {
  const parts = [];
  let size = 0, reason = "the connection failed";
  try {
    const response = await fetch(folder.replace(/\/*$/, "/") + name, { signal });
    if (!response.ok) throw reason = `the server answered ${response.status}`;
    const reader = response.body.getReader();
    for (let part; !(part = await reader.read()).done; onPart(size += part.value.length)) parts.push(part.value);
    return await new Blob(parts).arrayBuffer();
  } catch (error) {
    throw signal?.aborted ? error : new Error(`${name} could not be downloaded: ${reason}.`);
  }
}

// What a reader is told of an error: our own sentence, or that the program met one which it did not foresee.
export const sentence = error => error.constructor === Error ? error.message
  : `That went wrong in the page's program: ${error.message}.`;

export async function downloadJSON(...from) {
  const text = new TextDecoder().decode(await download(...from));
  try { return JSON.parse(text); }
  catch { throw new Error(`${from[1]} is damaged: it is not JSON.`); }
}

// float16 to float32: the bits to their places, and 2^112 for the exponent's other bias.
function widen(halves) {
  const bits = Uint32Array.from(halves, half => (half & 0x8000) << 16 | (half & 0x7fff) << 13);
  return new Float32Array(bits.buffer).map(x => x * 2 ** 112);
}

// A safetensors file: the header's length, the header in JSON, the numbers.
function readTensors(buffer) {
  const tensors = {};
  try {
    const begin = 8 + new DataView(buffer).getUint32(0, true);
    const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, begin - 8)));
    for (const [name, { dtype, data_offsets: [from, to] }] of Object.entries(header)) {
      if (dtype !== "F16" || begin + to > buffer.byteLength) throw name;
      tensors[name] = new Uint16Array(buffer.slice(begin + from, begin + to));
    }
  } catch { throw new Error("model.safetensors is truncated, or is no file of float16 weights."); }
  for (const [name, halves] of Object.entries(tensors)) {
    if (halves.some(half => (half & 0x7c00) === 0x7c00)) throw new Error(`model.safetensors is damaged: ${name} holds a number that is not finite.`);
    tensors[name] = widen(halves);
  }
  return tensors;
}

// One sentence for a configuration that makes no model, or none that a page has room for.
function checkConfig(config) {
  const wrong = (name, needed) => { throw new Error(`config.json is damaged: ${name} is ${config?.[name]}, not ${needed}.`); };
  for (const name of ["vocab_size", "context_length", "d_model", "d_ff", "num_layers", "num_heads"])
    if (!(Number.isInteger(config?.[name]) && config[name] > 0)) wrong(name, "a whole number above 0");
  for (const name of ["rope_theta", "norm_eps"])
    if (!(Number.isFinite(config[name]) && config[name] > 0)) wrong(name, "a number above 0");
  const { context_length: context, d_model: d, num_layers: layers, num_heads: heads } = config;
  if (d % (2 * heads)) wrong("num_heads", `a number of even heads in ${d}`);
  if (context * d * (2 * layers + 1) > 2 ** 28)
    throw new Error(`A page has no room for the ${context} tokens of context_length in config.json.`);
}

// out = W x, or out += W x. The rows of W begin `stride` numbers apart; four go at once.
function multiply(weight, x, out, add = false, stride = x.length) {
  const columns = x.length, rows = out.length;
  if (!add) out.fill(0);
  for (let row = 0; row < rows; row += 4) {
    const last = (rows - 1) * stride;   // a row too many reads this one again
    let i = row * stride, j = Math.min(i + stride, last), k = Math.min(j + stride, last), l = Math.min(k + stride, last);
    let a = 0, b = 0, c = 0, d = 0, n = 1;
    for (; n < columns; n += 2, i += 2, j += 2, k += 2, l += 2) {
      const y = x[n - 1], z = x[n];
      a += weight[i] * y + weight[i + 1] * z;
      b += weight[j] * y + weight[j + 1] * z;
      c += weight[k] * y + weight[k + 1] * z;
      d += weight[l] * y + weight[l + 1] * z;
    }
    if (n === columns) {
      const y = x[n - 1];
      a += weight[i] * y; b += weight[j] * y; c += weight[k] * y; d += weight[l] * y;
    }
    out[row] += a; out[row + 1] += b; out[row + 2] += c; out[row + 3] += d;   // past the end: lost
  }
}

// out = x / sqrt(mean(x^2) + eps) * weight
function normalise(x, weight, eps, out) {
  const scale = 1 / Math.sqrt(x.reduce((sum, y) => sum + y * y, 0) / x.length + eps);
  for (let i = 0; i < x.length; i++) out[i] = x[i] * scale * weight[i];
}

// x becomes exp(scale x) / sum of exp(scale x); x is given back
export function softmax(x, scale) {
  let top = x[0], sum = 0;
  for (const y of x) top = Math.max(top, y);
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp((x[i] - top) * scale);
  for (let i = 0; i < x.length; i++) x[i] /= sum;
  return x;
}

export class Model {
  // config as in config.json; tensors: name -> Float32Array, names as in the state dict
  constructor(config, tensors) {
    const { vocab_size: vocab, d_model: d, d_ff: f, num_heads: heads, context_length: context } = config;
    const take = (name, size) => {
      if (tensors[name += ".weight"]?.length === size) return tensors[name];
      throw new Error(`model.safetensors does not fit config.json: ${name} should have ${size} numbers.`);
    };
    this.config = config;
    this.table = take("token_embeddings", vocab * d);
    this.head = config.tie_embeddings ? this.table : take("lm_head", vocab * d);
    this.last = take("ln_final", d);
    this.layers = Array.from({ length: config.num_layers }, (_, i) => {
      const layer = { keys: new Float32Array(context * d), values: new Float32Array(context * d) };
      for (const name of ["ln1", "ln2"]) layer[name] = take(`layers.${i}.${name}`, d);
      for (const name of ["q", "k", "v", "output"]) layer[name] = take(`layers.${i}.attn.${name}_proj`, d * d);
      for (const name of ["w1", "w2", "w3"]) layer[name] = take(`layers.${i}.ffn.${name}`, d * f);
      return layer;
    });
    const half = this.half = d / heads / 2;   // pairs in a head
    const angles = Array.from({ length: context * half },   // pair i at position m: m theta^(-i/half)
      (_, j) => Math.floor(j / half) * config.rope_theta ** (-(j % half) / half));
    this.cos = Float32Array.from(angles, Math.cos);
    this.sin = Float32Array.from(angles, Math.sin);
    const space = { x: d, h: d, q: d, k: d, v: d, mix: d, gate: f, up: f, scores: context };
    for (const name in space) this[name] = new Float32Array(space[name]);
    this.reset();
  }

  // From a folder; onProgress(bytes so far, bytes in all).
  static async load(url, onProgress = () => {}, signal) {
    const config = await downloadJSON(url, "config.json", signal);
    checkConfig(config);
    const { vocab_size: v, d_model: d, num_layers: n, d_ff: f, tie_embeddings: tied } = config;
    const total = 2 * d * ((tied ? 1 : 2) * v + n * (4 * d + 3 * f + 2) + 1);
    const progress = size => onProgress(Math.min(size, total), total);
    progress(0);
    return new Model(config, readTensors(await download(url, "model.safetensors", signal, progress)));
  }

  reset() { this.ids = []; }

  // Forget what these ids do not begin with, and their last.
  rewind(ids) {
    let n = 0;
    while (n < ids.length - 1 && ids[n] === this.ids[n]) n++;
    this.ids.length = n;
  }

  // Read a text, what is new of it: logits for the token after it.
  read(ids) {
    this.rewind(ids);
    while (this.ids.length < ids.length - 1) this.step(ids[this.ids.length], false);
    return this.step(ids.at(-1));
  }

  // Read one more token: logits (vocab_size) for the next one; with head = false only remember it.
  // When a text outgrows the context, the model forgets all but the newest half of its context, reads that anew, and carries on.
  step(id, head = true) {
    const { context_length: context, norm_eps: eps, vocab_size: vocab } = this.config;
    if (!(id >= 0 && id < vocab)) throw new Error(`Token id ${id} is not in the vocabulary of ${vocab}.`);
    if (this.ids.length === context) {
      const recent = [...this.ids, id].slice(-Math.max(1, context >> 1), -1);
      this.reset();
      for (const old of recent) this.step(old, false);
    }
    const { x, h, gate, up } = this, position = this.ids.push(id) - 1;
    x.set(this.table.subarray(id * x.length, (id + 1) * x.length));
    for (const layer of this.layers) {
      normalise(x, layer.ln1, eps, h);
      this.attend(layer, position);
      multiply(layer.output, this.mix, x, true);
      normalise(x, layer.ln2, eps, h);
      multiply(layer.w1, h, gate);
      multiply(layer.w3, h, up);
      for (let i = 0; i < gate.length; i++) gate[i] *= up[i] / (1 + Math.exp(-gate[i]));   // SwiGLU
      multiply(layer.w2, gate, x, true);
    }
    if (!head) return;
    const logits = new Float32Array(vocab);
    normalise(x, this.last, eps, h);
    multiply(this.head, h, logits);
    return logits;
  }

  // h -> mix: what each head gathers. Keys are kept as (head, position, feature), values as (head, feature,
  // position), so that both sums are products with a matrix.
  attend(layer, position) {
    const { h, q, k, v, mix, half } = this, { keys, values } = layer, context = this.config.context_length;
    const scores = this.scores.subarray(0, position + 1), width = 2 * half;
    for (const name of "qkv") multiply(layer[name], h, this[name]);
    for (const part of [q, k]) this.rotate(part, position);
    for (let i = 0; i < v.length; i++) values[i * context + position] = v[i];
    for (let from = 0; from < q.length; from += width) {
      const head = x => x.subarray(from, from + width), begin = from * context, end = begin + width * context;
      keys.set(head(k), begin + position * width);
      multiply(keys.subarray(begin, end), head(q), scores);
      softmax(scores, 1 / Math.sqrt(width));
      this.weights?.push(...scores);
      multiply(values.subarray(begin, end), scores, head(mix), false, context);
    }
  }

  // Turn the pairs (2i, 2i + 1) by the angles of a position.
  rotate(x, position) {
    for (let i = 0; i < x.length; i += 2) {
      const angle = position * this.half + i / 2 % this.half, cos = this.cos[angle], sin = this.sin[angle];
      const a = x[i], b = x[i + 1];
      x[i] = a * cos - b * sin;
      x[i + 1] = a * sin + b * cos;
    }
  }
}
