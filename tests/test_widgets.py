"""The widgets: what they compute, under Node; and how they behave on a page without a kernel,
under a path prefix, with no other server in reach."""

import json
import math
import os
import re
import shutil
import subprocess
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.bpe import learn_merges, pretokenize, replace_pair
from lm336.interop import to_web
from lm336.rope import RotaryEmbedding
from lm336.schedule import cosine_schedule
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig
from lm336.widgets import AttentionView, Sampler, one_module

from . import test_page, test_web
from .axe import serious
from .test_bpe import hostile
from .test_page import serve

chromium = test_page.chromium  # fixtures
page = test_page.page
newer = test_web.newer
node = test_web.node

ROOT = Path(__file__).parents[1]
ARTEFACTS = os.environ.get("LM336_ARTEFACTS")  # a folder for screenshots
WIDGETS = dict(
    sampler="model",
    bpe=None,
    painter="model/tokenizer.json",
    rope=None,
    attention="model",
    schedule=None,
    learn="model/learn.json",
    **{"train-here": None, "oracle-view": "model"},
)


# ---- what they compute


def latin(token):
    return token.encode("latin-1")


small_words = st.lists(st.sampled_from(b"aab\xc3"), min_size=1, max_size=12).map(bytes)


@given(st.dictionaries(small_words, st.integers(1, 4), max_size=10))
@settings(max_examples=300, deadline=None)
def test_the_stepper_counts_and_merges_as_python_does(node, words):
    given_words = [dict(tokens=[chr(b) for b in word], count=n) for word, n in words.items()]
    states, merges = (
        node("call", ["bpe.js", "train", given_words, 40]),
        learn_merges(words, 40),
    )
    assert len(states) == len(merges) + 1
    pieces = {word: [bytes([b]) for b in word] for word in words}
    for done, state in enumerate(states):
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(pieces[word], pieces[word][1:]):
                pairs[pair] += n
        shown = [
            (tuple(map(latin, found["pair"])), found["count"]) for found in state["pairs"]
        ]
        assert shown == sorted(
            pairs.items(), key=lambda item: (item[1], item[0]), reverse=True
        ), "ties are broken by the bytes of the pair"
        assert [list(map(latin, word["tokens"])) for word in state["words"]] == list(
            pieces.values()
        )
        if done < len(merges):
            assert shown[0][0] == merges[done]
            pieces = {
                word: replace_pair(tokens, merges[done], b"".join(merges[done]))
                for word, tokens in pieces.items()
            }


@given(hostile)
@settings(max_examples=500, deadline=None)
def test_the_stepper_finds_the_words_that_python_finds(node, newer, text):
    text = "".join(c for c in text if c not in newer)
    shown = {
        b"".join(map(latin, word["tokens"])): word["count"]
        for word in node("call", ["bpe.js", "countWords", text])
    }
    assert shown == Counter(piece.encode() for piece in pretokenize(text))


def pairs_of(*counts):
    return [dict(pair=list(pair), count=count) for pair, count in counts]


def test_the_stepper_names_the_tie(node):
    def reason(*counts):
        return node("call", ["bpe.js", "reason", pairs_of(*counts)])

    assert (
        reason(("st", 9), ("es", 3)) == "s + t occurs 9 times, more often than any other pair."
    )
    assert reason(("st", 9), ("es", 9)) == (
        "A tie: s + t occurs 9 times, and so does e + s. "
        "The lexicographically greater pair wins: s comes after e."
    )
    assert reason(("st", 1), ("se", 1), ("aa", 1)).endswith(
        "once, and so do 2 other pairs, such as s + e. "
        "The lexicographically greater pair wins: t comes after e."
    )


rates = st.floats(0, 1, allow_subnormal=False)


