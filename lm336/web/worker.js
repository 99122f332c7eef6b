// The model off the main thread: new Worker("worker.js", { type: "module" }).
// README.md lists its messages.
import { Model, downloadJSON, sentence } from "./model.js";
import { darts, distribution, sample, surprise } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";

let model, tokenizer, download, job = 0;

// Let waiting messages in, in microseconds; a timer would take 4 ms.
const channel = new MessageChannel(), waiting = [];
channel.port1.onmessage = () => waiting.shift()();
const breathe = () => new Promise(resolve => { waiting.push(resolve); channel.port2.postMessage(0); });

async function load({ url }, say) {
  download = new AbortController();
  const { signal } = download, folder = new URL(url, self.location).href;
  tokenizer = null;
  const words = Tokenizer.fromJSON(await downloadJSON(folder, "tokenizer.json", signal));
  model = await Model.load(folder, (loaded, total) => say({ type: "progress", loaded, total }), signal);
  const tokens = words.vocab.length, rows = model.config.vocab_size;
  if (tokens > rows) throw new Error(`tokenizer.json has ${tokens} tokens, the model only ${rows}: they do not belong together.`);
  tokenizer = words;
  say({ type: "ready", config: model.config, vocabSize: tokens });
}

// The scores of the tokenizer's tokens: rows of the model that no token belongs to are never drawn.
const known = logits => logits.subarray(0, tokenizer.vocab.length);

// Logits after a prompt, reading only what is new to the model; null if something else has begun.
async function read({ prompt = "", ids = tokenizer.encode(prompt) }, mine, weights) {
  if (!ids.length) ids = [tokenizer.endOfText ?? 0];   // a new document
  const context = model.config.context_length;
  if (ids.length > context)
    throw new Error(`The prompt has ${ids.length} tokens; this model reads at most ${context}.`);
  model.weights = weights;
  model.rewind(ids);
  while (model.ids.length < ids.length - 1) {
    model.step(ids[model.ids.length], false);
    await breathe();
    if (job !== mine) return null;
  }
  return known(model.step(ids.at(-1)));
}

function bars(logits, request) {
  const { ids, probabilities } = distribution(logits, request, request.count ?? 10);
  return Array.from(ids, (id, i) => ({ id, text: tokenizer.decode([id]), probability: probabilities[i] }));
}

async function look(request, say, mine) {
  const logits = await read(request, mine);
  if (logits) say({ type: "bars", bars: bars(logits, request) });
}

async function attention(request, say, mine) {
  const weights = [];
  model.reset();
  if (await read(request, mine, weights))
    say({ type: "attention", tokens: model.ids.map(id => tokenizer.decode([id])), weights });
}

async function generate(request, say, mine) {
  const { maxNewTokens = 200, seed = Math.random() * 2 ** 32 } = request;
  const next = darts(seed), decode = tokenizer.decoder();
  let logits = await read(request, mine), tokens = 0, text = "", ended = false;
  const start = performance.now();
  while (job === mine && tokens < maxNewTokens) {
    const id = sample(logits, next(), request), piece = decode(id);
    if (ended = id === tokenizer.endOfText) break;
    text += piece;
    say({ type: "token", id, text: piece, surprise: surprise(logits, id), bars: bars(logits, request) });
    if (++tokens < maxNewTokens) logits = known(model.step(id));
    await breathe();
  }
  const tokensPerSecond = 1000 * tokens / (performance.now() - start) || 0;
  say({ type: "done", tokens, text: text + (ended ? "" : decode()), tokensPerSecond, ended, cancelled: job !== mine });
}

self.onmessage = async ({ data }) => {
  const say = message => self.postMessage({ ...message, tag: data.tag });
  const work = { load, distribution: look, attention, generate, cancel() {} }[data.type];
  const ready = tokenizer || work === load || data.type === "cancel";
  const mine = ready ? ++job : job;
  try {
    if (!work) throw new Error(`There is no message of type ${data.type}.`);
    if (!ready) throw new Error("The model is not loaded yet.");
    download?.abort();
    await work(data, say, mine);
  } catch (error) {
    if (job === mine) say({ type: "error", message: sentence(error) });
  }
};
