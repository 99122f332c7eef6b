"The story grammar: notation, arithmetic against brute force, the stories of this book."

import hashlib
import math
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm336.corpus import iter_documents
from lm336.errors import InputError
from lm336.grammar import Mention, StoryGrammar, write_stories


@pytest.fixture(scope="module")
def grammar():
    return StoryGrammar()


@pytest.fixture(scope="module")
def stories(grammar):
    rng = np.random.default_rng(2)
    return [grammar.sample(rng) for _ in range(4000)]


# ---------------------------------------------------------------- against brute force

# A grammar as data: a text or a reference is a string, a choice a list, a sequence a tuple.
WORDS = {"name": ["a", "b", "ba"], "two": ["aa", "b", "bab"]}
CONTEXT = "[n name two]\na / aa, b / b\nba / bab\n\n<p>\na<n>\n\n[b|]\n\n"
PHRASE = ("a", "<n>"), ["b", ""]


def trees(leaves, depth=3):
    "Small grammars, ambiguous ones among them."
    if depth == 0:
        return st.sampled_from(leaves)
    inner = st.lists(trees(leaves, depth - 1), min_size=1, max_size=3)
    return st.one_of(st.sampled_from(leaves), inner, inner.map(tuple))


def notation(tree):
    if isinstance(tree, str):
        return tree
    parts = map(notation, tree)
    return "".join(parts) if isinstance(tree, tuple) else "[" + "|".join(parts) + "]"


def tellings(tree, members):
    "Every way through a tree: what it tells, and its draws."
    if tree in ("{x}", "{y}", "{y.two}"):
        form = "two" if "." in tree else "name"
        yield WORDS[form][members["xy".index(tree[1])]], []
    elif tree in ("<n>", "<n.two>", "<p>"):
        ways = {"<n>": WORDS["name"], "<n.two>": WORDS["two"], "<p>": list(PHRASE)}[tree]
        yield from tellings(ways, members)
    elif isinstance(tree, str):
        yield tree, []
    elif isinstance(tree, list):
        for number, way in enumerate(tree):
            for text, draws in tellings(way, members):
                yield text, [(number, len(tree)), *draws]
    else:
        for ways in product(*(list(tellings(part, members)) for part in tree)):
            yield "".join(text for text, _ in ways), sum((draws for _, draws in ways), [])


def all_tellings(bodies, cast):
    "Each text with every way to tell it, as a grammar of these plots should have them."
    told = defaultdict(list)
    castings = [[(x, 3), (y, 2)] for x in range(3) for y in range(2)] if cast else [[]]
    for plot, body in enumerate(bodies):
        for casting in castings:
            members = []
            for number, _ in casting:  # those that are left are counted
                members.append([m for m in range(3) if m not in members][number])
            for text, draws in tellings((".", body, "\n"), members):
                told[text].append([(plot, len(bodies)), *casting, *draws])
    return told


def grammar_of(bodies, cast):
    header = "# p | x n, y n" if cast else "# p"
    return StoryGrammar(CONTEXT + "\n".join(f"{header}\n.{notation(body)}" for body in bodies))


def probability(draws):
    return 1 / math.prod(ways for _, ways in draws)


WITHOUT_CAST = ["a", "b", "ab", "", "<n>", "<n.two>", "<p>"]
WITH_CAST = ["a", "b", "ab", "", "{x}", "{y}", "{y.two}", "<n>", "<p>"]


