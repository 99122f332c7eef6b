// lm336/grammar.py in the page (chapter 23): stories whose probabilities are known. What both refuse, both refuse in the same
// words. A story is told of strings, of mentions {slot, surfaces}, where it names one of its cast, and of choices {ways}.
import { PRETOKEN, bytes, bytesOf } from "./tokenizer.js";

const MOST_PARTS = 1_000_000, MOST_STATES = 100_000, MOST_WORDS = 500, MOST_DEPTH = 1000;   // what a page has patience for
const SPACE = String.raw`[\p{White_Space}\x1c-\x1f]`, WORD = String.raw`[\p{L}\p{N}_]`;   // \s and \w, as Python has them
const pattern = (source, flags = "u") => new RegExp(source.replaceAll("\\w", WORD).replaceAll("\\s", SPACE), flags);

const STRIP = pattern(String.raw`^\s+|\s+$`, "gu"), BETWEEN = pattern("\\s+"), strip = text => text.replace(STRIP, "");
const HEADERS = { list: pattern(`^\\[((?:\\w| )*\\w(?:\\w| )*)\\]$`), phrase: pattern(`^<(\\w+)>$`), plot: /^# (.*)$/u };
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
  let cast, open, told, numParts = 0;                          // told: of a plot, the parts that references have been made, and their numbers

  function count(more) {
    numParts += more;
    if (numParts > MOST_PARTS) throw new Error(`The grammar has more than ${MOST_PARTS.toLocaleString("en")} parts when its phrases are written out; make it smaller.`);
  }

  function parts(line, text) {                                 // a line of text
    const ways = [[[]]];                                       // of the line, then of each open [
    for (const token of text.match(PIECES) ?? []) {
      count(1);
      if (token === "[") ways.push([[]]);
      else if (token === "|" && ways.length > 1) ways.at(-1).push([]);
      else if (token === "]" && ways.length > 1) {
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
    if (again) { count(again.size); return again.part; }
    const made = (token[0] === "{" ? mention : choiceOf)(line, readReference(line, token.slice(1, -1)));
    told.set(token, { part: made, size: numParts - before });
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
    open.push(name);
    const ways = phrases.get(name).map(([number, text]) => parts(number, capital ? capitalised(text) : text));
    open.pop();
    return { ways };
  }

  function readPlot({ header, line, body }) {
    const bar = header.indexOf("|"), all = [], [title, members] = bar < 0 ? [header, ""] : [header.slice(0, bar), header.slice(bar + 1)];
    [cast, open, told] = [readCast(lists, line, members), [], new Map()];
    const drawn = [...cast.values()], sizes = drawn.map(name => lists.get(name).words.length);
    const earlier = drawn.map((name, slot) => range(slot).filter(other => drawn[other] === name));
    let between = "";
    for (const [number, text] of body) {
      if (text) { all.push(between, ...parts(number, text)); between = " "; }
      else if (all.length) between = "\n";
    }
    return { title: strip(title), slots: [...cast.keys()], lists: drawn, sizes, earlier, parts: joined([...all, "\n"]) };
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
function namedIn(parts) {
  const slots = new Set();
  for (const { slot, surfaces, ways } of parts) {
    if (surfaces && new Set(surfaces).size === surfaces.length) slots.add(slot);
    if (ways) {
      const [first, ...others] = ways.map(namedIn);
      for (const slot of first) if (others.every(other => other.has(slot))) slots.add(slot);
    }
  }
  return slots;
}

// In how many ways the slots can have members of these, no two of one list the same.
function castings({ earlier }, cast, members = []) {
  const slot = members.length;
  if (slot === cast.length) return 1;
  const free = cast[slot].filter(member => earlier[slot].every(other => members[other] !== member));
  const matters = earlier.some(before => before.includes(slot));
  return matters ? sumOf(free, member => castings({ earlier }, cast, [...members, member]))
    : free.length * (free.length && castings({ earlier }, cast, [...members, null]));
}

// Every way through a plot that `read` goes along with, until it ends or is enough. read(told, string): what is told then, or
// undefined if the string does not fit. Each way: {told, ended, bits}, the bits of all the choices that led there.
function* tellings(plot, told, read, enough = () => false) {
  const waiting = [{ told, place: { parts: plot.parts, index: 0, after: null }, cast: plot.sizes.map(range), bits: castBits(plot) }];
  for (let states = 0; waiting.length; states++) {
    if (states > MOST_STATES) throw new Error("There are too many ways to go on from here.");
    let { told, place, cast, bits } = waiting.pop();
    while (place && place.index === place.parts.length) place = place.after;
    if (!place || enough(told)) {
      const possible = castings(plot, cast);                   // none: it named two of the cast as the same
      if (possible) yield { told, ended: !place, bits: bits - Math.log2(possible) };
      continue;
    }
    const part = place.parts[place.index], after = { ...place, index: place.index + 1 };
    const go = (string, rest = cast) => {
      const longer = read(told, string);
      if (longer !== undefined) waiting.push({ told: longer, place: after, cast: rest, bits });
    };
    if (typeof part === "string") go(part);
    else if (part.ways) for (const way of part.ways) waiting.push({ told, place: { parts: way, index: 0, after }, cast, bits: bits + Math.log2(part.ways.length) });
    else for (const surface of new Set(cast[part.slot].map(member => part.surfaces[member])))
      go(surface, cast.with(part.slot, cast[part.slot].filter(member => part.surfaces[member] === surface)));
  }
}

// ---- the automaton: where a story may be, and what may come next

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

  // The strings that may come next, each with the place after it.
  ahead(place) {
    if (!place) return [["\0", null]];
    const part = place.parts[place.index], after = this.place(place.parts, place.index + 1, place.after);
    if (typeof part === "string") return [[part, after]];
    if (part.surfaces) return [...new Set(part.surfaces)].sort().map(surface => [surface, after]);
    return part.ways.flatMap(way => this.ahead(this.place(way, 0, after)));
  }
}

const tellerKey = ([string, place]) => `${place?.id ?? 0} ${string}`;
const together = tellers => [...new Set(tellers.map(tellerKey))].sort();

// The beginning of a text that can be told in two ways; null if there is no such text.
function ambiguousTextOf(plots) {
  const places = new Places(), seen = new Set(), start = [{ ways: plots.map(plot => plot.parts) }];
  const todo = [["", [["", places.place(start, 0, null)]]]];
  while (todo.length) {
    let [read, tellers] = todo.pop();                          // a teller: a string to be read, and the place after it
    if (tellers.length === 1 && tellers[0][0]) [read, tellers] = [read + tellers[0][0], [["", tellers[0][1]]]];
    const key = together(tellers).join("\n");
    if (seen.has(key)) continue;
    if (seen.add(key).size > MOST_STATES) throw new Error("The grammar has too many ways to be searched for a text that can be told in two.");
    const byLetter = new Map();
    for (const teller of tellers) for (const [string, place] of teller[0] ? [teller] : places.ahead(teller[1])) {
      const letter = String.fromCodePoint(string.codePointAt(0));
      byLetter.set(letter, [...byLetter.get(letter) ?? [], [string.slice(letter.length), place]]);
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
    for (const plot of this.plots) for (const { told, bits } of tellings(plot, 0, read)) {
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
    const places = new Places(), words = new Set(), known = new Map();
    const visit = (place, rest, depth) => {                    // the most pre-tokens from here on
      const key = tellerKey([rest, place]);
      if (known.has(key)) return known.get(key);
      if (known.size > MOST_STATES || words.size > MOST_WORDS)
        throw new Error(`These stories have more than ${MOST_WORDS} different words; a model in this page learns fewer.`);
      if (depth > MOST_DEPTH) throw new Error("A story of this grammar may be longer than a model in this page reads.");
      let most = 0;
      for (const [string, after] of places.ahead(place)) {
        const end = !place, [pieces, left] = end ? [rest.match(PRETOKEN) ?? [], ""] : settled(rest + string);
        for (const piece of pieces) words.add(piece);
        most = Math.max(most, pieces.length + (end ? 0 : visit(after, left, depth + 1)));
      }
      known.set(key, most);
      return most;
    };
    const start = [{ ways: this.plots.map(plot => plot.parts) }], longest = visit(places.place(start, 0, null), "", 0);
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
    const found = [];
    for (const plot of this.plots) for (const { told, ended, bits } of tellings(plot, "", read, told => nextOf(told) !== undefined)) {
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
  const better = ({ pair: [a, b], count }, { pair: [c, d], count: most }) => count > most || count === most && (a > c || a === c && b > d);
  const merges = [], pieces = words.map(bytesOf), END = "<|endoftext|>";
  for (;;) {
    const counts = new Map();
    for (const tokens of pieces) for (let i = 1; i < tokens.length; i++) {
      const pair = [tokens[i - 1], tokens[i]], key = pair.join("\u0100");
      counts.set(key, { pair, count: (counts.get(key)?.count ?? 0) + 1 });
    }
    if (!counts.size) break;
    const { pair: [a, b] } = [...counts.values()].reduce((best, other) => better(other, best) ? other : best);
    merges.push([a, b]);
    for (const tokens of pieces)
      for (let i = 1; i < tokens.length; i++) if (tokens[i - 1] === a && tokens[i] === b) tokens.splice(i - 1, 2, a + b);
  }
  const all = new Set([...pieces.flat(), ...range(256).map(b => String.fromCharCode(b)), ...merges.map(pair => pair.join(""))]);
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
  const random = () => turn = (turn + 0.618034) % 1, about = { entropyBits, meanBytes, bitsPerByte, story: grammar.sample(random).text, words: 0, longest: 0, stepsToLearn: 0, problem: "" };
  const [hidden] = grammar.unnamed();
  try {
    const twice = grammar.ambiguousText(), { words, longest } = grammar.words();
    Object.assign(about, { words: words.length, longest, stepsToLearn: stepsToLearn(words.length) });
    if (twice !== null) about.problem = `“${strip(twice)}” can be told in two ways, so the line would be too high: let each story have one.`;
    else if (hidden) about.problem = `A story of “${hidden[0]}” need not name its ${hidden[1]}, so the line would be too high: name ${hidden[1]} in it.`;
    else if (!entropyBits) about.problem = "There is only one story here, and nothing to learn: offer a choice, as in [cat|dog].";
  } catch (error) { about.problem = error.message; }
  return about;
}
