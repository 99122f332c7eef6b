// A text token by token, shaded by a number for each. One token can be chosen: click, tap, or the arrow keys.
import { rounded, visible } from "./parts.js";

// Bits of surprise, under the model itself. Nothing led it to expect the first token of a text, which has none.
export const surprise = ({ logprob }) => logprob === null ? null : -logprob / Math.LN2;

// Makes `box` show tokens, { text, logprob, ... }. Their shade is a number from shade(token, index): 0 and below, or null, is none, `most` the
// warmest; `unit` is what the number counts. choose(index) is told which token a visitor has chosen, or null.
export function tokenText(box, choose, shade = surprise, unit = "bits", most = 8) {
  const tokens = [];
  let chosen = null, stop = null, frame = 0;
  let follows = true, height = 0;       // the box shows the end of the text, unless its reader has scrolled up; where it was

  function paint(item, index) {
    const number = shade(tokens[index], index), words = number === null ? "" : `${rounded(number, 1)} ${unit}`;
    item.title = words;
    item.setAttribute("aria-label", [visible(tokens[index].text), words].join(" ").trim());
    item.style.setProperty("--surprise", Math.max(0, Math.min(1, number / most)));
  }

  function setStop(item) {              // the one token that the Tab key reaches
    stop?.setAttribute("tabindex", -1);
    stop = item;
    stop?.setAttribute("tabindex", 0);
  }

  function look() {                     // whether its reader has scrolled up, or down again
    if (box.scrollTop < height) follows = false;
    if (box.scrollTop + box.clientHeight > box.scrollHeight - 30) follows = true;
    height = box.scrollTop;
  }

  function follow() {                   // once for all tokens of a frame
    frame = 0;
    look();                             // the event of a scroll may be still to come
    if (!follows || chosen !== null) return;
    box.scrollTop = box.scrollHeight;
    height = box.scrollTop;
  }

  const view = {
    tokens,
    get chosen() { return chosen; },
    add(token) {
      const item = document.createElement("span");
      const space = token.text.match(/^ ?/)[0], shaded = document.createElement("b");   // the space before a word is not shaded
      shaded.textContent = token.text.slice(space.length);
      item.append(space, shaded);
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", false);
      box.setAttribute("role", "listbox");
      box.setAttribute("aria-orientation", "horizontal");
      paint(item, tokens.push(token) - 1);
      box.append(item);
      if (chosen === null) setStop(item);
      frame ||= requestAnimationFrame(follow);
    },
    show(list) {                        // these instead of those before
      tokens.length = 0;
      [chosen, follows, height] = [null, true, 0];
      box.setAttribute("role", "group");       // without options it is no list
      box.removeAttribute("aria-orientation");
      box.replaceChildren();
      box.scrollTop = 0;
      for (const token of list) view.add(token);
    },
    shadeBy(...other) {                 // another number for each token: shade, unit, most
      [shade, unit, most] = other;
      tokens.forEach((_, index) => paint(box.children[index], index));
    },
    choose(index) {                     // null: none
      box.children[chosen]?.setAttribute("aria-selected", false);
      chosen = index === null ? null : Math.max(0, Math.min(index, tokens.length - 1));
      const item = box.children[chosen];
      setStop(item ?? box.lastElementChild);
      if (item) {
        item.setAttribute("aria-selected", true);
        const top = item.offsetTop - box.offsetTop, bottom = top + item.offsetHeight;   // scroll the box, never the page
        box.scrollTop = Math.max(bottom - box.clientHeight, Math.min(box.scrollTop, top));
      }
      choose(chosen);
    },
  };

  box.onscroll = look;
  box.onclick = ({ target }) => {
    const index = [...box.children].indexOf(target.closest("[role=option]"));
    if (index >= 0) view.choose(index === chosen ? null : index);
  };
  box.onkeydown = event => {
    const from = [...box.children].indexOf(document.activeElement), last = tokens.length - 1;
    const next = { ArrowLeft: from - 1, ArrowUp: from - 1, ArrowRight: from + 1, ArrowDown: from + 1, Home: 0, End: last,
      Enter: from, " ": from, Escape: null }[event.key];
    if (from < 0 || next === undefined) return;
    event.preventDefault();
    view.choose(next);
    box.children[chosen ?? from].focus({ preventScroll: true });
  };
  return view;
}