@given(rates, rates, st.integers(0, 50), st.integers(0, 50))
@settings(max_examples=300, deadline=None)
def test_the_schedule_is_pythons(node, high, share, warmup, more):
    schedule = high, high * share, warmup, warmup + more
    steps = [0, warmup, warmup + more // 2, warmup + more, warmup + more + 1, 1000]
    shown = [
        node("call", ["cosine.js", "cosineSchedule", step, *schedule]) for step in steps
    ]
    assert shown == pytest.approx(
        [cosine_schedule(step, *schedule) for step in steps], rel=0, abs=1e-15
    )


def test_how_far_a_schedule_goes(node):
    for schedule in (
        (5e-4, 1e-4, 500, 5000),
        (2.0, 2.0, 0, 30),
        (1.0, 0.0, 10, 10),
        (1.0, 0.5, 1, 7),
        (1.0, 0.25, 0, 1),
    ):
        expected = (
            sum(cosine_schedule(step, *schedule) for step in range(schedule[-1])) / schedule[0]
        )
        assert node("call", ["schedule.js", "travel", *schedule]) == pytest.approx(expected)


@given(
    st.lists(st.floats(-2, 2), min_size=8, max_size=8),
    st.integers(0, 200),
    st.sampled_from([500.0, 10_000.0]),
)
@settings(max_examples=200, deadline=None)
def test_rope_rotates_as_python_does(node, x, position, theta):
    rope = RotaryEmbedding(theta, 8, 201, dtype=torch.float64)
    expected = rope(torch.tensor(x, dtype=torch.float64)[None], torch.tensor([position]))[0]
    assert node("call", ["rope.js", "rotate", x, position, theta]) == pytest.approx(
        expected.tolist(), rel=0, abs=1e-9
    )


@pytest.mark.parametrize("name", WIDGETS)
def test_a_widget_is_one_module(tmp_path, name):
    "What JupyterLab gets: nothing imported, no name twice."
    if not shutil.which("node"):
        pytest.skip("Node is not installed")
    (tmp_path / "one.mjs").write_text(one_module(f"{name}.js"), encoding="utf-8")
    assert not re.search(
        r"^import\b", (tmp_path / "one.mjs").read_text(encoding="utf-8"), re.M
    )
    log = "module => console.log(typeof module.default.render)"
    ask = f"import('{(tmp_path / 'one.mjs').as_uri()}').then({log})"
    done = subprocess.run(["node", "-e", ask], capture_output=True, text=True)
    assert done.stdout == "function\n", done.stderr


# ---- what Python answers


def small_pair(num_rows=300):
    "A model, and a tokenizer of 257 tokens; rows beyond are the likeliest of all."
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(num_rows, 32, 32, 2, 2))
    model.lm_head.weight.data[257:] = 100 * model.lm_head.weight.data[: num_rows - 257]
    return model, Tokenizer(
        {**{i: bytes([i]) for i in range(256)}, 256: b"<|endoftext|>"}, [], ["<|endoftext|>"]
    )


def asked(panel, **message):
    "All that a panel hears after a message; its thread has ended."
    heard = []
    panel.send = heard.append
    thread = panel.answer(message)
    if thread is not None:
        thread.join(100)
        assert not thread.is_alive(), "it goes on without a word"
    return heard


