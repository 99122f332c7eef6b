"""Which recipe comes closest to the entropy for the same FLOPs? `lm336_speedrun` runs it.

Everybody learns from the same stories with the same tokenizer, until `BUDGET` FLOPs are spent:
those of the forward and backward passes, and of Muon's products. The score is in bits per byte
above what the perfect reader makes of the same validation stories. A recipe is the demo's with
one thing changed; each gets the best of four learning rates, found with a seed of its own.

A recipe brings something if its mean over the three other seeds is lower than the demo's by
more than chance explains: the probability of such a difference between two equal recipes,
by a t test whose standard deviation is pooled over all recipes, and multiplied by their
number, is below 5 %.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from .accounting import counted_flops, environment, matmul_speed
from .configuration import load_preset
from .embeddings import Embedding, Linear
from .errors import InputError
from .experiments import chance_of_t, read_log
from .fast_model import make_fast
from .fast_training import FastAdamW
from .files import append_json_line, made_once
from .grammar import write_stories
from .loss import cross_entropy
from .muon import Muon, orthogonalize_flops, split_parameters
from .oracle import Oracle
from .scaling import ScoredStories, learn, wsd_factor
from .schedule import cosine_schedule
from .tokenizer import Tokenizer
from .transformer import Transformer, TransformerConfig

__all__ = [
    "BUDGET",
    "RECIPES",
    "Recipe",
    "Verdict",
    "flops_per_update",
    "run_recipe",
    "run_speedrun",
    "table",
    "together",
    "verdicts",
]

BUDGET = 4e12  # FLOPs of a run: one to two minutes on two cores
BATCH_SIZE = 8  # windows in an update
SEEDS = (1, 2, 3)  # of the runs that count
TUNING_SEED = 0  # of the runs that find the learning rate
FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the demo's learning rate, tried for every recipe
CHANCE = 0.05  # that a recipe that brings nothing is said to bring something
ALL_TOGETHER = "together"  # the recipe made of all that bring something
_DEMO = load_preset("demo_cpu")


# ---------------------------------------------------------------- what is changed


def mix_in(
    part: nn.Module,  # changed in place
    mixin: type,  # a class whose methods go before those of the part's own class
) -> None:
    "Give one part of a model other methods, its class's still below them."
    part.__class__ = type(mixin.__name__, (mixin, type(part)), {})


class QKNorm:
    "Queries and keys with a root mean square of 1: no score runs away (Henry et al. 2020)."

    def project(
        self,
        x: torch.Tensor,  # (batch, seq, d_model)
        token_positions: torch.Tensor | None = None,  # as for `FastAttention`
    ) -> tuple[torch.Tensor, ...]:  # q, k, v, each (batch, num_heads, seq, d_head)
        "Rotated already: a rotation changes no length."
        q, k, v = super().project(x, token_positions)  # pyright: ignore
        return F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:]), v


def with_qk_norm(
    model: Transformer,  # changed in place
) -> None:
    "Every attention a `QKNorm`."
    for block in model.layers:
        mix_in(block.attn, QKNorm)


def with_zero_outputs(
    model: Transformer,  # changed in place
) -> None:
    "Every block begins by adding nothing: its two output matrices are 0 (Zhang et al. 2019)."
    for block in model.layers:
        nn.init.zeros_(block.attn.output_proj.weight)
        nn.init.zeros_(block.ffn.w2.weight)


class SquaredReLU(nn.Module):
    "w2(relu(w1 x)^2), without a gate (So et al. 2021)."

    def __init__(
        self,
        d_model: int,  # width of the residual stream
        d_ff: int,  # width inside
    ):
        super().__init__()
        self.w1 = Linear(d_model, d_ff)
        self.w2 = Linear(d_ff, d_model)

    def forward(
        self,
        x: torch.Tensor,  # (..., d_model)
    ) -> torch.Tensor:  # (..., d_model)
        "What is negative is 0; the rest grows as its square."
        return self.w2(F.relu(self.w1(x)).square())


def with_squared_relu(
    model: Transformer,  # changed in place
) -> None:
    "Every feed-forward part a `SquaredReLU`, as wide as costs the same: 3/2 of the gated."
    config = model.config
    for block in model.layers:
        block.ffn = SquaredReLU(config.d_model, config.d_ff * 3 // 2)


class ValueEmbedding:
    "Each token's value has a part that it always has, from a table (modded-nanogpt)."

    values: Embedding  # begins with zeros
    token_ids: torch.Tensor  # (batch, seq), of the current batch

    def project(
        self,
        x: torch.Tensor,  # (batch, seq, d_model)
        token_positions: torch.Tensor | None = None,  # as for `FastAttention`
    ) -> tuple[torch.Tensor, ...]:  # q, k, v, each (batch, num_heads, seq, d_head)
        "Values, and the table's rows added to them."
        q, k, v = super().project(x, token_positions)  # pyright: ignore
        return q, k, v + self.split_heads(self.values(self.token_ids))  # pyright: ignore


class TokensForValues:
    "A model that tells its attention which tokens it reads."

    def hidden_states(
        self,
        token_ids: torch.Tensor,  # (batch, seq)
        cache: Any = None,  # as for `Transformer`
    ) -> torch.Tensor:  # (batch, seq, d_model)
        "As ever, but every `ValueEmbedding` knows the tokens."
        for block in self.layers:  # pyright: ignore
            block.attn.token_ids = token_ids
        return super().hidden_states(token_ids, cache)  # pyright: ignore


def with_value_embeddings(
    model: Transformer,  # changed in place
) -> None:
    "A table of values for every layer."
    for block in model.layers:
        mix_in(block.attn, ValueEmbedding)
        block.attn.values = Embedding(model.config.vocab_size, model.config.d_model)
        nn.init.zeros_(block.attn.values.weight)
    mix_in(model, TokensForValues)


class Softcap:
    "Logits that cannot leave -15 to 15; Gemma 2 has 30 (Riviere et al. 2024)."

    def forward(
        self,
        x: torch.Tensor,  # (..., d_model)
    ) -> torch.Tensor:  # (..., vocab_size)
        "Straight near 0, flat far away."
        return 15 * torch.tanh(super().forward(x) / 15)  # pyright: ignore


def with_softcap(
    model: Transformer,  # changed in place
) -> None:
    "A `Softcap` on the head."
    mix_in(model.lm_head, Softcap)


def by_adamw(
    model: Transformer,  # whose parameters are to be moved
    factor: float,  # of the demo's learning rate
) -> list[torch.optim.Optimizer]:
    "The demo's optimizer."
    training = _DEMO[2]
    rate, decay = factor * training.learning_rate, training.weight_decay
    return [FastAdamW(model.parameters(), rate, training.betas, weight_decay=decay)]


def by_muon(
    model: Transformer,  # whose parameters are to be moved
    factor: float,  # of the learning rates of both
) -> list[torch.optim.Optimizer]:
    "Muon for the blocks' matrices, the demo's AdamW for the rest."
    training = _DEMO[2]
    matrices, others = split_parameters(model)
    decay = training.weight_decay
    return [
        Muon(matrices, factor * 0.02, weight_decay=decay),
        FastAdamW(others, factor * training.learning_rate, training.betas, weight_decay=decay),
    ]


def cosine(
    step: int,  # updates so far
    steps: int,  # of the whole run
) -> float:  # share of the peak learning rate
    "The demo's schedule: 50 updates of warm-up, then half a cosine down to a twentieth."
    return cosine_schedule(step + 1, 1.0, 0.05, min(50, steps // 4), steps)


# of a model, for a factor of the demo's learning rate
Optimizers = Callable[[Transformer, float], list[torch.optim.Optimizer]]


@dataclass(frozen=True)
class Recipe:
    "The demo's recipe, but for what is given."

    says: str  # what is different
    model: dict = field(default_factory=dict)  # fields of `TransformerConfig`
    changes: tuple[Callable[[Transformer], None], ...] = ()  # done to the new model
    optimizers: Optimizers = by_adamw  # who moves the weights
    schedule: Callable[[int, int], float] = cosine  # step, steps -> share of the rate


RECIPES: dict[str, Recipe] = {
    "demo": Recipe("the demo's recipe"),
    "muon": Recipe("Muon for the blocks' matrices", optimizers=by_muon),
    "qk_norm": Recipe("queries and keys normalised", changes=(with_qk_norm,)),
    "zero_outputs": Recipe("output matrices begin at 0", changes=(with_zero_outputs,)),
    "squared_relu": Recipe("ReLU² without a gate", changes=(with_squared_relu,)),
    "tied_head": Recipe("the head is the embedding table", model=dict(tie_embeddings=True)),
    "value_embeddings": Recipe("a table of values", changes=(with_value_embeddings,)),
    "softcap": Recipe("logits capped at 15", changes=(with_softcap,)),
    "wsd": Recipe("the rate falls in the last fifth", schedule=wsd_factor),
}


def together(
    names: list[str],  # of RECIPES
) -> Recipe:
    "One recipe with all that these change."
    recipes = [RECIPES[name] for name in names]
    model = {key: value for recipe in recipes for key, value in recipe.model.items()}
    changes = tuple(change for recipe in recipes for change in recipe.changes)
    optimizers = [one.optimizers for one in recipes if one.optimizers is not by_adamw]
    schedules = [one.schedule for one in recipes if one.schedule is not cosine]
    return Recipe(
        ", ".join(names), model, changes, [by_adamw, *optimizers][-1], [cosine, *schedules][-1]
    )


# ---------------------------------------------------------------- a run


def build(
    recipe: Recipe,  # what is different from the demo's
    seed: int,  # of the first weights
    fast: bool = True,  # with fast parts; without, no product is made twice
) -> Transformer:
    "The recipe's model."
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**vars(_DEMO[1]) | recipe.model))
    if fast:
        make_fast(model)
    for change in recipe.changes:
        change(model)
    return model


def flops_per_update(
    recipe: Recipe,  # what is to be paid for
) -> int:  # floating-point operations in products of matrices
    "Forward and backward passes over a batch, as PyTorch counts them, and Muon's products."
    model = build(recipe, 0, fast=False)
    inputs, targets = torch.zeros(2, 1, model.config.context_length, dtype=torch.long)
    window = counted_flops(lambda: cross_entropy(model(inputs), targets), model.parameters())
    products = 0
    for optimizer in recipe.optimizers(model, 1.0):
        if isinstance(optimizer, Muon):
            matrices = (p for group in optimizer.param_groups for p in group["params"])
            products += sum(orthogonalize_flops(*p.shape) for p in matrices)
    return BATCH_SIZE * window + products


@dataclass(frozen=True)
class Track:
    "What all recipes learn from, and are scored on."

    tokens: np.ndarray  # (num_tokens,) to learn from
    stories: ScoredStories  # to be scored on


def make_track(
    num_bytes: int = 3_000_000,  # of stories to learn from
    stories: int = 64,  # to be scored on
) -> Track:
    "Stories of two seeds, cut by the tokenizer that comes with lm336."
    tokenizer = Tokenizer.from_pretrained("stories")
    with TemporaryDirectory() as folder:
        texts = []
        for seed, size in ((1, num_bytes), (2, 2000 * stories)):
            write_stories(Path(folder, "text"), size, seed=[336, seed])
            texts.append(Path(folder, "text").read_text(encoding="utf-8"))
    train, valid = (np.array(tokenizer.encode(text), dtype=np.uint16) for text in texts)
    ends = np.flatnonzero(valid == tokenizer.end_of_text_id)
    valid = valid[: ends[stories - 1] + 1]
    bits = Oracle().token_bits(tokenizer, valid)
    context = _DEMO[1].context_length
    return Track(train, ScoredStories(tokenizer, valid, context, bits))


def run_recipe(
    recipe: Recipe,  # what is different from the demo's
    factor: float,  # of its learning rate
    seed: int,  # of the weights and the batches
    track: Track,  # what it learns from
    budget: float = BUDGET,  # FLOPs
) -> dict:  # what was measured
    "Train a model until the FLOPs are spent, and score it. A diverged run has inf."
    per_update = flops_per_update(recipe)
    steps = int(budget / per_update)
    model = build(recipe, seed)
    optimizers = recipe.optimizers(model, factor)
    factors = [recipe.schedule(step, steps) for step in range(steps)]
    peak = matmul_speed(torch.device("cpu"), "float32")
    begin = time.perf_counter()
    try:
        learn(model, optimizers, track.tokens, BATCH_SIZE, seed, factors)
        seconds = time.perf_counter() - begin
        bits = track.stories.score(model) - track.stories.entropy
    except FloatingPointError:
        seconds, bits = time.perf_counter() - begin, math.inf
    return dict(
        excess=round(bits, 6),
        entropy=track.stories.entropy,
        steps=steps,
        tokens=steps * BATCH_SIZE * model.config.context_length,
        flops=steps * per_update,
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=round(seconds, 1),
        seconds_times_peak=round(seconds * peak),
        precision="float32",
    )


# ---------------------------------------------------------------- what the log says


@dataclass(frozen=True)
class Verdict:
    "What the runs that count say of a recipe."

    recipe: str  # its name
    excess: float  # mean over the seeds, in bits per byte above the entropy
    difference: float  # of the mean, from the demo's
    chance: float  # of such a difference between equals, times the number of recipes
    records: list[dict]  # the runs

    @property
    def says(self) -> str:
        "Whether it brings something."
        if self.recipe == "demo":
            return "what the others are compared with"
        if not self.chance < CHANCE:
            return "brings nothing that three seeds can show"
        return "better" if self.difference < 0 else "worse"


def verdicts(
    records: list[dict],  # of the log
) -> list[Verdict]:  # the best first; recipes without all their seeds are left out
    "Each recipe against the demo's. Nothing as long as the demo's own runs are missing."
    scores: dict[str, dict[int, dict]] = {}
    for record in records:
        if record["role"] == "counts":
            scores.setdefault(record["recipe"], {})[record["seed"]] = record
    whole = {name: list(by.values()) for name, by in scores.items() if len(by) == len(SEEDS)}
    if "demo" not in whole:
        return []
    values = {name: np.array([r["excess"] for r in runs]) for name, runs in whole.items()}
    finite = [one for one in values.values() if np.isfinite(one).all()]
    freedom = len(finite) * (len(SEEDS) - 1)
    pooled = math.sqrt(sum(((one - one.mean()) ** 2).sum() for one in finite) / freedom)
    error = pooled * math.sqrt(2 / len(SEEDS))
    found = []
    for name, one in values.items():
        difference = float(one.mean() - values["demo"].mean())
        chance = 1.0
        if not math.isfinite(difference):
            chance = 0.0
        elif error > 0:
            chance = min(1.0, chance_of_t(difference / error, freedom) * (len(values) - 1))
        found.append(Verdict(name, float(one.mean()), difference, chance, whole[name]))
    return sorted(found, key=lambda verdict: verdict.excess)


def table(
    records: list[dict],  # of the log
) -> str:  # Markdown
    "The records: each recipe, its score, its time, and whether it brings something."
    lines = [
        "| recipe | bits per byte above entropy | difference | s x peak, TFLOP | verdict |",
        "|---|--:|--:|--:|---|",
    ]
    for one in verdicts(records):
        with np.errstate(invalid="ignore"):  # of a diverged run there is none
            spread = np.std([r["excess"] for r in one.records], ddof=1)
        work = np.mean([r["seconds_times_peak"] for r in one.records]) / 1e12
        cells = (
            one.recipe, f"{one.excess:.4f} ± {spread:.4f}", f"{one.difference:+.4f}",
            f"{work:.1f}", one.says,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if len(lines) == 2:
        return "No recipe has all its runs yet."
    return "\n".join(lines)


# ---------------------------------------------------------------- the whole race


def _rate(records: list[dict], name: str) -> float:
    "The factor with the lowest score in the tuning runs."
    tried = [r for r in records if r["recipe"] == name and r["role"] == "tuning"]
    return min(tried, key=lambda record: record["excess"])["factor"]


def _missing(name: str, log: Path) -> Iterator[tuple[str, float, int]]:
    "(role, factor, seed) of a recipe's runs that the log lacks, the tuning runs first."
    done = {(r["role"], r["factor"], r["seed"]) for r in read_log(log, recipe=name)}
    for factor in FACTORS:
        if ("tuning", factor, TUNING_SEED) not in done:
            yield "tuning", factor, TUNING_SEED
    best = _rate(read_log(log), name)
    for seed in SEEDS:
        if ("counts", best, seed) not in done:
            yield "counts", best, seed


def _run_missing(name: str, recipe: Recipe, track: Track, log: Path, budget: float) -> None:
    for role, factor, seed in _missing(name, log):
        record = dict(recipe=name, says=recipe.says, role=role, factor=factor, seed=seed)
        record |= run_recipe(recipe, factor, seed, track, budget)
        date = dict(date=time.strftime("%Y-%m-%d"))
        append_json_line(log, record | date | environment())
        score = f"{record['excess']:.4f} after {record['seconds']:.0f} s"
        print(f"{name:16} {role:6} x {factor:g}, seed {seed}: {score}", flush=True)


def run_speedrun(
    recipe: str = "all",  # one of RECIPES, or all: each alone, then the best together
    log: str | PathLike = "speedrun.jsonl",  # a line for each run is appended
    budget: float = BUDGET,  # FLOPs of a run
    track: Track | None = None,  # what is learned; None: the speedrun's own
) -> str:  # the table
    "Run what the log does not have yet. `InputError` for a recipe that is not there."
    log = Path(log)
    names = list(RECIPES) if recipe == "all" else [recipe]
    if not set(names) <= RECIPES.keys():
        raise InputError(
            f"there is no recipe {recipe!r}: choose all or one of {', '.join(RECIPES)}"
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    track = make_track() if track is None else track
    with made_once(log):
        for name in tqdm(names, unit="recipe"):
            _run_missing(name, RECIPES[name], track, log, budget)
        if recipe == "all":
            alone = [record for record in read_log(log) if record["recipe"] != ALL_TOGETHER]
            better = sorted(one.recipe for one in verdicts(alone) if one.says == "better")
            if len(better) > 1:
                _run_missing(ALL_TOGETHER, together(better), track, log, budget)
    return table(read_log(log))
