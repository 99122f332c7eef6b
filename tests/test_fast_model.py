"""The fast model is the plain one: part by part and as a whole, in value and in gradient."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lm336 import fast_model
from lm336.attention import MultiHeadSelfAttention, scaled_dot_product_attention
from lm336.block import RMSNorm, SwiGLU
from lm336.embeddings import Embedding, Linear
from lm336.errors import InputError
from lm336.fast_model import (
    FastLinear,
    FastRMSNorm,
    FastRotaryEmbedding,
    RMSNormWithGradient,
    attention_by_products,
    decide_library,
    fast_attention,
    fast_linear,
    faster_library,
    library_asked_for,
    library_is_there,
    make_fast,
    product_library,
)
from lm336.generation import KVCache
from lm336.rope import RotaryEmbedding
from lm336.transformer import Transformer, TransformerConfig

SHAPE: dict = dict(vocab_size=50, context_length=24, d_model=32, num_layers=2, num_heads=4)
FORMATS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}  # and their errors


def ids(*shape, seed=1):
    return torch.randint(50, shape, generator=torch.Generator().manual_seed(seed))


def both(dtype=torch.float64, seed=0, **changes):
    "A plain model whose norms have learned something, and a fast one with the same weights."
    torch.manual_seed(seed)
    plain = Transformer(TransformerConfig(**(SHAPE | changes))).to(dtype)
    for name, parameter in plain.named_parameters():
        if "ln" in name:
            parameter.data.uniform_(0.5, 2)
    return plain, make_fast(copy.deepcopy(plain))


def values_and_gradients(module, *inputs):
    "What a module gives, and the gradients of its inputs and its parameters."
    entered = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    out = module(*entered)
    wanted = [x for x in (*entered, *module.parameters()) if x.requires_grad]
    return [out, *torch.autograd.grad(out.sin().sum(), wanted)]


def assert_same(ours, theirs, error):
    "Each tensor of ours has its counterpart's format, and its values within a relative error."
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (a - b).norm() <= error * b.norm().clamp(min=1)  # some gradients are 0


# ---- the parts


PARTS = {
    "embedding": (lambda: Embedding(50, 32), lambda: [ids(2, 7)]),
    "rotation": (lambda: RotaryEmbedding(1e4, 8, 24), lambda: [torch.randn(2, 3, 7, 8)]),
    "rotation of an odd layout": (
        lambda: RotaryEmbedding(1e4, 8, 24),
        lambda: [torch.randn(8, 24, 2).permute(2, 1, 0)],
    ),
    "rotation at positions": (
        lambda: RotaryEmbedding(1e4, 8, 24),
        lambda: [torch.randn(2, 3, 7, 8), torch.arange(14).view(2, 1, 7)],
    ),
    "attention": (
        lambda: MultiHeadSelfAttention(32, 4, RotaryEmbedding(1e4, 8, 24)),
        lambda: [torch.randn(2, 7, 32)],
    ),
    "attention at positions": (
        lambda: MultiHeadSelfAttention(32, 4, RotaryEmbedding(1e4, 8, 24)),
        lambda: [torch.randn(2, 7, 32), torch.arange(14).view(2, 7)],
    ),
    "attention to one token": (
        lambda: MultiHeadSelfAttention(32, 4, RotaryEmbedding(1e4, 8, 24)),
        lambda: [torch.randn(2, 1, 32)],
    ),
    "attention without positions": (
        lambda: MultiHeadSelfAttention(32, 4),
        lambda: [torch.randn(2, 7, 32)],
    ),
    "norm": (lambda: RMSNorm(32), lambda: [torch.randn(2, 7, 32)]),
    "norm of small numbers": (lambda: RMSNorm(32), lambda: [1e-3 * torch.randn(2, 7, 32)]),
    "feed-forward": (lambda: SwiGLU(32, 96), lambda: [torch.randn(2, 7, 32)]),
}


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_a_fast_part_equals_its_plain_one(part, dtype):
    make, inputs = PARTS[part]
    torch.manual_seed(0)
    plain = make().to(dtype)
    entered = [x.to(dtype) if x.is_floating_point() else x for x in inputs()]
    fast = make_fast(copy.deepcopy(plain))
    assert type(fast) is not type(plain) and isinstance(fast, type(plain))
    ours, theirs = (values_and_gradients(module, *entered) for module in (fast, plain))
    assert_same(ours, theirs, FORMATS[dtype])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.floats(0, 1), st.integers(0, 10**6))
def test_the_norms_gradient_is_what_finite_differences_say(rows, width, eps, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, dtype=torch.float64, generator=g) + 0.1
    weight = torch.randn(width, dtype=torch.float64, generator=g)

    def norm(x, weight):
        return RMSNormWithGradient.apply(x, weight, eps + 1e-3, torch.float64)

    torch.testing.assert_close(
        norm(x, weight), F.rms_norm(x, (width,), weight, eps + 1e-3), rtol=1e-10, atol=1e-10
    )
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_norm_is_computed_in_float32(scale):
    x = (torch.randn(16, 256) * scale).half()
    out = FastRMSNorm(256)(x)
    expected = F.rms_norm(x.double(), (256,), None, 1e-5)
    torch.testing.assert_close(out.double(), expected, rtol=2e-3, atol=1e-6)
    assert out.dtype == torch.float16


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_way_to_attention_is_pytorchs(data):
    "Any sizes, with a mask, causal, or neither; the products too, which bfloat16 takes."
    seed = data.draw(st.integers(0, 10**6))
    g = torch.Generator().manual_seed(seed)
    heads, queries, d_head = (data.draw(st.integers(1, 5)) for _ in range(3))
    keys = queries + data.draw(st.integers(0, 4))
    q = torch.randn(2, heads, queries, d_head, dtype=torch.float64, generator=g)
    k, v = torch.randn(2, 2, heads, keys, d_head, dtype=torch.float64, generator=g)
    mask = torch.rand(queries, keys, generator=g) < 0.5
    mask[:, 0] = True
    last = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    ways = [(None, False, None), (mask, False, mask), (None, True, last)]
    for kind, causal, visible in ways:
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        torch.testing.assert_close(fast_attention(q, k, v, kind, causal), expected)
        plain = scaled_dot_product_attention(q, k, v, kind, causal)
        torch.testing.assert_close(plain, expected)
        torch.testing.assert_close(attention_by_products(q, k, v, visible), expected)
        rough = fast_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), kind, causal).double()
        assert (rough - expected).norm() <= 0.05 * v.norm()


def test_a_mask_and_causal_are_one_too_many():
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(InputError, match="not both"):
        fast_attention(q, q, q, torch.ones(3, 3, dtype=torch.bool), causal=True)


# ---- the model


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_the_fast_model_equals_the_plain_one(dtype, tied):
    plain, fast = both(dtype, tie_embeddings=tied)
    ours, theirs = (values_and_gradients(model, ids(3, 11)) for model in (fast, plain))
    assert_same(ours, theirs, 3 * FORMATS[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_exact_as_the_plain_one(dtype):
    plain, fast = both(torch.float32)
    exact = copy.deepcopy(plain).double()(ids(2, 12))
    with torch.autocast("cpu", dtype=dtype):
        logits, theirs = fast(ids(2, 12)), plain(ids(2, 12))
        cache = KVCache(fast.config, 2, dtype=dtype)
        pieces = [fast(piece, cache) for piece in ids(2, 12).split([5, 1, 6], 1)]
        loss = F.cross_entropy(logits.flatten(0, 1), ids(2, 12, seed=2).flatten())
    assert logits.dtype == theirs.dtype == dtype
    for rough in (logits, theirs, torch.cat(pieces, 1)):
        assert (rough.double() - exact).norm() <= 0.03 * exact.norm()
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in fast.parameters())
    assert all(p.grad.isfinite().all() for p in fast.parameters())


def test_a_compiler_takes_it_whole_and_computes_the_same():
    plain, fast = both(torch.float32)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    ours, theirs = (values_and_gradients(model, ids(2, 12)) for model in (compiled, plain))
    assert_same(ours, theirs, 1e-5)


def test_a_compiler_takes_it_with_a_cache_and_at_positions():
    plain, fast = both(torch.float32)
    layer = torch.compile(fast.layers[0], backend="aot_eager", fullgraph=True)
    x, positions = torch.randn(2, 7, 32), torch.arange(14).view(2, 7)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, positions), plain.layers[0](x, positions))
        ours, theirs = (KVCache(plain.config, 2, start=[3, 0]) for _ in range(2))
        for piece in x.split([4, 3], 1):
            out = layer(piece, cache=ours)
            torch.testing.assert_close(out, plain.layers[0](piece, cache=theirs))
            ours.advance(piece.shape[1])
            theirs.advance(piece.shape[1])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_cached_batches_of_any_lengths_equal_each_alone(data):
    _, model = both()
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    longest, more = max(lengths), data.draw(st.integers(1, 12))
    prompt, rest = ids(len(lengths), longest), ids(len(lengths), more, seed=2)
    rows = zip(prompt, lengths, strict=True)
    padded = torch.stack([F.pad(row[:n], (longest - n, 0)) for row, n in rows])
    start = [longest - n for n in lengths]
    cache = KVCache(model.config, len(lengths), start=start, dtype=torch.float64)
    cut = data.draw(st.integers(0, more))
    pieces = [piece for piece in (padded, rest[:, :cut], rest[:, cut:]) if piece.shape[1]]
    together = torch.cat([model(piece, cache) for piece in pieces], 1)
    for row, n in enumerate(lengths):
        alone = model(torch.cat([prompt[row, :n], rest[row]])[None])[0]
        torch.testing.assert_close(together[row, longest - n :], alone)


def test_padded_batches_in_bfloat16():
    "By the two products, which only bfloat16 takes, with masks."
    _, model = both(torch.float32)
    x = ids(2, 12)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        cache = KVCache(model.config, 2, start=[4, 0], dtype=torch.bfloat16)
        padded = torch.stack([F.pad(x[0, :8], (4, 0)), x[1]])
        together = torch.cat([model(padded, cache), model(x[:, :3], cache)], 1)
        alone = model(torch.cat([x[0, :8], x[0, :3]])[None])
    assert (together[:1, 4:] - alone).norm() <= 0.03 * alone.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nothing_looks_ahead(dtype):
    _, model = both(dtype)
    x = ids(2, 12)
    before = model(x)
    for t in range(12):
        changed = x.clone()
        changed[:, t] = (changed[:, t] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(-1).all()


@pytest.mark.parametrize("wrong", [-1, 50, 10**6])
def test_an_id_without_a_row_is_refused(wrong):
    with pytest.raises(InputError, match=f"token id {wrong} .*0 to 49"):
        both()[1](torch.tensor([[1, wrong]]))


def test_bfloat16_learns_as_float32_does():
    "Averaged over three seeds, the losses after forty steps are nearly the same."
    losses = {False: 0.0, True: 0.0}
    for autocast in losses:
        for seed in range(3):
            loss = torch.zeros(())
            _, model = both(torch.float32, seed, d_model=64)
            optimizer, data = torch.optim.AdamW(model.parameters(), lr=3e-3), ids(64, 25)
            for step in range(40):
                batch = data[step % 8 * 8 :][:8]
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                    logits = model(batch[:, :-1])
                loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses[autocast] += loss.item() / 3
    assert losses[False] < math.log(50) - 0.3, losses
    assert abs(losses[False] - losses[True]) < 0.1, losses


# ---- making a model fast


def test_it_is_made_fast_in_place_and_once():
    plain, _ = both()
    weights, names = list(plain.parameters()), list(plain.state_dict())
    fast = make_fast(plain)
    kinds = [type(part) for part in fast.modules()]
    assert fast is plain and list(fast.state_dict()) == names
    assert all(a is b for a, b in zip(fast.parameters(), weights, strict=True))
    assert [type(part) for part in make_fast(fast).modules()] == kinds
    assert fast.layers[0].attn.rope is fast.layers[1].attn.rope


def test_what_a_user_has_changed_stays_as_it_is():
    class Louder(RMSNorm):
        def forward(self, x):
            return 2 * super().forward(x)

    plain, _ = both()
    plain.layers[0].ln1 = Louder(32).double()
    plain.layers[1].ffn = nn.Identity()
    setattr(plain.layers[1].attn, "rope", None)
    expected = plain(ids(2, 9))
    model = make_fast(plain)
    assert type(model.layers[0].ln1) is Louder and type(model.layers[0].ln2) is FastRMSNorm
    torch.testing.assert_close(model(ids(2, 9)), expected)


def test_a_fast_model_can_be_saved_moved_and_copied(tmp_path):
    plain, fast = both(torch.float32)
    fast.save_pretrained(tmp_path)
    again = Transformer.from_pretrained(tmp_path)
    assert torch.equal(again(ids(2, 9)), plain(ids(2, 9)))
    rope = copy.deepcopy(fast).double().layers[0].attn.rope
    assert isinstance(rope, FastRotaryEmbedding) and rope.cos.dtype == torch.float64
    torch.testing.assert_close(fast.double()(ids(2, 9)), plain.double()(ids(2, 9)))


# ---------------------------------------------------------------- the library for products


@pytest.fixture(params=["PyTorch", "oneDNN"])
def library(request, monkeypatch):
    "This process's library, for a test."
    if not library_is_there(request.param):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(fast_model, "_decided", [request.param])
    return request.param


@pytest.fixture
def asked(monkeypatch):
    "The shapes of the products that go to oneDNN."
    shapes, real = [], fast_model.multiply_by_onednn

    def spied(x, weight):
        shapes.append((tuple(x.shape), tuple(weight.shape)))
        return real(x, weight)

    monkeypatch.setattr(fast_model, "multiply_by_onednn", spied)
    return shapes


@pytest.mark.parametrize("shape", [(64, 24), (5, 20, 24), (2, 3, 40, 24)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_and_its_gradients_by_either_library(library, asked, shape, transposed):
    "Against float64."
    torch.manual_seed(0)
    exact, fast = Linear(24, 40, dtype=torch.float64), FastLinear(24, 40)
    fast.load_state_dict(exact.state_dict())
    exact.weight.data.copy_(fast.weight)
    x = torch.randn(*shape)
    if transposed:  # the same numbers in another order in memory
        x = x.mT.contiguous().mT
    wanted = values_and_gradients(exact, x.double())
    got = values_and_gradients(fast, x)
    assert_same(got, [each.float() for each in wanted], 1e-5)
    assert len(asked) == 3 * (library == "oneDNN"), "a product and two gradients"


def test_only_the_gradients_that_are_wanted_are_computed(asked, monkeypatch):
    if not library_is_there("oneDNN"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(fast_model, "_decided", ["oneDNN"])
    x, weight = torch.randn(64, 24), torch.randn(40, 24, requires_grad=True)
    fast_linear(x, weight).sum().backward()
    assert asked == [((64, 24), (40, 24)), ((40, 64), (24, 64))] and x.grad is None


@pytest.mark.parametrize("x", [
    torch.randn(63, 24), torch.randn(1, 24), torch.randn(64, 24, dtype=torch.float64),
    torch.randn(64, 24).bfloat16(),
])  # fmt: skip
def test_other_products_stay_with_pytorch(asked, monkeypatch, x):
    monkeypatch.setattr(fast_model, "_decided", ["oneDNN"])
    weight = torch.randn(40, 24).to(x.dtype)
    assert torch.equal(fast_linear(x, weight), F.linear(x, weight))
    x, weight = torch.randn(64, 24), torch.randn(40, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast_linear(x, weight).dtype == torch.bfloat16
    assert not asked


def test_a_library_is_measured_once_and_can_be_decided(monkeypatch):
    measured = []

    def faster():
        measured.append(True)
        return "oneDNN"

    monkeypatch.delenv("LM336_PRODUCTS", raising=False)
    monkeypatch.setattr(fast_model, "faster_library", faster)
    assert product_library() == product_library() == "oneDNN" and len(measured) == 1
    decide_library("PyTorch")
    assert product_library() == "PyTorch" and len(measured) == 1


@pytest.mark.parametrize("name", ["PyTorch", "oneDNN"])
def test_what_the_environment_asks_for_takes_the_place_of_a_measurement(monkeypatch, name):
    def measured():
        raise AssertionError("it was measured")

    if not library_is_there(name):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setenv("LM336_PRODUCTS", name)
    monkeypatch.setattr(fast_model, "faster_library", measured)
    assert library_asked_for() == product_library() == name
    other = "oneDNN" if name == "PyTorch" else "PyTorch"
    decide_library(other)
    assert product_library() == other, "a run that goes on keeps the library it began with"


def test_a_library_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setenv("LM336_PRODUCTS", "onednn")
    with pytest.raises(InputError, match="^LM336_PRODUCTS is 'onednn': oneDNN or PyTorch is"):
        product_library()
    monkeypatch.setenv("LM336_PRODUCTS", "oneDNN")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(InputError, match="this PyTorch has none"):
        product_library()
    monkeypatch.setenv("LM336_PRODUCTS", "")
    assert library_asked_for() is None


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_without_onednn_pytorch_multiplies(monkeypatch, error):
    def none(*_):
        raise error("no such operator")

    monkeypatch.setattr(fast_model, "multiply_by_onednn", none)
    assert faster_library() == "PyTorch"


@pytest.mark.parametrize(
    "private, expected", [(1.0, "PyTorch"), (0.7, "PyTorch"), (0.6, "oneDNN")]
)
def test_onednn_has_to_be_faster_by_half(monkeypatch, private, expected):
    "By a clock that runs as the products say."
    now = [0.0]

    def takes(seconds):
        def product(*_):
            now[0] += seconds

        return product

    monkeypatch.setattr(fast_model, "multiply_by_onednn", takes(private))
    monkeypatch.setattr(fast_model.F, "linear", takes(1.0))
    monkeypatch.setattr(fast_model.time, "perf_counter", lambda: now[0])
    assert faster_library() == expected