HOW = [
    dict(temperature=0),
    dict(),
    dict(temperature=1.3, top_k=40),
    dict(top_p=0.9),
    dict(min_p=0.1, repetition_penalty=1.3),
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_the_panel_never_draws_ids_that_the_tokenizer_lacks(how):
    model, tokenizer = small_pair()
    *tokens, done = asked(
        Sampler(model, tokenizer),
        type="generate",
        prompt="Once",
        max_new_tokens=60,
        seed=0,
        **how,
    )
    prompt, stop = tokenizer.encode("Once"), tokenizer.end_of_text_id
    expected = [
        i
        for i in model.generate(prompt, 60, seed=0, stop_token=stop, vocab_size=257, **how)[4:]
        if i != stop
    ]
    assert [answer["id"] for answer in tokens] == expected and done["type"] == "done"
    for answer in tokens + asked(
        Sampler(model, tokenizer), type="distribution", prompt="Once", count=300, **how
    ):
        assert all(bar["id"] < 257 for bar in answer["bars"])
        assert (
            sum(bar["probability"] for bar in answer["bars"]) == pytest.approx(1, abs=1e-5)
            or len(answer["bars"]) == 10
        )
    assert asked(Sampler(model, tokenizer), type="load")[0]["vocabSize"] == 257


def nan_model():
    model, _ = small_pair()
    model.layers[1].attn.q_proj.weight.data[7] = math.nan
    return model


QUESTIONS = [
    *(
        dict(type=kind, prompt="Once", **how)
        for kind in ("generate", "distribution")
        for how in HOW
    ),
    dict(type="attention", prompt="Once"),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_whatever_goes_wrong_reaches_the_panel(question):
    "An error that was foreseen by its sentence, any other by its name. Mended, it answers."
    model, tokenizer = small_pair()
    panel = (
        AttentionView(model, tokenizer, "")
        if question["type"] == "attention"
        else Sampler(model, tokenizer)
    )
    whole = asked(panel, **question)[-1]
    assert whole["type"] != "error"

    class Forgetful:
        def __getattr__(self, name):
            raise KeyError("an id without a token")

    for broken, words in (
        (nan_model(), "NaN"),
        (None, "AttributeError"),
        (Forgetful(), "KeyError: 'an id without a token'"),
    ):
        setattr(panel, "model", broken)
        answers = asked(panel, **question)
        assert [answer["type"] for answer in answers] == ["error"] and words in answers[0][
            "message"
        ]
    panel.model = model
    assert asked(panel, **question)[-1]["type"] == whole["type"]
    for nonsense in (
        dict(prompt="no type"),
        dict(type=question["type"], prompt=7),
        dict(type=question["type"], prompt="x" * 40),
        dict(type=question["type"], prompt="\ud800"),
    ):
        assert asked(panel, **nonsense)[-1]["type"] == "error"


def test_a_story_that_is_cancelled_ends_with_done_also_where_it_meets_an_error():
    model, tokenizer = small_pair()
    panel, heard, cancels = Sampler(model, tokenizer), [], []

    def hear(answer):
        heard.append(answer)
        if answer["type"] == "token" and not cancels:
            cancels.append(panel.answer(dict(type="cancel")))
            panel.model.lm_head.weight.data.fill_(math.nan)

    setattr(panel, "send", hear)
    thread = panel.answer(dict(type="generate", prompt="Once", max_new_tokens=50))
    assert thread is not None
    thread.join(100)
    assert [answer["type"] for answer in heard] == ["token", "done"]
    assert heard[-1]["cancelled"] and heard[-1]["tokens"] == 1


def test_a_question_that_is_overtaken_has_no_answer():
    model, tokenizer = small_pair()
    panel, heard = Sampler(model, tokenizer), []
    setattr(panel, "send", heard.append)
    panel.request = 7  # a newer one than that of the question
    panel._send_answers(dict(type="distribution", prompt="Once"), 3)
    assert heard == [], "a `done` would end the story that the panel is being told"


def test_a_message_that_nobody_knows_is_refused():
    [answer] = asked(Sampler(*small_pair()), type="sing")
    assert answer == dict(type="error", message="There is no message of type sing.")


# ---- the mechanism


def write_page(folder, mounts):
    "A page with these widgets, in the markup that a chapter has; a picture stands in each."
    divs = "".join(
        f'<div class="lm336-widget" data-widget="{name}"'
        f"{f' data-src={src}' if src else ''}><p>a picture</p></div>"
        for name, src in mounts
    )
    html = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Panel</title>
        <link rel="icon" href="data:,">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <body class="quarto-light"><main><h1>Panel</h1>{divs}</main>
        <script type="module" src="web/embed.js"></script></body></html>"""
    (folder / "index.html").write_text(html)


@pytest.fixture
def site(tmp_path):
    "A page with the sampler; the model in the folder model/, the modules in web/."
    torch.manual_seed(0)
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])  # no token ends the text
    folder = tmp_path / "some/prefix"
    to_web(
        Transformer(TransformerConfig(256, 128, 32, 2, 2, tie_embeddings=True)),
        tokenizer,
        folder / "model",
    )
    shutil.copy(ROOT / "data/learn.json", folder / "model")
    shutil.copytree(Path(str(files("lm336"))) / "web", folder / "web")
    write_page(folder, [("sampler", "model")])
    with serve(tmp_path) as address:
        yield folder, address + "some/prefix/"


def show(page, site, *names):
    "Open a page with these widgets, and wait until they are there."
    folder, address = site
    write_page(folder, [(name, WIDGETS[name]) for name in names])
    page.goto(address)
    for name in names:
        page.locator(f"[data-widget={name}]").scroll_into_view_if_needed()
        page.wait_for_selector(f".lm336-{name}")


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


@pytest.mark.parametrize(
    "missing, words",
    [
        ("here.json", "here.json could not be downloaded: the server answered 404."),
        ("web/probe.js", "probe.js could not be loaded."),
    ],
)
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
    return [
        float(share)
        for share in page.eval_on_selector_all(
            ".bars i", "bars => bars.map(bar => bar.style.getPropertyValue('--share'))"
        )
    ]


def ready(page):
    page.wait_for_function(
        "document.querySelector('.status')?.textContent.includes('per second')"
    )


def test_the_panel_tells_and_its_bars_move(page, site):
    page.goto(site[1])
    page.wait_for_selector(".lm336-sampler button")
    assert "a picture" not in page.text_content("main"), (
        "the picture stands where the panel does not"
    )
    page.fill("[name=prompt]", "Once 中文 ")
    page.click("button")
    ready(page)
    assert (
        page.text_content(".text").startswith("Once 中文 ")
        and page.locator(".text span").count() == 412  # each byte of the prompt is a token
    )
    page.focus("[name=temperature]")
    page.keyboard.press("Home")  # by the keyboard: temperature 0
    page.wait_for_function("document.querySelectorAll('.bars i').length == 1")
    assert shares(page) == [1]
    page.keyboard.press("End")
    page.wait_for_function("document.querySelectorAll('.bars i').length == 10")
    hot = shares(page)
    page.evaluate(
        "t => { t.value = 0.5; t.dispatchEvent(new Event('input', {bubbles: true})) }",
        page.query_selector("[name=temperature]"),
    )
    page.wait_for_function(
        f"document.querySelector('.bars i').style.getPropertyValue('--share') != '{hot[0]}'"
    )
    assert shares(page)[0] > hot[0] and hot == sorted(hot, reverse=True)


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


@pytest.mark.parametrize(
    "name, missing, begin, there",
    [
        ("painter", "tokenizer.json", None, ".chips li"),
        ("learn", "learn.json", None, ".stop"),
        ("attention", "model.safetensors", "Show where it looks", ".tokens [role=option]"),
        ("sampler", "config.json", "Tell a story", ".text span"),
    ],
)
def test_each_panel_survives_a_failed_download(page, site, name, missing, begin, there):
    "One sentence that names the file, and a button that works when the file is there."
    page.expected_errors.append("404")
    folder, address = site
    (folder / "model" / missing).rename(folder / "elsewhere")
    write_page(folder, [(name, WIDGETS[name])])
    page.goto(address)
    if begin:
        page.click(f"text={begin}")
    page.wait_for_selector(f"text={missing} could not be downloaded: the server answered 404.")
    (folder / "elsewhere").rename(folder / "model" / missing)
    page.click("text=Try again")
    page.wait_for_selector(there)
    assert "could not be" not in page.text_content("main")


def test_a_sentence_goes_when_its_cause_is_mended(page, site):
    page.goto(site[1])
    page.click("text=Tell a story")
    ready(page)
    prompt, status = page.get_by_role("textbox"), page.get_by_role("status")
    prompt.fill("x" * 500)
    page.wait_for_function(
        "document.querySelector('.status').textContent.includes('reads at most 128')"
    )
    assert page.locator(".bars li").count() == 0, "the bars are of another text"
    prompt.fill("x" * 5)
    page.wait_for_selector(".bars li")
    assert status.text_content() == ""


@pytest.mark.parametrize(
    "name, file, content, words",
    [
        (
            "sampler",
            "config.json",
            lambda config: config | dict(context_length=10**12),
            "A page has no room for the 1000000000000 tokens",
        ),
        (
            "sampler",
            "tokenizer.json",
            lambda data: data | dict(added_tokens=[dict(id=10**8, content="x")]),
            "tokenizer.json is damaged: it has 257 tokens, and one has the id 100000000.",
        ),
        (
            "attention",
            "config.json",
            lambda config: config | dict(vocab_size=255),
            "model.safetensors does not fit config.json",
        ),
        (
            "painter",
            "tokenizer.json",
            lambda data: data | dict(model=dict(type="BPE")),
            "tokenizer.json is damaged",
        ),
        (
            "painter",
            "tokenizer.json",
            lambda data: None,
            "tokenizer.json is damaged: it holds no values for this panel.",
        ),
        (
            "learn",
            "learn.json",
            lambda data: dict(records=dict(prompt="x", stops=[], losses=[])),
            "There is no run to show",
        ),
        ("learn", "learn.json", lambda data: {}, "There is no run to show"),
    ],
)
def test_a_damaged_file_is_named_and_can_be_mended(page, site, name, file, content, words):
    path, begin = (
        site[0] / "model" / file,
        dict(sampler="Tell a story", attention="Show where it looks").get(name),
    )
    whole = path.read_text()
    path.write_text(json.dumps(content(json.loads(whole))))
    write_page(site[0], [(name, WIDGETS[name])])
    page.goto(site[1])
    if begin:
        page.click(f"text={begin}")
    page.wait_for_selector(f"text={words}")
    path.write_text(whole)
    page.click("text=Try again")
    page.wait_for_selector(
        dict(
            sampler=".text span",
            attention=".tokens [role=option]",
            painter=".chips li",
            learn=".stop",
        )[name]
    )
    assert words not in page.text_content("main")


def test_half_a_character_is_named_by_the_painter(page, site):
    show(page, site, "painter")
    text = page.get_by_role("textbox", name="Type something")
    text.evaluate("""el => {
        el.value = 'half \\ud800';
        el.dispatchEvent(new Event('input', { bubbles: true }));
    }""")
    page.wait_for_selector("text=The text has half a character in it")
    assert page.locator(".chips li").count() == 0
    text.fill("whole")
    assert (
        page.locator(".chips li").count() == 5
        and "half" not in page.get_by_role("status").text_content()
    )


# ---- each of the others


def slider(page, name):
    return page.get_by_role("slider", name=name)


def test_merges_step_forwards_and_back(page, site):
    show(page, site, "bpe")
    step, words, best = (
        slider(page, "Merges done"),
        page.locator(".words li"),
        page.locator(".bars .best"),
    )
    assert (
        page.get_by_role("status")
        .text_content()
        .startswith("A tie: s + t occurs 9 times, and so does e + s.")
    )
    assert (
        best.text_content() == "s + t9"
        and page.locator(".words .best").all_text_contents() == ["s", "t"] * 2
    )
    page.click("text=Merge s + t")
    assert (
        step.get_attribute("aria-valuetext") == "1 of 15" and "e + st" in best.text_content()
    )
    assert (
        words.first.text_content() == "␣newest× 6"
        and words.first.locator(".chip").count() == 6
    )
    assert page.locator(".chips .chip").all_text_contents() == ["st256"]
    step.press("ArrowRight")
    step.press("End")  # by the keyboard
    assert (
        page.get_by_role("status").text_content()
        == "No pair is left: every word is one token."
    )
    assert (
        words.locator(".chip").count() == 5
        and page.locator("button", has_text="Done").is_disabled()
    )
    page.click("text=Back")
    assert step.get_attribute("aria-valuetext") == "14 of 15"
    step.press("Home")
    assert (
        best.text_content() == "s + t9"
        and page.locator("button", has_text="Back").is_disabled()
    )


def test_merges_of_a_text_of_ones_own(page, site):
    show(page, site, "bpe")
    slider(page, "Merges done").press("End")
    text = page.get_by_role("textbox", name="Learn from this text")
    text.fill("")
    assert page.get_by_role("status").text_content() == "There is no text to learn from."
    text.fill("é é é zz " + " ".join(f"word{'x' * n}" for n in range(30)))
    assert slider(page, "Merges done").get_attribute("aria-valuetext") == "0 of 20"
    assert page.locator(".words .rest").text_content() == "and 23 more words", (
        "ten are shown, of 33"
    )
    assert page.locator(".words .chip", has_text="\\xc3").count() >= 1


def test_a_text_is_painted_in_its_tokens(page, site):
    merges = [(b" ", b"b"), (b"a", b"n"), (b"an", b"an")]
    tokenizer = Tokenizer(
        {i: bytes([i]) for i in range(256)}
        | {256 + i: a + b for i, (a, b) in enumerate(merges)},
        merges,
        ["<|endoftext|>"],
    )
    tokenizer.save_pretrained(site[0] / "model")
    show(page, site, "painter")
    for text in ("a banana", "ananas 🦔<|endoftext|>", "nana\n"):
        page.get_by_role("textbox", name="Type something").fill(text)
        ids, chips = tokenizer.encode(text), page.locator(".chips .chip")
        assert page.locator(".chips small").all_text_contents() == [str(i) for i in ids]
        size = len(text.encode())
        assert (
            page.get_by_role("status").text_content()
            == f"{size} bytes in {len(ids)} tokens: {size / len(ids):.2f} bytes per token."
        )
    assert chips.all_text_contents() == ["n110", "an257", "a97", "↵10"]
    page.get_by_role("textbox", name="Type something").fill("")
    assert page.get_by_role("status").text_content() == "Without a text there are no tokens."


def words_of(page, *names):
    "What these sliders are set to."
    return [slider(page, name).get_attribute("aria-valuetext") for name in names]


def drag(page, box, x, y=0):
    "Take hold of the middle of something, and move by so many pixels."
    at = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*at)
    page.mouse.down()
    page.mouse.move(at[0] + x, at[1] + y, steps=4)
    page.mouse.up()


def test_the_schedule_can_be_dragged(page, site):
    show(page, site, "schedule")

    def curve():
        return page.locator(".curve").get_attribute("points")

    before, handle = curve(), page.locator("[data-handle=peak]")
    drag(page, handle.bounding_box(), 40, 30)  # later, and lower
    warmup, peak = words_of(page, "Warm-up", "Peak")
    assert (
        curve() != before
        and int(warmup.replace(",", "")) > 1000
        and 3e-4 < float(peak) < 4.5e-4
    )
    drag(page, page.locator("[data-handle=end]").bounding_box(), -60, -20)
    total, floor = words_of(page, "All steps", "Floor")
    assert 2000 < int(total.replace(",", "")) < 4500 and 1.2e-4 < float(floor) < float(peak)
    drag(page, page.locator("[data-handle=end]").bounding_box(), -400)
    assert words_of(page, "All steps", "Warm-up") == ["1", "1"], (
        "the warm-up is no longer than the run"
    )
    place = handle.bounding_box()
    page.mouse.move(place["x"] + 100, place["y"] + 50)  # nothing is held any more
    assert words_of(page, "All steps") == ["1"]


def test_the_schedule_by_the_keyboard(page, site):
    show(page, site, "schedule")
    slider(page, "Peak").press("Home")
    peak, floor = map(float, words_of(page, "Peak", "Floor"))
    assert peak == 1e-5 and floor == pytest.approx(peak / 5), (
        "the floor keeps its share of the peak"
    )
    slider(page, "Peak").press("ArrowRight")
    assert float(words_of(page, "Peak")[0]) == pytest.approx(1e-5 + 7.4e-6, rel=0.01), (
        "an arrow is a hundredth of the way"
    )
    slider(page, "All steps").press("End")
    slider(page, "Warm-up").press("End")
    slider(page, "Floor").press("Home")
    slider(page, "Look at step").press("End")
    assert words_of(page, "All steps", "Warm-up", "Floor") == ["7,500", "7,500", "0"]
    status = page.get_by_role("status").text_content()
    assert status.startswith("At step 7,500 the learning rate is 1.74e-5, 100 % of the peak.")
    assert "go as far as 3,750 at the peak" in status, "a straight line goes half as far"
    picture = page.locator("svg").bounding_box()
    page.mouse.move(picture["x"] + 2, picture["y"] + 50)
    assert (
        page.get_by_role("status")
        .text_content()
        .startswith("At step 0 the learning rate is 0, 0 % of the peak.")
    )


def test_a_rotation_moves_the_score_only_if_the_distance_does(page, site):
    show(page, site, "rope")

    def scores():
        return page.locator(".sums b").all_text_contents()

    before = scores()
    slider(page, "Both moved on by").press("End")
    assert scores() == before and before[0] == before[1]
    slider(page, "Key at").press("ArrowRight")
    assert scores()[0] == scores()[1] != before[0]


def test_a_token_shows_where_it_looks(page, site):
    show(page, site, "attention")
    page.get_by_role("textbox", name="A text for the model to read").fill("she sells")
    page.click("text=Show where it looks")
    page.wait_for_selector(".tokens [role=option]")
    assert (
        page.locator(".tokens [role=option]").count() == 9
        and page.get_by_role("radio").count() == 4
    )
    labels = page.locator(".matrix text").all_text_contents()
    assert sorted(labels) == sorted(2 * "she␣sells"), "each row and each column has its token"
    looks = page.locator(".looks")
    page.locator(".tokens [role=option]").nth(2).hover()
    assert "layer 1, head 1, “e”" in looks.text_content()
    page.get_by_role("radio", name="layer 2, head 1").check()
    assert "layer 2, head 1, “e”" in looks.text_content()
    page.locator(".tokens [aria-selected=true]").press("Home")
    assert "“s” looks most at “s”: 100 %" in looks.text_content()
    assert page.locator(".matrix .best").all_text_contents() == ["s", "s"]
    page.get_by_role("textbox", name="A text for the model to read").fill("x" * 89 + " sells")
    page.click("text=Show where it looks")
    page.wait_for_function("document.querySelectorAll('.tokens [role=option]').length == 95")
    few = page.locator(".matrix text").count()
    assert 2 <= few <= 5, "where there is no room, the token that asks and what it looks at"


def test_a_run_can_be_scrubbed(page, site):
    show(page, site, "learn")
    told, stops = set(), slider(page, "Updates so far")
    stops.press("Home")
    for _ in range(10):
        told.add(page.locator(".text").text_content())
        stops.press("ArrowRight")
    stops.press("End")
    last = page.get_by_role("status").text_content()
    assert len(told) > 5 and last.startswith("After 2,200 updates")
    assert page.locator(".note").text_content().startswith("Another run than that of")
    ends = page.evaluate("""() => {
        const stops = [...document.querySelectorAll(".stop")];
        const curve = document.querySelector(".curve");
        const far = (at, { cy }) => Math.abs(curve.getPointAtLength(at).y - cy.baseVal.value);
        return [far(0, stops[0]), far(curve.getTotalLength(), stops.at(-1))];
    }""")
    assert max(ends) < 6, "the training loss begins and ends near the validation loss"


# ---- what holds for all


def open_all(page, site, scheme):
    "All panels on one page, each with something in it."
    show(page, site, *WIDGETS)
    colours = dict(light="background: #fdfcf9", dark="background: #1b1a18; color: #fff")
    page.evaluate(f"""document.body.className = 'quarto-{scheme}';
        document.body.style = '{colours[scheme]}'""")
    page.click(".lm336-sampler button")
    ready(page)
    page.click("text=Show where it looks")
    page.wait_for_selector(".lm336-attention [role=option]")
    page.click("text=Merge s + t")
    page.click("text=One step")
    page.wait_for_selector(".pairs li")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_panels_fit_and_can_be_read(page, site, scheme, width):
    "No wider than the screen, and nothing that axe-core calls serious, as a low contrast."
    page.set_viewport_size(dict(width=width, height=900))
    open_all(page, site, scheme)
    if ARTEFACTS:
        for name in WIDGETS:
            page.locator(f".lm336-{name}").screenshot(
                path=Path(ARTEFACTS) / f"{name}-{scheme}-{width}.png", animations="disabled"
            )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "wider than the screen"
    )
    assert serious(page) == []


def test_every_control_has_a_name(page, site):
    open_all(page, site, "light")
    nameless = page.evaluate("""() => {
        const controls = ".lm336 :is(input, textarea, select, button, [role=option])";
        const name = el =>
            el.labels?.[0]?.textContent || el.getAttribute("aria-label") || el.textContent;
        return [...document.querySelectorAll(controls)].filter(el => !name(el).trim())
            .map(el => el.outerHTML);
    }""")
    assert nameless == [] and page.get_by_role("slider").count() == 3 + 1 + 3 + 5 + 1 + 1
    pictures = "svg[role=img]:not([aria-label]), svg[role=img][aria-label='']"
    assert page.locator(".lm336").locator(pictures).count() == 0


def test_on_paper_the_controls_are_gone(page, site):
    show(page, site, "bpe")
    page.emulate_media(media="print")
    assert page.is_hidden("form") and page.is_visible(".bars")


def test_who_wants_no_motion_gets_none(page, site):
    show(page, site, "attention")
    page.click("text=Show where it looks")
    page.wait_for_selector(".tokens [role=option]")

    def seconds():
        return page.eval_on_selector(
            ".tokens [role=option]", "token => getComputedStyle(token).transitionDuration"
        )

    assert seconds() == "0.1s"
    page.emulate_media(reduced_motion="reduce")
    assert seconds() == "0s"


def test_a_picture_stands_where_scripts_do_not_run(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site[1])
    assert page.is_visible("text=a picture")
    context.close()


def contrast(a, b):
    "The contrast ratio of two sRGB colours (WCAG 2.1)."

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (x / 255 for x in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
