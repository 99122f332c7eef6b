"""The perfect reader beside the model: what a panel is told, by Python and by the page; and
the panels in a browser, on a small grammar."""

import json
import math
import runpy
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from lm336.bpe import build_vocab, count_pretokens, learn_merges
from lm336.errors import END_OF_TEXT
from lm336.grammar import StoryGrammar
from lm336.interop import to_web
from lm336.oracle import Oracle
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig
from lm336.widgets import OracleView, Sampler, truth_answer

from . import test_page, test_web
from .axe import serious
from .conftest import ROOT
from .test_page import serve
from .test_widgets import ARTEFACTS, asked, write_page

chromium = test_page.chromium  # fixtures
page = test_page.page
node = test_web.node

GRAMMAR = """
[name]
Anna, Tom, Eva

# p | hero name, friend name
{hero} met {friend} [at noon|in the rain]. "Good [day|evening]!" said {hero}.
"""
STORY = 'Tom met Eva at noon. "Good day!" said Tom.\n'
OPTIONS = "items => items.map(item => [item.textContent, item.getAttribute('aria-label')])"


@pytest.fixture(scope="module")
def tokenizer():
    merges = learn_merges(count_pretokens(STORY * 3), 20)
    return Tokenizer(build_vocab(merges, [END_OF_TEXT]), merges, [END_OF_TEXT])


@pytest.fixture(scope="module")
def oracle():
    return Oracle(StoryGrammar(GRAMMAR))


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    size = tokenizer.vocab_size
    return Transformer(TransformerConfig(size, 64, 32, 2, 2, tie_embeddings=True)).half()


# ---------------------------------------------------------------- what a panel is told


def check_answers(node, oracle, tokenizer, folder, texts):
    "Each of these texts in tokens: the page says what Python says."
    messages = [dict(type="truth", ids=ids, tag=f"truth {i}") for i, ids in enumerate(texts)]
    messages += [dict(type="expected", ids=ids[:3], count=7) for ids in texts if len(ids) > 3]
    there = node("oracle", [dict(message, url=f"{folder.as_uri()}/") for message in messages])
    for message, answer in zip(messages, there, strict=True):
        here = truth_answer(oracle, tokenizer, message)
        assert answer.pop("tag", None) == message.get("tag")
        if message["type"] == "truth":
            assert answer["causes"] == here["causes"]
            for one, other in zip(answer["bits"], here["bits"], strict=True):
                assert one == other or one == pytest.approx(other, rel=0, abs=1e-9)
        else:
            shares = [[bar["probability"] for bar in one["bars"]] for one in (answer, here)]
            assert shares[0] == pytest.approx(shares[1], rel=0, abs=1e-12)
            known = {bar["id"]: bar["text"] for bar in here["bars"]}
            assert all(known.get(b["id"], b["text"]) == b["text"] for b in answer["bars"])
    return there


def test_the_page_is_told_what_python_says(node, oracle, tokenizer, tmp_path):
    "Of whole stories, of beginnings, of the impossible, and after the end of another text."
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "stories.txt").write_text(GRAMMAR, encoding="utf-8")
    end = tokenizer.end_of_text_id
    story = tokenizer.encode(STORY)
    wrong = tokenizer.encode(STORY.replace("Eva", "Tom"))
    texts = [[*story, end], [end, *story], [end], [], story[:3], wrong, [*story, end] * 2]
    there = check_answers(node, oracle, tokenizer, tmp_path, texts)
    told = [len(answer["bits"]) for answer in there[: len(texts)]]
    assert [len(ids) for ids in texts[:5]] == told[:5] and told[6] == 2 * len(story) + 2
    assert tokenizer.decode(wrong[: told[5]]).strip() == "Tom met"
    assert there[1]["bits"][0] is there[1]["causes"][0] is None
    refused = dict(type="expected", ids=wrong, url=f"{tmp_path.as_uri()}/")
    [answer] = node("oracle", [refused])
    assert answer == dict(type="error", message=f"No story goes on with token {told[5]}.")