@settings(deadline=None, max_examples=150)
@given(st.lists(trees(WITH_CAST), min_size=1, max_size=3))
def test_the_arithmetic_is_that_of_an_enumeration(bodies):
    "Probabilities, entropy and length, for a grammar whose every telling is listed."
    grammar, told = grammar_of(bodies, cast=True), all_tellings(bodies, cast=True)
    probabilities = {text: sum(map(probability, ways)) for text, ways in told.items()}
    assert math.isclose(sum(probabilities.values()), 1)
    assert math.isclose(
        grammar.mean_bytes, sum(p * len(text) for text, p in probabilities.items())
    )
    for text, p in probabilities.items():
        assert math.isclose(grammar.log2_prob(text), math.log2(p), abs_tol=1e-9)
        assert text + "a" in probabilities or grammar.log2_prob(text + "a") == -math.inf
    true = -sum(p * math.log2(p) for p in probabilities.values())
    if not grammar.unnamed() and grammar.ambiguous_text() is None:
        assert all(len(ways) == 1 for ways in told.values())
        assert math.isclose(grammar.entropy_bits, true, abs_tol=1e-9)
    assert grammar.entropy_bits >= true - 1e-9


@settings(deadline=None, max_examples=150)
@given(st.lists(trees(WITH_CAST), min_size=1, max_size=3))
def test_retracing_finds_every_way_and_telling_goes_it_again(bodies):
    grammar = grammar_of(bodies, cast=True)
    for text, ways in all_tellings(bodies, cast=True).items():
        assert sorted(grammar.derivations(text)) == sorted(ways)
        for draws in ways:
            numbers = iter([number for number, _ in draws])
            assert grammar.tell(numbers) == text and next(numbers, None) is None


@settings(deadline=None, max_examples=300)
@given(st.lists(trees(WITHOUT_CAST), min_size=1, max_size=3))
@example([["a", "a"]])
@example([["", ""]])
@example([("<p>", "<p>")])
@example(["a", "a"])
def test_a_grammar_without_a_cast_is_ambiguous_exactly_if_a_text_has_two_ways(bodies):
    found = grammar_of(bodies, cast=False).ambiguous_text()
    double = [t for t, ways in all_tellings(bodies, cast=False).items() if len(ways) > 1]
    if found is None:
        assert not double
    else:
        assert any(text.startswith(found) for text in double), (found, double)


