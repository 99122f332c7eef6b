// Train here: a grammar that can be edited, a Transformer that learns its stories in a worker, and the line where its loss must end.
// In JupyterLab the trait `worker` is the worker's program as one text; on a page the program is train-worker.js.
import { drawPairs, panel, showNumbers, showValue, svg, visible } from "./parts.js";
import { PRETOKEN } from "./tokenizer.js";
import { GRAMMARS } from "./grammars.js";

const choice = (name, words, values, chosen) => `<label>${words} <select name="${name}">${values.map(value =>
  `<option${value === chosen ? " selected" : ""}>${value}</option>`).join("")}</select></label>`;
const tick = (name, words) => `<label class="tick"><input name="${name}" type="checkbox" checked> ${words}</label>`;
const HTML = `
  <form>
    ${choice("example", "Begin with", [...Object.keys(GRAMMARS), "Your own"]).replace("<label>", '<label class="wide">')}
    <label class="wide">The grammar: change a word, add a [choice|another]
      <textarea name="grammar" rows="11" maxlength="10000" spellcheck="false" autocapitalize="off"></textarea></label>
    <p class="status about" role="status"></p>
    <label>Learning rate <span class="value" aria-hidden="true"></span><input name="rate" type="range" min="-4" max="-1.5" step="0.1" value="-2.3"></label>
    ${choice("width", "Width", [32, 48, 64, 96, 128], 64)}${choice("layers", "Layers", [1, 2, 3, 4], 2)}${choice("heads", "Heads", [1, 2, 4, 8], 4)}
    ${choice("steps", "Steps", [100, 200, 400, 800, 1600, 3200], 800)}
    ${tick("rope", "RoPE: the words have an order")}${tick("mask", "Mask: no word sees the next")}
    <label class="wide">Go on with a model of yours: config.json, tokenizer.json and model.safetensors
      <input name="files" type="file" multiple accept=".json,.safetensors"></label>
    <div class="actions"><button type="submit"></button><button type="button" class="quiet" name="one">One step</button>
      <button type="button" class="quiet" name="again">Reset</button><button type="button" class="quiet" name="save">Download the model</button></div>
    <p class="status now" role="status"></p>
  </form>
  <p class="alarm" role="alert"></p>
  <figure><figcaption>Bits per story, step by step, without the luck of the draw; the dashed line is the entropy</figcaption>
    <svg class="chart" role="img"></svg></figure>
  <dl class="numbers"></dl>
  <div class="split">
    <figure><figcaption>A story it tells now</figcaption>
      <div class="text" tabindex="0" role="region" aria-label="A story it tells now"></div></figure>
    <figure><figcaption>A story of the grammar: choose a word</figcaption>
      <p class="tokens" role="listbox" aria-label="Words: the arrow keys choose one" aria-orientation="horizontal"></p>
      <figcaption>What follows <span class="looks"></span>: <b class="model">the model</b> and <b class="truth">the truth</b></figcaption><ol class="bars pairs"></ol></figure>
  </div>`;

