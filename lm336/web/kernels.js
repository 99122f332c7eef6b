// The loops that take the time: in plain JavaScript here, sums in float64; in WebAssembly SIMD, from kernels.ts.
// All numbers are float32 in one memory; an argument that names an array is the place where it begins there.
import { WASM } from "./kernels-wasm.js";

export class PlainKernels {
  simd = false;
  end = 4096;                                  // what lies before belongs to `product` of kernels.ts

  constructor() { this.grow(); }

  grow() {
    const old = this.floats;
    this.floats = new Float32Array(2 * this.end);
    if (old) this.floats.set(old);
    this.ints = new Int32Array(this.floats.buffer);
  }

  // The place of n new numbers, zeros; four of them fill a vector. Views from before may be void then.
  take(n) {
    const place = this.end;
    this.end += Math.ceil(n / 4) * 4;
    if (this.end > this.floats.length) this.grow();
    return place;
  }

  view(place, n) { return this.floats.subarray(place, place + n); }

  // c = a b, or c += a b, for a (m, k) and b (k, n): element (i, p) of a lies at a + i ra + p ca, and so on; in c a row is contiguous.
  product(c, rc, a, ra, ca, b, rb, cb, m, n, k, add) {
    const F = this.floats;
    for (let i = 0; i < m; i++) for (let j = 0; j < n; j += 4) {
      const left = n - j, row = c + i * rc + j;
      let at = a + i * ra, p = b + j * cb, q = left > 1 ? p + cb : p, r = left > 2 ? q + cb : p, s = left > 3 ? r + cb : p;
      let w = 0, x = 0, y = 0, z = 0;
      for (let step = 0; step < k; step++, at += ca, p += rb, q += rb, r += rb, s += rb) {
        const factor = F[at];
        w += factor * F[p]; x += factor * F[q]; y += factor * F[r]; z += factor * F[s];
      }
      F[row] = add ? F[row] + w : w;
      if (left > 1) F[row + 1] = add ? F[row + 1] + x : x;
      if (left > 2) F[row + 2] = add ? F[row + 2] + y : y;
      if (left > 3) F[row + 3] = add ? F[row + 3] + z : z;
    }
  }

  // y = W x, or y += W x, for W (m, n): its rows begin `stride` numbers apart; four go at once.
  matvec(y, W, stride, x, m, n, add) {
    const F = this.floats;
    for (let row = 0; row < m; row += 4) {
      const last = W + (m - 1) * stride;           // a row too many reads this one again
      let i = W + row * stride, j = Math.min(i + stride, last), k = Math.min(j + stride, last), l = Math.min(k + stride, last);
      let a = 0, b = 0, c = 0, d = 0;
      for (let at = x; at < x + n; at++, i++, j++, k++, l++) {
        const factor = F[at];
        a += F[i] * factor; b += F[j] * factor; c += F[k] * factor; d += F[l] * factor;
      }
      const sums = [a, b, c, d];
      for (let at = row; at < Math.min(row + 4, m); at++) F[y + at] = (add ? F[y + at] : 0) + sums[at - row];
    }
  }

  // RMSNorm of n rows of d: out = x r w, and r = 1 / sqrt(mean(x^2) + eps) for each row.
  norm(out, r, x, w, n, d, eps) {
    const F = this.floats;
    for (let row = 0; row < n; row++, x += d, out += d) {
      let sum = 0;
      for (let i = 0; i < d; i++) sum += F[x + i] * F[x + i];
      const scale = F[r + row] = 1 / Math.sqrt(sum / d + eps);
      for (let i = 0; i < d; i++) F[out + i] = F[x + i] * scale * F[w + i];
    }
  }

  // From the gradient dy of its result: dw += dy x r; dx += r (w dy - x r^2 mean(w dy x)), since r depends on every x of the row.
  normBack(dx, dw, dy, x, r, w, n, d) {
    const F = this.floats;
    for (let row = 0; row < n; row++, x += d, dx += d, dy += d) {
      const scale = F[r + row];
      let sum = 0;
      for (let i = 0; i < d; i++) {
        F[dw + i] += F[dy + i] * F[x + i] * scale;
        sum += F[w + i] * F[dy + i] * F[x + i];
      }
      const pull = sum * scale * scale / d;
      for (let i = 0; i < d; i++) F[dx + i] += scale * (F[w + i] * F[dy + i] - F[x + i] * pull);
    }
  }

  // Turns n numbers, pair by pair: (a, b) becomes (a cos - b sin, a sin + b cos). cos has each cosine twice, sin each sine
  // as -sin, +sin. way = -1 turns back, which is also what the gradient asks for.
  rotate(x, cos, sin, n, way) {
    const F = this.floats;
    for (let i = 0; i < n; i += 2) {
      const a = F[x + i], b = F[x + i + 1];
      F[x + i] = a * F[cos + i] + way * b * F[sin + i];
      F[x + i + 1] = b * F[cos + i + 1] + way * a * F[sin + i + 1];
    }
  }

