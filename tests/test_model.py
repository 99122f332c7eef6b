"The model's faults and corners: what the chapters 04 to 08 are the wrong place for."

import json
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lm336.attention import MultiHeadSelfAttention, scaled_dot_product_attention
from lm336.block import RMSNorm
from lm336.embeddings import truncated_normal_
from lm336.errors import InputError
from lm336.generation import KVCache
from lm336.rope import RotaryEmbedding
from lm336.transformer import Transformer, TransformerConfig, parameter_count

SHAPE: dict = dict(vocab_size=50, context_length=24, d_model=32, num_layers=2, num_heads=4)


def make(seed=0, dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    return Transformer(TransformerConfig(**{**SHAPE, **changes})).to(dtype)


def ids(*shape, vocab=50, seed=1):
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


# configuration


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(num_heads=5), "multiple"),
        (dict(num_heads=32), "even"),
        (dict(num_layers=0), "num_layers"),
        (dict(vocab_size=-1), "vocab_size"),
        (dict(d_model=32.0), "d_model"),
        (dict(context_length="24"), "context_length"),
        (dict(d_ff=0), "d_ff"),
        (dict(rope_theta=0), "rope_theta"),
        (dict(norm_eps=float("nan")), "norm_eps"),
        (dict(norm_eps=-1e-5), "norm_eps"),
        (dict(tie_embeddings="no"), "tie_embeddings"),
        (dict(num_heads=True), "num_heads"),
        (dict(context_length=10**12), "context_length is 1000000000000"),
        (dict(vocab_size=10**400), "vocab_size"),
        (dict(d_model=10**400), "d_model"),
        (dict(num_layers=10**9), "num_layers"),
        (dict(rope_theta=10**400), "rope_theta"),
        (dict(rope_theta=float("inf")), "rope_theta"),
        (dict(norm_eps="x"), "norm_eps"),
    ],
)
def test_bad_config_is_refused_by_name(changes, word):
    with pytest.raises(InputError, match=word):
        TransformerConfig(**{**SHAPE, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        dict(context_length=2**24, d_model=2**22, num_heads=1),
        dict(vocab_size=2**24, d_model=2**20),
        dict(num_layers=10_000, d_model=2**20),
    ],
    ids=str,
)
def test_a_model_beyond_all_memory_is_refused(changes):
    config = TransformerConfig(**{**SHAPE, **changes, "d_ff": 64})
    with pytest.raises(InputError, match="needs [0-9,.]+ GB"):
        Transformer(config)
    with torch.device("meta"):
        assert (
            Transformer(TransformerConfig(**SHAPE)).device.type == "meta"
        )  # which needs none


@pytest.mark.parametrize(
    "d_model, d_ff", [(512, 1344), (768, 2048), (1600, 4288), (16, 64), (256, 704)]
)
def test_d_ff_is_the_nearest_multiple_of_64(d_model, d_ff):
    assert TransformerConfig(100, 16, d_model, 1, 1).d_ff == d_ff
    assert abs(d_ff - d_model * 8 / 3) <= 32 or d_ff == 64


# files


@pytest.fixture
def saved(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "run")
    return model, tmp_path / "run"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load(tmp_path, tied, dtype):
    model = make(tie_embeddings=tied, dtype=dtype)
    model.save_pretrained(tmp_path)
    again = Transformer.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(ids(2, 9)), model(ids(2, 9)))
    assert (again.lm_head.weight is again.token_embeddings.weight) == tied
    assert sum(p.numel() for p in again.parameters()) == parameter_count(model.config)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    again.save_pretrained(tmp_path)  # over the old files
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_loading_does_not_touch_the_global_seed(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Transformer.from_pretrained(saved[1])
    assert torch.equal(torch.rand(3), expected)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Transformer.from_pretrained(tmp_path / "nowhere")


def test_not_a_run(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        Transformer.from_pretrained(tmp_path)


def test_a_file_is_not_a_run(saved):
    with pytest.raises(InputError, match="folder"):
        Transformer.from_pretrained(saved[1] / "config.json")


def test_no_weights(saved):
    (saved[1] / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors"):
        Transformer.from_pretrained(saved[1])


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_truncated_weights(saved, keep):
    path = saved[1] / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(InputError, match="model.safetensors.*truncated"):
        Transformer.from_pretrained(saved[1])


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(d_model=64), "token_embeddings.weight"),
        (dict(d_ff=128), "ffn.w1"),
        (dict(num_layers=3), r"layers\.2"),
        (dict(num_layers=1), r"layers\.1"),
        (dict(vocab_size=51), "token_embeddings"),
        (dict(tie_embeddings=True), "lm_head"),
        (dict(num_heads=5), "multiple"),
        (dict(colour="red"), "colour"),
        (dict(context_length=10**12), "context_length"),
        (dict(num_layers=10**12), "num_layers"),
        (dict(context_length=None), "context_length"),
    ],
)
def test_config_that_disagrees_with_the_weights(saved, changes, word):
    path = saved[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=word):
        Transformer.from_pretrained(saved[1])


