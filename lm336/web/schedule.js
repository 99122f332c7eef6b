// The learning rate of every step. Traits, named as in TrainingConfig: max_steps, learning_rate (the peak),
// min_learning_rate (the floor), warmup_steps.
import { cosineSchedule } from "./cosine.js";
import { panel, showValue, svg } from "./parts.js";

// How many steps at the peak go as far as all steps together: the sum of all rates over the peak. The cosines of n even
// steps from 0 to pi, without the last, add up to 1.
export function travel(maxRate, minRate, warmupSteps, cosineSteps) {
  const steps = cosineSteps - warmupSteps, share = minRate / maxRate;
  return Math.max(0, warmupSteps - 1) / 2 + (steps && steps * share + (1 - share) * (steps + 1) / 2);
}

const setting = (name, words) => `<label>${words} <span class="value" aria-hidden="true"></span><input name="${name}" type="range" min="0" step="any"></label>`;
const HTML = `
  <form>${setting("warmup", "Warm-up steps")}${setting("peak", "Peak")}${setting("floor", "Floor")}${setting("total", "All steps")}</form>
  <figure><figcaption>The learning rate, step by step: drag the two handles, or the sliders above</figcaption><svg class="chart" role="img"></svg></figure>
  <form>${setting("step", "Look at step")}</form>
  <p class="status" role="status"></p>`;

const DEFAULTS = { max_steps: 5000, learning_rate: 5e-4, min_learning_rate: 1e-4, warmup_steps: 500 };
const HEIGHT = 220, LEFT = 60, RIGHT = 24, TOP = 12, BOTTOM = 28, ROOM = 1.5;
const rateWords = rate => rate ? rate.toExponential(2) : "0";
const count = number => Math.round(number).toLocaleString("en");
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// The curve, a handle at the end of the warm-up and one at the end of the run, and a dot at one step, in as many pixels as
// there are. It gives back what a place in the picture means: {step, rate}.
function draw(picture, [right, top], step, schedule) {
  const [peak, floor, warmup, last] = schedule, width = picture.parentElement.clientWidth;
  const x = at => LEFT + (width - LEFT - RIGHT) * at / right, y = rate => TOP + (HEIGHT - TOP - BOTTOM) * (1 - rate / top);
  const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, y1, x2, y2 });
  const words = (text, x, y, anchor) => svg("text", { x, y, "text-anchor": anchor }, text);
  const handle = (name, at, rate) => svg("g", { class: "handle", "data-handle": name, transform: `translate(${x(at)} ${y(rate)})` },
    svg("circle", { r: 20, class: "reach" }), svg("circle", { r: 8 }));
  const spread = (values, place, least) => values.filter((value, i) => values.slice(0, i).every(other => Math.abs(place(value) - place(other)) > least));
  const points = [warmup, ...Array.from({ length: width }, (_, i) => last * i / (width - 1))].sort((a, b) => a - b);
  const here = cosineSchedule(step, ...schedule);
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  picture.setAttribute("aria-label", `The learning rate rises to ${rateWords(peak)} at step ${count(warmup)} and falls to ${rateWords(floor)} at step ${count(last)}.`);
  picture.replaceChildren(
    line("grid", LEFT, y(peak), width - RIGHT, y(peak)), line("grid", LEFT, y(floor), width - RIGHT, y(floor)),
    line("grid", x(warmup), TOP, x(warmup), y(0)), line("grid", x(last), TOP, x(last), y(0)), line("axis", LEFT, y(0), width - RIGHT, y(0)),
    ...spread([peak, floor, 0], y, 14).map(rate => words(rateWords(rate), LEFT - 8, y(rate) + 4, "end")),
    ...spread([0, last, warmup], x, 34).map(at => words(count(at), x(at), HEIGHT - BOTTOM + 18, "middle")),
    svg("polyline", { class: "curve", points: points.map(at => `${x(at)},${y(cosineSchedule(at, ...schedule))}`).join(" ") }),
    line("look", x(step), y(here), x(step), y(0)), svg("circle", { class: "mark", cx: x(step), cy: y(here), r: 5 }),
    handle("end", last, floor), handle("peak", warmup, peak));
  return ({ clientX, clientY }) => {
    const box = picture.getBoundingClientRect();
    return { step: Math.round((clientX - box.left - LEFT) / (width - LEFT - RIGHT) * right),
             rate: top * (1 - (clientY - box.top - TOP) / (HEIGHT - TOP - BOTTOM)) };
  };
}

