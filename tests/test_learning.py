"Loss, optimizer and schedule against PyTorch and float64, and what they say to bad input."
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from lm336.adamw import SGD, AdamW, clip_grad_norm_
from lm336.errors import InputError
from lm336.loss import bits_per_byte, cross_entropy, linear_cross_entropy, perplexity, token_nats
from lm336.schedule import cosine_schedule


def rand(*shape, seed=0, dtype=torch.float64): return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# loss

@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 60), st.floats(0, 4), st.integers(0, 999), st.booleans())
def test_token_nats_is_minus_log_softmax(tokens, vocab, exponent, seed, fused):
    logits = rand(tokens, vocab, seed=seed) * 10**exponent
    targets = torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(seed))
    expected = -logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    assert torch.allclose(token_nats(logits, targets, fused), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_are_finite_and_exact(dtype, fused):
    logits = torch.tensor([[1e4, 0, -1e4]], dtype=dtype, requires_grad=True)
    nats = token_nats(logits.expand(3, 3), torch.arange(3), fused)
    assert nats.dtype == torch.float32
    top = logits.detach().float()[0]
    assert torch.equal(nats, top[0] - top)
    nats.sum().backward()
    assert logits.grad.isfinite().all()


def test_chunked_loss_is_finite_at_extreme_logits():
    hidden, weight = torch.tensor([[1e4], [-1e4]], requires_grad=True), torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    value = linear_cross_entropy(hidden, weight, torch.tensor([2, 1]))
    assert value == 1.5e4
    value.backward()
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.parametrize("bad", [-1, -100, 10])
def test_a_target_outside_the_vocabulary_is_refused(bad):
    for call in (lambda t: cross_entropy(torch.zeros(2, 10), t), lambda t: linear_cross_entropy(torch.zeros(2, 4), torch.zeros(10, 4), t)):
        with pytest.raises(InputError, match=f"target {bad} is not in the vocabulary: 0 to 9"): call(torch.tensor([3, bad]))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="one for each row"): token_nats(torch.zeros(2, 3, 10), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(InputError, match="do not fit"): linear_cross_entropy(torch.zeros(2, 4), torch.zeros(10, 5), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InputError, match="chunk_size is 0"): linear_cross_entropy(torch.zeros(2, 4), torch.zeros(10, 4), torch.zeros(2, dtype=torch.long), 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 8), st.integers(2, 40), st.integers(1, 30), st.integers(0, 99))
def test_chunked_loss_equals_whole_in_value_and_gradient(batch, seq, d_model, vocab, chunk_size, seed):
    hidden, weight = rand(batch, seq, d_model, seed=seed).requires_grad_(), rand(vocab, d_model, seed=seed + 1).requires_grad_()
    targets = torch.randint(vocab, (batch, seq), generator=torch.Generator().manual_seed(seed))
    whole, chunked = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten()), linear_cross_entropy(hidden, weight, targets, chunk_size)
    assert torch.allclose(whole, chunked, rtol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(3 * chunked, (hidden, weight)), torch.autograd.grad(3 * whole, (hidden, weight))):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunked_loss_under_autocast(dtype):
    hidden, weight = rand(96, 32, dtype=torch.float32).requires_grad_(), (0.1 * rand(500, 32, seed=1, dtype=torch.float32)).requires_grad_()
    targets = torch.randint(500, (96,), generator=torch.Generator().manual_seed(0))
    exact = torch.autograd.grad(cross_entropy(hidden @ weight.T, targets), (hidden, weight))
    with torch.autocast("cpu", dtype): value = linear_cross_entropy(hidden, weight, targets, chunk_size=40)
    assert value.dtype == torch.float32 and abs(value - cross_entropy(hidden @ weight.T, targets)) < 1e-2
    scale = 2.0**16                              # as a gradient scaler does; nothing may overflow or vanish
    for ours, theirs in zip(torch.autograd.grad(value * scale, (hidden, weight)), exact):
        assert ours.dtype == torch.float32
        assert (ours / scale - theirs).norm() < 1e-2 * theirs.norm()


def test_chunked_loss_without_gradient_and_with_one_frozen():
    hidden, weight, targets = rand(20, 8).requires_grad_(), rand(30, 8), torch.arange(20)
    with torch.no_grad(): assert not linear_cross_entropy(hidden, weight, targets, 7).requires_grad
    value = linear_cross_entropy(hidden, weight, targets, 7)
    value.backward()
    expected, = torch.autograd.grad(cross_entropy(hidden @ weight.T, targets), hidden)
    assert torch.allclose(hidden.grad, expected) and weight.grad is None


