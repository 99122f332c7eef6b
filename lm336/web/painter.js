// A text in its tokens. Traits: added_tokens and model, as in tokenizer.json, and text.
import { numberedChip, panel, readable } from "./parts.js";
import { Tokenizer } from "./tokenizer.js";

const HTML = `
  <form><label class="wide">Type something
    <textarea name="text" rows="3" maxlength="5000" spellcheck="false"></textarea></label></form>
  <p class="status" role="status"></p>
  <ol class="chips" aria-label="The tokens"></ol>`;

export function render({ model, el }) {
  const tokenizer = Tokenizer.fromJSON({ added_tokens: model.get("added_tokens"), model: model.get("model") });
  const $ = panel(el, "painter", HTML), { text } = $("form").elements;

  function show() {
    text.value = model.get("text") ?? "Once upon a time there was a hedgehog called Zoë, who wouldn't wear shoes.";
    let ids = [], failed = "";
    try { ids = tokenizer.encode(text.value); }
    catch (error) { failed = error.message; }
    const size = new TextEncoder().encode(text.value).length;
    $(".status").textContent = failed || (!size ? "Without a text there are no tokens." :
      `${size} ${size === 1 ? "byte" : "bytes"} in ${ids.length} ${ids.length === 1 ? "token" : "tokens"}: ${(size / ids.length).toFixed(2)} bytes per token.`);
    $(".chips").replaceChildren(...ids.map(id => {
      const item = document.createElement("li");
      item.append(numberedChip(readable(tokenizer.vocab[id]), id));
      return item;
    }));
  }

  text.oninput = () => { model.set("text", text.value); model.save_changes(); };
  model.on("change:text", show);
  show();
}

export default { render };
