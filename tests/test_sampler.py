"The sampler as a visitor meets it: a page without a kernel, checked against Python's model."

import json
import math
import re
import runpy

import pytest
import torch

from lm336.generation import SamplingConfig, next_token_probs
from lm336.transformer import Transformer

from . import test_page, test_widgets
from .conftest import ROOT
from .test_widgets import ready, shares

chromium = test_page.chromium  # fixtures
page = test_page.page
wide_site = test_widgets.site

PROMPT, VOCAB = "Once upon", 128
TOKENS = "items => items.map(item => item.textContent)"


@pytest.fixture
def site(wide_site):
    "A page with the sampler. A token is a character of ASCII, so a text's ids are its bytes."
    path = wide_site[0] / "model/tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokens = tokenizer["model"]["vocab"].items()
    tokenizer["model"]["vocab"] = {token: i for token, i in tokens if i < VOCAB}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return wide_site


@pytest.fixture
def model(site):
    "The page's model in Python."
    return Transformer.from_pretrained(site[0] / "model").float()


def shorter(site, tokens=60):
    "The panel's stories end after so many tokens."
    path = site[0] / "web/sampler.js"
    text, count = re.subn(
        r"max_new_tokens: \d+", f"max_new_tokens: {tokens}", path.read_text(encoding="utf-8")
    )
    assert count == 1
    path.write_text(text)


def endless(site):
    "The panel's stories last until they are stopped."
    shorter(site, 50_000)
    test_page.slow_down(site[0] / "web/generation.js")


def tell(page, site, place="", **settings):
    "Open the page, set the panel, and wait for its story: the texts of its tokens."
    page.goto(site[1] + place)
    page.wait_for_selector(".lm336-sampler")
    for name, value in settings.items():
        page.fill(f"[name={name}]", str(value))
    return press(page, "[type=submit]")


def press(page, what):
    page.evaluate("document.querySelector('.status').textContent = ''")
    page.click(what)
    ready(page)
    return page.eval_on_selector_all("[role=option]", TOKENS)


def options(page):
    return page.locator("[role=option]")


def address(page):
    return page.evaluate("location.href")


def text_of(page):
    return page.text_content(".text")


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]))[0, :, :VOCAB]


def expected_bars(model, text, **settings):
    logits = logits_of(model, list(text.encode()))[-1]
    probs = next_token_probs(logits, SamplingConfig(**settings))
    return probs.sort(descending=True).values[:10].tolist()


def wait_for_shares(page, expected):
    page.wait_for_function("() => document.querySelectorAll('.bars i').length > 0")
    shown = []
    for _ in range(200):
        shown = shares(page)
        if len(shown) == len(expected) and shown == pytest.approx(expected, abs=2e-4):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"the bars are {shown}, not {expected}")


def test_the_bars_are_for_the_next_token(page, site, model):
    "At the end of a story, when a slider moves, and at a token that is chosen."
    shorter(site)
    tell(page, site, prompt=PROMPT, seed=3)
    text = text_of(page)
    assert len(text) == len(PROMPT) + 60, "each token is one character here"
    wait_for_shares(page, expected_bars(model, text, temperature=0.8))
    page.fill("[name=temperature]", "0.3")
    wait_for_shares(page, expected_bars(model, text, temperature=0.3))
    options(page).nth(30).click()
    wait_for_shares(page, expected_bars(model, text[:30], temperature=0.8))
    page.fill("[name=temperature]", "0.5")
    wait_for_shares(page, expected_bars(model, text[:30], temperature=0.5))
    page.fill("[name=prompt]", "Twice")
    page.fill("[name=temperature]", "0.4")
    wait_for_shares(page, expected_bars(model, "Twice", temperature=0.4))


