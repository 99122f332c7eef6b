"The backward pass by hand: autograd on our Transformer, and finite differences, agree."
import pytest
import torch

from lm336.backward import (
    block_backward,
    block_forward,
    embedding_backward,
    linear_backward,
    loss_and_gradients,
)
from lm336.loss import cross_entropy
from lm336.transformer import Transformer, TransformerConfig, parameter_shapes

PLAIN = dict(vocab_size=11, context_length=12, d_model=12, num_layers=2, num_heads=2, d_ff=20)
SHAPES = [  # what differs from PLAIN, and (batch, seq)
    ({}, (3, 12)),
    ({"tie_embeddings": True}, (2, 7)),
    ({"num_heads": 1, "num_layers": 1}, (1, 5)),
    ({"num_heads": 6, "rope_theta": 100.0}, (2, 9)),
    ({"d_ff": 1, "norm_eps": 0.1}, (2, 4)),
    ({"num_layers": 4, "d_model": 8, "tie_embeddings": True}, (4, 3)),
    ({"vocab_size": 2}, (5, 1)),
]


def example(changes, shape, dtype=torch.float64):
    "A model with random weights, no norm's being 1; its weights, and a batch."
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**PLAIN | changes), dtype=dtype)
    for name, p in model.named_parameters():
        if "ln" in name:
            p.data.uniform_(0.5, 2)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    inputs, targets = torch.randint(model.config.vocab_size, (2, *shape))
    return model, weights, inputs, targets


@pytest.mark.parametrize(("changes", "shape"), SHAPES)
def test_loss_and_gradients_are_those_of_autograd(changes, shape):
    model, weights, inputs, targets = example(changes, shape)
    expected = cross_entropy(model(inputs), targets)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    loss, gradients = loss_and_gradients(weights, inputs, targets, model.config)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    assert gradients.keys() == weights.keys() == parameter_shapes(model.config).keys()
    for name, grad in zip(weights, wanted, strict=True):
        assert gradients[name].shape == grad.shape and not gradients[name].requires_grad
        error = (gradients[name] - grad).abs().max() / grad.abs().max().clamp(min=1e-9)
        assert error < 1e-10, f"{name} differs by {error:.0e}"


def test_gradients_are_those_of_finite_differences():
    "Every number of every weight, nudged: nothing of autograd's is used."
    model, weights, inputs, targets = example({"num_layers": 1, "d_model": 4}, (2, 3))
    _, gradients = loss_and_gradients(weights, inputs, targets, model.config)
    for name, weight in weights.items():
        for at in range(weight.numel()):
            losses = []
            for nudge in (1e-5, -1e-5):
                nudged = weight.flatten().clone()
                nudged[at] += nudge
                changed = weights | {name: nudged.view_as(weight)}
                losses.append(loss_and_gradients(changed, inputs, targets, model.config)[0])
            slope = ((losses[0] - losses[1]) / 2e-5).item()
            found = gradients[name].flatten()[at].item()
            assert abs(found - slope) < 1e-7, f"{name}[{at}]: {found}, by nudging {slope}"


def test_nothing_that_is_given_changes():
    model, weights, inputs, targets = example({"tie_embeddings": True}, (2, 5))
    before = {name: weight.clone() for name, weight in weights.items()}
    first = loss_and_gradients(weights, inputs, targets, model.config)[1]
    second = loss_and_gradients(weights, inputs, targets, model.config)[1]
    for name, weight in weights.items():
        assert torch.equal(weight, before[name])
        assert torch.equal(first[name], second[name])
        assert first[name].data_ptr() != weight.data_ptr()


def test_a_block_passes_its_gradient_along_the_stream():
    "With branches that write nothing the gradient comes back as it was, bit for bit."
    model, weights, *_ = example({}, (1, 1))
    block = {name[9:]: w for name, w in weights.items() if name.startswith("layers.0.")}
    for silent in ("attn.output_proj.weight", "ffn.w2.weight"):
        block[silent] = torch.zeros_like(block[silent])
    x, grad = torch.randn(2, 2, 5, 12, dtype=torch.float64)
    output, saved = block_forward(x, block, model.config)
    at_x, gradients = block_backward(grad, block, saved)
    assert torch.equal(output, x) and torch.equal(at_x, grad)
    assert gradients["ffn.w2.weight"].abs().max() > 0, "they would still learn"


def test_no_word_hears_from_an_earlier_loss():
    "Causal: the gradient at an output reaches no later input."
    model, weights, *_ = example({}, (1, 1))
    block = {name[9:]: w for name, w in weights.items() if name.startswith("layers.0.")}
    x = torch.randn(1, 6, 12, dtype=torch.float64)
    grad = torch.zeros_like(x)
    grad[:, 2] = 1.0
    at_x, _ = block_backward(grad, block, block_forward(x, block, model.config)[1])
    assert (at_x[:, 3:] == 0).all() and (at_x[:, :3].abs().sum(-1) > 0).all()


def test_float32_is_near_float64():
    model, weights, inputs, targets = example({}, (3, 12))
    exact = loss_and_gradients(weights, inputs, targets, model.config)[1]
    single = {name: weight.float() for name, weight in weights.items()}
    for name, grad in loss_and_gradients(single, inputs, targets, model.config)[1].items():
        assert grad.dtype == torch.float32
        assert (grad - exact[name]).abs().max() < 1e-5 * exact[name].abs().max()


def test_any_number_of_axes_may_come_before_the_last():
    torch.manual_seed(0)
    x, weight, grad = torch.randn(2, 3, 4, 5), torch.randn(6, 5), torch.randn(2, 3, 4, 6)
    flat = linear_backward(grad.flatten(0, 2), x.flatten(0, 2), weight)
    at_x, at_weight = linear_backward(grad, x, weight)
    torch.testing.assert_close(at_x.flatten(0, 2), flat[0])
    torch.testing.assert_close(at_weight, flat[1])
    ids = torch.tensor([[0, 2], [2, 2]])
    found = embedding_backward(torch.ones(2, 2, 3), ids, 4)
    assert found.tolist() == [[1.0] * 3, [0.0] * 3, [3.0] * 3, [0.0] * 3]
