"Steps and draws in fewer operations, against the model and the sampler themselves."

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.fast_generation import (
    PACKING,
    Decoder,
    TextPieces,
    fast_sample,
    fast_step,
    mkl_product,
    onednn_product,
    pick_product,
    plain_product,
    product_seconds,
)
from lm336.fast_model import make_fast
from lm336.generation import KVCache, SamplingConfig, Token, generate, sample
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig


def opinionated(num_rows, dtype=torch.float64, **options):
    "A model whose norms' weights are not all 1."
    torch.manual_seed(num_rows)
    config = TransformerConfig(40, 24, d_model=32, num_layers=3, num_heads=4, **options)
    model = Transformer(config)
    for name, p in model.named_parameters():
        if "ln" in name:
            p.data.uniform_(0.5, 2)
    return model.to(dtype)


TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-5,
    torch.float16: 0.01,
    torch.bfloat16: 0.1,
}


def check_decoder(model, start, layout=None):
    "A decoder's logits and cache, step by step, against the model's."
    rows, dtype = len(start), model.lm_head.weight.dtype
    ids = torch.randint(40, (rows, 24), generator=torch.Generator().manual_seed(0))
    start = start if any(start) else None
    tolerance = TOLERANCE[dtype]
    with torch.inference_mode():
        plain, fast = (KVCache(model.config, rows, start=start, dtype=dtype) for _ in range(2))
        for cache in (plain, fast):
            model(ids[:, :8], cache)
        decoder = Decoder(model, rows, layout)
        for new in ids[:, 8:].T:
            ours, theirs = decoder(new, fast), model(new[:, None], plain)[:, -1]
            assert ours.dtype == dtype
            assert (ours - theirs).norm() < tolerance * theirs.norm()
        assert fast.length == plain.length == 24
        for mine, its in ((fast.keys, plain.keys), (fast.values, plain.values)):
            mine, its = mine[..., 8:24, :], its[..., 8:24, :]
            assert (mine - its).norm() < tolerance * its.norm()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("start", [[0], [0, 0, 0], [3, 0], [7, 1, 0, 5, 2]], ids=str)
def test_decoder_equals_the_model(start, dtype, tie_embeddings):
    model = opinionated(len(start), dtype, tie_embeddings=tie_embeddings)
    assert Decoder.fits(model)
    check_decoder(model, start)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_decoder_and_model_take_turns_on_one_cache(dtype):
    "In 16 bits the decoder has keys and values of its own; it must not miss the model's."
    model, ids = opinionated(2, dtype), torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    with torch.inference_mode():
        plain, mixed = (KVCache(model.config, 2, start=[1, 0], dtype=dtype) for _ in range(2))
        decoder = Decoder(model, 2)
        for step in range(6):
            new = ids[:, step]
            theirs = model(new[:, None], plain)[:, -1]
            if step in (1, 2, 4):
                ours = decoder(new, mixed)
            else:
                ours = model(new[:, None], mixed)[:, -1]
            assert (ours - theirs).norm() < TOLERANCE[dtype] * theirs.norm()


