"""Sampling against a brute force, the stream of tokens against a plain loop without cache or
batch, and what both say to bad input."""

import math
import random
from collections.abc import Generator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336 import Transformer
from lm336.errors import InputError
from lm336.generation import (
    KVCache,
    SamplingConfig,
    draw_tokens,
    generate,
    generate_stream,
    next_token_probs,
    sample,
)
from lm336.tokenizer import Tokenizer
from lm336.transformer import TransformerConfig


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def tiny_model(context_length=16, vocab_size=23, seed=0):
    "Opinions strong enough to make argmax and top-p matter."
    torch.manual_seed(seed)
    config = TransformerConfig(vocab_size, context_length, 16, num_layers=2, num_heads=2)
    model = Transformer(config).double()
    model.lm_head.weight.data *= 4
    return model


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(temperature=-0.1), "temperature is -0.1: a finite number of at least 0"),
        (dict(temperature=math.nan), "temperature is nan"),
        (dict(temperature="hot"), "temperature is 'hot'"),
        (dict(temperature=None), "temperature is None"),
        (dict(temperature=10**400), "temperature is 1000"),
        (dict(temperature=True), "temperature is True"),
        (dict(top_k=0), "top_k is 0: a whole number of at least 1 is needed, or None"),
        (dict(top_k=1.5), "top_k is 1.5"),
        (dict(top_k=math.nan), "top_k is nan"),
        (dict(top_k=math.inf), "top_k is inf"),
        (dict(top_p=0), "top_p is 0: a number above 0 and up to 1 is needed, or None"),
        (dict(top_p=1.1), "top_p is 1.1"),
        (dict(temperature=0, top_p=7), "top_p is 7"),
        (dict(min_p=-1), "min_p is -1: a number from 0 to 1 is needed, or None"),
        (dict(repetition_penalty=0), "repetition_penalty is 0: a finite number above 0"),
        (dict(repetition_penalty=None), "repetition_penalty is None"),
        (dict(seed="x"), "seed is 'x': a whole number is needed, or None"),
        (dict(seed=1.0), "seed is 1.0"),
        (dict(stop_token="x"), "stop_token is 'x'"),
        (dict(stop_strings=[""]), "stop_strings is .*: texts of at least one character"),
        (dict(stop_strings=[7]), "stop_strings is"),
        (dict(stop_strings=""), "stop_strings is"),
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_refused_when_it_is_made(bad, words):
    with pytest.raises(InputError, match=words):
        SamplingConfig(**bad)
    if "stop_strings" not in bad:
        with pytest.raises(InputError, match=words):
            tiny_model().generate([1], **bad)


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(vocab_size=0), "vocab_size is 0: a whole number from 1 to the model's 23"),
        (dict(vocab_size=24), "vocab_size is 24"),
        (dict(vocab_size=2.5), "vocab_size is 2.5"),
        (dict(max_new_tokens=-1), "max_new_tokens is -1"),
        (dict(max_new_tokens=1.5), "max_new_tokens is 1.5"),
        (dict(stop_strings="x"), "without a tokenizer"),
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(bad, words):
    with pytest.raises(InputError, match=words):
        tiny_model().generate([1], **bad)


@pytest.mark.parametrize(
    "ids, words",
    [
        ([], "the prompt is empty"),
        ([[1], []], "prompt 1 is empty"),
        ([23], "the prompt holds the token id 23: the model's are 0 to 22"),
        ([-1], "token id -1"),
        ([[1], [1] * 17], "prompt 1 has 17 tokens: the model's context holds 16"),
        ([1.5], "the prompt holds 1.5"),
        ("once", "encode the text first"),
    ],
    ids=str,
)
def test_bad_prompts_are_refused(ids, words):
    with pytest.raises(InputError, match=words):
        tiny_model().generate(ids)


def test_a_config_stays_as_it_was_checked():
    config = SamplingConfig(stop_strings="end")
    assert config.stop_strings == ("end",)
    with pytest.raises(AttributeError):
        config.temperature = -1  # pyright: ignore[reportAttributeAccessIssue]


