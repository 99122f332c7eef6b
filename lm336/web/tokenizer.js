// lm336/tokenizer.py in the page: byte-level byte-pair encoding from a tokenizer.json.

// GPT-2's pattern. \s has U+FEFF and lacks U+0085 here; \p{White_Space} is what \s is in Python.
const space = String.raw`\p{White_Space}`;
const PRETOKEN = new RegExp(String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^${space}\p{L}\p{N}]+|`
  + String.raw`${space}+(?!\P{White_Space})|${space}+`, "gu");

const utf8 = text => new TextEncoder().encode(text);
const key = bytes => String.fromCharCode(...bytes);         // bytes as a string, to look them up

// GPT-2 writes every byte as a printable character: itself if it is one, else from U+0100 on.
function byteCharacters() {
  const bytes = new Map();
  for (let b = 0, next = 256; b < 256; b++) {
    const printable = b > 32 && b < 127 || b > 160 && b !== 173;
    bytes.set(String.fromCharCode(printable ? b : next++), b);
  }
  return bytes;
}

export class Tokenizer {
  // vocab: Uint8Array by id; merges: pairs of keys in the order learned; specials: strings
  constructor(vocab, merges, specials) {
    const ids = new Map(vocab.map((bytes, id) => [key(bytes), id]).reverse());   // of two, the lower
    this.vocab = vocab;
    this.byteIds = Array.from({ length: 256 }, (_, b) => ids.get(key([b])));
    this.specialIds = new Map(specials.map(token => [token, ids.get(key(utf8(token)))]));
    this.endOfText = this.specialIds.get("<|endoftext|>");
    this.merges = new Map();                                // pair of ids -> [rank, id of both together]
    for (const [rank, [a, b]] of merges.entries()) {
      const pair = this.pair(ids.get(a), ids.get(b));
      if (!this.merges.has(pair)) this.merges.set(pair, [rank, ids.get(a + b)]);
    }
    const longestFirst = [...specials].sort((a, b) => b.length - a.length);
    const escaped = longestFirst.map(token => token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
    this.special = new RegExp(`(${escaped.join("|") || "(?!)"})`, "u");
    this.cache = new Map();
  }

  // From a parsed tokenizer.json.
  static fromJSON({ added_tokens: added, model }) {
    if (model?.type !== "BPE") throw new Error("tokenizer.json holds no byte-level BPE tokenizer.");
    const bytes = byteCharacters(), raw = token => Uint8Array.from(token, c => bytes.get(c)), vocab = [];
    for (const [token, id] of Object.entries(model.vocab)) vocab[id] = raw(token);
    for (const { content, id } of added) vocab[id] = utf8(content);
    const merges = model.merges.map(pair => (pair.split?.(" ") ?? pair).map(token => key(raw(token))));
    return new Tokenizer(vocab, merges, added.map(token => token.content));
  }

  pair(a, b) { return a * this.vocab.length + b; }

  // The ids of one pre-token: the pair learned earliest becomes one, until none is left.
  merge(piece) {
    let ids = Array.from(utf8(piece), b => this.byteIds[b]);
    for (;;) {
      let first, best = Infinity, joined;
      for (let i = 1; i < ids.length; i++) {
        const pair = this.pair(ids[i - 1], ids[i]), found = this.merges.get(pair);
        if (found && found[0] < best) [best, joined, first] = [...found, pair];
      }
      if (first === undefined) return ids;
      const next = [];
      for (let i = 0; i < ids.length; i++)
        next.push(i + 1 < ids.length && this.pair(ids[i], ids[i + 1]) === first ? (i++, joined) : ids[i]);
      ids = next;
    }
  }

  // The ids of a text.
  encode(text) {
    if (/\p{Surrogate}/u.test(text)) throw new Error("The text has half a character in it, a lone surrogate.");
    return text.split(this.special).flatMap((part, i) => {
      if (i % 2) return this.specialIds.get(part);
      return (part.match(PRETOKEN) ?? []).flatMap(piece => {
        if (!this.cache.has(piece)) this.cache.set(piece, this.merge(piece));
        return this.cache.get(piece);
      });
    });
  }

  // The bytes of an id.
  bytes(id) {
    if (this.vocab[id]) return this.vocab[id];
    throw new Error(`Token id ${id} is not in the vocabulary: ids are 0 to ${this.vocab.length - 1}.`);
  }

  // A function from id to text, for ids as they come: a character that is not complete waits.
  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return id => id === undefined ? decoder.decode() : decoder.decode(this.bytes(id), { stream: true });
  }

  // The text of these ids; bytes that are not UTF-8 become U+FFFD.
  decode(ids) {
    const next = this.decoder();
    return Array.from(ids, id => next(id)).join("") + next();
  }
}
