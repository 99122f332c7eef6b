"""lm336 under the function names of Stanford CS336, assignment 1 (spring 2025 and 2026).

The course's own test suite calls these functions: copy its tests/ beside this file and it runs
on lm336. Shapes and names are the course's; the work is done by the package.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.func import functional_call

from lm336.adamw import AdamW, clip_grad_norm_
from lm336.attention import MultiHeadSelfAttention, scaled_dot_product_attention, softmax
from lm336.block import RMSNorm, SwiGLU, TransformerBlock, silu
from lm336.checkpoints import load_checkpoint, save_checkpoint
from lm336.dataset import get_batch
from lm336.embeddings import Embedding, Linear
from lm336.fast_bpe import fast_train_bpe
from lm336.loss import cross_entropy
from lm336.rope import RotaryEmbedding
from lm336.schedule import cosine_schedule
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig


def run_linear(d_in, d_out, weights, in_features):
    return functional_call(Linear(d_in, d_out), {"weight": weights}, in_features)


def run_embedding(vocab_size, d_model, weights, token_ids):
    return functional_call(Embedding(vocab_size, d_model), {"weight": weights}, token_ids)


def run_swiglu(d_model, d_ff, w1_weight, w2_weight, w3_weight, in_features):
    weights = {"w1.weight": w1_weight, "w2.weight": w2_weight, "w3.weight": w3_weight}
    return functional_call(SwiGLU(d_model, d_ff), weights, in_features)


def run_scaled_dot_product_attention(Q, K, V, mask=None):
    return scaled_dot_product_attention(Q, K, V, mask)


def _attention_weights(q, k, v, o):
    return {
        "q_proj.weight": q,
        "k_proj.weight": k,
        "v_proj.weight": v,
        "output_proj.weight": o,
    }


def run_multihead_self_attention(
    d_model, num_heads, q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight, in_features
):
    weights = _attention_weights(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    return functional_call(MultiHeadSelfAttention(d_model, num_heads), weights, in_features)


def run_multihead_self_attention_with_rope(
    d_model,
    num_heads,
    max_seq_len,
    theta,
    q_proj_weight,
    k_proj_weight,
    v_proj_weight,
    o_proj_weight,
    in_features,
    token_positions=None,
):
    weights = _attention_weights(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    attention = MultiHeadSelfAttention(
        d_model, num_heads, RotaryEmbedding(theta, d_model // num_heads, max_seq_len)
    )
    return functional_call(attention, weights, (in_features, token_positions))


def run_rope(d_k, theta, max_seq_len, in_query_or_key, token_positions):
    return RotaryEmbedding(theta, d_k, max_seq_len)(in_query_or_key, token_positions)


def run_transformer_block(d_model, num_heads, d_ff, max_seq_len, theta, weights, in_features):
    rope = RotaryEmbedding(theta, d_model // num_heads, max_seq_len)
    return functional_call(
        TransformerBlock(d_model, num_heads, d_ff, rope), weights, in_features
    )


def run_transformer_lm(
    vocab_size,
    context_length,
    d_model,
    num_layers,
    num_heads,
    d_ff,
    rope_theta,
    weights,
    in_indices,
):
    config = TransformerConfig(
        vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta
    )
    return functional_call(Transformer(config), weights, in_indices)


def run_rmsnorm(d_model, eps, weights, in_features):
    return functional_call(RMSNorm(d_model, eps), {"weight": weights}, in_features)


def run_silu(in_features):
    return silu(in_features)


def run_get_batch(dataset, batch_size, context_length, device):
    return get_batch(dataset, batch_size, context_length, device)


def run_softmax(in_features, dim):
    return softmax(in_features, dim)


def run_cross_entropy(inputs, targets):
    return cross_entropy(inputs, targets)


def run_gradient_clipping(parameters, max_l2_norm):
    clip_grad_norm_(parameters, max_l2_norm)


def get_adamw_cls():
    return AdamW


def run_get_lr_cosine_schedule(
    it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters
):
    return cosine_schedule(
        it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters
    )


def run_save_checkpoint(model, optimizer, iteration, out):
    save_checkpoint(model, optimizer, iteration, out)


def run_load_checkpoint(src, model, optimizer):
    step, _ = load_checkpoint(src, model, optimizer)
    return step


def get_tokenizer(vocab, merges, special_tokens=None):
    return Tokenizer(vocab, merges, special_tokens)


def run_train_bpe(input_path, vocab_size, special_tokens, **kwargs):
    with TemporaryDirectory() as folder:  # the course's corpus.en: lm336 reads text from .txt
        text = shutil.copyfile(input_path, Path(folder) / "corpus.txt")
        return fast_train_bpe(text, vocab_size, special_tokens, **kwargs)