def test_a_slider_leaves_the_chosen_token_in_sight(page, site):
    "Also where the settings cut it off."
    shorter(site, 20)
    tokens = tell(page, site, prompt=PROMPT, seed=3)
    options(page).nth(20).click()
    for top_k in (3, 1):
        page.fill("[name=top_k]", str(top_k))
        rows = "document.querySelectorAll('.bars li').length"
        page.wait_for_function(f"[{top_k}, {top_k + 1}].includes({rows})")
        assert page.locator(".bars .best code").all_text_contents() == [tokens[20]]


def test_any_token_says_what_it_cost(page, site, model):
    "By click, and by arrows; also in the prompt. Escape lets go."
    shorter(site)
    tokens = tell(page, site, prompt=PROMPT)
    ids = [ord(token) for token in tokens]
    logprobs = logits_of(model, ids).log_softmax(-1)
    for place in (2, 20, 50):
        bits = -logprobs[place - 1, ids[place]].item() / math.log(2)
        options(page).nth(place).click()
        assert f"cost {bits:.1f} bits" in page.text_content("figcaption")
        label = options(page).nth(place).get_attribute("aria-label")
        assert label and label.endswith(f"{bits:.1f} bits")
    page.keyboard.press("ArrowRight")
    assert options(page).nth(51).get_attribute("aria-selected") == "true"
    page.keyboard.press("Home")
    assert "is the first" in page.text_content("figcaption")
    page.keyboard.press("Escape")
    assert page.text_content("figcaption").startswith("What may come next")
    assert page.locator("[role=option][tabindex='0']").count() == 1


def test_a_story_goes_on_from_any_token_with_another(page, site, model):
    "The new story is Python's, after the same beginning; so is the one that a link tells."
    shorter(site)
    tell(page, site, prompt=PROMPT, seed=5)
    text = text_of(page)
    options(page).nth(25).click()
    page.wait_for_selector(".bars button")
    page.locator(".bars button").first.press("ArrowDown")  # from one to the next
    other = page.evaluate("document.activeElement.querySelector('code').textContent")
    page.evaluate("document.querySelector('.status').textContent = ''")
    page.keyboard.press("Enter")
    ready(page)
    begun = text_of(page)[:26]
    assert begun[:25] == text[:25]
    ids = list(begun.encode())
    likeliest = logits_of(model, ids[:25])[-1].argsort(descending=True).tolist()
    assert ids[25] == likeliest[1] == ord(other.replace("␣", " "))
    after = model.generate(ids, 60, temperature=0.8, seed=5, vocab_size=VOCAB)
    assert text_of(page) == "".join(map(chr, after))
    story, link = text_of(page), address(page)
    assert f"after={'.'.join(map(str, ids[len(PROMPT):]))}" in link
    assert page.evaluate("document.activeElement.textContent") == "Another story"
    press(page, "text=Same again")
    assert text_of(page) == story
    page.goto("about:blank")
    assert "".join(tell(page, site, "#" + link.split("#")[1])) == story
    options(page).nth(4).click()
    page.locator(".bars button").nth(1).click()  # in the prompt: it is another prompt
    page.wait_for_function("document.querySelector('[name=prompt]').value.length == 5")
    assert page.input_value("[name=prompt]")[:4] == PROMPT[:4]


def test_another_has_a_new_seed_and_the_address_holds_the_story(page, site):
    shorter(site)
    first = tell(page, site, prompt="A & b=c\n", temperature=1.3, top_k=20, top_p=0.9, seed=7)
    link = address(page)
    assert all(one in link for one in ("seed=7", "temperature=1.3", "top_k=20"))
    assert press(page, "text=Another story") != first and "seed=8" in address(page)
    page.fill("[name=seed]", "7")
    assert page.text_content("[type=submit]") == "Tell a story"
    assert press(page, "[type=submit]") == first
    assert press(page, "text=Same again") == first and address(page) == link
    page.goto("about:blank")
    assert tell(page, site, "#" + link.split("#")[1]) == first
    assert page.input_value("[name=prompt]") == "A & b=c\n"


