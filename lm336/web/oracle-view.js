// The model beside the perfect reader of chapter 16: a text, typed or told; and for a token of it what each of them expected there, what the
// model lacked, and the cause. In JupyterLab Python answers both's messages, on a page worker.js and oracle-worker.js. Traits: text; and on a page
// recording, what both said of a text, to begin with.
import { drawPairs, panel, rounded, showNumbers, visible } from "./parts.js";
import { surprise, tokenText } from "./tokens.js";
import { impossible, perfectReader } from "./truth.js";

const HTML = `
  <form novalidate>
    <label class="wide">A text for both readers, or how a story begins
      <textarea name="text" rows="3" spellcheck="false"></textarea></label>
    <div class="actions"><button type="submit">Read it</button>
      <button type="button" class="quiet" name="tell">Continue it</button>
      <label class="pick">Shade by <select name="shade"><option value="excess">excess</option><option value="surprise">surprise</option></select></label></div>
    <progress class="idle" max="1" value="0" aria-label="Loading the model"></progress>
    <p class="status" role="status">Press, and the model (4 MB) and the perfect reader come into this page.</p>
  </form>
  <div class="split">
    <div class="text" role="group" aria-label="The text: the arrow keys choose a token"></div>
    <figure><figcaption class="place" aria-live="polite"></figcaption>
      <dl class="numbers"></dl>
      <figcaption class="legend" hidden>Expected by <b class="model">the model</b>, and in <b class="truth">truth</b></figcaption>
      <ol class="bars pairs"></ol></figure>
  </div>`;

const TEXT = `Sally was a nimble girl who lived in a foggy village. She dreamed of a lovely trumpet. One strange Sunday Sally had seven figs in a borrowed basket. \
She counted them again: yes, there were seven. A sign said: "Soccer, every Sunday. Bring a dumpling." Along came a sleepy beaver. "Please give me one," it begged.
"All right," said Sally, "for six figs are enough for me." The beaver ate the fig and was so pleased that it hopped away over the grass.
At home her great-uncle counted the figs. "Six? There should be seven," he said. "One of the seven I gave away," said Sally, "and it tasted better than the \
other six." How can that be? Think about it!
`;
const PAUSE = 300;                       // milliseconds without a key until what is typed is read
const DOCUMENT = "<|endoftext|>", ROWS = 9, ALL = 1e6;
const MOST = { excess: 4, surprise: 8 };   // bits of the warmest shade
const WHY = {
  agreement: "what came before leaves only one word",
  cast: "somebody or something of the cast is named, and may still be several",
  "word lists": "a word of a list, or one of several ways to go on",
  plot: "a word that the plot always has here",
  spelling: "the rest of a word that only one can be",
  end: "the story ends",
  other: "several of these at once",
};
const said = text => text === DOCUMENT ? "the end" : visible(text);
const bitsText = bits => bits === null ? "–" : bits === Infinity ? "impossible" : `${rounded(bits, 2)} bits`;
const share = probability => `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)} %`;

// The sentence that sums a text up.
function summary(tokens, reader) {
  let ofModel = 0, ofReader = 0;
  const lacks = {};
  tokens.forEach((token, i) => {
    const excess = reader.excess(token, i);
    if (excess === null) return;
    ofModel += surprise(token);
    ofReader += reader.bits(i);
    lacks[reader.cause(i).name] = (lacks[reader.cause(i).name] ?? 0) + excess;
  });
  const [most] = Object.entries(lacks).sort(([, a], [, b]) => b - a)[0] ?? [], excess = ofModel - ofReader;
  const numbers = `The model needed ${ofModel.toFixed(1)} bits, the perfect reader ${ofReader.toFixed(1)}`;
  if (reader.told < tokens.length) return `Impossible: ${impossible(tokens, reader.told)}. There the model is alone.`;
  return !tokens.length ? "" : excess > 0.05 ? `${numbers}: an excess of ${excess.toFixed(1)}, most of it in ${most}.` : `${numbers}.`;
}

