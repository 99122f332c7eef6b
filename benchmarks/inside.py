"""What is inside the models of several runs: the questions of chapter 33, with more stories.

    python benchmarks/inside.py runs/a runs/b runs/c            print what is found
    python benchmarks/inside.py runs/a runs/b runs/c --record   and keep it

The runs should differ in nothing but their seed. --record appends a line for each to
data/inside.jsonl. The figures depend on the weights, hardly on the machine. A run takes about
three minutes of a core, and `all.py` leaves this script out, because it needs runs.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import common

LOG = common.ROOT / "data" / "inside.jsonl"
READ = 4, 16, 32, 64  # tokens
SEED = 336  # of the stories: those of chapter 33 have another


def same_but_for_the_seed(
    folders: list[Path],  # of runs
) -> list[dict]:  # run.json of each
    "What the runs are. `InputError` if they differ in more than their seed, or have the same."
    from lm336.errors import InputError
    from lm336.run_folder import read_run

    runs = [read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        here, first = (
            one["training"] | one["model"] | dict(data=one["data"]) for one in (run, runs[0])
        )
        others = sorted(
            key for key in here | first if key != "seed" and here.get(key) != first.get(key)
        )
        if others:
            raise InputError(
                f"{folder} and {folders[0]} differ in {', '.join(others)}: give runs that "
                "differ in the seed alone"
            )
    seeds = [run["training"].get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"the runs have the seeds {seeds}: each needs its own")
    return runs


def plot_accuracies(model, untrained, rows, told, grammar):
    "Accuracy of a probe for the plot, by version of the stream and by tokens read."
    import torch

    from lm336.inside import control_labels, probe_versions, stream_at

    number, classes = torch.arange(len(rows)), len(grammar.plots)
    plots = torch.tensor([one.plot for one in told])
    control = control_labels(plots, number, classes, seed=0)
    held_out = number >= 3 * len(rows) // 4
    found = {}
    for name, one, labels in (
        ("trained", model, plots), ("control", model, control), ("untrained", untrained, plots)
    ):
        places = torch.cartesian_prod(number, torch.tensor(READ))
        stream = stream_at(one, rows, places).unflatten(1, (len(rows), len(READ)))
        columns = [probe_versions(x, labels, held_out, classes) for x in stream.unbind(2)]
        found[name] = [list(row) for row in zip(*columns, strict=True)]
    return found


def name_accuracies(model, untrained, rows, kinds, of_token):
    "Accuracy of a probe for the name, just before it returns, by version of the stream."
    from lm336.inside import control_labels, probe_versions, stream_at

    places = (kinds == 0).nonzero()
    said = of_token[rows[places[:, 0], places[:, 1] + 1]]
    held_out, classes = places[:, 0] >= 3 * len(rows) // 4, int(of_token.max()) + 1
    control = control_labels(said, places[:, 0], classes, seed=0)
    found = {}
    for name, one, labels in (
        ("trained", model, said), ("control", model, control), ("untrained", untrained, said)
    ):
        found[name] = probe_versions(stream_at(one, rows, places), labels, held_out, classes)
    return found


def head_costs(model, rows, kinds, of_token):
    "Bits lost without each head; the carrier, chosen on the first half, on the second one."
    import torch

    from lm336.inside import KINDS, bits_lost, carrier, head_columns, look_back

    heads, width = model.config.num_heads, model.config.d_model
    generator = torch.Generator().manual_seed(0)
    columns = [head_columns(model, head) for head in range(heads)]
    columns += [
        torch.randperm(width, generator=generator)[: model.config.d_head] for _ in range(3)
    ]
    places = (kinds >= 0).nonzero()
    kind = kinds[places[:, 0], places[:, 1]]
    kept = (kind < 2) | (torch.arange(len(kind)) % 12 == 0)
    places, kind = places[kept], kind[kept]
    lost, second = bits_lost(model, rows, places, columns), places[:, 0] >= len(rows) // 2
    means = [
        [lost[..., (kind == number) & half].mean(-1) for half in (~second, second)]
        for number in range(len(KINDS))
    ]
    layer, head = carrier(means[0][0][:, :heads], means[2][0][:, :heads])
    own = torch.zeros(len(lost), heads, dtype=torch.bool)
    own[layer, head] = True
    names, elsewhere = means[0][1], means[2][1]
    looks = look_back(model, rows, places[second & (kind == 0)], of_token).mean(-1)
    one = dict(
        layer=layer,
        head=head,
        names=names[layer, head].item(),
        elsewhere=elsewhere[layer, head].item(),
        next=(names - elsewhere)[:, :heads][~own].max().item(),
        random=names[:, heads:].mean().item(),
        looks=looks[layer, head].item(),
    )
    tables = {name: means[at][1][:, :heads].tolist() for at, name in enumerate(KINDS)}
    return one, tables


def rounded(value):
    "To four digits after the point, within lists and dictionaries too."
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def measure(
    folder: Path,  # of a run
    stories: int,  # for the plot; a quarter as many for names and heads
) -> dict:
    "What chapter 33 asks, of one run."
    import torch

    from lm336.fast_model import make_fast
    from lm336.grammar import StoryGrammar
    from lm336.inside import kinds_of_places, list_names, name_tokens, story_rows, tellings
    from lm336.tokenizer import Tokenizer
    from lm336.transformer import Transformer

    grammar, tokenizer = StoryGrammar(), Tokenizer.from_pretrained(folder)
    model = make_fast(Transformer.from_pretrained(folder).float())
    torch.manual_seed(0)
    untrained = make_fast(Transformer(model.config))
    told = tellings(grammar, stories, SEED)
    context = model.config.context_length
    rows = story_rows(tokenizer, [one.text for one in told], context)
    few = rows[: stories // 4]
    of_token = name_tokens(tokenizer, list_names(grammar, "child"))
    kinds = kinds_of_places(grammar, tokenizer, few, of_token)
    one, tables = head_costs(model, few, kinds, of_token)
    return rounded(
        dict(
            stories=stories,
            read=list(READ),
            plot=plot_accuracies(model, untrained, rows, told, grammar),
            name=name_accuracies(model, untrained, few, kinds, of_token),
            carrier=one,
            heads=tables,
        )
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, one for each seed")
    parser.add_argument("--stories", type=int, default=2400, help="told to each model")
    parser.add_argument("--record", action="store_true", help="append to data/inside.jsonl")
    parser.add_argument("--log", type=Path, default=LOG, help="default: data/inside.jsonl")
    args = parser.parse_args()

    from lm336.accounting import environment
    from lm336.files import append_json_line

    for folder, run in zip(args.runs, same_but_for_the_seed(args.runs), strict=True):
        line = dict(
            date=time.strftime("%Y-%m-%d"),
            run=folder.resolve().name,
            seed=run["training"]["seed"],
            steps=run["training"]["max_steps"],
            data=run["data"],
            trained_in=run["training"]["precision"],
            precision="float32",
        )
        line |= measure(folder, args.stories) | environment()
        told = {key: line[key] for key in ("run", "seed", "plot", "name", "carrier")}
        print(told, flush=True)
        if args.record:
            append_json_line(args.log, line)


if __name__ == "__main__":
    common.start(main)
