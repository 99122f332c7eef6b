"Loss, optimizer and schedule against PyTorch and float64, and what they say to bad input."

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.adamw import SGD, AdamW, clip_grad_norm_
from lm336.errors import InputError
from lm336.fast_training import FastAdamW, fast_clip_grad_norm_
from lm336.loss import bits_per_byte, cross_entropy, perplexity, token_nats
from lm336.schedule import cosine_schedule


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# loss


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 60), st.floats(0, 4), st.integers(0, 999))
def test_token_nats_is_minus_log_softmax(tokens, vocab, exponent, seed):
    logits = rand(tokens, vocab, seed=seed) * 10**exponent
    targets = torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(seed))
    expected = -logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    assert torch.allclose(token_nats(logits, targets), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_are_finite_and_exact(dtype):
    logits = torch.tensor([[1e4, 0, -1e4]], dtype=dtype, requires_grad=True)
    nats = token_nats(logits.expand(3, 3), torch.arange(3))
    assert nats.dtype == torch.float32
    top = logits.detach().float()[0]
    assert torch.equal(nats, top[0] - top)
    nats.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("bad", [-1, -100, 10])
def test_a_target_outside_the_vocabulary_is_refused(bad):
    with pytest.raises(InputError, match=f"target {bad} is not in the vocabulary"):
        cross_entropy(torch.zeros(2, 10), torch.tensor([3, bad]))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="one target for each row"):
        token_nats(torch.zeros(2, 3, 10), torch.zeros(2, 4, dtype=torch.long))


def test_gradcheck():
    targets = torch.tensor([0, 6, 3, 3, 1])
    logits = rand(5, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: cross_entropy(logits, targets), logits)


def test_perplexity_and_bits_per_byte():
    assert (
        perplexity(0.0) == 1
        and perplexity(1e4) == math.inf
        and math.isclose(perplexity(math.log(7)), 7)
    )
    assert perplexity(torch.tensor(0.0)) == 1
    assert math.isclose(
        bits_per_byte(torch.tensor(8 * math.log(2), dtype=torch.float64), 1), 8
    )


# optimizers


def steps(
    optimizer_class,
    count=12,
    dtype=torch.float64,
    absent=(),
    shapes=((5, 3), (7,), (), (2, 3, 4)),
    **options,
):
    params = [
        torch.nn.Parameter(rand(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)
    ]
    groups = (
        [dict(params=params[:2]), dict(params=params[2:], lr=3e-2, weight_decay=0.0)]
        if optimizer_class.__name__ != "SGD"
        else params
    )
    optimizer = optimizer_class(groups, lr=1e-2, **options)
    for step in range(count):
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        for i, p in enumerate(params):
            p.grad = (
                None
                if (step, i) in absent
                else rand(*p.shape, seed=100 * step + i, dtype=dtype) * 10.0 ** (step % 7 - 3)
            )
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("optimizer_class", [AdamW, FastAdamW])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_adamw_equals_pytorchs_with_groups_and_absent_gradients(optimizer_class, dtype):
    options: dict[str, Any] = dict(
        betas=(0.8, 0.95),
        eps=1e-6,
        weight_decay=0.3,
        dtype=dtype,
        absent={(0, 1), (4, 0), (5, 0)},
    )
    ours, theirs = steps(optimizer_class, **options), steps(torch.optim.AdamW, **options)
    rtol, atol = (1e-10, 1e-14) if dtype == torch.float64 else (1e-4, 1e-6)
    for a, b in zip(ours[0], theirs[0]):
        assert torch.allclose(a, b, rtol, atol)
        for name in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.allclose(
                ours[1].state[a][name].to(b.dtype),
                theirs[1].state[b][name].to(b.dtype),
                rtol,
                atol,
            )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_pytorchs(momentum):
    for a, b in zip(
        steps(SGD, momentum=momentum)[0], steps(torch.optim.SGD, momentum=momentum)[0]
    ):
        assert torch.allclose(a, b, rtol=1e-12)


def test_a_closure_is_called_with_gradients():
    for optimizer_class in (SGD, AdamW, FastAdamW):
        p = torch.nn.Parameter(torch.ones(2))

        def closure():
            loss = (p * p).sum()
            (p.grad,) = torch.autograd.grad(loss, p)
            return loss

        assert optimizer_class([p], lr=0.1).step(closure) == 2 and (p < 1).all()


@pytest.mark.parametrize(
    "bad",
    [
        dict(lr=-1),
        dict(lr=math.nan),
        dict(eps=0.0),
        dict(weight_decay=-0.1),
        dict(betas=(1.0, 0.9)),
        dict(betas=(0.9, -0.1)),
        dict(betas=(0.9,)),
    ],
)
def test_bad_rates_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        AdamW([torch.zeros(1)], **(dict(lr=1e-3) | bad))


@pytest.mark.parametrize("clip", [clip_grad_norm_, fast_clip_grad_norm_])
@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
    st.integers(0, 99),
)
def test_clipping_equals_pytorchs_and_keeps_the_direction(clip, sizes, max_norm, seed):
    ours, theirs = (
        [torch.nn.Parameter(torch.zeros(n)) for n in [*sizes, 3]] for _ in range(2)
    )
    for i, (a, b) in enumerate(zip(ours[:-1], theirs)):  # the last one has no gradient
        a.grad = rand(len(a), seed=seed + i, dtype=torch.float32) * 10
        b.grad = a.grad.clone()
    norm = clip(iter(ours), max_norm)
    assert torch.allclose(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm))
    clipped = []
    for a, b in zip(ours[:-1], theirs):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad)
        clipped.append(a.grad)
    assert torch.cat(clipped).norm() <= max_norm * (1 + 1e-5)


@pytest.mark.parametrize("clip", [clip_grad_norm_, fast_clip_grad_norm_])
def test_clipping_nothing(clip):
    assert clip([torch.nn.Parameter(torch.zeros(2))], 1.0) == 0
    with pytest.raises(InputError, match="max_norm is -1"):
        clip([], -1)
    with pytest.raises(InputError, match="max_norm is nan"):
        clip([], math.nan)


# schedule


@settings(deadline=None)
@given(
    st.integers(0, 300),
    st.floats(1e-6, 1.0),
    st.floats(0, 1),
    st.integers(0, 100),
    st.integers(0, 150),
)
def test_schedule_as_the_course_writes_it(step, max_lr, share, warmup, decay):
    min_lr, end = max_lr * share, warmup + decay
    rate = cosine_schedule(step, max_lr, min_lr, warmup, end)
    if step < warmup:
        expected = step / warmup * max_lr
    elif step <= end and decay:
        expected = min_lr + (1 + math.cos((step - warmup) / decay * math.pi)) / 2 * (
            max_lr - min_lr
        )
    else:
        expected = max_lr if step == end else min_lr
    assert math.isclose(rate, expected, rel_tol=1e-9, abs_tol=1e-12)
    assert min(0, min_lr) <= rate <= max_lr


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((-1, 1, 0, 1, 2), "step is -1"),
        ((0, 1, 2, 1, 2), "min_lr <= max_lr"),
        ((0, 1, 0, 3, 2), "warmup_steps <= cosine_steps"),
        ((0, math.nan, 0, 1, 2), "max_lr nan"),
    ],
)
def test_schedule_refuses_an_order_without_sense(arguments, words):
    with pytest.raises(InputError, match=words):
        cosine_schedule(*arguments)
