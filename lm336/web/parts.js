// What several widgets draw with. A token is a string of its bytes, U+0000 to U+00FF, as in tokenizer.js.

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// White space that can be seen.
export const visible = text => text.replaceAll("\n", "↵").replaceAll("\r", "␍").replaceAll("\t", "⇥").replaceAll(" ", "␣");

// A number with so many digits after the point, and no sign before nothing.
export const rounded = (number, digits) => (+number.toFixed(digits)).toFixed(digits);

// A token's text, or its bytes where they are no whole characters.
export function readable(token) {
  const bytes = Uint8Array.from(token, c => c.charCodeAt());
  try { return visible(utf8.decode(bytes)); }
  catch { return Array.from(bytes, b => `\\x${b.toString(16).padStart(2, "0")}`).join(""); }
}

// Make `el` the panel of a widget; the function that finds things in it. Plain keys are the widget's own: JupyterLab would
// take an arrow on a slider for its notebook.
export function panel(el, name, html) {
  el.classList.add("lm336", `lm336-${name}`);
  el.innerHTML = html;
  el.addEventListener("keydown", event => { if (!(event.ctrlKey || event.metaKey || event.altKey)) event.stopPropagation(); });
  return selector => el.querySelector(selector);
}

// What the control in a <label>name <span class="value" aria-hidden="true"></span> <input></label> is set to, for eye and ear.
export function showValue(input, words) {
  input.parentElement.querySelector(".value").textContent = words;
  input.setAttribute("aria-valuetext", words);
}

// Fill an <ol class="bars">: rows of {name, share: 0 to 1, value: text, best: whether it stands out}; with `press`, a function, and its `label`
// each is a button, and the arrow keys lead from one to the next.
export function drawBars(list, rows) {
  list.replaceChildren(...rows.map(({ name, share, value, best = false, press, label }, index) => {
    const item = document.createElement("li"), row = document.createElement(press ? "button" : "span");
    const code = document.createElement("code"), bar = document.createElement("i");
    code.textContent = name;
    bar.style.setProperty("--share", share);
    item.classList.toggle("best", best);
    row.append(code, bar, value);
    if (press) Object.assign(row, { type: "button", title: label, onclick: press, tabIndex: index ? -1 : 0 });
    item.append(row);
    return item;
  }));
  const buttons = [...list.querySelectorAll("button")];
  list.onkeydown = event => {
    const from = buttons.indexOf(document.activeElement);
    const next = buttons[from + { ArrowUp: -1, ArrowDown: 1 }[event.key]];
    if (from < 0 || !next) return;
    event.preventDefault();
    buttons[from].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
}

// Fill an <ol class="bars pairs">: rows of {name, shares: the model's, and the truth's where it is known, value: text, best}.
export function drawPairs(list, rows) {
  list.replaceChildren(...rows.map(({ name, shares, value, best = false }) => {
    const [item, row, code, pair] = ["li", "span", "code", "span"].map(name => document.createElement(name));
    code.textContent = name;
    pair.className = "pair";
    pair.append(...shares.map((share, i) => {
      const bar = document.createElement("i");
      bar.style.setProperty("--share", share);
      bar.classList.toggle("truth", i === 1);
      return bar;
    }));
    item.classList.toggle("best", best);
    row.append(code, pair, value);
    item.append(row);
    return item;
  }));
}

// Rows of a <dl class="numbers">.
export function showNumbers(list, numbers) {
  list.replaceChildren(...Object.entries(numbers).map(([name, value]) => {
    const [both, term, number] = ["div", "dt", "dd"].map(name => document.createElement(name));
    term.textContent = name;
    number.textContent = value;
    both.append(term, number);
    return both;
  }));
}

// A coloured piece of text; the same number has the same colour everywhere.
export function chip(text, number) {
  const span = document.createElement("span");
  span.className = "chip";
  span.textContent = text;
  if (number !== undefined) span.style.setProperty("--hue", (number * 137.508) % 360);   // golden angle: neighbours differ
  return span;
}

// The same with its number below.
export function numberedChip(text, number) {
  const piece = chip(text, number), small = document.createElement("small");
  small.textContent = number;
  piece.append(small);
  return piece;
}

// An element of SVG.
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
