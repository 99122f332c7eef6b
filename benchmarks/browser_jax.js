// The step of lm336/web/train.js in jax-js, for browser.py: the same model, loss and AdamW, gradients by its autodiff, the whole
// step compiled by its jit. `jax` is its module. An array that is read more than once needs `.ref`, its count of owners.
export async function jaxStep(jax, config, settings, weights, shapes, batches) {
  const { numpy: np, nn, jit, valueAndGrad, init, defaultDevice, tree, blockUntilReady } = jax;
  const { d_model: d, num_heads: heads, num_layers: layers, norm_eps: eps, rope_theta: theta } = config, width = d / heads;
  await init("wasm");
  defaultDevice("wasm");
  const [b, t] = [batches[0].length, Math.max(...batches.flat().map(story => story.length - 1))];
  const names = Object.keys(shapes), rows = shapes["token_embeddings.weight"][0];
  const table = turn => np.array(Float32Array.from({ length: t * width / 2 }, (_, i) =>
    turn(Math.floor(i / (width / 2)) * theta ** (-2 * (i % (width / 2)) / width)))).reshape([1, 1, t, width / 2, 1]);
  const cos = table(Math.cos), sin = table(Math.sin);
  const hidden = np.array(Float32Array.from({ length: t * t }, (_, i) => i % t > Math.floor(i / t) ? -1e30 : 0)).reshape([1, 1, t, t]);

  const norm = (x, w) => x.ref.div(np.sqrt(np.mean(x.ref.mul(x), -1, { keepdims: true }).add(eps))).mul(w);
  const linear = (x, w) => np.matmul(x, np.transpose(w));
  const heads4 = x => np.transpose(x.reshape([b, t, heads, width]), [0, 2, 1, 3]);
  const rotate = x => {
    const pairs = x.reshape([b, heads, t, width / 2, 2]);
    const even = pairs.ref.slice([], [], [], [], [0, 1]), odd = pairs.slice([], [], [], [], [1, 2]);
    const left = even.ref.mul(cos.ref).sub(odd.ref.mul(sin.ref)), right = even.mul(sin.ref).add(odd.mul(cos.ref));
    return np.concatenate([left, right], -1).reshape([b, heads, t, width]);
  };
  function loss(list, inputs, targets) {              // one-hot rows: zeros where a story has ended
    const p = Object.fromEntries(names.map((name, i) => [name.replace(".weight", ""), list[i]]));
    let x = np.matmul(inputs, p.token_embeddings);
    for (let i = 0; i < layers; i++) {
      const of = name => p[`layers.${i}.${name}`], h = norm(x.ref, of("ln1"));
      const q = rotate(heads4(linear(h.ref, of("attn.q_proj")))), k = rotate(heads4(linear(h.ref, of("attn.k_proj")))), v = heads4(linear(h, of("attn.v_proj")));
      const scores = np.matmul(q, np.transpose(k, [0, 1, 3, 2])).mul(1 / Math.sqrt(width)).add(hidden.ref);
      const mix = np.transpose(np.matmul(nn.softmax(scores, -1), v), [0, 2, 1, 3]).reshape([b, t, d]);
      x = x.add(linear(mix, of("attn.output_proj")));
      const g = norm(x.ref, of("ln2"));
      x = x.add(linear(nn.silu(linear(g.ref, of("ffn.w1"))).mul(linear(g, of("ffn.w3"))), of("ffn.w2")));
    }
    const logits = linear(norm(x, p.ln_final), p.lm_head);
    return np.sum(nn.logSoftmax(logits, -1).mul(targets)).mul(-1 / b);
  }
  const { betas: [beta1, beta2], weight_decay: decay, max_grad_norm: most } = settings;
  const step = jit((p, m, v, inputs, targets, rate, unbias1, unbias2) => {
    const [nats, grads] = valueAndGrad(loss)(p.map(x => x.ref), inputs, targets);
    const total = grads.map(g => np.sum(g.ref.mul(g.ref))).reduce((sum, x) => sum.add(x));
    const clip = np.minimum(np.reciprocal(np.sqrt(total).add(1e-6)).mul(most), 1);
    const g = grads.map(x => x.mul(clip.ref));
    clip.dispose();
    const mean = m.map((x, i) => x.mul(beta1).add(g[i].ref.mul(1 - beta1)));
    const square = v.map((x, i) => x.mul(beta2).add(g[i].ref.mul(g[i]).mul(1 - beta2)));
    const next = p.map((x, i) => x.mul(np.array(1).sub(rate.ref.mul(decay)))
      .sub(rate.ref.mul(mean[i].ref.div(unbias1.ref)).div(np.sqrt(square[i].ref.div(unbias2.ref)).add(1e-8))));
    for (const x of [rate, unbias1, unbias2]) x.dispose();
    return [nats, next, mean, square];
  });
  let p = names.map(name => np.array(weights[name].slice()).reshape(shapes[name])), [m, v] = [0, 0].map(() => names.map(name => np.zeros(shapes[name])));
  const hot = (batch, from) => {
    const out = new Float32Array(b * t * rows);
    batch.forEach((story, i) => story.slice(from, story.length - 1 + from).forEach((id, j) => { out[(i * t + j) * rows + id] = 1; }));
    return np.array(out).reshape([b, t, rows]);
  };
  const losses = [], seconds = [];
  for (const [i, batch] of batches.entries()) {
    const begin = performance.now(), number = x => np.array(x), rate = settings.rate(i + 1);
    const [nats, ...rest] = step(p, m, v, hot(batch, 0), hot(batch, 1), number(rate), number(1 - beta1 ** (i + 1)), number(1 - beta2 ** (i + 1)));
    [p, m, v] = rest;
    losses.push(await nats.jsAsync());
    await blockUntilReady(p.map(x => x.ref));
    seconds.push((performance.now() - begin) / 1000);
  }
  return { losses, seconds };
}
