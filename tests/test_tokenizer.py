"""The tokenizer against tiktoken and tokenizers, at random cuts.

With broken bytes and broken files."""

import copy
import json
import pickle
import random
import subprocess
import sys
import unicodedata
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.bpe import PRETOKEN_PATTERN
from lm336.errors import END_OF_TEXT, InputError
from lm336.grammar import write_stories
from lm336.tokenizer import Tokenizer, stream_pretokens

from .test_bpe import hostile, plain_split, special_sets

SPECIALS = [END_OF_TEXT, "<|a|>", "<|a|><|b|>"]
TEXT = "I'll say we've seen the naïve dog's café 中文中文 🙂🙂 " * 3
TEXT += "the  the   they're\n\n\n!!!??? 100 1000\t\t" * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_stories(folder / "stories.txt", 100_000, seed=1)
    with open(folder / "stories.txt", "ab") as file:
        file.write(TEXT.encode() * 20)
    return Tokenizer.train(folder / "stories.txt", 900, SPECIALS)


def special_id(tokenizer, token):
    "The one id of a special token."
    [found] = tokenizer.encode(token)
    return found


def as_json(tokenizer, folder):
    "What is in the file that a tokenizer saves."
    tokenizer.save_pretrained(folder)
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def oracle(tokenizer):
    special = {token: special_id(tokenizer, token) for token in SPECIALS}
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special.values()}
    return tiktoken.Encoding(
        "ours", pat_str=PRETOKEN_PATTERN, mergeable_ranks=ranks, special_tokens=special
    )


@given(hostile, special_sets, st.data())
@settings(max_examples=300)
def test_pieces_cut_anywhere_equal_the_whole(text, special_tokens, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    assert list(stream_pretokens(chunks, special_tokens)) == plain_split(text, special_tokens)
    assert list(stream_pretokens(text, special_tokens)) == plain_split(text, special_tokens)


@given(st.text(alphabet="abcd ", max_size=12), st.integers(1, 4))
def test_special_tokens_that_begin_inside_one_another(text, size):
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    specials = ["ab", "bcd", "cdab", "c "]
    assert list(stream_pretokens(chunks, specials)) == plain_split(text, specials)


def test_stream_is_lazy():
    def endless():
        while True:
            yield "one two three "

    pieces = stream_pretokens(endless(), [END_OF_TEXT])
    assert [next(pieces) for _ in range(5)] == ["one", " two", " three", " one", " two"]


def test_one_endless_pretoken_is_not_quadratic():
    assert list(stream_pretokens("a" for _ in range(300_000))) == ["a" * 300_000]


@given(hostile)
@settings(max_examples=300, deadline=None)
def test_ids_equal_tiktoken(tokenizer, oracle, text):
    # a character that only our Unicode tables have, or only theirs, may be a letter for one
    text = "".join(c for c in text if unicodedata.category(c) != "Cn")
    # of two special tokens tiktoken takes any, not the longest
    text = text.replace("<|a|><|b|>", "")
    ids = oracle.encode(text, allowed_special="all")
    assert tokenizer.encode(text) == ids
    assert by_arrays(tokenizer, [text]) == ids


def by_arrays(tokenizer, chunks):
    return [i for ids in tokenizer.encode_blocks(chunks) for i in ids.tolist()]


def test_arrays_stay_right_when_there_are_too_many_words_to_remember(tokenizer, oracle):
    text = " ".join(map(str, range(1_200_000)))
    expected = oracle.encode(text)
    for _ in range(2):
        assert by_arrays(tokenizer, [text]) == expected


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
    ids = tokenizer.encode(text)
    assert list(tokenizer.encode_iterable(chunks)) == ids == by_arrays(tokenizer, chunks)


@given(st.lists(st.integers(0, 902)))
@settings(deadline=None)
def test_any_ids_decode(tokenizer, ids):
    ids = [i % tokenizer.vocab_size for i in ids]
    expected = b"".join(tokenizer.vocab[i] for i in ids).decode("utf-8", errors="replace")
    assert tokenizer.decode(ids) == expected == "".join(tokenizer.decode_iterable(ids))


def test_overlapping_specials_take_the_longest(tokenizer):
    a, ab = (special_id(tokenizer, t) for t in ("<|a|>", "<|a|><|b|>"))
    assert a != ab
    assert tokenizer.encode("<|a|><|b|><|a|>") == [ab, a]
    assert list(tokenizer.encode_iterable("<|a|><|b|><|a|>")) == [ab, a]


def test_a_long_pretoken_is_not_quadratic(tokenizer, oracle):
    text = "the" * 100_000
    assert tokenizer.encode(text) == oracle.encode(text)


def test_invalid_utf8_becomes_replacement(tokenizer):
    id_of = {token: i for i, token in tokenizer.vocab.items()}
    assert tokenizer.decode([id_of[b"\xff"]]) == "\ufffd"
    assert list(tokenizer.decode_iterable([id_of[b"\xe4"]])) == ["\ufffd"]


def test_refuses(tokenizer):
    with pytest.raises(InputError, match="U\\+D800"):
        tokenizer.encode("half \ud800 a character")
    with pytest.raises(InputError, match="token id 99999 .* 0 to"):
        tokenizer.decode([99999])
    with pytest.raises(InputError, match="token id -1"):
        tokenizer.decode([-1])
    with pytest.raises(InputError, match="256 bytes"):
        Tokenizer({0: b"a"}, [])
    bytes_only = {i: bytes([i]) for i in range(256)}
    with pytest.raises(InputError, match="each once"):
        Tokenizer({**bytes_only, 300: b"ab"}, [])
    with pytest.raises(InputError, match="merge 0 joins"):
        Tokenizer(bytes_only, [(b"a", b"b")])


def test_special_tokens_get_the_next_ids():
    bytes_only = {i: bytes([i]) for i in range(256)}
    tokenizer = Tokenizer(bytes_only, [], ["<|x|>", "a"])
    assert tokenizer.encode("ba<|x|>") == [98, 97, 256] and len(bytes_only) == 256
    assert tokenizer.end_of_text_id is None
    assert tokenizer.token_lengths.tolist() == [1] * 97 + [0] + [1] * 158 + [0]


def test_pretrained_round_trip_and_hugging_face(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "new" / "folder")
    again = Tokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert again.vocab == tokenizer.vocab and again.merges == tokenizer.merges
    assert again.special_tokens == tokenizer.special_tokens
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "new/folder/tokenizer.json"))
    text = TEXT + "<|a|><|b|><|a|> <|endoftext|>\n" + "'ll\u00a0x  "
    assert other.encode(text).ids == tokenizer.encode(text) == again.encode(text)
    assert other.decode(other.encode(text).ids, skip_special_tokens=False) == text


PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [b for b in range(256) if b not in PLAIN]


def printable(token):
    "A token as GPT-2 writes it: bytes that print as they are, the others from U+0100 on."
    return "".join(chr(b) if b in PLAIN else chr(256 + OTHERS.index(b)) for b in token)


def gpt2_files(tokenizer, folder):
    """The tokenizer in GPT-2's format; the ranks of its tokens.

    The bytes come in the order of their printable characters, <|endoftext|> last."""
    merges, tokens = tokenizer.merges, sorted(bytes([b]) for b in range(256))
    tokens = sorted(tokens, key=printable) + [a + b for a, b in merges]
    vocab = {printable(token): i for i, token in enumerate(tokens)} | {
        END_OF_TEXT: len(tokens)
    }
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(f"{printable(a)} {printable(b)}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return {token: i for i, token in enumerate(tokens)}


def test_from_gpt2_files(tokenizer, tmp_path):
    ranks = gpt2_files(tokenizer, tmp_path)
    ours = Tokenizer.from_files(
        tmp_path / "vocab.json", tmp_path / "merges.txt", [END_OF_TEXT]
    )
    theirs = tiktoken.Encoding(
        "gpt2-like",
        pat_str=PRETOKEN_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: len(ranks)},
    )
    assert ours.end_of_text_id == len(ranks)
    text = TEXT + END_OF_TEXT + "\x00\xff"
    assert ours.encode(text) == theirs.encode(text, allowed_special="all")
    ours.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).encode(text) == ours.encode(text)


def test_refuses_bad_files(tmp_path):
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        Tokenizer.from_pretrained(tmp_path)
    vocab.write_text('{"a": 0}')
    with pytest.raises(FileNotFoundError, match="merges.txt does not exist"):
        Tokenizer.from_files(vocab, merges)
    for bad, words in (
        (b"#version: 0.2\na b\na b c\n", "line 3"),
        ("a 中\n".encode(), "no byte"),
        (b"a b\n\xff", "not UTF-8 at byte 4"),
    ):
        merges.write_bytes(bad)
        with pytest.raises(InputError, match=words):
            Tokenizer.from_files(vocab, merges)


