// The loops of kernels.js in WebAssembly SIMD: AssemblyScript, which .ci/kernels.py compiles into kernels-wasm.js. Each
// function has its namesake's arguments and does what is said there. Places and strides count float32 numbers, `at` makes
// an address of them. A vector holds four numbers; what is left of a row is done one by one.

const PANEL: usize = 0, TILE: usize = 4 * 8 * 256;     // addresses: memory that belongs to `product`
const DEPTH: i32 = 256;                                // so many steps of a sum at once: a panel stays in the first cache

// @ts-ignore: decorator
@external("env", "log") declare function log(x: f64): f64;
// @ts-ignore: decorator
@inline function at(place: i32): usize { return <usize>place << 2; }
// @ts-ignore: decorator
@inline function get(address: usize): f32 { return load<f32>(address); }
// @ts-ignore: decorator
@inline function put(address: usize, x: f32): void { store<f32>(address, x); }
// @ts-ignore: decorator
@inline function vec(x: f32): v128 { return f32x4.splat(x); }
// @ts-ignore: decorator
@inline function mad(a: v128, b: v128, c: v128): v128 { return f32x4.add(f32x4.mul(a, b), c); }
// @ts-ignore: decorator
@inline function sum(a: v128): f32 {
  return f32x4.extract_lane(a, 0) + f32x4.extract_lane(a, 1) + f32x4.extract_lane(a, 2) + f32x4.extract_lane(a, 3);
}

// exp of four numbers: 2^n exp(r) with |r| <= ln 2 / 2, a polynomial for exp(r) (Moshier's Cephes, expf); exact to 2 units of the last place
// @ts-ignore: decorator
@inline function exp4(x: v128): v128 {
  x = f32x4.max(f32x4.min(x, vec(88)), vec(-87));
  const n = f32x4.nearest(f32x4.mul(x, vec(1.44269504088896341)));
  const r = mad(n, vec(2.12194440e-4), mad(n, vec(-0.693359375), x));
  let p = mad(vec(1.9875691500e-4), r, vec(1.3981999507e-3));
  p = mad(p, r, vec(8.3334519073e-3));
  p = mad(p, r, vec(4.1665795894e-2));
  p = mad(p, r, vec(1.6666665459e-1));
  p = mad(p, r, vec(5.0000001201e-1));
  p = f32x4.add(mad(f32x4.mul(p, r), r, r), vec(1));
  return f32x4.mul(p, i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23));
}
// @ts-ignore: decorator
@inline function exp(x: f32): f32 { return f32x4.extract_lane(exp4(vec(x)), 0); }

// ---- matrices

// Four rows of a times a panel of eight columns: steps of a are ca apart, those of the panel rb; addresses and strides in bytes.
function tile(c: usize, rc: i32, a: usize, b: usize, c_: usize, d: usize, ca: i32, panel: usize, rb: i32, k: i32, add: bool): void {
  let w0 = vec(0), w1 = vec(0), x0 = vec(0), x1 = vec(0), y0 = vec(0), y1 = vec(0), z0 = vec(0), z1 = vec(0);
  for (; k > 0; k--) {
    const left = v128.load(panel), right = v128.load(panel, 16);
    let factor = v128.load32_splat(a);
    w0 = mad(factor, left, w0); w1 = mad(factor, right, w1);
    factor = v128.load32_splat(b);
    x0 = mad(factor, left, x0); x1 = mad(factor, right, x1);
    factor = v128.load32_splat(c_);
    y0 = mad(factor, left, y0); y1 = mad(factor, right, y1);
    factor = v128.load32_splat(d);
    z0 = mad(factor, left, z0); z1 = mad(factor, right, z1);
    a += ca; b += ca; c_ += ca; d += ca; panel += rb;
  }
  if (add) {
    w0 = f32x4.add(w0, v128.load(c)); w1 = f32x4.add(w1, v128.load(c, 16));
    x0 = f32x4.add(x0, v128.load(c + rc)); x1 = f32x4.add(x1, v128.load(c + rc, 16));
    y0 = f32x4.add(y0, v128.load(c + 2 * rc)); y1 = f32x4.add(y1, v128.load(c + 2 * rc, 16));
    z0 = f32x4.add(z0, v128.load(c + 3 * rc)); z1 = f32x4.add(z1, v128.load(c + 3 * rc, 16));
  }
  v128.store(c, w0); v128.store(c, w1, 16);
  v128.store(c + rc, x0); v128.store(c + rc, x1, 16);
  v128.store(c + 2 * rc, y0); v128.store(c + 2 * rc, y1, 16);
  v128.store(c + 3 * rc, z0); v128.store(c + 3 * rc, z1, 16);
}

