"The tokenizer against tiktoken and tokenizers, at random cuts, with broken bytes and broken files."
import json
import pickle
import subprocess
import sys
import unicodedata
from unittest import mock

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings, strategies as st

from lm336.bpe import PRETOKEN_PATTERN, text_blocks
from lm336.corpus import write_stories
from lm336.errors import END_OF_TEXT, InputError
from lm336 import tokenizer as module
from lm336.tokenizer import Tokenizer, _printable, stream_pretokens, token_dtype

from .test_bpe import hostile, plain_split, special_sets

SPECIALS = [END_OF_TEXT, "<|a|>", "<|a|><|b|>"]
TEXT = "I'll say we've seen the naïve dog's café 中文中文 🙂🙂 " * 3 + "the  the   they're\n\n\n!!!??? 100 1000\t\t" * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_stories(folder / "stories.txt", 100_000, seed=1)
    with open(folder / "stories.txt", "ab") as file: file.write(TEXT.encode() * 20)
    return Tokenizer.train(folder / "stories.txt", 900, SPECIALS)


@pytest.fixture(scope="module")
def oracle(tokenizer):
    special = tokenizer._special_ids
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special.values()}
    return tiktoken.Encoding("ours", pat_str=PRETOKEN_PATTERN, mergeable_ranks=ranks, special_tokens=special)


@given(hostile, special_sets, st.data())
@settings(max_examples=300)
def test_pieces_cut_anywhere_equal_the_whole(text, special_tokens, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    assert list(stream_pretokens(chunks, special_tokens)) == plain_split(text, special_tokens)
    assert list(stream_pretokens(text, special_tokens)) == plain_split(text, special_tokens)


@given(st.text(alphabet="abcd ", max_size=12), st.integers(1, 4))
def test_special_tokens_that_begin_inside_one_another(text, size):
    chunks = [text[i:i + size] for i in range(0, len(text), size)]
    assert list(stream_pretokens(chunks, ["ab", "bcd", "cdab", "c "])) == plain_split(text, ["ab", "bcd", "cdab", "c "])


def test_stream_is_lazy():
    def endless():
        while True: yield "one two three "
    pieces = stream_pretokens(endless(), [END_OF_TEXT])
    assert [next(pieces) for _ in range(5)] == ["one", " two", " three", " one", " two"]


def test_one_endless_pretoken_is_not_quadratic():
    assert list(stream_pretokens(("a" for _ in range(300_000)))) == ["a" * 300_000]


@given(hostile)
@settings(max_examples=300, deadline=None)
def test_ids_equal_tiktoken(tokenizer, oracle, text):
    # a character that our Unicode tables have and theirs do not (or the other way round) may be a letter for one of us only
    text = "".join(c for c in text if unicodedata.category(c) != "Cn")
    text = text.replace("<|a|><|b|>", "")  # of two special tokens tiktoken takes any, not the longest
    ids = oracle.encode(text, allowed_special="all")
    assert tokenizer.encode(text) == ids
    assert by_arrays(tokenizer, [text]) == ids


def by_arrays(tokenizer, chunks): return [i for ids in tokenizer.encode_blocks(chunks) for i in ids.tolist()]


@given(st.lists(st.text(alphabet="the dog's\nwe've !é中", max_size=90), max_size=20))
@settings(max_examples=200, deadline=None)
def test_arrays_forget_and_begin_anew(tokenizer, oracle, texts):
    with mock.patch.object(module, "_MANY", 20):
        for text in texts: assert by_arrays(tokenizer, [text]) == oracle.encode(text)


@given(hostile)
@settings(max_examples=300, deadline=None)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.decode_iterable(ids)) == text


@given(hostile, st.data())
@settings(max_examples=300, deadline=None)
def test_stream_cut_anywhere_equals_the_whole(tokenizer, text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text) == by_arrays(tokenizer, chunks)


