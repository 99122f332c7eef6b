// What several widgets draw with.

// The frame that all widgets share. Plain keys are the widget's own: JupyterLab would take an arrow on a slider for its notebook.
export function frame(el, name) {
  el.classList.add("lm336", `lm336-${name}`);
  el.addEventListener("keydown", event => { if (!(event.ctrlKey || event.metaKey || event.altKey)) event.stopPropagation(); });
}

// White space that can be seen.
export const visible = text => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");

// Fill an <ol class="bars">: rows of {name, share: 0 to 1, value: text, best: whether it stands out}.
export function drawBars(list, rows) {
  list.replaceChildren(...rows.map(({ name, share, value, best = false }) => {
    const item = document.createElement("li"), code = document.createElement("code"), bar = document.createElement("i");
    code.textContent = visible(name);
    bar.style.setProperty("--share", share);
    item.classList.toggle("best", best);
    item.append(code, bar, value);
    return item;
  }));
}

// An element of SVG.
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