def test_encode_file(tokenizer, oracle, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 50 + END_OF_TEXT, encoding="utf-8", newline="")
    total = tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy")
    ids = np.load(tmp_path / "ids.npy")
    assert ids.dtype == np.uint16 and len(ids) == total
    assert ids.tolist() == oracle.encode(TEXT * 50 + END_OF_TEXT, allowed_special="all")
    (tmp_path / "empty.txt").write_text("")
    assert tokenizer.encode_file(tmp_path / "empty.txt", tmp_path / "empty.npy") == 0
    assert len(np.load(tmp_path / "empty.npy")) == 0


def test_workers_change_nothing(tokenizer, oracle, tmp_path):
    part = TEXT + "<|a|>" + END_OF_TEXT + "x" * 100 + "\0 internationalisation"
    text = part * (12_000_000 // len(part))  # enough for helpers to start
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    expected = np.array(oracle.encode(text, allowed_special="all"))
    for num_workers in (1, 2, 3):
        tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy", num_workers)
        assert np.array_equal(np.load(tmp_path / "ids.npy"), expected)
    with pytest.raises(InputError, match="num_workers is 0"):
        tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "none.npy", 0)


def test_encode_file_leaves_nothing_half_written(tokenizer, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"fine " * 1000 + b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_encode_of_a_large_text_is_that_of_the_stream(tokenizer, oracle):
    text = (TEXT + "<|a|><|b|>" + END_OF_TEXT + "x" * 100 + "\0") * 100
    assert len(text) > 20_000
    ids = tokenizer.encode(text)
    for chunks in ([text], text):
        assert list(tokenizer.encode_iterable(chunks)) == ids
    with pytest.raises(InputError, match="U\\+DC80"):
        tokenizer.encode(text + "\udc80")
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text) == ids