PIECES = [
    *("[n]", "[n one two]", "[ ]", "<p>", "# p", "# q | h n", "# r | h n, h n", "# s | h"),
    *("a, b", "* / *s: c", "{h}", "{A h}", "{His}", "{h.two}", "{the h}", "<n>", "<a n.one>"),
    *("<P>", "{", "}", "[", "]", "|", "<", ">", "{}", "{ }", "; no", " ", "/", ":", ",", "*"),
    *("\n", "\n", "\n", "é", "\0", "\u2028"),
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_any_text_is_read_or_refused_in_a_sentence_with_its_line(pieces):
    text = "".join(pieces)
    try:
        grammar = StoryGrammar(text)
    except InputError as error:
        assert re.match(r"grammar, line \d+: .|the grammar has no plots", str(error))
        assert "\n" not in str(error)
    else:
        story = grammar.sample(np.random.default_rng(0))
        assert story.endswith("\n") and grammar.log2_prob(story) > -math.inf


# ---------------------------------------------------------------- the notation


def test_what_stands_in_a_story_is_what_the_notation_says():
    text = """
    ; a comment
    [animal name names its]
    owl / owls / her
    * / *es / his: fox, lynx

    <opening>
    once there was {a hero}
    here was {A hero.name}

    # Two | hero animal, other animal
    <Opening>, {hero}. {Hero.names}; {Its}
    {other}; {its}

    <animal> <Animal.names>
    """
    # the plot; lynx, and of the two that are left fox; the second opening; two words
    told = StoryGrammar(text).tell(iter([0, 2, 1, 1, 0, 1]))
    assert told == "Here was A lynx, lynx. Lynxes; His fox; his\nowl Foxes\n"


def test_phrases_may_stand_in_phrases_but_not_in_themselves():
    grammar = StoryGrammar("# p\n.<a>\n<a>\n<b>!\n<b>\nx\ny")
    assert {grammar.tell(iter([0, 0, way])) for way in (0, 1)} == {".x!\n", ".y!\n"}
    with pytest.raises(InputError, match="line 4: 'a': this phrase leads back to itself"):
        StoryGrammar("<a>\n.<b>\n<b>\n.<a>\n# p\n.<a>")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "no plots"),
        ("hello", "line 1: expected a \\[list\\]"),
        ("[a]\nx, y\n[a]\nz", "line 3: there is a 'a' already"),
        ("[a one two]\nx", "line 2: .*expected 2 forms"),
        ("[a]\nx, x", "line 2: 'x' is in the list already"),
        ("# p | x b\nhi", "line 1: no list called 'b'"),
        ("# p\nhi {x}", "line 2: 'x': nobody called 'x'"),
        ("[a]\nx\n# p | h a\nhi {h.z}", "line 4: 'h.z': there is no form 'z', only name"),
        ("# p\nhi <b>", "line 2: 'b': no phrase or list"),
        ("# p\nhi [b|c", r"line 2: a \[ is never closed"),
        ("# p\nhi ]", "line 2: ']' stands alone"),
        ("# p\nhi {", "line 2: '{' stands alone"),
        ("# p\nhi {}", "line 2: ''.*expected a name"),
        ("# p\nhi { }", "line 2: ' '.*expected a name"),
        ("[n]\na\n# p | h n\nhi {the h}", "line 4: 'the h': expected a name"),
        ("# p\nhi [a|b]]", "line 2: ']' stands alone"),
        ("# p\nhi a|b", r"line 2: '\|' stands alone"),
        ("[ ]\na", r"line 1: expected a \[list\]"),
        ("# p\nhi\n[n]\n\n; a, b\n# q", r"line 3: there is nothing in \[n\]"),
        ("<n>\n\n# p\nhi", "line 1: there is nothing in <n>"),
        ("[n]\na\n# p | h\nhi", "line 3: 'h': expected a name and a list"),
        ("[n]\na\n# p | the h n\nhi", "line 3: 'the h n': expected a name and a list"),
        ("[n]\na, b\n# p | h n, h n\nhi", "line 3: there is a 'h' in the cast already"),
        ("[n]\na\n# p | h n, i n\nhi", "line 3: 2 of the cast are drawn from 'n'"),
        ("<n>\na\n# p\nhi <a n>", "line 4: 'a n': a phrase has neither article nor form"),
        ("# p\nhi <n>\n<n>\nhi\nhi {x}", "line 5: 'x': nobody called 'x'"),
    ],
)
def test_mistakes_in_a_grammar_are_reported_with_their_line(text, sentence):
    with pytest.raises(InputError, match=sentence):
        StoryGrammar(text)


# ---------------------------------------------------------------- the stories of this book


def test_no_text_can_be_told_in_two_ways(grammar):
    assert grammar.unnamed() == [] and grammar.ambiguous_text() is None


def test_retracing_inverts_telling(grammar, stories):
    rng = np.random.default_rng(5)
    for _ in range(1000):
        drawn = []

        def numbers():
            while True:
                drawn.append(rng.bit_generator.random_raw())
                yield drawn[-1]

        (derivation,) = grammar.derivations(grammar.tell(numbers()))
        assert [way for way, _ in derivation] == [
            word % ways for word, (_, ways) in zip(drawn, derivation, strict=True)
        ]


def test_a_changed_story_is_impossible(grammar, stories):
    for story in stories[:300]:
        assert grammar.log2_prob(story) > -math.inf
        for wrong in (
            story[:-1],
            story + "x",
            story[1:],
            story.replace(".", ";", 1),
            story + story,
        ):
            assert grammar.log2_prob(wrong) == -math.inf


def test_agreement_is_part_of_the_grammar(grammar, stories):
    "A name changed in the last sentence that has it, and only there, makes it impossible."
    changed = 0
    for story in stories[:500]:
        plot = grammar.plots[next(grammar.derivations(story))[0][0]]
        if plot.cast.get("hero") != "child":
            continue
        name = next(n for n in re.findall(r"[A-Z][a-z]+", story) if n in names(grammar))
        if story.count(name) < 3:
            continue
        at = story.rindex(name)
        assert (
            grammar.log2_prob(
                story[:at] + ("Ada" if name != "Ada" else "Zoe") + story[at + len(name) :]
            )
            == -math.inf
        )
        changed += 1
    assert changed > 100


