// Byte-pair encoding, step by step. Traits: text, num_merges, and step, how many merges are done.
import { chip, drawBars, numberedChip, panel, readable, showValue } from "./parts.js";
import { PRETOKEN, bytesOf } from "./tokenizer.js";

const SMALL = "low low low low low lower lower widest widest widest" + " newest".repeat(6);

// ---- the arithmetic of lm336/bpe.py, the naive way

// The distinct pre-tokens of a text, as bytes, and how often each occurs.
export function countWords(text) {
  const counts = new Map();
  for (const piece of text.match(PRETOKEN) ?? []) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  return Array.from(counts, ([piece, count]) => ({ tokens: bytesOf(piece), count }));
}

const greater = (x, y) => x < y ? 1 : x > y ? -1 : 0;

// How often each pair of neighbours occurs: the most frequent first, of equals the lexicographically greater.
export function countPairs(words) {
  const found = new Map();
  for (const { tokens, count } of words)
    for (let i = 1; i < tokens.length; i++) {
      const pair = [tokens[i - 1], tokens[i]], key = pair.join("\u0100");
      if (!found.has(key)) found.set(key, { pair, count: 0 });
      found.get(key).count += count;
    }
  return [...found.values()].sort((x, y) => y.count - x.count || greater(x.pair[0], y.pair[0]) || greater(x.pair[1], y.pair[1]));
}

// Replace a pair from left to right, no token used twice.
export function replacePair(tokens, [a, b]) {
  const out = [];
  for (let i = 0; i < tokens.length; i++) out.push(tokens[i] === a && tokens[i + 1] === b ? tokens[i] + tokens[++i] : tokens[i]);
  return out;
}

// The words and their pairs before each merge and after the last; the first of the pairs is merged next.
export function train(words, numMerges) {
  const states = [{ words, pairs: countPairs(words) }];
  while (states.length <= numMerges && states.at(-1).pairs.length) {
    const { words, pairs: [{ pair }] } = states.at(-1);
    const merged = words.map(({ tokens, count }) => ({ tokens: replacePair(tokens, pair), count }));
    states.push({ words: merged, pairs: countPairs(merged) });
  }
  return states;
}

// ---- the panel

const HTML = `
  <form>
    <label class="wide">Learn from this text <textarea name="text" rows="3" maxlength="20000" spellcheck="false"></textarea></label>
    <label class="wide">Merges done <span class="value" aria-hidden="true"></span><input name="step" type="range" min="0" value="0"></label>
    <div class="actions"><button type="submit"></button><button type="button" class="quiet" name="back">Back</button></div>
  </form>
  <p class="status" role="status"></p>
  <div class="split">
    <figure><figcaption>The words, in tokens</figcaption><ul class="words"></ul></figure>
    <figure><figcaption>How often each pair occurs</figcaption><ol class="bars"></ol></figure>
  </div>
  <figure><figcaption>Learned so far</figcaption><div class="chips"></div></figure>`;

const SHOWN = 10;
const written = ([a, b]) => `${readable(a)} + ${readable(b)}`;
const times = count => count === 1 ? "once" : `${count} times`;

// Why the first of the pairs is the one.
export function reason(pairs) {
  const [{ pair, count }, second] = pairs, equals = pairs.filter(other => other.count === count).length - 1;
  if (!equals) return `${written(pair)} occurs ${times(count)}, more often than any other pair.`;
  const place = pair[0] === second.pair[0] ? 1 : 0;
  const who = equals === 1 ? `so does ${written(second.pair)}` : `so do ${equals} other pairs, such as ${written(second.pair)}`;
  return `A tie: ${written(pair)} occurs ${times(count)}, and ${who}. The lexicographically greater pair wins: ` +
         `${readable(pair[place])} comes after ${readable(second.pair[place])}.`;
}

export function render({ model, el }) {
  const $ = panel(el, "bpe", HTML), form = $("form"), { text, step, back } = form.elements;
  const numMerges = model.get("num_merges") ?? 20;
  let states;

  function learn() {
    text.value = model.get("text") ?? SMALL;
    states = train(countWords(text.value), numMerges);
    step.max = states.length - 1;
    show();
  }

  function show() {
    const done = Math.min(model.get("step") ?? 0, states.length - 1), { words, pairs } = states[done];
    const learned = states.slice(0, done).map(({ pairs: [{ pair }] }, i) => [pair.join(""), 256 + i]);
    const ids = new Map(learned.toReversed()), next = done < numMerges && pairs.length ? pairs[0].pair : null;
    step.value = done;
    showValue(step, `${done} of ${states.length - 1}`);
    back.disabled = !done;
    $("button").disabled = !next;
    $("button").textContent = next ? `Merge ${written(next)}` : "Done";
    $(".status").textContent = next ? reason(pairs) : !words.length ? "There is no text to learn from." :
      pairs.length ? "These are all the merges that were asked for." : "No pair is left: every word is one token.";
    const often = words.toSorted((a, b) => b.count - a.count);
    $(".words").replaceChildren(...often.slice(0, SHOWN).map(word => wordItem(word, next, ids)), ...rest(often, "word"));
    drawBars($(".bars"), pairs.slice(0, SHOWN).map(({ pair, count }, i) =>
      ({ name: written(pair), share: count / pairs[0].count, value: count, best: !i && next })));
    $(".bars").append(...rest(pairs, "pair"));
    $(".chips").replaceChildren(...learned.map(([token, id]) => numberedChip(readable(token), id)));
  }

  const set = (key, value) => { model.set(key, value); model.save_changes(); };
  form.onsubmit = event => { event.preventDefault(); set("step", +step.value + 1); };
  back.onclick = () => set("step", +step.value - 1);
  step.oninput = () => set("step", +step.value);
  text.oninput = () => { set("step", 0); set("text", text.value); };
  model.on("change:step", show);
  model.on("change:text", learn);
  learn();
}

// How many more than those that are shown.
function rest(list, kind) {
  const more = list.length - SHOWN, item = document.createElement("li");
  item.className = "rest";
  item.textContent = `and ${more} more ${kind}${more > 1 ? "s" : ""}`;
  return more > 0 ? [item] : [];
}

// A word: its tokens, those of the pair that is next marked, and how often it occurs.
function wordItem({ tokens, count }, next, ids) {
  const item = document.createElement("li"), marked = new Set();
  if (next) for (let i = 1; i < tokens.length; i++)
    if (tokens[i - 1] === next[0] && tokens[i] === next[1] && !marked.has(i - 1)) marked.add(i - 1).add(i);
  tokens.forEach((token, i) => {
    const piece = chip(readable(token), ids.get(token));
    piece.classList.toggle("best", marked.has(i));
    item.append(piece);
  });
  const number = document.createElement("small");
  number.textContent = `× ${count}`;
  item.append(number);
  return item;
}

export default { render };
