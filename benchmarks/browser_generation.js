// What browser.py asks the page about generation. The files of the page lie beside it.
import { asks, watchStalls } from "./browser_worker.js";

// Load once, generate again and again, and count what comes after `warmup` seconds; and the time, in ms, from a cancel to the answer.
export async function generate({ tokens, repeats, warmup }) {
  const worker = new Worker("worker.js", { type: "module" }), ask = asks(worker), done = ({ type }) => type === "done";
  const start = performance.now();
  await ask({ type: "load", url: new URL(".", location.href).href }, ({ type }) => type === "ready");
  const result = { load_seconds: (performance.now() - start) / 1000, tokens_per_second: [], tokens: [], cancel_ms: [] };
  const stalls = watchStalls();
  const request = { type: "generate", prompt: "Once upon a time", max_new_tokens: tokens, temperature: 0.8, top_k: 40 };
  do await ask({ ...request, seed: 0 }, done);           // for seconds the browser itself is still starting, on the same core
  while (performance.now() - start < warmup * 1000);
  for (let seed = 1; seed <= repeats; seed++) {
    const told = await ask({ ...request, seed }, done);
    console.log(`text ${seed} of ${repeats}: ${Math.round(told.tokensPerSecond)} tokens/s`);
    result.tokens_per_second.push(told.tokensPerSecond);
    result.tokens.push(told.tokens);
  }
  for (let seed = 1; seed <= repeats; seed++) {
    let asked = 0, count = 0;
    await ask({ ...request, seed }, done, () => {
      count += 1;
      if (count === 20) {
        asked = performance.now();
        worker.postMessage({ type: "cancel" });
      }
    });
    result.cancel_ms.push(performance.now() - asked);
  }
  return { ...result, longest_stall_ms: stalls() };
}
