// What the perfect reader makes of a text's tokens, for the panels: asked of oracle-worker.js, or in JupyterLab of Python.
import { visible } from "./parts.js";
import { surprise } from "./tokens.js";

// `changed` is called when an answer has come, with the sentence of an error where there is one.
export function perfectReader(model, changed) {
  let tag = 0, bits = [], causes = [];
  return {
    ask(tokens) {                      // about these; what was said of others is forgotten
      [bits, causes] = [[], []];
      model.send({ type: "truth", ids: tokens.map(({ id }) => id), tag: `truth ${++tag}` });
    },
    forget() { [bits, causes] = [[], []]; tag++; },
    hear(answer) {                     // whether it was an answer to that
      if (!String(answer.tag).startsWith("truth")) return false;
      if (answer.tag !== `truth ${tag}`) return true;
      if (answer.type === "truth") ({ bits, causes } = answer);
      changed(answer.message);
      return true;
    },
    get told() { return bits.length; },   // tokens that a story may begin with
    bits: index => bits[index] ?? null,
    cause: index => causes[index] ?? null,
    excess(token, index) {             // the model's bits less the perfect reader's; null where either has none
      const ofModel = surprise(token), ofReader = bits[index] ?? null;
      return ofModel === null || ofReader === null ? null : ofModel - ofReader;
    },
  };
}

// Where a text leaves the stories.
export const impossible = (tokens, at) => {
  const before = tokens.slice(0, at).map(({ text }) => text).join("").slice(-30);
  return `${before ? `after “…${before.trimStart()}” ` : ""}no story goes on with “${visible(tokens[at].text)}”`;
};