def test_in_bfloat16_the_decoder_is_as_close_to_float32_as_the_model():
    exact, short = opinionated(2, torch.float32), opinionated(2, torch.bfloat16)
    ids = torch.randint(40, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        cache, decoder = KVCache(short.config, 2, dtype=torch.bfloat16), Decoder(short, 2)
        ours = torch.stack([decoder(new, cache) for new in ids.T], 1).float()
        wanted, plain = exact(ids), short(ids).float()
    off, allowed = (ours - wanted).norm(), (plain - wanted).norm()
    assert off < 1.2 * allowed < 0.1 * wanted.norm(), "what is computed in 16 bits only?"
    assert decoder.keys.dtype == torch.float32, "attention in bfloat16 is slow on a CPU"


CPU = torch.device("cpu")


def prefer(*seconds):
    "In place of a measurement: what the plain layout takes, then MKL's and oneDNN's."
    return lambda layouts, *_: seconds[: len(layouts)]


def works(layout, dtype=torch.float32):
    "Whether this PyTorch and this processor have a layout."
    try:
        layout(torch.eye(2, dtype=dtype), 2)
    except (AttributeError, RuntimeError):
        return False
    return True


@pytest.fixture
def to_be_measured(monkeypatch):
    "Nothing in the environment takes the place of a measurement."
    monkeypatch.delenv("LM336_PRODUCTS", raising=False)


@pytest.mark.usefixtures("to_be_measured")
def test_a_layout_is_picked_by_what_it_takes():
    asked = []

    def measured(layouts, shape, num_rows, num_threads):
        asked.append((layouts[0], shape, num_rows, num_threads))
        return (9.0,) * (len(layouts) - 1) + (1.0,)

    last = pick_product(CPU, torch.float32, 3, (12, 8), measured)
    assert asked == [(plain_product, (12, 8), 3, torch.get_num_threads())]
    private = [each for each in (mkl_product, onednn_product) if works(each)]
    assert last is [plain_product, *private][-1]
    for seconds in ((1, 2, 3), (1.0, 0.95, 0.91)):
        picked = pick_product(CPU, torch.float32, 3, (12, 8), prefer(*seconds))
        assert picked is plain_product, "a layout has to be a tenth faster"
    if works(mkl_product) and works(onednn_product):
        second = pick_product(CPU, torch.float32, 3, (12, 8), prefer(1, 0.8, 0.79))
        assert second is mkl_product


def not_asked(*_) -> tuple[float, ...]:
    raise AssertionError("it was measured")


@pytest.mark.parametrize(
    "asked, layout", [("PyTorch", plain_product), ("oneDNN", onednn_product)]
)
def test_what_the_environment_asks_for_is_not_measured(monkeypatch, asked, layout):
    if not works(layout):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setenv("LM336_PRODUCTS", asked)
    assert pick_product(CPU, torch.float32, 3, (12, 8), not_asked) is layout


@pytest.mark.parametrize("dtype, rows", [(torch.float32, 1), (torch.float64, 3)], ids=str)
def test_nothing_is_measured_where_there_is_nothing_to_gain(dtype, rows):
    assert pick_product(CPU, dtype, rows, (12, 8), not_asked) is plain_product
    assert pick_product(torch.device("meta"), dtype, 9, (12, 8), not_asked) is plain_product


def test_in_bfloat16_nothing_is_measured():
    expected = onednn_product if works(onednn_product, torch.bfloat16) else plain_product
    assert pick_product(CPU, torch.bfloat16, 3, (12, 8), not_asked) is expected


def test_layouts_are_timed_once():
    layouts = [each for each in (plain_product, mkl_product, onednn_product) if works(each)]
    seconds = product_seconds(tuple(layouts), (24, 16), 3, 1)
    assert len(seconds) == len(layouts) and all(0 < s < math.inf for s in seconds)
    assert product_seconds(tuple(layouts), (24, 16), 3, 1) is seconds


@pytest.mark.parametrize("layout", [plain_product, mkl_product, onednn_product])
@pytest.mark.parametrize("start", [[0, 0, 0], [3, 0, 1]], ids=str)
def test_every_layout_draws_what_the_model_draws(layout, start):
    if not works(layout):
        pytest.skip(f"this PyTorch has no {layout.__name__}")
    model = opinionated(3, torch.float32)
    check_decoder(model, start, layout)


def refuses(*_):
    raise RuntimeError("not on this processor")


def wants_more(x, weight, shape, bias, rows, another):
    return x


HIDDEN = dict(
    missing=SimpleNamespace(),
    refusing=SimpleNamespace(
        _mkl_reorder_linear_weight=refuses,
        _mkl_linear=refuses,
        _is_mkldnn_bf16_supported=lambda: True,
        _reorder_linear_weight=refuses,
        _linear_pointwise=refuses,
    ),
    changed=SimpleNamespace(
        _mkl_reorder_linear_weight=lambda weight, rows: weight,
        _mkl_linear=wants_more,
        _is_mkldnn_bf16_supported=lambda: True,
        _reorder_linear_weight=lambda weight, rows: weight,
        _linear_pointwise=lambda x, weight: x,
    ),
    wrong=SimpleNamespace(
        _mkl_reorder_linear_weight=lambda weight, rows: weight,
        _mkl_linear=lambda x, *_: 2 * x,
        _is_mkldnn_bf16_supported=lambda: True,
        _reorder_linear_weight=lambda weight, rows: weight,
        _linear_pointwise=lambda x, *_: 2 * x,
    ),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.usefixtures("to_be_measured")
def test_without_the_private_operations_the_public_ones_do(monkeypatch, hidden, dtype):
    monkeypatch.setattr(torch.ops, "mkl", HIDDEN[hidden])
    monkeypatch.setattr(torch.ops, "mkldnn", HIDDEN[hidden])
    for rows in (1, 3):
        assert pick_product(CPU, dtype, rows, (12, 8), prefer(9, 1, 1)) is plain_product
    check_decoder(opinionated(3, dtype), [3, 0, 1])


@pytest.mark.parametrize("num_rows", [1, 2, 7])
@pytest.mark.parametrize("shape", [(12, 8), (7, 33), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "pack, dtype",
    [
        (plain_product, torch.float64),
        (plain_product, torch.float32),
        (mkl_product, torch.float32),
        (onednn_product, torch.float32),
        (onednn_product, torch.bfloat16),
    ],
)
def test_products(pack, dtype, shape, num_rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=dtype)
    x = torch.randn(num_rows, shape[1], generator=generator, dtype=dtype)
    added = torch.randn(num_rows, shape[0], generator=generator, dtype=dtype)
    try:
        multiply = pack(weight, num_rows)
    except (AttributeError, RuntimeError) as error:
        pytest.skip(f"{pack.__name__}: {error}")
    exact = x.double() @ weight.double().T
    limit = 5e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(multiply(x).double(), exact, rtol=limit, atol=limit)
    kept = added.clone()
    exact += kept.double()
    torch.testing.assert_close(multiply(x, added).double(), exact, rtol=limit, atol=limit)
    assert torch.equal(added, kept), "what is added belongs to somebody else"


class Nothing(torch.nn.Module):
    def forward(self, x):
        return 0 * x


def changed(model):
    model.layers[1].ffn = Nothing()


def patched(model):
    model.layers[0].ffn.forward = lambda x: 0 * x


def without_positions(model):
    for block in model.layers:
        block.attn.rope = None


def test_a_fast_model_fits_and_draws_the_same():
    model = make_fast(opinionated(3, torch.float32))
    assert Decoder.fits(model)
    check_decoder(model, [0, 0, 0])


@pytest.mark.parametrize("change", [changed, patched, without_positions])
def test_a_changed_model_is_stepped_by_its_own_code(change):
    "A decoder would pass by what was changed."
    model, greedy = opinionated(1), SamplingConfig(temperature=0)
    assert Decoder.fits(model)
    change(model)
    assert not Decoder.fits(model)
    text = [1, 2]
    for _ in range(20):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    assert generate(model, [1, 2], 20, greedy) == text


def test_who_listens_hears_every_step():
    model, heard = opinionated(1), []
    model.layers[0].attn.register_forward_hook(lambda *_: heard.append(1))
    assert not Decoder.fits(model)
    generate(model, [1, 2], 20)
    assert len(heard) == 20, "the prompt, then one step for each token but the last"


def test_a_subclass_and_autocast_are_stepped_by_the_model():
    class Mine(Transformer):
        pass

    assert not Decoder.fits(Mine(TransformerConfig(9, 8, 8, 1, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        assert not Decoder.fits(opinionated(1, torch.float32))


def test_weights_changed_between_two_calls_are_seen():
    model, greedy = opinionated(1), SamplingConfig(temperature=0)
    before = generate(model, [1, 2], 22, greedy)
    for p in model.lm_head.parameters():
        p.data.neg_()
    assert generate(model, [1, 2], 22, greedy) != before


def test_few_steps_are_taken_by_the_model():
    model = opinionated(2)
    assert isinstance(fast_step(model, 2, PACKING + 1), Decoder)
    step = fast_step(model, 2, PACKING)
    assert not isinstance(step, Decoder)
    with torch.inference_mode():
        caches = [KVCache(model.config, 2, dtype=torch.float64) for _ in range(2)]
        new = torch.tensor([3, 4])
        theirs = model(new[:, None], caches[1])[:, -1]
        assert torch.equal(step(new, caches[0]), theirs)
        assert caches[0].length == 1


# ---------------------------------------------------------------- drawing


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 60),
    st.sampled_from([0, 0.3, 1.0, 2.5]),
    st.none() | st.integers(1, 70),
    st.none() | st.floats(0.0137, 1),
    st.none() | st.floats(0, 0.9937),
    st.sampled_from([1.0, 1.7, 0.6]),
    st.integers(0, 10_000),
)
def test_fast_sample_is_sample(vocab, temperature, top_k, top_p, min_p, penalty, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(40, vocab, generator=generator, dtype=torch.float64)
    uniforms = torch.rand(40, generator=generator, dtype=torch.float64)
    seen = torch.rand(40, vocab, generator=generator) < 0.3
    config = SamplingConfig(temperature, top_k, top_p, min_p, penalty)
    expected = sample(logits, uniforms, config, seen)
    assert torch.equal(fast_sample(logits, uniforms, config, seen), expected)
    assert torch.equal(
        fast_sample(logits[0], uniforms[0], config), sample(logits[0], uniforms[0], config)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_of_equal_scores_the_first_is_drawn(dtype):
    logits = torch.zeros(3, 1000, dtype=dtype)
    logits[0, [700, 900]] = logits[1, [3, 999]] = 2
    greedy, uniforms = SamplingConfig(temperature=0), torch.zeros(3)
    assert fast_sample(logits, uniforms, greedy).tolist() == [700, 3, 0]
    assert fast_sample(logits[:, 4:], uniforms, greedy).tolist() == [696, 995, 0]
    assert fast_sample(logits[1], uniforms[1], greedy).tolist() == 3


@pytest.mark.parametrize("setting", [dict(temperature=0), dict(top_k=2), dict()], ids=str)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_fast_sample_says_what_cannot_be_drawn_from(setting, wrong, dtype):
    config = SamplingConfig(**setting)
    for place in range(5):
        logits = torch.arange(5.0, dtype=dtype).repeat(2, 1)
        logits[1, place] = wrong
        with pytest.raises(FloatingPointError, match="the largest is (nan|inf)"):
            fast_sample(logits, torch.tensor([0.5, 0.5]), config)
    nothing = torch.full((5,), -math.inf, dtype=dtype)
    with pytest.raises(FloatingPointError, match="the largest is -inf"):
        fast_sample(nothing, torch.tensor(0.5), config)


# ---------------------------------------------------------------- waiting


class Spelled(Tokenizer):
    "A tokenizer whose ids are indices into a list of bytes; it only decodes."

    def __init__(self, *tokens):
        self.vocab = dict(enumerate(tokens))


def told(tokens, *stop_strings):
    "What is given at each step."
    pieces, steps = TextPieces(Spelled(*tokens), stop_strings), []
    for i in range(len(tokens)):
        last = i == len(tokens) - 1
        given = pieces.add(Token(i, torch.zeros(1)), last)
        steps.append([(token.id, token.text) for token in given])
        if pieces.stopped:
            break
    return steps


def test_a_token_waits_no_longer_than_it_must():
    assert told([b"ab", b"c", b"x"], "bcd") == [[], [], [(0, "ab"), (1, "c"), (2, "x")]]
    assert told([b"x", b"ab", b"ca", b"z"], "bcd") == [
        [(0, "x")],
        [],
        [(1, "ab"), (2, "ca")],
        [(3, "z")],
    ]
    assert told([b"aa", b"a", b"b"], "aab") == [[], [], [(0, "a")]]


def test_half_a_character_waits():
    snowman = "☃".encode()
    assert told([b"a" + snowman[:1], snowman[1:], b"b"]) == [
        [],
        [(0, "a"), (1, "☃")],
        [(2, "b")],
    ]
    assert told([snowman[:1], b"b"]) == [[], [(0, ""), (1, "\ufffdb")]]
    assert told([b"b", snowman[:2]]) == [[(0, "b")], [(1, "\ufffd")]]
    assert told([b"b", snowman[:1], snowman[1:]], "☃") == [[(0, "b")], [], []]


def test_the_stop_string_that_ends_first_counts():
    assert told([b"xabc"], "abc", "b") == [[(0, "xa")]]
    assert told([b"xabc"], "abc", "bc") == [[(0, "x")]]
    assert told([b"xa", b"b", b"c"], "abc", "b") == [[], [(0, "xa")]]
