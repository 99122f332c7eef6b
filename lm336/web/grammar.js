// lm336/grammar.py in the page (chapter 23): stories whose probabilities are known. What both refuse, both refuse in the same
// words. A story is told of strings, of mentions {slot, surfaces}, where it names one of its cast, and of choices {ways}.
import { PRETOKEN, bytes, bytesOf } from "./tokenizer.js";

const MOST_NESTED = 100, MOST_PARTS = 1_000_000;               // as in Python
const MOST_WORK = 6e6, MOST_DEPTH = 1000;                      // what a page has patience for: letters looked at, strings in a story
const MOST_WORDS = 500, MOST_LENGTH = 250, MOST_BYTES = 8000;  // what a model in it learns: different words, words of a story, bytes of all words
const LONG = `A story of this grammar may have more than ${MOST_LENGTH} words; a model in this page reads at most so many.`;
const HEAVY = `The words of these stories have more than ${MOST_BYTES.toLocaleString("en")} bytes together, or one of them more than ${MOST_BYTES / 20}; a model in this page learns fewer.`;
const SPACE = String.raw`[\p{White_Space}\x1c-\x1f]`, WORD = String.raw`[\p{L}\p{N}_]`;   // \s and \w, as Python has them
const pattern = (source, flags = "u") => new RegExp(source.replaceAll("\\w", WORD).replaceAll("\\s", SPACE), flags);

const STRIP = pattern(String.raw`^\s+|\s+$`, "gu"), BETWEEN = pattern("\\s+"), strip = text => text.replace(STRIP, "");
const HEADERS = { list: pattern(String.raw`^\[((?= *\w)(?:\w| )+)\]$`), phrase: pattern("^<(\\w+)>$"), plot: /^# (.*)$/u };
const REFERENCE = pattern(String.raw`^(?:([Aa]) +)?(\w+)(?:\.(\w+))?$`);
const AN = pattern(String.raw`^(?:[aeiou](?!ni[cf]|s[eu]|kul|ne(?!\w))|hour|honest)`);
const PIECES = /\{[^}]*\}|<[^>]*>|[^[\]|{}<>]+|./gu;

const fail = (line, message) => { throw new Error(`grammar, line ${line}: ${message}`); };
const hex = (letter, digits) => letter.codePointAt(0).toString(16).padStart(digits, "0");
const quoted = text => {                                       // as Python shows a text
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escape = letter => letter === "\t" ? "\\t" : letter < "\u0100" ? `\\x${hex(letter, 2)}` : `\\u${hex(letter, 4)}`;
  return mark + text.replaceAll("\\", "\\\\").replaceAll(mark, `\\${mark}`).replace(/(?! )[\p{C}\p{Z}]/gu, escape) + mark;
};
const capitalised = text => text.replace(/^./u, letter => letter.toUpperCase());
const withArticle = (word, article) => article + (AN.test(word) ? "n " : " ") + word;
const once = f => {                                            // a function of an object, computed once for each
  const known = new WeakMap();
  return of => known.get(of) ?? (known.set(of, f(of)), known.get(of));
};
const range = size => Array.from({ length: size }, (_, i) => i);
const sumOf = (items, f) => items.reduce((sum, item) => sum + f(item), 0);

// Ends a search that takes too long: a function that is told of the work done.
function patience() {
  let left = MOST_WORK;
  return work => { if ((left -= work) < 0) throw new Error("This grammar has more ways than a page can follow; make it smaller."); };
}

// ---- the notation

// A grammar's text, cut where its sections begin: {kind, header, line, body: numbered lines}.
function sectionsOf(text) {
  const sections = [];
  for (const [i, untrimmed] of text.split(/\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/u).entries()) {
    const line = strip(untrimmed), number = i + 1;
    if (line.startsWith(";")) continue;
    const kind = Object.keys(HEADERS).find(kind => HEADERS[kind].test(line));
    if (kind) sections.push({ kind, header: line.match(HEADERS[kind])[1], line: number, body: [] });
    else if (sections.length) sections.at(-1).body.push([number, line]);
    else if (line) fail(number, "expected a [list], a <phrase> or a # plot");
  }
  return sections;
}

