// lm336/automaton.py and lm336/oracle.py in the page (chapters 31 and 16): what the perfect reader expects next. It reads strings of
// bytes, U+0000 to U+00FF, as tokens are; members of a cast are the bits of a BigInt.
import { PRETOKEN, bytesOf } from "./tokenizer.js";

const END = -1;                        // the symbol that ends a story; every byte is a symbol, too
const FIRST = new RegExp(PRETOKEN.source, "yu"), utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
const textOf = data => utf8.decode(Uint8Array.from(data, c => c.charCodeAt())).replace(/\uFFFD+$/u, "");   // half a character waits
const bytesIn = text => bytesOf(text).join("");

function bitCount(bits) {
  let count = 0;
  for (; bits; bits &= bits - 1n) count++;
  return count;
}

// In how many ways the slots can have members, no two the same.
function castings(candidates) {
  if (!candidates.length) return 1;
  const others = candidates.slice(0, -1), last = candidates.at(-1);
  let count = bitCount(last) * castings(others);
  others.forEach((one, slot) => { count -= castings(others.with(slot, one & last)); });
  return count;
}

// The members that each slot of a plot may still have.
class Cast {
  static ids = 0;
  narrower = new Map();
  id = ++Cast.ids;

  constructor(groups, candidates) {    // groups: the slots that draw from the same list
    Object.assign(this, { groups, candidates });
    this.count = groups.reduce((count, slots) => count * castings(slots.map(slot => candidates[slot])), 1);
  }

  static of({ sizes, earlier }) {
    const slots = sizes.map((_, slot) => slot), first = slots.filter(slot => !earlier[slot].length);
    return new Cast(first.map(one => slots.filter(slot => slot === one || earlier[slot][0] === one)), sizes.map(size => (1n << BigInt(size)) - 1n));
  }

  narrowed(slot, members) {
    const left = this.candidates[slot] & members, key = `${slot} ${left}`;
    if (left === this.candidates[slot]) return this;
    if (!this.narrower.has(key)) this.narrower.set(key, new Cast(this.groups, this.candidates.with(slot, left)));
    return this.narrower.get(key);
  }
}

// Words by their bytes.
class Trie {
  static ids = 0;
  id = ++Trie.ids;
  children = new Map();                // by the next byte, where there is a choice
  rest = null;                         // if only one is left

  constructor(words, members, depth = 0) {
    const bits = some => some.reduce((sum, i) => sum | 1n << BigInt(i), 0n), rests = new Set(members.map(i => words[i].slice(depth)));
    this.passing = bits(members);
    this.ending = bits(members.filter(i => words[i].length === depth));
    if (rests.size === 1) [this.rest] = rests;
    else for (const byte of new Set(members.map(i => words[i].slice(depth, depth + 1)).filter(Boolean)))
      this.children.set(byte.charCodeAt(), new Trie(words, members.filter(i => words[i][depth] === byte), depth + 1));
  }
}

// What a part chooses from, if these are words.
export function wordsOf({ surfaces, ways }) {
  if (surfaces) return surfaces;
  return ways.every(way => way.every(part => typeof part === "string")) ? ways.map(way => way.join("")) : null;
}

// The nodes of a grammar, each made when a text first leads there. A teller is {words: bytes or a trie, slot, place}.
class Automaton {
  ids = 0;
  places = new Map();
  tries = new Map();
  words = new Map();
  nodes = new Map();

  place(parts, index, after) {         // null ends a story
    if (index === parts.length) return after;
    const byAfter = this.places.get(parts) ?? new Map(), all = byAfter.get(after) ?? [];
    this.places.set(parts, byAfter.set(after, all));
    return all[index] ??= { parts, index, after, id: ++this.ids };
  }

  trie(part) {
    if (!this.tries.has(part)) {
      const words = wordsOf(part), key = words?.join("\0");
      if (words && !this.words.has(key)) this.words.set(key, new Trie(words.map(bytesIn), words.map((_, i) => i)));
      this.tries.set(part, words && this.words.get(key));
    }
    return this.tries.get(part);
  }

