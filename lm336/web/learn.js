// Watch it learn: a slider over the stops of one run. Trait: records, as lm336.widgets.watch_learning makes them; `note`, where there is one,
// says of which run.
import { panel, showNumbers, showValue, svg } from "./parts.js";

const HTML = `
  <form><label class="wide">Updates so far <span class="value" aria-hidden="true"></span>
    <input name="stop" type="range" min="0" value="0" step="1"></label></form>
  <div class="split">
    <figure><figcaption>What it says after “<span class="prompt"></span>”</figcaption>
      <div class="text" tabindex="0" role="region" aria-label="What the model says"></div></figure>
    <figure><figcaption>Bits per byte, against the updates</figcaption><svg class="chart" viewBox="0 0 320 190" role="img"></svg>
      <dl class="numbers"></dl></figure>
  </div><p class="status" role="status"></p><p class="note"></p>`;

const LEFT = 34, RIGHT = 314, TOP = 8, BOTTOM = 158;
const text = (x, y, words, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, words);

// The curve on a logarithmic axis that has room for 0; `place(i)` marks a stop.
function chart(element, { losses, stops, floor }) {
  const last = stops.at(-1), perNat = last.bits_per_byte / last.valid_loss, log = step => Math.log(step + 5);
  const top = Math.max(...stops.map(stop => stop.bits_per_byte)) * 1.05;
  const x = step => LEFT + (RIGHT - LEFT) * (log(step) - log(0)) / (log(last.step) - log(0)), y = bits => BOTTOM - (BOTTOM - TOP) * bits / top;
  const here = svg("path", { class: "axis here" }), mark = svg("circle", { class: "mark", r: 5 });
  for (const bits of [0, 1, 2, 3, 4, 5, 6, 7, 8].filter(bits => bits < top))
    element.append(svg("path", { class: bits ? "grid" : "axis", d: `M${LEFT} ${y(bits)}H${RIGHT}` }), text(LEFT - 8, y(bits) + 4, bits, "end"));
  for (const step of [0, 10, 100, 1000, 10_000].filter(step => step < last.step / 3)) element.append(text(x(step), BOTTOM + 18, step.toLocaleString("en")));
  element.append(text(x(last.step), BOTTOM + 18, last.step.toLocaleString("en"), "end"), here,
    svg("path", { class: "curve", d: "M" + losses.map(([step, loss]) => `${x(step)} ${y(loss * perNat)}`).join("L") }),
    ...stops.map(stop => svg("circle", { class: "stop", r: 3, cx: x(stop.step), cy: y(stop.bits_per_byte) })), mark);
  if (floor != null) element.append(svg("path", { class: "floor", d: `M${LEFT} ${y(floor)}H${RIGHT}` }),
    text(LEFT + 6, y(floor) - 6, "the entropy of the text", "start"));
  return ({ step, bits_per_byte }) => {
    here.setAttribute("d", `M${x(step)} ${TOP}V${BOTTOM}`);
    mark.setAttribute("cx", x(step)); mark.setAttribute("cy", y(bits_per_byte));
  };
}

export function render({ model, el }) {
  const records = model.get("records"), { prompt, stops, floor } = records ?? {};
  if (!(stops?.length && stops.every(stop => Number.isFinite(stop?.bits_per_byte)) && Array.isArray(records.losses)))
    throw new Error("There is no run to show: the records have no stops.");
  const $ = panel(el, "learn", HTML), { stop } = $("form").elements, place = chart($(".chart"), records);
  stop.max = stops.length - 1;
  $(".prompt").textContent = prompt;
  $(".note").textContent = records.note ?? "";
  $(".chart").setAttribute("aria-label", `Bits per byte fall from ${stops[0].bits_per_byte.toFixed(2)} to ${stops.at(-1).bits_per_byte.toFixed(2)}`
    + (floor == null ? "" : `; the entropy of the text is ${floor.toFixed(2)}`));

  function draw() {
    const now = stops[+stop.value], number = now.step.toLocaleString("en");
    showValue(stop, number);
    const begin = document.createElement("b");
    begin.textContent = prompt;
    $(".text").replaceChildren(begin, now.text);
    const numbers = { "training loss": now.loss?.toFixed(2) ?? "–", "validation loss": now.valid_loss.toFixed(2),
      "bits per byte": now.bits_per_byte.toFixed(3), "entropy": floor?.toFixed(3) ?? "unknown" };
    showNumbers($(".numbers"), numbers);
    $(".status").textContent = `After ${number} updates: ${now.bits_per_byte.toFixed(3)} bits per byte`
      + (floor == null ? "." : `, ${Math.round(100 * (now.bits_per_byte / floor - 1))} % above what is possible.`);
    place(now);
  }
  $("form").onsubmit = event => event.preventDefault();
  $("form").oninput = draw;
  draw();
}

export default { render };
