"Sampling against a brute force, generation against one without cache or batch, and what they say to bad input."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lm336 import Transformer
from lm336.errors import InputError
from lm336.generation import Decoder, draw, generate_stream, next_token_probs, sample
from lm336.transformer import TransformerConfig


def tiny_model(context_length=16, vocab_size=23, seed=0):
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(vocab_size, context_length, d_model=16, num_layers=2, num_heads=2)).double()
    for p in model.lm_head.parameters(): p.data *= 4     # opinions strong enough to make argmax and top-p matter
    return model


def brute_force(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    "Plain Python, one row at a time."
    if temperature == 0:
        best = logits.index(max(logits))
        return [float(i == best) for i in range(len(logits))]
    scaled = [(x - max(logits)) / temperature for x in logits]
    kept = set(range(len(logits)))
    if top_k is not None: kept = {i for i in kept if sum(x > scaled[i] for x in scaled) < top_k}
    def probs():
        total = sum(math.exp(scaled[i]) for i in kept)
        return {i: math.exp(scaled[i]) / total for i in kept}
    if top_p is not None and top_p < 1:
        p, total, nucleus = probs(), 0.0, set()
        for i in sorted(kept, key=lambda i: (-p[i], i)):
            if total >= top_p: break
            nucleus.add(i); total += p[i]
        kept = nucleus
    if min_p:
        p = probs()
        kept = {i for i in kept if p[i] >= min_p * max(p.values())}
    return [probs().get(i, 0.0) for i in range(len(logits))]


# where a dart or a nucleus ends exactly on a border, rounding decides: the settings below stay clear of that
@settings(deadline=None, max_examples=200)
@given(st.integers(1, 30), st.floats(0.05, 5), st.none() | st.integers(1, 40), st.none() | st.floats(0.0137, 1), st.none() | st.floats(0, 0.9937), st.integers(0, 10_000))
def test_filters_equal_a_brute_force(vocab, temperature, top_k, top_p, min_p, seed):
    logits = 3 * torch.randn(2, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ours = next_token_probs(logits, temperature, top_k, top_p, min_p)
    for row, probabilities in zip(logits.tolist(), ours):
        assert np.allclose(probabilities, brute_force(row, temperature, top_k, top_p, min_p), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extremes(dtype):
    logits = torch.tensor([1e4, 0.0, -1e4, 1e4], dtype=dtype)
    for temperature in (1e-37, 1e-3, 1.0): assert next_token_probs(logits, temperature).tolist() == [0.5, 0, 0, 0.5]
    assert next_token_probs(logits, 0).tolist() == [1, 0, 0, 0]
    assert sorted(next_token_probs(logits, 1.0, top_k=1).tolist()) == [0, 0, 0, 1]        # of a tie, one
    assert next_token_probs(logits, 1e30, top_p=1e-9).sum() == 1                          # never nothing
    assert next_token_probs(logits, 1.0, min_p=1.0).tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize("setting", [dict(), dict(temperature=2.0), dict(top_k=4), dict(top_p=0.6), dict(min_p=0.2), dict(temperature=1.7, top_k=9, top_p=0.9, min_p=0.05)], ids=str)
def test_samples_follow_the_filtered_distribution(setting):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(4))
    counts = sample(logits.expand(50_000, -1), torch.rand(50_000, generator=torch.Generator().manual_seed(2)), **setting).bincount(minlength=12)
    p = next_token_probs(logits, **setting).double()
    assert not counts[p == 0].any()
    kept = p > 0
    chi_square = ((counts[kept] - 50_000 * p[kept])**2 / (50_000 * p[kept])).sum()
    assert torch.special.gammaincc((kept.sum() - 1) / 2.0, chi_square / 2) > 1e-4


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 1e-7]), min_size=1, max_size=9).filter(any), st.floats(0, 1, exclude_max=True, width=32))
def test_a_dart_never_hits_what_has_no_probability(weights, dart):
    weights = torch.tensor(weights)
    probabilities = weights / weights.sum()
    for d in (dart, 0.0, 1 - 2**-24):
        assert probabilities[draw(probabilities, torch.tensor(d))] > 0