def rewritten(folder, change):
    "The weights of a folder, changed as a foreign program would have written them."
    save_file(
        {
            name: tensor
            for name, tensor in map(
                change, *zip(*load_file(folder / "model.safetensors").items())
            )
        },
        folder / "model.safetensors",
    )


@pytest.mark.parametrize(
    "prefix, word", [("_orig_mod.", "torch.compile"), ("module.", "DistributedDataParallel")]
)
def test_weights_of_a_wrapped_model(saved, prefix, word):
    rewritten(saved[1], lambda name, tensor: (prefix + name, tensor))
    with pytest.raises(InputError, match=f"'{prefix}'.*{word}"):
        Transformer.from_pretrained(saved[1])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_that_no_product_is_made_of(saved, dtype):
    rewritten(
        saved[1],
        lambda name, tensor: (
            name,
            tensor.to(dtype) if name == "layers.1.ffn.w2.weight" else tensor,
        ),
    )
    with pytest.raises(
        InputError, match="layers.1.ffn.w2.weight is in " + str(dtype).removeprefix("torch.")
    ):
        Transformer.from_pretrained(saved[1])


def test_files_without_a_digest_open(saved):
    rewritten(saved[1], lambda name, tensor: (name, tensor))
    assert torch.equal(Transformer.from_pretrained(saved[1])(ids(2, 9)), saved[0](ids(2, 9)))


@pytest.mark.parametrize("place", [-1, -5000, 0.5, 0.8])
def test_one_rotten_bit(saved, place):
    path = saved[1] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place if isinstance(place, int) else int(place * len(content))] ^= 16
    path.write_bytes(content)
    with pytest.raises(InputError, match="model.safetensors is damaged"):
        Transformer.from_pretrained(saved[1])


def test_a_weight_that_is_no_number_is_not_saved(saved):
    before = {path.name: path.read_bytes() for path in saved[1].iterdir()}
    broken = make(seed=3)
    broken.get_parameter("layers.1.ln2.weight").data[5] = float("nan")
    with pytest.raises(FloatingPointError, match="layers.1.ln2.weight"):
        broken.save_pretrained(saved[1])
    assert {path.name: path.read_bytes() for path in saved[1].iterdir()} == before


def test_the_model_that_comes_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stories = Transformer.from_pretrained("stories")
    assert stories.config.vocab_size == 4096 and stories.token_embeddings.weight.std() > 0
    make().save_pretrained("stories")  # a folder of that name wins
    assert Transformer.from_pretrained("stories").config.vocab_size == SHAPE["vocab_size"]


