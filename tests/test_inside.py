"""Probes and ablations against other ways to the same numbers: LBFGS in float64, hooks, a
model whose weights are changed, words that are looked for."""

import copy
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lm336.bpe import build_vocab
from lm336.causes import token_causes
from lm336.errors import END_OF_TEXT, InputError
from lm336.grammar import StoryGrammar
from lm336.inside import (
    KINDS,
    PlotOracle,
    Probe,
    bits_at,
    bits_lost,
    carrier,
    control_labels,
    fit_probe,
    head_columns,
    heads_of,
    kinds_of_places,
    list_names,
    look_back,
    name_tokens,
    probe_versions,
    residual_stream,
    story_rows,
    stream_at,
    tellings,
    without,
)
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

ROOT = Path(__file__).parent.parent
SHAPE = TransformerConfig(
    vocab_size=4096, context_length=320, d_model=24, num_layers=3, num_heads=3, d_ff=32
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    found = Transformer(SHAPE)
    for name, weight in found.named_parameters():
        if "ln" in name:  # norms that can be told apart
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained("stories")


@pytest.fixture(scope="module")
def grammar():
    return StoryGrammar()


@pytest.fixture(scope="module")
def told(grammar):
    return tellings(grammar, 8, seed=5)


@pytest.fixture(scope="module")
def rows(tokenizer, told):
    return story_rows(tokenizer, [one.text for one in told], 320)


# ---------------------------------------------------------------- the stream


def test_the_last_version_is_what_the_last_norm_is_given(model, rows):
    given = []
    hook = model.ln_final.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model(rows[:, :40])
    hook.remove()
    stream = residual_stream(model, rows[:, :40])
    assert stream.shape == (4, len(rows), 40, 24)
    torch.testing.assert_close(stream[-1], given[0])
    torch.testing.assert_close(stream[0], model.token_embeddings(rows[:, :40]).detach())


def test_places_of_many_batches_are_those_of_one(model, rows):
    places = torch.tensor([[0, 3], [0, 30], [3, 0], [4, 7], [7, 39]])
    stream = residual_stream(model, rows[:, :40])
    expected = stream[:, places[:, 0], places[:, 1]]
    for batch in (1, 3, 50):
        torch.testing.assert_close(stream_at(model, rows, places, batch), expected)


# ---------------------------------------------------------------- what there is to know


def test_a_telling_is_what_its_draws_tell(grammar, told):
    for one in told:
        plot = grammar.plots[one.plot]
        assert list(one.cast) == list(plot.cast)
        assert grammar.log2_prob(one.text) > -math.inf
        if plot.cast.get("hero") == "child":
            assert list_names(grammar, "child")[one.cast["hero"]] in one.text
    assert tellings(grammar, 8, seed=5) == told != tellings(grammar, 8, seed=6)


def test_a_small_grammar_is_read_back():
    plots = "# p | one a, two a\n{one}{two}\n\n# q | one a\n-{one}"
    small = StoryGrammar(f"[a]\nx, y, z\n\n{plots}")
    for one in tellings(small, 30, seed=0):
        words = ["xyz"[number] for number in one.cast.values()]
        assert one.text == ("-" if one.plot else "") + "".join(words) + "\n"
    assert list_names(small, "a") == ("x", "y", "z")
    with pytest.raises(InputError, match="no plot names a member of the list 'b'"):
        list_names(small, "b")


def test_rows_hold_the_stories_and_are_cut(tokenizer, told, rows):
    end = tokenizer.end_of_text_id
    longest = max(len(tokenizer.encode(one.text)) for one in told)
    assert rows.shape == (len(told), longest + 2)
    for row, one in zip(rows.tolist(), told, strict=True):
        ids = tokenizer.encode(one.text)
        assert row == [end, *ids] + [end] * (longest + 1 - len(ids))
    cut = story_rows(tokenizer, [one.text for one in told], 20)
    assert torch.equal(cut, rows[:, :21])


def test_names_are_single_tokens(tokenizer, grammar):
    names = list_names(grammar, "child")
    of_token = name_tokens(tokenizer, names)
    for token, number in enumerate(of_token.tolist()):
        if number >= 0:
            assert tokenizer.decode([token]).strip() == names[number]
    assert set(of_token.tolist()) == set(range(-1, len(names)))


def test_a_name_returns_where_it_was_named_before(tokenizer, grammar, told, rows):
    "By the causes' definition, and by looking for the words."
    names = list_names(grammar, "child")
    kinds = kinds_of_places(grammar, tokenizer, rows, name_tokens(tokenizer, names))
    assert KINDS[0] == "a name returns" and kinds.shape == (len(rows), rows.shape[1] - 1)
    for one, row, kind in zip(told, rows[:, 1:], kinds, strict=True):
        ids = tokenizer.encode(one.text)
        causes = token_causes(grammar, tokenizer, ids)
        agree = [cause.name == "agreement" for cause in causes]
        assert (kind[: len(ids)] < 2).tolist() == agree and (kind[len(ids) :] == -1).all()
        cast = {
            names[one.cast[slot]]
            for slot, name in grammar.plots[one.plot].cast.items()
            if name == "child"
        }
        seen, returning = set(), []
        for token in ids:
            word = tokenizer.decode([token]).strip()
            returning.append(word in seen)
            seen |= {word} & cast
        assert (kind[: len(ids)] == 0).tolist() == returning
        assert torch.equal(row[: len(ids)], torch.tensor(ids))


def test_a_word_that_is_also_a_name_returns_as_another_word():
    lists = "[child]\nx, y\n\n[pet]\nx, y\n\n"
    small = StoryGrammar(lists + "# p | hero child, dog pet\n{hero}{dog}{hero}{dog}")
    letters = Tokenizer(build_vocab([], [END_OF_TEXT]), [], [END_OF_TEXT])
    of_token = name_tokens(letters, list_names(small, "child"))
    rows = story_rows(letters, ["xyxy\n", "yyyy\n"], 9)
    kinds = kinds_of_places(small, letters, rows, of_token)
    assert kinds.tolist() == [[2, 2, 0, 1, 2, -1]] * 2


def test_the_chances_of_plots_are_those_of_all_stories():
    small = StoryGrammar("[a]\nx, y\n\n# p | one a\n{one}[b|c]\n\n# q\nx[b|b|d]\n\n# r\nzz")
    oracle = PlotOracle(small)
    np.testing.assert_allclose(oracle.chances(""), [1 / 3] * 3)
    np.testing.assert_allclose(oracle.chances("x"), [1 / 3, 2 / 3, 0])
    np.testing.assert_allclose(oracle.chances("xb"), [3 / 11, 8 / 11, 0], rtol=1e-12)
    assert len(small.plots) == 3, "the grammar that was given stays as it is"
    with pytest.raises(InputError, match="no story begins with 'w'"):
        oracle.chances("w")


# ---------------------------------------------------------------- probes


def by_lbfgs(x, labels, classes, decay):
    "The same minimum, by another optimizer, on features that NumPy standardises."
    z = x.numpy()
    z = (z - z.mean(0)) / z.std(0)
    z = torch.from_numpy(np.column_stack([z, np.ones(len(z))]))
    weight = torch.zeros(z.shape[1], classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-12,
                                  tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(z @ weight, labels)
        value = value + decay / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach()


@pytest.mark.parametrize("decay", [0.3, 0.01])
def test_a_probe_is_the_minimum_that_another_optimizer_finds(decay):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(-2, 3, 5) + 7
    labels = torch.randint(4, (60,), generator=generator)
    probe = fit_probe(x, labels, 4, decay, tolerance=1e-9)
    torch.testing.assert_close(probe.weight, by_lbfgs(x, labels, 4, decay), atol=1e-6, rtol=0)


def test_a_feature_that_never_changes_does_no_harm_and_nan_is_refused():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).repeat(5, 1)
    labels = torch.tensor([0, 2]).repeat(5)
    probe = fit_probe(x, labels, 3)
    assert isinstance(probe, Probe) and probe.accuracy(x, labels) == 1
    assert probe.accuracy(x, labels.flip(0)) == 0
    x[3, 1] = math.nan
    with pytest.raises(InputError, match="not finite"):
        fit_probe(x, labels, 3)


def test_held_out_rows_do_not_fit_the_probe():
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(2, 40, 8, generator=generator)
    labels = (stream[1, :, 0] > 0).long()
    held_out = torch.arange(40) % 4 == 0
    before = probe_versions(stream, labels, held_out, 2)
    assert before[1] > 0.8
    alone = fit_probe(stream[0, ~held_out], labels[~held_out], 2)
    assert before[0] == alone.accuracy(stream[0, held_out], labels[held_out])
    changed = labels.clone()
    changed[held_out] = 1 - labels[held_out]
    after = probe_versions(stream, changed, held_out, 2)
    np.testing.assert_allclose(after, 1 - np.array(before))


def test_control_labels_are_consistent_within_a_story_and_uniform_between():
    stories = torch.arange(500).repeat_interleave(3)
    labels = torch.tensor([4, 1, 4]).repeat(500)
    found = control_labels(labels, stories, 6, seed=0).view(500, 3)
    assert torch.equal(found[:, 0], found[:, 2])
    assert ((found[:, 0] - found[:, 1]) % 6 == 3).all()
    assert torch.bincount(found[:, 0], minlength=6).min() > 50


# ---------------------------------------------------------------- ablation


def by_hook(model, ids, layer, columns, instead):
    "The model itself, with a hook before output_proj."
    given = []

    def replace(_, inputs):
        heads = inputs[0].clone()
        heads[..., columns] = instead
        return (heads,)

    def keep(_, inputs):
        given.append(inputs[0])

    hooks = [
        model.layers[layer].attn.output_proj.register_forward_pre_hook(replace),
        model.ln_final.register_forward_pre_hook(keep),
    ]
    with torch.no_grad():
        logits = model(ids)
    for hook in hooks:
        hook.remove()
    return given[0], logits


@pytest.mark.parametrize("layer", range(3))
def test_without_a_head_is_the_model_with_a_hook(model, rows, layer):
    ids = rows[:3, :30]
    stream = residual_stream(model, ids)
    for columns, instead in ((head_columns(model, 1), 0.0), (torch.tensor([2, 23]), 0.7)):
        found = without(model, stream[layer], layer, columns, instead)
        expected, _ = by_hook(model, ids, layer, columns, instead)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found, stream[-1]), "nothing was taken away"