// `* / *s: apple, plum` -> [apple, apples], [plum, plums]; `pear / pears` -> [pear, pears].
function wordsOfLine(line) {
  const colon = line.lastIndexOf(":"), spelled = line.slice(0, Math.max(colon, 0));
  return line.slice(colon + 1).split(",").map(word =>
    (spelled ? spelled.replaceAll("*", () => strip(word)) : word).split("/").map(strip));
}

function readList({ header, line, body }, forms) {
  const words = new Map();
  for (const [number, text] of body) for (const word of text ? wordsOfLine(text) : []) {
    if (word.length !== forms.length || word.includes("")) fail(number, `[${word.map(quoted).join(", ")}]: expected ${forms.length} forms`);
    if (words.has(word[0])) fail(number, `${quoted(word[0])} is in the list already`);
    words.set(word[0], word);
  }
  if (!words.size) fail(line, `there is nothing in [${header}]; give it a word`);
  return { forms, words: [...words.values()], known: {} };
}

// What `{A hero.boy}` or `<a colour>` asks for.
function readReference(line, inside) {
  const [match, article = "", name, form = ""] = inside.match(REFERENCE) ?? [];
  if (match === undefined) fail(line, `${quoted(inside)}: expected a name, such as 'hero', 'a hero' or 'hero.his'`);
  return { text: inside, article, name: name.toLowerCase(), form: form.toLowerCase(), capital: /^\p{Uppercase}/u.test(inside) };
}

// What a reference writes for each word of a list; one array for the same.
function surfacesOf(line, { text, article, form, capital }, { forms, words, known }) {
  if (form && !forms.includes(form)) fail(line, `${quoted(text)}: there is no form ${quoted(form)}, only ${forms.join(", ")}`);
  const key = `${article} ${form} ${capital}`, surfaces = () => words.map(word => word[form ? forms.indexOf(form) : 0]);
  return known[key] ??= article ? surfaces().map(surface => withArticle(surface, article)) : capital ? surfaces().map(capitalised) : surfaces();
}

// The parts with neighbouring strings made one, and empty ones left out.
function joined(parts) {
  const out = [];
  for (const part of parts) {
    if (typeof part === "string" && typeof out.at(-1) === "string") out.push(out.pop() + part);
    else if (part !== "") out.push(part);
  }
  return out;
}

// `hero child, toy toy`: slot -> the list it draws from.
function readCast(lists, line, text) {
  const cast = new Map();
  for (const member of text.split(",").map(strip).filter(Boolean)) {
    const [slot, name, ...more] = member.split(BETWEEN);
    if (name === undefined || more.length) fail(line, `${quoted(member)}: expected a name and a list, as in 'hero child'`);
    if (!lists.has(name)) fail(line, `no list called ${quoted(name)}`);
    if (cast.has(slot)) fail(line, `there is a ${quoted(slot)} in the cast already`);
    cast.set(slot, name);
    const wanted = [...cast.values()].filter(other => other === name).length, size = lists.get(name).words.length;
    if (wanted > size) fail(line, `${wanted} of the cast are drawn from ${quoted(name)}, which has ${size}`);
  }
  return cast;
}