// `width` columns of b, made eight with zeros, so that a step's eight numbers lie side by side.
function pack(b: usize, rb: i32, cb: i32, k: i32, width: i32): void {
  if (width < 8) memory.fill(PANEL, 0, <usize>k << 5);
  for (let j = 0; j < width; j++) {
    let from = b + j * cb, to = PANEL + (j << 2);
    for (let p = 0; p < k; p++) {
      put(to, get(from));
      from += rb; to += 32;
    }
  }
}

export function product(c: i32, rc: i32, a: i32, ra: i32, ca: i32, b: i32, rb: i32, cb: i32, m: i32, n: i32, k: i32, add: bool): void {
  const rowA = <i32>at(ra), stepA = <i32>at(ca), stepB = <i32>at(rb), rowC = <i32>at(rc);
  for (let begin = 0; begin < k; begin += DEPTH, add = true) {
    const depth = min(DEPTH, k - begin), firstA = at(a) + begin * stepA, firstB = at(b) + begin * stepB;
    for (let j = 0; j < n; j += 8) {
      const width = min(8, n - j), packed = cb != 1 || width < 8;
      let panel = firstB + at(j * cb);
      if (packed) {
        pack(panel, stepB, <i32>at(cb), depth, width);
        panel = PANEL;
      }
      const step = packed ? 32 : stepB;
      for (let i = 0; i < m; i += 4) {
        const rows = min(4, m - i), row = firstA + i * rowA, out = at(c + j) + i * rowC;
        const row1 = rows > 1 ? row + rowA : row, row2 = rows > 2 ? row1 + rowA : row1, row3 = rows > 3 ? row2 + rowA : row2;
        if (rows == 4 && width == 8) tile(out, rowC, row, row1, row2, row3, stepA, panel, step, depth, add);
        else {                                         // at the edge: into a tile of its own, and from there what belongs to c
          tile(TILE, 32, row, row1, row2, row3, stepA, panel, step, depth, false);
          for (let y = 0; y < rows; y++) for (let x = 0; x < width; x++) {
            const to = out + y * rowC + (x << 2), value = get(TILE + (y << 5) + (x << 2));
            put(to, add ? get(to) + value : value);
          }
        }
      }
    }
  }
}

export function matvec(y: i32, W: i32, stride: i32, x: i32, m: i32, n: i32, add: bool): void {
  const step = at(stride), last = at(W) + (m - 1) * <i32>step, whole = at(n & -4), size = at(n), factor = at(x);
  for (let row = 0; row < m; row += 4) {
    const a = at(W) + row * <i32>step, b = min(a + step, last), c = min(b + step, last), d = min(c + step, last);   // a row too many reads the last again
    let sa = vec(0), sb = vec(0), sc = vec(0), sd = vec(0), i: usize = 0;
    for (; i < whole; i += 16) {
      const f = v128.load(factor + i);
      sa = mad(v128.load(a + i), f, sa);
      sb = mad(v128.load(b + i), f, sb);
      sc = mad(v128.load(c + i), f, sc);
      sd = mad(v128.load(d + i), f, sd);
    }
    let ta = sum(sa), tb = sum(sb), tc = sum(sc), td = sum(sd);
    for (; i < size; i += 4) {
      const f = get(factor + i);
      ta += get(a + i) * f; tb += get(b + i) * f; tc += get(c + i) * f; td += get(d + i) * f;
    }
    const to = at(y + row);
    put(to, add ? get(to) + ta : ta);
    if (row + 1 < m) put(to + 4, add ? get(to + 4) + tb : tb);
    if (row + 2 < m) put(to + 8, add ? get(to + 8) + tc : tc);
    if (row + 3 < m) put(to + 12, add ? get(to + 12) + td : td);
  }
}

