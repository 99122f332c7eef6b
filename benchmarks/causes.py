"""What is learned when: the gap to the perfect reader, cause by cause, as a small model trains.

    python benchmarks/causes.py                a thousand updates on the built-in stories
    python benchmarks/causes.py --steps 3000   more of them

The figures depend on the number format and the seed, hardly on the machine. --record appends a
line for every stop to benchmarks/causes.jsonl.
"""

import tempfile
from pathlib import Path

import common

MINUTES = {"full": 8, "quick": 1}
MODEL = dict(vocab_size=4096, context_length=256, d_model=128, num_layers=4, num_heads=4)
STOPS = (0, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900)


def main():
    parser = common.options(__doc__, MINUTES)
    parser.add_argument("--steps", type=int, default=1000, help="updates")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    args = common.parse(parser, steps=10)

    import numpy as np
    import torch

    from lm336.causes import gap_by_cause, token_causes
    from lm336.configuration import TrainingConfig
    from lm336.evaluation import token_losses
    from lm336.fast_trainer import FastTrainer
    from lm336.grammar import write_stories
    from lm336.oracle import Oracle
    from lm336.tokenizer import Tokenizer
    from lm336.transformer import Transformer, TransformerConfig

    common.announce(args, "float32")
    oracle, tokenizer = Oracle(), Tokenizer.from_pretrained("stories")
    with tempfile.TemporaryDirectory() as folder:
        tokens = []
        for name, num_bytes, seed in (("train", 8_000_000, 1), ("valid", 40_000, 2)):
            write_stories(Path(folder, name), num_bytes, seed=[336, seed])
            text = Path(folder, name).read_text(encoding="utf-8")
            tokens.append(np.array(tokenizer.encode(text), dtype=np.uint16))
        train, valid = tokens
        causes = token_causes(oracle.grammar, tokenizer, valid)
        of_oracle = oracle.token_bits(tokenizer, valid)
        config = TrainingConfig(
            max_steps=args.steps, batch_size=8, learning_rate=4e-3, min_learning_rate=2e-4,
            warmup_steps=min(50, args.steps), weight_decay=0.1, betas=(0.9, 0.99),
            seed=args.seed, precision="float32", compile="off",
        )
        torch.manual_seed(args.seed)
        model = Transformer(TransformerConfig(**MODEL))
        trainer = FastTrainer(model, train, valid, config, folder, "cpu")
        for step in [*(stop for stop in STOPS if stop < args.steps), args.steps]:
            while trainer.step < step:
                trainer.train_step()
            nats = token_losses(trainer.model, valid, tokenizer.end_of_text_id)
            excess = nats / np.log(2) - of_oracle
            shares = {
                name: round(share, 6)
                for name, share in gap_by_cause(excess, of_oracle, causes).items()
            }
            print(f"{step:6} steps  gap {sum(shares.values()):8.2%}", shares, flush=True)
            common.record(
                args, "gap by cause", "float32", step=step, seed=args.seed, gap=shares
            )


if __name__ == "__main__":
    common.start(main)
