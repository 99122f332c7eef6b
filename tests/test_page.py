"The folder of `lm336_web` in a real browser, under a path prefix, nothing else in reach."

import re
import shutil
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from lm336.interop import to_web
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

sync_playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed"
).sync_playwright


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@contextmanager
def serve(folder):
    "A server of a folder on this machine; its address."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        try:
            browser = playwright.chromium.launch(
                executable_path=program,
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            )
        except Exception as error:
            pytest.skip(f"no Chromium starts here: {error}".splitlines()[0])
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])  # no token ends the text
    to_web(
        Transformer(TransformerConfig(256, 64, 32, 2, 2, tie_embeddings=True)),
        tokenizer,
        tmp_path / "some/prefix",
    )
    with serve(tmp_path) as address:
        yield tmp_path / "some/prefix", address + "some/prefix/"


@pytest.fixture
def page(chromium, site):
    "An open page; at the end, no errors and no request to anywhere else."
    context = chromium.new_context(viewport=dict(width=360, height=640))
    page, asked, errors = context.new_page(), [], []
    page.set_default_timeout(100_000)  # a limit, not a claim: a busy machine is slow
    context.on("request", lambda request: asked.append(request.url))
    context.route(lambda url: not url.startswith(site[1]), lambda route: route.abort())
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.expected_errors = []
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    yield page
    context.close()
    assert all(url.startswith(site[1]) for url in asked), asked
    assert [
        error for error in errors if not any(words in error for words in page.expected_errors)
    ] == []


def slow_down(generation):
    "A token takes two milliseconds from now on, however fast the machine."
    text, step = generation.read_text(encoding="utf-8"), "    logits = model.step(id);\n"
    assert text.count(step) == 1
    wait = "    for (const end = performance.now() + 2; performance.now() < end;);\n"
    generation.write_text(text.replace(step, wait + step), encoding="utf-8")


def test_tells_and_stops(page, site):
    slow_down(site[0] / "generation.js")
    page.goto(site[1])
    page.wait_for_selector("#go:enabled")
    page.fill("#prompt", "Once upon 中文")
    page.click("#go")
    page.wait_for_selector("#status:text-matches('^400 tokens')")
    text = page.text_content("#text")
    assert text.startswith("Once upon 中文") and len(text) > 50
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "wider than the screen"
    )
    page.evaluate(
        "document.querySelector('#go').click(), document.querySelector('#go').click()"
    )  # tell, and stop at once
    page.wait_for_selector("#status:text-matches('^[0-3]?[0-9]{1,2} tokens')")


def test_a_failed_download_can_be_tried_again(page, site):
    folder, address = site
    page.expected_errors = ["404"]
    (folder / "model.safetensors").rename(folder / "elsewhere")
    page.goto(address)
    page.wait_for_selector(
        "text=model.safetensors could not be downloaded: the server answered 404."
    )
    (folder / "elsewhere").rename(folder / "model.safetensors")
    page.click("text=Try again")
    page.wait_for_selector("text=Ready")
    assert page.is_hidden("#progress") and page.text_content("#go") == "Tell"


def test_without_its_program_the_page_says_so(page, site):
    folder, address = site
    page.expected_errors = ["404"]
    (folder / "worker.js").rename(folder / "elsewhere")
    page.goto(address)
    page.wait_for_selector("text=The model's program could not be loaded")
    (folder / "elsewhere").rename(folder / "worker.js")
    page.click("text=Try again")
    page.wait_for_selector("text=Ready")
    (folder / "page.js").unlink()
    page.goto(address)
    page.wait_for_selector("text=The page's program, page.js, has not arrived.")


def test_a_prompt_that_is_too_long_gets_a_sentence_and_the_next_a_story(page, site):
    page.goto(site[1])
    page.wait_for_selector("#go:enabled")
    page.fill("#prompt", "x" * 100)
    page.click("#go")
    page.wait_for_selector("text=The prompt has 100 tokens; this model reads at most 64.")
    page.fill("#prompt", "x")
    page.click("#go")
    page.wait_for_selector("#status:text-matches('^400 tokens')")


def test_nothing_but_the_files_beside_it_gets_in(page, site):
    "No script and no style stands in the page, and its policy lets none in."
    html = (site[0] / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=", html)
    page.expected_errors = ["Content Security Policy"]
    page.goto(site[1])
    page.wait_for_selector("text=Ready")
    page.evaluate("""document.body.append(
        Object.assign(document.createElement('script'), { textContent: 'window.ran = 1' }))""")
    assert page.evaluate("window.ran") is None
