// The RoPE explorer: a query and a key, turned pair by pair as their positions move, and their dot product.
// Traits: d_k, the width of a head, and theta, the base of the wavelengths.
import { panel, showValue, svg } from "./parts.js";

// lm336/rope.py: the pair (2i, 2i + 1) is a point in the plane, turned by the position times theta^(-2i/d).
export const frequency = (pair, d, theta) => theta ** (-2 * pair / d);

export function rotate(x, position, theta) {
  return x.map((_, j) => {
    const i = j - j % 2, angle = position * frequency(i / 2, x.length, theta);
    return j % 2 ? x[i] * Math.sin(angle) + x[j] * Math.cos(angle) : x[j] * Math.cos(angle) - x[j + 1] * Math.sin(angle);
  });
}

export const dot = (q, k) => q.reduce((sum, x, j) => sum + x * k[j], 0);

// Two vectors to turn: each pair of features at an angle of its own, of length 1 in q and 0.8 in k.
export const examples = d => [[1, 0.5, 0.9], [0.8, 1.4, 2.3]].map(([length, first, next]) =>
  Array.from({ length: d }, (_, j) => length * (j % 2 ? Math.sin : Math.cos)(first + next * (j - j % 2) / 2)));

const FAR = 32, HTML = `
  <form>
    <label>Query at <span class="value" aria-hidden="true"></span>
      <input name="query" type="range" min="0" max="${FAR}" value="9"></label>
    <label>Key at <span class="value" aria-hidden="true"></span>
      <input name="key" type="range" min="0" max="${FAR}" value="4"></label>
    <label>Both moved on by <span class="value" aria-hidden="true"></span>
      <input name="shift" type="range" min="0" max="100" value="0"></label>
  </form>
  <div class="split">
    <figure><figcaption>Each pair of features turns at its own speed: <b class="q">query</b>, <b class="k">key</b>,
      and, fainter, where they stood before they were moved on</figcaption><div class="dials"></div></figure>
    <figure><figcaption>What the scores feel of it</figcaption>
      <p class="sums" role="status"></p>
      <svg class="chart" viewBox="0 0 320 150" role="img"></svg></figure>
  </div>`;

const short = number => `${+number.toPrecision(2)}`;

// A dial of one pair: turn(q, k, before) takes points [x, y], before: [q, k] as they were.
function dial(caption) {
  const hand = kind => svg("g", { class: kind }, svg("line", {}), svg("circle", { r: 4 }));
  const wedge = svg("path", { class: "wedge" }), hands = ["k old", "q old", "k", "q"].map(hand);
  const drawing = svg("svg", { viewBox: "-52 -52 104 104", role: "img" },
    svg("circle", { class: "grid", r: 48 }), wedge, ...hands);
  const figure = document.createElement("figure"), words = document.createElement("figcaption"), sum = document.createElement("span");
  words.append(caption, sum);
  figure.append(drawing, words);
  return { figure, turn(q, k, before) {
    for (const [i, [x, y]] of [before[1], before[0], k, q].entries()) {
      const [line, tip] = hands[i].children, at = { x: 44 * x, y: -44 * y };
      line.setAttribute("x2", at.x); line.setAttribute("y2", at.y);
      tip.setAttribute("cx", at.x); tip.setAttribute("cy", at.y);
    }
    const from = Math.atan2(k[1], k[0]), by = Math.atan2(q[1] * k[0] - q[0] * k[1], dot(q, k)), to = from + by;
    wedge.setAttribute("d", `M0 0L${20 * Math.cos(from)} ${-20 * Math.sin(from)}A20 20 0 0 ${+(by < 0)} ${20 * Math.cos(to)} ${-20 * Math.sin(to)}Z`);
    sum.textContent = `adds ${dot(q, k).toFixed(2)}`;
    drawing.setAttribute("aria-label", `${caption}: from key to query ${Math.round(by * 180 / Math.PI)} degrees`);
  } };
}

// The score at every distance, and a mark at one of them.
function chart(element, scores) {
  const top = Math.max(...scores.map(Math.abs)), x = distance => 160 + 140 * distance / FAR, y = score => 62 - 52 * score / top;
  const mark = svg("circle", { class: "mark", r: 5 }), label = svg("text", { "text-anchor": "middle" });
  element.append(svg("path", { class: "axis", d: `M20 ${y(0)}H300` }), svg("path", { class: "grid", d: `M${x(0)} 6V118` }),
    svg("path", { class: "curve", d: "M" + scores.map((score, i) => `${x(i - FAR)} ${y(score)}`).join("L") }), mark);
  for (const distance of [-FAR, 0, FAR]) {
    const tick = svg("text", { x: x(distance), y: 132, "text-anchor": "middle" });
    tick.textContent = distance;
    element.append(tick);
  }
  label.setAttribute("x", 160); label.setAttribute("y", 148);
  label.textContent = "distance m − n";
  element.append(label);
  return distance => {
    mark.setAttribute("cx", x(distance)); mark.setAttribute("cy", y(scores[distance + FAR]));
    element.setAttribute("aria-label", `The score at every distance from -${FAR} to ${FAR}; marked is ${distance}`);
  };
}

export function render({ model, el }) {
  const d = model.get("d_k") ?? 8, theta = model.get("theta") ?? 10_000, [q, k] = examples(d);
  const $ = panel(el, "rope", HTML), fields = $("form").elements, sums = $(".sums");
  const dials = Array.from({ length: d / 2 }, (_, i) => dial(`${short(frequency(i, d, theta))} rad a token`));
  $(".dials").append(...dials.map(({ figure }) => figure));
  const score = (m, n) => dot(rotate(q, m, theta), rotate(k, n, theta));
  const mark = chart($(".chart"), Array.from({ length: 2 * FAR + 1 }, (_, i) => score(Math.max(0, i - FAR), Math.max(0, FAR - i))));

  function draw() {
    const [m, n, s] = ["query", "key", "shift"].map(name => +fields[name].value);
    for (const name of ["query", "key", "shift"]) showValue(fields[name], fields[name].value);
    const before = [rotate(q, m, theta), rotate(k, n, theta)], now = [rotate(q, m + s, theta), rotate(k, n + s, theta)];
    dials.forEach(({ turn }, i) => {
      const pair = x => x.slice(2 * i, 2 * i + 2);
      turn(...now.map(pair), before.map(pair));
    });
    sums.innerHTML = [[m, n, before], [m + s, n + s, now]].map(([a, b, vectors]) =>
      `<span>q·k at ${a} and ${b}</span><b>${dot(...vectors).toFixed(4)}</b>`).join("");
    mark(m - n);
  }
  $("form").onsubmit = event => event.preventDefault();
  $("form").oninput = draw;
  draw();
}

export default { render };