def test_stop_stops(page, site):
    "At once, also before there is a first token."
    endless(site)
    page.goto(site[1])
    page.click("[type=submit]")
    page.wait_for_function("document.querySelectorAll('[role=option]').length > 20")
    page.click("text=Stop")
    ready(page)
    assert options(page).count() < 50_000
    press = "document.querySelector('button').click()"
    page.evaluate(f"{press}, {press}")
    assert page.text_content("[type=submit]") == "Tell a story"
    page.wait_for_timeout(100)  # an answer that was under way is not heard
    assert page.text_content(".status") == ""


def test_a_link_that_is_damaged_gets_a_sentence(page, site):
    page.goto(site[1] + "#prompt=Once&after=7.x.9999")
    page.click("text=Tell a story")
    page.wait_for_selector("text=Token id NaN is not in the vocabulary")
    page.goto("about:blank")
    page.goto(site[1] + "#prompt=Once&temperature=hot&seed=-3&after=")
    page.click("text=Tell a story")
    ready(page)


def test_another_link_is_followed_on_the_same_page(page, site):
    "Also while a story is told; what the link leaves out is as at the beginning."
    shorter(site)
    first = tell(page, site, prompt=PROMPT, temperature=0.3, top_k=5)
    link = address(page)
    endless(site)
    page.goto("about:blank")
    page.goto(site[1])
    page.fill("[name=top_p]", "0.5")
    page.click("[type=submit]")
    page.wait_for_function("document.querySelectorAll('[role=option]').length > 20")
    page.evaluate(f"location.hash = '{link.split('#')[1]}'")
    page.wait_for_selector("text=This link holds a story")
    assert text_of(page) == "" and page.input_value("[name=top_p]") == "1"
    page.click("text=Tell a story")
    page.wait_for_function("document.querySelectorAll('[role=option]').length > 100")
    assert page.eval_on_selector_all("[role=option]", TOKENS)[: len(first)] == first
    page.click("text=Stop")
    ready(page)


def test_story_and_link_are_copied(page, site):
    shorter(site)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tell(page, site, prompt=PROMPT)
    for button, copied in (("Copy story", text_of(page)), ("Copy link", address(page))):
        page.click(f"text={button}")
        page.wait_for_function("document.querySelector('.status').textContent.includes('copied')")
        assert page.evaluate("navigator.clipboard.readText()") == copied


def test_enter_tells_and_shift_enter_breaks_the_line(page, site):
    shorter(site)
    page.goto(site[1])
    page.fill("[name=prompt]", "Once")
    page.press("[name=prompt]", "Shift+Enter")
    assert page.input_value("[name=prompt]") == "Once\n" and text_of(page) == ""
    page.press("[name=prompt]", "Enter")
    ready(page)
    assert page.input_value("[name=prompt]") == "Once\n" and text_of(page)[:5] == "Once\n"


def test_a_slider_acts_during_a_story(page, site, model):
    "From the next token on: at temperature 0 each is the likeliest. The link tells the same."
    endless(site)
    page.goto(site[1])
    page.fill("[name=prompt]", PROMPT)
    page.click("[type=submit]")
    page.wait_for_function("document.querySelectorAll('[role=option]').length > 20")
    page.fill("[name=temperature]", "0")
    page.wait_for_function("document.querySelectorAll('.bars i').length == 1")
    page.click("text=Stop")
    ready(page)
    story, after = text_of(page), address(page).split("after=")[1].split(".")
    ids = list(story.encode())[:120]
    begun = len(PROMPT) + len(after)
    assert begun > 20
    greedy = logits_of(model, ids).argmax(-1).tolist()
    assert ids[begun:] == greedy[begun - 1 : len(ids) - 1]


