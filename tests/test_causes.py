"The causes of a model's excess: against labels set by hand, and how generated text is judged."

import random
from importlib.resources import files

import numpy as np
import pytest

from lm336.bpe import build_vocab, count_pretokens, learn_merges
from lm336.causes import CAUSES, Cause, gap_by_cause, judge, token_causes
from lm336.errors import END_OF_TEXT, InputError
from lm336.grammar import StoryGrammar
from lm336.oracle import Oracle
from lm336.tokenizer import Tokenizer

from . import test_web
from .test_oracle import sampled, tokenizer_of
from .test_web import Refused
from .test_web_grammar import a_grammar

node = test_web.node  # a fixture

SMALL = """
[person name short]
Anna / An
Anton / Ant
Tom / To

[colour]
blue, bluish, red

# A walk | hero person, friend person
{hero} met {friend} [in the <colour> rain|at noon][|, alas]. {Hero} was glad, {hero.short}!
"""


@pytest.fixture(scope="module")
def small():
    return StoryGrammar(SMALL)


@pytest.fixture(scope="module")
def letters():
    "A tokenizer of single bytes."
    return Tokenizer(build_vocab([], [END_OF_TEXT]), [], [END_OF_TEXT])


@pytest.fixture(scope="module")
def oracle():
    return Oracle()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained("stories")


def test_letters_have_the_causes_of_a_hand_that_knows_the_grammar(small, letters):
    "Where each letter is a token, spaces are tokens of their own."
    text = "Anton met Tom in the blue rain. Anton was glad, Ant!\n"
    ids = letters.encode(text + END_OF_TEXT)
    causes = token_causes(small, letters, ids)
    assert len(causes) == len(ids)

    def of(part, times=0):
        at = text.index(part) if not times else text.rindex(part)
        return [causes[i].name for i in range(at, at + len(part))]

    assert of("Anton") == ["cast"] * 3 + ["spelling"] * 2
    assert of("Tom") == ["cast"] + ["spelling"] * 2
    assert of("in the")[:3] == ["word lists", "spelling", "plot"]
    assert of("blue") == ["word lists"] * 4  # "blui" would be bluish
    assert of(".") == ["word lists"]  # or ", alas"
    assert of("Anton", 1) == ["agreement"] * 3 + ["spelling"] * 2
    assert of(" was glad")[:6] == ["plot", "plot", "spelling", "spelling", "plot", "spelling"]
    assert of("Ant!", 1)[:3] == ["agreement"] * 3
    assert of("!\n") == ["plot", "end"] and causes[-1].name == "end"


def test_whole_words_have_the_cause_of_their_first_letter(small):
    texts = ["Anton met Tom at noon. Anton was glad, Ant!\n"]
    texts += ["Tom met Anna in the blue rain, alas. Tom was glad, To!\n"]
    merges = learn_merges(count_pretokens("".join(texts) * 9), 60)
    words = Tokenizer(build_vocab(merges, [END_OF_TEXT]), merges, [END_OF_TEXT])
    ids = [words.encode(text + END_OF_TEXT) for text in texts]
    first, second = (token_causes(small, words, one) for one in ids)
    assert [words.decode([i]) for i in ids[1]] == [
        "Tom", " met", " Anna", " in", " the", " blue", " rain", ",", " alas", ".", " Tom",
        " was", " glad", ",", " To", "!", "\n", END_OF_TEXT,
    ]
    assert [cause.name for cause in second] == [
        "cast", "plot", "cast", "word lists", "plot", "word lists", "plot", "word lists",
        "spelling", "plot", "agreement", "plot", "plot", "plot", "agreement", "plot", "end",
        "end",
    ]
    assert second[10] == Cause("agreement", "person", 10)
    assert second[14] == Cause("agreement", "person", 4)
    assert second[0] == Cause("cast", "person", 0)
    both = token_causes(small, words, ids[0] + ids[1])
    assert both == first + second


def test_causes_of_the_built_in_stories(oracle, tokenizer):
    "Each token has one; hardly any has two; the shares add up to the gap."
    stories = sampled(oracle.grammar, 20)
    ids = [i for one in stories for i in tokenizer.encode(one + END_OF_TEXT)]
    causes = token_causes(oracle.grammar, tokenizer, ids)
    names = np.array([cause.name for cause in causes])
    assert len(causes) == len(ids) and set(names) <= set(CAUSES)
    assert (names == "other").mean() < 0.05
    assert (names == "end").sum() == 2 * len(stories)
    bits = oracle.token_bits(tokenizer, ids)
    assert bits[names == "cast"].mean() > 1 > bits[names == "agreement"].mean()
    excess = np.random.default_rng(0).normal(size=len(ids))
    shares = gap_by_cause(excess, bits, causes)
    assert list(shares) == list(CAUSES)
    assert abs(sum(shares.values()) - excess.sum() / bits.sum()) < 1e-9