def test_without_a_head_is_a_model_whose_output_weight_has_zeros(model, rows):
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.layers[1].attn.output_proj.weight[:, 16:24] = 0
    ids = rows[:2, :30]
    stream = residual_stream(model, ids)
    expected = residual_stream(changed, ids)[-1]
    found = without(model, stream[1], 1, head_columns(model, 2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_without_all_heads_there_is_no_attention(model, rows):
    ids = rows[:2, :30]
    stream, block = residual_stream(model, ids), model.layers[2]
    with torch.no_grad():
        expected = stream[2] + block.ffn(block.ln2(stream[2]))
    found = without(model, stream[2], 2, torch.arange(24))
    torch.testing.assert_close(found, expected)
    assert heads_of(block, stream[2]).shape == (2, 30, 24)


@pytest.mark.parametrize("keep_mean", [False, True])
def test_bits_lost_are_those_of_the_model_with_a_hook(model, rows, keep_mean):
    places = torch.tensor([[0, 3], [1, 30], [1, 31], [2, 7], [2, 8]])
    columns = [head_columns(model, 2), torch.arange(5)]
    lost = bits_lost(model, rows[:3, :41], places, columns, keep_mean, batch=2)
    assert lost.shape == (3, 2, 5)
    story, place = places.T
    targets = rows[story, place + 1]

    def bits(logits):
        return -logits[story, place].log_softmax(-1)[range(5), targets] / math.log(2)

    with torch.no_grad():
        whole = bits(model(rows[:3, :40]))
    stream = residual_stream(model, rows[:3, :40])
    torch.testing.assert_close(bits_at(model, stream[-1, story, place], targets), whole)
    for layer in range(3):
        heads = heads_of(model.layers[layer], stream[layer]).detach()[story, place]
        for at, some in enumerate(columns):
            for part in (story < 2, story == 2):  # the batches, each with a mean of its own
                instead = heads[part].mean(0)[some] if keep_mean else 0.0
                _, logits = by_hook(model, rows[:3, :40], layer, some, instead)
                expected = (bits(logits) - whole)[part]
                torch.testing.assert_close(
                    lost[layer, at, part], expected, atol=1e-4, rtol=1e-4
                )


def test_the_carrier_is_needed_by_names_and_not_elsewhere():
    on_names = torch.tensor([[9.0, 0.1], [0.2, 7.0]])
    elsewhere = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    assert carrier(on_names, elsewhere) == (1, 1)
    assert carrier(on_names, torch.zeros(2, 2)) == (0, 0)


def test_attention_to_the_name_is_added_up_over_its_mentions(model):
    "Against weights that are computed one query at a time."
    of_token = torch.full((4096,), -1)
    of_token[[10, 20]] = 0  # with and without a space
    of_token[30] = 1
    rows = torch.tensor(
        [[0, 10, 5, 30, 20, 6, 10, 7, 20, 9], [0, 30, 4, 10, 3, 30, 2, 1, 1, 1]]
    )
    places = torch.tensor([[0, 5], [0, 7], [1, 4]])
    earlier = [[1, 4], [1, 4, 6], [1]]
    found = look_back(model, rows, places, of_token, batch=1)
    stream = residual_stream(model, rows[:, :-1])
    for at, (story, place) in enumerate(places.tolist()):
        for layer, block in enumerate(model.layers):
            with torch.no_grad():
                q, k, _ = block.attn.project(block.ln1(stream[layer]))
            for head in range(3):
                scores = k[story, head, : place + 1] @ q[story, head, place] / math.sqrt(8)
                expected = scores.softmax(0)[earlier[at]].sum()
                torch.testing.assert_close(found[layer, head, at], expected)


# ---------------------------------------------------------------- over seeds


@pytest.fixture
def script():
    path = ROOT / "benchmarks" / "inside.py"
    spec = importlib.util.spec_from_file_location("inside_script", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec.loader.exec_module(module)
    return module


def run_folder(path, tokenizer, seed, **training):
    "A run's folder, with a model that has learned nothing."
    torch.manual_seed(seed)
    Transformer(SHAPE).save_pretrained(path)
    tokenizer.save_pretrained(path)
    training = dict(seed=seed, max_steps=1, precision="float32") | training
    run = dict(data="stories", model=dict(d_model=24), training=training)
    (path / "run.json").write_text(json.dumps(run))
    return path


def test_a_line_for_each_run(script, tokenizer, tmp_path, monkeypatch):
    runs = [str(run_folder(tmp_path / name, tokenizer, at)) for at, name in enumerate("ab")]
    log = tmp_path / "log.jsonl"
    words = ["inside.py", *runs, "--stories", "24", "--log", str(log)]
    monkeypatch.setattr(script, "READ", (4, 16))
    monkeypatch.setattr("sys.argv", [*words, "--record"])
    script.main()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(script, "measure", lambda *_: lines[0])
    script.main()
    assert log.read_text().count("\n") == 2, "only --record keeps a line"
    assert [(line["run"], line["seed"]) for line in lines] == [("a", 0), ("b", 1)]
    for line in lines:
        assert {"date", "cpu", "torch", "precision", "steps", "stories"} <= line.keys()
        assert np.array(line["plot"]["trained"]).shape == (4, 2)
        assert len(line["name"]["control"]) == 4
        assert np.array(line["heads"][KINDS[0]]).shape == (3, 3)
        assert {"layer", "head", "names", "elsewhere", "next", "random", "looks"} == set(
            line["carrier"]
        )


def test_runs_that_differ_in_more_than_their_seed_are_refused(script, tokenizer, tmp_path):
    a = run_folder(tmp_path / "a", tokenizer, 0)
    b = run_folder(tmp_path / "b", tokenizer, 1, max_steps=2)
    c = run_folder(tmp_path / "c", tokenizer, 0)
    with pytest.raises(InputError, match="differ in max_steps: give runs that differ in the"):
        script.same_but_for_the_seed([a, b])
    with pytest.raises(InputError, match=r"have the seeds \[0, 0\]: each needs its own"):
        script.same_but_for_the_seed([a, c])
