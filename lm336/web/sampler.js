// The sampling panel: in JupyterLab through anywidget on the live model, on a page through embed.js on a worker.
// `model.send` takes worker.js's and oracle-worker.js's messages, `model.on("msg:custom", ...)` hears its answers. Traits, which only a page has: recording, a story
// to tell before there is a model; linked, whether the page's address may hold the story.
import { drawBars, panel, rounded, showValue, visible } from "./parts.js";
import { surprise, tokenText } from "./tokens.js";
import { impossible, perfectReader } from "./truth.js";

const HTML = `
  <form novalidate>
    <div class="ask">
      <label class="wide">How does the story begin?
        <textarea name="prompt" rows="2" spellcheck="false" enterkeyhint="go">Once upon a time</textarea></label>
      <div class="actions"><button type="submit">Tell a story</button>
        <button type="button" class="quiet again" disabled>Same again</button></div>
      <progress class="idle" max="1" value="0" aria-label="Loading the model"></progress>
      <p class="status" role="status"></p>
    </div>
    <fieldset class="dials"><legend class="unseen">How the next token is drawn</legend>
      <label>Temperature <span class="value" aria-hidden="true"></span>
        <input name="temperature" type="range" min="0" max="2" step="0.05" value="0.8"></label>
      <label>Top-k <span class="value" aria-hidden="true"></span>
        <input name="top_k" type="range" min="0" max="100" step="1" value="0"></label>
      <label>Top-p <span class="value" aria-hidden="true"></span>
        <input name="top_p" type="range" min="0.05" max="1" step="0.05" value="1"></label>
      <label>Seed <input name="seed" type="number" min="0" step="1" value="0"></label>
    </fieldset>
    <div class="story"><div class="text" role="group" aria-label="The story: the arrow keys choose a token"></div>
      <div class="actions"><button type="button" class="quiet copy">Copy story</button>
        <button type="button" class="quiet link">Copy link</button>
        <label class="pick">Shade by <select name="shade"><option>surprise</option><option>excess</option></select></label></div></div>
    <figure class="next"><figcaption></figcaption><ol class="bars"></ol></figure>
  </form>
  <p class="unseen heard" aria-live="polite"></p>`;

const BEAT = 40;                        // milliseconds for a token of the recording
const LEAST = 0.0005;                   // less would be 0.0 %
const LINKED = ["prompt", "temperature", "top_k", "top_p", "seed"];
const named = text => text === "<|endoftext|>" ? "(the end)" : visible(text);
const quoted = text => `“${named(text)}”`;
const percent = share => `${(100 * share).toFixed(1)} %`;

