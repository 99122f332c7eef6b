// The attention view: a text, and for each of its tokens where each head of each layer looks. In JupyterLab through
// anywidget on the live model, on a page on worker.js. Trait: text; without it, the model waits to be asked for.
import { drawBars, panel, svg, visible } from "./parts.js";

const LONGEST = 96, LEVELS = 16;       // tokens shown; shades of a cell
const SIZE = 320, MARGIN = 62, LEAST = 9.5;   // of the large matrix, of its labels, of a cell whose label is always there
const HTML = `
  <form>
    <label class="wide">A text for the model to read <textarea name="text" rows="2" maxlength="300" spellcheck="false"></textarea></label>
    <div class="actions"><button type="submit">Show where it looks</button></div>
    <progress max="1" value="0" hidden aria-label="Loading the model"></progress>
    <p class="status" role="status"></p>
  </form>
  <div class="split" hidden>
    <div><p class="tokens" role="listbox" aria-label="Tokens: the arrow keys choose one" aria-orientation="horizontal"></p>
      <figure><figcaption class="looks" role="status"></figcaption><ol class="bars"></ol></figure>
      <figure class="whole"><figcaption>The chosen head: rows ask, columns answer</figcaption>
        <svg class="matrix" role="img" viewBox="0 0 320 320"><g class="labels"></g><g class="field"></g></svg></figure></div>
    <figure><fieldset class="heads"><legend>Layer by layer, what each head makes of it</legend></fieldset></figure>
  </div>`;
let panels = 0;                         // radio buttons of one panel share a name

// The weights come token by token, then layer by layer, then head by head: one row, as long as there are tokens so far.
export function weightsOf({ weights, heads }, head, token) {   // heads: of all layers; head: from 0, over all layers
  const begin = heads * token * (token + 1) / 2 + head * (token + 1);
  return weights.slice(begin, begin + token + 1);
}

// All rows of a head, as paths of cells of equal shade.
function drawMatrix(element, seen, head) {
  const count = seen.tokens.length, cells = Array.from({ length: LEVELS + 1 }, () => "");
  for (let row = 0; row < count; row++)
    weightsOf(seen, head, row).forEach((weight, column) => { cells[Math.round(LEVELS * weight)] += `M${column} ${row}h1v1h-1z`; });
  element.replaceChildren(svg("path", { class: "triangle", d: `M0 0${Array.from({ length: count }, (_, i) => `H${i + 1}v1`).join("")}H0z` }),
    ...cells.slice(1).map((d, level) => svg("path", { class: "cells", "fill-opacity": (level + 1) / LEVELS, d })),
    svg("rect", { class: "row", x: 0, height: 1 }));
}

// The tokens at the rows and columns of the large matrix: all where there is room, else the one that asks and those it looks at most.
function drawLabels(element, { tokens }, token, order) {
  const cell = (SIZE - MARGIN) / tokens.length, middle = i => MARGIN + cell * (i + 0.5);
  const all = cell >= LEAST ? [...tokens.keys()] : null, apart = (i, others) => others.every(other => Math.abs(i - other) * cell >= LEAST);
  const name = i => visible(tokens[i]).replace(/^(.{8})..+$/, "$1…");
  const label = (i, best, place) => svg("text", { class: best ? "best" : "", ...place }, name(i));
  element.replaceChildren(
    ...(all ?? [token]).map(i => label(i, i === token, { x: MARGIN - 5, y: middle(i) + 3.5, "text-anchor": "end" })),
    ...(all ?? order.filter((i, k) => apart(i, order.slice(0, k)))).map(i => label(i, i === order[0], { transform: `translate(${middle(i) + 3.5} ${MARGIN - 5}) rotate(-90)` })));
}