  node(tellers) {                      // [teller, share] by the teller's key
    const key = [...tellers].map(([key, [, share]]) => `${key} ${share}`).sort().join("\n");
    if (!this.nodes.has(key)) {
      const [[only]] = tellers.values(), certain = tellers.size === 1 && typeof only.words === "string" ? only.words : "";
      this.nodes.set(key, { tellers: [...tellers.values()], certain, ways: null, id: ++this.ids });
    }
    return this.nodes.get(key);
  }

  at(place) {
    const teller = { words: "", slot: null, place };
    return this.node(new Map([[keyOf(teller), [teller, 1]]]));
  }

  *spell({ words, slot, place }) {     // each next symbol: [symbol, share, namings, teller after it]
    if (words instanceof Trie) {
      const drawn = some => slot === null ? [bitCount(some) / bitCount(words.passing), []] : [1, [[slot, some]]];
      for (const [byte, child] of words.children) yield [byte, ...drawn(child.passing), told(child, slot, place)];
      if (words.ending) {
        const [share, named] = drawn(words.ending);
        for (const [symbol, ofIt, namings, teller] of this.spell({ words: "", slot: null, place }))
          yield [symbol, share * ofIt, [...named, ...namings], teller];
      }
    } else if (words) yield [words.charCodeAt(), 1, [], { words: words.slice(1), slot: null, place }];
    else if (!place) yield [END, 1, [], { words: DONE, slot: null, place }];
    else yield* this.spellPart(place);
  }

  *spellPart({ parts, index, after }) {
    const part = parts[index], next = this.place(parts, index + 1, after);
    if (typeof part === "string") { yield* this.spell({ words: bytesIn(part), slot: null, place: next }); return; }
    const trie = this.trie(part);
    if (trie) { yield* this.spell(told(trie, part.slot ?? null, next)); return; }
    for (const way of part.ways)
      for (const [symbol, share, ...rest] of this.spell({ words: "", slot: null, place: this.place(way, 0, next) }))
        yield [symbol, share / part.ways.length, ...rest];
  }

  // Where each next symbol leads: symbol -> [{share, namings, node}]. Tellers that it does not tell apart stay together.
  ways(node) {
    if (node.ways) return node.ways;
    const found = new Map();
    for (const [teller, weight] of node.tellers) for (const [symbol, share, namings, after] of this.spell(teller)) {
      const groups = found.get(symbol) ?? new Map(), name = namings.join(" "), key = keyOf(after);
      const group = groups.get(name) ?? { namings, tellers: new Map() }, [, before] = group.tellers.get(key) ?? [after, 0];
      group.tellers.set(key, [after, before + weight * share]);
      found.set(symbol, groups.set(name, group));
    }
    node.ways = new Map([...found].map(([symbol, groups]) => [symbol, [...groups.values()].map(({ namings, tellers }) => {
      const total = [...tellers.values()].reduce((sum, [, share]) => sum + share, 0);
      for (const [key, [teller, share]] of tellers) tellers.set(key, [teller, share / total]);
      return { share: total, namings, node: this.node(tellers) };
    })]));
    return node.ways;
  }
}

const DONE = new Trie([], []);         // says nothing any more
const told = (trie, slot, place) => trie.rest === null ? { words: trie, slot, place } : { words: trie.rest, slot: null, place };
const keyOf = ({ words, slot, place }) => `${typeof words === "string" ? `"${words}"` : words.id} ${slot} ${place?.id ?? 0}`;

// A belief: states {node, cast, mass} by their key.
function add(belief, node, cast, mass) {
  const key = `${node.id} ${cast.id}`, state = belief.get(key);
  if (state) state.mass += mass;
  else belief.set(key, { node, cast, mass });
  return belief;
}
const massOf = belief => [...belief.values()].reduce((sum, { mass }) => sum + mass, 0);

export class StoryReader {
  ids = [];                            // the tokens read

