"Folders for Hugging Face and for a page: equal logits, ids and texts, and what is refused."

import json
import random
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

from lm336.errors import END_OF_TEXT, InputError
from lm336.fast_model import reorder_rows, to_halves, to_neighbours
from lm336.files import sha256
from lm336.generation import SamplingConfig, generate_stream
from lm336.grammar import write_stories
from lm336.interop import from_hf, hf_name, to_hf, to_web
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig, parameter_shapes

from .test_bpe import hostile

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
LlamaForCausalLM, LlamaConfig = transformers.LlamaForCausalLM, transformers.LlamaConfig

SPECIALS = [END_OF_TEXT, "<|a|>", "<|a|><|b|>"]
SHAPES = [
    dict(),
    dict(tie_embeddings=True),
    dict(d_model=24, num_heads=2, d_ff=7, rope_theta=500.0, norm_eps=1e-2, num_layers=3),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    write_stories(path, 100_000, seed=1)
    with open(path, "ab") as file:
        file.write("naïve café 中文中文 🙂🙂 they're \n\n 100".encode() * 50)
    return Tokenizer.train(path, 600, SPECIALS)


def make(seed=0, **shape):
    torch.manual_seed(seed)
    small: dict[str, Any] = dict(
        vocab_size=600, context_length=48, d_model=32, num_layers=2, num_heads=4
    )
    model = Transformer(TransformerConfig(**small | shape))
    with torch.no_grad():
        for layer in model.layers:
            for norm in (layer.ln1, layer.ln2):
                norm.weight.uniform_(0.5, 2)
        model.ln_final.weight.mul_(10 if model.config.tie_embeddings else 1)
    return model


@pytest.fixture
def folder(tokenizer, tmp_path):
    to_hf(make(), tokenizer, tmp_path)
    return tmp_path


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_greedy_text_of_hugging_face(tokenizer, tmp_path, shape):
    model = make(**shape)
    to_hf(model, tokenizer, tmp_path / "new" / "folder")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "new" / "folder").eval()
    ids = torch.randint(600, (3, 48), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)
    model, theirs = model.double(), theirs.double()  # rounding decides between no two tokens
    prompt = tokenizer.encode("Once upon a time")
    stop = tokenizer.end_of_text_id
    settings = dict(do_sample=False, eos_token_id=stop, pad_token_id=0)
    text = theirs.generate(torch.tensor([prompt]), max_new_tokens=30, **settings)[0].tolist()
    greedy = SamplingConfig(temperature=0, stop_token=stop)
    ours = [token.id for token in generate_stream(model, prompt, 30, greedy)]
    assert prompt + list(ours) == text


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_llama_that_they_made(tokenizer, tmp_path, shape):
    c = make(**shape).config
    torch.manual_seed(2)
    theirs = LlamaForCausalLM(LlamaConfig(
        vocab_size=600,
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        max_position_embeddings=48,
        rms_norm_eps=c.norm_eps,
        rope_theta=c.rope_theta,
        tie_word_embeddings=c.tie_embeddings,
        initializer_range=0.3))
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")   # in several files
    assert (tmp_path / "model.safetensors.index.json").is_file()
    tokenizer.save_pretrained(tmp_path)
    model, ours = from_hf(tmp_path)
    assert model.config == c and ours.vocab == tokenizer.vocab
    ids = torch.randint(600, (3, 48), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_there_and_back_changes_no_bit(tokenizer, tmp_path, shape, dtype):
    model = make(**shape).to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    to_hf(model, tokenizer, tmp_path)
    again, _ = from_hf(tmp_path)
    assert again.config == model.config and again.state_dict().keys() == before.keys()
    for name, weight in before.items():
        assert again.state_dict()[name].dtype == dtype
        assert again.state_dict()[name].equal(weight)
        assert model.state_dict()[name].equal(weight)


def test_older_and_newer_names_of_the_same_settings(tokenizer, folder):
    path, plain = folder / "config.json", json.loads((folder / "config.json").read_text())
    del plain["rope_theta"], plain["num_key_value_heads"], plain["head_dim"]
    said = [
        (dict(), 10_000.0),
        (dict(rope_theta=500.0), 500.0),
        (dict(rope_scaling=None, rope_theta=7.0), 7.0),
        (dict(rope_parameters={"rope_type": "default", "rope_theta": 300.0}), 300.0),
    ]
    for words, theta in said:
        path.write_text(json.dumps(plain | words))
        assert from_hf(folder)[0].config.rope_theta == theta


REFUSED = [
    ("num_key_value_heads", 2),
    ("head_dim", 16),
    ("rope_scaling", {"type": "linear", "factor": 2.0}),
    ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
    ("rope_scaling", {"partial_rotary_factor": 0.5}),
    ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
    ("partial_rotary_factor", 0.5),
    ("attention_bias", True),
    ("mlp_bias", True),
    ("hidden_act", "gelu"),
    ("quantization_config", {"bits": 4}),
    ("pretraining_tp", 2),
    ("model_type", "mistral"),
    ("hidden_size", 30),
    ("vocab_size", None),
    ("vocab_size", 601),
    ("num_hidden_layers", 3),
]

@pytest.mark.parametrize("name, value", REFUSED)
def test_a_model_that_would_be_read_wrongly_is_refused(folder, name, value):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {name: value}))
    with pytest.raises(InputError):
        from_hf(folder)


