"""Tokens per second of a model in a page: headless Chromium, a worker, one core.

    python benchmarks/browser.py                      the shape of the demo model, random weights
    python benchmarks/browser.py --run runs/NAME      a model of your own
    python benchmarks/browser.py --tokens 500 --repeats 9

The page is what `lm336_web` writes, served from this process; the browser and all its processes are held to one
core. A figure is the median over the repeats. A line of JSON goes to benchmarks/browser.jsonl. Needs
`pip install playwright` and a Chromium: Debian's package, or `playwright install chromium`.
"""
import argparse, json, os, shutil, statistics, sys, tempfile
from datetime import datetime, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import torch
from playwright.sync_api import Error, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lm336.corpus import write_stories
from lm336.errors import END_OF_TEXT
from lm336.evaluation import environment
from lm336.interop import to_web
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig, parameter_count

LOG = Path(__file__).with_suffix(".jsonl")
DEMO = TransformerConfig(4096, context_length=512, d_model=160, num_layers=4, num_heads=5, tie_embeddings=True)

# Runs in the page: load once, generate again and again. Also: the longest time that the page's own thread was kept from a timer
# of 10 ms, and the time from a cancel to the answer.
MEASURE = """async ({ tokens, repeats }) => {
  const worker = new Worker("worker.js", { type: "module" });
  const ask = (message, until, each = () => {}) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => data.type === "error" ? reject(data.message) : data.type === until ? resolve(data) : each(data);
    worker.postMessage(message);
  });
  const start = performance.now();
  await ask({ type: "load", url: new URL(".", location.href).href }, "ready");
  const result = { load_seconds: (performance.now() - start) / 1000, tokens_per_second: [], tokens: [], cancel_ms: [], longest_stall_ms: 0 };
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    result.longest_stall_ms = Math.max(result.longest_stall_ms, now - last - 10);
    last = now;
  }, 10);
  const request = { type: "generate", prompt: "Once upon a time", maxNewTokens: tokens, temperature: 0.8, topK: 40 };
  await ask({ ...request, seed: 0 }, "done");
  for (let seed = 1; seed <= repeats; seed++) {
    const done = await ask({ ...request, seed }, "done");
    result.tokens_per_second.push(done.tokensPerSecond);
    result.tokens.push(done.tokens);
  }
  for (let seed = 1; seed <= repeats; seed++) {
    let asked = 0, count = 0;
    await ask({ ...request, seed }, "done", () => { if (++count === 20) { asked = performance.now(); worker.postMessage({ type: "cancel" }); } });
    result.cancel_ms.push(performance.now() - asked);
  }
  clearInterval(timer);
  return result;
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


def main(run, tokens, repeats):
    with tempfile.TemporaryDirectory() as folder:
        if run: model, tokenizer = Transformer.from_pretrained(run), Tokenizer.from_pretrained(run)
        else:
            torch.manual_seed(0)
            model = Transformer(DEMO)
            write_stories(Path(folder) / "stories.txt", 1_000_000, seed=0)
            tokenizer = Tokenizer.train(Path(folder) / "stories.txt", DEMO.vocab_size, [END_OF_TEXT])
        to_web(model, tokenizer, Path(folder) / "page")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(Path(folder) / "page")))
        Thread(target=server.serve_forever, daemon=True).start()
        if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})   # what starts now inherits it
        with sync_playwright() as playwright:
            try: browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            except Error as error: return print(f"no Chromium starts here, nothing is measured: {error}".splitlines()[0])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            found = page.evaluate(MEASURE, dict(tokens=tokens, repeats=repeats))
            row = dict(date=datetime.now(timezone.utc).isoformat(timespec="seconds"), **environment(),
                       browser=f"Chromium {browser.version}", load=round(os.getloadavg()[0], 1), model=run or "demo shape, random weights", parameters=parameter_count(model.config))
            browser.close()
        server.shutdown()
    row |= dict(tokens=round(statistics.median(found["tokens"])), tokens_per_second=round(statistics.median(found["tokens_per_second"])),
                cancel_ms=round(statistics.median(found["cancel_ms"]), 1), longest_stall_ms=round(found["longest_stall_ms"]),
                load_seconds=round(found["load_seconds"], 2))
    for name, value in row.items(): print(f"{name:18} {value}")
    with open(LOG, "a", encoding="utf-8") as file: file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run folder")
    parser.add_argument("--tokens", type=int, default=300, help="new tokens in each text")
    parser.add_argument("--repeats", type=int, default=5)
    main(**vars(parser.parse_args()))