def test_what_is_missing_is_named_and_can_be_tried_again(tokenizer, tmp_path):
    node = test_web.Node()  # whose worker has loaded nothing yet
    tokenizer.save_pretrained(tmp_path)
    ask = dict(type="truth", ids=tokenizer.encode("Tom"), url=f"{tmp_path.as_uri()}/")
    [answer] = node("oracle", [ask])
    expected = "stories.txt could not be downloaded: the server answered 404."
    assert answer == dict(type="error", message=expected)
    (tmp_path / "stories.txt").write_text(GRAMMAR, encoding="utf-8")
    [answer] = node("oracle", [ask])
    assert answer["type"] == "truth" and sum(answer["bits"]) == pytest.approx(math.log2(3))
    node.asks.close()


def test_in_jupyterlab_python_answers(oracle, tokenizer, model):
    "Without ending a story that is being told."
    panel = OracleView(model.float(), tokenizer, STORY, oracle)
    ids = tokenizer.encode(STORY)
    request = panel.request
    [answer] = asked(panel, type="truth", ids=ids, tag="truth 3")
    assert panel.request == request and answer["tag"] == "truth 3"
    assert sum(answer["bits"]) == pytest.approx(-oracle.log2_prob(STORY))
    [answer] = asked(panel, type="expected", ids=ids[:1])
    assert answer["type"] == "expected" and answer["bars"]
    [answer] = asked(panel, type="expected", ids=ids[1:])
    assert answer["type"] == "error" and "no story goes on like this" in answer["message"]
    built_in = Sampler(model, tokenizer)
    [answer] = asked(built_in, type="truth", ids=tokenizer.encode("Once upon"))
    assert len(answer["bits"]) == len(tokenizer.encode("Once upon"))
    endless = Sampler(model, Tokenizer({i: bytes([i]) for i in range(256)}, []))
    [answer] = asked(endless, type="truth", ids=[79])
    assert "needs <|endoftext|>" in answer["message"]


def recorder():
    "The functions of .ci/recording.py."
    return runpy.run_path(str(ROOT / ".ci/recording.py"))


def test_the_recorded_reading_is_the_shipped_models_and_the_perfect_readers():
    kept = json.loads((ROOT / "data/reading.json").read_text(encoding="utf-8"))
    script = recorder()
    text = script["shown_text"]()
    made = script["record_reading"](*script["shipped"](), Oracle(), text)
    assert kept["text"] == text and kept["chosen"] == made["chosen"]
    assert kept["truth"]["causes"] == made["truth"]["causes"]
    assert kept["truth"]["bits"] == pytest.approx(made["truth"]["bits"], abs=1e-3)
    for one, other in zip(kept["tokens"], made["tokens"], strict=True):
        assert (one["id"], one["text"]) == (other["id"], other["text"])
    for one, other in zip(kept["tokens"][1:], made["tokens"][1:], strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=0.02)
    likely, there = (
        {bar["id"]: bar["probability"] for bar in each["expected"]} for each in (kept, made)
    )
    assert likely == pytest.approx(there, abs=1e-3)


# ---------------------------------------------------------------- the panels


@pytest.fixture
def site(tmp_path, tokenizer, model):
    "A page with a panel, and beside it the model, the grammar and the modules."
    folder = tmp_path / "some/prefix"
    to_web(model, tokenizer, folder / "model")
    (folder / "model/stories.txt").write_text(GRAMMAR, encoding="utf-8")
    shutil.copytree(Path(str(files("lm336"))) / "web", folder / "web")
    with serve(tmp_path) as address:
        yield folder, address + "some/prefix/"


def show(page, site, name):
    write_page(site[0], [(name, "model")])
    page.goto(site[1])
    page.wait_for_selector(f".lm336-{name}")


def read(page, text):
    page.get_by_role("textbox").fill(text)
    page.click("text=Read it")
    page.wait_for_selector(".status:text-matches('bits|Impossible')")
    return page.eval_on_selector_all("[role=option]", OPTIONS)