def test_numbers_of_numpy_are_numbers():
    logits = 3 * torch.randn(30, generator=seeded(0), dtype=torch.float64)
    plain: dict[str, Any] = dict(temperature=0.75, top_k=4, top_p=0.5, min_p=0.125)
    numpys: dict[str, Any] = dict(
        temperature=np.float32(0.75),
        top_k=np.int64(4),
        top_p=np.float16(0.5),
        min_p=np.float64(0.125),
    )
    counts: dict[str, Any] = dict(max_new_tokens=np.int64(9), seed=np.int32(3))
    expected = next_token_probs(logits, SamplingConfig(**plain))
    assert torch.equal(next_token_probs(logits, SamplingConfig(**numpys)), expected)
    text = tiny_model().generate([1], **numpys, **counts)
    assert text == tiny_model().generate([1], 9, **plain, seed=3)


# ---------------------------------------------------------------- one token


def kept_by_top_p(p, top_p):
    total, nucleus = 0.0, set()
    for i in sorted(p, key=lambda i: (-p[i], i)):
        if total >= top_p:
            break
        nucleus.add(i)
        total += p[i]
    return nucleus


def brute_force(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    "Plain Python, one row."
    if temperature == 0:
        best = logits.index(max(logits))
        return [float(i == best) for i in range(len(logits))]
    scaled = [(x - max(logits)) / temperature for x in logits]
    kept = set(range(len(logits)))

    def probabilities():
        total = sum(math.exp(scaled[i]) for i in kept)
        return {i: math.exp(scaled[i]) / total for i in kept}

    if top_k is not None:
        kept = {i for i in kept if sum(x > scaled[i] for x in scaled) < top_k}
    if top_p is not None and top_p < 1:
        kept = kept_by_top_p(probabilities(), top_p)
    if min_p:
        p = probabilities()
        kept = {i for i in kept if p[i] >= min_p * max(p.values())}
    return [probabilities().get(i, 0.0) for i in range(len(logits))]


# where a uniform number or a nucleus ends on a border, rounding decides: these stay clear
@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 30),
    st.floats(0.05, 5),
    st.none() | st.integers(1, 40),
    st.none() | st.floats(0.0137, 1),
    st.none() | st.floats(0, 0.9937),
    st.integers(0, 10_000),
)
def test_filters_equal_a_brute_force(vocab, temperature, top_k, top_p, min_p, seed):
    logits = 3 * torch.randn(2, vocab, generator=seeded(seed), dtype=torch.float64)
    ours = next_token_probs(logits, SamplingConfig(temperature, top_k, top_p, min_p))
    for row, probabilities in zip(logits.tolist(), ours):
        expected = brute_force(row, temperature, top_k, top_p, min_p)
        assert np.allclose(probabilities, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extremes(dtype):
    logits = torch.tensor([1e4, 0.0, -1e4, 1e4], dtype=dtype)

    def probabilities(*setting, **more):
        return next_token_probs(logits, SamplingConfig(*setting, **more)).tolist()

    for temperature in (5e-324, 1e-46, 1e-37, 1e-3, 1.0):
        assert probabilities(temperature) == [0.5, 0, 0, 0.5]
    assert probabilities(0) == [1, 0, 0, 0]
    assert sorted(probabilities(top_k=1)) == [0, 0, 0, 1], "of a tie, one"
    for top_p in (5e-324, 1e-46, 1e-9):
        assert sum(probabilities(1e30, top_p=top_p)) == 1, "never nothing"
    assert probabilities(min_p=1.0) == [0.5, 0, 0, 0.5]
    hot = probabilities(1e300, top_k=3)
    assert hot[2] == 0 and sum(hot) == pytest.approx(1), (
        "heat does not bring back what was cut"
    )


MODES = [
    dict(),
    dict(temperature=0),
    dict(temperature=0.5),
    dict(top_k=1),
    dict(top_k=3),
    dict(top_p=0.5),
    dict(top_p=1e-46),
    dict(min_p=0.1),
    dict(temperature=0, top_k=2, top_p=0.9),
    dict(temperature=1e-46),
    dict(temperature=1.3, top_k=3, top_p=0.9, min_p=0.1),
    dict(repetition_penalty=1.3),
    dict(temperature=0, repetition_penalty=1.3),
]
NO_SCORES = dict(
    nan=[1.0, math.nan, 2.0, 0.0],
    infinite=[1.0, math.inf, 2.0, 0.0],
    nothing=4 * [-math.inf],
)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("logits", NO_SCORES.values(), ids=NO_SCORES)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_cannot_be_drawn_from_is_said(mode, logits, dtype):
    batch = torch.tensor([[3.0, 2.0, 1.0, 0.0], logits], dtype=dtype)  # one row is well
    config, seen = SamplingConfig(**mode), torch.tensor([True, False, True, False])
    for call in (
        lambda: next_token_probs(batch, config),
        lambda: next_token_probs(batch[1], config, seen),
        lambda: sample(batch, torch.tensor([0.5, 0.5]), config, seen),
    ):
        with pytest.raises(FloatingPointError, match="the largest is -?(nan|inf)"):
            call()


@pytest.mark.parametrize("mode", [*MODES, dict(temperature=1e300)], ids=str)
def test_forbidden_tokens_are_no_error(mode):
    logits, config = torch.tensor([-math.inf, 1.0, -math.inf, 1.5]), SamplingConfig(**mode)
    probabilities = next_token_probs(logits, config, torch.ones(4, dtype=torch.bool))
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[[0, 2]].tolist() == [0, 0]
    for uniform in (0.0, 0.4, 1 - 2**-24):
        assert sample(logits, torch.tensor(uniform), config).item() in (1, 3)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_broken_model_says_so(mode):
    model = tiny_model()
    model.layers[1].ffn.w2.weight.data[3, 4] = math.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        model.generate([1, 2], 30, seed=0, **mode)


def test_at_temperature_0_the_first_of_the_likeliest_is_taken():
    logits = torch.randint(0, 3, (200, 40), generator=seeded(0)).float()  # ties in every row
    first = torch.tensor([row.index(max(row)) for row in logits.tolist()])
    greedy = SamplingConfig(temperature=0)
    assert torch.equal(sample(logits, torch.full((200,), 0.999), greedy), first)
    expected = torch.nn.functional.one_hot(first, 40).float()
    assert torch.equal(next_token_probs(logits, greedy), expected)


@pytest.mark.parametrize(
    "setting",
    [
        dict(),
        dict(temperature=2.0),
        dict(top_k=4),
        dict(top_p=0.6),
        dict(min_p=0.2),
        dict(repetition_penalty=2.0),
        dict(temperature=1.7, top_k=9, top_p=0.9, min_p=0.05, repetition_penalty=0.7),
    ],
    ids=str,
)
def test_samples_follow_the_exact_distribution(setting):
    logits = torch.randn(12, generator=seeded(4))
    seen, config = torch.arange(12) % 3 == 0, SamplingConfig(**setting)
    uniforms = torch.rand(50_000, generator=seeded(2))
    counts = sample(logits.expand(50_000, -1), uniforms, config, seen).bincount(minlength=12)
    penalty = setting.get("repetition_penalty", 1.0)
    penalised = [
        x if not hit else x / penalty if x > 0 else x * penalty
        for x, hit in zip(logits.tolist(), seen.tolist())
    ]
    cuts = {name: value for name, value in setting.items() if name != "repetition_penalty"}
    p = torch.tensor(brute_force(penalised, **cuts), dtype=torch.float64)
    assert not counts[p == 0].any()
    kept = p > 0
    chi_square = ((counts[kept] - 50_000 * p[kept]) ** 2 / (50_000 * p[kept])).sum()
    assert torch.special.gammaincc((kept.sum() - 1) / 2.0, chi_square / 2) > 1e-4


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 1e-7]), min_size=1, max_size=9).filter(any),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_a_uniform_number_never_hits_what_has_no_probability(weights, uniform):
    weights = torch.tensor(weights)
    probabilities = weights / weights.sum()
    for d in (uniform, 0.0, 1 - 2**-24):
        assert probabilities[draw_tokens(probabilities, torch.tensor(d))] > 0


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 3.0])
def test_the_repetition_penalty_is_hugging_faces(penalty):
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = 3 * torch.randn(5, 40, generator=seeded(0), dtype=torch.float64)
    ids = torch.randint(40, (5, 12), generator=seeded(1))
    theirs = process.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    seen = torch.zeros(5, 40, dtype=torch.bool).scatter_(1, ids, True)
    ours = next_token_probs(logits, SamplingConfig(repetition_penalty=penalty), seen)
    torch.testing.assert_close(ours, theirs.softmax(-1))


