"Muon against the singular value decomposition in float64, and against PyTorch's."

import copy
import math

import numpy as np
import pytest
import torch

from lm336.errors import InputError
from lm336.muon import JORDAN, Muon, orthogonalize, orthogonalize_flops, split_parameters
from lm336.transformer import Transformer, TransformerConfig

SHAPES = [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)]


def by_svd(matrix, steps=5, coefficients=JORDAN):
    "The polynomial on each singular value, one by one."
    u, s, vt = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    a, b, c = coefficients
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return torch.from_numpy(u * s @ vt)


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_stay_and_values_follow_the_polynomial(shape):
    matrix = torch.randn(shape, generator=torch.manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(orthogonalize(matrix), by_svd(matrix), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        orthogonalize(1e3 * matrix), orthogonalize(matrix), atol=1e-5, rtol=0
    )


def test_a_stack_of_matrices_is_orthogonalized_one_by_one():
    stack = torch.randn(3, 4, 7, generator=torch.manual_seed(0), dtype=torch.float64)
    one_by_one = torch.stack([orthogonalize(matrix) for matrix in stack])
    torch.testing.assert_close(orthogonalize(stack), one_by_one)


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_steps_by_hand(shape):
    generator = torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    right, buffer = weight.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    optimizer = Muon([weight], lr=0.05, momentum=0.8, weight_decay=0.3)
    longer = math.sqrt(max(1, shape[0] / shape[1]))
    for _ in range(10):
        grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        weight.grad = grad.clone()
        optimizer.step()
        buffer = 0.8 * buffer + grad
        right = (1 - 0.05 * 0.3) * right - 0.05 * longer * by_svd(grad + 0.8 * buffer)
        torch.testing.assert_close(weight.grad, grad)
    torch.testing.assert_close(weight.detach(), right, atol=1e-5, rtol=0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_as_pytorchs_as_far_as_its_bfloat16_goes(shape):
    moved = []
    for make in (Muon, torch.optim.Muon):
        generator = torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.zeros(shape))
        optimizer = make([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(5):
            weight.grad = torch.randn(shape, generator=generator)
            optimizer.step()
        moved.append(weight.detach())
    ours, theirs = moved
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_it_continues_from_its_state():
    generator = torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 4, generator=generator))
    idle = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([weight, idle])
    gradients = torch.randn(2, 4, 4, generator=generator)
    weight.grad = gradients[0]
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3
    saved = copy.deepcopy(optimizer.state_dict())
    other = torch.nn.Parameter(weight.detach().clone())
    twin = Muon([other, torch.nn.Parameter(torch.ones(2, 2))])
    twin.load_state_dict(saved)
    weight.grad, other.grad = gradients[1], gradients[1].clone()
    optimizer.step()
    twin.step()
    assert torch.equal(weight, other)
    assert torch.equal(idle, torch.ones(2, 2)), "without a gradient nothing moves"


@pytest.mark.parametrize(
    "options", [dict(lr=-1.0), dict(momentum=1.0), dict(weight_decay=math.inf)]
)
def test_a_rate_out_of_range_is_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))], **options)


def test_a_vector_is_refused():
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_split_without_loss(tied):
    config = TransformerConfig(40, 8, 16, 2, 2, tie_embeddings=tied)
    model = Transformer(config)
    matrices, others = split_parameters(model)
    assert {id(p) for p in matrices + others} == {id(p) for p in model.parameters()}
    assert len(matrices) == 14 and all(p.ndim == 2 for p in matrices)
    table = model.token_embeddings.weight
    assert any(p is table for p in others) and not any(p is table for p in matrices)


def test_flops_by_hand():
    "X X^T is 2 x 2 from 2 x 5, its square 2 x 2, and then 2 x 2 by 2 x 5."
    by_hand = 2 * 2 * 2 * 5 + 2 * 2 * 2 * 2 + 2 * 2 * 2 * 5
    assert orthogonalize_flops(2, 5, 1) == orthogonalize_flops(5, 2, 1) == by_hand
    assert orthogonalize_flops(2, 5) == 5 * by_hand
