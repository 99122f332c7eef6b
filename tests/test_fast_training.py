"What is fast in training equals what is plain; and it asks a device for no number."

import math
import shutil
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lm336 import (
    InputError,
    Run,
    Trainer,
    TrainingConfig,
    Transformer,
    TransformerConfig,
    fast_training,
)
from lm336.adamw import AdamW
from lm336.fast_trainer import FastTrainer
from lm336.fast_training import FastAdamW, FastUpdate, fast_token_nats, linear_cross_entropy
from lm336.loss import cross_entropy, token_nats
from lm336.run_folder import read_metrics

from .test_learning import rand, steps
from .test_runs import MODEL, TRAINING, small

# loss


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 60), st.floats(0, 4), st.integers(0, 999))
def test_fast_nats_equal_the_plain_ones(tokens, vocab, exponent, seed):
    logits = (rand(tokens, vocab, seed=seed) * 10**exponent).requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(seed))
    ours, theirs = fast_token_nats(logits, targets), token_nats(logits, targets)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-10)
    gradients = [torch.autograd.grad(nats.sum(), logits)[0] for nats in (ours, theirs)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fast_nats_of_extreme_logits_are_finite_and_exact(dtype):
    logits = torch.tensor([[1e4, 0, -1e4]], dtype=dtype)
    nats = fast_token_nats(logits.expand(3, 3), torch.arange(3))
    assert nats.dtype == torch.float32
    assert torch.equal(nats, logits[0].float()[0] - logits[0].float())


@pytest.mark.parametrize("bad", [-1, -100, 10])
def test_a_target_outside_the_vocabulary_is_refused(bad):
    words = f"target {bad} is not in the vocabulary: its ids are 0 to 9"
    with pytest.raises(InputError, match=words):
        linear_cross_entropy(torch.zeros(2, 4), torch.zeros(10, 4), torch.tensor([3, bad]))
    with pytest.raises(InputError, match=words):
        fast_token_nats(torch.zeros(2, 10), torch.tensor([3, bad]))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        linear_cross_entropy(
            torch.zeros(2, 4), torch.zeros(10, 5), torch.zeros(2, dtype=torch.long)
        )
    with pytest.raises(InputError, match="chunk_size is 0"):
        linear_cross_entropy(
            torch.zeros(2, 4), torch.zeros(10, 4), torch.zeros(2, dtype=torch.long), 0
        )


def test_chunked_loss_is_finite_at_extreme_logits():
    hidden, weight = (
        torch.tensor([[1e4], [-1e4]], requires_grad=True),
        torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True),
    )
    value = linear_cross_entropy(hidden, weight, torch.tensor([2, 1]))
    assert value == 1.5e4
    value.backward()
    for grad in (hidden.grad, weight.grad):
        assert grad is not None and grad.isfinite().all()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 8),
    st.integers(2, 40),
    st.integers(1, 30),
    st.integers(0, 99),
)
def test_chunked_loss_equals_whole_in_value_and_gradient(
    batch, seq, d_model, vocab, chunk_size, seed
):
    hidden, weight = (
        rand(batch, seq, d_model, seed=seed).requires_grad_(),
        rand(vocab, d_model, seed=seed + 1).requires_grad_(),
    )
    targets = torch.randint(vocab, (batch, seq), generator=torch.Generator().manual_seed(seed))
    whole, chunked = (
        F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten()),
        linear_cross_entropy(hidden, weight, targets, chunk_size),
    )
    assert torch.allclose(whole, chunked, rtol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(3 * chunked, (hidden, weight)),
        torch.autograd.grad(3 * whole, (hidden, weight)),
    ):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunked_loss_under_autocast(dtype):
    hidden, weight = (
        rand(96, 32, dtype=torch.float32).requires_grad_(),
        (0.1 * rand(500, 32, seed=1, dtype=torch.float32)).requires_grad_(),
    )
    targets = torch.randint(500, (96,), generator=torch.Generator().manual_seed(0))
    exact = torch.autograd.grad(cross_entropy(hidden @ weight.T, targets), (hidden, weight))
    with torch.autocast("cpu", dtype):
        value = linear_cross_entropy(hidden, weight, targets, chunk_size=40)
    assert (
        value.dtype == torch.float32
        and abs(value - cross_entropy(hidden @ weight.T, targets)) < 1e-2
    )
    scale = 2.0**16  # as a gradient scaler does; nothing may overflow or vanish
    for ours, theirs in zip(torch.autograd.grad(value * scale, (hidden, weight)), exact):
        assert ours.dtype == torch.float32
        assert (ours / scale - theirs).norm() < 1e-2 * theirs.norm()


def test_chunked_loss_without_gradient_and_with_one_frozen():
    hidden, weight, targets = rand(20, 8).requires_grad_(), rand(30, 8), torch.arange(20)
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets, 7).requires_grad
    value = linear_cross_entropy(hidden, weight, targets, 7)
    value.backward()
    (expected,) = torch.autograd.grad(cross_entropy(hidden @ weight.T, targets), hidden)
    assert hidden.grad is not None and torch.allclose(hidden.grad, expected)
    assert weight.grad is None