def names(grammar):
    return {
        surface
        for plot in grammar.plots
        for slot, words in enumerate(plot.cast.values())
        if words == "child"
        for part in plot.parts
        if isinstance(part, Mention) and part.slot == slot
        for surface in part.surfaces
    }


def test_sampled_surprise_and_length_agree_with_the_computed(grammar, stories):
    for sampled, exact in (
        ([-grammar.log2_prob(s) for s in stories], grammar.entropy_bits),
        ([len(s.encode()) for s in stories], grammar.mean_bytes),
    ):
        assert abs(np.mean(sampled) - exact) < 3 * np.std(sampled) / len(sampled) ** 0.5


def test_the_stories_are_rich(grammar, stories):
    lengths = [len(story.split()) for story in stories]
    words = {word for story in stories for word in re.findall("[a-z]+", story.lower())}
    assert len(grammar.plots) >= 40 and len(words) >= 2000
    assert min(lengths) >= 40 and max(lengths) <= 250


@pytest.mark.parametrize(
    "mistake",
    [
        r"\b[Aa] [aeiou](?!kulele|niform)",
        r"\b[Aa]n (?!hon|hour)[^aeiouAEIOU]",
        r" [.,;!?](?!\.\.)",
        r"  ",
        r" \n",
        r"(?<!\.)\.\.(?!\.)",
        r"[.!?] [a-z]",
        r"\w[.,;!?]\w",
        r"\b(\w+) \1\b",
        r"[\[\]{}<>|*/_]",
        r"[^\x00-\x7f]",
    ],
)
def test_no_slips_of_the_pen(stories, mistake):
    for story in stories:
        text = story.replace("... ", "").replace("hee-haw", "")
        assert not re.search(mistake, text), re.findall(f".{{0,40}}{mistake}.{{0,40}}", text)


def test_quotation_marks_and_capitals(stories):
    for story in stories:
        for paragraph in story.splitlines():
            assert paragraph.count('"') % 2 == 0 and re.match(r'"?[A-Z]', paragraph), paragraph
            assert re.search(r'[.!?]"?$|^Dear [\w-]+,$|^Your \w+$', paragraph), paragraph


# ---------------------------------------------------------------- files of stories


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = f"from lm336.grammar import write_stories; write_stories({str(path)!r}, 10**10, 0)"

    def written():
        return sum(
            file.stat().st_size
            for file in tmp_path.rglob("*")
            if file.is_file() and file != path
        )

    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        try:
            end = time.monotonic() + 60
            while written() < 1_000_000:
                assert writer.poll() is None and time.monotonic() < end, "nothing was written"
                time.sleep(0.01)
        finally:
            writer.kill()
    assert path.read_text() == "old"


def test_the_same_bytes_everywhere(tmp_path):
    "Changes only with stories.txt: then put the new digest here and in the chapter."
    write_stories(tmp_path / "a.txt", 1_000_000, seed=336)
    assert (
        hashlib.sha256((tmp_path / "a.txt").read_bytes()).hexdigest()
        == "a93bccc1a68ce969e04e3fedbcf21e51e0353d0e3f02f4a97df0af5018a89a84"
    )


def test_a_file_of_stories_is_stories(tmp_path, grammar):
    number = write_stories(tmp_path / "a.txt", 100_000, seed=5)
    documents = list(iter_documents(tmp_path / "a.txt"))
    rng = np.random.default_rng(5)
    assert documents == [grammar.sample(rng) for _ in range(number)]
    assert 100_000 <= (tmp_path / "a.txt").stat().st_size < 105_000
    with pytest.raises(InputError, match="at least 1"):
        write_stories(tmp_path / "b.txt", 0, seed=5)
    assert not (tmp_path / "b.txt").exists()


def test_the_grammar_needs_no_torch():
    code = "import sys, lm336.grammar; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
