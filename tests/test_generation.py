"Sampling against a brute force, generation against one without cache or batch, and what they say to bad input."
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lm336 import Transformer
from lm336.errors import InputError
from lm336.fast_model import make_fast
from lm336.generation import Decoder, KVCache, draw, generate_stream, next_token_probs, sample
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
    for temperature in (5e-324, 1e-46, 1e-37, 1e-3, 1.0): assert next_token_probs(logits, temperature).tolist() == [0.5, 0, 0, 0.5]
    assert next_token_probs(logits, 0).tolist() == [1, 0, 0, 0]
    assert sorted(next_token_probs(logits, 1.0, top_k=1).tolist()) == [0, 0, 0, 1]        # of a tie, one
    for top_p in (5e-324, 1e-46, 1e-9): assert next_token_probs(logits, 1e30, top_p=top_p).sum() == 1     # never nothing
    assert next_token_probs(logits, 1.0, min_p=1.0).tolist() == [0.5, 0, 0, 0.5]


MODES = [dict(), dict(temperature=0), dict(temperature=0.5), dict(top_k=1), dict(top_k=3), dict(top_p=0.5), dict(top_p=1e-46), dict(min_p=0.1),
         dict(temperature=0, top_k=2, top_p=0.9), dict(temperature=1e-46), dict(temperature=1.3, top_k=3, top_p=0.9, min_p=0.1)]
NO_SCORES = dict(nan=[1.0, math.nan, 2.0, 0.0], infinite=[1.0, math.inf, 2.0, 0.0], nothing=4 * [-math.inf])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("logits", NO_SCORES.values(), ids=NO_SCORES)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_cannot_be_drawn_from_is_said(mode, logits, dtype):
    batch = torch.tensor([[3.0, 2.0, 1.0, 0.0], logits], dtype=dtype)      # beside a row where all is well
    for call in (lambda: next_token_probs(batch, **mode), lambda: sample(batch, torch.tensor([0.5, 0.5]), **mode), lambda: next_token_probs(batch[1], **mode)):
        with pytest.raises(FloatingPointError, match="the largest is -?(nan|inf)"): call()


@pytest.mark.parametrize("mode", [*MODES, dict(temperature=1e300)], ids=str)
def test_forbidden_tokens_are_no_error(mode):
    logits = torch.tensor([-math.inf, 1.0, -math.inf, 1.5])
    probabilities = next_token_probs(logits, **mode)
    assert probabilities.sum() == pytest.approx(1) and probabilities[[0, 2]].tolist() == [0, 0]
    for dart in (0.0, 0.4, 1 - 2**-24): assert sample(logits, torch.tensor(dart), **mode).item() in (1, 3)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_broken_model_says_so(mode):
    model = tiny_model()
    model.layers[1].ffn.w2.weight.data[3, 4] = math.nan
    with pytest.raises(FloatingPointError, match="NaN"): model.generate([1, 2], 30, seed=0, **mode)


def test_at_temperature_0_the_first_of_the_likeliest_is_taken():
    logits = torch.randint(0, 3, (200, 40), generator=torch.Generator().manual_seed(0)).float()       # ties in every row
    first = torch.tensor([row.index(max(row)) for row in logits.tolist()])
    assert torch.equal(sample(logits, torch.full((200,), 0.999), 0), first)
    assert torch.equal(next_token_probs(logits, 0), torch.nn.functional.one_hot(first, 40).float())


def test_numbers_of_numpy_are_numbers():
    logits = 3 * torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, numpys = (0.75, 4, 0.5, 0.125), (np.float32(0.75), np.int64(4), np.float16(0.5), np.float64(0.125))
    assert torch.equal(next_token_probs(logits, *numpys), next_token_probs(logits, *plain))
    assert tiny_model().generate([1], np.int64(9), *numpys, seed=np.int32(3)) == tiny_model().generate([1], 9, *plain, seed=3)


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
    (dict(temperature=10**400), "temperature is 1000"), (dict(temperature=True), "temperature is True"), (dict(top_k=math.nan), "top_k is nan"), (dict(top_k=math.inf), "top_k is inf"),
    (dict(vocab_size=0), "vocab_size is 0: a whole number from 1 to the model's 23"), (dict(vocab_size=24), "vocab_size is 24"), (dict(vocab_size=2.5), "vocab_size is 2.5"),
    (dict(temperature=0, top_p=7), "top_p is 7"), (dict(max_new_tokens=-1), "max_new_tokens is -1"), (dict(seed="x"), "seed is 'x'")])
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
        plain, fast = (KVCache(model.config, rows, start=start, dtype=dtype) for _ in range(2))
        model(ids[:, :8], plain), model(ids[:, :8], fast)
        decoder = Decoder(model, rows)
        for new in ids[:, 8:].T:
            ours, theirs = decoder(new, fast), model(new[:, None], plain)[:, -1]
            assert ours.dtype == dtype and (ours - theirs).norm() < tolerance * theirs.norm()
        assert fast.length == plain.length == 24
        for mine, its in ((fast.keys, plain.keys), (fast.values, plain.values)):
            assert (mine - its)[..., 8:, :].norm() < tolerance * its[..., 8:, :].norm()


