"""Tokens per second of a model in a page: headless Chromium, a worker, one core.

    python benchmarks/browser.py                    the shape of the demo model, random weights
    python benchmarks/browser.py --run runs/NAME    a model of your own
    python benchmarks/browser.py --tokens 500 --repeats 9

The page is what `lm336_web` writes, served from this process; the browser and all its
processes are held to one core. A figure is the median over the repeats. --record appends a
line to benchmarks/browser.jsonl. Needs `pip install playwright` and a Chromium: Debian's
package, or `playwright install chromium`.
"""

import os
import shutil
import statistics
import tempfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import torch

import common
from lm336.grammar import write_stories
from lm336.errors import END_OF_TEXT
from lm336.interop import to_web
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig, parameter_count

MINUTES = {"full": 1, "quick": 1}
DEMO = TransformerConfig(
    4096, context_length=512, d_model=160, num_layers=4, num_heads=5, tie_embeddings=True
)

# Runs in the page: load once, generate again and again. Also: the longest time that the page's
# own thread was kept from a timer of 10 ms, and the time from a cancel to the answer.
MEASURE = """async ({ tokens, repeats }) => {
  const worker = new Worker("worker.js", { type: "module" });
  const ask = (message, until, each = () => {}) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.type === "error") reject(data.message);
      else if (data.type === until) resolve(data);
      else each(data);
    };
    worker.postMessage(message);
  });
  const start = performance.now();
  await ask({ type: "load", url: new URL(".", location.href).href }, "ready");
  const seconds = (performance.now() - start) / 1000;
  const result = {
    load_seconds: seconds, longest_stall_ms: 0,
    tokens_per_second: [], tokens: [], cancel_ms: [],
  };
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    result.longest_stall_ms = Math.max(result.longest_stall_ms, now - last - 10);
    last = now;
  }, 10);
  const prompt = "Once upon a time";
  const sampling = { temperature: 0.8, top_k: 40 };
  const request = { type: "generate", prompt, max_new_tokens: tokens, ...sampling };
  await ask({ ...request, seed: 0 }, "done");
  for (let seed = 1; seed <= repeats; seed++) {
    const done = await ask({ ...request, seed }, "done");
    console.log(`text ${seed} of ${repeats}: ${Math.round(done.tokensPerSecond)} tokens/s`);
    result.tokens_per_second.push(done.tokensPerSecond);
    result.tokens.push(done.tokens);
  }
  for (let seed = 1; seed <= repeats; seed++) {
    let asked = 0, count = 0;
    const cancel = () => {
      count += 1;
      if (count === 20) {
        asked = performance.now();
        worker.postMessage({ type: "cancel" });
      }
    };
    await ask({ ...request, seed }, "done", cancel);
    result.cancel_ms.push(performance.now() - asked);
  }
  clearInterval(timer);
  return result;
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    "Serves files, and prints no line for each."

    def log_message(self, *args):
        pass


@contextmanager
def served(folder):
    "The address of a folder's files while the block runs."
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))
    )
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def random_model(folder):
    "A model of the demo's shape that has learned nothing, and a tokenizer of its size."
    torch.manual_seed(0)
    model = Transformer(DEMO)
    write_stories(folder / "stories.txt", 1_000_000, seed=0)
    return model, Tokenizer.train(folder / "stories.txt", DEMO.vocab_size, [END_OF_TEXT])


def measure(address, tokens, repeats):
    "What MEASURE returns, and the browser's version."
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
        except Error as error:
            common.skip(
                "needs a Chromium, and none starts here "
                f"({str(error).splitlines()[0]}): playwright install chromium"
            )
        page = browser.new_page()
        page.on("console", lambda message: print(message.text, flush=True))
        page.goto(address)
        found = page.evaluate(MEASURE, dict(tokens=tokens, repeats=repeats))
        version = f"Chromium {browser.version}"
        browser.close()
    return found, version


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument("--run", help="a run folder")
    parser.add_argument("--tokens", type=int, default=300, help="new tokens in each text")
    parser.add_argument("--repeats", type=int, default=5)
    args = common.parse(parser, tokens=100, repeats=2)
    if not find_spec("playwright"):
        common.skip(
            "needs playwright and a Chromium: "
            "pip install playwright, then playwright install chromium"
        )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.run:
            model, tokenizer = (
                Transformer.from_pretrained(args.run),
                Tokenizer.from_pretrained(args.run),
            )
        else:
            model, tokenizer = random_model(folder)
        to_web(model, tokenizer, folder / "page")
        cores = os.cpu_count()
        if hasattr(os, "sched_setaffinity"):
            cores = 1
            os.sched_setaffinity(
                0, {max(os.sched_getaffinity(0))}
            )  # what starts now inherits it
        with served(folder / "page") as address:
            found, browser = measure(address, args.tokens, args.repeats)
    row = dict(
        browser=browser,
        cores=cores,
        model=Path(args.run).name if args.run else "demo shape, random weights",
        parameters=parameter_count(model.config),
        tokens=round(statistics.median(found["tokens"])),
        tokens_per_second=round(statistics.median(found["tokens_per_second"])),
        cancel_ms=round(statistics.median(found["cancel_ms"]), 1),
        longest_stall_ms=round(found["longest_stall_ms"]),
        load_seconds=round(found["load_seconds"], 2),
    )
    for name, value in row.items():
        print(f"{name:18} {value}")
    common.record(args, "generation in a page", "float32", **row)


if __name__ == "__main__":
    common.start(main)