export function render({ model, el }) {
  const $ = panel(el, "attention", HTML), form = $("form"), button = $("button"), progress = $("progress");
  const list = $(".tokens"), matrix = $(".matrix"), status = $(".status"), name = `head-${panels++}`;
  let layers = 0, ready = false, seen = null, head = 0, token = 0;
  form.elements.text.value = model.get("text") ?? "Lily had a red kite. Tom had a boat. \"I like my kite,\" said Lily.";

  const place = index => `layer ${Math.floor(index * layers / seen.heads) + 1}, head ${index % (seen.heads / layers) + 1}`;

  function ask() {
    button.disabled = true;
    progress.hidden = ready;
    status.textContent = ready ? "Reading" : "Loading the model";
    if (!ready) progress.removeAttribute("value");
    model.send(ready ? { type: "attention", prompt: form.elements.text.value } : { type: "load" });
  }

  function rest(sentence = "") {
    button.disabled = false;
    button.textContent = ready ? "Show where it looks" : "Try again";
    progress.hidden = true;
    status.textContent = sentence;
  }

  function showToken(index) {           // what the chosen head makes of a token
    token = Math.max(0, Math.min(index, seen.tokens.length - 1));
    const row = weightsOf(seen, head, token), order = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 6);
    [...list.children].forEach((item, i) => {
      item.style.setProperty("--share", row[i] ?? 0);
      item.classList.toggle("later", i > token);
      item.setAttribute("aria-selected", i === token);
      item.tabIndex = i === token ? 0 : -1;
    });
    for (const frame of el.querySelectorAll(".row")) { frame.setAttribute("y", token); frame.setAttribute("width", token + 1); }
    const percent = i => `${(100 * row[i]).toFixed(0)} %`, quoted = i => `“${visible(seen.tokens[i])}”`;
    $(".looks").textContent = `In ${place(head)}, ${quoted(token)} looks most at ${quoted(order[0])}: ${percent(order[0])}`;
    drawLabels($(".labels"), seen, token, order.slice(0, 4));
    drawBars($(".bars"), order.map(i => ({ name: visible(seen.tokens[i]), share: row[i], value: percent(i), best: i === order[0] })));
  }

  function showHead(index) {
    head = index;
    $(".field").setAttribute("transform", `translate(${MARGIN} ${MARGIN}) scale(${(SIZE - MARGIN) / seen.tokens.length})`);
    drawMatrix($(".field"), seen, head);
    matrix.setAttribute("aria-label", `The weights of ${place(head)}, one row for each token`);
    showToken(token);
  }

  function show({ tokens, weights }) {
    if (tokens.length > LONGEST) return rest(`The text has ${tokens.length} tokens; this panel shows at most ${LONGEST}.`);
    const chosen = seen ? head : 0, heads = weights.length / (tokens.length * (tokens.length + 1) / 2);
    seen = { tokens, weights, heads };
    list.replaceChildren(...tokens.map((text, i) => {
      const item = document.createElement("span");
      item.setAttribute("role", "option");
      item.setAttribute("aria-label", `${i + 1}: ${visible(text)}`);
      item.textContent = text.replaceAll("\n", "↵\n");
      return item;
    }));
    const legend = $("legend");
    $(".heads").style.setProperty("--heads", heads / layers);
    $(".heads").replaceChildren(legend, ...Array.from({ length: heads }, (_, index) => {
      const label = document.createElement("label"), radio = document.createElement("input"), small = svg("svg", { "aria-hidden": true });
      Object.assign(radio, { type: "radio", name, value: index, checked: index === chosen, title: place(index) });
      radio.setAttribute("aria-label", place(index));
      small.setAttribute("viewBox", `0 0 ${tokens.length} ${tokens.length}`);
      drawMatrix(small, seen, index);
      label.append(radio, small);
      return label;
    }));
    $(".split").hidden = false;
    rest(`${tokens.length} tokens. Point at one, or move with the arrow keys: what it looks at lights up.`);
    token = tokens.length - 1;
    showHead(chosen);
  }

  const answers = {
    progress({ loaded, total }) { progress.value = loaded / total; },
    ready({ config }) { layers = config.num_layers; ready = true; ask(); },
    attention: show,
    error({ message }) { rest(message); },
  };
  model.on("msg:custom", answer => answers[answer.type]?.(answer));

  form.onsubmit = event => { event.preventDefault(); ask(); };
  $(".heads").onchange = ({ target }) => showHead(+target.value);
  const indexOf = target => [...list.children].indexOf(target.closest("[role=option]"));
  list.onpointerover = list.onfocusin = ({ target }) => { if (target !== list) showToken(indexOf(target)); };
  list.onkeydown = event => {
    const next = { ArrowLeft: token - 1, ArrowUp: token - 1, ArrowRight: token + 1, ArrowDown: token + 1, Home: 0, End: Infinity }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    showToken(next);
    list.children[token].focus();
  };
  matrix.onpointermove = ({ offsetY }) =>
    showToken(Math.floor((offsetY / matrix.clientHeight * SIZE - MARGIN) / (SIZE - MARGIN) * seen.tokens.length));
  if (model.get("text") !== undefined) ask();
}

export default { render };