export function render({ model, el }) {
  const $ = panel(el, "schedule", HTML), picture = $("svg");
  const [warmup, peak, floor, total, step] = el.querySelectorAll("input");
  const trait = key => model.get(key) ?? DEFAULTS[key], last = () => trait("max_steps"), high = () => trait("learning_rate");
  const first = { steps: last(), rate: high() };       // the axes have room for half as much again
  let meaning, dragged = null;                         // what a place in the picture means; the handle that is held

  function show() {
    const schedule = [high(), trait("min_learning_rate"), trait("warmup_steps"), last()];
    const right = Math.max(ROOM * first.steps, last()), top = Math.max(ROOM * first.rate, high()), least = first.rate / 50;
    const settings = [[warmup, last(), schedule[2]], [peak, top, high(), rateWords(high())],
      [floor, 1, schedule[1] / high(), rateWords(schedule[1])], [total, right, last()],
      [step, last(), clamp(Math.round(step.value), 0, last())]];
    peak.min = least;
    total.min = 1;
    for (const [input, max, value, words = count(value)] of settings) {
      input.max = max;
      input.value = value;
      showValue(input, words);
    }
    const at = +step.value, rate = cosineSchedule(at, ...schedule);
    meaning = draw(picture, [right, top], at, schedule);
    $(".status").textContent = `At step ${count(at)} the learning rate is ${rateWords(rate)}, ${Math.round(100 * rate / high())} % of the peak. ` +
      `All ${count(last())} steps together go as far as ${count(travel(...schedule))} at the peak.`;
  }

  function set(traits) {
    for (const [key, value] of Object.entries(traits)) model.set(key, value);
    model.save_changes();
  }
  const tidy = rate => +rate.toPrecision(3);
  const setPeak = (rate, share = trait("min_learning_rate") / high()) => ({ learning_rate: rate, min_learning_rate: Math.min(rate, tidy(share * rate)) });
  const setTotal = steps => ({ max_steps: steps, warmup_steps: Math.min(trait("warmup_steps"), steps) });

  warmup.oninput = () => set({ warmup_steps: Math.round(warmup.value) });
  peak.oninput = () => set(setPeak(tidy(+peak.value)));            // the floor keeps its share of the peak
  floor.oninput = () => set(setPeak(high(), +floor.value));
  total.oninput = () => set(setTotal(Math.round(total.value)));
  step.oninput = show;

  const drag = {
    peak: ({ step, rate }) => ({ ...setPeak(tidy(clamp(rate, +peak.min, +peak.max))), warmup_steps: clamp(step, 0, last()) }),
    end: ({ step, rate }) => ({ ...setTotal(clamp(step, 1, +total.max)), ...setPeak(high(), clamp(rate / high(), 0, 1)) }),
  };
  picture.onpointerdown = event => {
    dragged = event.target.closest("[data-handle]")?.dataset.handle ?? null;
    if (dragged) { picture.setPointerCapture(event.pointerId); event.preventDefault(); }
  };
  picture.onpointerup = picture.onpointercancel = () => { dragged = null; };
  picture.onpointermove = event => {
    if (dragged) set(drag[dragged](meaning(event)));
    else { step.value = clamp(meaning(event).step, 0, last()); show(); }
  };
  for (const key of ["learning_rate", "min_learning_rate", "warmup_steps", "max_steps"]) model.on(`change:${key}`, show);
  for (const form of el.querySelectorAll("form")) form.onsubmit = event => event.preventDefault();
  const watch = new ResizeObserver(show);
  watch.observe(picture.parentElement);
  step.max = last();
  step.value = last() / 2;
  show();
  return () => watch.disconnect();
}

export default { render };
