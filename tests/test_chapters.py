"What the chapters, the sidebar and the first page say of each other; how long a chapter is."
import importlib.util
from pathlib import Path

import pytest
from matplotlib.text import Text

PATH = Path(__file__).parents[1] / ".ci/chapters.py"
spec = importlib.util.spec_from_file_location("chapters", PATH)
assert spec and spec.loader
chapters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chapters)

FOUND = chapters.chapters()


def say(faults):
    "Fail with what is wrong, a sentence a line."
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("at", range(len(FOUND)), ids=[one.name for one in FOUND])
def test_a_chapter_says_what_is_counted(at):
    one = FOUND[at]
    say(chapters.wrong_with(one, chapters.foot(at, FOUND)))


@pytest.mark.parametrize("one", FOUND, ids=[one.name for one in FOUND])
def test_a_chapter_of_the_main_line_is_short_and_begins_with_a_picture(one):
    say(one.excesses())


def test_sidebar_links_and_notebooks_agree():
    say(chapters.check_sidebar(FOUND) + chapters.check_links(FOUND))


def test_the_map_gives_titles_and_minutes():
    say(chapters.check_map(FOUND))


def test_words_are_those_of_a_reader():
    text = "# A title\n\nTwo [linked words](page.ipynb#here), $x = 1$.\n\n"
    text += '```python\nfive\n```\n<img alt="none of these">\n[← 01 A](a) · [03 B →](b)'
    assert chapters.words(text) == 7


@pytest.mark.parametrize(
    ("source", "folded"),
    [
        ("#| export\nimport a\nfrom b import c", True),
        ("import a\nif TYPE_CHECKING:\n    import b\n    C = b.C | None", True),
        ("import a\nif a:\n    import b", False),
        ("import a\na.b = 1", False),
        ("#| code-fold: true\na = 1", True),
        ("#| export\ndef f(): ...", False),
        ("%load_ext a", False),
    ],
)
def test_what_is_folded(source, folded):
    assert chapters.is_folded(source) is folded


@pytest.mark.parametrize("path", sorted(chapters.NBS.glob("*.ipynb")), ids=lambda at: at.name)
def test_a_notebook_begins_with_what_lets_it_run_alone(path):
    say(chapters.check_setup(path))


@pytest.mark.parametrize("one", FOUND, ids=[one.name for one in FOUND])
def test_no_picture_of_a_panel_claims_to_be_alive(one):
    "Before its first panel a chapter says what stands there in JupyterLab: a picture."
    panels = [text for kind, text in one.cells if "lm336-widget" in text]
    before = panels[0].partition("<div")[0] if panels else "in JupyterLab a picture"
    assert "JupyterLab" in before and "picture" in before


def test_what_a_notebook_lacks_beside_lm336():
    code = ["import tiktoken.load, os, numpy as np"]
    code += ["if a:\n    %pip install b\n    import c.d"]
    code += ["from lm336.bpe import train_bpe\nfrom transformers.models import llama"]
    assert chapters.lacking(code) == ["c", "tiktoken", "transformers"]


def test_plots_are_in_the_books_style_and_no_letter_is_smaller_than_9_points():
    import matplotlib.pyplot as plt

    drawing = [one for one in FOUND if "import matplotlib" in "".join(t for _, t in one.cells)]
    for one in drawing:
        (first,) = [text for kind, text in one.cells if kind == "code" and "find_spec" in text]
        assert 'plt.style.use("lm336.plots")' in first and '"retina"' in first
    with plt.style.context("lm336.plots"):
        assert min(float(plt.rcParams[key]) for key in ("font.size", "legend.fontsize")) >= 9
        figure, axes = plt.subplots()
        axes.plot([1, 2], label="a")
        axes.legend(title="b")
        assert min(float(text.get_fontsize()) for text in figure.findobj(Text)) >= 9
        plt.close(figure)


def test_the_first_cell_is_written_where_it_is_missing(tmp_path):
    path = tmp_path / "page.ipynb"
    colab = f"[Open in Colab]({chapters.COLAB}page.ipynb)"
    cells = [cell("markdown", f"# A\n\n{colab}"), cell("code", "import tokenizers")]
    path.write_text(chapters.json.dumps({"cells": cells}))
    assert len(chapters.check_setup(path)) == 1
    first = []
    for _ in range(2):  # the second time changes nothing
        chapters.write_setup(path)
        first = chapters.json.loads(path.read_text())["cells"][1:]
        assert chapters.check_setup(path) == [] and len(first) == 2
    assert "".join(first[0]["source"]).endswith("\n    %pip install -q tokenizers")
    assert chapters.is_hidden("".join(first[0]["source"]))


def cell(kind, text):
    return {"cell_type": kind, "source": text, "metadata": {}, "outputs": []}


def test_an_exercise_is_not_counted_and_what_follows_it_is(tmp_path):
    cells = [
        cell("markdown", "# 06 A\n\n> b"),
        cell("code", "#| default_exp a"),
        cell("markdown", "**You need** a · **You build** b · 1 minute"),
        cell("code", "a = 1\n\nb = 2"),
        cell("markdown", "### Exercise 06.1: One\n\nmany many words"),
        cell("code", "def stub(): ..."),
        cell("markdown", "<details><summary>Solution</summary>"),
        cell("markdown", "## Two words"),
        cell("code", "c = 3"),
        cell("markdown", "## Exercises\n\nmore words"),
        cell("markdown", "### Exercise 06.2: Two"),
        cell("code", "def stub(): ..."),
        cell("markdown", "## End"),
        cell("code", "#| export\nd = 4"),
    ]
    path = tmp_path / "06_a.ipynb"
    path.write_text(chapters.json.dumps({"cells": cells}))
    one = chapters.Chapter(path)
    assert (one.words, one.code, one.exercises) == (6, 4, 2)
    assert one.first_exported == 5
    assert one.excesses() == ["no picture before the third section"]


def test_a_link_that_begins_with_a_number_has_the_title():
    titles = {"01_a.ipynb": "01 Apple"}
    assert chapters.misnamed("[← 01 Apple](01_a.ipynb) [01 Apple →](01_a.ipynb)", titles) == []
    wrong = "[01 Pear](01_a.ipynb)"
    assert chapters.misnamed(wrong + " [a pear](01_a.ipynb)", titles) == [wrong]
