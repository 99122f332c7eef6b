// The model off the main thread: new Worker("worker.js", { type: "module" }).
// README.md lists its messages.
import { Model, downloadJSON, sentence } from "./model.js";
import { generateStream, remembered } from "./generation.js";
import { likeliest, samplingConfig, shortlist } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";

let model, tokenizer, names, download, job = 0;   // names: the texts of tokens, by id

// Let waiting messages in, when a job begins and then sixty times a second; a timer would take 4 ms.
const channel = new MessageChannel(), waiting = [];
let breath;   // when that was last
channel.port1.onmessage = () => waiting.shift()();
const due = () => performance.now() > breath + 16;
async function breathe() {
  if (!due()) return;
  await new Promise(resolve => { waiting.push(resolve); channel.port2.postMessage(0); });
  breath = performance.now();
}

async function load({ url }, say) {
  download = new AbortController();
  const { signal } = download, folder = new URL(url, self.location).href;
  tokenizer = null;
  const words = Tokenizer.fromJSON(await downloadJSON(folder, "tokenizer.json", signal));
  model = await Model.load(folder, (loaded, total) => say({ type: "progress", loaded, total }), signal);
  const tokens = words.vocab.length, rows = model.config.vocab_size;
  if (tokens > rows) throw new Error(`tokenizer.json has ${tokens} tokens, the model only ${rows}: they do not belong together.`);
  [tokenizer, names] = [words, []];
  say({ type: "ready", config: model.config, vocabSize: tokens });
}

// The ids of a prompt and of what comes after it.
function idsOf({ prompt = "", ids = tokenizer.encode(prompt), after = [] }) {
  const context = model.config.context_length;
  if (ids.length > context)
    throw new Error(`The prompt has ${ids.length} tokens; this model reads at most ${context}.`);
  return [...ids.length ? ids : [tokenizer.endOfText ?? 0], ...after];   // no prompt: a new document
}

// The same, no more than the context holds, and all but the last read by the model; null if something else has begun.
async function read(request, mine, weights) {
  const all = idsOf(request), ids = all.slice(-remembered(all.length, model.config.context_length));
  model.weights = weights;
  model.rewind(ids);
  while (model.ids.length < ids.length - 1) {
    model.step(ids[model.ids.length], false);
    await breathe();
    if (job !== mine) return null;
  }
  return ids;
}

// The likeliest tokens of a shortlist, and the one that was drawn.
function bars(list, { count = 10 }, drawn) {
  const bar = (id, probability) => ({ id, text: names[id] ??= tokenizer.decode([id]), probability });
  const { ids, probabilities } = likeliest(list, count), shown = Array.from(ids, (id, i) => bar(id, probabilities[i]));
  if (drawn === undefined || ids.includes(drawn)) return shown;
  const share = list.probabilities[list.ids ? list.ids.indexOf(drawn) : drawn];
  return share > 0 ? [...shown.slice(0, -1), bar(drawn, share)] : shown;
}

// Rows of the model that no token belongs to are never drawn.
const known = logits => logits.subarray(0, tokenizer.vocab.length);

async function look(request, say, mine) {
  const ids = await read(request, mine);
  if (ids) say({ type: "bars", bars: bars(shortlist(known(model.read(ids)), samplingConfig(request), new Set(ids)), request, request.drawn) });
}

// Each token of a text, with what the model expected in its place.
async function follow(request, say, mine) {
  const tokens = [], seen = new Set(), config = samplingConfig(request), next = tokenizer.decoder();
  let logits = null;
  model.weights = undefined;
  model.reset();
  for (const id of idsOf(request)) {
    tokens.push({ id, text: next(id), logprob: logits && logits[id] - model.logSum(logits.length), bars: logits ? bars(shortlist(logits, config, seen), request, id) : [] });
    seen.add(id);
    logits = known(model.step(id));
    await breathe();
    if (job !== mine) return;
  }
  say({ type: "read", tokens });
}

async function attention(request, say, mine) {
  const weights = [];
  model.reset();
  const ids = await read(request, mine, weights);
  if (!ids) return;
  model.read(ids);
  say({ type: "attention", tokens: model.ids.map(id => tokenizer.decode([id])), weights });
}

async function generate(request, say, mine) {
  const ids = await read(request, mine), start = performance.now();
  const settings = { ...request, max_new_tokens: request.max_new_tokens ?? 200, stop_token: request.stop_token ?? tokenizer.endOfText };
  let tokens = 0, text = "", ended = false, news = [];
  if (ids) for (const { id, drawnFrom, logprob, text: piece, cut } of generateStream(model, tokenizer, ids, settings)) {
    if (id === settings.stop_token) break;
    text += piece;
    tokens++;
    ended = cut;                         // by a stop string within this token
    news.push({ type: "token", id, text: piece, logprob, cut, bars: bars(drawnFrom, request, id) });
    if (!due()) continue;
    say(...news);
    news = [];
    await breathe();
    if (job !== mine) break;
  }
  const cancelled = job !== mine, tokensPerSecond = 1000 * tokens / (performance.now() - start) || 0;
  ended ||= !cancelled && tokens < settings.max_new_tokens;
  say(...news, { type: "done", tokens, text, tokensPerSecond, ended, cancelled });
}

self.onmessage = async ({ data }) => {
  const say = (...messages) => self.postMessage(messages.map(message => ({ ...message, tag: data.tag })));
  const work = { load, distribution: look, read: follow, attention, generate, cancel() {} }[data.type];
  const ready = tokenizer || work === load || data.type === "cancel";
  const mine = ready ? ++job : job;
  breath = -Infinity;
  try {
    if (!work) throw new Error(`There is no message of type ${data.type}.`);
    if (!ready) throw new Error("The model is not loaded yet.");
    download?.abort();
    await work(data, say, mine);
  } catch (error) {
    if (job === mine) say({ type: "error", message: sentence(error) });
  }
};