def test_the_beginning_of_a_story_has_its_causes(oracle, tokenizer):
    [story] = sampled(oracle.grammar, 1, seed=3)
    ids = tokenizer.encode(story)
    whole = token_causes(oracle.grammar, tokenizer, tokenizer.encode(story + END_OF_TEXT))
    for size in range(20, len(ids), 40):
        assert token_causes(oracle.grammar, tokenizer, ids[:size]) == whole[:size]


def test_what_is_no_story_has_no_causes(small, letters):
    with pytest.raises(InputError, match="no story goes like this: 'Anna met Anna"):
        token_causes(small, letters, letters.encode("Anna met Anna"))


STORY = "Anton met Tom in the blue rain. Anton was glad, Ant!\n"


@pytest.mark.parametrize(
    ("wrong", "at", "cause"),
    [
        (STORY, len(STORY), ""),
        (STORY.replace(". Anton", ". Anna"), 34, "agreement"),
        (STORY.replace("Tom", "Tim"), 11, "spelling"),
        (STORY.replace("Tom", "Anton"), 12, "cast"),
        (STORY.replace("blue", "black"), 23, "word lists"),
        (STORY.replace(" was", " is"), 38, "plot"),
        (STORY[:-1], len(STORY) - 1, "end"),
        (STORY + "\n", len(STORY), "end"),
    ],
)
def test_a_generated_text_is_judged(small, letters, wrong, at, cause):
    assert judge(Oracle(small), letters, wrong) == (cause == "", at, cause)


def test_a_word_that_agrees_with_nothing_is_blamed_on_agreement(oracle, tokenizer):
    "In whatever place: a colour, a toy or a child that was named before returns as another."
    blamed = 0
    for story in sampled(oracle.grammar, 30, seed=4):
        ids = tokenizer.encode(story + END_OF_TEXT)
        for at, cause in enumerate(token_causes(oracle.grammar, tokenizer, ids)):
            if cause.name == "agreement" and cause.about in ("day", "toy", "instrument"):
                before = tokenizer.decode(ids[:at])
                judged = judge(oracle, tokenizer, f"{before} zebra")
                if judged.at == len(before):  # no space before the name
                    continue
                assert judged == (False, len(before) + 1, "agreement")
                blamed += 1
                break
    assert blamed > 5


def test_an_unfinished_text_may_go_on(small, letters):
    told = judge(Oracle(small), letters, STORY[:20], ended=False)
    assert told == (True, 20, "")


# ---------------------------------------------------------------- in the page


def check_page(node, grammar, text, tokenizer, texts):
    "Python's causes, all of them, of texts in tokens; the page finds the same."
    node("tokenizer", tokenizer.to_json())
    there = node("causes", {"text": text, "texts": texts})
    here = [token_causes(grammar, tokenizer, ids) for ids in texts]
    assert here == [[Cause(*cause) for cause in causes] for causes in there]
    return [cause for causes in here for cause in causes]


def test_the_page_finds_the_same_causes(node, oracle, tokenizer):
    "In whole stories, one after the other, and in beginnings."
    text = (files("lm336") / "stories.txt").read_text(encoding="utf-8")
    stories = sampled(oracle.grammar, 3, seed=5)
    one, other, more = [tokenizer.encode(story + END_OF_TEXT) for story in stories]
    texts = [one + other + more[:77], one[:-1], other[:1], more[:150]]
    seen = check_page(node, oracle.grammar, text, tokenizer, texts)
    assert {cause.name for cause in seen} >= {*CAUSES} - {"other"}
    with pytest.raises(Refused, match="no story goes like this: Once zebra"):
        node("causes", {"text": text, "texts": [tokenizer.encode("Once zebra")]})


@pytest.mark.parametrize("seed", range(12))
def test_the_page_finds_the_same_causes_in_random_grammars(node, seed):
    text = a_grammar(random.Random(seed))
    grammar = StoryGrammar(text)
    stories = [grammar.sample(np.random.default_rng(i)) for i in range(4)]
    tokenizer = tokenizer_of(stories[:2], 12)
    ids = [tokenizer.encode(story + END_OF_TEXT) for story in stories]
    texts = [sum(ids, []), ids[0][: len(ids[0]) // 2], ids[1][:-1]]
    check_page(node, grammar, text, tokenizer, texts)
