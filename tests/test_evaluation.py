"Scores against a brute force in float64: every token by itself, from its own window."

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.errors import END_OF_TEXT, InputError
from lm336.evaluation import (
    Evaluation,
    below_floor,
    entropy_floor,
    evaluate,
    sliding_windows,
    token_losses,
)
from lm336.grammar import StoryGrammar, write_stories
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

CONTEXT, VOCAB = 8, 50


def tiny_model(vocab_size=VOCAB, context_length=CONTEXT):
    "Untrained, with weights large enough for every token of the context to count."
    torch.manual_seed(0)
    return Transformer(
        TransformerConfig(vocab_size, context_length, d_model=16, num_layers=2, num_heads=2)
    )


def some_tokens(count):
    return np.random.default_rng(0).integers(VOCAB, size=count).astype(np.uint16)


def surprise_by_brute_force(model, tokens, start_id, stride):
    """Nats of each token in float64, one call of the model for each.

    The first window scores all that fits into the context; each of the others ends `stride`
    later, or with the text. A token is predicted from what is in the first window that ends
    behind it, and from the one id before that window.
    """
    exact = copy.deepcopy(model).double().eval()
    text = [int(token) for token in tokens]
    size = min(model.config.context_length, len(text))
    nats = []
    for place, token in enumerate(text):
        end = size
        while end <= place:
            end = min(end + stride, len(text))
        begin = end - size
        before = [start_id if begin == 0 else text[begin - 1], *text[begin:place]]
        with torch.no_grad():
            logits = exact(torch.tensor([before]))[0, -1]
        nats.append(-logits.log_softmax(-1)[token].item())
    return np.array(nats)


# ---------------------------------------------------------------- the windows


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_score_every_token_once_and_give_each_what_it_can_have(
    num_tokens, context, data
):
    stride = data.draw(st.integers(1, context))
    scored = []
    for begin, end, first in sliding_windows(num_tokens, context, stride):
        assert end - begin == min(context, num_tokens), "all are of one length"
        assert 0 <= begin <= first < end <= num_tokens
        assert begin == 0 or first - begin >= context - stride, "too little in front"
        scored += range(first, end)
    assert scored == list(range(num_tokens))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_no_window_is_for_nothing(num_tokens, context, data):
    "Each but the last scores as many tokens as it may: the model reads no more than it must."
    stride = data.draw(st.integers(1, context))
    sizes = [end - first for _, end, first in sliding_windows(num_tokens, context, stride)]
    assert sizes[0] == min(context, num_tokens)
    assert all(size == stride for size in sizes[1:-1])
    assert len(sizes) == 1 or 1 <= sizes[-1] <= stride


@pytest.mark.parametrize("stride", [0, -1, CONTEXT + 1])
def test_a_stride_that_leaves_tokens_out_is_refused(stride):
    with pytest.raises(InputError, match=f"stride is {stride}"):
        sliding_windows(100, CONTEXT, stride)
    with pytest.raises(InputError, match=f"stride is {stride}"):
        token_losses(tiny_model(), some_tokens(20), stride=stride)


