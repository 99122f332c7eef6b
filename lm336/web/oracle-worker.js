// The perfect reader off the main thread: new Worker("oracle-worker.js", { type: "module" }). README.md lists its messages.
import { tokenCauses } from "./causes.js";
import { StoryGrammar } from "./grammar.js";
import { download, downloadJSON, sentence } from "./model.js";
import { StoryReader } from "./oracle.js";
import { Tokenizer } from "./tokenizer.js";

let loaded = null;                     // a promise, until it fails

async function load(url) {
  const folder = new URL(url, self.location).href, tokenizer = Tokenizer.fromJSON(await downloadJSON(folder, "tokenizer.json"));
  const grammar = new StoryGrammar(new TextDecoder().decode(await download(folder, "stories.txt")));
  return { grammar, tokenizer, reader: new StoryReader(grammar, tokenizer) };
}

// Read these ids, as far as a story goes. The end of a text before the first is no part of it.
function follow({ tokenizer, reader }, { ids }) {
  const begin = ids[0] === tokenizer.endOfText ? 1 : 0, story = ids.slice(begin);
  reader.rewind(story);
  while (reader.ids.length < story.length && reader.read(story[reader.ids.length]) < Infinity);
  return begin;
}

const answers = {
  truth(known, message) {
    const before = Array(follow(known, message)).fill(null), { grammar, tokenizer, reader } = known;
    return { bits: [...before, ...reader.bits], causes: [...before, ...tokenCauses(grammar, tokenizer, reader.ids)] };
  },
  expected(known, message) {
    const begin = follow(known, message), { tokenizer, reader } = known;
    if (reader.ids.length < message.ids.length - begin) throw new Error(`No story goes on with token ${begin + reader.ids.length}.`);
    const likeliest = [...reader.expected()].sort(([a, p], [b, q]) => q - p || a - b).slice(0, message.count ?? 10);
    return { bars: likeliest.map(([id, probability]) => ({ id, text: tokenizer.decode([id]), probability })) };
  },
};

self.onmessage = async ({ data }) => {
  const say = message => self.postMessage({ ...message, tag: data.tag });
  try {
    if (!answers[data.type]) throw new Error(`There is no message of type ${data.type}.`);
    loaded ??= load(data.url).catch(error => { loaded = null; throw error; });
    say({ type: data.type, ...answers[data.type](await loaded, data) });
  } catch (error) { say({ type: "error", message: sentence(error) }); }
};
