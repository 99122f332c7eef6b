"""The panel that trains, in Chromium: the grammar that is edited, the run, the alarm, the
download. Its worker is the real one, or a stand-in that says what a test wants."""

import json
import shutil
import time
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from lm336.errors import END_OF_TEXT, InputError
from lm336.grammar import StoryGrammar
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig
from lm336.widgets import TrainHere

from . import test_page
from .test_widgets import write_page

chromium = test_page.chromium  # fixtures
page = test_page.page

MODEL_FILES = "config.json", "tokenizer.json", "model.safetensors"
SMALL = "# One day\n[Tom|Eva|Zoe] had a [dog|cat].\n[He|She] slept [well|badly]."

# Answers as train-worker.js does, without a model: each `step` is the next entry of `script`.
STAND_IN = """
import { describe } from "./grammar.js";
const script = SCRIPT;
let step = 0;
self.onmessage = ({ data }) => {
  const say = message => self.postMessage({ ...message, tag: data.tag });
  if (data.type === "grammar") say({ type: "grammar", ...describe(data.text), speed: 1e10 });
  if (data.type === "sample") say({ type: "sample", text: `story ${step}`, step });
  if (data.type === "download") say({ type: "error", message: "It is too heavy." });
  if (data.type !== "step") return;
  const { above, error, at = step, running = false, finished = false } = script[step++];
  if (error) return say({ type: "error", message: error });
  say({ type: "progress", step: at, max_steps: script.length, losses: [[at, 4 + 4 * above, 4]],
    above, tokens: 10 * step, tokensPerSecond: 9, secondsLeft: 9, running, finished });
};
"""


@pytest.fixture
def site(tmp_path):
    "A page with the panel, under a prefix."
    folder = tmp_path / "some/prefix"
    shutil.copytree(Path(str(files("lm336"))) / "web", folder / "web")
    write_page(folder, [("train-here", None)])
    with test_page.serve(tmp_path) as address:
        yield folder, address + "some/prefix/"


@pytest.fixture
def panel(page, site):
    "Opens the page with a grammar; the words of a story show that its worker has answered."

    def open_with(text=SMALL, script=None):
        if script is not None:
            stand_in = STAND_IN.replace("SCRIPT", json.dumps(script))
            (site[0] / "web/train-worker.js").write_text(stand_in)
        (site[0] / "here.json").write_text(json.dumps(dict(grammar=text)))
        write_page(site[0], [("train-here", "here.json")])
        page.goto(site[1])
        page.wait_for_selector(".lm336-train-here [role=option]")
        return page

    return open_with


def says(page, part, words):
    "Waits until a part of the panel says this."
    page.locator(part, has_text=words).wait_for()


def numbers(page):
    "What stands below the curve, by its name."
    return dict(
        zip(page.locator("dt").all_text_contents(), page.locator("dd").all_text_contents())
    )


def test_the_entropy_is_exact_while_the_grammar_is_edited(panel):
    page = panel()
    for text in (SMALL, SMALL.replace("cat", "cat|hen"), SMALL.replace("Tom|", "")):
        page.fill("[name=grammar]", text)
        says(page, ".about", f"{StoryGrammar(text).entropy_bits:.3f} bits per story")
        assert page.is_enabled("text=Train")
    assert page.input_value("[name=example]") == "Your own"
    page.select_option("[name=example]", index=2)
    says(page, ".about", "15.000 bits per story")
    page.select_option("[name=example]", label="Your own")
    assert page.input_value("[name=grammar]") == text, "what was written is not lost"
    says(page, ".about", f"{StoryGrammar(text).entropy_bits:.3f} bits per story")


def test_the_chosen_place_stays_while_the_grammar_is_edited(panel):
    page = panel()
    words = page.locator(".tokens [role=option]")
    for place, text in ((2, SMALL.replace("cat", "cat|hen")), (0, SMALL)):
        words.nth(place).click()
        page.fill("[name=grammar]", text)
        says(page, ".about", f"{StoryGrammar(text).entropy_bits:.3f} bits per story")
        assert words.nth(place).get_attribute("aria-selected") == "true"


def test_a_mistake_has_one_sentence_with_its_line(panel):
    page = panel()
    page.fill("[name=grammar]", SMALL + "\n{hero} left.")
    says(page, ".about", "grammar, line 4: 'hero': nobody called 'hero' in the cast")
    assert page.is_disabled("text=Train") and page.is_disabled("text=One step")
    page.fill("[name=grammar]", SMALL.replace("cat", "dog"))
    says(page, ".about", "can be told in two ways")
    assert page.is_disabled("text=Train")
    page.fill("[name=grammar]", SMALL)
    says(page, ".about", "4.585 bits per story")
    assert page.is_enabled("text=Train")


