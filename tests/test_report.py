"What a run is shown by: the curve, the samples, the account from any file, the report card."

import io
import json
import math
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure

from lm336.configuration import TrainingConfig
from lm336.errors import END_OF_TEXT, InputError
from lm336.evaluation import Evaluation, evaluate
from lm336.grammar import StoryGrammar, write_stories
from lm336.report import (
    account_table,
    evaluate_run,
    judge_stories,
    plot_metrics,
    png,
    stories_table,
    write_account,
    write_report,
    write_samples,
)
from lm336.runs import Run
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig

# ---------------------------------------------------------------- the curve

METRICS = [
    {"step": 10, "loss": 3.0, "learning_rate": 1e-3},
    {"step": 20, "loss": 2.5, "learning_rate": 2e-3, "gradient_norm": None},
    {"step": 20, "valid_loss": 2.6, "seconds": 1.5},
    {"step": 30, "loss": 2.25, "learning_rate": 1e-3},
    {"step": 30, "valid_loss": 2.375},
]


def measured(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def curves(figure):
    "Label -> points; the learning rate has a scale of its own."
    losses, rates = figure.axes
    drawn = {str(line.get_label()): line.get_xydata().tolist() for line in losses.lines}
    return drawn | {"learning rate": rates.lines[0].get_xydata().tolist()}


def test_the_curve_shows_what_was_measured_and_where(tmp_path):
    drawn = curves(plot_metrics(measured(tmp_path, METRICS), floor=1.25, title="a run"))
    assert drawn["training"] == [[10, 3.0], [20, 2.5], [30, 2.25]]
    assert drawn["validation"] == [[20, 2.6], [30, 2.375]]
    assert drawn["learning rate"] == [[10, 1e-3], [20, 2e-3], [30, 1e-3]]
    (floor,) = (points for label, points in drawn.items() if "1.250" in label)
    assert {height for _, height in floor} == {1.25}


def test_where_no_floor_is_known_none_is_drawn(tmp_path):
    figure = plot_metrics(measured(tmp_path, METRICS), title="a run")
    assert curves(figure).keys() == {"training", "validation", "learning rate"}
    assert figure.axes[0].get_title() == "a run"


@pytest.mark.parametrize("lines", [[], METRICS[:1], METRICS[2:3]])
def test_a_run_that_has_only_begun_has_a_curve(tmp_path, lines):
    assert png(plot_metrics(measured(tmp_path, lines)))


def test_a_png_is_the_picture():
    figure = Figure(figsize=(2, 1))
    figure.set_facecolor("red")
    pixels = image.imread(io.BytesIO(png(figure)))
    assert pixels.shape[:2] == (120, 240)
    assert np.allclose(pixels[..., :3], [1, 0, 0])


# ---------------------------------------------------------------- the samples


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    "Some stories, a tokenizer trained on them, and a model that has seen nothing."
    path = tmp_path_factory.mktemp("stories") / "stories.txt"
    write_stories(path, 8_000, seed=0)
    tokenizer = Tokenizer.train(path, 300, special_tokens=[END_OF_TEXT])
    torch.manual_seed(0)
    config = TransformerConfig(300, context_length=16, d_model=16, num_layers=1, num_heads=2)
    return path, tokenizer, Transformer(config)


def test_samples_continue_their_prompts_and_are_the_sheet(stories, tmp_path):
    _, tokenizer, model = stories
    prompts = ["Once", "", "The"]
    texts = write_samples(model, tokenizer, tmp_path / "samples.md", prompts, 20)
    assert len(texts) == 3 and texts[0].startswith("Once") and texts[2].startswith("The")
    sheet = (tmp_path / "samples.md").read_text(encoding="utf-8")
    head, _, body = sheet.partition("\n\n" + texts[0])
    assert "0.8" in head and "0 to 2" in head
    assert (texts[0] + body) == "\n\n---\n\n".join(texts) + "\n"


def test_the_same_sheet_twice_and_each_sample_with_a_seed_of_its_own(stories, tmp_path):
    _, tokenizer, model = stories
    first, again = (
        write_samples(model, tokenizer, tmp_path / f"{name}.md", ["", "", ""], 30)
        for name in ("first", "again")
    )
    assert first == again and len(set(first)) == 3


def test_a_sample_ends_with_its_document(stories, tmp_path):
    "A model that ends its text at once, whatever it is asked."
    _, tokenizer, model = stories
    end = tokenizer.end_of_text_id

    def ends(module, inputs, logits):
        answer = torch.full_like(logits, -100.0)
        answer[..., end] = 100.0
        return answer

    hook = model.lm_head.register_forward_hook(ends)
    texts = write_samples(model, tokenizer, tmp_path / "samples.md", ["a day", ""], 50)
    hook.remove()
    assert texts == ["a day", ""], "the end of a text is no part of it"


def test_a_tokenizer_without_an_end_of_text_has_samples_too(stories, tmp_path):
    path, _, model = stories
    tokenizer = Tokenizer.train(path, 300, special_tokens=[])
    texts = write_samples(model, tokenizer, tmp_path / "samples.md", [""], 10)
    assert len(texts) == 1 and texts[0]


# ---------------------------------------------------------------- the account

ACCOUNT = {
    "device": "cpu",
    "precision": "float32",
    "compiled": False,
    "tokens": 12_000,
    "flops": 6e12,
    "seconds": 40.0,
    "product_speed": 3e11,
    "peak_bytes": 7e8,
    "predicted_peak_bytes": 6.5e8,
}


def accounted(folder, record):
    (folder / "accounting.json").write_text(json.dumps(record))
    return folder


def rows(table):
    "The name of each row -> what was predicted and what was measured."
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return {name.strip(): (before.strip(), after.strip()) for name, before, after in lines[2:]}


def test_the_account_divides_and_multiplies(tmp_path):
    table = account_table(accounted(tmp_path, ACCOUNT))
    assert rows(table) == {
        "tokens": ("12,000", ""),
        "operations in matrix products": ("6.00e+12", ""),
        "operations per second": ("3.00e+11 (one large product)", "1.50e+11, 50% of it"),
        "time": ("20 s at that speed", "40 s"),
        "peak memory of the process": ("650 MB", "700 MB"),
    }
    assert "on a CPU in float32." in table


def test_the_account_says_when_a_run_was_compiled(tmp_path):
    record = ACCOUNT | {"compiled": True, "device": "cuda", "precision": "float16"}
    assert "on a CUDA in float16, compiled." in account_table(accounted(tmp_path, record))


def test_a_run_of_the_first_edition_has_an_account(tmp_path):
    "It says nothing of compiling, nor, on a GPU, of predicted memory."
    record = dict(ACCOUNT)
    del record["compiled"], record["predicted_peak_bytes"]
    table = account_table(accounted(tmp_path, record))
    assert rows(table)["peak memory of the process"] == ("", "700 MB")
    assert "compiled" not in table


def test_the_account_of_a_resumed_run_is_that_of_its_last_part(tmp_path):
    config = TrainingConfig(max_steps=4, batch_size=2, warmup_steps=0, precision="float32")
    tokens = np.arange(500) % 300
    model = Transformer(TransformerConfig(300, 16, 32, 1, 2))
    run = Run(model, tokens, tokens, config, tmp_path)
    run.fit()
    run.step, run.first_step, run.seconds, run.first_seconds = 9, 4, 30.25, 10.0
    write_account(run)
    record = json.loads((tmp_path / "accounting.json").read_text())
    assert (record["tokens"], record["seconds"]) == (5 * 2 * 16, 20.25)


def test_a_run_without_an_account_has_no_table(tmp_path):
    assert account_table(tmp_path) == ""


@pytest.mark.parametrize(
    "predicted, shown", [(None, ""), (1, "0 MB"), (5e6, "5 MB"), (10**12, "1,000,000 MB")]
)
def test_a_prediction_is_left_out_where_there_is_none_and_only_there(
    tmp_path, predicted, shown
):
    record = ACCOUNT | {"predicted_peak_bytes": predicted}
    table = account_table(accounted(tmp_path, record))
    assert rows(table)["peak memory of the process"] == (shown, "700 MB")


NUMBERS = [name for name, value in ACCOUNT.items() if type(value) in (int, float)]


WRONG = [
    (name, value)
    for name in NUMBERS
    for value in (0, -1, True, "much", None, [1], 10**400)
    if (name, value) != ("predicted_peak_bytes", None)  # which may be missing
]


@pytest.mark.parametrize("name, value", WRONG)
def test_a_number_that_is_none_is_named(tmp_path, name, value):
    with pytest.raises(InputError, match=f"accounting.json: {name} must be a number above 0"):
        account_table(accounted(tmp_path, ACCOUNT | {name: value}))


@pytest.mark.parametrize("name", sorted(ACCOUNT.keys() - {"compiled", "predicted_peak_bytes"}))
def test_what_an_account_lacks_is_named(tmp_path, name):
    record = {key: value for key, value in ACCOUNT.items() if key != name}
    with pytest.raises(InputError, match=f"accounting.json: {name} must be"):
        account_table(accounted(tmp_path, record))


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("device", 1, "device must be text"),
        ("precision", None, "precision must be text"),
        ("compiled", "yes", "compiled must be true or false"),
    ],
)
def test_what_is_of_another_kind_is_named(tmp_path, name, value, says):
    with pytest.raises(InputError, match=says):
        account_table(accounted(tmp_path, ACCOUNT | {name: value}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"tokens": NaN}', json.dumps(ACCOUNT)[:-10], "\x00"]
)
def test_a_file_that_is_no_account_is_named(tmp_path, text):
    (tmp_path / "accounting.json").write_text(text)
    with pytest.raises(InputError, match="accounting.json"):
        account_table(tmp_path)