def test_settings_that_are_not_given_are_those_of_a_llama(folder):
    "With numbers so small that the epsilon inside the root decides."
    values = json.loads((folder / "config.json").read_text())
    optional = {
        "rms_norm_eps", "rope_theta", "hidden_act", "attention_bias", "mlp_bias", "head_dim",
    }
    values = {name: value for name, value in values.items() if name not in optional}
    (folder / "config.json").write_text(json.dumps(values))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ids = torch.randint(600, (3, 48), generator=torch.Generator().manual_seed(1))
    model, _ = from_hf(folder)
    with torch.inference_mode():
        expected = LlamaForCausalLM.from_pretrained(folder)(ids).logits
        torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=0)
        model.ln_final.eps = model.layers[0].ln1.eps = 1e-5
        assert (model(ids) - expected).abs().max() > 1e-2, "another epsilon must be seen"


@pytest.mark.parametrize("change", [
    lambda t: t["pre_tokenizer"].update(add_prefix_space=True),
    lambda t: t["pre_tokenizer"].update(use_regex=False),
    lambda t: t["pre_tokenizer"].update(type="Whitespace"),
    lambda t: t["model"].update(ignore_merges=True),
    lambda t: t["model"].update(type="WordPiece"),
    lambda t: t.update(post_processor={"type": "TemplateProcessing"}),
    lambda t: t.update(normalizer={"type": "NFC"}),
    lambda t: t.update(pre_tokenizer={"type": "Sequence", "pretokenizers": []}),
])
def test_a_tokenizer_that_would_be_read_wrongly_is_refused(folder, change):
    values = json.loads((folder / "tokenizer.json").read_text())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="tokenizer.json"):
        from_hf(folder)


