"What is predicted, against what PyTorch counts, what autograd keeps and what a process holds."

import copy
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lm336 import fast_model
from lm336.accounting import (
    PeakMemory,
    counted_flops,
    cpu_has_bfloat16,
    environment,
    flops_by_part,
    flops_per_token,
    matmul_speed,
    process_memory,
    processor_name,
    resident_memory,
    training_memory,
)
from lm336.fast_model import library_is_there, make_fast
from lm336.transformer import Transformer, TransformerConfig, parameter_count

from .conftest import ROOT

CONFIG = TransformerConfig(
    vocab_size=300, context_length=32, d_model=32, num_layers=2, num_heads=2
)
CONFIGS = {
    "small": CONFIG,
    "one layer": replace(CONFIG, num_layers=1),
    "wide": replace(CONFIG, d_model=48, num_heads=4),
    "tied": replace(CONFIG, tie_embeddings=True),
}
some_configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def some_ids(*size):
    return torch.randint(300, size)


# operations


def products(model, ids):
    "2 a b c for each product (a, b) @ (b, c) of a forward pass, from the weights' shapes."
    config, seq = model.config, ids.shape[-1]
    matrices = [
        weight.numel()
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and name != "token_embeddings.weight"
    ]
    if config.tie_embeddings:
        matrices.append(config.vocab_size * config.d_model)
    scores = 2 * config.num_layers * config.num_heads * seq * config.d_head
    return 2 * ids.numel() * (sum(matrices) + scores)


@some_configs
@pytest.mark.parametrize("seq", [1, 7, 32])
def test_the_prediction_is_what_the_shapes_of_the_weights_say(config, seq):
    model, ids = Transformer(config), some_ids(3, seq)
    predicted = ids.numel() * flops_per_token(model.config, seq, training=False)
    assert predicted == products(model, ids)


@some_configs
def test_operations_are_counted_as_predicted(config):
    "The fused attention counts its second pass over the scores; nothing else does."
    plain, ids = Transformer(config), some_ids(4, 32)
    for model, extra in ((plain, 0), (make_fast(copy.deepcopy(plain)), 1)):
        again = extra * config.num_layers * 2 * 32 * config.d_model
        expected = flops_per_token(model.config) + again
        counted = counted_flops(lambda model=model: model(ids).sum(), model.parameters())
        assert counted == expected * ids.numel()
        assert all(p.grad is None for p in model.parameters()), "somebody else's gradients"


@pytest.mark.parametrize("library", ["PyTorch", "oneDNN"])
def test_operations_are_counted_whoever_multiplies(library, monkeypatch):
    if not library_is_there(library):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(fast_model, "_decided", [library])
    model, ids = make_fast(Transformer(CONFIG)), some_ids(4, 32)
    again = CONFIG.num_layers * 2 * 32 * CONFIG.d_model
    counted = counted_flops(lambda: model(ids).sum(), model.parameters())
    assert counted == (flops_per_token(CONFIG) + again) * ids.numel()


@pytest.mark.parametrize("fast", [False, True])
def test_without_parameters_the_forward_pass_alone_is_counted(fast):
    model, ids = Transformer(CONFIG), some_ids(4, 32)
    if fast:
        make_fast(model)
    expected = flops_per_token(model.config, training=False) * ids.numel()
    assert counted_flops(lambda: model(ids)) == expected


def test_weights_that_do_not_learn_take_no_product_for_their_gradient():
    model, ids = Transformer(CONFIG), some_ids(4, 32)
    model.lm_head.weight.requires_grad_(False)
    counted = counted_flops(lambda: model(ids).sum(), model.parameters())
    spared = flops_by_part(model.config)["head"]
    assert counted == (flops_per_token(model.config) - spared) * ids.numel()


def test_a_longer_text_costs_more_in_the_scores_alone():
    usual, longer = flops_by_part(CONFIG), flops_by_part(CONFIG, 4 * 32)
    assert longer == usual | {"scores": 4 * usual["scores"]}
    assert flops_by_part(CONFIG, 0)["scores"] == 0, "no text, no scores"


def test_flops_of_the_reference_run():
    config = TransformerConfig(32_000, 256, 512, 4, 16)
    assert parameter_count(config) == 45_224_448
    assert round(flops_per_token(config) * 5_000 * 32 * 256 / 1e15, 1) == 7.3


# memory


def kept_bytes(model, ids, autocast):
    "What autograd keeps of `hidden_states` besides the parameters, each piece of memory once."
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = model.hidden_states(ids)
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@some_configs
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("batch_size, seq", [(2, 32), (5, 20)])
def test_activations_are_what_autograd_keeps(config, autocast, batch_size, seq):
    "With one sequence or head, some tensors are views of others: some percent less or more."
    model = make_fast(Transformer(config))
    predicted = training_memory(model.config, batch_size, seq, autocast, autocast)
    counted = kept_bytes(model, some_ids(batch_size, seq), autocast)
    assert predicted["activations"] == pytest.approx(counted, rel=0.01)