  // Each of m rows of n scores becomes exp(scale s) / sum exp(scale s); with the mask, row i has the scores 0 to i, then zeros.
  softmax(s, stride, m, n, scale, mask) {
    const F = this.floats;
    for (let row = 0; row < m; row++, s += stride) {
      const count = mask ? row + 1 : n;
      let top = F[s], sum = 0;
      for (let i = 1; i < count; i++) top = Math.max(top, F[s + i]);
      for (let i = 0; i < count; i++) sum += F[s + i] = Math.exp((F[s + i] - top) * scale);
      for (let i = 0; i < count; i++) F[s + i] /= sum;
      F.fill(0, s + count, s + stride);
    }
  }

  // From the gradient dp of its result p, in place: ds = scale p (dp - sum(p dp)). Where p is 0, so is ds.
  softmaxBack(dp, p, stride, n, scale) {
    const F = this.floats;
    for (let row = 0; row < n; row++, dp += stride, p += stride) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += F[p + i] * F[dp + i];
      for (let i = 0; i < n; i++) F[dp + i] = scale * F[p + i] * (F[dp + i] - sum);
    }
  }

  // out = silu(gate) up, with silu(x) = x / (1 + exp(-x))
  swiglu(out, gate, up, n) {
    const F = this.floats;
    for (let i = 0; i < n; i++) F[out + i] = F[gate + i] * F[up + i] / (1 + Math.exp(-F[gate + i]));
  }

  // From the gradient dy of its result, in place: gate and up become their gradients.
  swigluBack(gate, up, dy, n) {
    const F = this.floats;
    for (let i = 0; i < n; i++) {
      const x = F[gate + i], y = F[up + i], g = F[dy + i], sigmoid = 1 / (1 + Math.exp(-x));
      F[gate + i] = g * y * sigmoid * (1 + x * (1 - sigmoid));
      F[up + i] = g * x * sigmoid;
    }
  }

  // The sum of -ln p(target) over n rows of logits, each of which becomes scale (p - 1[target]). The last of the v logits
  // counts `copies` times; targets are whole numbers.
  crossEntropy(z, stride, targets, n, v, copies, scale) {
    const F = this.floats, last = Math.log(copies);
    let nats = 0;
    for (let row = 0; row < n; row++, z += stride) {
      const target = z + this.ints[targets + row];
      F[z + v - 1] += last;
      let top = F[z], sum = 0;
      for (let i = 1; i < v; i++) top = Math.max(top, F[z + i]);
      nats += top - F[target];
      for (let i = 0; i < v; i++) sum += F[z + i] = Math.exp(F[z + i] - top);
      nats += Math.log(sum);
      for (let i = 0; i < v; i++) F[z + i] *= scale / sum;
      F[target] -= scale;
    }
    return nats;
  }

  // ln of the sum of exp of n numbers, which it overwrites
  logSum(x, n) {
    const F = this.floats;
    let top = F[x], sum = 0;
    for (let i = 1; i < n; i++) top = Math.max(top, F[x + i]);
    for (let i = 0; i < n; i++) sum += F[x + i] = Math.exp(F[x + i] - top);
    return top + Math.log(sum);
  }

  sumOfSquares(x, n) {
    let sum = 0;
    for (let i = x; i < x + n; i++) sum += this.floats[i] * this.floats[i];
    return sum;
  }

  // AdamW (Loshchilov & Hutter 2019, algorithm 2) for n weights, their gradients times `clip`; unbias1 = 1 - beta1^t, unbias2 = 1 - beta2^t.
  adamw(w, g, m, v, n, clip, rate, beta1, beta2, unbias1, unbias2, eps, decay) {
    const F = this.floats;
    for (let i = 0; i < n; i++) {
      const grad = F[g + i] * clip;
      const mean = F[m + i] = beta1 * F[m + i] + (1 - beta1) * grad;
      const square = F[v + i] = beta2 * F[v + i] + (1 - beta2) * grad * grad;
      F[w + i] = F[w + i] * (1 - rate * decay) - rate * (mean / unbias1) / (Math.sqrt(square / unbias2) + eps);
    }
  }
}

let compiled;                                  // null: no SIMD here, or a page that allows no WebAssembly
function compile() {
  try { return new WebAssembly.Module(Uint8Array.from(atob(WASM), c => c.charCodeAt())); }
  catch { return null; }
}

class SimdKernels extends PlainKernels {
  simd = true;

  constructor() {
    super();
    Object.assign(this, new WebAssembly.Instance(compiled, { env: { memory: this.memory, log: Math.log } }).exports);
  }

  grow() {
    const pages = Math.ceil(this.end / 2 ** 13);   // twice what is needed; a page has 2^14 numbers
    if (this.memory) this.memory.grow(pages - this.floats.length / 2 ** 14);
    else this.memory = new WebAssembly.Memory({ initial: pages });
    this.floats = new Float32Array(this.memory.buffer);
    this.ints = new Int32Array(this.memory.buffer);
  }
}

// simd = false: in plain JavaScript, whatever this machine has
export function makeKernels(simd = true) {
  if (simd && compiled === undefined) compiled = compile();
  return simd && compiled ? new SimdKernels() : new PlainKernels();
}