def test_gradcheck():
    hidden, weight, targets = rand(5, 3).requires_grad_(), rand(7, 3).requires_grad_(), torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, 2), (hidden, weight))
    assert torch.autograd.gradcheck(lambda h: cross_entropy(h @ weight.T, targets, fused=False), hidden)


def test_perplexity_and_bits_per_byte():
    assert perplexity(0.0) == 1 and perplexity(1e4) == math.inf and math.isclose(perplexity(math.log(7)), 7)
    assert perplexity(torch.tensor(0.0)) == 1
    assert math.isclose(bits_per_byte(torch.tensor(8 * math.log(2), dtype=torch.float64), 1), 8)


# optimizers

def steps(optimizer_class, count=12, dtype=torch.float64, absent=(), shapes=((5, 3), (7,), (), (2, 3, 4)), **options):
    params = [torch.nn.Parameter(rand(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)]
    groups = [dict(params=params[:2]), dict(params=params[2:], lr=3e-2, weight_decay=0.0)] if optimizer_class.__name__ != "SGD" else params
    optimizer = optimizer_class(groups, lr=1e-2, **options)
    for step in range(count):
        for group in optimizer.param_groups: group["lr"] *= 0.9
        for i, p in enumerate(params):
            p.grad = None if (step, i) in absent else rand(*p.shape, seed=100 * step + i, dtype=dtype) * 10.0**(step % 7 - 3)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_adamw_equals_pytorchs_with_groups_and_absent_gradients(fused, dtype):
    options = dict(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3, dtype=dtype, absent={(0, 1), (4, 0), (5, 0)})
    ours, theirs = steps(AdamW, fused=fused, **options), steps(torch.optim.AdamW, **options)
    tolerance = dict(rtol=1e-10, atol=1e-14) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-6)
    for a, b in zip(ours[0], theirs[0]):
        assert torch.allclose(a, b, **tolerance)
        for name in ("exp_avg", "exp_avg_sq", "step"): assert torch.allclose(ours[1].state[a][name].to(b.dtype), theirs[1].state[b][name].to(b.dtype), **tolerance)


@pytest.mark.parametrize("before, after", [(True, True), (True, False), (False, True), (False, False)])
def test_adamw_goes_on_from_its_state_dict(before, after):
    whole, _ = steps(AdamW, 12, fused=before)
    params, optimizer = steps(AdamW, 6, fused=before)
    other = AdamW([dict(params=params[:2]), dict(params=params[2:])], lr=9.0, fused=after)
    other.load_state_dict(optimizer.state_dict())
    for group in other.param_groups: group["fused"] = after
    for step in range(6, 12):
        for group in other.param_groups: group["lr"] *= 0.9
        for i, p in enumerate(params): p.grad = rand(*p.shape, seed=100 * step + i) * 10.0**(step % 7 - 3)
        other.step()
    for a, b in zip(whole, params): assert torch.equal(a, b) if before == after else torch.allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize("overflow", [set(), {0}, {0, 1, 5}, {11}])
def test_an_overflow_is_left_out_as_pytorch_leaves_it_out(overflow):
    "Under a GradScaler: the same weights, averages and step counts as PyTorch's fused AdamW, which also never asks the device."
    runs = []
    for optimizer_class in (AdamW, torch.optim.AdamW):
        params = [torch.nn.Parameter(rand(5, 3, dtype=torch.float32)), torch.nn.Parameter(rand(7, dtype=torch.float32))]
        optimizer, scaler = optimizer_class(params, lr=1e-2, fused=True), torch.amp.GradScaler("cpu", init_scale=8.0)
        for step in range(12):
            for i, p in enumerate(params): p.grad = 8.0 * rand(*p.shape, seed=10 * step + i, dtype=torch.float32)
            if step in overflow: params[1].grad[3] = math.inf
            scaler.scale(torch.zeros(1)), scaler.unscale_(optimizer), scaler.step(optimizer), scaler.update()
        runs.append([params, [optimizer.state[p][name] for p in params for name in ("exp_avg", "exp_avg_sq", "step")]])
        assert all(optimizer.state[p]["step"] == 12 - len(overflow) for p in params)
    for ours, theirs in zip(*(params + state for params, state in runs)): assert torch.allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("unscale", [True, False], ids=["with unscale_", "without"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "loop"])