function readPlots(text) {
  const lists = new Map(), phrases = new Map(), plots = [], anyOf = new Map();
  let cast, open, told, numParts = 0, depth = 0;   // told: of a plot, what references have been made; depth: choices around a part

  function count(more) {
    numParts += more;
    if (numParts > MOST_PARTS) throw new Error(`the grammar has more than ${MOST_PARTS.toLocaleString("en")} parts with its phrases written out; make it smaller`);
  }

  function deeper(line) {
    if (++depth > MOST_NESTED) fail(line, `more than ${MOST_NESTED} choices within each other`);
  }

  function parts(line, text) {                                 // a line of text
    const ways = [[[]]];                                       // of the line, then of each open [
    for (const token of text.match(PIECES) ?? []) {
      count(1);
      if (token === "[") {
        deeper(line);
        ways.push([[]]);
      } else if (token === "|" && ways.length > 1) ways.at(-1).push([]);
      else if (token === "]" && ways.length > 1) {
        depth--;
        const choice = { ways: ways.pop().map(joined) };
        ways.at(-1).at(-1).push(choice);
      } else if ("[]|{}<>".includes(token)) fail(line, `${quoted(token)} stands alone`);
      else ways.at(-1).at(-1).push("{<".includes(token[0]) ? part(line, token) : token);
    }
    if (ways.length > 1) fail(line, "a [ is never closed");
    return joined(ways[0][0]);
  }

  function part(line, token) {                                 // of a reference; the same one for the same words in a plot
    const again = told.get(token), before = numParts;
    if (again?.depth >= depth) { count(again.size); return again.part; }
    const made = (token[0] === "{" ? mention : choiceOf)(line, readReference(line, token.slice(1, -1)));
    told.set(token, { part: made, size: numParts - before, depth });
    return made;
  }

  function mention(line, reference) {                          // {hero}, {A hero}, {hero.his}; {His} is of the first of the cast
    let { text, name, form } = reference;
    if (cast.size && !cast.has(name) && !form) [name, form] = [[...cast.keys()][0], name];
    if (!cast.has(name)) fail(line, `${quoted(text)}: nobody called ${quoted(name)} in the cast`);
    return { slot: [...cast.keys()].indexOf(name), surfaces: surfacesOf(line, { ...reference, form }, lists.get(cast.get(name))) };
  }

  function choiceOf(line, reference) {                         // <opening>, <colour>, <a colour>
    const { text, article, name, form, capital } = reference;
    if (!phrases.has(name)) {
      if (!lists.has(name)) fail(line, `${quoted(text)}: no phrase or list called ${quoted(name)}`);
      if (!anyOf.has(text)) anyOf.set(text, { ways: surfacesOf(line, reference, lists.get(name)).map(surface => [surface]) });
      return anyOf.get(text);
    }
    if (article || form) fail(line, `${quoted(text)}: a phrase has neither article nor form`);
    if (open.includes(name)) fail(line, `${quoted(text)}: this phrase leads back to itself`);
    deeper(line);
    open.push(name);
    const ways = phrases.get(name).map(([number, text]) => parts(number, capital ? capitalised(text) : text));
    open.pop();
    depth--;
    return { ways };
  }

  function readPlot({ header, line, body }) {
    const bar = header.indexOf("|"), all = [], [title, members] = bar < 0 ? [header, ""] : [header.slice(0, bar), header.slice(bar + 1)];
    [cast, open, told] = [readCast(lists, line, members), [], new Map()];
    const drawn = [...cast.values()], sizes = drawn.map(name => lists.get(name).words.length);
    const earlier = drawn.map((name, slot) => range(slot).filter(other => drawn[other] === name));
    let between = "";
    for (const [number, text] of body) {
      if (text) { all.push(between, parts(number, text)); between = " "; }
      else if (all.length) between = "\n";
    }
    return { title: strip(title), slots: [...cast.keys()], lists: drawn, sizes, earlier, parts: joined([...all.flat(), "\n"]) };
  }

  for (const section of sectionsOf(text)) {
    const { kind, header, line, body } = section, [name, ...forms] = header.split(/ +/u).filter(Boolean);
    if (kind === "plot") { plots.push(section); continue; }
    if (lists.has(name) || phrases.has(name)) fail(line, `there is a ${quoted(name)} already`);
    if (kind === "list") lists.set(name, readList(section, forms.length ? forms : ["name"]));
    else {
      phrases.set(name, body.filter(([, text]) => text));
      if (!phrases.get(name).length) fail(line, `there is nothing in <${name}>; give it a line`);
    }
  }
  return plots.map(readPlot);
}

// ---- arithmetic