# ---------------------------------------------------------------- many tokens


def without_cache(model, prompt, count, config, stop_token=None):
    "The definition: one row, no cache, all that is in view read for every token."
    text, view, context = list(prompt), list(prompt), model.config.context_length
    for uniform in torch.rand(count, generator=seeded(config.seed % 2**63)):
        if len(view) > context:
            view = view[-max(1, context // 2) :]
        with torch.no_grad():
            logits = model(torch.tensor([view]))[0, -1]
        seen = torch.zeros(len(logits), dtype=torch.bool)
        seen[[i for i in text if i < len(logits)]] = True
        i = sample(logits, uniform, config, seen).item()
        text.append(i)
        view.append(i)
        if i == stop_token:
            break
    return text


SETTINGS = [
    dict(temperature=0),
    dict(temperature=1.0),
    dict(temperature=0.7, top_k=5),
    dict(temperature=1.5, top_p=0.8),
    dict(temperature=1.2, min_p=0.1),
    dict(temperature=0, repetition_penalty=1.5),
    dict(top_k=7, repetition_penalty=1.3),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("context_length", [16, 7, 2, 1])
def test_cached_equals_uncached_also_beyond_the_context(setting, context_length):
    model, config = tiny_model(context_length), SamplingConfig(seed=3, **setting)
    for length in {1, context_length // 2 or 1, context_length}:
        prompt = list(range(length))
        expected = without_cache(model, prompt, 40, config)
        assert generate(model, prompt, 40, config) == expected


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 22), min_size=1, max_size=16), min_size=1, max_size=5),
    st.sampled_from(SETTINGS),
    st.integers(0, 40),
    st.none() | st.integers(0, 22),
    st.integers(0, 2**63),
)
def test_a_row_in_a_batch_is_the_row_alone(prompts, setting, count, stop_token, seed):
    model = tiny_model()
    together = model.generate(prompts, count, seed=seed, stop_token=stop_token, **setting)
    for n, prompt in enumerate(prompts):
        config = SamplingConfig(seed=seed + n, stop_token=stop_token, **setting)
        alone = generate(model, prompt, count, config)
        assert together[n] == alone
        assert alone == without_cache(model, prompt, count, config, stop_token)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_ids_from_vocab_size_on_are_never_drawn(setting):
    "Equal to a model whose head ends there, though what lies beyond is likelier."
    model, smaller = tiny_model(), tiny_model()
    model.lm_head.weight.data[17:] = 100 * model.lm_head.weight.data[:6].abs()
    head = smaller.lm_head.weight.data[:17].clone()
    smaller.lm_head.weight = torch.nn.Parameter(head)
    prompts = [[1, 2, 22], [3]]  # what may be read is another question
    for seed in range(3):
        together = model.generate(prompts, 40, seed=seed, vocab_size=17, **setting)
        for n, prompt in enumerate(prompts):
            assert max(together[n][len(prompt) :]) < 17
            config = SamplingConfig(seed=seed + n, **setting)
            assert together[n] == without_cache(smaller, prompt, 40, config)
    if setting == SETTINGS[1]:
        assert max(model.generate([1], 40, seed=0)) >= 17, "this test would prove nothing"