def test_the_usual_loop_with_a_scaler_equals_pytorchs(fused, unscale):
    "scale, step, update, as PyTorch's documentation has it: the gradients that reach the optimizer are scaled, and one overflows."
    weights = []
    for optimizer_class in (AdamW, torch.optim.AdamW):
        p = torch.nn.Parameter(rand(9, dtype=torch.float32))
        optimizer, scaler = optimizer_class([p], lr=1e-2, weight_decay=0.1, eps=1e-3, fused=fused), torch.amp.GradScaler("cpu", init_scale=512.0)
        for step in range(8):
            loss = (p * rand(9, seed=step, dtype=torch.float32)).sum() * (math.inf if step == 3 else 1.0)
            scaler.scale(loss).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert scaler.get_scale() == 256.0
        weights.append(p.detach())
    assert torch.allclose(*weights, rtol=1e-6)


def test_the_loop_leaves_an_overflow_out_too():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, scaler = AdamW([p], lr=1e-2, fused=False), torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(1))
    p.grad = torch.tensor([1.0, math.inf, 1.0])
    scaler.step(optimizer)
    assert torch.equal(p.detach(), torch.ones(3)) and not optimizer.state[p]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_pytorchs(momentum):
    for a, b in zip(steps(SGD, momentum=momentum)[0], steps(torch.optim.SGD, momentum=momentum)[0]): assert torch.allclose(a, b, rtol=1e-12)


def test_a_closure_is_called_with_gradients():
    for optimizer_class in (SGD, AdamW):
        p = torch.nn.Parameter(torch.ones(2))
        def closure():
            loss = (p * p).sum()
            p.grad, = torch.autograd.grad(loss, p)
            return loss
        assert optimizer_class([p], lr=0.1).step(closure) == 2 and (p < 1).all()


@pytest.mark.parametrize("bad", [dict(lr=-1), dict(lr=math.nan), dict(eps=0.0), dict(weight_decay=-0.1), dict(betas=(1.0, 0.9)), dict(betas=(0.9, -0.1)), dict(betas=(0.9,))])
def test_bad_rates_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))): AdamW([torch.zeros(1)], **(dict(lr=1e-3) | bad))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_clipping_equals_pytorchs_and_keeps_the_direction(sizes, max_norm, seed):
    ours, theirs = ([torch.nn.Parameter(torch.zeros(n)) for n in [*sizes, 3]] for _ in range(2))
    for i, (a, b) in enumerate(zip(ours[:-1], theirs)):          # the last one has no gradient
        a.grad = rand(len(a), seed=seed + i, dtype=torch.float32) * 10
        b.grad = a.grad.clone()
    norm = clip_grad_norm_(iter(ours), max_norm)
    assert torch.allclose(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(ours[:-1], theirs): assert torch.allclose(a.grad, b.grad)
    assert torch.cat([p.grad for p in ours[:-1]]).norm() <= max_norm * (1 + 1e-5)


def test_clipping_nothing():
    assert clip_grad_norm_([torch.nn.Parameter(torch.zeros(2))], 1.0) == 0
    with pytest.raises(InputError, match="max_norm is -1"): clip_grad_norm_([], -1)


# schedule

@settings(deadline=None)
@given(st.integers(0, 300), st.floats(1e-6, 1.0), st.floats(0, 1), st.integers(0, 100), st.integers(0, 150))
def test_schedule_as_the_course_writes_it(step, max_lr, share, warmup, decay):
    min_lr, end = max_lr * share, warmup + decay
    rate = cosine_schedule(step, max_lr, min_lr, warmup, end)
    if step < warmup: expected = step / warmup * max_lr
    elif step <= end and decay: expected = min_lr + (1 + math.cos((step - warmup) / decay * math.pi)) / 2 * (max_lr - min_lr)
    else: expected = max_lr if step == end else min_lr
    assert math.isclose(rate, expected, rel_tol=1e-9, abs_tol=1e-12)
    assert min(0, min_lr) <= rate <= max_lr


@pytest.mark.parametrize("arguments, words", [((-1, 1, 0, 1, 2), "step is -1"), ((0, 1, 2, 1, 2), "min_lr <= max_lr"), ((0, 1, 0, 3, 2), "warmup_steps <= cosine_steps"),
                                              ((0, math.nan, 0, 1, 2), "max_lr nan")])
def test_schedule_refuses_an_order_without_sense(arguments, words):
    with pytest.raises(InputError, match=words): cosine_schedule(*arguments)