def test_whatever_is_typed_the_sentence_fits_and_the_panel_goes_on(panel):
    "Nine thousand letters where a name is expected; brackets without end; too many ways."
    page = panel()
    for text, sentence in [
        (f"# p\n{{a {9000 * 'x'}}}", "line 2: 'a xxx"),
        (f"# p\n{{{9000 * 'x'}.}}", "x…"),
        ("# p\n" + 2000 * "[", "line 2: more than 100 choices within each other"),
        ("# p\n" + 1400 * "[|a][|b]", "more ways than a page can follow"),
        (f"# p\n[a|b] {9000 * 'x'}", "more than 8,000 bytes together"),
        ("<script>alert(1)</script>", "line 1: expected a [list]"),
    ]:
        page.fill("[name=grammar]", text)
        says(page, ".about", sentence)
        assert page.is_disabled("text=Train")
        assert len(page.text_content(".about")) < 400
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.fill("[name=grammar]", SMALL)
    says(page, ".about", "4.585 bits per story")
    assert page.is_enabled("text=Train")


def test_what_is_too_rich_is_said_before(panel):
    page = panel()
    says(page, ".about", "It takes about")
    page.select_option("[name=width]", "128")
    page.select_option("[name=layers]", "4")
    names = ", ".join(f"{chr(97 + i // 20)}{'x' * (i % 20)}" for i in range(120))
    page.fill("[name=grammar]", f"[n]\n{names}\n# p\nThe" + 60 * " <n> and" + " all.")
    says(page, ".about", "too rich for half a minute: it takes about 2")


def test_too_few_steps_are_said_before(panel):
    page, few = panel(), "The 100 steps chosen are too few for that."
    says(page, ".about", "to come within 5 % of the entropy.")
    page.select_option("[name=steps]", "100")
    assert few not in page.text_content(".about")
    page.select_option("[name=example]", label="Lost and found: two plots")
    says(page, ".about", few)
    page.select_option("[name=steps]", "3200")
    assert "too few" not in page.text_content(".about")


# How often each of two parts of the panel changes from now on.
COUNT_CHANGES = """() => {
    window.changes = {};
    for (const part of [".chart", ".text"]) {
        const watch = new MutationObserver(() => changes[part] = (changes[part] ?? 0) + 1);
        watch.observe(document.querySelector(part), { childList: true });
    }
}"""


@pytest.mark.parametrize("motion, drawn", [("no-preference", 10), ("reduce", 4)])
def test_who_wants_no_motion_sees_the_run_only_now_and_then(panel, page, motion, drawn):
    "Empty, at its start, after five seconds, at its end; others see every answer."
    page.clock.install()
    page.clock.pause_at(time.time() + 60)
    page.emulate_media(reduced_motion=motion)
    panel(script=[*(dict(above=9 / n, running=True) for n in range(1, 9)), dict(above=1)])
    page.evaluate(COUNT_CHANGES)
    for step in range(9):
        if step == 5:
            page.clock.run_for(5500)
        page.click("text=One step")
    says(page, ".numbers", "9 of 9")
    page.wait_for_function("document.querySelector('.text').textContent == 'story 9'")
    assert page.evaluate("changes") == {".chart": drawn, ".text": 3}


def test_steps_are_taken_and_taken_back(panel):
    page = panel()
    page.select_option("[name=width]", "32")
    page.select_option("[name=layers]", "1")
    page.select_option("[name=steps]", "3200")
    for step in (1, 2):
        page.click("text=One step")
        says(page, ".numbers", f"{step} of 3,200")
    assert numbers(page)["from the line"].endswith("% above")
    assert page.locator(".curve").get_attribute("d").count("L") == 1
    page.wait_for_selector(".pairs li")
    assert page.text_content(".text"), "it tells a story, if a bad one"
    page.focus("text=Reset")
    page.keyboard.press("Enter")
    assert numbers(page)["steps"] == "0" and page.text_content(".text") == ""
    page.keyboard.press("Enter")  # where the focus is now
    says(page, ".now", "Training:")
    page.click("text=Pause")
    says(page, ".now", "Paused:")
    reached = numbers(page)["steps"]
    page.wait_for_timeout(300)
    assert numbers(page)["steps"] == reached, "it goes on while it is paused"
    page.select_option("[name=heads]", "2")
    assert numbers(page)["steps"] == "0", "another model begins anew"


def test_what_is_said_of_a_run_is_true_when_it_is_said(panel):
    "One step is one; before it there is none; a run that goes on says how far it will."
    script = [dict(above=None, at=0), dict(above=2, at=1), dict(above=1, running=True)]
    page = panel(script=script)
    page.click("text=One step")
    says(page, ".now", "Paused: before the first step.")
    page.click("text=One step")
    says(page, ".now", "Paused: after 1 step 200 % above the line.")
    page.click("text=One step")
    says(page, ".now", "Training: on to step 800.")


def test_two_tabs_learn_side_by_side(panel, page):
    "What one is told does not reach the other, and both go the way of the seed."
    other = page.context.new_page()
    panel()
    other.goto(page.url)
    page.select_option("[name=steps]", "3200")
    page.click("text=Train")
    says(page, ".now", "Training:")
    for step in (1, 2):
        other.click("text=One step")
        says(other, ".numbers", f"{step} of 800")
    assert page.is_visible("text=Pause"), "it goes on beside the other"
    page.click("text=Pause")
    says(page, ".now", "Paused:")
    page.select_option("[name=steps]", "800")
    for step in (1, 2):
        page.click("text=One step")
        says(page, ".numbers", f"{step} of 800")
    assert page.text_content(".now") == other.text_content(".now")