def test_a_text_longer_than_any_block_of_random_numbers():
    model, prompts = tiny_model(context_length=320), [[1], list(range(20))]
    together = model.generate(prompts, 300, seed=4)
    assert together[0] == without_cache(model, prompts[0], 300, SamplingConfig(seed=4))
    assert together[1] == model.generate(prompts[1], 300, seed=5)


@pytest.mark.parametrize("count", [10**6, 10**15, 10**30])
def test_the_first_token_does_not_wait_for_all_that_were_asked_for(count):
    "A number for each would not fit into any memory."
    model, config = tiny_model(context_length=2**14), SamplingConfig(seed=1)
    for prompts in ([1, 2], [[1, 2], [3]]):
        first = next(generate_stream(model, prompts, count, config))
        assert first.id == generate(model, [1, 2], 1, config)[-1]


def test_a_token_brings_the_logits_it_was_drawn_from():
    model, prompts, greedy = tiny_model(), [[1, 2, 3], [4]], SamplingConfig(temperature=0)
    tokens = list(generate_stream(model, prompts, 20, greedy, vocab_size=11))
    assert [token.row for token in tokens] == [0, 1] * 20
    for token in tokens:
        assert token.logits.shape == (11,) and token.logits.argmax() == token.id
        assert token.text == "" and not token.cut


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_logprob_is_the_models_own_whatever_the_sampling(dtype):
    model = tiny_model().to(dtype)
    config = SamplingConfig(2.0, 5, 0.9, 0.01, repetition_penalty=1.5, seed=0)
    text = [1, 2, 3]
    for token in generate_stream(model, text, 12, config):
        with torch.no_grad():
            logits = model(torch.tensor([text]))[0, -1]
        exact = logits.double().log_softmax(-1)[token.id].item()
        scale = dict(bfloat16=0.3, float32=1e-4, float64=1e-12)[str(dtype)[6:]]
        assert token.logprob == pytest.approx(exact, abs=scale)
        of_its_own = torch.log_softmax(token.logits.double(), -1)[token.id].item()
        assert token.logprob == pytest.approx(of_its_own, abs=1e-12)
        text.append(token.id)


