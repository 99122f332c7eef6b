// lm336/tokenizer.py in the page. A token is kept as a string of its bytes, U+0000 to U+00FF.

// GPT-2's pattern. \s has U+FEFF and lacks U+0085 here; \p{White_Space} is what \s is in Python.
export const PRETOKEN = new RegExp(String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
  .replaceAll("\\s", "\\p{White_Space}").replace("\\S", "\\P{White_Space}"), "gu");

export const bytesOf = text => Array.from(new TextEncoder().encode(text), b => String.fromCharCode(b));
const pairKey = (a, b) => a + "\u0100" + b;

// GPT-2 writes every byte as a printable character: itself if it is one, else from U+0100 on.
export const bytes = {};
for (let b = 0, next = 256; b < 256; b++) {
  const printable = b > 32 && b < 127 || b > 160 && b !== 173;
  bytes[String.fromCharCode(printable ? b : next++)] = String.fromCharCode(b);
}

export class Tokenizer {
  static fromJSON(json) {
    const { added_tokens: added = [], model } = json ?? {};
    if (model?.type !== "BPE") throw new Error("tokenizer.json holds no byte-level BPE tokenizer.");
    const damaged = what => { throw new Error(`tokenizer.json is damaged: ${what}.`); };
    const token = text => Array.from(text, c => bytes[c] ?? damaged(`${c} stands for no byte`)).join("");
    try {
      const special = Object.fromEntries(added.map(({ content, id }) => [id, content])), vocab = [];
      const plain = Object.entries(model.vocab).filter(([text, id]) => special[id] !== text);   // those stand in both lists
      const tokens = [...plain.map(([text, id]) => [id, token(text)]), ...added.map(({ content, id }) => [id, bytesOf(content).join("")])];
      for (const [id, text] of tokens) {
        if (!(Number.isInteger(id) && id >= 0 && id < tokens.length)) damaged(`it has ${tokens.length} tokens, and one has the id ${id}`);
        vocab[id] = text;
      }
      if (vocab.includes(undefined)) damaged(`no token has the id ${vocab.indexOf(undefined)}`);
      const merges = model.merges.map(pair => (pair.split?.(" ") ?? pair).map(token));
      return new Tokenizer(vocab, merges, added.map(token => token.content));
    } catch (error) { throw error.constructor === Error ? error : new Error(`tokenizer.json is damaged: ${error.message}.`); }
  }

  // vocab: tokens by id; merges: pairs of tokens in the order learned; specials: texts
  constructor(vocab, merges, specials) {
    this.vocab = vocab;
    this.ids = new Map(vocab.map((token, id) => [token, id]).reverse());   // of two, the lower
    this.ranks = new Map(merges.map(([a, b], rank) => [pairKey(a, b), rank]).reverse());
    this.endOfText = specials.includes("<|endoftext|>") ? this.ids.get("<|endoftext|>") : undefined;
    const escaped = specials.map(text => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
    this.special = new RegExp(`(${escaped.sort((a, b) => b.length - a.length).join("|") || "(?!)"})`, "u");
    this.cache = { __proto__: null };   // no text is special
  }

  // The ids of one pre-token: the pair learned earliest becomes one, until none is left.
  merge(piece) {
    let tokens = bytesOf(piece);
    for (;;) {
      const ranks = tokens.map((b, i) => i ? this.ranks.get(pairKey(tokens[i - 1], b)) ?? Infinity : Infinity);
      const first = ranks.reduce((a, b) => Math.min(a, b));
      if (first === Infinity) return tokens.map(token => this.ids.get(token));
      const merged = [];
      for (let i = 0; i < tokens.length; i++)
        merged.push(ranks[i + 1] === first ? tokens[i] + tokens[++i] : tokens[i]);
      tokens = merged;
    }
  }

  // The ids of a text.
  encode(text) {
    if (/\p{Surrogate}/u.test(text)) throw new Error("The text has half a character in it, a lone surrogate.");
    return text.split(this.special).flatMap((part, i) => {
      if (i % 2) return this.ids.get(bytesOf(part).join(""));
      return (part.match(PRETOKEN) ?? []).flatMap(piece => this.cache[piece] ??= this.merge(piece));
    });
  }

  bytes(id) {
    if (this.vocab[id]) return Uint8Array.from(this.vocab[id], c => c.charCodeAt());
    throw new Error(`Token id ${id} is not in the vocabulary of ${this.vocab.length}.`);
  }

  // A function from id to text: a character that is not complete waits.
  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return id => id === undefined ? decoder.decode() : decoder.decode(this.bytes(id), { stream: true });
  }

  // Text of ids; bytes that are not UTF-8 become U+FFFD.
  decode(ids) { return [...ids, undefined].map(this.decoder()).join(""); }
}
