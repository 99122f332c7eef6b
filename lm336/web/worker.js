// The model off the main thread: new Worker("worker.js", { type: "module" }).
// README.md lists its messages.
import { Model, downloadJSON, sentence } from "./model.js";
import { generateStream, remembered } from "./generation.js";
import { distribution, logProbability, samplingConfig } from "./sampling.js";
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

// The tokens that are likeliest to be drawn, and the one that was. Rows of the model that no token belongs to never are.
function bars(logits, request, seen, drawn) {
  const known = logits.subarray(0, tokenizer.vocab.length);
  const likeliest = count => distribution(known, samplingConfig(request), count, seen);
  const bar = ({ ids, probabilities }, i) => ({ id: ids[i], text: tokenizer.decode([ids[i]]), probability: probabilities[i] });
  const top = likeliest(request.count ?? 10), shown = Array.from(top.ids, (_, i) => bar(top, i));
  if (drawn === undefined || top.ids.includes(drawn)) return shown;
  const all = likeliest(known.length), at = all.ids.indexOf(drawn);
  return all.probabilities[at] > 0 ? [...shown.slice(0, -1), bar(all, at)] : shown;
}

async function look(request, say, mine) {
  const ids = await read(request, mine);
  if (ids) say({ type: "bars", bars: bars(model.read(ids), request, new Set(ids), request.drawn) });
}

// Each token of a text, with what the model expected in its place.
async function follow(request, say, mine) {
  const tokens = [], seen = new Set(), next = tokenizer.decoder();
  let logits;
  model.weights = undefined;
  model.reset();
  for (const id of idsOf(request)) {
    const known = logits?.subarray(0, tokenizer.vocab.length);
    tokens.push({ id, text: next(id), logprob: known ? logProbability(known, id) : null, bars: known ? bars(known, request, seen, id) : [] });
    seen.add(id);
    logits = model.step(id);
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
  const ids = await read(request, mine), seen = new Set(ids), start = performance.now();
  const settings = { ...request, max_new_tokens: request.max_new_tokens ?? 200, stop_token: request.stop_token ?? tokenizer.endOfText };
  let tokens = 0, text = "", ended = false;
  if (ids) for (const { id, logits, logprob, text: piece, cut } of generateStream(model, tokenizer, ids, settings)) {
    if (id === settings.stop_token) break;
    text += piece;
    tokens++;
    ended = cut;                         // by a stop string within this token
    say({ type: "token", id, text: piece, logprob, cut, bars: bars(logits, request, seen, id) });
    seen.add(id);
    await breathe();
    if (job !== mine) break;
  }
  const cancelled = job !== mine, tokensPerSecond = 1000 * tokens / (performance.now() - start) || 0;
  ended ||= !cancelled && tokens < settings.max_new_tokens;
  say({ type: "done", tokens, text, tokensPerSecond, ended, cancelled });
}

self.onmessage = async ({ data }) => {
  const say = message => self.postMessage({ ...message, tag: data.tag });
  const work = { load, distribution: look, read: follow, attention, generate, cancel() {} }[data.type];
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