const bitsOf = once(parts => sumOf(parts, ({ ways }) => ways ? Math.log2(ways.length) + sumOf(ways, bitsOf) / ways.length : 0));
const castBits = ({ sizes, earlier }) => sumOf(range(sizes.length), slot => Math.log2(sizes[slot] - earlier[slot].length));
const sizeOf = text => new TextEncoder().encode(text).length;
const meanOf = once(surfaces => sumOf(surfaces, sizeOf) / surfaces.length);
const meanSize = once(parts => sumOf(parts, part => typeof part === "string" ? sizeOf(part)
  : part.surfaces ? meanOf(part.surfaces) : sumOf(part.ways, meanSize) / part.ways.length));

// The slots that every way through `parts` mentions in a form that tells members apart.
const tellsApart = once(surfaces => new Set(surfaces).size === surfaces.length);
const namedIn = once(parts => {
  const slots = new Set();
  for (const { slot, surfaces, ways } of parts) {
    if (surfaces && tellsApart(surfaces)) slots.add(slot);
    if (ways) {
      const [first, ...others] = ways.map(namedIn);
      for (const slot of first) if (others.every(other => other.has(slot))) slots.add(slot);
    }
  }
  return slots;
});

// In how many ways slots can have members of these, no two the same: any of the largest's members with each way of the others, less
// those in which one of the others has it too.
function castings(candidates, spend) {
  const [largest, ...others] = candidates.toSorted((a, b) => b.length - a.length), all = new Set(largest);
  spend(sumOf(candidates, ({ length }) => length + 1));
  if (!candidates.length) return 1;
  if (!candidates.every(({ length }) => length)) return 0;
  const shared = others.map(members => members.filter(member => all.has(member))), free = castings(others, spend);
  const taken = shared.every(({ length }, slot) => length === others[slot].length) ? others.length * free
    : sumOf(range(others.length), slot => castings(others.with(slot, shared[slot]), spend));
  return largest.length * free - taken;
}

// Every way through a plot that `read` goes along with, until it ends or is enough. read(told, string): what is told then, or
// undefined if the string does not fit. Each way: {told, ended, bits}, the bits of all the choices that led there.
function* tellings(plot, told, read, spend, enough = () => false) {
  const waiting = [{ told, place: { parts: plot.parts, index: 0, after: null }, cast: plot.sizes.map(range), bits: castBits(plot) }];
  const drawn = [...new Set(plot.lists)].map(name => range(plot.lists.length).filter(slot => plot.lists[slot] === name));
  while (waiting.length) {
    let { told, place, cast, bits } = waiting.pop();
    spend(10);
    while (place && place.index === place.parts.length) place = place.after;
    if (!place || enough(told)) {
      const possible = drawn.reduce((ways, slots) => ways * castings(slots.map(slot => cast[slot]), spend), 1);   // none: it named two of the cast as the same
      if (possible) yield { told, ended: !place, bits: bits - Math.log2(possible) };
      continue;
    }
    const part = place.parts[place.index], after = { ...place, index: place.index + 1 };
    const go = (string, rest = () => cast) => {
      const longer = read(told, string);
      spend(string.length + 10);
      if (longer !== undefined) waiting.push({ told: longer, place: after, cast: rest(), bits });
    };
    if (typeof part === "string") go(part);
    else if (part.ways) for (const way of part.ways) waiting.push({ told, place: { parts: way, index: 0, after }, cast, bits: bits + Math.log2(part.ways.length) });
    else for (const surface of new Set(cast[part.slot].map(member => part.surfaces[member])))
      go(surface, () => cast.with(part.slot, cast[part.slot].filter(member => part.surfaces[member] === surface)));
  }
}

// ---- the automaton: where a story may be, and what may come next

const sorted = once(surfaces => [...new Set(surfaces)].sort());
const stringsOf = part => part.surfaces ? sorted(part.surfaces) : [part];

// One object for each place, as in Python; null ends a story.
class Places {
  known = new Map();
  ids = 0;

