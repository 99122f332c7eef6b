// lm336/automaton.py and lm336/oracle.py in the page (chapters 31 and 16): what the perfect reader expects next. It reads strings of
// bytes, U+0000 to U+00FF, as tokens are; members of a cast are the bits of a BigInt. Objects that are equal are one, and have a number.
import { PRETOKEN, bytesOf } from "./tokenizer.js";

const END = -1;                        // the symbol that ends a story; every byte is a symbol, too
const FIRST = new RegExp(PRETOKEN.source, "yu"), ASCII = /^[\0-\x7f]*$/, utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
const SPAN = 2 ** 26;                  // more than there are casts
export const bytesIn = text => ASCII.test(text) ? text : bytesOf(text).join("");
const textOf = data => ASCII.test(data) ? data
  : utf8.decode(Uint8Array.from(data, c => c.charCodeAt())).replace(/\uFFFD+$/u, "");   // half a character waits

function known(map, key, make) {
  let value = map.get(key);
  if (value === undefined) map.set(key, value = make());
  return value;
}

export function bitCount(bits) {
  let count = 0;
  for (; bits; bits >>= 32n) {         // 32 at a time: pairs, then fours, then bytes
    let word = Number(BigInt.asIntN(32, bits));
    word -= word >>> 1 & 0x55555555;
    word = (word & 0x33333333) + (word >>> 2 & 0x33333333);
    count += Math.imul(word + (word >>> 4) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }
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
export class Cast {
  static ids = 0;
  narrower = null;                     // by the slot and who is left, and by a naming; made when the first is there
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
    const left = this.candidates[slot] & members;
    if (left === this.candidates[slot]) return this;
    this.narrower ??= new Map();
    return known(this.narrower, `${slot} ${left}`, () => new Cast(this.groups, this.candidates.with(slot, left)));
  }

  after(naming) {
    this.narrower ??= new Map();
    return known(this.narrower, naming, () => this.narrowed(naming.slot, naming.members));
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
    [this.numPassing, this.numEnding] = [this.passing, this.ending].map(bitCount);
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

// The nodes of a grammar, each made when a text first leads there. A teller is at a place, in the middle of words: bytes, or a trie.
class Automaton {
  ids = 0;
  places = new Map();
  tries = new Map();
  words = new Map();
  namings = new Map();
  nodes = new Map();
  stop = { tellers: new Map() };       // the place at which a story ends
  done = { words: "", slot: null, place: null, id: 0 };   // says nothing any more

  place(parts, index, after) {
    if (index === parts.length) return after;
    const all = known(known(this.places, parts, () => new Map()), after, () => []);
    return all[index] ??= { parts, index, after, tellers: new Map() };
  }

  trie(part) {
    return known(this.tries, part, () => {
      const words = wordsOf(part);
      return words && known(this.words, words.join("\0"), () => new Trie(words.map(bytesIn), words.map((_, i) => i)));
    });
  }

  teller(words, slot, place) {
    const key = typeof words === "string" ? words : words.id + SPAN * (slot ?? -1);
    return known(place.tellers, key, () => ({ words, slot, place, node: null, id: ++this.ids }));
  }

  told(trie, slot, place) { return trie.rest === null ? this.teller(trie, slot, place) : this.teller(trie.rest, null, place); }

  naming(slot, members) { return known(known(this.namings, slot, () => new Map()), members, () => ({ slot, members })); }

  node(tellers) {                      // [teller, share]
    const [[{ words }]] = tellers, certain = tellers.length === 1 && typeof words === "string" ? words : "";
    const make = () => ({ tellers, certain, symbols: null, id: ++this.ids });
    if (tellers.length === 1) return tellers[0][0].node ??= make();
    return known(this.nodes, tellers.map(([{ id }, share]) => `${id} ${share}`).sort().join(), make);
  }

  at(place) { return this.node([[this.teller("", null, place), 1]]); }

  // Each next symbol of a teller: say(symbol, share, namings, teller after it).
  spell({ words, slot, place }, say) {
    if (words instanceof Trie) this.spellWords(words, slot, place, say);
    else if (words) say(words.charCodeAt(), 1, [], this.teller(words.slice(1), null, place));
    else if (place === this.stop) say(END, 1, [], this.done);
    else if (place) this.spellPart(place, say);
  }

  spellWords(trie, slot, place, say) {
    const drawn = (some, size) => slot === null ? [size / trie.numPassing, []] : [1, [this.naming(slot, some)]];
    for (const [byte, child] of trie.children) say(byte, ...drawn(child.passing, child.numPassing), this.told(child, slot, place));
    if (!trie.numEnding) return;
    const [share, named] = drawn(trie.ending, trie.numEnding);
    this.spell(this.teller("", null, place), (symbol, ofIt, namings, teller) => say(symbol, share * ofIt, [...named, ...namings], teller));
  }

  spellPart({ parts, index, after }, say) {
    const part = parts[index], next = this.place(parts, index + 1, after);
    if (typeof part === "string") return this.spell(this.teller(bytesIn(part), null, next), say);
    const trie = this.trie(part);
    if (trie) return this.spell(this.told(trie, part.slot ?? null, next), say);
    for (const way of part.ways)
      this.spell(this.teller("", null, this.place(way, 0, next)), (symbol, share, ...rest) => say(symbol, share / part.ways.length, ...rest));
  }

  // What may come next: symbol -> groups of tellers that it does not tell apart, each {share, namings, tellers}.
  symbols(node) {
    if (node.symbols) return node.symbols;
    node.symbols = new Map();
    for (const [teller, weight] of node.tellers) this.spell(teller, (symbol, share, namings, after) => {
      const groups = known(node.symbols, symbol, () => []), same = ({ length }) => length === namings.length;
      let group = groups.find(other => same(other.namings) && other.namings.every((naming, i) => naming === namings[i]));
      if (!group) groups.push(group = { share: 0, namings, tellers: [], node: null });
      const pair = group.tellers.find(([teller]) => teller === after);
      group.share += weight * share;
      if (pair) pair[1] += weight * share;
      else group.tellers.push([after, weight * share]);
    });
    return node.symbols;
  }

  // Where a group leads.
  after(group) {
    return group.node ??= this.node(group.tellers.map(([teller, share]) => [teller, share / group.share]));
  }
}

const massOf = belief => belief.reduce((sum, { mass }) => sum + mass, 0);   // a belief: states {node, cast, mass}

export class StoryReader {
  ids = [];                            // the tokens read
  bits = [];                           // their surprise

  constructor(grammar, tokenizer) {    // as in grammar.js and tokenizer.js
    if (tokenizer.endOfText === undefined) throw new Error("the tokenizer needs <|endoftext|> among its special tokens: it ends a story");
    Object.assign(this, { tokenizer, automaton: new Automaton(), known: new Map() });
    const { automaton } = this, belief = grammar.plots.map(plot =>
      ({ node: automaton.at(automaton.place(plot.parts, 0, automaton.stop)), cast: Cast.of(plot), mass: 1 / grammar.plots.length }));
    this.start = [{ due: [], data: "", belief }];
    this.hypotheses = [this.start];    // after each token
  }

  // Forget what these ids do not begin with: read on from ids[reader.ids.length].
  rewind(ids) {
    let same = 0;
    while (same < this.ids.length && this.ids[same] === ids[same]) same++;
    this.ids.length = this.bits.length = same;
    this.hypotheses.length = same + 1;
  }

  // The next token's distribution: a Map from id to probability.
  expected() {
    const found = new Map(), all = this.hypotheses[this.ids.length] = this.due();
    for (const { due: [id], belief } of all) found.set(id, (found.get(id) ?? 0) + massOf(belief));
    return found;
  }

  // Read a token: its surprise in bits, or Infinity, and nothing is read, if no story goes on with it.
  read(id) {
    const left = this.due(id).filter(({ due }) => due[0] === id), total = left.reduce((sum, { belief }) => sum + massOf(belief), 0);
    if (!left.length) return Infinity;
    this.ids.push(id);
    this.bits.push(Math.max(0, -Math.log2(total)));
    this.hypotheses.push(id === this.tokenizer.endOfText ? this.start : left.map(({ due, data, belief }) =>
      ({ due: due.slice(1), data, belief: belief.map(state => ({ ...state, mass: state.mass / total })) })));
    return this.bits.at(-1);
  }

  // The hypotheses, continued so that each has a next token; if one token is asked for, only as far as it goes.
  due(id) {
    const begins = id === undefined ? "" : id === this.tokenizer.endOfText ? null : this.tokenizer.vocab[id], found = [];
    for (const one of this.hypotheses[this.ids.length])
      if (one.due.length) found.push(one);
      else this.pretokens(one, begins, found);
    return found;
  }

  // Every pre-token that may come, with the text that had to be read to settle it, into `found`. begins: its first bytes, null for the end.
  pretokens({ data, belief }, begins, found) {
    const waiting = [[data, belief]];
    while (waiting.length) {
      const [data, belief] = waiting.pop();
      if (begins === null ? data : !(data.startsWith(begins) || begins.startsWith(data))) continue;
      const text = textOf(data), pretoken = settled(text);
      if (pretoken) { found.push({ due: this.encode(pretoken), data: data.slice(bytesIn(pretoken).length), belief }); continue; }
      if (belief.length === 1 && belief[0].node.certain) {
        const [{ node, cast, mass }] = belief, [[{ place }]] = node.tellers;
        waiting.push([data + node.certain, [{ node: this.automaton.at(place), cast, mass }]]);
        continue;
      }
      const symbol = begins === null ? END : begins.length > data.length ? begins.charCodeAt(data.length) : undefined;
      for (const [next, after] of this.step(belief, symbol))
        if (next === END) found.push({ due: [...this.tokenizer.encode(text), this.tokenizer.endOfText], data: "", belief: after });
        else waiting.push([data + String.fromCharCode(next), after]);
    }
  }

  // All ways to go on: symbol -> belief, whose sum is the symbol's probability.
  step(belief, only) {
    const { automaton } = this, found = new Map();
    for (const { node, cast, mass } of belief) {
      const symbols = automaton.symbols(node);
      for (const symbol of only === undefined ? symbols.keys() : [only])
        for (const group of symbols.get(symbol) ?? []) {
          let left = cast;
          for (const naming of group.namings) left = left.after(naming);
          if (!left.count) continue;
          const after = automaton.after(group), states = known(found, symbol, () => new Map());
          known(states, after.id * SPAN + left.id, () => ({ node: after, cast: left, mass: 0 })).mass += mass * group.share * left.count / cast.count;
        }
    }
    return new Map([...found].map(([symbol, states]) => [symbol, [...states.values()]]));
  }

  encode(pretoken) { return known(this.known, pretoken, () => this.tokenizer.encode(pretoken)); }
}

// A text's first pre-token, if nothing that follows can change it.
function settled(text) {
  FIRST.lastIndex = 0;
  const [found = ""] = FIRST.exec(text) ?? [];
  return found.length < text.length && !["'l", "'v", "'r"].includes(text) ? found : "";
}