  constructor(grammar, tokenizer) {    // as in grammar.js and tokenizer.js
    Object.assign(this, { tokenizer, automaton: new Automaton(), known: new Map() });
    const belief = new Map();
    for (const plot of grammar.plots)
      add(belief, this.automaton.at(this.automaton.place(plot.parts, 0, null)), Cast.of(plot), 1 / grammar.plots.length);
    this.start = this.hypotheses = [{ due: [], data: "", belief }];
  }

  // Begin anew.
  reset() {
    this.ids = [];
    this.hypotheses = this.start;
  }

  // The next token's distribution: a Map from id to probability.
  expected() {
    this.hypotheses = this.due();
    const found = new Map();
    for (const { due: [id], belief } of this.hypotheses) found.set(id, (found.get(id) ?? 0) + massOf(belief));
    return found;
  }

  // Read a token: its surprise in bits, or Infinity, and nothing is read, if no story goes on with it.
  read(id) {
    const left = this.due(id).filter(({ due }) => due[0] === id), total = left.reduce((sum, { belief }) => sum + massOf(belief), 0);
    if (!left.length) return Infinity;
    this.ids.push(id);
    this.hypotheses = id === this.tokenizer.endOfText ? this.start : left.map(({ due, data, belief }) => ({
      due: due.slice(1), data, belief: new Map([...belief].map(([key, state]) => [key, { ...state, mass: state.mass / total }])) }));
    return Math.max(0, -Math.log2(total));
  }

  // The hypotheses, continued so that each has a next token; if one token is asked for, only as far as it goes.
  due(id) {
    const begins = id === undefined ? "" : id === this.tokenizer.endOfText ? null : this.tokenizer.vocab[id];
    return this.hypotheses.flatMap(one => one.due.length ? [one] : [...this.pretokens(one, begins)]);
  }

  // Every pre-token that may come, with the text that had to be read to settle it. begins: its first bytes, null for the end.
  *pretokens({ data, belief }, begins) {
    const waiting = [[data, belief]];
    while (waiting.length) {
      const [data, belief] = waiting.pop();
      if (begins === null ? data : !(data.startsWith(begins) || begins.startsWith(data))) continue;
      const text = textOf(data), pretoken = settled(text);
      if (pretoken) { yield { due: this.encode(pretoken), data: data.slice(bytesIn(pretoken).length), belief }; continue; }
      const [only] = belief.size === 1 ? belief.values() : [];
      if (only?.node.certain) {
        const [[{ place }]] = only.node.tellers;
        waiting.push([data + only.node.certain, add(new Map(), this.automaton.at(place), only.cast, only.mass)]);
        continue;
      }
      const symbol = begins === null ? END : begins.length > data.length ? begins.charCodeAt(data.length) : undefined;
      for (const [next, after] of this.step(belief, symbol))
        if (next === END) yield { due: [...this.tokenizer.encode(text), this.tokenizer.endOfText], data: "", belief: after };
        else waiting.push([data + String.fromCharCode(next), after]);
    }
  }

  // All ways to go on: symbol -> belief, whose sum is the symbol's probability.
  step(belief, only) {
    const found = new Map();
    for (const { node, cast, mass } of belief.values())
      for (const [symbol, ways] of this.automaton.ways(node)) {
        if (only !== undefined && symbol !== only) continue;
        for (const { share, namings, node: after } of ways) {
          const left = namings.reduce((left, [slot, members]) => left.narrowed(slot, members), cast);
          if (left.count) found.set(symbol, add(found.get(symbol) ?? new Map(), after, left, mass * share * left.count / cast.count));
        }
      }
    return found;
  }

  encode(pretoken) {
    if (!this.known.has(pretoken)) this.known.set(pretoken, this.tokenizer.encode(pretoken));
    return this.known.get(pretoken);
  }
}

// A text's first pre-token, if nothing that follows can change it.
function settled(text) {
  FIRST.lastIndex = 0;
  const [found = ""] = FIRST.exec(text) ?? [];
  return found.length < text.length && !["'l", "'v", "'r"].includes(text) ? found : "";
}