@given(st.lists(st.integers(0, 902)))
@settings(deadline=None)
def test_any_ids_decode(tokenizer, ids):
    ids = [i % tokenizer.vocab_size for i in ids]
    expected = b"".join(tokenizer.vocab[i] for i in ids).decode("utf-8", errors="replace")
    assert tokenizer.decode(ids) == expected == "".join(tokenizer.decode_iterable(ids))


def test_overlapping_specials_take_the_longest(tokenizer):
    a, ab = (tokenizer._special_ids[t] for t in ("<|a|>", "<|a|><|b|>"))
    assert tokenizer.encode("<|a|><|b|><|a|>") == [ab, a]
    assert list(tokenizer.encode_iterable("<|a|><|b|><|a|>")) == [ab, a]


def test_a_long_pretoken_is_not_quadratic(tokenizer, oracle):
    text = "the" * 100_000
    assert tokenizer.encode(text) == oracle.encode(text)


def test_invalid_utf8_becomes_replacement(tokenizer):
    assert tokenizer.decode([tokenizer._byte_ids[0xff]]) == "\ufffd"
    half = tokenizer._byte_ids[0xe4]
    assert list(tokenizer.decode_iterable([half])) == ["\ufffd"]


def test_refuses(tokenizer):
    with pytest.raises(InputError, match="U\\+D800"): tokenizer.encode("half \ud800 a character")
    with pytest.raises(InputError, match="token id 99999 .* 0 to"): tokenizer.decode([99999])
    with pytest.raises(InputError, match="token id -1"): tokenizer.decode([-1])
    with pytest.raises(InputError, match="256 bytes"): Tokenizer({0: b"a"}, [])
    bytes_only = {i: bytes([i]) for i in range(256)}
    with pytest.raises(InputError, match="each once"): Tokenizer({**bytes_only, 300: b"ab"}, [])
    with pytest.raises(InputError, match="merge 0 joins"): Tokenizer(bytes_only, [(b"a", b"b")])


def test_special_tokens_get_the_next_ids():
    bytes_only = {i: bytes([i]) for i in range(256)}
    tokenizer = Tokenizer(bytes_only, [], ["<|x|>", "a"])
    assert tokenizer.encode("ba<|x|>") == [98, 97, 256] and len(bytes_only) == 256
    assert tokenizer.end_of_text_id is None
    assert tokenizer.token_lengths.tolist() == [1] * 97 + [0] + [1] * 158 + [0]


def test_pretrained_round_trip_and_hugging_face(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "new" / "folder")
    again = Tokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert (again.vocab, again.merges, again._special_ids) == (tokenizer.vocab, tokenizer.merges, tokenizer._special_ids)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "new/folder/tokenizer.json"))
    text = TEXT + "<|a|><|b|><|a|> <|endoftext|>\n" + "'ll\u00a0x  "
    assert other.encode(text).ids == tokenizer.encode(text) == again.encode(text)
    assert other.decode(other.encode(text).ids, skip_special_tokens=False) == text


