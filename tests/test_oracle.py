"The perfect reader: against enumerations, against `log2_prob`, and what it refuses."

import gzip
import math
import random
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.automaton import END, castings
from lm336.bpe import build_vocab, count_pretokens, learn_merges
from lm336.errors import END_OF_TEXT, InputError
from lm336.grammar import StoryGrammar
from lm336.oracle import Oracle, StoryReader
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer

from . import test_web
from .test_grammar import WITH_CAST, all_tellings, grammar_of, probability, trees
from .test_web import Refused
from .test_web_grammar import a_grammar

node = test_web.node  # a fixture


@pytest.fixture(scope="module")
def grammar():
    return StoryGrammar()


@pytest.fixture(scope="module")
def oracle(grammar):
    return Oracle(grammar)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained("stories")


def sampled(grammar, number, seed=16):
    rng = np.random.default_rng(seed)
    return [grammar.sample(rng) for _ in range(number)]


# ---------------------------------------------------------------- against an enumeration


def share(told, begins):
    "The probability of the stories for which `begins` holds."
    return sum(p for text, p in told.items() if begins(text))


def check_bytes(oracle, told):
    "Every prefix of every text, and what comes after it."
    prefixes = {text.encode()[:n] for text in told for n in range(len(text.encode()) + 1)}
    for prefix in prefixes:
        before = share(told, lambda text, p=prefix: text.encode().startswith(p))
        expected = np.zeros(257)
        for text, p in told.items():
            data = text.encode()
            if data.startswith(prefix):
                expected[data[len(prefix)] if len(data) > len(prefix) else END] += p / before
        np.testing.assert_allclose(oracle.next_bytes(prefix), expected, rtol=0, atol=1e-12)
    for text in told:
        bits = -math.log2(told[text])
        assert math.isclose(oracle.byte_bits(text).sum(), bits, abs_tol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(trees(WITH_CAST), min_size=1, max_size=3))
def test_bytes_are_those_of_an_enumeration(bodies):
    ways = all_tellings(bodies, cast=True)
    told = {text: sum(map(probability, draws)) for text, draws in ways.items()}
    check_bytes(Oracle(grammar_of(bodies, cast=True)), told)


@given(st.lists(st.integers(0, 31), max_size=4))
def test_castings_are_counted(candidates):
    def count(left, taken):
        if not left:
            return 1
        members = [m for m in range(5) if left[0] >> m & 1 and m not in taken]
        return sum(count(left[1:], {*taken, m}) for m in members)

    assert castings(candidates) == count(candidates, set())


# ---------------------------------------------------------------- the stories of this book


def test_the_bytes_of_a_story_add_up(grammar, oracle):
    for story in sampled(grammar, 200):
        bits = oracle.byte_bits(story)
        assert (bits >= 0).all() and len(bits) == len(story.encode()) + 1
        assert math.isclose(bits.sum(), -grammar.log2_prob(story), rel_tol=0, abs_tol=1e-9)


def test_next_bytes_are_a_distribution_and_the_surprise_is_theirs(grammar, oracle):
    for story in sampled(grammar, 3, seed=5):
        bits = oracle.byte_bits(story)
        data = story.encode()
        for at in range(0, len(data) + 1, 17):
            found = oracle.next_bytes(data[:at])
            symbol = data[at] if at < len(data) else END
            assert math.isclose(found.sum(), 1, rel_tol=0, abs_tol=1e-12)
            assert math.isclose(-math.log2(found[symbol]), bits[at], abs_tol=1e-9)
            assert oracle.log2_prob(story[:at]) <= 0


# ---------------------------------------------------------------- what is refused


ANIMALS = "[animal]\ncat, dog\n\n# p | hero animal, friend animal\nThe {hero} met {a friend}."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("The cat met a cat.\n", "byte 14, after 'The cat met a ', comes 'c'; expected 'd'"),
        ("The cow", "at byte 5, after 'The c', comes 'o'; expected 'a'"),
        ("The cat", "at byte 7, after 'The cat', comes its end; expected ' '"),
        ("The cat met a dog.\n\n", "comes '\\n'; expected its end"),
        ("the", "at byte 0, after '', comes 't'; expected 'T'"),
    ],
)
def test_what_is_not_a_story_is_refused_with_its_place(text, message):
    oracle = Oracle(StoryGrammar(ANIMALS))
    with pytest.raises(InputError, match=re.escape(message)):
        oracle.byte_bits(text)
    if not text.startswith("The cat") or text.count("cat") > 1:
        assert oracle.log2_prob(text) == -math.inf


def test_a_prefix_that_no_story_has_is_refused(oracle):
    with pytest.raises(InputError, match="at byte 4, after 'Once', comes 'x'"):
        oracle.next_bytes("Oncex")
    assert oracle.log2_prob("Oncex") == -math.inf
    assert oracle.log2_prob("") == 0