def bits_of(model, tokenizer, text):
    "What each token of a story costs the model."
    ids = tokenizer.encode(text)
    with torch.no_grad():
        start = torch.tensor([[tokenizer.end_of_text_id, *ids]])
        nats = -model.float()(start)[0].log_softmax(-1)
    return np.array([nats[at, token].item() for at, token in enumerate(ids)]) / math.log(2)


def test_each_token_is_shaded_by_its_excess(page, site, model, tokenizer, oracle):
    show(page, site, "oracle-view")
    shown = read(page, STORY)
    of_model = bits_of(model, tokenizer, STORY)
    excess = of_model - oracle.token_bits(tokenizer, tokenizer.encode(STORY))
    assert "".join(text for text, _ in shown) == STORY
    for (_, label), bits in zip(shown, excess, strict=True):
        number = label.removesuffix(" bits of excess").split()[-1]
        assert float(number) == pytest.approx(bits, abs=0.06)
    needed = f"The model needed {of_model.sum():.1f} bits, the perfect reader"
    assert page.text_content(".status").startswith(needed)
    page.select_option("[name=shade]", "surprise")
    [_, (_, label), *_] = page.eval_on_selector_all("[role=option]", OPTIONS)
    assert label.endswith(f"{of_model[1]:.1f} bits of surprise")


def test_a_recording_is_there_at_once_and_another_word_brings_the_readers(
    page, site, model, tokenizer, oracle
):
    folder, address = site
    third = tokenizer.decode(tokenizer.encode(STORY)[2:3])
    made = recorder()["record_reading"](model.float(), tokenizer, oracle, STORY, third)
    (folder / "model/reading.json").write_text(json.dumps(made), encoding="utf-8")
    write_page(folder, [("oracle-view", "model")])
    html = (folder / "index.html").read_text(encoding="utf-8")
    recorded = "data-src=model data-recording=model/reading.json"
    (folder / "index.html").write_text(html.replace("data-src=model", recorded))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(".pairs .truth")
    assert page.text_content(".text") == STORY == page.input_value("textarea")
    assert "A recording" in page.text_content(".status")
    shown = page.eval_on_selector_all("[role=option]", OPTIONS)
    assert all(label.endswith("bits of excess") for _, label in shown)
    assert not [url for url in asked if "worker" in url or "safetensors" in url]
    at = made["chosen"]
    assert page.locator("[role=option]").nth(at).get_attribute("aria-selected") == "true"
    page.locator("[role=option]").nth(at + 2).click()
    page.wait_for_selector(".status:text-matches('most of it in [a-z ]+[.]$')")
    page.wait_for_selector(".pairs .truth")
    truth = oracle.next_tokens(tokenizer, tokenizer.encode(STORY)[: at + 2])
    share = "bar => +bar.style.getPropertyValue('--share')"
    shares = page.eval_on_selector_all(".pairs .truth", f"bars => bars.map({share})")
    assert max(shares) == pytest.approx(max(truth))
    assert page.text_content(".text") == STORY


def test_a_place_shows_both_readers(page, site, model, tokenizer, oracle):
    "By click and by arrows: the cause, the numbers, and every bar that is long."
    show(page, site, "oracle-view")
    read(page, STORY)
    options, ids = page.locator("[role=option]"), tokenizer.encode(STORY)
    ends = np.cumsum([len(tokenizer.vocab[token]) for token in ids])
    last = int(np.searchsorted(ends, STORY.rindex("Tom"), side="right"))
    options.nth(last).click()
    page.wait_for_selector(".pairs .truth")
    said = page.text_content(".place")
    assert "hangs on agreement: what came before leaves only one word (name, named" in said
    truth = oracle.next_tokens(tokenizer, ids[:last])
    expected = max(truth)
    share = "bar => +bar.style.getPropertyValue('--share')"
    assert page.eval_on_selector(".pairs .best .truth", share) == expected == 1
    assert "the perfect reader0.00 bits" in page.text_content(".numbers")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelectorAll('.pairs .truth').length >= 3")
    assert "hangs on cast" in page.text_content(".place")
    page.keyboard.press("Escape")
    assert page.text_content(".place").startswith("What may come next")


