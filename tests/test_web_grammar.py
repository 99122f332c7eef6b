"""The page's grammar, run by Node, against Python's: what both read, tell and price, what both
refuse, and the tokenizer of whole words."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.bpe import learn_merges, pretokenize
from lm336.errors import END_OF_TEXT, InputError
from lm336.grammar import StoryGrammar
from lm336.oracle import Oracle
from lm336.tokenizer import Tokenizer

from . import test_web
from .test_grammar import PIECES
from .test_web import Refused

node = test_web.node  # a fixture

NAMES = "one two tree ape honest", "a ab ' ll ba", "é Œuf 中 naïve oneö"


def a_word(rng):
    return rng.choice(rng.choice(NAMES).split()) + rng.choice(["", "", "s", " b", "!"])


def a_list(rng, name):
    "The lines of a list of two to five words in two forms, some of which are the same."
    words = dict.fromkeys(a_word(rng) for _ in range(rng.randint(2, 5)))
    pattern = rng.choice(["* / *s: ", "* / x*: ", "* / it: "])
    return [f"[{name} name its]", pattern + ", ".join(words)], len(words)


def a_line(rng, references, depth=2):
    "A line of words, references and choices; a line that is one reference begins a section."
    parts = [a_word(rng)] if depth == 2 else []
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if kind < 0.4 or depth == 0:
            parts.append(a_word(rng))
        elif kind < 0.7:
            parts.append(rng.choice(references))
        else:
            ways = [a_line(rng, references, depth - 1) for _ in range(rng.randint(1, 3))]
            parts.append("[" + "|".join([*ways, *rng.choice([[], [""]])]) + "]")
    return rng.choice(["", " ", " "]).join(parts)


def a_grammar(rng):
    "Two lists, a phrase, one to three plots with a cast or none."
    (first, size), (second, _) = a_list(rng, "n"), a_list(rng, "m")
    free = ["<n>", "<m.its>", "<a m>", "<A N>", "<M>"]
    lines = [*first, *second, "<p>", a_line(rng, free), a_line(rng, free)]
    free += ["<p>", "<P>"]
    for number in range(rng.randint(1, 3)):
        cast = rng.choice(["", "| h n", "| h n, g m", "| h n, g n" if size > 1 else "| g m"])
        slots = [name for name in "hg" if f"{name} " in cast]
        named = [form for name in slots for form in (f"{{{name}}}", f"{{A {name}}}")]
        named += [f"{{{name}.its}}" for name in slots] + (["{Its}"] if slots else [])
        lines += [f"# {number} {cast}", str(number), *named[: rng.choice([0, 9])]]
        lines += [a_line(rng, free + 2 * named), rng.choice(["", "!"]), a_line(rng, free)]
    return "\n".join(lines)


def of_both(node, text, **asked):
    "The grammar in Python, and what the page says of it."
    return StoryGrammar(text), node("grammar", dict(text=text, **asked))


def check_equal(ours, theirs):
    "All that can be said of a grammar as a whole, but for the text that is told twice."
    assert theirs["entropyBits"] == pytest.approx(ours.entropy_bits, rel=0, abs=1e-9)
    assert theirs["meanBytes"] == pytest.approx(ours.mean_bytes, rel=0, abs=1e-9)
    assert theirs["bitsPerByte"] == pytest.approx(ours.bits_per_byte, rel=0, abs=1e-9)
    assert list(map(tuple, theirs["unnamed"])) == ours.unnamed()


def price(bits):
    "JSON has no infinity: null stands for it."
    return -math.inf if bits is None else pytest.approx(bits, rel=0, abs=1e-9)


def texts_of(found):
    return [sampled["text"] for sampled in found["sampled"]]


MANY = ", ".join(f"w{number}" for number in range(1200))
RANDOM = [a_grammar(random.Random(seed)) for seed in range(200)]


def test_two_hundred_grammars_are_what_they_are_in_python(node):
    "Each tells by the same numbers the same, and prices what the other tells."
    rng, seen = np.random.default_rng(0), dict(double=0, hidden=0)
    for text in RANDOM:
        numbers = rng.integers(0, 1 << 30, (3, 400)).tolist()
        grammar = StoryGrammar(text)
        stories = [grammar.sample(rng) for _ in range(3)]
        stories += [stories[0][:-1], stories[0] + "x", stories[1] + stories[2]]
        _, found = of_both(
            node, text, numbers=numbers, stories=stories, samples=3, words=True
        )
        check_equal(grammar, found)
        assert found["ambiguous"] == grammar.ambiguous_text()
        assert found["told"] == [grammar.tell(iter(some)) for some in numbers]
        for story, bits in zip(stories, found["prices"], strict=True):
            assert grammar.log2_prob(story) == price(bits)
        hidden = found["unnamed"] or found["ambiguous"] is not None
        for sampled in found["sampled"]:
            bits = -grammar.log2_prob(sampled["text"])
            if hidden:  # another telling may have been drawn
                assert bits <= sampled["bits"] + 1e-9
            else:
                assert bits == price(sampled["bits"])
        for story in texts_of(found) + stories[:3]:
            pieces = pretokenize(story)
            assert len(pieces) <= found["longest"] and set(pieces) <= set(found["words"])
        seen["double"] += found["ambiguous"] is not None
        seen["hidden"] += found["unnamed"] != []
    print(seen)
    assert all(20 < count < 180 for count in seen.values()), "both kinds must be there"


def test_the_book_s_own_grammar(node):
    text = test_web.WEB.parent.joinpath("stories.txt").read_text(encoding="utf-8")
    grammar, rng = StoryGrammar(), np.random.default_rng(1)
    stories = [grammar.sample(rng) for _ in range(5)]
    numbers = rng.integers(0, 1 << 30, (5, 1000)).tolist()
    asked = dict(stories=stories, numbers=numbers, samples=5, whole=False)
    found = node("grammar", dict(text=text, **asked))
    check_equal(grammar, found)
    assert found["told"] == [grammar.tell(iter(some)) for some in numbers]
    for story, bits in zip(stories, found["prices"], strict=True):
        assert grammar.log2_prob(story) == price(bits)
    for sampled in found["sampled"]:
        assert -grammar.log2_prob(sampled["text"]) == price(sampled["bits"])


def both_say(node, text):
    "What Python and the page make of a text that may be no grammar."
    try:
        ours = StoryGrammar(text)
    except InputError as error:
        with pytest.raises(Refused) as refused:
            node("grammar", dict(text=text))
        assert str(refused.value) == str(error)
    else:
        check_equal(ours, node("grammar", dict(text=text)))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_pieces_of_the_notation_are_read_or_refused_in_the_same_words(node, pieces):
    both_say(node, "".join(pieces))


def test_a_slip_of_the_pen_is_refused_in_the_same_words(node):
    "A sign left out, doubled, or put for another, in each of the two hundred."
    rng, refused = random.Random(0), 0
    for text in RANDOM:
        at = rng.choice([i for i, sign in enumerate(text) if sign in "[]{}<>|/,#. "])
        slip = text[:at] + rng.choice(["", 2 * text[at], *"[]{}<>|"]) + text[at + 1 :]
        both_say(node, slip)
        try:
            StoryGrammar(slip)
        except InputError:
            refused += 1
    assert refused > 60


# ---- words, and what comes next


@pytest.fixture(scope="module")
def examples(node):
    return node("value", ["grammars.js", "GRAMMARS"])


def word_tokenizer(node, words, folder):
    "The page's tokenizer.json, opened by Python."
    made = node("call", ["grammar.js", "wordTokenizer", words])
    (folder / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    node("tokenizer", made)
    return Tokenizer.from_pretrained(folder)


def test_the_ready_grammars(node, examples, tmp_path):
    "Their lines are true; a word is a token; both give two hundred stories the same ids."
    bits = {name: StoryGrammar(text).entropy_bits for name, text in examples.items()}
    assert [round(one) for one in bits.values()] == [6, 16, 15]
    for text in examples.values():
        grammar, found = of_both(node, text, samples=200, words=True)
        assert grammar.ambiguous_text() is None and grammar.unnamed() == []
        assert node("call", ["grammar.js", "describe", text])["problem"] == ""
        tokenizer = word_tokenizer(node, found["words"], tmp_path)
        words = {word.encode(): 1 for word in found["words"]}
        assert tokenizer.merges == learn_merges(words, 10_000), "chapter 01's rule"
        assert tokenizer.end_of_text_id == 0 and tokenizer.special_tokens == [END_OF_TEXT]
        used = set()
        for story in texts_of(found):
            ids = tokenizer.encode(story)
            assert len(ids) == len(pretokenize(story)) <= found["longest"]
            assert node("encode", story) == ids
            used |= set(ids)
        assert used == set(range(1, len(found["words"]) + 1)), "the words have the first ids"


def test_words_of_any_grammar_are_tokens(node, tmp_path):
    for text in RANDOM[:40]:
        words = node("grammar", dict(text=text, words=True))["words"]
        tokenizer = word_tokenizer(node, words, tmp_path)
        assert [tokenizer.encode(word) for word in words] == [
            [i] for i in range(1, len(words) + 1)
        ]


def test_an_apostrophe_waits_for_its_contraction(node):
    "The words are those of all nine stories, and no others."
    text = "# p\nb'[l|r|x][l|e|d]\n"
    grammar = StoryGrammar(text)
    stories = [grammar.tell(iter([0, i, j])) for i in range(3) for j in range(3)]
    words = {piece for story in stories for piece in pretokenize(story)}
    assert node("grammar", dict(text=text, words=True))["words"] == sorted(words)


def test_what_comes_next_is_what_the_perfect_reader_says(node, examples, tmp_path):
    "Chapter 16's oracle reads bytes by another algorithm."
    for text in examples.values():
        grammar, found = of_both(node, text, samples=3, words=True)
        tokenizer, oracle = word_tokenizer(node, found["words"], tmp_path), Oracle(grammar)
        for story in texts_of(found):
            ids = tokenizer.encode(story)
            begun = [tokenizer.decode(ids[:i]) for i in range(len(ids) + 1)]
            shares = node("grammar", dict(text=text, beginnings=begun))["next"]
            for i, share in enumerate(shares):
                truth = oracle.next_tokens(tokenizer, ids[:i])
                words = {**{"": 0.0}, **share}
                assert words[""] == pytest.approx(truth[0], abs=1e-12)
                for word, p in share.items():
                    if word:
                        assert p == pytest.approx(truth[tokenizer.token_ids[word.encode()]])
                assert sum(share.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("# p\n[a|a] cat", "“a” can be told in two ways"),
        ("[n]\na, b\n# Two | hero n\nhi [{hero}|]", "“Two” need not name its hero"),
        ("# p\nhi", "There is only one story here"),
        ("# p\n" + 4 * "[a|b|c|d|e]", "more than 500 different words"),
        ("# p\n[a|b" + 999 * "b" + "]", "or one of them more than 400"),
        ("# p\n[a|b] " + 251 * "word ", "may have more than 250 words"),
        ("# p\n" + 1100 * "[a|b] ", "may have more than 250 words"),
        ("# p\n" + 1400 * "[|a][|b]", "more ways than a page can follow"),
        ("# p\n" + 1400 * "[|]", "A story can be told in two ways"),
        (f"[n]\n{MANY}\n# p\n" + 500 * "<n> ", "more ways than a page can follow"),
        ("# p\n[x|y] " + 99 * "a" + " [c|c]", "“…" + 58 * "a" + " c” can be told"),
    ],
)
def test_what_no_model_should_learn_is_said(node, text, sentence):
    assert sentence in node("call", ["grammar.js", "describe", text])["problem"]


def in_brackets(depth):
    return "# p\n" + depth * "[" + "a" + depth * "]"


def in_phrases(depth):
    names = range(depth - 1)
    lines = [f"<p{i}>\n.<p{i + 1}>" for i in names] + [f"<p{depth - 1}>\na", "# p\n.<p0>"]
    return "\n".join(lines)


def in_a_phrase_of_before(depth):
    return f"# p\n.<p>{(depth - 1) * '['}<p>{(depth - 1) * ']'}\n<p>\na"


@pytest.mark.parametrize("nested", [in_brackets, in_phrases, in_a_phrase_of_before])
def test_there_are_at_most_a_hundred_choices_within_each_other(node, nested):
    "So many neither stack minds, whatever is asked; more are refused in the same words."
    grammar, found = of_both(node, nested(100), samples=1, words=True)
    check_equal(grammar, found)
    assert grammar.ambiguous_text() is None and found["ambiguous"] is None
    [story] = texts_of(found)
    assert grammar.log2_prob(story) == 0 and grammar.tell(iter([0] * 300)) == story
    for depth in (101, 2000):
        with pytest.raises(InputError, match="line [0-9]+: more than 100 choices within"):
            StoryGrammar(nested(depth))
        both_say(node, nested(depth))


def test_phrases_that_double_and_double_are_refused(node):
    lines = [f"<p{i}>\n.<p{i + 1}><p{i + 1}>" for i in range(40)]
    text = "\n".join([*lines, "<p40>", "a", "# p", ".<p0>"])
    with pytest.raises(InputError, match="more than 1,000,000 parts"):
        StoryGrammar(text)
    both_say(node, text)


@pytest.mark.parametrize("choice, twice", [("[|a]", "a\n"), ("[|]", "\n"), ("[a|a]", "a")])
def test_many_choices_in_a_row_are_no_burden(node, choice, twice):
    "What may be left out is passed over without a stack, and what is there twice once more."
    grammar, found = of_both(node, "# p\n" + 480 * choice)
    assert grammar.ambiguous_text() == found["ambiguous"] == twice


def test_a_large_cast_is_counted_without_going_through_it(node):
    "Twelve of twelve can be drawn in 479,001,600 ways; every second one is an x."
    words = "\n".join(f"{letter} / {'xy'[i % 2]}" for i, letter in enumerate("abcdefghijkl"))
    cast = ", ".join(f"c{i} n" for i in range(12))
    text = f"[n name its]\n{words}\n# p | {cast}\n{{c0.its}} {{c1.its}}"
    text += "".join(f" {{c{i}}}" for i in range(12))
    begun = ["", "x", "x y", "x y c"]
    first, second, third, last = node("grammar", dict(text=text, beginnings=begun))["next"]
    assert first == pytest.approx({"x": 1 / 2, "y": 1 / 2})
    assert second == pytest.approx({" x": 5 / 11, " y": 6 / 11})
    assert third == pytest.approx({f" {letter}": 1 / 6 for letter in "acegik"})
    assert last == pytest.approx({f" {letter}": 1 / 6 for letter in "bdfhjl"})