def test_stop_token_ends_a_row_and_is_kept():
    model = tiny_model()
    whole = model.generate([1, 2], 30, temperature=0)
    stop = whole[10]
    stopped = model.generate([1, 2], 30, temperature=0, stop_token=stop)
    assert stopped == whole[: whole.index(stop, 2) + 1]
    config = SamplingConfig(temperature=0, stop_token=stop)
    assert len(list(generate_stream(model, [1, 2], 30, config))) == len(stopped) - 2


def test_a_stream_gives_what_generate_collects():
    model, config = tiny_model(), SamplingConfig(seed=1, stop_token=5)
    rows = [[1, 2, 3], [4]]
    whole = generate(model, rows, 25, config)
    for token in generate_stream(model, rows, 25, config):
        rows[token.row].append(token.id)
    assert rows == whole
    assert all(row.count(5) <= 1 and (5 not in row or row[-1] == 5) for row in rows)


def test_a_stream_that_is_left_does_no_more_work():
    model, steps = tiny_model(), []
    model.register_forward_hook(lambda *_: steps.append(1))
    stream = generate_stream(model, [1], 50)
    next(stream)
    assert isinstance(stream, Generator)
    stream.close()
    assert len(steps) <= 1


def test_prompts_as_lists_tensors_and_arrays_come_back_as_lists():
    model, expected = tiny_model(), tiny_model().generate([1, 2, 3], 5, seed=0)
    assert all(type(i) is int for i in expected)
    array = np.array([1, 2, 3], dtype=np.uint16)
    for ids in (torch.tensor([1, 2, 3]), array, (1, 2, 3), [np.int64(1), 2, 3]):
        result = model.generate(ids, 5, seed=0)
        assert result == expected and all(type(i) is int for i in result)
    assert model.generate(torch.tensor([[1, 2, 3]]), 5, seed=0) == [expected]
    prompt = [1, 2, 3]
    assert model.generate(prompt, 0) == prompt and prompt == [1, 2, 3]


def test_seeds():
    model = tiny_model()
    one = model.generate([1], 20, seed=1)
    assert one == model.generate([1], 20, seed=1) != model.generate([1], 20, seed=2)
    assert one[:11] == model.generate([1], 10, seed=1)
    same = model.generate([[1]] * 3, 20, seed=1)
    assert same[0] != same[1] != same[2]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.generate([1], 5, seed=1)
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"
    first = model.generate([1], 20)
    torch.manual_seed(0)
    assert first == model.generate([1], 20) != model.generate([1], 20)