// Four float16 numbers in float32, times 2^-112: their bits at the places that they have there, and of the copies of the sign one.
// @ts-ignore: decorator
@inline function short(address: usize): v128 {
  return v128.and(i32x4.shl(v128.load16x4_s(address), 13), i32x4.splat(0x8fffffff));
}

// matvec for a W in float16, which is half as much to read. n is a multiple of 4; `stride` counts float16 numbers, W is the place of
// a float32 number as everywhere.
export function matvecHalf(y: i32, W: i32, stride: i32, x: i32, m: i32, n: i32, add: bool): void {
  const step = stride << 1, last = at(W) + (m - 1) * step, end = at(x + n);
  const up = vec(5192296858534827628530496329220096.0);    // 2^112
  for (let row = 0; row < m; row += 4) {
    let a = at(W) + row * step, b = min(a + step, last), c = min(b + step, last), d = min(c + step, last);
    let sa = vec(0), sb = vec(0), sc = vec(0), sd = vec(0);
    for (let i = at(x); i < end; i += 16) {
      const f = f32x4.mul(v128.load(i), up);
      sa = mad(short(a), f, sa);
      sb = mad(short(b), f, sb);
      sc = mad(short(c), f, sc);
      sd = mad(short(d), f, sd);
      a += 8; b += 8; c += 8; d += 8;
    }
    const to = at(y + row);
    put(to, add ? get(to) + sum(sa) : sum(sa));
    if (row + 1 < m) put(to + 4, add ? get(to + 4) + sum(sb) : sum(sb));
    if (row + 2 < m) put(to + 8, add ? get(to + 8) + sum(sc) : sum(sc));
    if (row + 3 < m) put(to + 12, add ? get(to + 12) + sum(sd) : sum(sd));
  }
}

// ---- rows

export function norm(out: i32, r: i32, x: i32, w: i32, n: i32, d: i32, eps: f32): void {
  let from = at(x), to = at(out), scales = at(r);
  const weight = at(w), size = at(d), whole = at(d & -4);
  for (; n > 0; n--) {
    let sums = vec(0), i: usize = 0;
    for (; i < whole; i += 16) { const y = v128.load(from + i); sums = mad(y, y, sums); }
    let total = sum(sums);
    for (; i < size; i += 4) { const y = get(from + i); total += y * y; }
    const scale = <f32>1 / sqrt<f32>(total / <f32>d + eps), scale4 = vec(scale);
    put(scales, scale);
    for (i = 0; i < whole; i += 16) v128.store(to + i, f32x4.mul(f32x4.mul(v128.load(from + i), scale4), v128.load(weight + i)));
    for (; i < size; i += 4) put(to + i, get(from + i) * scale * get(weight + i));
    from += size; to += size; scales += 4;
  }
}

