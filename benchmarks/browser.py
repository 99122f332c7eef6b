"""Tokens per second of a model in a page that tells stories, and of one that learns to:
headless Chromium, a worker, one core.

    python benchmarks/browser.py                    the shape of the demo model, random weights
    python benchmarks/browser.py --run runs/NAME    a model of your own
    python benchmarks/browser.py --tokens 500 --repeats 9 --seeds 1

The page is what `lm336_web` writes, served from this process; the browser and all its
processes are held to one core. A figure is the median over the repeats, which begin after
five seconds of telling: so long the browser's own start takes its part of that core.

Then a model of 64 wide and 2 layers learns the grammar of two plots (lm336/web/grammars.js):
how long until it is 5 and 1.5 % above the line, for each seed; tokens per second of a step,
what share of it each kernel takes, and the GFLOP/s of its matrix products over the whole
step beside those of the product alone; the same in plain JavaScript, and in jax-js where
npm can bring it. --record appends lines to benchmarks/browser.jsonl. Needs `pip install playwright` and a Chromium: Debian's
package, or `playwright install chromium`.
"""

import os
import shutil
import statistics
import subprocess
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

MINUTES = {"full": 5, "quick": 1}
HERE = Path(__file__).resolve().parent
JAX = "@jax-js/jax@0.1.25"
DEMO = TransformerConfig(
    4096, context_length=512, d_model=160, num_layers=4, num_heads=5, tie_embeddings=True
)

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


@contextmanager
def opened(address):
    "A page of the address in Chromium, and the browser's version, while the block runs."
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
        yield page, f"Chromium {browser.version}"
        browser.close()


def jax_js(folder):
    "jax-js's modules from npm in a folder, or None with a line that says why."
    if npm := shutil.which("npm"):
        words = [npm, "install", "--silent", "--prefix", folder, JAX]
        if subprocess.run(words, capture_output=True).returncode == 0:
            return "./node_modules/@jax-js/jax/dist/index.js"
    print(f"{JAX} is not measured: npm cannot bring it here")
    return None


def add_modules(folder):
    "The modules that measure, beside those of a page."
    for module in HERE.glob("browser_*.js"):
        shutil.copy(module, folder)


def call(page, module, name, *given):
    "What a function of a module finds in the page."
    code = """async ({ module, name, given }) =>
        (await import(new URL(module, location.href)))[name](...given)"""
    return page.evaluate(code, dict(module=module, name=name, given=given))


def measure_training(folder, args):
    "Seeds, steps in WebAssembly and in JavaScript, jax-js: what browser_training.js finds."
    shutil.copytree(common.ROOT / "lm336/web", folder)
    add_modules(folder)
    (folder / "empty.html").write_text("<!doctype html><title>Training</title>")
    address = jax_js(folder)

    def ask(name, *given):
        found = call(page, "browser_training.js", name, *given)
        print(name, given, found, flush=True)
        return found

    with served(folder) as site, opened(site + "empty.html") as (page, browser):
        steps = 60 if args.quick else 800
        runs = [ask("learn", seed, steps) for seed in range(args.seeds)]
        fast, plain = ask("profile", True), ask("profile", False)
        jax = ask("beside", address, 4 if args.quick else 20) if address else None
    return browser, runs, fast, plain, jax


def record_training(args, cores, browser, runs, fast, plain, jax):
    "The lines of a training in the page."
    assert fast["simd"] and not plain["simd"], "WebAssembly was not allowed here"

    def shown(values):
        return {name: round(x, 4) if isinstance(x, float) else x for name, x in values.items()}

    row = dict(
        browser=browser,
        cores=cores,
        parameters=fast["parameters"],
        tokens_per_second=round(fast["tokens_per_second"]),
        gflops=round(fast["gflops"], 1),
        product_gflops=round(fast["product_gflops"], 1),
        share_of_product_speed=round(fast["gflops"] / fast["product_gflops"], 2),
        shares=fast["shares"],
        plain_tokens_per_second=round(plain["tokens_per_second"]),
        jax_js_tokens_per_second=jax and round(jax["tokens_per_second"]),
        jax_js=jax and JAX,
        runs=[shown(run) for run in runs],
    )
    for name, value in row.items():
        print(f"{name:26} {value}")
    common.record(args, "training in a page", "float32", **row)


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument("--run", help="a run folder")
    parser.add_argument("--tokens", type=int, default=300, help="new tokens in each text")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5, help="runs that learn the grammar")
    args = common.parse(parser, tokens=100, repeats=2, seeds=1)
    if not find_spec("playwright"):
        common.skip(
            "needs playwright and a Chromium: "
            "pip install playwright, then playwright install chromium"
        )
    cores = os.cpu_count()
    if hasattr(os, "sched_setaffinity"):
        cores = 1
        # what starts now inherits it
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    common.announce(args, "float32")
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
        add_modules(folder / "page")
        with served(folder / "page") as address, opened(address) as (page, browser):
            settings = dict(
                tokens=args.tokens, repeats=args.repeats, warmup=1 if args.quick else 5
            )
            found = call(page, "browser_generation.js", "generate", settings)
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
            print(f"{name:18} {value}", flush=True)
        common.record(args, "generation in a page", "float32", **row)
        record_training(args, cores, *measure_training(folder / "training", args))


if __name__ == "__main__":
    common.start(main)
