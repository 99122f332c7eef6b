// lm336/transformer.py in the page: one token at a time, with a cache of keys and values.
// Sums are taken in float64 and stored in float32.

// The bytes of a file, with a word about each part that arrives; or one sentence that says what went wrong.
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

export async function downloadJSON(...from) {
  const text = new TextDecoder().decode(await download(...from));
  try { return JSON.parse(text); }
  catch { throw new Error(`${from[1]} is damaged: it is not JSON.`); }
}

// float16 to float32: sign, exponent and fraction to their places, and 2^112 for the exponent's other bias.
function widen(halves) {
  const bits = Uint32Array.from(halves, half => (half & 0x8000) << 16 | (half & 0x7fff) << 13);
  return new Float32Array(bits.buffer).map(x => x * 2 ** 112);
}

// A safetensors file: the header's length in 8 bytes, the header in JSON, the numbers.
function readTensors(buffer) {
  try {
    const begin = 8 + Number(new DataView(buffer).getBigUint64(0, true)), tensors = {};
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, begin - 8)));
    delete header.__metadata__;
    for (const [name, { dtype, data_offsets: [from, to] }] of Object.entries(header)) {
      if (dtype !== "F16" || begin + to > buffer.byteLength) throw name;
      tensors[name] = widen(new Uint16Array(buffer.slice(begin + from, begin + to)));
    }
    return tensors;
  } catch { throw new Error("model.safetensors is truncated, or is no file of float16 weights."); }
}

// out = W x, or out += W x: W (rows, columns) row after row, eight products at a time.
function multiply(weight, x, out, add = false) {
  const columns = x.length, even = columns & ~7;
  for (let row = 0, w = 0; row < out.length; row++) {
    let a = 0, b = 0, c = 0, d = 0, j = 0;
    for (; j < even; j += 8, w += 8) {
      a += weight[w] * x[j] + weight[w + 4] * x[j + 4];
      b += weight[w + 1] * x[j + 1] + weight[w + 5] * x[j + 5];
      c += weight[w + 2] * x[j + 2] + weight[w + 6] * x[j + 6];
      d += weight[w + 3] * x[j + 3] + weight[w + 7] * x[j + 7];
    }
    for (; j < columns; j++, w++) a += weight[w] * x[j];
    out[row] = a + b + c + d + (add ? out[row] : 0);
  }
}

// RMSNorm: x / sqrt(mean(x^2) + eps) * weight
function normalise(x, weight, eps, out) {
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += x[i] * x[i];
  const scale = 1 / Math.sqrt(squares / x.length + eps);
  for (let i = 0; i < x.length; i++) out[i] = x[i] * scale * weight[i];
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
      for (const name of ["w1", "w2", "w3"]) layer[name] = take(`layers.${i}.ffn.${name}`, f * d);
      return layer;
    });
    const half = this.half = d / heads / 2;          // pairs in a head; pair i turns by m theta^(-i/half)
    const angle = (_, j) => Math.floor(j / half) * config.rope_theta ** (-(j % half) / half);
    const angles = Float64Array.from({ length: context * half }, angle);
    this.cos = Float32Array.from(angles, Math.cos);
    this.sin = Float32Array.from(angles, Math.sin);
    for (const name of ["x", "h", "q", "mix"]) this[name] = new Float32Array(d);
    for (const name of ["gate", "up"]) this[name] = new Float32Array(f);
    this.scores = new Float32Array(context);
    this.reset();
  }

  // Read config.json and model.safetensors from a folder. onProgress(bytes so far, bytes in all)
  static async load(url, onProgress = () => {}, signal) {
    const config = await downloadJSON(url, "config.json", signal);
    const { vocab_size: v, d_model: d, num_layers: n, d_ff: f, tie_embeddings: tied } = config;
    const total = 2 * ((tied ? 1 : 2) * v * d + n * (4 * d * d + 3 * d * f + 2 * d) + d);
    const progress = size => onProgress(Math.min(size, total), total);
    progress(0);
    return new Model(config, readTensors(await download(url, "model.safetensors", signal, progress)));
  }

  // Forget the text, or all but its first tokens.
  reset(length = 0) { this.ids = length ? this.ids.slice(0, length) : []; }

  // How many of these ids have been read already, from the first; the last never counts.
  known(ids) {
    let n = 0;
    while (n < this.ids.length && n < ids.length - 1 && this.ids[n] === ids[n]) n++;
    return n;
  }

  // Read one more token: logits (vocab_size) for the next one; with head = false only remember it.
  // Where the text outgrows the context, its last half is read anew, as in lm336/generation.py.
  step(id, head = true) {
    const { context_length: context, norm_eps: eps, vocab_size: vocab } = this.config;
    if (!Number.isInteger(id) || id < 0 || id >= vocab)
      throw new Error(`Token id ${id} is outside the vocabulary: ids are 0 to ${vocab - 1}.`);
    if (this.ids.length === context) {
      const recent = [...this.ids, id].slice(-Math.max(1, context >> 1), -1);
      this.reset();
      for (const old of recent) this.step(old, false);
    }
    const { x, h, gate, up } = this, d = x.length, position = this.ids.push(id) - 1;
    x.set(this.table.subarray(id * d, id * d + d));
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
    if (!head) return null;
    const logits = new Float32Array(vocab);
    normalise(x, this.last, eps, h);
    multiply(this.head, h, logits);
    return logits;
  }

  // h -> mix: what each head gathers from this position and the earlier ones.
  attend({ q: wq, k: wk, v: wv, keys, values }, position) {
    const { h, q, mix, scores, half } = this, d = h.length, width = 2 * half, end = (position + 1) * d;
    const k = keys.subarray(end - d, end);
    multiply(wq, h, q);
    multiply(wk, h, k);
    multiply(wv, h, values.subarray(end - d, end));
    this.rotate(q, position);
    this.rotate(k, position);
    mix.fill(0);
    for (let first = 0; first < d; first += width) {
      let top = -Infinity, sum = 0;
      for (let m = 0, from = first; from < end; m++, from += d) {
        let dot = 0;
        for (let i = 0; i < width; i++) dot += q[first + i] * keys[from + i];
        scores[m] = dot / Math.sqrt(width);
        if (scores[m] > top) top = scores[m];
      }
      for (let m = 0; m <= position; m++) sum += scores[m] = Math.exp(scores[m] - top);
      for (let m = 0, from = first; from < end; m++, from += d) {
        const share = scores[m] / sum;
        for (let i = 0; i < width; i++) mix[first + i] += share * values[from + i];
      }
    }
  }

  // Turn the pairs (2i, 2i + 1) of every head by the angles of a position.
  rotate(x, position) {
    for (let p = 0; 2 * p < x.length; p++) {
      const angle = position * this.half + p % this.half, cos = this.cos[angle], sin = this.sin[angle];
      const a = x[2 * p], b = x[2 * p + 1];
      x[2 * p] = a * cos - b * sin;
      x[2 * p + 1] = a * sin + b * cos;
    }
  }
}