@pytest.mark.parametrize("bad, words", [
    (dict(temperature=-0.1), "temperature is -0.1"), (dict(temperature=math.nan), "temperature is nan"), (dict(temperature="hot"), "temperature is 'hot'"),
    (dict(top_k=0), "top_k is 0"), (dict(top_k=1.5), "top_k is 1.5"), (dict(top_p=0), "top_p is 0"), (dict(top_p=1.1), "top_p is 1.1"), (dict(min_p=-1), "min_p is -1"),
    (dict(max_new_tokens=-1), "max_new_tokens is -1"), (dict(seed="x"), "seed is 'x'")])
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(InputError, match=words): tiny_model().generate([1], **bad)


@pytest.mark.parametrize("ids, words", [
    ([], "the prompt is empty"), ([[1], []], "prompt 1 is empty"), ([23], "the prompt holds the token id 23: this model's vocabulary is 0 to 22"), ([-1], "token id -1"),
    ([[1], [1] * 17], "prompt 1 has 17 tokens: this model's context holds 16"), ([1.5], "token ids are whole numbers"), ("once", "encode the text first")])
def test_bad_prompts_are_refused(ids, words):
    with pytest.raises(InputError, match=words): tiny_model().generate(ids)


def without_cache(model, prompt, count, seed, stop_token=None, **setting):
    "The definition: one row, no cache, the whole view read for every token."
    text, view, context = list(prompt), list(prompt), model.config.context_length
    for dart in torch.rand(count, generator=torch.Generator().manual_seed(seed)):
        if len(view) > context: view = view[-max(1, context // 2):]
        with torch.no_grad(): logits = model(torch.tensor([view]))[0, -1]
        i = sample(logits, dart, **setting).item()
        text.append(i); view.append(i)
        if i == stop_token: break
    return text


def opinionated(num_rows, dtype=torch.float64, **options):
    "A model whose norms' weights are not all 1."
    torch.manual_seed(num_rows)
    model = Transformer(TransformerConfig(**(dict(vocab_size=40, context_length=24, d_model=32, num_layers=3, num_heads=4) | options)))
    for name, p in model.named_parameters():
        if "ln" in name: p.data.uniform_(0.5, 2)
    return model.to(dtype)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("start", [[0], [0, 0, 0], [3, 0], [7, 1, 0, 5, 2]])
def test_decoder_equals_the_model(start, dtype, tolerance, tie_embeddings):
    model, rows = opinionated(len(start), dtype, tie_embeddings=tie_embeddings), len(start)
    ids = torch.randint(40, (rows, 24), generator=torch.Generator().manual_seed(0))
    start = start if any(start) else None
    assert Decoder.fits(model)
    with torch.inference_mode():
        plain, fast = model.new_cache(rows, start=start), model.new_cache(rows, start=start)
        model(ids[:, :8], plain), model(ids[:, :8], fast)
        decoder = Decoder(model, rows)
        for new in ids[:, 8:].T:
            ours, theirs = decoder(new, fast), model(new[:, None], plain)[:, -1]
            assert ours.dtype == dtype and (ours - theirs).norm() < tolerance * theirs.norm()
        for a, b in zip(fast, plain):
            assert a.length == b.length == 24
            for mine, its in ((a.keys[:, :, 8:], b.keys[:, :, 8:]), (a.values[:, :, 8:], b.values[:, :, 8:])): assert (mine - its).norm() < tolerance * its.norm()


def test_the_decoder_steps_only_what_it_knows(monkeypatch):
    calls, step = [], Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, *args: calls.append(1) or step(self, *args))
    def used(model):
        calls.clear(); model.generate([1, 2], 20, temperature=0)
        return bool(calls)
    assert used(opinionated(1))
    class Other(torch.nn.Module):
        def forward(self, x): return 0 * x
    changed = opinionated(1); changed.layers[1].ffn = Other()
    hooked = opinionated(1); seen = []; hooked.layers[0].attn.register_forward_hook(lambda *_: seen.append(1))
    patched = opinionated(1); patched.layers[0].ffn.forward = lambda x: 0 * x
    without = opinionated(1)
    for layer in without.layers: layer.attn.rope = None
    torch.manual_seed(0)
    plain = Transformer(TransformerConfig(40, 24, 32, 1, 4), fused=False)
    for model in (changed, hooked, patched, without, plain): assert not used(model)
    assert len(seen) == 20                           # the prompt, then one step for each token but the last
    with torch.autocast("cpu", torch.bfloat16): assert not used(opinionated(1, torch.float32))


def test_weights_changed_between_two_calls_are_seen():
    model = opinionated(1)
    before = model.generate([1, 2], 22, temperature=0)
    for p in model.lm_head.parameters(): p.data.neg_()
    assert model.generate([1, 2], 22, temperature=0) != before


SETTINGS = [dict(temperature=0), dict(temperature=1.0), dict(temperature=0.7, top_k=5), dict(temperature=1.5, top_p=0.8), dict(temperature=1.2, min_p=0.1)]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("context_length", [16, 7, 2, 1])
def test_cached_equals_uncached_also_beyond_the_context(setting, context_length):
    model = tiny_model(context_length)
    for length in {1, context_length // 2 or 1, context_length}:
        prompt = list(range(length))
        assert model.generate(prompt, 40, seed=3, **setting) == without_cache(model, prompt, 40, 3, **setting)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 22), min_size=1, max_size=16), min_size=1, max_size=5), st.sampled_from(SETTINGS), st.integers(0, 40), st.none() | st.integers(0, 22), st.integers(0, 2**63))
