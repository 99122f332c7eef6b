// The page that lm336_web writes. No module, so that it also runs where the page was opened as a file, and can say so.
{
  const names = ["prompt", "temperature", "go", "status", "progress", "text", "value"];
  const { prompt, temperature, go, status, progress, text, value } =
    Object.fromEntries(names.map(id => [id, document.getElementById(id)]));
  let worker = null, state = "loading";

  function show(next, sentence) {
    state = next;
    status.textContent = sentence;
    progress.hidden = state !== "loading";
    go.disabled = state === "loading";
    go.textContent = { telling: "Stop", failed: "Try again" }[state] ?? "Tell";
  }

  const answers = {
    progress({ loaded, total }) { progress.value = loaded / total; },
    ready() { show("ready", "Ready"); },
    token({ text: piece }) { text.append(piece); },
    done({ tokens, tokensPerSecond }) { show("ready", `${tokens} tokens, ${Math.round(tokensPerSecond)} per second`); },
    error({ message }) { show(state === "loading" ? "failed" : "ready", message); },
  };

  function fail() {
    worker = null;   // a worker whose program did not arrive will never answer
    show("failed", "The model's program could not be loaded: open this page through a web server, not as a file.");
  }

  function load() {
    show("loading", "Loading the model");
    try {
      worker ??= Object.assign(new Worker("worker.js", { type: "module" }),
        { onmessage: ({ data }) => data.forEach(answer => answers[answer.type]?.(answer)), onerror: fail });
      worker.postMessage({ type: "load", url: new URL(".", location).href });
    } catch { fail(); }
  }

  temperature.oninput = () => { value.textContent = Number(temperature.value).toFixed(2); };
  go.onclick = () => {
    if (state === "failed") load();
    else if (state === "telling") worker.postMessage({ type: "cancel" });
    else {
      show("telling", "Telling");
      text.textContent = prompt.value;
      worker.postMessage({ type: "generate", prompt: prompt.value, temperature: Number(temperature.value), max_new_tokens: 400 });
    }
  };
  load();
}
