"Scores against a brute force in float64: every token by itself, from its own window."
import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.grammar import StoryGrammar, write_stories
from lm336.errors import END_OF_TEXT, InputError
from lm336.evaluation import Evaluation, below_floor, entropy_floor, evaluate, token_losses, windows
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

CONTEXT, VOCAB = 8, 50


def tiny_model(vocab_size=VOCAB, context_length=CONTEXT):
    "Untrained, with weights large enough for every token of the context to count."
    torch.manual_seed(0)
    shape = dict(d_model=16, num_layers=2, num_heads=2)
    return Transformer(TransformerConfig(vocab_size=vocab_size, context_length=context_length, **shape))


def some_tokens(count):
    return np.random.default_rng(0).integers(VOCAB, size=count).astype(np.uint16)


def surprise_by_brute_force(model, tokens, start_id, stride):
    """Nats of each token in float64, one call of the model for each.

    The first window scores all that fits into the context; each of the others ends `stride` later, or with the text.
    A token is predicted from what is in the first window that ends behind it, and from the one id before that window.
    """
    exact, tokens = copy.deepcopy(model).double().eval(), [int(token) for token in tokens]
    size = min(model.config.context_length, len(tokens))
    nats = []
    for place, token in enumerate(tokens):
        end = size
        while end <= place:
            end = min(end + stride, len(tokens))
        begin = end - size
        before = [start_id if begin == 0 else tokens[begin - 1], *tokens[begin:place]]
        with torch.no_grad():
            logits = exact(torch.tensor([before]))[0, -1]
        nats.append(-logits.log_softmax(-1)[token].item())
    return np.array(nats)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_score_every_token_once_and_give_each_what_it_can_have(num_tokens, context, data):
    stride = data.draw(st.integers(1, context))
    spans, scored = windows(num_tokens, context, stride), []
    for begin, end, first in spans:
        assert end - begin == min(context, num_tokens) and 0 <= begin <= first < end
        scored += range(first, end)
        assert begin == 0 or first - begin >= context - stride, "too little is in front of what is scored"
    assert scored == list(range(num_tokens))


@pytest.mark.parametrize("stride", [0, -1, CONTEXT + 1])
def test_a_stride_that_leaves_tokens_out_is_refused(stride):
    with pytest.raises(InputError, match=f"stride is {stride}"):
        windows(100, CONTEXT, stride)