BOUNDED = """
import resource, sys
from lm336.tokenizer import Tokenizer
tokenizer = Tokenizer.from_pretrained(sys.argv[1])
part = " internationalisation's internationalisations" * 20_000
def chunks():
    for _ in range(200_000_000 // len(part) + 1):
        yield from (part[i:i + 60_001] for i in range(0, len(part), 60_001))
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 40_000_000, resource.RLIM_INFINITY))
print(sum(1 for _ in tokenizer.encode_iterable(chunks())))
try: print(len(list(tokenizer.encode_iterable(chunks()))))
except MemoryError: print("a list of the ids would not fit")
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit on address space is Linux's"
)
def test_encode_iterable_of_200_megabytes_within_40(tmp_path):
    (tmp_path / "text.txt").write_text(" internationalisation's internationalisations " * 3)
    Tokenizer.train(tmp_path / "text.txt", 300).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, tmp_path], capture_output=True, text=True
    )
    count, then = done.stdout.splitlines()
    assert int(count) > 12_000_000 and then == "a list of the ids would not fit", done.stderr


# ---- what is saved is what is read, here and by tokenizers

BYTES = {i: bytes([i]) for i in range(256)}
MERGES = [(b"a", b"b"), (b" ", b"t"), (b"h", b"e"), (b" t", b"he"), (b"ab", b"a")]
MERGES += [(b"\xc3", b"\xa9"), (b"\xe9", b"\xa5")]
VOCAB = BYTES | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}
ODD = ["§", "¶", "é", "Ġ", "Ċ", "|", "\n", " ", ".", "a", "ab", "aba", " the", "Ġthe", "the"]
ODD += ["é¥", "<|x|>", "<|x|><|y|>", "<|é|>", "naïve", "中", "🙂", "\0", "\x85", "\ufeff", ""]
ODD += ["\\", "(*)", "[a-z]+", "\r\n", "x" * 1000, "x" * 1001, "\ud800", "__proto__"]
ODD += ["constructor", "0"]
odd_specials = st.lists(st.sampled_from(ODD) | st.text(max_size=3), max_size=5)


def unclear(specials):
    """Whether there can be no tokenizer with these special tokens, or none that a file tells
    from another."""
    tokens = {*VOCAB.values(), *(token.encode("utf-8", "surrogatepass") for token in specials)}
    forms = {printable(token): token for token in tokens}

    def is_unclear(token):
        if not 0 < len(token) <= 1000 or "\ud800" in token:
            return True
        return forms.get(token, token.encode()) != token.encode()

    return any(is_unclear(token) for token in specials)


@given(
    odd_specials,
    st.lists(st.sampled_from(ODD) | hostile, max_size=8),
    st.sampled_from([MERGES, MERGES[:4]]),
)
@settings(max_examples=200, deadline=None)
def test_what_is_saved_is_what_is_read(tmp_path_factory, specials, parts, merges):
    if unclear(specials):
        with pytest.raises(InputError):
            Tokenizer(VOCAB, merges, specials)
        return
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = Tokenizer(VOCAB, merges, specials)
    tokenizer.save_pretrained(folder)
    again = Tokenizer.from_pretrained(folder)
    assert again.vocab == tokenizer.vocab and again.merges == tokenizer.merges
    assert set(again.special_tokens) == set(specials)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ["".join(parts), "".join(reversed(parts)), "".join(specials)]
    for text in [*texts, "ababa the naïve 饥é\n §"]:
        text = "".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs"))
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids == by_arrays(tokenizer, [text])
        assert theirs.encode(text).ids == ids
        assert again.decode(ids) == text


@pytest.mark.parametrize("special", ["§", "é", "Ġ"])
def test_a_special_token_that_looks_like_another_is_refused_before_any_training(
    tmp_path, special
):
    words = f"special token '{special}' is how files write the token .* use another, such as"
    with pytest.raises(InputError, match=words):
        Tokenizer.train(tmp_path / "missing.txt", 300, [special])


def test_a_special_token_of_one_byte_is_that_byte(tmp_path):
    (tmp_path / "text.txt").write_text("some text. to learn from. some text." * 3)
    tokenizer = Tokenizer.train(tmp_path / "text.txt", 262, [".", "<|x|>", "."])
    assert sorted(tokenizer.vocab) == list(range(262))
    assert len(set(tokenizer.vocab.values())) == 262
    assert tokenizer.encode("a.<|x|>") == [97, 46, 261]


@pytest.mark.parametrize(
    "vocab, merges, message",
    [
        (BYTES | {256: b"a"}, [], "ids 97 and 256 .* are both b'a'"),
        (BYTES | {256: b""}, [], "id 256 .* one byte or more"),
        (BYTES | {256: "ab"}, [], "id 256 .* 'ab'"),
        (
            BYTES | {256: b"ab", 257: b"abc"},
            [(b"ab", b"c"), (b"a", b"b")],
            "merge 0 joins .* merge 1 makes one of them",
        ),
        (
            BYTES | {256: b"ab"},
            [(b"a", b"b"), (b"a", b"b")],
            "merge 1 joins b'a' and b'b', as merge 0 does",
        ),
        (BYTES, [(b"a",)], "merge 0 is .* expected two"),
        (BYTES, [("a", "b")], "merge 0 is .* expected two"),
    ],
)
def test_what_makes_no_tokenizer_is_refused(vocab, merges, message):
    with pytest.raises(InputError, match=message):
        Tokenizer(vocab, merges)


def test_ids_of_any_integer_type():
    vocab: Any = {np.int64(i): token for i, token in VOCAB.items()}
    tokenizer = Tokenizer(vocab, MERGES)
    assert tokenizer.decode(np.array([97, 256], np.uint16)) == "aab"
    assert tokenizer.decode(torch.tensor([97, 256])) == "aab"
    assert "".join(tokenizer.decode_iterable(np.array([97, 256]))) == "aab"
    for odd in (97.0, "97", None, float("nan"), 10**30, torch.tensor([97, 98])):
        with pytest.raises(InputError, match="token id .* is not in the vocabulary"):
            tokenizer.decode([odd])


def test_the_tokenizer_that_comes_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stories = Tokenizer.from_pretrained("stories")
    assert stories.end_of_text_id is not None
    assert stories.decode(stories.encode("Once upon a time")) == "Once upon a time"
    Tokenizer(VOCAB, MERGES).save_pretrained("stories")  # a folder of the name wins
    assert Tokenizer.from_pretrained("stories").vocab == VOCAB


# ---- a tokenizer.json is followed, or refused by name

SMALL = Tokenizer(VOCAB, MERGES, [END_OF_TEXT, "<|x|>"])
EVERY_KIND = ["a  ababa the naïve 饥é\n §<|endoftext|> <|x|>the", " the", "", "<|x|>"]
EVERY_KIND += ["<|x|>a <|x|> a<|x|>\n<|x|>"]
EITHER = [True, False]
TEXT_A, TEXT_B = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
TEMPLATE = dict(
    type="TemplateProcessing",
    single=[{"SpecialToken": {"id": "<|x|>", "type_id": 0}}, TEXT_A],
    pair=[TEXT_A, TEXT_B],
    special_tokens={"<|x|>": {"id": "<|x|>", "ids": [264], "tokens": ["<|x|>"]}},
)
METASPACE = dict(type="Metaspace", replacement="▁", prepend_scheme="always", split=True)
PADDING = dict(
    strategy={"Fixed": 9},
    direction="Right",
    pad_to_multiple_of=None,
    pad_id=0,
    pad_type_id=0,
    pad_token="[PAD]",
)
SETTINGS: dict[str, dict[str, list]] = {  # part of the file -> setting -> values to try
    "pre_tokenizer": dict(
        type=["ByteLevel", "Whitespace", None],
        add_prefix_space=EITHER,
        use_regex=EITHER,
        trim_offsets=EITHER,
    ),
    "model": dict(
        type=["BPE", "WordLevel", "Unigram"],
        dropout=[None, 0.0, 0.5],
        unk_token=[None, "<|x|>", "a"],
        continuing_subword_prefix=[None, "", "##"],
        end_of_word_suffix=[None, "", "</w>"],
        fuse_unk=EITHER,
        byte_fallback=EITHER,
        ignore_merges=EITHER,
    ),
    "added_tokens": dict(
        single_word=EITHER,
        lstrip=EITHER,
        rstrip=EITHER,
        normalized=EITHER,
        special=EITHER,
        id=[5, 300],
        content=["<|y|>", "a", "é", "ab", "Ġthe", ""],
    ),
    "": dict(
        version=["1.0", "2.0"],
        normalizer=[
            None,
            dict(type="NFC"),
            dict(type="Lowercase"),
            dict(type="Prepend", prepend="▁"),
        ],
        truncation=[
            None,
            dict(direction="Right", max_length=3, strategy="LongestFirst", stride=0),
        ],
        padding=[None, PADDING],
        pre_tokenizer=[
            None,
            dict(type="Whitespace"),
            dict(type="Sequence", pretokenizers=[]),
        ],
        post_processor=[
            None,
            dict(type="ByteLevel", add_prefix_space=True, trim_offsets=False, use_regex=True),
            dict(type="BertProcessing", sep=["<|x|>", 264], cls=["<|x|>", 264]),
            TEMPLATE,
        ],
        decoder=[None, dict(type="BPEDecoder", suffix="</w>"), METASPACE],
    ),
}
change = st.sampled_from(
    [
        (part, name, value)
        for part, names in SETTINGS.items()
        for name, values in names.items()
        for value in values
    ]
)


def their_ids(path, texts):
    "What `tokenizers` makes of a tokenizer.json; None if it does not read it."
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path))
        return [theirs.encode(text).ids for text in texts]
    except Exception:
        return None


def check_reading(folder, names=("",)):
    """Read here, it must be what `tokenizers` reads, or a sentence with one of these names.

    True if it was read."""
    try:
        ours = Tokenizer.from_pretrained(folder)
    except InputError as error:
        words = str(error)
        assert "tokenizer.json" in words and any(name in words for name in names), words
        assert "\n" not in words and len(words) < 600, words
        return False
    found = [ours.encode(text) for text in EVERY_KIND]
    expected = their_ids(folder / "tokenizer.json", EVERY_KIND)
    assert expected is None or found == expected
    assert [ours.decode(ids) for ids in found] == EVERY_KIND
    return True


@given(st.lists(change, min_size=1, max_size=3), st.integers(0, 1))
@settings(max_examples=300, deadline=None)
def test_settings_are_followed_or_refused_by_name(tmp_path_factory, changes, which):
    folder = tmp_path_factory.mktemp("settings")
    data = as_json(SMALL, folder)
    for part, name, value in changes:
        place = {"": data, "added_tokens": data["added_tokens"][which]}.get(
            part, data.get(part)
        )
        if place is not None:
            place[name] = value
    (folder / "tokenizer.json").write_text(json.dumps(data))
    names = [name for _, name, _ in changes if name not in ("id", "content")]
    check_reading(folder, [*names, "added token", "special"])


@pytest.mark.parametrize(
    "part, name, value",
    [
        ("pre_tokenizer", "add_prefix_space", True),
        ("pre_tokenizer", "use_regex", False),
        ("model", "ignore_merges", True),
        ("model", "dropout", 0.1),
        ("model", "byte_fallback", True),
        ("model", "fuse_unk", True),
        ("model", "continuing_subword_prefix", "##"),
        ("model", "end_of_word_suffix", "</w>"),
        ("", "truncation", {"max_length": 3}),
        ("", "padding", {"pad_id": 0}),
        ("", "normalizer", {"type": "NFC"}),
        ("", "a_setting_of_next_year", 1),
        ("post_processor", "type", "TemplateProcessing"),
        ("decoder", "type", "Metaspace"),
        ("added_tokens", "lstrip", True),
        ("added_tokens", "rstrip", True),
        ("added_tokens", "single_word", True),
        ("added_tokens", "normalized", True),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(tmp_path, part, name, value):
    data = as_json(SMALL, tmp_path)
    data["post_processor"] = dict(data["decoder"])
    assert json.dumps(data) and Tokenizer.from_pretrained(tmp_path)
    place = {"": data, "added_tokens": data["added_tokens"][1]}.get(part, data.get(part))
    place[name] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"tokenizer.json: .*{name}"):
        Tokenizer.from_pretrained(tmp_path)


def test_older_layouts_are_read(tmp_path):
    "GPT-2's own file names no model type, and has its merges as texts."
    data = as_json(SMALL, tmp_path)
    del data["model"]["type"], data["pre_tokenizer"]["use_regex"]
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["model"] |= dict(continuing_subword_prefix="", end_of_word_suffix="")
    data["post_processor"] = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=False)
    for token in data["added_tokens"]:
        token["normalized"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert check_reading(tmp_path)


ODD_VALUES = [None, True, False, 0, -1, 5, 97.0, 2.5, 10**8, 10**30, "", "a", "é", "\ud800"]
ODD_VALUES += ["\0", [], {}, [[]], ["a", "b"], {"a": 1}, "Ġ" * 50]
ODD_KEYS = ["a", "é", "", "Ġthe", "<|x|>", "中", "type", "x" * 2000]


def places(value, path=()):
    "The paths of everything inside a JSON value."
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def broken(text, rng):
    "The bytes of a JSON file, cut, changed, doubled or in another encoding."
    at = rng.randrange(len(text))
    return rng.choice(
        [
            text[:at],
            text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :],
            text[:at] + b'"' + text[at:],
            text.decode().encode("utf-16"),
            b"\xef\xbb\xbf" + text,
            b"[" * 100_000,
            text + b"}",
            b"",
            b"null",
            text.replace(b"1.0", b"NaN", 1),
        ]
    )


def mutated(data, rng):
    """A JSON value with one thing changed, removed, doubled or moved, as the bytes of a file;
    or broken bytes."""
    kind = rng.choice(["value", "value", "value", "remove", "copy", "swap", "key", "bytes"])
    if kind == "bytes":
        return broken(json.dumps(data).encode(), rng)
    data = copy.deepcopy(data)
    # as often at the top as among the many tokens
    depth = rng.choice([1, 2, 2, 3, 3, 4])
    path = rng.choice([path for path in places(data) if 1 <= len(path) <= depth])
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    last = path[-1]
    if kind == "remove":
        del parent[last]
    elif kind == "swap":
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[last], parent[other] = parent[other], parent[last]
    elif kind == "copy" and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[last]))
    elif kind == "key" and isinstance(parent, dict):
        parent[rng.choice(ODD_KEYS)] = parent.pop(last)
    else:
        parent[last] = rng.choice(ODD_VALUES)
    return json.dumps(data).encode()


def test_five_hundred_mutations_of_a_file(tmp_path):
    rng, plain, read = random.Random(0), as_json(SMALL, tmp_path), 0
    for _ in range(500):
        (tmp_path / "tokenizer.json").write_bytes(mutated(plain, rng))
        read += check_reading(tmp_path)
    assert 20 < read < 400, "the mutations must be neither all harmless nor all fatal"


def test_mutations_of_gpt2_files(tokenizer, tmp_path):
    gpt2_files(tokenizer, tmp_path)
    vocab_path, merges_path = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab, merges = json.loads(vocab_path.read_text()), merges_path.read_bytes()
    rng = random.Random(1)
    for i in range(100):
        vocab_path.write_text(json.dumps(vocab))
        merges_path.write_bytes(merges)
        at = rng.randrange(len(merges))
        if i % 2:
            vocab_path.write_bytes(mutated(vocab, rng))
        else:
            piece = rng.choice([b"", b" ", b"\n", b"\xff", b"a b\n"])
            merges_path.write_bytes(merges[:at] + piece + merges[at + 1 :])
        try:
            found = Tokenizer.from_files(vocab_path, merges_path)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
        else:
            assert found.decode(found.encode(TEXT)) == TEXT


def test_imports_no_torch():
    code = "import sys, lm336.tokenizer; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