def test_gradcheck():
    hidden, weight, targets = (
        rand(5, 3).requires_grad_(),
        rand(7, 3).requires_grad_(),
        torch.tensor([0, 6, 3, 3, 1]),
    )
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, 2), (hidden, weight)
    )


@pytest.mark.parametrize(
    "weight_dtype, products",
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float32, torch.bfloat16),
    ],
)
def test_both_ways_through_the_chunks_agree(weight_dtype, products):
    "One format throughout, or products in another: the same numbers for the same formats."
    hidden, weight = rand(40, 8).to(weight_dtype), rand(30, 8, seed=1).to(weight_dtype)
    targets = torch.arange(40) % 30
    one = fast_training._chunks_in_one_format(hidden, weight, targets, 16, True)
    two = fast_training._chunks_in_two_formats(hidden, weight, targets, 16, products, True)
    tolerance = 0.05 if products == torch.bfloat16 else 1e-5
    for a, b in zip(one, two):
        assert (a - b).norm() <= tolerance * a.norm()


# optimizer


@pytest.mark.parametrize(
    "before, after", [(a, b) for a in (AdamW, FastAdamW) for b in (AdamW, FastAdamW)]
)
def test_either_optimizer_goes_on_from_the_state_of_either(before, after):
    whole, _ = steps(before, 12)
    params, optimizer = steps(before, 6)
    other = after([dict(params=params[:2]), dict(params=params[2:])], lr=9.0)
    other.load_state_dict(optimizer.state_dict())
    for step in range(6, 12):
        for group in other.param_groups:
            group["lr"] *= 0.9
        for i, p in enumerate(params):
            p.grad = rand(*p.shape, seed=100 * step + i) * 10.0 ** (step % 7 - 3)
        other.step()
    for a, b in zip(whole, params):
        assert torch.equal(a, b) if before == after else torch.allclose(a, b, rtol=1e-10)


def test_a_state_keeps_its_options_and_its_names():
    params, optimizer = steps(FastAdamW, 3, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.25)
    other = AdamW([dict(params=params[:2]), dict(params=params[2:])], lr=1.0)
    other.load_state_dict(optimizer.state_dict())
    assert (
        other.param_groups[0]["betas"] == (0.5, 0.75) and other.param_groups[0]["eps"] == 1e-3
    )
    assert set(other.state[params[0]]) == {"exp_avg", "exp_avg_sq", "step"}
    assert other.state[params[0]]["step"] == 3


@pytest.mark.parametrize("overflow", [set(), {0}, {0, 1, 5}, {11}])
def test_an_overflow_is_left_out_as_pytorch_leaves_it_out(overflow):
    "Under a GradScaler: weights, averages and counts of PyTorch's fused AdamW."
    runs = []
    for optimizer_class in (FastAdamW, partial(torch.optim.AdamW, fused=True)):
        params = [
            torch.nn.Parameter(rand(5, 3, dtype=torch.float32)),
            torch.nn.Parameter(rand(7, dtype=torch.float32)),
        ]
        optimizer = optimizer_class(params, lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for step in range(12):
            for i, p in enumerate(params):
                grad = 8.0 * rand(*p.shape, seed=10 * step + i, dtype=torch.float32)
                if i == 1 and step in overflow:
                    grad[3] = math.inf
                p.grad = grad
            scaler.scale(torch.zeros(1))
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        runs.append(
            [
                params,
                [
                    optimizer.state[p][name]
                    for p in params
                    for name in ("exp_avg", "exp_avg_sq", "step")
                ],
            ]
        )
        assert all(optimizer.state[p]["step"] == 12 - len(overflow) for p in params)
    for ours, theirs in zip(*(params + state for params, state in runs)):
        assert torch.allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("unscale", [True, False], ids=["with unscale_", "without"])
@pytest.mark.parametrize("ours", [FastAdamW, AdamW], ids=["fast", "plain"])
def test_the_usual_loop_with_a_scaler_equals_pytorchs(ours, unscale):
    "scale, step, update, as PyTorch's documentation has it; one gradient overflows."
    weights = []
    for optimizer_class in (ours, torch.optim.AdamW):
        p = torch.nn.Parameter(rand(9, dtype=torch.float32))
        optimizer, scaler = (
            optimizer_class([p], lr=1e-2, weight_decay=0.1, eps=1e-3),
            torch.amp.GradScaler("cpu", init_scale=512.0),
        )
        for step in range(8):
            loss = (p * rand(9, seed=step, dtype=torch.float32)).sum() * (
                math.inf if step == 3 else 1.0
            )
            scaler.scale(loss).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert scaler.get_scale() == 256.0
        weights.append(p.detach())
    assert torch.allclose(*weights, rtol=1e-6)


def test_the_plain_one_leaves_an_overflow_out_too():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, scaler = AdamW([p], lr=1e-2), torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(1))
    p.grad = torch.tensor([1.0, math.inf, 1.0])
    scaler.step(optimizer)
    assert torch.equal(p.detach(), torch.ones(3)) and not optimizer.state[p]


# an update