  place(parts, index, after) {
    if (index === parts.length) return after;
    const byAfter = this.known.get(parts) ?? new Map();
    const all = byAfter.get(after) ?? [];
    this.known.set(parts, byAfter.set(after, all));
    return all[index] ??= { parts, index, after, id: ++this.ids };
  }

  // The strings that may come next, each with the place after it: twice where two ways lead there without a letter.
  ahead(place, spend) {
    const found = [], waiting = [place], visits = new Map();
    while (waiting.length) {
      const place = waiting.pop(), visit = (visits.get(place) ?? 0) + 1;
      if (visit > 2) continue;
      visits.set(place, visit);
      const part = place?.parts[place.index], after = place && this.place(place.parts, place.index + 1, place.after);
      if (part?.ways) for (const way of part.ways.toReversed()) waiting.push(this.place(way, 0, after));
      else for (const string of place ? stringsOf(part) : ["\0"]) found.push([string, after]);
      spend(10);
    }
    spend(10 * found.length);
    return found;
  }
}

const tellerKey = ([string, place]) => `${place?.id ?? 0} ${string}`;
const together = tellers => [...new Set(tellers.map(tellerKey))].sort();

// The beginning of a text that can be told in two ways; null if there is no such text.
function ambiguousTextOf(plots) {
  const places = new Places(), seen = new Set(), start = [{ ways: plots.map(plot => plot.parts) }], spend = patience();
  const todo = [["", [["", places.place(start, 0, null)]]]];
  while (todo.length) {
    let [read, tellers] = todo.pop();                          // a teller: a string to be read, and the place after it
    if (tellers.length === 1 && tellers[0][0]) [read, tellers] = [read + tellers[0][0], [["", tellers[0][1]]]];
    const key = together(tellers).join("\n");
    spend(key.length);
    if (seen.has(key)) continue;
    seen.add(key);
    const byLetter = new Map();
    for (const teller of tellers) for (const [string, place] of teller[0] ? [teller] : places.ahead(teller[1], spend)) {
      const letter = String.fromCodePoint(string.codePointAt(0)), followers = byLetter.get(letter) ?? [];
      followers.push([string.slice(letter.length), place]);
      byLetter.set(letter, followers);
    }
    for (const [letter, followers] of byLetter) {
      if (together(followers).length < followers.length) return (read + letter).replace(/\0+$/u, "");
      if (letter !== "\0") todo.push([read + letter, followers]);
    }
  }
  return null;
}

// The pre-tokens of a text that nothing after it can change, and the rest: after an apostrophe, "re" may still come.
function settled(text) {
  const pieces = text.match(PRETOKEN) ?? [], certain = Math.max(0, pieces.length - (pieces.at(-2) === "'" ? 2 : 1));
  return [pieces.slice(0, certain), pieces.slice(certain).join("")];
}

// ---- what a page asks for

export class StoryGrammar {
  constructor(text) {
    this.plots = readPlots(text);
    if (!this.plots.length) throw new Error("the grammar has no plots; a plot begins with '# title | cast'");
    this.entropyBits = Math.log2(this.plots.length) + sumOf(this.plots, plot => bitsOf(plot.parts) + castBits(plot)) / this.plots.length;
    this.meanBytes = sumOf(this.plots, plot => meanSize(plot.parts)) / this.plots.length;
    this.bitsPerByte = this.entropyBits / this.meanBytes;
  }

  // The story that these numbers tell: next(ways) is the number of the way, below `ways`. It ends in a newline.
  tell(next) {
    const plot = this.plots[next(this.plots.length)], members = [];
    for (const [slot, size] of plot.sizes.entries()) {
      const before = plot.earlier[slot].map(other => members[other]).sort((a, b) => a - b);
      members.push(before.reduce((member, other) => member + (member >= other), next(size - before.length)));
    }
    const told = parts => parts.map(part => typeof part === "string" ? part
      : part.surfaces ? part.surfaces[members[part.slot]] : told(part.ways[next(part.ways.length)])).join("");
    return told(plot.parts);
  }

