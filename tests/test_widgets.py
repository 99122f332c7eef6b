"The widgets on a page without a kernel, in a real browser, under a path prefix, with nothing outside it to be reached."
import os, shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from lm336.interop import to_web
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

from .test_page import chromium, page, serve   # fixtures, and a server of a folder

ARTEFACTS = os.environ.get("LM336_ARTEFACTS")     # a folder for screenshots


def write_page(folder, mounts):
    "A page with these widgets, each in the markup that a chapter has; a picture stands in each."
    divs = "".join(f'<div class="lm336-widget" data-widget="{name}"{f" data-src={src}" if src else ""}><p>a picture</p></div>' for name, src in mounts)
    (folder / "index.html").write_text(f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Panel</title><link rel="icon" href="data:,">
        <meta name="viewport" content="width=device-width, initial-scale=1"><body class="quarto-light"><main><h1>Panel</h1>{divs}</main>
        <script type="module" src="web/embed.js"></script></body></html>""")


@pytest.fixture
def site(tmp_path):
    "A page with the sampler; the model in the folder model/, the modules in web/."
    torch.manual_seed(0)
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])   # no token ends the text
    folder = tmp_path / "some/prefix"
    to_web(Transformer(TransformerConfig(256, 64, 32, 2, 2, tie_embeddings=True)), tokenizer, folder / "model")
    shutil.copytree(Path(files("lm336") / "web"), folder / "web")
    write_page(folder, [("sampler", "model")])
    with serve(tmp_path) as address: yield folder, address + "some/prefix/"


PROBE = """export default { render({ model, el }) {
    model.set("seen", 1);
    el.textContent = `${model.get("greeting")} ${model.get("seen")}`;
} };"""


def test_a_widget_reads_its_json_or_has_defaults(page, site):
    folder, address = site
    (folder / "web/probe.js").write_text(PROBE)
    (folder / "here.json").write_text('{"greeting": "good day"}')
    write_page(folder, [("probe", "here.json"), ("probe", None)])
    page.goto(address)
    page.wait_for_selector("text=good day 1")
    page.wait_for_selector("text=undefined 1")
    assert "a picture" not in page.text_content("main")


@pytest.mark.parametrize("missing, words", [("here.json", "here.json could not be downloaded: the server answered 404."),
                                            ("web/probe.js", "probe.js could not be loaded.")])
def test_what_is_missing_is_named_and_can_be_tried_again(page, site, missing, words):
    folder, address = site
    page.expected_errors.append("404")
    (folder / "web/probe.js").write_text(PROBE)
    (folder / "here.json").write_text('{"greeting": "good day"}')
    write_page(folder, [("probe", "here.json")])
    (folder / missing).rename(folder / "elsewhere")
    page.goto(address)
    page.wait_for_selector(f"text={words}")
    assert "a picture" in page.text_content("main")
    page.click("text=Try again")
    page.wait_for_function("document.querySelectorAll('button').length == 1")
    (folder / "elsewhere").rename(folder / missing)
    page.click("text=Try again")
    page.wait_for_selector("text=good day 1")
    assert page.locator("button").count() == 0


def shares(page):
    "The probabilities that the bars show."
    return [float(share) for share in page.eval_on_selector_all(".bars i", "bars => bars.map(bar => bar.style.getPropertyValue('--share'))")]


def ready(page): page.wait_for_function("document.querySelector('.status')?.textContent.includes('per second')")


def test_the_panel_tells_and_its_bars_move(page, site):
    page.goto(site[1])
    page.wait_for_selector(".lm336-sampler button")
    assert "a picture" not in page.text_content("main"), "the picture stands where the panel does not"
    page.fill("[name=prompt]", "Once 中文 ")
    page.click("button")
    ready(page)
    assert page.text_content(".text").startswith("Once 中文 ") and page.locator(".text span").count() == 400
    page.focus("[name=temperature]")
    page.keyboard.press("Home")                       # by the keyboard: temperature 0
    page.wait_for_function("document.querySelectorAll('.bars i').length == 1")
    assert shares(page) == [1]
    page.keyboard.press("End")
    page.wait_for_function("document.querySelectorAll('.bars i').length == 10")
    hot = shares(page)
    page.evaluate("t => { t.value = 0.5; t.dispatchEvent(new Event('input', {bubbles: true})) }", page.query_selector("[name=temperature]"))
    page.wait_for_function(f"document.querySelector('.bars i').style.getPropertyValue('--share') != '{hot[0]}'")
    assert shares(page)[0] > hot[0] and hot == sorted(hot, reverse=True)


def test_the_same_seed_tells_the_same_story_and_stop_stops(page, site):
    page.goto(site[1])
    stories = []
    for seed in ("7", "7", "8"):
        page.fill("[name=seed]", seed)
        page.click("button")
        page.wait_for_function("document.querySelectorAll('.text span').length == 400")
        ready(page)
        stories.append(page.text_content(".text"))
    assert stories[0] == stories[1] != stories[2]
    page.evaluate("document.querySelector('button').click(), document.querySelector('button').click()")
    page.wait_for_function("parseInt(document.querySelector('.status').textContent) < 400")


def test_a_failed_download_says_so_and_can_be_tried_again(page, site):
    page.expected_errors.append("404")
    weights = site[0] / "model/model.safetensors"
    weights.rename(weights.with_suffix(".away"))
    page.goto(site[1])
    page.click("button")
    page.wait_for_function("document.querySelector('button').textContent == 'Try again'")
    assert page.text_content(".status").strip().endswith(".")
    weights.with_suffix(".away").rename(weights)
    page.click("button")
    ready(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_panel_fits_and_can_be_read(page, site, scheme, width):
    "No wider than the screen; text and paper at a contrast of at least 4.5 (WCAG 2.1, 1.4.3)."
    page.set_viewport_size(dict(width=width, height=900))
    page.goto(site[1])
    page.evaluate(f"document.body.className = 'quarto-{scheme}'; document.body.style.background = '{dict(light='#fff', dark='#111')[scheme]}'")
    page.click(".lm336-sampler button")
    ready(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    if ARTEFACTS: page.screenshot(path=Path(ARTEFACTS) / f"sampler-{scheme}-{width}.png", full_page=True)
    colours = page.evaluate("""() => [".status", "button", "output"].map(name => {
        const element = document.querySelector(name), own = getComputedStyle(element), panel = getComputedStyle(element.closest(".lm336"));
        const paper = own.backgroundColor == "rgba(0, 0, 0, 0)" ? panel.backgroundColor : own.backgroundColor;
        return [own.color, paper].map(colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)) })""")
    for ink, paper in colours: assert contrast(ink, paper) >= 4.5, (ink, paper)


def contrast(a, b):
    "The contrast ratio of two sRGB colours (WCAG 2.1)."
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