def test_a_row_in_a_batch_is_the_row_alone(prompts, setting, count, stop_token, seed):
    model = tiny_model()
    together = model.generate(prompts, count, seed=seed, stop_token=stop_token, **setting)
    for n, prompt in enumerate(prompts):
        alone = model.generate(prompt, count, seed=seed + n, stop_token=stop_token, **setting)
        assert together[n] == alone
        assert alone == without_cache(model, prompt, count, (seed + n) % 2**63, stop_token, **setting)


def test_stop_token_ends_a_row_and_is_kept():
    model = tiny_model()
    whole = model.generate([1, 2], 30, temperature=0)
    stop = whole[10]
    stopped = model.generate([1, 2], 30, temperature=0, stop_token=stop)
    assert stopped == whole[:whole.index(stop, 2) + 1]
    assert len(list(generate_stream(model, [1, 2], 30, temperature=0, stop_token=stop))) == len(stopped) - 2      # and nothing runs on


def test_a_stream_gives_what_generate_collects():
    model = tiny_model()
    stream = generate_stream(model, [1, 2, 3], 25, seed=1)
    assert [1, 2, 3, next(stream), *stream] == model.generate([1, 2, 3], 25, seed=1)
    whole = model.generate([[1, 2, 3], [4]], 25, seed=1, stop_token=5)
    rows = [[1, 2, 3], [4]]
    for ids in generate_stream(model, rows, 25, seed=1, stop_token=5):
        for row, i in zip(rows, ids):
            if i is not None: row.append(i)
    assert rows == whole
    assert all(row.count(5) <= 1 and (5 not in row or row[-1] == 5) for row in rows)


def test_prompts_as_lists_tensors_and_arrays_come_back_as_lists():
    model, expected = tiny_model(), tiny_model().generate([1, 2, 3], 5, seed=0)
    assert all(type(i) is int for i in expected)
    for ids in (torch.tensor([1, 2, 3]), np.array([1, 2, 3], dtype=np.uint16), (1, 2, 3), [np.int64(1), 2, 3]):
        result = model.generate(ids, 5, seed=0)
        assert result == expected and all(type(i) is int for i in result)
    assert model.generate(torch.tensor([[1, 2, 3]]), 5, seed=0) == [expected]
    prompt = [1, 2, 3]
    assert model.generate(prompt, 0) == prompt and prompt == [1, 2, 3]


def test_seeds():
    model = tiny_model()
    assert model.generate([1], 20, seed=1) == model.generate([1], 20, seed=1) != model.generate([1], 20, seed=2)
    assert model.generate([1], 20, seed=1) == model.generate([1], 10, seed=1) + model.generate([1], 20, seed=1)[11:]
    same = model.generate([[1]] * 3, 20, seed=1)
    assert same[0] != same[1] != same[2]
    torch.manual_seed(0); before = torch.get_rng_state()
    model.generate([1], 5, seed=1)
    assert torch.equal(before, torch.get_rng_state())          # a seeded call leaves the global generator alone
    first = model.generate([1], 20)
    torch.manual_seed(0)
    assert first == model.generate([1], 20) != model.generate([1], 20)


def test_training_goes_on_after_generation():
    model = tiny_model()
    model.generate([1], 3)
    model(torch.tensor([[1, 2]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
