// lm336/transformer.py in the page, in float32.
import { makeKernels } from "./kernels.js";

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

// What a reader is told of an error: our own sentence, or that it was not foreseen.
export const sentence = error => error.constructor === Error ? error.message
  : `Something went wrong in the page's program: ${error.message}.`;

export async function downloadJSON(...from) {
  const text = new TextDecoder().decode(await download(...from));
  try { return JSON.parse(text); }
  catch { throw new Error(`${from[1]} is damaged: it is not JSON.`); }
}

// float16 to float32: the bits to their places, and 2^112 for the exponent's other bias.
function widen(halves) {
  const bits = new Uint32Array(halves.length), floats = new Float32Array(bits.buffer);
  for (let i = 0; i < bits.length; i++) {
    bits[i] = (halves[i] & 0x8000) << 16 | (halves[i] & 0x7fff) << 13;
    floats[i] *= 2 ** 112;
  }
  return floats;
}

// The numbers of a tensor as readTensors gives it.
export const floatsOf = tensor => tensor instanceof Uint16Array ? widen(tensor) : tensor;

const FORMATS = { F16: Uint16Array, F32: Float32Array };
const finite = tensor => tensor instanceof Uint16Array ? !tensor.some(half => (half & 0x7c00) === 0x7c00) : tensor.every(Number.isFinite);

// A safetensors file: the header's length, the header in JSON, the numbers. Name -> Float32Array, or Uint16Array with the bits of float16.
export function readTensors(buffer) {
  const tensors = {};
  try {
    const begin = 8 + new DataView(buffer).getUint32(0, true);
    const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, begin - 8)));
    for (const [name, { dtype, data_offsets: [from, to] }] of Object.entries(header)) {
      if (begin + to > buffer.byteLength) throw name;
      tensors[name] = new FORMATS[dtype](buffer.slice(begin + from, begin + to));
    }
  } catch { throw new Error("model.safetensors is truncated, or is no file of float16 or float32 weights."); }
  for (const [name, tensor] of Object.entries(tensors))
    if (!finite(tensor)) throw new Error(`model.safetensors is damaged: ${name} holds a number that is not finite.`);
  return tensors;
}

// One sentence for a configuration that makes no model, or none that a page has room for.
export function checkConfig(config) {
  const wrong = (name, needed) => { throw new Error(`config.json is damaged: ${name} is ${config?.[name]}, not ${needed}.`); };
  for (const name of ["vocab_size", "context_length", "d_model", "d_ff", "num_layers", "num_heads"])
    if (!(Number.isInteger(config?.[name]) && config[name] > 0)) wrong(name, "a whole number above 0");
  for (const name of ["rope_theta", "norm_eps"])
    if (!(Number.isFinite(config[name]) && config[name] > 0)) wrong(name, "a number above 0");
  const { context_length: context, d_model: d, num_layers: layers, num_heads: heads } = config;
  if (d % (2 * heads)) wrong("num_heads", `a number of even heads in ${d}`);
  if (context * d * (2 * layers + 2) > 2 ** 28)
    throw new Error(`A page has no room for the ${context} tokens of context_length in config.json.`);
}

// Turns of `rotate` in kernels.js, for each position a row: of pair i at position m by m theta^(-2i/d_head).
export function turns({ d_model: d, num_heads: heads, context_length: context, rope_theta: theta }) {
  const width = d / heads;
  const angles = Array.from({ length: context * d }, (_, i) => Math.floor(i / d) * theta ** -((i % width - i % 2) / width));
  return { cos: Float32Array.from(angles, Math.cos), sin: Float32Array.from(angles, (angle, i) => i % 2 ? Math.sin(angle) : -Math.sin(angle)) };
}

// x becomes exp(scale x) / sum of exp(scale x); x is given back
export function softmax(x, scale) {
  let top = x[0], sum = 0;
  for (let i = 1; i < x.length; i++) top = Math.max(top, x[i]);
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp((x[i] - top) * scale);
  for (let i = 0; i < x.length; i++) x[i] /= sum;
  return x;
}