export function render({ model, el }) {
  const $ = panel(el, "sampler", HTML), form = $("form"), fields = form.elements, recording = model.get("recording");
  const bars = $(".bars"), caption = $("figcaption"), status = $(".status"), progress = $("progress");
  const button = $("[type=submit]"), again = $(".again"), linked = model.get("linked") === true;
  const view = tokenText($(".text"), showChosen), reader = perfectReader(model, shade);
  let state = "asleep";                 // asleep, loading, ready, telling or failed
  let story = null;                     // what is told: the settings, `after`: the ids after the prompt, `given`: tokens before the first drawn
  let told = false;                     // whether it has been begun
  let pending = null;                   // a token that waits until the next is there
  let waiting = null, reading = null;   // what is done once the model is there; and once it has read the text
  let next = [], failed = false;        // the bars after the text; whether a question has had no answer since
  let tag = 0, beat = 0, frame = 0;

  const settings = () => ({
    prompt: fields.prompt.value, temperature: +fields.temperature.value,
    top_k: +fields.top_k.value || undefined, top_p: +fields.top_p.value < 1 ? +fields.top_p.value : undefined,
    seed: Math.max(0, Math.floor(+fields.seed.value || 0)),
  });
  const isTold = () => told && story.prompt === fields.prompt.value;
  const isNew = () => !(isTold() && story.seed === settings().seed);
  const drawn = end => view.tokens.slice(story.given, end).map(({ id }) => id);

  function label() {
    const { temperature, top_k, top_p } = settings(), idle = isNew() ? "Tell a story" : "Another story";
    showValue(fields.temperature, temperature.toFixed(2));
    showValue(fields.top_k, top_k ?? "all");
    showValue(fields.top_p, top_p?.toFixed(2) ?? "all");
    button.textContent = { loading: "Loading", telling: "Stop", failed: "Try again" }[state] ?? idle;
    button.disabled = state === "loading";
    again.disabled = !told || state === "loading";
  }

  function become(now, sentence = "") {
    state = now;
    progress.classList.toggle("idle", state !== "loading");   // `hidden` would take its place away
    status.textContent = sentence;
    label();
  }

  // ---- what the model is asked

  const ask = message => model.send({ count: 10, ...message, tag: ++tag });

  function begin(work) {                // what needs the model waits until it is there
    clearInterval(beat);
    flush();
    if (state === "ready" || state === "telling") return work();
    if (state !== "loading" || work !== look) waiting = work;
    if (state === "loading") return;
    become("loading", "Loading the model");
    progress.removeAttribute("value");
    ask({ type: "load" });
  }

  function look() {                     // what may come next, or instead of the chosen token
    const { prompt, ...how } = settings(), at = view.chosen;
    let text = { prompt };
    if (at !== null && at < story.given) text = { ids: view.tokens.slice(0, at).map(({ id }) => id) };
    else if (at !== null || isTold()) text = { prompt: story.prompt, after: drawn(at ?? undefined) };
    if (at !== 0) ask({ type: "distribution", ...how, ...text, drawn: view.tokens[at]?.id });
  }

  function start(after) {               // tell what the fields say, after these ids
    const coming = { ...settings(), after };
    become("telling", "Telling");
    reading = ({ tokens }) => {
      story = { ...coming, given: tokens.length - after.length };
      told = true;
      reader.forget();
      view.show(tokens);
      goOn();
    };
    ask({ ...coming, type: "read" });
  }

  function goOn() {                     // with the fields' settings, from where the text ends
    const { prompt, seed } = story;
    pending = null;
    Object.assign(story, settings(), { prompt, seed, after: drawn() });
    ask({ ...story, type: "generate", max_new_tokens: 400 });
  }

  function tell() {
    const { prompt, seed } = settings(), same = story?.prompt === prompt && story.seed === seed;
    if (same && told) fields.seed.value = seed + 1;
    start(same && !told ? story.after : []);   // of a link
  }

  function stop() {
    model.send({ type: "cancel" });
    if (!reading) return;
    reading = null;                     // nothing is told yet, and an answer that is under way is not heard
    tag++;
    become("ready");
  }

  function take(place, { id, text }) {  // go on with this token instead of what stands there
    button.focus({ preventScroll: true });
    if (place === null) return begin(() => start([id]));
    const inPrompt = place < story.given;
    fields.prompt.value = inPrompt ? view.tokens.slice(0, place).map(token => token.text).join("") + text : story.prompt;
    const after = inPrompt ? [] : [...drawn(place), id];
    begin(() => start(after));
  }

  // ---- what is shown

  function showBars(list, place, best) {   // place: of the token in the text; null: after a prompt that nothing is told of
    const free = state !== "telling" || view.chosen !== null;
    drawBars(bars, list.filter(({ id, probability }) => probability >= LEAST || id === best).map(bar => ({
      name: named(bar.text), share: bar.probability, value: percent(bar.probability), best: bar.id === best,
      ...(free && { press: () => take(place, bar), label: `go on from here with ${quoted(bar.text)}` }) })));
  }

  function showNext(best) {
    caption.textContent = state === "telling" || !next.length ? "What may come next" : "What may come next. Press one to go on with it.";
    showBars(next, isTold() ? view.tokens.length : null, best);
  }

  function showChosen(index) {
    if (index === null) return showNext();
    const token = view.tokens[index], bits = surprise(token), excess = byExcess() ? reader.excess(token, index) : null;
    caption.textContent = bits === null ? `${quoted(token.text)} is the first: nothing led the model to expect it.`
      : `${quoted(token.text)} cost ${bits.toFixed(1)} bits${excess === null ? "" : `, ${rounded(excess, 1)} of them excess`}. Press one to go on from here with it.`;
    const hidden = bits !== null && !token.bars.some(({ id }) => id === token.id);   // the settings cut it off
    showBars(hidden ? [...token.bars, { ...token, probability: 0 }] : token.bars, index, token.id);
  }

  function showPending() {              // once for all tokens of a frame
    frame = 0;
    if (pending && view.chosen === null) showNext(pending.id);
  }

  function flush() {
    if (pending) view.add(pending);
    pending = null;
  }

  // ---- by what the text is shaded

  const byExcess = () => fields.shade.value === "excess";

  function judge() {                    // by excess: once the perfect reader has read the text
    if (byExcess() && state !== "telling" && view.tokens.length) {
      status.textContent = "The perfect reader reads";
      reader.ask(view.tokens);
    }
    view.shadeBy(...byExcess() ? [reader.excess, "bits of excess", 4] : [surprise, "bits", 8]);
  }

  function shade(mistake) {             // the perfect reader has answered
    if (!byExcess()) return;
    const left = reader.told < view.tokens.length;
    status.textContent = mistake ?? (left ? `Impossible: ${impossible(view.tokens, reader.told)}. From there on there is no excess.`
      : "The warmer a word, the more the model lacked: the perfect reader of the stories had expected it.");
    view.shadeBy(reader.excess, "bits of excess", 4);
    if (view.chosen !== null) showChosen(view.chosen);
  }

  function finish() {
    $(".heard").textContent = view.tokens.map(({ text }) => text).join("");
    if (linked) history.replaceState(history.state, "", link());
  }

  const answers = {
    progress({ loaded, total }) { progress.value = loaded / total; },
    ready() { become("ready"); waiting?.(); waiting = null; },
    read(answer) { const work = reading; reading = null; work(answer); },
    bars(answer) {
      if (failed && state === "ready") become("ready");
      failed = false;
      if (view.chosen === null) { next = answer.bars; showNext(); }
      else { view.tokens[view.chosen].bars = answer.bars; showChosen(view.chosen); }
    },
    token(token) {
      flush();
      [pending, next] = [token, token.bars];
      frame ||= requestAnimationFrame(showPending);
    },
    done({ tokens, tokensPerSecond }) {
      flush();
      become("ready", `${tokens} tokens, ${Math.round(tokensPerSecond)} per second. The warmer a word, the less the model had expected it.`);
      finish();
      judge();
      if (view.chosen === null) look(); else showChosen(view.chosen);
    },
    error({ message }) {
      failed = true;
      flush();
      next = [];
      bars.replaceChildren();
      become(state === "loading" ? "failed" : "ready", message);
    },
  };
  model.on("msg:custom", answer => { if (!reader.hear(answer) && (answer.tag ?? tag) === tag) answers[answer.type]?.(answer); });

  // ---- what is pressed

  form.onsubmit = event => {
    event.preventDefault();
    if (state === "telling") stop(); else begin(tell);
  };
  again.onclick = () => begin(() => start(isNew() ? [] : story.after));
  fields.prompt.onkeydown = event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (state !== "telling" && state !== "loading") form.requestSubmit();
  };
  form.oninput = ({ target }) => {
    if (target === fields.shade) return judge();
    label();
    const dial = target.type === "range";
    if (target === fields.prompt) view.choose(null);
    if (state !== "telling") { if (dial || state === "ready") begin(look); }
    else if (dial && !reading) { view.choose(null); goOn(); }
  };

  // ---- the address, and the clipboard

  function link() {
    const query = new URLSearchParams(), from = told ? story : settings();
    for (const name of LINKED) if (from[name] !== undefined) query.set(name, from[name]);
    if (told && story.after.length) query.set("after", story.after.join("."));
    return `${location.href.split("#")[0]}#${query}`;
  }

  async function copy(text, done, otherwise) {
    try { await navigator.clipboard.writeText(text); status.textContent = done; }
    catch { status.textContent = otherwise; }
  }
  $(".link").hidden = !linked;
  $(".link").onclick = () => {
    history.replaceState(history.state, "", link());
    copy(location.href, "The link is copied: it tells this story again.", "The browser does not let this page copy: the link is in the address bar.");
  };
  $(".copy").onclick = () => copy(view.tokens.map(({ text }) => text).join(""), "The story is copied.",
    "The browser does not let this page copy: select the story and copy it.");

  function fill(values) { for (const name of LINKED) if (values[name] != null) fields[name].value = values[name]; }

  function play() {                     // the recording holds the worker's messages
    const messages = [...recording.messages], still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    fill(recording);
    story = { ...settings(), after: [], given: 0 };
    told = true;
    reading = ({ tokens }) => { story.given = tokens.length; view.show(tokens); };   // the first message
    const tick = () => {
      const message = messages.shift();
      if (!messages.length) { clearInterval(beat); flush(); }
      answers[message.type](message);
    };
    become("asleep", "A recording. Press, and the model itself tells another, here in your browser (4 MB).");
    if (still) while (messages.length) tick(); else beat = setInterval(tick, BEAT);
  }

  function open() {                     // the story that the address holds, if it holds one
    const query = new URLSearchParams(linked ? location.hash.slice(1) : "");
    if (!query.has("prompt")) return false;
    clearInterval(beat);
    if (state === "telling") {          // what is on its way of another story is not heard
      model.send({ type: "cancel" });
      tag++;
      become("ready");
    }
    [told, pending, reading, next] = [false, null, null, []];
    form.reset();
    fill(Object.fromEntries(query));
    story = { ...settings(), after: (query.get("after") ?? "").split(".").filter(Boolean).map(Number), given: 0 };
    view.show([]);
    status.textContent = "This link holds a story: press, and it is told again.";
    return true;
  }
  addEventListener("hashchange", () => { if (open()) { label(); showNext(); } });

  if (!open() && recording) play();
  label();
  if (!view.tokens.length) showNext();
}

export default { render };