const HEIGHT = 230, LEFT = 40, RIGHT = 14, TOP = 10, BOTTOM = 24;
const BATCH = 16, PER_WEIGHT = 6;                     // stories per step; operations per word and weight, there and back
const STATES = { asleep: "Train", running: "Pause", paused: "Go on", finished: "Train again" };
const whole = number => Math.round(number).toLocaleString("en");
const percent = share => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const bare = text => visible(text.trim() || text);
const duration = seconds => seconds < 100 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} minutes`;

// The curve and its floor on a logarithmic axis. points: [step, bits]; last: the step at the right end.
function draw(picture, points, floor, last) {
  const width = picture.parentElement.clientWidth, lowest = Math.max(floor / 20, Math.min(...points.map(([, bits]) => bits)));
  const low = Math.log(Math.min(floor / 1.3, lowest)), high = Math.log(Math.max(floor * 8, ...points.map(([, bits]) => bits)) * 1.1);
  const x = step => LEFT + (width - LEFT - RIGHT) * step / last, log = bits => (HEIGHT - TOP - BOTTOM) * (Math.log(bits) - low) / (high - low);
  const y = bits => HEIGHT - BOTTOM - Math.max(0, log(Math.max(bits, 1e-9))), words = (text, x, y, anchor) => svg("text", { x, y, "text-anchor": anchor }, text);
  const stride = Math.ceil(points.length / width), shown = points.filter((_, i) => i % stride === 0 || i === points.length - 1);
  const ticks = [-1, 0, 1, 2, 3].flatMap(power => [1, 2, 5].map(digit => digit * 10 ** power))
    .filter(bits => Math.log(bits) > low && Math.log(bits) < high && Math.abs(y(bits) - y(floor)) > 13);
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  picture.replaceChildren(
    ...ticks.flatMap(bits => [svg("path", { class: "grid", d: `M${LEFT} ${y(bits)}H${width - RIGHT}` }), words(+bits.toPrecision(1), LEFT - 6, y(bits) + 4, "end")]),
    svg("path", { class: "axis", d: `M${LEFT} ${HEIGHT - BOTTOM}H${width - RIGHT}` }),
    words("0", LEFT, HEIGHT - 6, "start"), words(`${whole(last)} steps`, width - RIGHT, HEIGHT - 6, "end"),
    svg("path", { class: "floor", d: `M${LEFT} ${y(floor)}H${width - RIGHT}` }), words(floor.toFixed(1), LEFT - 6, y(floor) + 4, "end"),
    svg("path", { class: "curve", d: shown.map(([step, bits], i) => `${i ? "L" : "M"}${x(step)} ${y(bits)}`).join("") }));
}

export function render({ model, el }) {
  const $ = panel(el, "train-here", HTML), form = $("form"), fields = form.elements, list = $(".tokens"), still = matchMedia("(prefers-reduced-motion: reduce)");
  const tags = { run: 0, grammar: 0 }, tag = kind => `${kind} ${tags[kind]}`;   // what is older is not listened to
  const aside = () => `aside ${tags.run}`;                     // of questions to the run: an error leaves it as it is
  let worker = null, state = "asleep";
  let about = null, waiting = null;                            // what is known of the grammar; the text about which an answer is due
  let points = [], progress = null, parameters = 0, speed = 0, heard = -Infinity, told = 0;   // speed: operations per second, from a run; heard: when a sample was asked for last; told: when the status was
  let words = [], place = 2, own = model.get("grammar");      // own: what the visitor wrote last

  function send(message) {
    if (!worker) {
      const source = model.get("worker");
      worker = new Worker(source ? URL.createObjectURL(new Blob([source], { type: "text/javascript" })) : new URL("train-worker.js", import.meta.url), { type: "module" });
      worker.onmessage = ({ data }) => { if ([tag("run"), tag("grammar"), aside()].includes(data.tag)) answers[data.type]?.(data); };
      worker.onerror = fail;
    }
    worker.postMessage({ tag: tag("run"), ...message });
  }

  function fail() {                    // whatever comes next tries it again
    worker.terminate();
    worker = waiting = null;
    become("asleep", "The program that trains could not be loaded. Is the network there?");
  }

  function become(next, sentence) {
    state = next;
    $("[type=submit]").textContent = STATES[state];
    const ready = about && !about.problem && waiting === null;
    for (const button of [$("[type=submit]"), fields.one]) button.disabled = !ready;
    fields.again.disabled = fields.save.disabled = state === "asleep";
    if (sentence !== undefined) $(".now").textContent = sentence;
  }

  // ---- the grammar

  function ask() {                     // one question at a time, about the newest text
    if (waiting !== null) return;
    waiting = fields.grammar.value;
    tags.grammar++;
    become(state);
    send({ type: "grammar", text: waiting, tag: tag("grammar") });
  }

  function know(next, mistake) {       // what there is to say of the grammar, or the sentence that says what is wrong
    const stale = waiting !== fields.grammar.value;
    waiting = null;
    if (stale) return ask();
    about = next;
    describe(mistake?.replace(/(?<=^.{300}).+$/su, "…"));
    fields.grammar.setAttribute("aria-invalid", !about);
    become(state);
    if (!about) return;
    words = about.story.match(PRETOKEN) ?? [];
    showWords();
    show();
  }

  function size() {                    // parameters that a token meets
    const width = +fields.width.value, hidden = Math.max(64, Math.round(width / 24) * 64);
    return +fields.layers.value * (4 * width ** 2 + 3 * width * hidden) + (about.words + 2) * width;
  }

  function describe(mistake) {
    const few = about?.stepsToLearn > +fields.steps.value;
    $(".about").textContent = about ? `${facts()}${few ? ` The ${whole(fields.steps.value)} steps chosen are too few for that.` : ""}` : mistake;
    $(".about").classList.toggle("wrong", !about || about.problem !== "" || few);
  }

  function facts() {
    const { entropyBits, bitsPerByte, words, longest, stepsToLearn, problem } = about;
    const seconds = stepsToLearn * BATCH * longest * PER_WEIGHT * size() / (speed || about.speed / 2);   // a step has other work than products
    const bits = `${entropyBits.toFixed(3)} bits per story, ${bitsPerByte.toFixed(4)} per byte.`;
    if (problem) return `${bits} ${problem}`;
    const rich = seconds > 30 ? "This is too rich for half a minute: it" : "It";
    return `${bits} ${words} words, stories of up to ${longest}. ${rich} takes about ${whole(stepsToLearn)} steps, ${duration(seconds)}, to come within 5 % of the entropy.`;
  }

  // ---- the run

  function settings() {
    return { grammar: fields.grammar.value, d_model: +fields.width.value, num_layers: +fields.layers.value, num_heads: +fields.heads.value,
      learning_rate: +(10 ** fields.rate.value).toPrecision(2), rope: fields.rope.checked, mask: fields.mask.checked, max_steps: +fields.steps.value, batch_size: BATCH, seed: 0 };
  }

  const goesOn = () => `Training: on to step ${whole(fields.steps.value)}.`;

  function start(paused) {
    forget();
    send({ type: "start", ...settings(), paused });
    become(paused ? "paused" : "running", goesOn());
  }

  async function take() {              // a model's folder, which goes on to learn
    const files = Object.fromEntries(await Promise.all(Array.from(fields.files.files, async file => [file.name, await file.arrayBuffer()])));
    fields.files.value = "";
    forget();
    send({ type: "load", ...settings(), files, paused: true });
    become("paused", "Your model: go on, or take one step.");
  }

  function forget() {                  // what was learned
    if (state !== "asleep") send({ type: "pause" });
    tags.run++;
    [points, progress, heard, told] = [[], null, -Infinity, performance.now()];
    $(".alarm").textContent = "";
    $(".text").textContent = "";
    $(".pairs").replaceChildren();
    become("asleep", "");
    if (about) show();
  }

  function listen() {                  // to the model: a story, and what it believes
    heard = performance.now();
    send({ type: "sample", tag: aside() });
    probe();
  }

  function probe() {
    if (state !== "asleep") send({ type: "probe", prompt: words.slice(0, place).join(""), count: 8, tag: aside() });
  }

  function standing() {                // how far from the line
    const above = progress?.above;
    return !Number.isFinite(above) ? "–" : above < 0 ? `${percent(-above)} below` : `${percent(above)} above`;
  }

  function show() {
    const floor = about.entropyBits, { step = 0, max_steps = 0, tokens = 0, tokensPerSecond, secondsLeft } = progress ?? {}, where = standing();
    if (floor) draw($(".chart"), points, floor, max_steps || +fields.steps.value);
    $(".chart").setAttribute("aria-label", points.length ? `After ${whole(step)} steps the loss is ${points.at(-1)[1].toFixed(1)} bits per story, ${where} the entropy of ${floor.toFixed(1)}.`
      : `No steps yet; the entropy is ${floor.toFixed(1)} bits per story.`);
    const numbers = { "from the line": where, "steps": max_steps ? `${whole(step)} of ${whole(max_steps)}` : whole(step), "words read": whole(tokens),
      "words per second": tokensPerSecond ? whole(tokensPerSecond) : "–", "time left": secondsLeft || secondsLeft === 0 ? duration(secondsLeft) : "–" };
    showNumbers($(".numbers"), numbers);
  }

  const below = () => `Alarm: the loss is below the entropy, where no honest model can be. ${fields.mask.checked ? "Either the mask was off, or this is a bug."
    : "Without the mask every word sees the one that it is to predict: it copies, and what it writes alone is nonsense."}`;

  const answers = {
    grammar: know,
    ready(answer) {
      parameters = answer.parameters;
      listen();
    },
    progress(next) {
      progress = next;
      for (const [step, bits, truth] of next.losses) points.push([step, about.entropyBits + bits - truth]);
      if (next.tokensPerSecond) speed = next.tokensPerSecond * PER_WEIGHT * (parameters || size());
      const alarm = next.above < -0.03 ? below() : "";
      if ($(".alarm").textContent !== alarm) $(".alarm").textContent = alarm;
      const now = performance.now(), changed = next.running !== (state === "running"), due = !next.running || now - heard > (still.matches ? 5000 : 1000);
      if (now - told > 10_000 || changed || !next.running) {
        told = now;
        const far = next.step ? `after ${whole(next.step)} ${next.step === 1 ? "step" : "steps"} ${standing()} the line.` : "before the first step.";
        if (next.running) become("running", changed ? goesOn() : `Training: ${far}`);
        else become(next.finished ? "finished" : "paused", `${next.finished ? "Done" : "Paused"}: ${far}`);
      }
      if (due || !still.matches) show();
      if (due) listen();
    },
    sample({ text }) { $(".text").textContent = text; },
    probe: showBeliefs,
    download({ zip }) {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([zip], { type: "application/zip" }));
      link.download = "story-model.zip";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    },
    error(answer) {
      told = performance.now();
      if (answer.tag === tag("grammar")) know(null, answer.message);
      else become(answer.tag === aside() ? state : progress ? "finished" : "asleep", answer.message);
    },
  };

  // ---- a place in a story

  function showWords() {
    place = Math.min(place, words.length);
    list.replaceChildren(...["▸", ...words].map((text, i) => {
      const item = document.createElement("span");
      item.setAttribute("role", "option");
      item.setAttribute("aria-label", i ? `${i}: ${visible(text)}` : "the beginning");
      item.textContent = text.replaceAll("\n", "↵\n");
      return item;
    }));
    choose(place);
  }

  function choose(index) {
    place = Math.max(0, Math.min(index, words.length));
    [...list.children].forEach((item, i) => {
      item.classList.toggle("later", i > place);
      item.setAttribute("aria-selected", i === place);
      item.tabIndex = i === place ? 0 : -1;
    });
    $(".pairs").replaceChildren();
    $(".looks").textContent = place ? `“${bare(words[place - 1])}”` : "at the beginning";
    probe();
  }

  function showBeliefs({ prompt, bars, truth }) {
    if (prompt !== words.slice(0, place).join("")) return;
    const [model, real] = [bars, truth].map(list => new Map(list.map(({ text, probability }) => [text, probability])));
    const rows = [...new Set([...real.keys(), ...model.keys()])].map(text => [text, model.get(text) ?? 0, real.get(text) ?? 0])
      .filter(([, believed, share]) => believed + share > 0.002).slice(0, 8);
    drawPairs($(".pairs"), rows.map(([text, ...shares]) => ({ name: bare(text) || "the end", shares, value: shares.map(percent).join(" · ") })));
  }

  // ---- controls

  const nameExample = () => { fields.example.value = Object.keys(GRAMMARS).find(title => GRAMMARS[title] === fields.grammar.value) ?? "Your own"; };
  const label = () => showValue(fields.rate, (+(10 ** fields.rate.value).toPrecision(2)).toString());
  form.onsubmit = event => {
    event.preventDefault();
    if (state === "asleep" || state === "finished") return start(false);
    send({ type: state === "running" ? "pause" : "resume" });
  };
  fields.one.onclick = () => {
    if (state === "asleep" || state === "finished") start(true);
    send({ type: "step" });
  };
  fields.again.onclick = () => {       // the button is of no use then, and passes the focus on
    forget();
    $("[type=submit]").focus({ preventScroll: true });
  };
  fields.save.onclick = () => send({ type: "download", tag: aside() });
  form.oninput = ({ target: { name } }) => {
    if (name === "files") return take();
    if (name === "example") fields.grammar.value = GRAMMARS[fields.example.value] ?? (own || fields.grammar.value);
    if (name === "grammar") {
      nameExample();
      own = fields.grammar.value;
    }
    if (name === "rate") label();
    if (state !== "asleep" && !["rate", "rope", "mask"].includes(name)) forget();
    if (name === "grammar" || name === "example") {
      model.set("grammar", fields.grammar.value);
      model.save_changes();
      ask();
    } else if (about) {
      describe();
      show();
    }
    if (state !== "asleep") send({ type: "settings", learning_rate: settings().learning_rate, rope: fields.rope.checked, mask: fields.mask.checked });
  };
  const indexOf = target => [...list.children].indexOf(target.closest("[role=option]"));
  list.onclick = ({ target }) => { if (target !== list) choose(indexOf(target)); };
  list.onkeydown = event => {
    const at = indexOf(event.target), next = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: Infinity }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    choose(next);
    list.children[place].focus();
  };
  const watch = new ResizeObserver(() => { if (about) show(); });
  watch.observe($(".chart").parentElement);

  fields.grammar.value = model.get("grammar") ?? Object.values(GRAMMARS)[1];
  nameExample();
  label();
  become("asleep", "");
  ask();
  return () => { worker?.terminate(); watch.disconnect(); };
}

export default { render };