def test_a_changed_model_is_stepped_by_its_own_code():
    "A decoder would pass by what was changed, and what a hook wants to hear."
    class Other(torch.nn.Module):
        def forward(self, x): return 0 * x
    changed = opinionated(1)
    changed.layers[1].ffn = Other()
    patched = opinionated(1)
    patched.layers[0].ffn.forward = lambda x: 0 * x
    hooked, heard = opinionated(1), []
    hooked.layers[0].attn.register_forward_hook(lambda *_: heard.append(1))
    without = opinionated(1)
    for layer in without.layers:
        layer.attn.rope = None
    assert Decoder.fits(opinionated(1)) and Decoder.fits(make_fast(opinionated(1)))
    for model in (changed, patched, hooked, without):
        assert not Decoder.fits(model)
        heard.clear()
        text = model.generate([1, 2], 20, temperature=0)
        heard_of = len(heard)
        assert text == without_cache(model, [1, 2], 20, 0, temperature=0)
        assert heard_of == (20 if model is hooked else 0), "the prompt, then one step for each token but the last"
    with torch.autocast("cpu", torch.bfloat16):
        assert not Decoder.fits(opinionated(1, torch.float32))


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


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_ids_from_vocab_size_on_are_never_drawn(setting):
    "Equal to a model whose head ends there, though what lies beyond is likelier than all the rest."
    model, smaller = tiny_model(), tiny_model()
    model.lm_head.weight.data[17:] = 100 * model.lm_head.weight.data[:6].abs()
    smaller.lm_head.weight = torch.nn.Parameter(smaller.lm_head.weight.data[:17].clone())
    prompts = [[1, 2, 22], [3]]                      # what may be read is another question
    for seed in range(3):
        together = model.generate(prompts, 40, seed=seed, vocab_size=17, **setting)
        assert all(max(row[len(prompt):]) < 17 for row, prompt in zip(together, prompts))
        for n, prompt in enumerate(prompts):
            assert together[n] == without_cache(smaller, prompt, 40, seed + n, **setting)
    if setting == SETTINGS[1]:
        assert max(model.generate([1], 40, seed=0)) >= 17, "this test would prove nothing"


@pytest.mark.parametrize("count", [10**6, 10**15, 10**30])
def test_the_first_token_does_not_wait_for_all_that_were_asked_for(count):
    "A number for each would not fit into any memory."
    model = tiny_model(context_length=2**14)
    first = [next(generate_stream(model, prompts, count, seed=1)) for prompts in ([1, 2], [[1, 2], [3]])]
    assert first[0] == first[1][0] == model.generate([1, 2], 1, seed=1)[-1]


def test_a_text_longer_than_any_block_of_darts_or_room():
    model, prompts = tiny_model(context_length=320), [[1], list(range(20))]
    together = model.generate(prompts, 300, seed=4)
    assert together[0] == without_cache(model, prompts[0], 300, 4)
    assert together[1] == model.generate(prompts[1], 300, seed=5)


def test_logits_come_with_the_ids_that_were_drawn_from_them():
    model, prompts = tiny_model(), [[1, 2, 3], [4]]
    for ids, logits in generate_stream(model, prompts, 20, temperature=0, vocab_size=11, with_logits=True):
        assert logits.shape == (2, 11) and logits.argmax(-1).tolist() == ids
    alone = list(generate_stream(model, prompts[1], 20, temperature=0, vocab_size=11, with_logits=True))
    assert [i for i, _ in alone] == model.generate(prompts[1], 20, temperature=0, vocab_size=11)[1:]
    assert all(logits.shape == (11,) for _, logits in alone)


def test_generate_is_there_wherever_the_model_comes_from():
    code = """from lm336.transformer import Transformer, TransformerConfig
class Mine(Transformer): pass
for kind in (Mine, Transformer): assert len(kind(TransformerConfig(9, 8, 8, 1, 1)).generate([1], 5)) == 6
assert callable(Transformer.generate) and Mine.generate is Transformer.generate"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


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