@some_configs
def test_parameters_gradients_and_averages_are_four_numbers_each(config):
    model = Transformer(config)
    memory = training_memory(model.config, 4)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert memory["parameters"] == memory["gradients"] == weights
    assert memory["optimizer"] == 2 * weights


def test_activations_grow_with_the_batch_and_nothing_else_does():
    one, two, three = (training_memory(CONFIG, batch) for batch in (1, 2, 3))
    for name in ("parameters", "gradients", "optimizer"):
        assert one[name] == two[name]
    first, second, third = (memory["activations"] for memory in (one, two, three))
    assert third - second == second - first > 0


# vocab_size, context_length, d_model, num_layers, num_heads
MEASURED = {
    "many logits": (4096, 128, 256, 4, 8),
    "reference": (32_000, 256, 512, 4, 16),
    "long": (1000, 512, 128, 6, 2),
    "many heads": (1000, 512, 128, 1, 16),
    "longer": (1000, 1024, 128, 2, 16),
}


@pytest.mark.parametrize(
    "name, batch_size",
    [("many logits", 32), ("reference", 4), ("long", 48), ("many heads", 16), ("longer", 4)],
)
def test_predicted_peak_memory(name, batch_size, tmp_path):
    """The whole process on a CPU, within 30 %, in a process of its own.

    Two steps: the first begins without AdamW's averages."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from lm336 import Run, TrainingConfig, Transformer, TransformerConfig
tokens = np.arange(4000, dtype=np.uint16) % 1000
config = TrainingConfig(max_steps=2, batch_size={batch_size}, warmup_steps=1, eval_windows=1)
model = Transformer(TransformerConfig(*{MEASURED[name]}))
Run(model, tokens, tokens, config, {str(tmp_path)!r}, device="cpu").fit()
"""
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, timeout=240, stdin=subprocess.DEVNULL)
    record = json.loads((tmp_path / "accounting.json").read_text())
    assert 0.7 < record["predicted_peak_bytes"] / record["peak_bytes"] < 1.3, record


def test_a_process_holds_what_training_holds_and_the_program():
    for autocast in (True, False):
        parts = process_memory(CONFIG, 4, autocast, program=10**8)
        training = training_memory(CONFIG, 4, autocast=autocast, keeps_weights=autocast)
        assert training.items() <= parts.items() and parts["program"] > 10**8
        assert all(size > 0 for size in parts.values())


def test_a_peak_that_is_over_is_remembered():
    before = resident_memory()
    with PeakMemory() as peak:
        block = bytearray(b"x") * 150_000_000
        held = resident_memory()
        del block
    assert peak.bytes >= before
    assert held - before > 100_000_000, "did the block take no room?"
    after = threading.Event()
    with PeakMemory() as peak:
        block = bytearray(b"x") * 150_000_000
        for _ in range(1000):
            if peak.bytes - before < 100_000_000:
                after.wait(0.01)
        del block
    assert peak.bytes - before > 100_000_000


def test_the_watching_thread_ends_with_its_block():
    before = threading.active_count()
    with PeakMemory():
        assert threading.active_count() == before + 1
    with pytest.raises(RuntimeError), PeakMemory() as peak:
        raise RuntimeError
    assert threading.active_count() == before and peak.bytes > 0


# the machine


def without_cpuinfo(monkeypatch):
    "As on a system that has no /proc."

    def missing(*args, **kwargs):
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(Path, "exists", lambda path: False)


@pytest.mark.parametrize(
    "flags, has",
    [("fpu sse2 avx512f", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True)],
)
def test_bfloat16_is_read_from_the_flags(monkeypatch, flags, has):
    monkeypatch.setattr(Path, "read_text", lambda *args, **kwargs: f"flags\t\t: {flags}\n")
    assert cpu_has_bfloat16() is has


def test_where_nobody_says_so_there_is_no_bfloat16(monkeypatch):
    without_cpuinfo(monkeypatch)
    assert cpu_has_bfloat16() is False


def test_the_environment_is_named_on_any_system(monkeypatch):
    with_name = environment()
    without_cpuinfo(monkeypatch)
    for found in (with_name, environment()):
        assert found.keys() == {"lm336", "torch", "python", "cpu", "gpu"}
        assert all(isinstance(value, str) and value.strip() for value in found.values())
        assert not found["cpu"].startswith(","), "a processor without a name"


@pytest.mark.parametrize("model, name", [
    ("AMD EPYC", "AMD EPYC (family 26 model 2)"),
    ("AMD EPYC 9754 128-Core Processor", "AMD EPYC 9754 128-Core Processor"),
])
def test_two_processors_of_one_name_are_told_apart(monkeypatch, model, name):
    text = f"cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: {model}\nstepping\t: 1\n"
    monkeypatch.setattr(Path, "exists", lambda *args: True)
    monkeypatch.setattr(Path, "read_text", lambda *args, **kwargs: 2 * (text + "\n"))
    assert processor_name() == name


def test_a_speed_is_a_positive_number():
    assert 0 < matmul_speed(torch.device("cpu"), "float32", repeat=1) < 1e18