def test_a_context_that_no_memory_holds(saved, monkeypatch):
    "On a machine of 100 MB the weights have room, but not the tables for so many positions."
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(total=10**8, available=10**8)
    )
    Transformer.from_pretrained(saved[1])
    path = saved[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(context_length=2**24)))
    with pytest.raises(InputError, match="needs 1.6 GB, but the machine has 0.1: "):
        Transformer.from_pretrained(saved[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"vocab_size": 50}',
        "\xff",
        "[" * 100_000,
        '{"vocab_size": NaN}',
    ],
)
def test_config_that_is_none(saved, text):
    (saved[1] / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="config.json"):
        Transformer.from_pretrained(saved[1])


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = (saved[1] / "model.safetensors").read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)  # a full disk may tell only then
    with pytest.raises(OSError):
        make(seed=9).save_pretrained(saved[1])
    assert (saved[1] / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in saved[1].iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


# moving


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.double(),
        lambda m: m.float(),
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.to("meta").to_empty(device="cpu"),
    ],
    ids=["double", "float", "half", "bfloat16", "empty"],
)
def test_rotary_tables_are_as_exact_as_new_ones_and_made_once(monkeypatch, move):
    made, build = [], RotaryEmbedding.build_tables
    model = make(dtype=torch.float32, num_layers=5)
    monkeypatch.setattr(
        RotaryEmbedding,
        "build_tables",
        lambda self, *where: made.append(where) or build(self, *where),
    )
    model = move(model)
    assert len(made) <= 2, (
        "once, or once for each of two moves; not once for each of five layers"
    )
    rope = model.layers[0].attn.rope
    assert all(layer.attn.rope is rope for layer in model.layers)
    new = RotaryEmbedding(1e4, 8, 24, dtype=model.lm_head.weight.dtype)
    assert (
        torch.equal(rope.cos, new.cos)
        and torch.equal(rope.sin, new.sin)
        and rope.cos.dtype == new.cos.dtype
    )


# bad input


@pytest.mark.parametrize("wrong", [-1, 50, 10**6])
def test_token_id_out_of_range(wrong):
    with pytest.raises(InputError, match=f"token id {wrong} .*0 to 49"):
        make()(torch.tensor([[1, wrong]]))


def test_longer_than_the_context():
    with pytest.raises(InputError, match="25 tokens.*24"):
        make()(ids(1, 25))
    model = make()
    cache = KVCache(model.config, 1, dtype=torch.float64)
    model(ids(1, 20), cache)
    with pytest.raises(InputError, match="25 tokens.*24"):
        model(ids(1, 5), cache)


def test_cache_overflow():
    cache, four = (
        KVCache(TransformerConfig(**SHAPE), 1, max_seq_len=3),
        torch.zeros(1, 4, 4, 8),
    )
    with pytest.raises(InputError, match="holds 3"):
        cache.append(1, four, four)


def test_a_cache_knows_no_layer_from_another():
    "What one layer appends, no other layer gives; nothing counts until the model advances."
    cache = KVCache(TransformerConfig(**SHAPE), 2, max_seq_len=7)
    whole = torch.randn(2, 2, 4, 6, 8)  # (k or v, batch, heads, columns, d_head)
    for piece in whole.split([3, 1, 2], dim=-2):
        before, new = cache.length, piece.shape[-2]
        for layer, sign in ((0, 1), (1, -1)):
            got = torch.stack(cache.append(layer, *(sign * piece)))
            assert torch.equal(got, sign * whole[..., : before + new, :])
        assert cache.length == before
        cache.advance(new)
    assert torch.equal(cache.keys[0, :, :, :6], whole[0])
    assert torch.equal(cache.values[1, :, :, :6], -whole[1])
    assert cache.length == 6 and cache.positions(1).tolist() == [6] and cache.mask(1) is None


def test_odd_heads():
    with pytest.raises(InputError, match="even"):
        RotaryEmbedding(1e4, 7, 8)
    with pytest.raises(InputError, match="multiple"):
        MultiHeadSelfAttention(32, 5)


# the mathematics at random shapes


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([2, 4, 6]), st.integers(0, 10**6))
def test_attention_equals_brute_force(heads, seq, d_head, seed):
    g = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, heads, seq, d_head, dtype=torch.float64, generator=g)
    expected = torch.zeros_like(q)
    for i in range(seq):
        for b in range(2):
            for h in range(heads):
                weights = [
                    math.exp((q[b, h, i] @ k[b, h, j]).item() / math.sqrt(d_head))
                    for j in range(i + 1)
                ]
                expected[b, h, i] = sum(
                    w / sum(weights) * v[b, h, j] for j, w in enumerate(weights)
                )
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, causal=True), expected)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_cached_batches_of_any_lengths_equal_each_alone(data):
    model = make()
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    longest, more = max(lengths), data.draw(st.integers(1, 12))
    prompt, rest = ids(len(lengths), longest), ids(len(lengths), more, seed=2)
    padded = torch.stack([F.pad(row[:n], (longest - n, 0)) for row, n in zip(prompt, lengths)])
    cache = KVCache(
        model.config, len(lengths), start=[longest - n for n in lengths], dtype=torch.float64
    )
    cut = data.draw(st.integers(0, more))
    pieces = [piece for piece in (padded, rest[:, :cut], rest[:, cut:]) if piece.shape[1]]
    together = torch.cat([model(piece, cache) for piece in pieces], 1)
    for row, n in enumerate(lengths):
        alone = model(torch.cat([prompt[row, :n], rest[row]])[None])[0]
        torch.testing.assert_close(together[row, longest - n :], alone)