# ---------------------------------------------------------------- the report card


def scored(bits_per_byte, floor):
    "A score of so many bits per byte over a thousand bytes."
    nats = bits_per_byte * math.log(2) * 1000
    return Evaluation(nats=nats, num_tokens=300, num_bytes=1000, floor=floor)


CONFIG = TransformerConfig(300, context_length=16, d_model=16, num_layers=1, num_heads=2)
RUN = {"data": "stories:5", "model": asdict(CONFIG), "digests": {"tokenizer.json": "0123"}}


def sections(folder):
    "Heading -> text of a report; what comes first under the folder's name."
    text = (folder / "report.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"(?m)^#+ (.+)\n", text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_report_says_what_the_run_is_and_did(tmp_path):
    folder = accounted(tmp_path, ACCOUNT)
    texts = ["First story.", "Second story.", "Third story."]
    score = scored(0.6, floor=0.5)
    write_report(folder, RUN, score, CONFIG, texts)
    report = sections(folder)
    names = [folder.name, "Samples", "Accounting", "Environment", "Configuration"]
    assert list(report) == names
    assert "stories:5" in report[folder.name] and str(score) in report[folder.name]
    assert report["Samples"].split("\n\n---\n\n") == ["\nFirst story.", "Second story.\n\n"]
    assert report["Accounting"].strip() == account_table(folder)
    shown = json.loads(report["Configuration"].strip().strip("`").removeprefix("json"))
    assert shown == {name: RUN[name] for name in ("data", "model")}, "digests are shown"
    count = sum(p.numel() for p in Transformer(CONFIG).parameters())
    assert f"| parameters | {count:,} |" in report["Environment"]


def test_the_alarm_stands_in_bold_before_the_curve(tmp_path):
    for bits_per_byte, rings in ((0.6, False), (0.3, True)):
        write_report(tmp_path, RUN, scored(bits_per_byte, floor=0.5), CONFIG, [""])
        before, curve, _ = sections(tmp_path)[tmp_path.name].partition("![loss](loss.png)")
        assert curve and ("**0.3000 bits per byte is below" in before) == rings


def test_without_an_account_the_report_has_no_such_section(tmp_path):
    write_report(tmp_path, RUN, scored(0.6, None), CONFIG, ["A story."])
    assert "Accounting" not in sections(tmp_path)


def test_a_damaged_account_leaves_the_old_report(tmp_path):
    (tmp_path / "report.md").write_text("the old one")
    with pytest.raises(InputError, match="tokens must be"):
        write_report(
            accounted(tmp_path, ACCOUNT | {"tokens": 0}), RUN, scored(1, None), CONFIG, [""]
        )
    assert (tmp_path / "report.md").read_text() == "the old one"


@pytest.fixture
def run(stories, tmp_path):
    "A run folder, as it is when training has ended."
    text, tokenizer, model = stories
    folder = tmp_path / "run"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "valid.txt").write_bytes(text.read_bytes())
    tokenizer.encode_file(text, folder / "data" / "valid.npy")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    described = {"data": "stories", "model": asdict(model.config), "training": {}}
    (folder / "run.json").write_text(json.dumps(described))
    return folder