def gpt2_files(tokenizer, folder):
    "The tokenizer in GPT-2's format: the bytes in the order of their printable characters, <|endoftext|> last."
    merges, tokens = tokenizer.merges, sorted(bytes([b]) for b in range(256))
    tokens = sorted(tokens, key=_printable) + [a + b for a, b in merges]
    vocab = {_printable(token): i for i, token in enumerate(tokens)} | {END_OF_TEXT: len(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{_printable(a)} {_printable(b)}\n" for a, b in merges))
    return {**{token: i for i, token in enumerate(tokens)}}


def test_from_gpt2_files(tokenizer, tmp_path):
    ranks = gpt2_files(tokenizer, tmp_path)
    ours = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", [END_OF_TEXT])
    theirs = tiktoken.Encoding("gpt2-like", pat_str=PRETOKEN_PATTERN, mergeable_ranks=ranks,
                               special_tokens={END_OF_TEXT: len(ranks)})
    assert ours.end_of_text_id == len(ranks)
    text = TEXT + END_OF_TEXT + "\x00\xff"
    assert ours.encode(text) == theirs.encode(text, allowed_special="all")
    ours.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).encode(text) == ours.encode(text)


def test_refuses_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"): Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"): Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1]")
    with pytest.raises(InputError, match="not a byte-level BPE"): Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(FileNotFoundError, match="merges.txt does not exist"):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
    with pytest.raises(InputError, match="line 3"): Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    (tmp_path / "merges.txt").write_text("a 中\n")
    with pytest.raises(InputError, match="no byte"): Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_encode_file(tokenizer, oracle, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 50 + END_OF_TEXT, encoding="utf-8", newline="")
    total = tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy")
    ids = np.load(tmp_path / "ids.npy")
    assert ids.dtype == np.uint16 and len(ids) == total
    assert ids.tolist() == oracle.encode(TEXT * 50 + END_OF_TEXT, allowed_special="all")
    (tmp_path / "empty.txt").write_text("")
    assert tokenizer.encode_file(tmp_path / "empty.txt", tmp_path / "empty.npy") == 0
    assert len(np.load(tmp_path / "empty.npy")) == 0


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_change_nothing(tokenizer, tmp_path, num_workers):
    text = (TEXT + "<|a|><|b|>" + END_OF_TEXT + "x" * 100 + "\0 internationalisation") * 100
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    with mock.patch.object(text_blocks, "__defaults__", ((), 2000)), mock.patch.object(module, "_TOGETHER", 3), \
            mock.patch.object(module, "Helper", wraps=module.Helper) as helper:
        tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy", num_workers)
        assert helper.call_count == num_workers - 1
    assert np.load(tmp_path / "ids.npy").tolist() == tokenizer.encode(text)


def test_encode_file_leaves_nothing_half_written(tokenizer, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"fine " * 1000 + b"\xff")
    with pytest.raises(InputError, match="UTF-8"): tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_encode_of_a_large_text_is_that_of_the_stream(tokenizer, oracle):
    text = (TEXT + "<|a|><|b|>" + END_OF_TEXT + "x" * 100 + "\0") * 100
    assert len(text) > 20_000
    ids = tokenizer.encode(text)
    assert ids == list(tokenizer.encode_iterable([text])) == list(tokenizer.encode_iterable(text))
    with pytest.raises(InputError, match="U\\+DC80"): tokenizer.encode(text + "\udc80")
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text) == ids


BOUNDED = """
import resource, sys
from lm336.tokenizer import Tokenizer
tokenizer = Tokenizer.from_pretrained(sys.argv[1])
part = " internationalisation's internationalisations" * 20_000
chunks = lambda: (part[i:i + 60_001] for _ in range(200_000_000 // len(part) + 1) for i in range(0, len(part), 60_001))
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 40_000_000, resource.RLIM_INFINITY))
print(sum(1 for _ in tokenizer.encode_iterable(chunks())))
try: print(len(list(tokenizer.encode_iterable(chunks()))))
except MemoryError: print("a list of the ids would not fit")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on address space is Linux's")
def test_encode_iterable_of_200_megabytes_within_40(tmp_path):
    (tmp_path / "text.txt").write_text(" internationalisation's internationalisations " * 3)
    Tokenizer.train(tmp_path / "text.txt", 300).save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", BOUNDED, tmp_path], capture_output=True, text=True)
    count, then = done.stdout.splitlines()
    assert int(count) > 12_000_000 and then == "a list of the ids would not fit", done.stderr


def test_dtype_by_vocabulary():
    assert token_dtype(65_536) == np.uint16 and token_dtype(65_537) == np.uint32
    vocab = {i: bytes([i]) for i in range(256)} | {256 + i: b"<%d>" % i for i in range(65_281)}
    assert token_dtype(Tokenizer(vocab, []).vocab_size) == np.uint32


def test_imports_no_torch():
    code = "import sys, lm336.tokenizer; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