def test_the_impossible_is_named_and_the_model_is_alone(page, site):
    show(page, site, "oracle-view")
    wrong = STORY.replace("Eva", "Tom")
    shown = read(page, wrong)
    status = page.text_content(".status")
    ends = np.cumsum([len(text) for text, _ in shown])
    at = int(np.searchsorted(ends, wrong.index("Tom met ") + 8, side="right"))
    assert status.startswith("Impossible: after “…Tom met")
    assert f" no story goes on with “{shown[at][0].replace(' ', '␣')}”." in status
    assert all("excess" in label for _, label in shown[:at])
    assert not any("excess" in label for _, label in shown[at:])
    page.locator("[role=option]").nth(at).click()
    page.wait_for_selector(".pairs .truth")
    assert "is impossible" in page.text_content(".place")
    page.locator("[role=option]").nth(at + 1).click()
    page.wait_for_function("document.querySelectorAll('.pairs .truth').length == 0")
    assert "the model is alone" in page.text_content(".place")
    assert page.locator(".pairs i").count() > 3


def test_a_text_is_continued_and_judged(page, site):
    path = site[0] / "web/oracle-view.js"
    text = path.read_text(encoding="utf-8")
    assert text.count("max_new_tokens: 400") == 1
    endless = "max_new_tokens: 5000, stop_token: 99999"
    path.write_text(text.replace("max_new_tokens: 400", endless), encoding="utf-8")
    show(page, site, "oracle-view")
    page.get_by_role("textbox").fill("Tom met")
    page.evaluate("""() => {
        const text = document.querySelector(".text"), stop = new MutationObserver(() => {
            if (text.children.length < 20) return;
            stop.disconnect();
            document.querySelector("[name=tell]").click();
        });
        stop.observe(text, { childList: true });
    }""")
    page.click("text=Continue it")
    page.wait_for_selector(".status:text-matches('Impossible')")
    assert page.text_content(".text").startswith("Tom met")
    assert 20 <= page.locator("[role=option]").count() < 5000
    page.get_by_role("textbox").fill("Tom met E")  # once the readers are there they read along
    page.wait_for_function("document.querySelector('.text').textContent == 'Tom met E'")


def test_the_sampler_shades_by_excess(page, site, tokenizer):
    "Only then the perfect reader is downloaded."
    texts = []
    page.on("request", lambda request: texts.append(request.url))
    show(page, site, "sampler")
    page.get_by_role("textbox").fill(STORY)
    page.click("text=Tell a story")
    page.wait_for_selector(".status:text-matches('per second')")
    assert not any("oracle" in url or "stories.txt" in url for url in texts)
    page.select_option("[name=shade]", "excess")
    page.wait_for_selector(".status:text-matches('Impossible')")  # an untrained model
    assert sum("oracle-worker.js" in url or "stories.txt" in url for url in texts) == 2
    shown = page.eval_on_selector_all("[role=option]", OPTIONS)
    given = len(tokenizer.encode(STORY))
    assert shown[0][1] == shown[0][0]  # nothing led the model to expect it
    assert all(label.endswith("bits of excess") for _, label in shown[1:given])
    assert not shown[-1][1].endswith("excess")
    page.locator("[role=option]").nth(2).click()
    assert "of them excess" in page.text_content("figcaption")
    page.select_option("[name=shade]", "surprise")
    assert page.locator("[role=option]").nth(1).get_attribute("title").endswith(" bits")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_panel_fits_and_can_be_read(page, site, scheme):
    "On a phone no wider than the screen, and nothing that axe-core calls serious."
    page.set_viewport_size(dict(width=390, height=844))
    show(page, site, "oracle-view")
    colours = dict(light="background: #fdfcf9", dark="background: #1b1a18; color: #fff")
    page.evaluate(f"""document.body.className = 'quarto-{scheme}';
        document.body.style = '{colours[scheme]}'""")
    read(page, STORY)
    page.locator("[role=option]").nth(3).click()
    page.wait_for_selector(".pairs .truth")
    if ARTEFACTS:
        name = f"oracle-view-{scheme}.png"
        page.locator(".lm336").screenshot(path=Path(ARTEFACTS) / name)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert serious(page) == []