def test_nothing_looks_ahead():
    model, x = make(), ids(2, 12)
    before = model(x)
    for t in range(12):
        changed = x.clone()
        changed[:, t] = (changed[:, t] + 1) % 50
        after = model(changed)
        assert (
            torch.equal(after[:, :t], before[:, :t])
            and (after[:, t:] != before[:, t:]).any(-1).all()
        )


def test_gradients_equal_finite_differences():
    model = make(d_model=8, num_heads=2, num_layers=1, d_ff=8, vocab_size=11)
    x = ids(1, 4, vocab=11)
    names, values = zip(
        *((name, p.detach().clone().requires_grad_()) for name, p in model.named_parameters())
    )
    run = lambda *values: (
        torch.func.functional_call(model, dict(zip(names, values)), (x,)).logsumexp(-1).sum()
    )
    assert torch.autograd.gradcheck(run, values)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rmsnorm_is_computed_in_float32(scale):
    norm = RMSNorm(256)
    x = (torch.randn(16, 256) * scale).half()
    expected = F.rms_norm(x.double(), (256,), None, 1e-5)
    torch.testing.assert_close(norm(x).double(), expected, rtol=2e-3, atol=1e-6)
    assert norm(x).dtype == torch.float16


def test_truncated_normal():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = truncated_normal_(torch.empty(100_000, dtype=dtype), 0.02, 0.06).double()
        assert x.abs().max() <= 0.0601 and abs(x.mean()) < 3e-4
        assert abs(x.std() / 0.02 - 0.9866) < 0.01  # what cutting at three deviations leaves


def test_initialisation_of_the_course():
    model = make(dtype=torch.float32, d_model=256, vocab_size=1000)
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert (p == 1).all(), name
        else:
            std = 1 if name.startswith("token_embeddings") else math.sqrt(2 / sum(p.shape))
            assert (
                abs(p.std().item() / std - 0.9866) < 0.02 and p.abs().max() <= 3 * std + 1e-6
            ), name


# number formats and compilation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model, x = make(dtype=torch.float32), ids(2, 12)
    exact = model.double()(x)
    model = model.float()
    with torch.autocast("cpu", dtype=dtype):
        logits, cache = model(x), KVCache(model.config, 2, dtype=dtype)
        assert logits.dtype == dtype
        cached = torch.cat([model(piece, cache) for piece in x.split([5, 1, 6], 1)], 1)
        loss = F.cross_entropy(logits.flatten(0, 1), x.flatten())
    torch.testing.assert_close(logits.double(), exact, rtol=0, atol=0.06)
    torch.testing.assert_close(cached.double(), exact, rtol=0, atol=0.06)
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == len(list(model.parameters()))
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


def test_whole_model_in_bfloat16():
    model, x = make(), ids(2, 12)
    torch.testing.assert_close(
        make(dtype=torch.bfloat16)(x).double(), model(x), rtol=0, atol=0.1
    )


def test_one_row_of_memory_for_keys_of_any_layout():
    "Inputs with strange strides, as adapters may pass them."
    rope = RotaryEmbedding(1e4, 8, 16)
    x = torch.randn(8, 16, 2).permute(2, 1, 0)
    torch.testing.assert_close(rope(x), rope(x.contiguous()))
    positions = torch.arange(16).expand(2, 16)
    torch.testing.assert_close(rope(x, positions), rope(x))


def test_second_use_of_a_cache_in_inference_mode():
    model, x = make(), ids(1, 10)
    with torch.inference_mode():
        cache = KVCache(model.config, 1, dtype=torch.float64)
        pieces = torch.cat([model(piece, cache) for piece in x.split([4, 1, 5], 1)], 1)
        torch.testing.assert_close(pieces, model(x))
