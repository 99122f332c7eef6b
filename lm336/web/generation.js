// lm336/generation.py in the page: the one stream of tokens.
import { draw, samplingConfig, shortlist, uniforms } from "./sampling.js";
import { bytesOf } from "./tokenizer.js";

// How many characters at the end of a string of bytes belong to a character that is not complete.
function incomplete(bytes) {
  for (let n = 1; n <= Math.min(3, bytes.length); n++) {
    const byte = bytes.charCodeAt(bytes.length - n);
    if (byte >= 0xc0) return n < (byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4) ? n : 0;
    if (byte < 0x80) return 0;
  }
  return 0;
}

// How many bytes at the end of `bytes` may be the beginning of `stop`.
function overlap(bytes, stop) {
  let n = Math.min(bytes.length, stop.length - 1);
  while (!bytes.endsWith(stop.slice(0, n))) n--;
  return n;
}

// The text of a stream: tokens wait while their bytes may belong to a stop string, or to a character that is not complete.
class Pieces {
  constructor(tokenizer, stopStrings) {
    this.tokenizer = tokenizer;
    this.stops = stopStrings.map(text => bytesOf(text).join(""));
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    this.waiting = [];
    this.stopped = false;
  }

  // The tokens that have become certain with this one, each with its text. Of a token in which a stop string begins only
  // the text before it is left: it is `cut`. last: no more tokens will come.
  *add(token, last) {
    const { waiting, stops, tokenizer: { vocab } } = this;
    if (!waiting.length && !stops.length && /^[\0-\x7f]*$/.test(vocab[token.id])) {   // ASCII
      yield Object.assign(token, { text: vocab[token.id], cut: false });
      return;
    }
    waiting.push(token);
    const bytes = waiting.map(({ id }) => vocab[id]).join("");
    const found = stops.filter(stop => bytes.includes(stop)).map(stop => ({ begin: bytes.indexOf(stop), end: bytes.indexOf(stop) + stop.length }));
    found.sort((a, b) => a.end - b.end || a.begin - b.begin);
    this.stopped = found.length > 0;
    const over = last || this.stopped;
    const end = this.stopped ? found[0].begin : over ? bytes.length
      : bytes.length - Math.max(incomplete(bytes), ...stops.map(stop => overlap(bytes, stop)));
    for (let begin = 0; begin < end;) {
      const size = vocab[waiting[0].id].length, cut = begin + size > end;
      if (cut && !over) return;
      const piece = Uint8Array.from(bytes.slice(begin, Math.min(begin += size, end)), c => c.charCodeAt());
      yield Object.assign(waiting.shift(), { text: this.decoder.decode(piece, { stream: !over || begin < end }), cut });
    }
  }
}

// How many of a text's newest tokens a model has in mind, once the stream has read so many.
export function remembered(count, context) {
  const half = Math.max(1, context >> 1);
  return count <= context ? count : half + (count - context - 1) % (context + 1 - half);
}

// The tokens after `ids`: { id, logits, logprob, text, cut }, as Python's `Token`, and drawnFrom, the shortlist.
// When a text outgrows the context, the model forgets all but the newest half of its context, reads that anew, and carries on.
// settings: those of samplingConfig, and max_new_tokens. Ids that the tokenizer does not have are never drawn.
export function* generateStream(model, tokenizer, ids, { max_new_tokens = 100, ...settings } = {}) {
  const config = samplingConfig(settings), next = uniforms(config.seed ?? Math.random() * 2 ** 32);
  const pieces = new Pieces(tokenizer, config.stop_strings), seen = new Set(ids);
  if (max_new_tokens < 1) return;
  let logits = model.read(ids);
  for (let left = max_new_tokens; left > 0; left--) {
    logits = logits.subarray(0, tokenizer.vocab.length);
    const list = shortlist(logits, config, seen), id = draw(list, next()), over = left === 1 || id === config.stop_token;
    seen.add(id);
    yield* pieces.add({ id, logits, drawnFrom: list, logprob: logits[id] - model.logSum(logits.length) }, over);
    if (over || pieces.stopped) return;
    logits = model.step(id);
  }
}