export function render({ model, el }) {
  const $ = panel(el, "oracle-view", HTML), form = $("form"), fields = form.elements, status = $(".status"), progress = $("progress");
  const view = tokenText($(".text"), look), reader = perfectReader(model, heardTruth);
  let state = "asleep";                 // asleep, loading, ready, reading, telling or failed
  let first = null, given = 0;          // the token before the text; the tokens of what was typed
  let waiting = null, reading = null;   // what is done once the model is there; and once it has read the text
  let tag = 0, seed = -1, timer = 0, judged = false;   // judged: whether the perfect reader has answered about the text
  let place = { mine: "place 0" }, looks = 0;          // what each expected at one place

  function become(now, sentence = "") {
    state = now;
    progress.classList.toggle("idle", state !== "loading");
    $("[type=submit]").textContent = { loading: "Loading", failed: "Try again" }[state] ?? "Read it";
    fields.tell.textContent = state === "telling" ? "Stop" : "Continue it";
    for (const button of [$("[type=submit]"), fields.tell]) button.disabled = state === "loading";
    status.textContent = sentence;
  }

  const ask = message => model.send({ count: 1, ...message, tag: ++tag });

  function begin(work) {                // what needs the model waits until it is there
    clearTimeout(timer);
    if (state !== "asleep" && state !== "failed" && state !== "loading") return work();
    waiting = work;
    if (state === "loading") return;
    become("loading", "Loading the model");
    progress.removeAttribute("value");
    ask({ type: "load" });
  }

  // ---- reading, and telling

  const prompt = () => DOCUMENT + fields.text.value;

  function read(after, then) {          // the text, and these ids after it
    become("reading", "Both read");
    reader.forget();
    judged = false;
    reading = ({ tokens }) => {
      [first, ...tokens] = tokens;
      view.show(tokens);
      then(tokens);
    };
    ask({ type: "read", prompt: prompt(), after });
  }

  const readAll = after => read(after, tokens => {
    reader.ask(tokens);
    view.choose(null);
  });

  const tell = () => read([], tokens => {
    given = tokens.length;
    become("telling", "Telling");
    ask({ type: "generate", prompt: prompt(), seed: ++seed, max_new_tokens: 400 });
  });

  const answers = {
    progress({ loaded, total }) { progress.value = loaded / total; },
    ready() { become("ready"); waiting(); },
    read(answer) { const work = reading; reading = null; work(answer); },
    token(token) { view.add(token); },
    done({ ended, cancelled }) {
      const ids = view.tokens.slice(given).map(({ id }) => id);
      readAll(ended && !cancelled ? [...ids, first.id] : ids);
    },
    error({ message }) { become(state === "loading" ? "failed" : "ready", message); },
  };

  function heardTruth(mistake) {
    judged = mistake === undefined;
    become("ready", mistake ?? summary(view.tokens, reader));
    shade();
    look(view.chosen);
  }

  // ---- what is shown

  function shade() {
    const by = fields.shade.value, of = { surprise, excess: reader.excess }[by];
    view.shadeBy(of, `bits of ${by}`, MOST[by]);
  }

  // Ask what each expected at a token, or after the text.
  function look(chosen) {
    const at = chosen ?? view.tokens.length, ids = view.tokens.slice(0, at).map(({ id }) => id), mine = `place ${++looks}`;
    place = { at, mine, bars: null, truth: null };
    describe(chosen);
    if (!first) return;
    if (state === "asleep") begin(wake);   // the recording has no other place
    if (state !== "ready") return;
    model.send({ type: "distribution", ids: [first.id], after: ids, count: ALL, tag: mine });
    if (judged && at <= reader.told) model.send({ type: "expected", ids, count: ALL, tag: mine });
  }

  function wake() {
    status.textContent = summary(view.tokens, reader);
    look(view.chosen);
  }

  function play({ text, tokens, truth, chosen, bars, expected }) {   // the workers' answers about a text, and about one place
    fields.text.value = text;
    view.show(tokens.slice(1));
    reader.hear({ ...truth, tag: "truth 0" });
    become("asleep", `${status.textContent} A recording: choose another word, and both readers come into this page (4 MB).`);
    view.choose(chosen);
    Object.assign(place, { bars, truth: expected });
    drawPlace();
    first = tokens[0];
  }

  function describe(chosen) {
    const token = view.tokens[chosen], wrong = judged && reader.told < view.tokens.length ? reader.told : Infinity;
    $(".numbers").replaceChildren();
    if (!token) { $(".place").textContent = view.tokens.length ? "What may come next. Choose a token to see what was expected in its place." : ""; return; }
    const cause = reader.cause(chosen), { name, about, distance } = cause ?? {}, excess = reader.excess(token, chosen);
    const where = about && ` (${about}${distance ? `, named ${distance} tokens before` : ""})`;
    $(".place").textContent = `“${said(token.text)}” ` + (cause ? `hangs on ${name}: ${WHY[name]}${where}.`
      : chosen === wrong ? "is impossible: no story goes on with it." : chosen > wrong ? "comes after the impossible: the model is alone." : "");
    const numbers = { "the model": surprise(token), "the perfect reader": chosen === wrong ? Infinity : reader.bits(chosen), "excess": excess };
    showNumbers($(".numbers"), Object.fromEntries(Object.entries(numbers).map(([name, bits]) => [name, bitsText(bits)])));
  }

  function drawPlace() {
    const { at, bars, truth } = place, believed = new Map(bars.map(bar => [bar.id, bar.probability])), real = new Map(truth?.map(bar => [bar.id, bar.probability]));
    const texts = new Map([...bars, ...truth ?? []].map(({ id, text }) => [id, text])), here = view.tokens[at]?.id, weight = id => (believed.get(id) ?? 0) + (real.get(id) ?? 0);
    const most = [...texts.keys()].sort((a, b) => weight(b) - weight(a)).slice(0, ROWS);
    const ids = here === undefined || most.includes(here) || !texts.has(here) ? most : [...most.slice(0, -1), here];
    $(".legend").hidden = false;
    drawPairs($(".pairs"), ids.map(id => {
      const shares = [believed.get(id) ?? 0, ...truth ? [real.get(id) ?? 0] : []];
      return { name: said(texts.get(id)), shares, value: shares.map(share).join(" · "), best: id === here };
    }));
  }

  const places = {
    bars({ bars }) { place.bars = bars; },
    expected({ bars }) { place.truth = bars; },
    error({ message }) { status.textContent = message; },
  };

  model.on("msg:custom", answer => {
    if (reader.hear(answer)) return;
    if (answer.tag === place.mine) {
      places[answer.type]?.(answer);
      if (place.bars) drawPlace();
    } else if (answer.tag === tag) answers[answer.type]?.(answer);
  });

  // ---- what is pressed

  const readText = () => begin(() => readAll([]));
  form.onsubmit = event => {
    event.preventDefault();
    readText();
  };
  fields.tell.onclick = () => {
    if (state === "telling") model.send({ type: "cancel" });
    else begin(tell);
  };
  fields.text.onkeydown = event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    readText();
  };
  fields.text.oninput = () => {         // once the readers are there they read along
    clearTimeout(timer);
    if (state === "ready" || state === "reading") timer = setTimeout(readText, PAUSE);
  };
  fields.shade.oninput = shade;

  fields.text.value = model.get("text") ?? TEXT;
  const recording = model.get("recording");
  if (recording) play(recording);
  shade();
}

export default { render };