export function normBack(dx: i32, dw: i32, dy: i32, x: i32, r: i32, w: i32, n: i32, d: i32): void {
  let from = at(x), grad = at(dy), to = at(dx), scales = at(r);
  const weight = at(w), learn = at(dw), size = at(d), whole = at(d & -4);
  for (; n > 0; n--) {
    const scale = get(scales), scale4 = vec(scale);
    let sums = vec(0), i: usize = 0;
    for (; i < whole; i += 16) {
      const both = f32x4.mul(v128.load(grad + i), v128.load(from + i));
      v128.store(learn + i, mad(both, scale4, v128.load(learn + i)));
      sums = mad(both, v128.load(weight + i), sums);
    }
    let total = sum(sums);
    for (; i < size; i += 4) {
      const both = get(grad + i) * get(from + i);
      put(learn + i, get(learn + i) + both * scale);
      total += both * get(weight + i);
    }
    const pull = total * scale * scale / <f32>d, pull4 = vec(pull);
    for (i = 0; i < whole; i += 16) {
      const own = f32x4.mul(v128.load(weight + i), v128.load(grad + i));
      v128.store(to + i, mad(f32x4.sub(own, f32x4.mul(v128.load(from + i), pull4)), scale4, v128.load(to + i)));
    }
    for (; i < size; i += 4) put(to + i, get(to + i) + scale * (get(weight + i) * get(grad + i) - get(from + i) * pull));
    from += size; grad += size; to += size; scales += 4;
  }
}

export function rotate(x: i32, cos: i32, sin: i32, n: i32, way: f32): void {
  const from = at(x), way4 = vec(way), size = at(n);
  for (let i: usize = 0; i < size; i += 16) {          // the memory ends at a whole vector
    const a = v128.load(from + i), other = i32x4.shuffle(a, a, 1, 0, 3, 2);
    v128.store(from + i, mad(a, v128.load(at(cos) + i), f32x4.mul(f32x4.mul(other, way4), v128.load(at(sin) + i))));
  }
}

// The largest of n numbers.
function largest(x: usize, n: i32): f32 {
  let top = get(x), i = 0;
  if (n >= 4) {
    let tops = v128.load(x);
    for (; i + 4 <= n; i += 4) tops = f32x4.max(tops, v128.load(x + at(i)));
    top = max(max(f32x4.extract_lane(tops, 0), f32x4.extract_lane(tops, 1)), max(f32x4.extract_lane(tops, 2), f32x4.extract_lane(tops, 3)));
  }
  for (; i < n; i++) top = max(top, get(x + at(i)));
  return top;
}

// n numbers become exp(scale (x - top)): their sum
function exponentials(x: usize, n: i32, top: f32, scale: f32): f32 {
  const top4 = vec(top), scale4 = vec(scale);
  let sums = vec(0), i = 0;
  for (; i + 4 <= n; i += 4) {
    const e = exp4(f32x4.mul(f32x4.sub(v128.load(x + at(i)), top4), scale4));
    v128.store(x + at(i), e);
    sums = f32x4.add(sums, e);
  }
  let total = sum(sums);
  for (; i < n; i++) {
    const e = exp((get(x + at(i)) - top) * scale);
    put(x + at(i), e);
    total += e;
  }
  return total;
}

// n numbers, times a factor
function times(x: usize, n: i32, factor: f32): void {
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(x + at(i), f32x4.mul(v128.load(x + at(i)), vec(factor)));
  for (; i < n; i++) put(x + at(i), get(x + at(i)) * factor);
}

export function softmax(s: i32, stride: i32, m: i32, n: i32, scale: f32, mask: bool): void {
  let x = at(s);
  for (let row = 0; row < m; row++) {
    const count = mask ? row + 1 : n;
    times(x, count, <f32>1 / exponentials(x, count, largest(x, count), scale));
    memory.fill(x + at(count), 0, at(stride - count));
    x += at(stride);
  }
}

export function softmaxBack(dp: i32, p: i32, stride: i32, n: i32, scale: f32): void {
  let grad = at(dp), prob = at(p);
  const size = at(stride), scale4 = vec(scale);       // beyond n the row has zeros as probabilities
  for (let row = 0; row < n; row++) {
    let sums = vec(0);
    for (let i: usize = 0; i < size; i += 16) sums = mad(v128.load(prob + i), v128.load(grad + i), sums);
    const total4 = vec(sum(sums));
    for (let i: usize = 0; i < size; i += 16)
      v128.store(grad + i, f32x4.mul(f32x4.mul(scale4, v128.load(prob + i)), f32x4.sub(v128.load(grad + i), total4)));
    grad += size; prob += size;
  }
}