@pytest.mark.parametrize("accumulation", [1, 2, 8])
def test_fast_updates_equal_plain_ones(tmp_path, accumulation):
    "Ten updates in float64, of the same windows: losses, norms, weights."
    changes = dict(max_grad_norm=0.3, weight_decay=0.5)
    fields: dict[str, Any] = TRAINING | changes
    config = TrainingConfig(**fields, gradient_accumulation_steps=accumulation)
    tokens = np.random.default_rng(0).integers(300, size=4000)
    torch.manual_seed(0)
    models = [Transformer(TransformerConfig(**MODEL)).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    plain = Trainer(models[0], tokens, tokens, config, tmp_path)
    fast = FastUpdate(models[1], config)
    for _ in range(10):
        found = fast(*plain.batch(), plain.learning_rate())
        expected = plain.train_step()
        assert torch.allclose(torch.stack(found), torch.stack(expected), rtol=1e-6)
    for a, b in zip(*(model.parameters() for model in models)):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


def test_a_run_in_float32_trains_as_the_plain_trainer_does(tmp_path):
    "On one process, not compiled. What differs is the order in which numbers are added."
    changes = dict(max_steps=20, precision="float32", compile="off", eval_interval=10)
    fields: dict[str, Any] = TRAINING | changes
    config = TrainingConfig(**fields)
    tokens = np.random.default_rng(0).integers(300, size=4000)
    runs = []
    for kind in (Trainer, partial(Run, device="cpu")):
        torch.manual_seed(0)
        model = Transformer(TransformerConfig(**MODEL))
        runs.append(kind(model, tokens, tokens, config, tmp_path / str(len(runs))))
        runs[-1].fit()
    plain, fast = (run.model.state_dict() for run in runs)
    for name in plain:
        assert torch.allclose(plain[name], fast[name], rtol=1e-3, atol=1e-4), name
    logged = [
        [
            line[key]
            for line in read_metrics(run.folder)
            for key in ("loss", "valid_loss", "learning_rate", "gradient_norm")
            if key in line
        ]
        for run in runs
    ]
    assert np.allclose(*logged, rtol=1e-4), "do both log the same, at the same steps?"


def test_a_fast_trainer_looks_at_its_own_share(tmp_path, monkeypatch):
    config = TrainingConfig(**TRAINING, precision="float32")
    tokens = np.arange(4000) % 300
    trainer = FastTrainer(
        Transformer(TransformerConfig(**MODEL)), tokens, tokens, config, tmp_path, "cpu"
    )
    whole = trainer.batch()
    trainer.num_processes = 2
    shares = []
    for trainer.rank in (0, 1):
        shares.append(trainer.batch())
    for i in (0, 1):
        assert torch.equal(torch.cat([share[i] for share in shares]), whole[i])


class Fetches(TorchDispatchMode):
    "Counts the numbers that were asked for: on a GPU each waits for all before it."

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_step_asks_the_device_for_no_number(precision, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lm336.embeddings.Embedding.check", lambda *args: None
    )  # two checks that are made on a CPU alone
    monkeypatch.setattr("lm336.fast_training.check_targets", lambda *args: None)
    trainer = small(tmp_path, precision=precision, gradient_accumulation_steps=2)
    trainer.train_step()
    with Fetches() as fetches:
        trainer.waiting += [(step, 1e-3, *trainer.train_step()) for step in range(3)]
    assert fetches.count == 0
    trainer.flush()
    with fetches:
        trainer.train_step()[0].item()
    assert fetches.count > 0, "this test would not see a number being fetched"


needs_a_compiler = pytest.mark.skipif(
    not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU"
)


@needs_a_compiler
def test_compiled_training_is_the_same_training(tmp_path):
    "The same losses within rounding, the same names; a resumed run is bit-identical."
    plain, compiled = (
        small(tmp_path / how, max_steps=6, compile=how) for how in ("off", "on")
    )
    losses = [
        [trainer.train_step()[0].item() for _ in range(6)] for trainer in (plain, compiled)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=5e-4)
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    broken, resumed = (small(tmp_path / "broken", max_steps=6, compile="on") for _ in range(2))
    for _ in range(3):
        broken.train_step()
    broken.save()
    assert resumed.resume() == 3
    for _ in range(3):
        resumed.train_step()
    for name, weight in compiled.model.state_dict().items():
        assert weight.equal(resumed.model.state_dict()[name]), name


@needs_a_compiler
def test_a_long_run_is_compiled_where_a_compiler_works(tmp_path, monkeypatch):
    assert not small(tmp_path / "short").compiled
    monkeypatch.setattr(fast_training, "LONG_RUN", 0)
    assert small(tmp_path / "long").compiled
    torch._dynamo.reset()  # forget what has been compiled
    with torch._inductor.config.patch(
        {"cpp.cxx": ("/no/compiler",), "force_disable_caches": True}
    ):
        trainer = small(tmp_path / "no compiler")
        assert not trainer.compiled and trainer.train_step()[0].isfinite()
        with pytest.raises(
            InputError,
            match="but torch.compile does not work here .*: install a C\\+\\+ compiler, or",
        ):
            small(tmp_path / "on", compile="on")