# ---------------------------------------------------------------- tokens


def check_tokens(oracle, tokenizer, told):
    "What comes after every beginning of every text's tokens."
    encoded = {(*tokenizer.encode(t), tokenizer.end_of_text_id): p for t, p in told.items()}
    assert len(encoded) == len(told)
    for prefix in {ids[:n] for ids in encoded for n in range(len(ids))}:
        left = {ids: p for ids, p in encoded.items() if ids[: len(prefix)] == prefix}
        expected = np.zeros(tokenizer.vocab_size)
        for ids, p in left.items():
            expected[ids[len(prefix)]] += p / sum(left.values())
        found = oracle.next_tokens(tokenizer, prefix)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    for ids, p in encoded.items():
        bits = oracle.token_bits(tokenizer, ids).sum()
        assert math.isclose(bits, -math.log2(p), abs_tol=1e-9)


def tokenizer_of(texts, num_merges):
    "A tokenizer that has learned these texts, and ends them."
    merges = learn_merges(count_pretokens("".join(texts)), num_merges)
    return Tokenizer(build_vocab(merges, [END_OF_TEXT]), merges, [END_OF_TEXT])


HOSTILE = ["a", "ab", " a", "  ", "'", "l", "'ll", "'s", "é", "3", " !"]
HOSTILE += ["{x}", "{y.two}", "<n>"]


@settings(deadline=None, max_examples=60)
@given(st.lists(trees(HOSTILE, depth=2), min_size=1, max_size=2), st.integers(0, 12))
def test_tokens_are_those_of_an_enumeration(bodies, num_merges):
    bodies = [(body, "b") for body in bodies]  # a line does not end in a space
    ways = all_tellings(bodies, cast=True)
    told = {text: sum(map(probability, draws)) for text, draws in ways.items()}
    oracle = Oracle(grammar_of(bodies, cast=True))
    check_tokens(oracle, tokenizer_of(list(told)[::2], num_merges), told)


def test_an_apostrophe_waits_for_its_contraction():
    grammar = StoryGrammar("# p\na['|'l|'ll|'la|'v|'ve|'rr|'re|'s|'sa] b")
    merges = [(b"'", b"l"), (b"'", b"r"), (b"l", b"l"), (b"v", b"e")]
    tokenizer = Tokenizer(build_vocab(merges, [END_OF_TEXT]), merges, [END_OF_TEXT])
    ends = ["", "l", "ll", "la", "v", "ve", "rr", "re", "s", "sa"]
    check_tokens(Oracle(grammar), tokenizer, {f"a'{end} b\n": 0.1 for end in ends})


def test_a_token_excludes_the_words_that_would_have_another():
    merges = [(b"t", b"h"), (b"th", b"e")]
    tokenizer = Tokenizer(build_vocab(merges, [END_OF_TEXT]), merges, [END_OF_TEXT])
    oracle = Oracle(StoryGrammar("# p\n[the|the|tha|th|to]"))
    [th], [the] = tokenizer.encode("th"), tokenizer.encode("the")
    first = oracle.next_tokens(tokenizer)
    assert np.allclose(first[[th, the, ord("t")]], [2 / 5, 2 / 5, 1 / 5])
    second = oracle.next_tokens(tokenizer, [th])
    assert np.allclose(second[[ord("a"), ord("\n"), ord("e")]], [1 / 2, 1 / 2, 0])


def test_the_tokens_of_stories_add_up(grammar, oracle, tokenizer):
    stories = sampled(grammar, 200)
    ids = [[*tokenizer.encode(story), tokenizer.end_of_text_id] for story in stories]
    bits = oracle.token_bits(tokenizer, np.concatenate(ids))
    found = np.split(bits, np.cumsum([len(one) for one in ids])[:-1])
    for story, one in zip(stories, found, strict=True):
        assert math.isclose(one.sum(), -grammar.log2_prob(story), rel_tol=0, abs_tol=1e-9)
    assert (bits >= 0).all()


def test_next_tokens_are_a_distribution_at_every_position(grammar, oracle, tokenizer):
    "And it is the same for a reader that has kept its place as for one that begins anew."
    stories = sampled(grammar, 3, seed=7)
    ids = [i for one in stories for i in [*tokenizer.encode(one), tokenizer.end_of_text_id]]
    bits, reader = oracle.token_bits(tokenizer, ids), StoryReader(oracle, tokenizer)
    for at, token in enumerate(ids):
        found = reader.expected()
        assert math.isclose(found.sum(), 1, rel_tol=0, abs_tol=1e-12)
        assert math.isclose(-math.log2(found[token]), bits[at], abs_tol=1e-9)
        if at % 100 == 0:
            assert (found == oracle.next_tokens(tokenizer, ids[:at])).all()
        assert math.isclose(reader.read(token), bits[at], abs_tol=1e-9)
    assert reader.ids == ids


