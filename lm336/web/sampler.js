// The sampling panel: in JupyterLab through anywidget on the live model, on a page through embed.js on a worker.
// `model.send` takes worker.js's messages, `model.on("msg:custom", ...)` hears its answers.
import { drawBars, panel, showValue, visible } from "./parts.js";

const HTML = `
  <form>
    <label class="wide">How does the story begin?
      <textarea name="prompt" rows="2" spellcheck="false">Once upon a time</textarea></label>
    <label>Temperature <span class="value" aria-hidden="true"></span>
      <input name="temperature" type="range" min="0" max="2" step="0.05" value="0.8"></label>
    <label>Top-k <span class="value" aria-hidden="true"></span>
      <input name="top_k" type="range" min="0" max="100" step="1" value="0"></label>
    <label>Top-p <span class="value" aria-hidden="true"></span>
      <input name="top_p" type="range" min="0.05" max="1" step="0.05" value="1"></label>
    <label>Seed <input name="seed" type="number" min="0" step="1" value="0"></label>
    <div class="actions"><button type="submit">Tell a story</button></div>
    <progress max="1" value="0" hidden aria-label="Loading the model"></progress>
    <p class="status" role="status"></p>
  </form>
  <div class="split"><div class="text" tabindex="0" role="region" aria-label="The story"></div>
    <figure><figcaption>What may come next</figcaption><ol class="bars"></ol></figure></div>`;

const STATES = { asleep: "Tell a story", loading: "Loading", ready: "Tell a story", telling: "Stop", failed: "Try again" };

export function render({ model, el }) {
  const $ = panel(el, "sampler", HTML), form = $("form"), fields = form.elements;
  const text = $(".text"), bars = $(".bars"), status = $(".status"), progress = $("progress"), button = $("button");
  let state = "asleep", after = null, failed = false;   // failed: a question has had no answer since

  function become(next, sentence = "") {
    state = next;
    button.textContent = STATES[next];
    button.disabled = next === "loading";
    progress.hidden = next !== "loading";
    status.textContent = sentence;
  }

  const settings = () => ({
    prompt: fields.prompt.value, temperature: +fields.temperature.value,
    top_k: +fields.top_k.value || undefined, top_p: +fields.top_p.value < 1 ? +fields.top_p.value : undefined,
    seed: Math.max(0, Math.floor(+fields.seed.value || 0)),
  });

  function label() {
    const { temperature, top_k, top_p } = settings();
    showValue(fields.temperature, temperature.toFixed(2));
    showValue(fields.top_k, top_k ?? "all");
    showValue(fields.top_p, top_p?.toFixed(2) ?? "all");
  }

  const showBars = list => drawBars(bars, list.map(({ text, probability }) =>
    ({ name: visible(text), share: probability, value: `${(100 * probability).toFixed(1)} %` })));

  function begin(work) {               // what needs the model waits until it is there
    after = work;
    if (state === "ready" || state === "telling") return work();
    if (state === "loading") return;
    become("loading", "Loading the model");
    progress.removeAttribute("value");
    model.send({ type: "load" });
  }

  const look = () => model.send({ type: "distribution", ...settings(), count: 10 });

  function tell() {
    text.replaceChildren(fields.prompt.value);
    become("telling", "Telling");
    model.send({ type: "generate", ...settings(), max_new_tokens: 400, count: 10 });
  }

  const answers = {
    progress({ loaded, total }) { progress.value = loaded / total; },
    ready() { become("ready"); after?.(); },
    bars(answer) {
      showBars(answer.bars);
      if (failed && state === "ready") become("ready");
      failed = false;
    },
    token({ text: piece, logprob, bars }) {
      const surprise = -logprob / Math.LN2;
      const span = document.createElement("span");
      span.textContent = piece;
      span.title = `${surprise.toFixed(1)} bits`;
      span.style.setProperty("--surprise", Math.min(1, surprise / 8));
      text.append(span);
      showBars(bars);
    },
    done({ tokens, tokensPerSecond, cancelled }) {
      if (!cancelled || state === "telling")
        become("ready", `${tokens} tokens, ${Math.round(tokensPerSecond)} per second. The warmer a word, the less the model had expected it.`);
    },
    error({ message }) {
      failed = true;
      bars.replaceChildren();
      become(state === "loading" ? "failed" : "ready", message);
    },
  };
  model.on("msg:custom", answer => answers[answer.type]?.(answer));

  form.onsubmit = event => {
    event.preventDefault();
    if (state === "telling") model.send({ type: "cancel" });
    else begin(tell);
  };
  form.oninput = () => {
    label();
    if (state === "ready") look();
  };
  label();
}

export default { render };
