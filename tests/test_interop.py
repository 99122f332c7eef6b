"Folders for Hugging Face and for a page: equal logits, ids and texts, and what is refused."
import json
import shutil
import unicodedata

import pytest
import torch
from hypothesis import given, settings

from lm336.attention import reorder_rows
from lm336.corpus import write_stories
from lm336.errors import END_OF_TEXT, InputError
from lm336.generation import generate_stream
from lm336.interop import from_hf, hf_name, to_hf, to_web
from lm336.rope import to_halves, to_neighbours
from lm336.tokenizer import Tokenizer
from lm336.transformer import Transformer, TransformerConfig, parameter_shapes

from .test_bpe import hostile

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
LlamaForCausalLM, LlamaConfig = transformers.LlamaForCausalLM, transformers.LlamaConfig

SPECIALS = [END_OF_TEXT, "<|a|>", "<|a|><|b|>"]
SHAPES = [dict(), dict(tie_embeddings=True), dict(d_model=24, num_heads=2, d_ff=7, rope_theta=500.0, norm_eps=1e-2, num_layers=3)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    write_stories(path, 100_000, seed=1)
    with open(path, "ab") as file: file.write("naïve café 中文中文 🙂🙂 they're \n\n 100".encode() * 50)
    return Tokenizer.train(path, 600, SPECIALS)


def make(seed=0, **shape):
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**dict(vocab_size=600, context_length=48, d_model=32, num_layers=2, num_heads=4) | shape))
    with torch.no_grad():
        for layer in model.layers:
            for norm in (layer.ln1, layer.ln2): norm.weight.uniform_(0.5, 2)
        model.ln_final.weight *= 10 if model.config.tie_embeddings else 1
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
    prompt = tokenizer.encode("Once upon a time")
    stop = tokenizer.end_of_text_id
    text = theirs.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False, eos_token_id=stop, pad_token_id=0)[0].tolist()
    assert prompt + list(generate_stream(model, prompt, 30, temperature=0, stop_token=stop)) == text


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_llama_that_they_made(tokenizer, tmp_path, shape):
    c = make(**shape).config
    torch.manual_seed(2)
    theirs = LlamaForCausalLM(LlamaConfig(
        vocab_size=600, hidden_size=c.d_model, intermediate_size=c.d_ff, num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads,
        max_position_embeddings=48, rms_norm_eps=c.norm_eps, rope_theta=c.rope_theta, tie_word_embeddings=c.tie_embeddings, initializer_range=0.3))
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
        assert again.state_dict()[name].dtype == dtype and again.state_dict()[name].equal(weight) and model.state_dict()[name].equal(weight)


def test_older_and_newer_names_of_the_same_settings(tokenizer, folder):
    path, plain = folder / "config.json", json.loads((folder / "config.json").read_text())
    del plain["rope_theta"], plain["num_key_value_heads"], plain["head_dim"]
    for words, theta in ((dict(), 10_000.0), (dict(rope_theta=500.0), 500.0), (dict(rope_scaling=None, rope_theta=7.0), 7.0),
                         (dict(rope_parameters={"rope_type": "default", "rope_theta": 300.0}), 300.0)):
        path.write_text(json.dumps(plain | words))
        assert from_hf(folder)[0].config.rope_theta == theta


REFUSED = [("num_key_value_heads", 2), ("head_dim", 16), ("rope_scaling", {"type": "linear", "factor": 2.0}),
           ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}), ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
           ("attention_bias", True), ("mlp_bias", True), ("hidden_act", "gelu"), ("quantization_config", {"bits": 4}), ("pretraining_tp", 2),
           ("model_type", "mistral"), ("hidden_size", 30), ("vocab_size", None), ("vocab_size", 601), ("num_hidden_layers", 3)]

@pytest.mark.parametrize("name, value", REFUSED)
def test_a_model_that_would_be_read_wrongly_is_refused(folder, name, value):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {name: value}))
    with pytest.raises(InputError): from_hf(folder)


@pytest.mark.parametrize("change", [
    lambda t: t["pre_tokenizer"].update(add_prefix_space=True), lambda t: t["pre_tokenizer"].update(use_regex=False),
    lambda t: t["pre_tokenizer"].update(type="Whitespace"), lambda t: t["model"].update(ignore_merges=True),
    lambda t: t.update(post_processor={"type": "TemplateProcessing"}), lambda t: t.update(normalizer={"type": "NFC"}),
    lambda t: t.update(pre_tokenizer={"type": "Sequence", "pretokenizers": []}), lambda t: t["model"].update(type="WordPiece")])
def test_a_tokenizer_that_would_be_read_wrongly_is_refused(folder, change):
    values = json.loads((folder / "tokenizer.json").read_text())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="tokenizer.json"): from_hf(folder)


def test_missing_and_damaged_files(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:5000])
    with pytest.raises(InputError, match="cannot be read as safetensors"): from_hf(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no model.safetensors; pickled"): from_hf(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer.json is not JSON"): from_hf(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer.json"): from_hf(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json is not JSON"): from_hf(folder)
    with pytest.raises(InputError, match="no config.json"): from_hf(folder / "nowhere")


def test_reordering():
    x = torch.arange(24.0).view(2, 12)
    assert to_neighbours(to_halves(x)).equal(x) and to_halves(to_neighbours(x)).equal(x)
    weight = torch.arange(64.0).view(8, 8)
    assert reorder_rows(weight, 2, to_halves)[:, 0].tolist() == [0, 16, 8, 24, 32, 48, 40, 56]
    assert reorder_rows(reorder_rows(weight, 2, to_halves), 2, to_neighbours).equal(weight)
    assert len({hf_name(name) for name in parameter_shapes(make().config)}) == len(parameter_shapes(make().config))


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    to_hf(make(), tokenizer, folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@given(hostile)
@settings(max_examples=500, deadline=None)
def test_ids_equal_those_of_their_tokenizer(tokenizer, theirs, text):
    text = "".join(c for c in text if unicodedata.category(c) != "Cn")   # letters for one Unicode table, not for the other
    ids = tokenizer.encode(text)
    assert theirs.encode(text) == ids
    assert theirs.decode(ids) == text


def test_a_tokenizer_that_is_too_large(tokenizer, tmp_path):
    for write in (to_hf, to_web):
        with pytest.raises(InputError, match="600 tokens, the model only 599"): write(make(vocab_size=599), tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_folder_of_a_page(tokenizer, tmp_path):
    model = make(tie_embeddings=True)
    to_web(model, tokenizer, tmp_path / "page")
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert names == {"index.html", "page.css", "page.js", "worker.js", "model.js", "sampling.js", "tokenizer.js", "config.json", "tokenizer.json", "model.safetensors"}
    page = Transformer.from_pretrained(tmp_path / "page")
    assert page.config == model.config
    for name, weight in page.state_dict().items(): assert weight.dtype == torch.float16 and weight.equal(model.state_dict()[name].half())
    assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())
    assert Tokenizer.from_pretrained(tmp_path / "page").vocab == tokenizer.vocab


@pytest.mark.parametrize("value", [70_000.0, float("nan"), float("inf")])
def test_weights_that_float16_cannot_hold(tokenizer, tmp_path, value):
    model = make()
    with torch.no_grad(): model.layers[1].ffn.w2.weight[3, 4] = value
    with pytest.raises(InputError, match="layers.1.ffn.w2.weight has numbers beyond"): to_web(model, tokenizer, tmp_path / "page")
    assert not (tmp_path / "page").exists()