export function swiglu(out: i32, gate: i32, up: i32, n: i32): void {
  for (let i: usize = 0; i < at(n); i += 16) {
    const x = v128.load(at(gate) + i), sigmoid = f32x4.div(vec(1), f32x4.add(vec(1), exp4(f32x4.neg(x))));
    v128.store(at(out) + i, f32x4.mul(f32x4.mul(x, sigmoid), v128.load(at(up) + i)));
  }
}

export function swigluBack(gate: i32, up: i32, dy: i32, n: i32): void {
  for (let i: usize = 0; i < at(n); i += 16) {
    const x = v128.load(at(gate) + i), y = v128.load(at(up) + i), g = v128.load(at(dy) + i);
    const sigmoid = f32x4.div(vec(1), f32x4.add(vec(1), exp4(f32x4.neg(x)))), pass = f32x4.mul(g, sigmoid);
    v128.store(at(gate) + i, f32x4.mul(f32x4.mul(pass, y), mad(x, f32x4.sub(vec(1), sigmoid), vec(1))));
    v128.store(at(up) + i, f32x4.mul(pass, x));
  }
}

export function crossEntropy(z: i32, stride: i32, targets: i32, n: i32, v: i32, copies: f64, scale: f32): f64 {
  let x = at(z), goal = at(targets), nats: f64 = 0;
  const last = <f32>log(copies);
  for (; n > 0; n--) {
    const target = x + at(load<i32>(goal)), end = x + at(v - 1);
    put(end, get(end) + last);
    const top = largest(x, v), score = get(target), total = exponentials(x, v, top, 1);
    nats += <f64>(top - score) + log(<f64>total);
    times(x, v, scale / total);
    put(target, get(target) - scale);
    x += at(stride); goal += 4;
  }
  return nats;
}

export function logSum(x: i32, n: i32): f64 {
  const top = largest(at(x), n);
  return <f64>top + log(<f64>exponentials(at(x), n, top, 1));
}

// ---- all weights at once

export function sumOfSquares(x: i32, n: i32): f64 {
  let sums = f64x2.splat(0);
  for (let i = at(x); i < at(x + n); i += 16) {
    const low = f64x2.promote_low_f32x4(v128.load(i)), high = f64x2.promote_low_f32x4(v128.load(i, 8));
    sums = f64x2.add(sums, f64x2.add(f64x2.mul(low, low), f64x2.mul(high, high)));
  }
  return f64x2.extract_lane(sums, 0) + f64x2.extract_lane(sums, 1);
}

export function adamw(w: i32, g: i32, m: i32, v: i32, n: i32, clip: f64, rate: f64, beta1: f64, beta2: f64, unbias1: f64, unbias2: f64, eps: f64, decay: f64): void {
  const keep = vec(<f32>(1 - rate * decay)), step = vec(<f32>(rate / unbias1)), inverse = vec(<f32>(1 / unbias2));
  const old1 = vec(<f32>beta1), new1 = vec(<f32>(1 - beta1)), old2 = vec(<f32>beta2), new2 = vec(<f32>(1 - beta2));
  const small = vec(<f32>eps), shrink = vec(<f32>clip);
  for (let i: usize = 0; i < at(n); i += 16) {
    const grad = f32x4.mul(v128.load(at(g) + i), shrink);
    const mean = mad(old1, v128.load(at(m) + i), f32x4.mul(new1, grad));
    const square = mad(old2, v128.load(at(v) + i), f32x4.mul(f32x4.mul(new2, grad), grad));
    v128.store(at(m) + i, mean);
    v128.store(at(v) + i, square);
    const move = f32x4.div(f32x4.mul(step, mean), f32x4.add(f32x4.sqrt(f32x4.mul(square, inverse)), small));
    v128.store(at(w) + i, f32x4.sub(f32x4.mul(v128.load(at(w) + i), keep), move));
  }
}