def test_no_model_expects_better_than_the_truth(grammar, oracle, tokenizer):
    "The expected excess of the shipped model, and of a random one, is a divergence."
    model = Transformer.from_pretrained("stories").float()
    for model in (model, Transformer(model.config)):
        for story in sampled(grammar, 2, seed=8):
            ids, reader = tokenizer.encode(story), StoryReader(oracle, tokenizer)
            ids = ids[: model.config.context_length - 1]
            with torch.no_grad():
                logits = model(torch.tensor([[tokenizer.end_of_text_id, *ids]]))[0].double()
            for q, token in zip(logits.log_softmax(-1).numpy(), [*ids, None], strict=True):
                p = reader.expected()
                can = p > 0
                divergence = (p[can] * (np.log(p[can]) - q[: len(p)][can])).sum()
                assert divergence > -1e-9
                if token is not None:
                    reader.read(token)


def test_a_refused_token_is_not_read(oracle, tokenizer):
    reader = StoryReader(oracle, tokenizer)
    [once] = tokenizer.encode("Once")
    reader.read(once)
    before = reader.expected()
    with pytest.raises(InputError, match="token 1, after 'Once', is 'x'"):
        reader.read(tokenizer.encode("x")[0])
    assert reader.ids == [once] and (reader.expected() == before).all()


def test_tokens_that_no_story_has_are_refused(oracle, tokenizer):
    ids = tokenizer.encode("Once") + tokenizer.encode("x")
    at = len(ids) - 1
    with pytest.raises(InputError, match=f"no story goes on like this: token {at}, after"):
        oracle.token_bits(tokenizer, ids)
    with pytest.raises(InputError, match=f"token {at}, after"):
        oracle.next_tokens(tokenizer, ids)


def test_a_tokenizer_without_an_end_is_refused(oracle):
    with pytest.raises(InputError, match="needs <.endoftext.> among its special tokens"):
        oracle.next_tokens(Tokenizer({i: bytes([i]) for i in range(256)}, []))


# ---------------------------------------------------------------- in the page


def test_the_pages_reader_expects_the_same(node, grammar, oracle, tokenizer):
    "At 500 places and more of stories, END_OF_TEXT among them."
    rng = np.random.default_rng(22)
    ids = []
    while len(ids) < 500:
        ids += [*tokenizer.encode(grammar.sample(rng)), tokenizer.end_of_text_id]
    node("tokenizer", tokenizer.to_json())
    text = (files("lm336") / "stories.txt").read_text(encoding="utf-8")
    reader = StoryReader(oracle, tokenizer)
    for token, there in zip(ids, node("reader", {"text": text, "ids": ids}), strict=True):
        here = reader.expected()
        assert {int(i) for i in there["expected"]} == set(np.flatnonzero(here).tolist())
        for i, share in there["expected"].items():
            assert math.isclose(share, here[int(i)], rel_tol=0, abs_tol=1e-12)
        assert math.isclose(there["bits"], reader.read(token), abs_tol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_the_pages_reader_expects_the_same_of_random_grammars(node, seed):
    rng = random.Random(seed)
    text = a_grammar(rng)
    grammar = StoryGrammar(text)
    stories = [grammar.sample(np.random.default_rng(i)) for i in range(6)]
    tokenizer = tokenizer_of(stories[:2], 12)
    ids = [i for one in stories for i in [*tokenizer.encode(one), tokenizer.end_of_text_id]]
    node("tokenizer", tokenizer.to_json())
    reader = StoryReader(Oracle(grammar), tokenizer)
    for token, there in zip(ids, node("reader", {"text": text, "ids": ids}), strict=True):
        here = reader.expected()
        for i in range(tokenizer.vocab_size):
            share = there["expected"].get(str(i), 0.0)
            assert math.isclose(share, here[i], rel_tol=0, abs_tol=1e-12)
        reader.read(token)
    with pytest.raises(Refused, match=f"no story goes on with {ids[-1]}"):
        node("reader", {"text": text, "ids": [ids[-1]]})


def program(name):
    "A module of the page and all that it imports."
    found, waiting = set(), [name]
    while waiting:
        found.add(name := waiting.pop())
        text = (files("lm336") / "web" / name).read_text(encoding="utf-8")
        waiting += {*re.findall(r'^import .* from "\./(.+)";$', text, re.M)} - found
    return found


def test_what_the_page_downloads_for_its_reader_is_small():
    "Compressed, and without what the model has brought already."
    package = files("lm336")
    names = program("oracle-worker.js") - program("worker.js")
    assert "oracle.js" in names and "model.js" not in names
    data = [package / "web" / name for name in names] + [package / "stories.txt"]
    size = sum(len(gzip.compress(path.read_bytes(), 6)) for path in data)
    assert 30_000 < size < 60_000, "a page on a phone waits for it"