def test_training_goes_on_after_generation():
    model = tiny_model()
    model.generate([1], 3)
    model(torch.tensor([[1, 2]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# ---------------------------------------------------------------- texts and where they end


PAIRS = [a + b for a, b in product("abé", repeat=2)]


def letters(num_rows=23):
    "Tokens of one or two letters, two half characters among them, and a model of them."
    tokens = [*(text.encode() for text in ["a", "b", *PAIRS, "aba", "bab"]), b"\xc3", b"\xa9"]
    tokens += [bytes([i]) for i in range(256) if bytes([i]) not in tokens]
    tokenizer = Tokenizer(dict(enumerate(tokens)), [])
    return tiny_model(vocab_size=num_rows), tokenizer


def ended(text, stops):
    "A text up to the stop string that is complete first."
    data, ends = text.encode(), []
    for stop in stops:
        place = data.find(stop.encode())
        if place >= 0:
            ends.append((place + len(stop.encode()), place))
    return data[: min(ends)[1]].decode() if ends else text


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 10**6),
    st.integers(0, 40),
)
def test_a_text_ends_before_its_stop_string_wherever_tokens_end(stops, seed, count):
    model, tokenizer = letters(num_rows=15)  # the half characters are never drawn
    config = SamplingConfig(seed=seed)
    whole = tokenizer.decode(generate(model, [0], count, config)[1:])
    config = SamplingConfig(seed=seed, stop_strings=stops)
    tokens = list(generate_stream(model, [0], count, config, tokenizer, vocab_size=15))
    text = "".join(token.text for token in tokens)
    assert text == ended(whole, stops)
    assert [token.cut for token in tokens[:-1]] == [False] * len(tokens[:-1])
    ids = generate(model, [0], count, config, tokenizer, vocab_size=15)[1:]
    assert ids == [token.id for token in tokens if not token.cut]
    assert text.startswith(tokenizer.decode(ids))
    if tokens and not tokens[-1].cut:
        assert tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans())
def test_the_pieces_of_any_bytes_are_the_text(seed, count, with_stop):
    "Also of half characters; with a stop string that never comes, no token is lost."
    model, tokenizer = letters()
    stops = ["abz"] if with_stop else []
    config = SamplingConfig(seed=seed, stop_strings=stops)
    tokens = list(generate_stream(model, [0], count, config, tokenizer, vocab_size=23))
    ids = generate(model, [0], count, SamplingConfig(seed=seed))[1:]
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == tokenizer.decode(ids)


def test_rows_of_a_batch_end_at_stop_strings_of_their_own():
    model, tokenizer = letters(num_rows=15)
    config = SamplingConfig(seed=2, stop_strings=("aé", "bb"))
    prompts = [[0], [1, 2, 3], [4, 4]]
    told = ["", "", ""]
    for token in generate_stream(model, prompts, 40, config, tokenizer, vocab_size=15):
        told[token.row] += token.text
    for n, prompt in enumerate(prompts):
        ids = generate(model, prompt, 40, SamplingConfig(seed=2 + n))[len(prompt) :]
        assert told[n] == ended(tokenizer.decode(ids), config.stop_strings)
    assert len(set(map(len, told))) > 1, "this test would prove little"


def test_ids_that_the_tokenizer_lacks_are_never_drawn():
    "Rows of the model that no token belongs to, and they are the likeliest."
    model = tiny_model(vocab_size=300)
    model.lm_head.weight.data[256:] *= 100
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])
    config = SamplingConfig(seed=0)
    tokens = list(generate_stream(model, [1], 60, config, tokenizer))
    assert max(token.id for token in tokens) < 256
    assert max(generate(model, [1], 60, config)) >= 256, "this test would prove nothing"
    assert all(token.logits.shape == (256,) for token in tokens)
    assert [1, *(token.id for token in tokens)] == generate(model, [1], 60, config, None, 256)


def test_a_cache_holds_what_it_was_given_and_no_more():
    config = TransformerConfig(5, 8, 8, num_layers=2, num_heads=2)
    cache = KVCache(config, 1, max_seq_len=3)
    k = torch.randn(1, 2, 3, 4)
    keys, values = cache.append(1, k, -k)
    assert torch.equal(keys, k) and torch.equal(values, -k)
    cache.advance(3)
    with pytest.raises(InputError, match="the cache holds 3 tokens, and 4 are asked for"):
        cache.append(1, k[:, :, :1], k[:, :, :1])


def test_settings_stop_strings_and_batches_together():
    "Each row against the row alone."
    model, tokenizer = letters(num_rows=15)
    rng = random.Random(0)
    for _ in range(10):
        setting: dict[str, Any] = dict(rng.choice(SETTINGS), stop_strings=rng.sample(PAIRS, 2))
        prompts = [rng.choices(range(15), k=rng.randint(1, 16)) for _ in range(3)]
        config = SamplingConfig(seed=rng.randrange(100), **setting)
        together = generate(model, prompts, 30, config, tokenizer, vocab_size=15)
        for n, prompt in enumerate(prompts):
            alone = SamplingConfig(seed=(config.seed or 0) + n, **setting)
            expected = generate(model, prompt, 30, alone, tokenizer, vocab_size=15)
            assert together[n] == expected