def test_the_box_follows_the_story_and_lets_its_reader_scroll(page, site):
    endless(site)
    page.goto(site[1])
    box = "document.querySelector('.text')"
    rest = f"{box}.scrollHeight - {box}.clientHeight - {box}.scrollTop"
    page.fill("[name=prompt]", PROMPT + "\n" * 40)
    page.click("[type=submit]")
    page.wait_for_function(f"{box}.scrollTop > 100")
    page.click("text=Stop")
    ready(page)
    page.wait_for_function(f"{rest} < 30")
    page.evaluate(f"{box}.firstElementChild.dataset.before = true")
    page.click("text=Another story")
    # the reader scrolls in the very frame in which the box first does
    page.wait_for_function(
        f"!{box}.querySelector('[data-before]')"
        f" && {box}.scrollTop > 100 && ({box}.scrollTop = 5)"
    )
    page.wait_for_timeout(100)
    page.click("text=Stop")
    ready(page)
    assert page.evaluate(f"{box}.scrollTop") == 5


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_jump(page, site, width):
    "Whatever is pressed, what stands below the panel stays where it is."
    shorter(site)
    page.set_viewport_size(dict(width=width, height=844))
    page.goto(site[1])
    page.wait_for_selector(".lm336-sampler")
    height = "document.querySelector('.lm336-sampler').offsetHeight"
    heights = {"before": page.evaluate(height)}
    page.evaluate(f"""
        window.seen = new Set();
        new ResizeObserver(() => seen.add({height}))
            .observe(document.querySelector('.lm336-sampler'))""")
    press(page, "[type=submit]")
    options(page).nth(9).click()
    heights["a token"] = page.evaluate(height)
    page.fill("[name=prompt]", "x" * 500)
    page.wait_for_selector(".status:has-text('reads at most')")
    heights["an error"] = page.evaluate(height)
    page.wait_for_timeout(50)
    assert set(page.evaluate("[...seen]")) == set(heights.values()) == {heights["before"]}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def record():
    return runpy.run_path(str(ROOT / ".ci/recording.py"))["record"]()


def tokens_of(messages):
    read, *told, _ = messages
    return [*read["tokens"], *told]


def test_the_recording_is_the_shipped_models():
    "Token for token, and as surprised."
    kept = json.loads((ROOT / "data/story.json").read_text(encoding="utf-8"))
    made = record()
    shape = [message["type"] for message in kept["messages"]]
    assert shape == ["read", *["token"] * (len(shape) - 2), "bars"]
    pairs = zip(*(tokens_of(story["messages"]) for story in (kept, made)), strict=True)
    for one, other in pairs:
        assert (one["id"], one["text"]) == (other["id"], other["text"])
        assert one["logprob"] == pytest.approx(other["logprob"], abs=0.02)
    assert {name: kept[name] for name in ("prompt", "temperature", "seed")} == {
        name: made[name] for name in ("prompt", "temperature", "seed")
    }


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_recording_is_told_at_once_and_nothing_else_is_loaded(page, site, motion):
    folder, address = site
    recording = (ROOT / "data/story.json").read_text(encoding="utf-8")
    (folder / "model/story.json").write_text(recording, encoding="utf-8")
    html = (folder / "index.html").read_text()
    html = html.replace("data-src=model", "data-src=model data-recording=model/story.json")
    (folder / "index.html").write_text(html)
    page.emulate_media(reduced_motion=motion)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("[role=option]")
    messages = json.loads(recording)["messages"]
    count = len(tokens_of(messages))
    if motion == "reduce":
        assert options(page).count() == count
    else:
        assert options(page).count() < count, "a story that is told grows"
    page.wait_for_function(f"document.querySelectorAll('[role=option]').length == {count}")
    assert text_of(page) == "".join(token["text"] for token in tokens_of(messages))
    assert page.text_content(".status").startswith("A recording.")
    options(page).nth(2).click()
    assert page.locator(".bars button").count() == len(messages[1]["bars"])
    loaded = [url for url in asked if "worker" in url or "safetensors" in url]
    assert loaded == []