export class Model {
  // config as in config.json; tensors: as readTensors gives them, names as in the state dict. Those that lie in the kernels' memory
  // stay there and are what the model reads from now on; others are copied into it, and float16 stays float16 where the kernels read it.
  constructor(config, tensors, kernels = makeKernels()) {
    const { vocab_size: vocab, d_model: d, d_ff: f, num_heads: heads, context_length: context } = config;
    const half = this.half = kernels.simd && d % 4 + f % 4 === 0 && Object.values(tensors).every(tensor => tensor instanceof Uint16Array);
    const take = (name, size) => {
      const tensor = tensors[name += ".weight"];
      if (tensor?.length !== size) throw new Error(`model.safetensors does not fit config.json: ${name} should have ${size} numbers.`);
      if (tensor.buffer === kernels.floats.buffer) return tensor.byteOffset / 4;
      const short = half && !name.includes("ln"), place = kernels.take(short ? size / 2 : size);   // norms stay float32
      if (short) new Uint16Array(kernels.floats.buffer, 4 * place, size).set(tensor);
      else kernels.floats.set(floatsOf(tensor), place);
      return place;
    };
    Object.assign(this, { config, kernels, matvec: half ? "matvecHalf" : "matvec" });
    this.table = take("token_embeddings", vocab * d);
    this.head = config.tie_embeddings ? this.table : take("lm_head", vocab * d);
    this.last = take("ln_final", d);
    this.layers = Array.from({ length: config.num_layers }, (_, i) => {
      const layer = {};
      for (const name of ["ln1", "ln2"]) layer[name] = take(`layers.${i}.${name}`, d);
      for (const name of ["q", "k", "v", "output"]) layer[name] = take(`layers.${i}.attn.${name}_proj`, d * d);
      for (const name of ["w1", "w2", "w3"]) layer[name] = take(`layers.${i}.ffn.${name}`, d * f);
      return layer;
    });
    for (const layer of this.layers) Object.assign(layer, { keys: kernels.take(context * d), values: kernels.take(context * d) });
    const space = { x: d, r: 1, h: d, q: d, k: d, v: d, mix: d, gate: f, up: f, act: f, scores: context, logits: vocab, cos: context * d, sin: context * d };
    for (const name in space) this[name] = kernels.take(space[name]);
    for (const [name, table] of Object.entries(turns(config))) kernels.floats.set(table, this[name]);
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
  // What happens past the context, generateStream says.
  step(id, head = true) {
    const { context_length: context, norm_eps: eps, vocab_size: vocab } = this.config;
    if (!(id >= 0 && id < vocab)) throw new Error(`Token id ${id} is not in the vocabulary of ${vocab}.`);
    if (this.ids.length === context) {
      const recent = [...this.ids, id].slice(-Math.max(1, context >> 1), -1);
      this.reset();
      for (const old of recent) this.step(old, false);
    }
    const { kernels, matvec, x, r, h, mix, gate, up, act, config: { d_model: d, d_ff: f } } = this, position = this.ids.push(id) - 1;
    kernels.floats.set(this.half ? widen(new Uint16Array(kernels.floats.buffer, 4 * this.table + 2 * id * d, d)) : kernels.view(this.table + id * d, d), x);
    for (const layer of this.layers) {
      kernels.norm(h, r, x, layer.ln1, 1, d, eps);
      this.attend(layer, position);
      kernels[matvec](x, layer.output, d, mix, d, d, true);
      kernels.norm(h, r, x, layer.ln2, 1, d, eps);
      kernels[matvec](gate, layer.w1, d, h, f, d, false);
      kernels[matvec](up, layer.w3, d, h, f, d, false);
      kernels.swiglu(act, gate, up, f);
      kernels[matvec](x, layer.w2, f, act, d, f, true);
    }
    if (!head) return;
    kernels.norm(h, r, x, this.last, 1, d, eps);
    kernels[matvec](this.logits, this.head, d, h, vocab, d, false);
    return kernels.view(this.logits, vocab).slice();
  }

  // ln of the sum of exp of the last step's first `count` logits, whose place it uses: once for each step. A logit less this is
  // ln of a token's probability under the model itself.
  logSum(count) { return this.kernels.logSum(this.logits, count); }

  // h -> mix: what each head gathers. Keys are kept as (head, position, feature), values as (head, feature,
  // position), so that both sums are products with a matrix.
  attend(layer, position) {
    const { kernels, matvec, h, q, k, v, mix, scores, cos, sin } = this, { keys, values } = layer, { floats } = kernels;
    const { d_model: d, num_heads: heads, context_length: context } = this.config, width = d / heads, seen = position + 1;
    for (const name of "qkv") kernels[matvec](this[name], layer[name], d, h, d, d, false);
    for (const part of [q, k]) kernels.rotate(part, cos + position * d, sin + position * d, d, 1);
    for (let i = 0; i < d; i++) floats[values + i * context + position] = floats[v + i];
    for (let from = 0; from < d; from += width) {
      const begin = from * context;
      floats.copyWithin(keys + begin + position * width, k + from, k + from + width);
      kernels.matvec(scores, keys + begin, width, q + from, seen, width, false);
      kernels.softmax(scores, seen, 1, seen, 1 / Math.sqrt(width), false);
      this.weights?.push(...kernels.view(scores, seen));
      kernels.matvec(mix + from, values + begin, context, scores, width, seen, false);
    }
  }
}