@pytest.mark.parametrize("stride", [1, 3, CONTEXT])
@pytest.mark.parametrize("count", [1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT + 5])
def test_token_losses_equal_the_brute_force(count, stride):
    model, tokens = tiny_model(), some_tokens(count)
    for start_id in (0, 7):
        ours = token_losses(model, tokens, start_id, stride, batch_size=3)
        expected = surprise_by_brute_force(model, tokens, start_id, stride)
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_half_of_the_context_is_the_stride_unless_another_is_asked_for():
    model, tokens = tiny_model(), some_tokens(40)
    ours = token_losses(model, tokens, 0)
    np.testing.assert_allclose(ours, surprise_by_brute_force(model, tokens, 0, CONTEXT // 2), atol=1e-4)


def test_where_nothing_comes_first_the_first_token_costs_a_guess():
    model, tokens = tiny_model(), some_tokens(30)
    ours = token_losses(model, tokens, None, stride=4)
    expected = surprise_by_brute_force(model, tokens, 0, 4)
    assert math.isclose(ours[0], math.log(VOCAB), rel_tol=1e-6)
    later = slice(CONTEXT, None)      # out of the first window, which begins with an id that nobody gave
    np.testing.assert_allclose(ours[later], expected[later], atol=1e-4)


def test_a_batch_of_windows_changes_nothing_and_the_model_stays_as_it_was():
    model, tokens = tiny_model(), some_tokens(60)
    for training in (True, False):
        model.train(training)
        scores = [token_losses(model, tokens, 0, 2, batch_size=size) for size in (1, 5, 1000)]
        assert model.training == training
        for score in scores[1:]:
            np.testing.assert_allclose(score, scores[0], atol=1e-4)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(InputError, match="no tokens"):
        token_losses(tiny_model(), some_tokens(0))


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    "A few stories, and a tokenizer trained on them."
    path = tmp_path_factory.mktemp("stories") / "stories.txt"
    write_stories(path, 5_000, seed=0)
    return path, Tokenizer.train(path, 300, special_tokens=[END_OF_TEXT])


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary_for_each_token(stories):
    path, tokenizer = stories
    text = path.read_text(encoding="utf-8")
    tokens = np.array(tokenizer.encode(text))
    model = tiny_model(tokenizer.vocab_size)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    score = evaluate(model, tokens, tokenizer, floor=0.25)
    nats, num_bytes = len(tokens) * math.log(tokenizer.vocab_size), len(text.replace(END_OF_TEXT, "").encode("utf-8"))
    assert (score.num_tokens, score.num_bytes) == (len(tokens), num_bytes), "the end of a text has no bytes"
    assert math.isclose(score.nats, nats, rel_tol=1e-5)
    assert math.isclose(score.nats_per_token, math.log(tokenizer.vocab_size), rel_tol=1e-5)
    assert math.isclose(score.perplexity, tokenizer.vocab_size, rel_tol=1e-4)
    assert math.isclose(score.bits_per_byte, nats / math.log(2) / num_bytes, rel_tol=1e-5)
    assert math.isclose(score.gap, score.bits_per_byte / 0.25 - 1, rel_tol=1e-9)


def test_evaluate_begins_with_the_end_of_a_text_and_adds_up_what_the_brute_force_finds(stories):
    path, tokenizer = stories
    tokens = np.array(tokenizer.encode(path.read_text(encoding="utf-8")))[:60]
    model = tiny_model(tokenizer.vocab_size)
    for stride in (2, CONTEXT):
        expected = surprise_by_brute_force(model, tokens, tokenizer.end_of_text_id, stride).sum()
        assert math.isclose(evaluate(model, tokens, tokenizer, stride=stride).nats, expected, rel_tol=1e-5)


def scored(bits_per_byte, floor):
    "A score of so many bits per byte over a thousand bytes."
    return Evaluation(nats=bits_per_byte * math.log(2) * 1000, num_tokens=300, num_bytes=1000, floor=floor)


def test_the_gap_is_the_share_above_the_floor():
    assert math.isclose(scored(0.6, floor=0.5).gap, 0.2) and math.isclose(scored(0.4, floor=0.5).gap, -0.2)
    assert scored(0.6, floor=None).gap is None
    assert "20.0% above the entropy floor" in str(scored(0.6, floor=0.5))
    assert "20.0% below the entropy floor" in str(scored(0.4, floor=0.5))
    assert "floor" not in str(scored(0.6, floor=None))


@pytest.mark.parametrize("bits_per_byte, rings", [(0.25, True), (0.49, True), (0.498, False), (0.5, False), (0.502, False),
                                                  (0.51, False), (0.75, False)])
def test_the_alarm_rings_below_the_floor_and_nowhere_else(bits_per_byte, rings):
    said = below_floor(scored(bits_per_byte, floor=0.5))
    assert bool(said) == rings, said
    assert not rings or f"{bits_per_byte:.4f}" in said and "0.5000" in said


def test_the_alarm_has_a_tolerance_and_needs_a_floor():
    assert not below_floor(scored(0.45, floor=0.5), tolerance=0.2) and below_floor(scored(0.35, floor=0.5), tolerance=0.2)
    assert below_floor(scored(0.01, floor=None)) == ""


def test_a_floor_is_known_for_the_stories_alone(stories, tmp_path):
    path, _ = stories
    assert entropy_floor("stories:5", path) == StoryGrammar().file_bits_per_byte(path) > 0
    assert entropy_floor(str(path), path) is None, "who says that these are all stories?"
    (tmp_path / "mine.txt").write_text("Nobody knows the entropy of this.\n")
    assert entropy_floor("stories", tmp_path / "mine.txt") is None, "no story of the grammar"