def test_a_run_is_scored_on_its_whole_validation_file(run, stories):
    text, tokenizer, model = stories
    score, texts = evaluate_run(run, prompts=("Once", ""), device="cpu")
    tokens = np.array(tokenizer.encode(text.read_text(encoding="utf-8")))
    expected = evaluate(model, tokens, tokenizer)
    assert score.num_tokens == len(tokens) and score.num_bytes == expected.num_bytes
    assert math.isclose(score.nats, expected.nats, rel_tol=1e-5)
    assert score.gap is not None and score.gap > 0
    assert len(texts) == 2 and texts[0].startswith("Once")
    assert f"{score.bits_per_byte:.4f} bits per byte" in sections(run)["run"]
    assert (run / "samples.md").read_text(encoding="utf-8").count("\n\n---\n\n") == 1


def test_stories_are_judged_by_the_perfect_reader(run, stories, monkeypatch):
    "Which can be told, which were read before; and the causes add up to the gap."
    text, tokenizer, model = stories
    read = text.read_text(encoding="utf-8").split(END_OF_TEXT)
    new = StoryGrammar().sample(np.random.default_rng(5))
    told = [read[0], new, read[0], read[0].rstrip()]
    end = tokenizer.end_of_text_id
    rows = [[end, *tokenizer.encode(one), end] for one in told]
    monkeypatch.setattr("lm336.report.generate", lambda *args: rows)
    (run / "data" / "train.txt").write_bytes(text.read_bytes())
    tokens = np.array(tokenizer.encode(read[0] + END_OF_TEXT + read[1] + END_OF_TEXT))
    judge_stories(run, model, tokenizer, tokens, 4, len(tokens) - 1)  # the first is whole
    record = json.loads((run / "stories.json").read_text())
    first = tokenizer.encode(read[0] + END_OF_TEXT)
    floor = -StoryGrammar().log2_prob(read[0]) / len(read[0].encode())
    gap = evaluate(model, first, tokenizer, floor).gap
    assert gap is not None
    assert math.isclose(sum(record["gap"].values()), gap, rel_tol=1e-4)
    said = stories_table(run)
    assert "Of 4 samples, the grammar can tell 3, 2 of them different and 1 of these " in said
    assert "not in the training text. The others leave it at: end 1." in said
    assert f"The gap to the perfect reader, {gap:.2%}" in said