# ---------------------------------------------------------------- each token's surprise


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
    expected = surprise_by_brute_force(model, tokens, 0, CONTEXT // 2)
    np.testing.assert_allclose(token_losses(model, tokens, 0), expected, atol=1e-4)


def test_a_context_of_one_token_can_be_scored():
    model, tokens = tiny_model(context_length=1), some_tokens(10)
    expected = surprise_by_brute_force(model, tokens, 3, 1)
    np.testing.assert_allclose(token_losses(model, tokens, 3), expected, atol=1e-4)


@pytest.mark.parametrize("stride, batch_size", [(4, 32), (CONTEXT, 1)])
def test_where_nothing_comes_first_the_first_token_costs_a_guess(stride, batch_size):
    model, tokens = tiny_model(), some_tokens(30)
    ours = token_losses(model, tokens, None, stride, batch_size)
    expected = surprise_by_brute_force(model, tokens, 0, stride)
    assert math.isclose(ours[0], math.log(VOCAB), rel_tol=1e-6)
    later = slice(CONTEXT, None)  # the first window begins with an id that nobody gave
    np.testing.assert_allclose(ours[later], expected[later], atol=1e-4)


def test_a_batch_of_windows_changes_nothing_and_the_model_stays_as_it_was():
    model, tokens = tiny_model(), some_tokens(60)
    for training in (True, False):
        model.train(training)
        scores = [token_losses(model, tokens, 0, 2, batch_size=size) for size in (1, 5, 1000)]
        assert model.training == training
        for score in scores[1:]:
            np.testing.assert_allclose(score, scores[0], atol=1e-4)


def test_tokens_may_come_in_any_kind_of_row():
    model, tokens = tiny_model(), some_tokens(20)
    for same in (tokens.tolist(), tuple(tokens), tokens.astype(np.int32)):
        assert np.array_equal(token_losses(model, same, 0), token_losses(model, tokens, 0))


def test_a_text_without_tokens_is_refused():
    with pytest.raises(InputError, match="no tokens"):
        token_losses(tiny_model(), some_tokens(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_named(bad):
    "The first window is answered as it should be, the second is not."
    model, tokens = tiny_model(), some_tokens(2 * CONTEXT)
    calls = []

    def spoil(module, inputs, logits):
        calls.append(logits)
        return logits if len(calls) == 1 else torch.full_like(logits, bad)

    hook = model.lm_head.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=f"token {CONTEXT} is not a number"):
        token_losses(model, tokens, 0, stride=CONTEXT, batch_size=1)
    hook.remove()
    assert model.training, "as it was"


# ---------------------------------------------------------------- the score


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    "A few stories, and a tokenizer trained on them."
    path = tmp_path_factory.mktemp("stories") / "stories.txt"
    write_stories(path, 5_000, seed=0)
    return path, Tokenizer.train(path, 300, special_tokens=[END_OF_TEXT])


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary(stories):
    path, tokenizer = stories
    text = path.read_text(encoding="utf-8")
    tokens = np.array(tokenizer.encode(text))
    model = tiny_model(tokenizer.vocab_size)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    score = evaluate(model, tokens, tokenizer, floor=0.25)
    each = math.log(tokenizer.vocab_size)
    num_bytes = len(text.replace(END_OF_TEXT, "").encode("utf-8"))
    assert score.num_tokens == len(tokens)
    assert score.num_bytes == num_bytes, "the end of a text has no bytes"
    bits_per_byte = len(tokens) * each / math.log(2) / num_bytes
    assert score.nats == pytest.approx(len(tokens) * each, rel=1e-5)
    assert score.nats_per_token == pytest.approx(each, rel=1e-5)
    assert score.perplexity == pytest.approx(tokenizer.vocab_size, rel=1e-4)
    assert score.bits_per_byte == pytest.approx(bits_per_byte, rel=1e-5)
    assert score.gap == pytest.approx(score.bits_per_byte / 0.25 - 1, rel=1e-9)


def test_evaluate_begins_with_the_end_of_a_text_and_adds_up_the_brute_force(stories):
    path, tokenizer = stories
    tokens = np.array(tokenizer.encode(path.read_text(encoding="utf-8")))[:60]
    model = tiny_model(tokenizer.vocab_size)
    for stride in (2, CONTEXT):
        nats = surprise_by_brute_force(model, tokens, tokenizer.end_of_text_id, stride)
        score = evaluate(model, tokens, tokenizer, stride=stride)
        assert score.nats == pytest.approx(nats.sum(), rel=1e-5)


def scored(bits_per_byte, floor):
    "A score of so many bits per byte over a thousand bytes."
    nats = bits_per_byte * math.log(2) * 1000
    return Evaluation(nats=nats, num_tokens=300, num_bytes=1000, floor=floor)


def test_the_gap_is_the_share_above_the_floor():
    assert scored(0.6, floor=0.5).gap == pytest.approx(0.2)
    assert scored(0.4, floor=0.5).gap == pytest.approx(-0.2)
    assert scored(0.6, floor=None).gap is None


def test_a_score_reads_as_a_sentence():
    assert "20.0% above the entropy floor of 0.5000" in str(scored(0.6, floor=0.5))
    assert "20.0% below the entropy floor of 0.5000" in str(scored(0.4, floor=0.5))
    assert "; 14.0 times the entropy floor of 0.5000" in str(scored(7.0, floor=0.5))
    assert "floor" not in str(scored(0.6, floor=None))
    assert "0.6000 bits per byte" in str(scored(0.6, floor=None))


@pytest.mark.parametrize(
    "bits_per_byte, rings",
    [
        (0.25, True),
        (0.49, True),
        (0.498, False),
        (0.5, False),
        (0.502, False),
        (0.51, False),
        (0.75, False),
    ],
)
def test_the_alarm_rings_below_the_floor_and_nowhere_else(bits_per_byte, rings):
    said = below_floor(scored(bits_per_byte, floor=0.5))
    assert bool(said) == rings, said
    if rings:
        assert f"{bits_per_byte:.4f}" in said and "0.5000" in said


def test_the_alarm_has_a_tolerance_and_needs_a_floor():
    assert not below_floor(scored(0.45, floor=0.5), tolerance=0.2)
    assert below_floor(scored(0.35, floor=0.5), tolerance=0.2)
    assert below_floor(scored(0.01, floor=None)) == ""


def test_a_floor_is_known_for_the_stories_alone(stories, tmp_path):
    path, _ = stories
    assert entropy_floor("stories:5", path) == StoryGrammar().file_bits_per_byte(path) > 0
    assert entropy_floor(str(path), path) is None, "who says that these are all stories?"
    (tmp_path / "mine.txt").write_text("Nobody knows the entropy of this.\n")
    unknown = entropy_floor("stories", tmp_path / "mine.txt")
    assert unknown is None, "no story of the grammar"
