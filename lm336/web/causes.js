// lm336/causes.py in the page: what decides each token of a story, by the grammar. Texts are strings of bytes, as in oracle.js.
import { Cast, bytesIn, wordsOf } from "./oracle.js";
import { PRETOKEN } from "./tokenizer.js";

const decoder = new TextDecoder("utf-8", { ignoreBOM: true }), encoded = new WeakMap();
const setOf = bits => [...bits.toString(2)].reduce((count, bit) => count + (bit === "1"), 0);

// What a part can write, as bytes.
function wordsAsBytes(part) {
  if (typeof part === "string") return [bytesIn(part)];
  if (!encoded.has(part)) encoded.set(part, wordsOf(part)?.map(bytesIn) ?? null);
  return encoded.get(part);
}

// The cause of the first letter of a part, which can be so many different words.
const firstLetter = (part, ways, chosen) => part.surfaces ? ways === 1 ? "agreement" : "cast" : chosen || part.ways ? "word lists" : "plot";

// What the next part writes of a text: [telling, whether the text ends within the part].
function* goOn(told, plot, text) {
  const { parts, index, after } = told.place, part = parts[index], place = { parts, index: index + 1, after }, words = wordsAsBytes(part);
  if (!words) {
    for (const way of part.ways)
      yield [{ ...told, place: { parts: way, index: 0, after: place }, share: told.share / part.ways.length, chosen: true }, false];
    return;
  }
  const { slot } = part, members = slot === undefined ? (1n << BigInt(words.length)) - 1n : told.cast.candidates[slot], left = new Map();
  words.forEach((word, i) => { if (members >> BigInt(i) & 1n) left.set(word, (left.get(word) ?? 0n) | 1n << BigInt(i)); });
  const mentioned = slot !== undefined, named = mentioned ? { ...told.named, [slot]: told.at } : told.named;
  const about = mentioned ? plot.lists[slot] : "", before = mentioned ? told.named[slot] ?? -1 : -1;
  const piece = { begin: told.at, words, name: firstLetter(part, left.size, told.chosen), about, before };
  const path = { before: told.path, piece }, rest = text.slice(told.at);
  for (const [word, some] of left) {
    if (!(word.startsWith(rest) || text.startsWith(word, told.at))) continue;
    const cast = mentioned ? told.cast.narrowed(slot, some) : told.cast;
    const share = told.share * (mentioned ? 1 : setOf(some) / words.length), chosen = !word && (told.chosen || typeof part !== "string");
    if (cast.count) yield [{ at: told.at + word.length, place, cast, share, chosen, named, path }, word.length > rest.length];
  }
}

// The pieces that most probably tell a text; the last is the one that writes what follows it.
function piecesOf(grammar, text, ended) {
  let best = 0, last = null;
  const found = new Map();             // path -> its probability
  const count = (path, { share, cast }, whole) => {
    found.set(path, (found.get(path) ?? 0) + share * cast.count / whole.count);
  };
  for (const plot of grammar.plots) {
    if (ended && plot.parts.some(part => typeof part === "string" && !text.includes(bytesIn(part)))) continue;
    const whole = Cast.of(plot), waiting = [{ at: 0, place: { parts: plot.parts, index: 0, after: null }, cast: whole, share: 1, chosen: false, named: {}, path: null }];
    while (waiting.length) {
      let told = waiting.pop(), { place } = told;
      while (place && place.index === place.parts.length) place = place.after;
      told = { ...told, place };
      if (!place) {
        if (told.at === text.length) count({ before: told.path, piece: { begin: told.at, words: [], name: "end" } }, told, whole);
      } else for (const [next, within] of goOn(told, plot, text)) {
        if (!within) waiting.push(next);
        else if (!ended) count(next.path, next, whole);
      }
    }
  }
  for (const [path, share] of found) if (share > best) [best, last] = [share, path];
  const pieces = [];
  for (; last; last = last.before) pieces.push(last.piece);
  return pieces.reverse();
}

// The piece that decides a token, with its cause; starts: where pre-tokens begin.
function pieceOf(pieces, text, begin, end, starts) {
  const letter = text.slice(begin, end).search(/[^ ]/), first = begin + Math.max(letter, 0), last = pieces.at(-1);
  const at = pieces.findLastIndex(piece => piece.begin <= first), piece = pieces[at], over = last.words.length ? -1 : last.begin;
  if (piece.begin === over || text.slice(begin) === "\n" && over >= 0) return { ...piece, name: "end" };
  if (pieces.slice(at + 1).some(one => first < one.begin && one.begin < end && one.name !== "plot")) return { ...piece, name: "other" };
  const soFar = text.slice(piece.begin, begin);
  if (!/[^ \t\n\r\v\f]/.test(soFar)) return piece;
  if (piece.words.length === 1) return { ...piece, name: starts.has(begin) ? "plot" : "spelling" };
  return new Set(piece.words.filter(word => word.startsWith(soFar))).size === 1 ? { ...piece, name: "spelling" } : piece;
}

// Where pre-tokens begin.
function startsOf(text) {
  const starts = new Set(), pieces = decoder.decode(Uint8Array.from(text, c => c.charCodeAt())).match(PRETOKEN) ?? [];
  pieces.reduce((at, piece) => { starts.add(at); return at + bytesIn(piece).length; }, 0);
  return starts;
}

function* storyCauses(grammar, tokenizer, ids, ended) {
  const tokens = (ended ? ids.slice(0, -1) : ids).map(id => tokenizer.vocab[id]), text = tokens.join("");
  const pieces = piecesOf(grammar, text, ended), starts = startsOf(text), begins = [];
  if (!pieces.length) throw new Error(`no story goes like this: ${decoder.decode(Uint8Array.from(text.slice(0, 80), c => c.charCodeAt()))} ...`);
  let begin = 0;
  for (const token of ended ? [...tokens, " "] : tokens) {
    const end = begin + token.length, { name, about, before } = pieceOf(pieces, text, begin, end, starts), named = ["agreement", "cast"].includes(name);
    begins.push(begin);
    const distance = name === "agreement" && before >= 0 ? begins.length - begins.filter(begin => begin <= before).length : 0;
    yield { name, about: named ? about : "", distance };
    begin = end;
  }
}

// What decides each token of some stories: { name, about, distance }, with the meaning of Python's `Cause`. The last story may be unfinished.
export function tokenCauses(grammar, tokenizer, ids) {
  const causes = [];
  for (let begin = 0; begin < ids.length;) {
    const at = ids.indexOf(tokenizer.endOfText, begin), end = at < 0 ? ids.length : at + 1;
    causes.push(...storyCauses(grammar, tokenizer, ids.slice(begin, end), at >= 0));
    begin = end;
  }
  return causes;
}