  // A random story and the bits of its choices, which are -log2Prob where a story can be told in one way only; 0 <= random() < 1.
  sample(random) {
    let bits = 0;
    const text = this.tell(ways => { bits += Math.log2(ways); return Math.floor(random() * ways); });
    return { text, bits };
  }

  // The base-2 logarithm of a text's probability; -Infinity for what the grammar cannot tell.
  log2Prob(story) {
    const read = (at, string) => story.startsWith(string, at) ? at + string.length : undefined;
    let sum = 0, least = Infinity;                             // 2^-bits of all ways, the likeliest taken out
    const spend = patience();
    for (const plot of this.plots) for (const { told, bits } of tellings(plot, 0, read, spend)) {
      if (told !== story.length) continue;
      if (bits < least) [sum, least] = [sum * 2 ** (bits - least), bits];
      sum += 2 ** (least - bits);
    }
    return sum ? Math.log2(sum / this.plots.length) - least : -Infinity;
  }

  ambiguousText() { return ambiguousTextOf(this.plots); }

  // Each [title of the plot, cast member] that a story need not name, so that its draw may stay hidden.
  unnamed() {
    return this.plots.flatMap(({ title, slots, parts }) => {
      const named = namedIn(parts);
      return slots.filter((_, slot) => !named.has(slot)).map(slot => [title, slot]);
    });
  }

  // Every pre-token that a story may have, sorted, and the most that one story has.
  words() {
    const places = new Places(), words = new Set(), known = new Map(), spend = patience();
    const visit = (place, rest, depth) => {                    // the most pre-tokens from here on
      const key = tellerKey([rest, place]);
      if (known.has(key)) return known.get(key);
      if (depth > MOST_DEPTH) throw new Error(LONG);
      let most = 0;
      for (const [string, after] of places.ahead(place, spend)) {
        spend(rest.length + string.length);
        const end = !place, [pieces, left] = end ? [rest.match(PRETOKEN) ?? [], ""] : settled(rest + string);
        for (const piece of pieces) words.add(piece);
        if (words.size > MOST_WORDS) throw new Error(`These stories have more than ${MOST_WORDS} different words; a model in this page learns fewer.`);
        most = Math.max(most, pieces.length + (end ? 0 : visit(after, left, depth + 1)));
      }
      known.set(key, most);
      return most;
    };
    const start = [{ ways: this.plots.map(plot => plot.parts) }], longest = visit(places.place(start, 0, null), "", 0);
    if (longest > MOST_LENGTH) throw new Error(LONG);
    const sizes = Array.from(words, sizeOf);
    if (sizes.some(size => size > MOST_BYTES / 20) || sumOf(sizes, size => size) > MOST_BYTES) throw new Error(HEAVY);
    return { words: [...words].sort(), longest };
  }

  // What the next pre-token of a story is after this text, which ends between two of them: a Map to probabilities, "" for the end.
  next(text) {
    const read = (told, string) => {
      const longer = told + string;
      return longer.length > text.length ? longer.startsWith(text) ? longer : undefined : text.startsWith(longer) ? longer : undefined;
    };
    const nextOf = (told, ended) => {                          // undefined: not certain yet; null: none of `told` begins here
      const [pieces, rest] = settled(told);
      let at = 0;
      for (const piece of ended ? [...pieces, ...rest.match(PRETOKEN) ?? []] : pieces) {
        if (at >= text.length) return at === text.length ? piece : null;
        at += piece.length;
      }
      return ended ? at === text.length ? "" : null : undefined;
    };
    const found = [], spend = patience(), enough = told => told.length > text.length && nextOf(told) !== undefined;
    for (const plot of this.plots) for (const { told, ended, bits } of tellings(plot, "", read, spend, enough)) {
      const word = nextOf(told, ended);
      if (word !== null) found.push([word, bits]);
    }
    const least = found.reduce((least, [, bits]) => Math.min(least, bits), Infinity), total = sumOf(found, ([, bits]) => 2 ** (least - bits));
    const shares = new Map();
    for (const [word, bits] of found) shares.set(word, (shares.get(word) ?? 0) + 2 ** (least - bits) / total);
    return shares;
  }
}