@pytest.mark.parametrize(("gap", "judged"), [(0.5, 1), (1.5, 0), (None, 0)])
def test_a_run_is_judged_where_it_may_tell_stories(run, monkeypatch, gap, judged):
    def score(*args, **kwargs):
        return scored(0.3, None if gap is None else 0.3 / (1 + gap))

    record = dict(samples=8, told=6, different=6, new=None, left_at={"agreement": 2}, gap={})
    monkeypatch.setattr("lm336.report.evaluate", score)
    monkeypatch.setattr(
        "lm336.report.judge_stories",
        lambda folder, *rest: (folder / "stories.json").write_text(json.dumps(record)),
    )
    evaluate_run(run, prompts=("",), device="cpu")
    assert (run / "stories.json").exists() == bool(judged)
    assert ("The perfect reader" in sections(run)) == bool(judged)
    said = "can tell 6, 6 of them different. The others"
    assert (said in stories_table(run)) == bool(judged)


def spoiled_account(run):
    accounted(run, {"tokens": "many"})


def other_tokens(run):
    tokens = np.load(run / "data" / "valid.npy")
    tokens[3] = 60_000
    np.save(run / "data" / "valid.npy", tokens)


def no_tokenizer(run):
    (run / "tokenizer.json").unlink()


@pytest.mark.parametrize("spoil", [spoiled_account, other_tokens, no_tokenizer])
def test_a_file_that_cannot_be_used_is_named_before_anything_is_computed(
    run, spoil, monkeypatch
):
    def too_early(*args, **kwargs):
        raise AssertionError("the model was asked before every file was read")

    monkeypatch.setattr(Transformer, "forward", too_early)
    spoil(run)
    with pytest.raises((InputError, FileNotFoundError)):
        evaluate_run(run, device="cpu")
    assert not (run / "samples.md").exists() and not (run / "report.md").exists()