def test_missing_and_damaged_files(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:5000])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        from_hf(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no model.safetensors; pickled"):
        from_hf(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer.json is not JSON"):
        from_hf(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer.json"):
        from_hf(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json is not JSON"):
        from_hf(folder)
    with pytest.raises(InputError, match="no config.json"):
        from_hf(folder / "nowhere")


def test_reordering():
    x = torch.arange(24.0).view(2, 12)
    assert to_neighbours(to_halves(x)).equal(x) and to_halves(to_neighbours(x)).equal(x)
    weight = torch.arange(64.0).view(8, 8)
    assert reorder_rows(weight, 2, to_halves)[:, 0].tolist() == [0, 16, 8, 24, 32, 48, 40, 56]
    assert reorder_rows(reorder_rows(weight, 2, to_halves), 2, to_neighbours).equal(weight)
    names = parameter_shapes(make().config)
    assert len({hf_name(name) for name in names}) == len(names)


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    to_hf(make(), tokenizer, folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@given(hostile)
@settings(max_examples=500, deadline=None)
def test_ids_equal_those_of_their_tokenizer(tokenizer, theirs, text):
    # what is a letter for one Unicode table and not for the other is left out
    text = "".join(c for c in text if unicodedata.category(c) != "Cn")
    ids = tokenizer.encode(text)
    assert theirs.encode(text) == ids
    assert theirs.decode(ids) == text


def test_a_tokenizer_that_is_too_large(tokenizer, tmp_path):
    for write in (to_hf, to_web):
        with pytest.raises(InputError, match="600 tokens, but the model only 599"):
            write(make(vocab_size=599), tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_folder_of_a_page(tokenizer, tmp_path):
    model = make(tie_embeddings=True)
    to_web(model, tokenizer, tmp_path / "page")
    names = {path.name for path in (tmp_path / "page").glob("[!.]*")}
    page = {"index.html", "page.css", "page.js"}
    modules = {"worker.js", "model.js", "sampling.js", "generation.js", "tokenizer.js"}
    modules |= {"kernels.js", "kernels-wasm.js"}
    assert names == page | modules | {"config.json", "tokenizer.json", "model.safetensors"}
    page = Transformer.from_pretrained(tmp_path / "page")
    assert page.config == model.config
    for name, weight in page.state_dict().items():
        assert weight.dtype == torch.float16 and weight.equal(model.state_dict()[name].half())
    assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())
    assert Tokenizer.from_pretrained(tmp_path / "page").vocab == tokenizer.vocab


@pytest.mark.parametrize("value", [70_000.0, float("nan"), float("inf")])
def test_weights_that_float16_cannot_hold(tokenizer, tmp_path, value):
    model = make()
    with torch.no_grad():
        model.layers[1].ffn.w2.weight[3, 4] = value
    with pytest.raises(InputError, match="layers.1.ffn.w2.weight has numbers beyond"):
        to_web(model, tokenizer, tmp_path / "page")
    assert not (tmp_path / "page").exists()


# ---- a folder that says more than its tokenizer.json

CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"


@pytest.mark.parametrize(("file", "name", "value", "word"), [
    (CONFIG, "add_prefix_space", True, "add_prefix_space"),
    (CONFIG, "add_bos_token", True, "add_bos_token"),
    (CONFIG, "add_eos_token", True, "add_eos_token"),
    (CONFIG, "pad_token", "[PAD]", "[PAD]"),
    (SPECIAL, "unk_token", {"content": "<unk>"}, "<unk>"),
    (CONFIG, "extra_special_tokens", ["<|b|>"], "<|b|>"),
    (CONFIG, "added_tokens_decoder", {"3": {"content": "<|c|>"}}, "<|c|>"),
    (CONFIG, "mask_token", {"content": "<|a|>", "lstrip": True}, "lstrip"),
])
def test_what_other_files_add_is_refused_by_name(folder, file, name, value, word):
    path = folder / file
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | {name: value}))
    with pytest.raises(InputError) as error:
        from_hf(folder)
    assert file in str(error.value) and word in str(error.value)


def test_a_folder_that_transformers_saved(tokenizer, folder, tmp_path):
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert from_hf(tmp_path / "again")[1].vocab == tokenizer.vocab


# ---- weights

def test_whole_numbers_are_no_weights(folder):
    weights = load_file(folder / "model.safetensors")
    norm = weights["model.norm.weight"].to(torch.int8)
    save_file(weights | {"model.norm.weight": norm}, folder / "model.safetensors")
    with pytest.raises(InputError, match="model.norm.weight|ln_final.weight is in int8"):
        from_hf(folder)


def test_weights_in_several_formats_lose_nothing(folder):
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if weight.dim() == 2:
            weights[name] = weight.bfloat16()
    save_file(weights, folder / "model.safetensors")
    model, _ = from_hf(folder)
    for name in parameter_shapes(model.config):
        if name.endswith(("ln1.weight", "ln2.weight", "ln_final.weight")):
            assert model.state_dict()[name].equal(weights[hf_name(name)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_written(tokenizer, tmp_path, value):
    model = make()
    with torch.no_grad():
        model.layers[1].ffn.w2.weight[3, 4] = value
    with pytest.raises(FloatingPointError, match="model.layers.1.mlp.down_proj.weight"):
        to_hf(model, tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


# ---- damaged folders

ODD_VALUES = [
    None, True, False, 0, -1, 1, 3, 2.5, 10**9, 10**30, "", "a", "model.safetensors", "../x",
    [], [1, 2], ["a"], {}, {"a": 1}, {"type": None}, {"rope_type": "linear"},
]
LEADS_NOWHERE = [
    None, [], {}, 5,
    {"model.norm.weight": 1},
    {"model.norm.weight": "../other.safetensors"},
]


@pytest.mark.parametrize("weight_map", LEADS_NOWHERE)
def test_an_index_that_leads_nowhere(folder, weight_map):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match="weight_map must say"):
        from_hf(folder)


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_rotations_that_are_no_object(folder, name):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {name: [1, 2]}))
    with pytest.raises(InputError, match=r"config.json: the rotations' settings are \[1, 2\]"):
        from_hf(folder)


def damaged(values, rng, number):
    "A JSON object with a field less, or one of another value; now and then no JSON at all."
    changed = dict(values)
    if number % 3:
        changed[rng.choice(list(values))] = rng.choice(ODD_VALUES)
    else:
        del changed[rng.choice(list(values))]
    if "weight_map" in values and number % 2:
        tensor = rng.choice(list(values["weight_map"]))
        places = values["weight_map"] | {tensor: rng.choice(ODD_VALUES)}
        changed = values | {"weight_map": places}
    text = json.dumps(changed)
    if number % 10 == 0:
        half = text[: rng.randrange(len(text))]
        text = rng.choice([half, "[" * 100_000, "[]", "null", '{"a": NaN}'])
    return text


def check_as_theirs(model, folder, ids, name):
    "Equal logits, wherever `transformers` takes the folder as well."
    try:
        theirs = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    except Exception:
        return
    some = ids[:, : model.config.context_length]
    with torch.inference_mode():
        said, expected = model(some), theirs(some).logits
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=0, msg=name)


def test_mutations_of_every_json_file(tokenizer, tmp_path):
    "A sentence, or the logits that `transformers` gets."
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    to_hf(make(), tokenizer, whole)
    LlamaForCausalLM.from_pretrained(whole).save_pretrained(shards, max_shard_size="40KB")
    tokenizer.save_pretrained(shards)
    places = {"config.json": whole, CONFIG: whole, "model.safetensors.index.json": shards}
    files = {name: json.loads((folder / name).read_text()) for name, folder in places.items()}
    files["config.json"] |= dict(rope_scaling=None, rope_parameters=None)
    ids = torch.randint(600, (1, 20), generator=torch.Generator().manual_seed(1))
    rng, read = random.Random(0), 0
    for number in range(300):
        name = rng.choice(["config.json", "config.json", *files])
        path = places[name] / name
        text = damaged(files[name], rng, number)
        path.write_bytes(text.encode("utf-16" if number % 50 == 0 else "utf-8"))
        try:
            model, _ = from_hf(path.parent)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, str(error)
        else:
            read += 1
            check_as_theirs(model, path.parent, ids, f"{name}: {text[:2000]}")
        finally:
            path.write_text(json.dumps(files[name]))
    assert 20 < read < 280


# ---- nothing finished is overwritten

def contents(folder):
    return {path.name: sha256(path) for path in folder.iterdir()}


@pytest.mark.parametrize("write", [to_hf, to_web])
def test_a_run_is_not_overwritten(tokenizer, tmp_path, write):
    model = make()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    before = contents(tmp_path)
    refused = r"has a \S+ that no export wrote.*or overwrite=True \(--overwrite on the command"
    with pytest.raises(InputError, match=refused):
        write(model, tokenizer, tmp_path)
    assert contents(tmp_path) == before
    write(model, tokenizer, tmp_path, overwrite=True)
    changed = "config.json" if write is to_hf else "model.safetensors"
    assert contents(tmp_path)[changed] != before[changed]


@pytest.mark.parametrize("write", [to_hf, to_web])
def test_an_export_replaces_its_own_files_and_leaves_others(tokenizer, tmp_path, write):
    write(make(seed=1), tokenizer, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    old = contents(tmp_path)
    write(make(seed=2), tokenizer, tmp_path)
    new = contents(tmp_path)
    assert new["model.safetensors"] != old["model.safetensors"]
    assert new["notes.txt"] == old["notes.txt"] and new.keys() == old.keys()
    (tmp_path / "config.json").write_text("changed by hand")
    new = contents(tmp_path)
    with pytest.raises(InputError, match="has a config.json"):
        write(make(seed=3), tokenizer, tmp_path)
    assert contents(tmp_path) == new


def test_a_site_is_not_overwritten(tokenizer, tmp_path):
    (tmp_path / "index.html").write_text("<h1>My garden</h1>")
    with pytest.raises(InputError, match="has a index.html that no export wrote"):
        to_web(make(), tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert "garden" in (tmp_path / "index.html").read_text()


FULL = """
import resource, sys
from lm336.interop import to_hf, to_web
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer
model = Transformer.from_pretrained(sys.argv[1])
tokenizer = Tokenizer.from_pretrained(sys.argv[1])
for write in (to_web, to_hf):
    for size in (0, 100, 5000, 30_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            write(model, tokenizer, sys.argv[2])
        except OSError as error:
            assert "\\n" not in str(error) and str(error)
            print("refused", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a file's size is Linux's")
def test_a_full_disk_changes_nothing(tokenizer, tmp_path):
    make(seed=1).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    to_web(make(seed=2), tokenizer, tmp_path / "page")
    before = contents(tmp_path / "page")
    command = [sys.executable, "-c", FULL, tmp_path / "run", tmp_path / "page"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "refused\n" * 8, done.stderr
    assert contents(tmp_path / "page") == before