def test_the_truth_stands_beside_the_belief(panel):
    page = panel()
    page.click("text=One step")
    words = page.locator(".tokens [role=option]")
    words.nth(0).click()
    says(page, ".looks", "at the beginning")
    page.locator(".pairs li").nth(2).wait_for()
    words.nth(0).press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    says(page, ".looks", "“a”")
    page.locator(".pairs code", has_text="dog").wait_for()
    shares = page.eval_on_selector_all(
        ".pairs .truth", "bars => bars.map(bar => +bar.style.getPropertyValue('--share'))"
    )
    assert shares[:2] == [0.5, 0.5] and sum(shares) == 1


def test_below_the_line_there_is_an_alarm(panel):
    above = [9.0, 0.02, -0.02, -0.4, 0.1]
    page = panel(script=[dict(above=one) for one in above])
    alarm = page.locator(".alarm[role=alert]")
    for step, share in enumerate(above, 1):
        page.click("text=One step")
        says(page, ".numbers", f"{step} of 5")
        assert (alarm.text_content() != "") == (share < -0.03)
        if share < 0:
            assert numbers(page)["from the line"].endswith("% below")
    page.uncheck("[name=mask]")
    page.click("text=Reset")
    assert alarm.text_content() == ""


def test_the_alarm_names_the_mask(panel):
    page = panel(script=[dict(above=-0.5)])
    page.uncheck("[name=mask]")
    page.click("text=One step")
    says(page, ".alarm", "Without the mask every word sees the one that it is to predict")


def test_an_error_in_the_run_is_a_sentence_and_the_end_is_told(panel):
    script = [dict(error="Step 1: the loss is NaN."), dict(above=0.1, finished=True)]
    page = panel(script=script)
    page.click("text=One step")
    says(page, ".now", "Step 1: the loss is NaN.")
    assert page.is_visible("text=Train") and page.is_disabled("text=Reset")
    page.click("text=One step")
    says(page, ".now", "Done: after 2 steps 10 % above the line.")
    assert page.is_visible("text=Train again")


def test_what_cannot_be_taken_along_does_not_disturb_the_run(panel):
    page = panel(script=[dict(above=2, running=True)])
    page.click("text=One step")
    says(page, ".now", "Training:")
    page.click("text=Download the model")
    says(page, ".now", "It is too heavy.")
    assert page.is_visible("text=Pause")


def test_without_its_program_the_panel_says_so_and_tries_again(page, site):
    page.expected_errors.append("404")
    (site[0] / "web/train-worker.js").rename(site[0] / "elsewhere")
    page.goto(site[1])
    says(page, ".now", "The program that trains could not be loaded.")
    assert page.is_disabled("text=Train")
    (site[0] / "elsewhere").rename(site[0] / "web/train-worker.js")
    page.fill("[name=grammar]", SMALL)
    says(page, ".about", "4.585 bits per story")
    assert page.is_enabled("text=Train")


def downloaded(page, folder):
    "The model's folder, as a visitor takes it along."
    with page.expect_download() as download:
        page.click("text=Download the model")
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(folder)
    [inner] = folder.iterdir()
    return inner


def test_a_model_of_python_goes_on(panel, tmp_path):
    "It tells a story before its first step; what is no folder of a model is a sentence."
    page = panel()
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [], [END_OF_TEXT])
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(257, 64, 32, 1, 2))
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "mine")
    names = [tmp_path / "mine" / name for name in MODEL_FILES]
    page.set_input_files("[name=files]", names[:2])
    says(page, ".now", "The folder has no model.safetensors")
    assert page.is_visible("text=Train") and page.is_disabled("text=Reset")
    page.set_input_files("[name=files]", names)
    page.wait_for_function("document.querySelector('.text').textContent")
    page.click("text=One step")
    says(page, ".numbers", "1 of 800")
    after = Transformer.from_pretrained(downloaded(page, tmp_path / "taken"))
    assert after.config == model.config
    moved = [(x - y).abs().max() for x, y in zip(after.parameters(), model.parameters())]
    assert 0 < max(moved) < 0.02, "one step from where Python ended"


def test_the_model_can_be_taken_along(panel, tmp_path):
    page = panel()
    page.click("text=One step")
    says(page, ".numbers", "1 of 800")
    folder = downloaded(page, tmp_path / "taken")
    tokenizer, model = Tokenizer.from_pretrained(folder), Transformer.from_pretrained(folder)
    story = StoryGrammar(SMALL).tell(iter([0, 1, 1, 0, 1]))
    ids = tokenizer.encode(story)
    assert len(ids) == len(story.split()) + 3, "a word is a token, a full stop, a new line too"
    assert model.config.vocab_size == tokenizer.vocab_size
    assert torch.isfinite(model(torch.tensor([ids]))).all()


def test_python_hands_over_a_grammar():
    assert TrainHere(SMALL).grammar == SMALL and TrainHere().grammar is None
    with pytest.raises(InputError, match="line 2: a \\[ is never closed"):
        TrainHere("# p\n[a")