// A byte-level BPE tokenizer, in the layout of tokenizer.json, in which each of these words is one token: chapter 01's rule, on
// these words alone, until nothing is left to merge. The ids: 0 is the end of a text, then the words, then what no story uses.
export function wordTokenizer(words) {
  const END = "<|endoftext|>", tokens = range(256).map(b => String.fromCharCode(b)), SPAN = 2 ** 16;
  const pieces = words.map(word => bytesOf(word).map(byte => tokens.indexOf(byte))), merges = [], counts = new Map();
  const [left, right] = [pair => tokens[Math.floor(pair / SPAN)], pair => tokens[pair % SPAN]];
  const later = (a, b) => left(a) > left(b) || left(a) === left(b) && right(a) > right(b);
  for (;;) {
    counts.clear();
    for (const piece of pieces) for (let i = 1; i < piece.length; i++) {
      const pair = piece[i - 1] * SPAN + piece[i];
      counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
    if (!counts.size) break;
    let best, most = 0;
    for (const [pair, count] of counts) if (count > most || count === most && later(pair, best)) [best, most] = [pair, count];
    const token = left(best) + right(best), known = tokens.indexOf(token), merged = known < 0 ? tokens.push(token) - 1 : known;
    merges.push([left(best), right(best)]);
    for (const piece of pieces)
      for (let i = 1; i < piece.length; i++) if (piece[i - 1] * SPAN + piece[i] === best) piece.splice(i - 1, 2, merged);
  }
  const all = new Set([...pieces.map(([token]) => tokens[token]), ...tokens]);
  const letters = Object.fromEntries(Object.entries(bytes).map(([letter, byte]) => [byte, letter]));
  const printable = token => Array.from(token, byte => letters[byte]).join("");
  const vocab = Object.fromEntries([END, ...Array.from(all, printable)].map((token, id) => [token, id]));
  const added = { id: 0, content: END, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const cut = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return { version: "1.0", truncation: null, padding: null, added_tokens: [added], normalizer: null, pre_tokenizer: cut, post_processor: null, decoder: cut,
    model: { type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false,
      byte_fallback: false, ignore_merges: false, vocab, merges: merges.map(pair => pair.map(printable)) } };
}

// After how many updates, of 16 stories each, a model of two layers comes within 5 % of the entropy: about, from runs on grammars
// of 27 to 117 words.
const stepsToLearn = words => Math.ceil(5 * words ** 0.8);

// What there is to say about a grammar before a model learns it; `problem`: why none should.
export function describe(text) {
  const grammar = new StoryGrammar(text), { entropyBits, meanBytes, bitsPerByte } = grammar;
  let turn = 0;                                                // the same story for the same grammar
  const random = () => turn = (turn + 0.618034) % 1, about = { entropyBits, meanBytes, bitsPerByte, story: "", words: 0, longest: 0, stepsToLearn: 0, problem: "" };
  const [hidden] = grammar.unnamed();
  try {
    const twice = grammar.ambiguousText(), { words, longest } = grammar.words();
    Object.assign(about, { words: words.length, longest, stepsToLearn: stepsToLearn(words.length), story: grammar.sample(random).text });
    const told = strip(twice ?? "").replace(/^.*(?=.{60})/su, "…");
    if (twice !== null) about.problem = `${told ? `“${told}”` : "A story"} can be told in two ways, so the line would be too high: let each story have one.`;
    else if (hidden) about.problem = `A story of “${hidden[0]}” need not name its ${hidden[1]}, so the line would be too high: name ${hidden[1]} in it.`;
    else if (!entropyBits) about.problem = "There is only one story here, and nothing to learn: offer a choice, as in [cat|dog].";
  } catch (error) { about.problem = error.message; }
  return about;
}
