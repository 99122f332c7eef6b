"BPE in plain Python: against the textbook, against tiktoken, on hostile input."

import random
from collections import Counter

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.bpe import (
    PRETOKEN_PATTERN,
    count_pretokens,
    decode_ids,
    encode_pretoken,
    learn_merges,
    pretokenize,
    special_regex,
    train_bpe,
)
from lm336.errors import END_OF_TEXT, InputError
from lm336.fast_bpe import encode_long_pretoken, fast_learn_merges, fast_train_bpe

# strings in which apostrophes, spaces, newlines and special tokens meet at every boundary
atoms = st.sampled_from(
    ["'", "'s", "'l", "'ll", "'v", "'ve", "'re", "S", "l", "e", "a", "é", "中", "🙂", "\u0301"]
    + ["1", "²", " ", "  ", "\n", "\r", "\r\n", "\t", "\u00a0", "\u2003", "\u200d", "\x00"]
    + ["\x1c", "\x85", "!", "<", "|>", "<|", END_OF_TEXT, "<|endoftext|", "<|a|>"]
    + ["<|a|><|b|>"]
)
hostile = st.lists(atoms, max_size=30).map("".join) | st.text(max_size=40)
special_sets = st.sampled_from(
    [
        [],
        [END_OF_TEXT],
        [END_OF_TEXT, "<|a|>", "<|a|><|b|>"],
        ["ab", "bcd", "c "],
        [" ", "'l"],
        ["中", "é🙂", "\n"],
    ]
)
long_words = st.builds(lambda part, times: part * times, hostile, st.integers(1, 40))
both_trainers = pytest.mark.parametrize("train", [train_bpe, fast_train_bpe])
both_learners = pytest.mark.parametrize("learn", [learn_merges, fast_learn_merges])
both_encoders = pytest.mark.parametrize("encode", [encode_pretoken, encode_long_pretoken])


def plain_split(text, special_tokens):
    "Cut at special tokens, the longest at the leftmost place, and the regex between them."
    pieces = []
    start = i = 0
    while i < len(text):
        beginning = [token for token in special_tokens if text.startswith(token, i)]
        if beginning:
            found = max(beginning, key=len)
            pieces += [*regex.findall(PRETOKEN_PATTERN, text[start:i]), found]
            start = i = i + len(found)
        else:
            i += 1
    return pieces + regex.findall(PRETOKEN_PATTERN, text[start:])


def merged(word, best):
    "A word, as a tuple of tokens, with one pair replaced."
    out = []
    i = 0
    while i < len(word):
        two = word[i : i + 2] == best
        out.append(b"".join(best) if two else word[i])
        i += 1 + two
    return tuple(out)


def textbook_merges(texts, num_merges):
    "Textbook BPE: everything is counted anew after each merge."
    pieces = [piece for text in texts for piece in regex.findall(PRETOKEN_PATTERN, text)]
    words = Counter(tuple(bytes([b]) for b in piece.encode()) for piece in pieces)
    merges = []
    while len(merges) < num_merges:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        after = Counter()
        for word, count in words.items():
            after[merged(word, merges[-1])] += count
        words = after
    return merges


@given(hostile)
def test_pretokens_are_the_text(text):
    assert "".join(pretokenize(text)) == text


@given(hostile, special_sets)
@settings(max_examples=300, deadline=None)
def test_the_counts_are_those_of_the_pieces(text, special_tokens):
    pieces = plain_split(text, special_tokens)
    expected = Counter(piece.encode() for piece in pieces if piece not in special_tokens)
    assert count_pretokens(text, special_tokens) == expected


@both_trainers
@given(texts=st.lists(hostile, min_size=1, max_size=5), num_merges=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_train_equals_the_textbook(tmp_path_factory, train, texts, num_merges):
    texts = [text.replace(END_OF_TEXT, "") for text in texts]
    path = tmp_path_factory.mktemp("bpe") / "text.txt"
    path.write_bytes(END_OF_TEXT.join(texts).encode())
    if not any(texts):
        return
    vocab, merges = train(path, 257 + num_merges, [END_OF_TEXT])
    assert merges == textbook_merges(texts, num_merges)
    tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in merges]
    assert vocab == dict(enumerate([*tokens, END_OF_TEXT.encode()]))


@given(
    st.lists(hostile | long_words, min_size=1, max_size=8), special_sets, st.integers(0, 300)
)
@settings(max_examples=200, deadline=None)
def test_the_fast_trainer_equals_the_plain_one(
    tmp_path_factory, texts, special_tokens, num_merges
):
    "Whatever the special tokens, however long the words."
    path = tmp_path_factory.mktemp("bpe") / "text.txt"
    path.write_bytes("".join(texts).encode())
    try:
        expected = train_bpe(path, 260 + num_merges, special_tokens)
    except InputError as error:
        with pytest.raises(InputError, match="has no text to learn from") as fast:
            fast_train_bpe(path, 260 + num_merges, special_tokens)
        assert str(fast.value) == str(error)
    else:
        assert fast_train_bpe(path, 260 + num_merges, special_tokens) == expected


@given(
    st.dictionaries(
        st.lists(st.sampled_from(b"aab\xc3"), min_size=1, max_size=30).map(bytes),
        st.integers(1, 4),
        max_size=12,
    )
)
@settings(max_examples=200, deadline=None)
def test_ties_and_runs_are_the_same_fast_and_plain(words):
    assert fast_learn_merges(words, 60) == learn_merges(words, 60)


@both_learners
def test_ties_go_to_the_greater_pair(learn):
    assert learn({b"ab": 2, b"ba": 2, b"bb": 1}, 1) == [(b"b", b"a")]
    assert learn({b"ab": 1, b"a\xff": 1}, 1) == [(b"a", b"\xff")]
    # (a, bc) < (ab, c), although the joined bytes are the same
    words = {b"bc": 9, b"ab": 8, b"xbc": 1, b"xab": 1, b"abq": 1}
    assert learn(words, 3)[0] == (b"b", b"c")


@both_trainers
def test_special_tokens_are_boundaries_without_counts(tmp_path, train):
    path = tmp_path / "text.txt"
    path.write_text(END_OF_TEXT.join(["ab"] * 3 + ["xy"] * 5) + END_OF_TEXT)
    vocab, merges = train(path, 1000, [END_OF_TEXT])
    assert merges == [(b"x", b"y"), (b"a", b"b")]
    assert vocab[258] == END_OF_TEXT.encode() and len(vocab) == 259


@both_trainers
@pytest.mark.parametrize(
    "size, specials, message",
    [
        (255, [], "at least 256"),
        (256, [END_OF_TEXT], "at least 257"),
        (300, [""], "empty"),
        (300, END_OF_TEXT, "give a list"),
        (300, ["x" * 1001], "1,001 characters; at most 1,000"),
        (300, ["a\ud800"], "half a character"),
        (300, [5], "contains 5; give non-empty strings"),
        (300, [None], "contains None; give non-empty strings"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, train, size, specials, message):
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(InputError, match=message) as error:
        train(tmp_path / "text.txt", size, specials)
    assert len(str(error.value)) < 200


@both_trainers
def test_more_may_be_asked_for_than_a_text_can_give(tmp_path, train):
    (tmp_path / "text.txt").write_text("ab ab")
    vocab, merges = train(tmp_path / "text.txt", 10**13, ["\n", "<|x|>"])
    assert merges == [(b"a", b"b"), (b" ", b"ab")]
    assert list(vocab.values())[256:] == [b"ab", b" ab", b"<|x|>"]


@both_trainers
def test_bad_files_are_refused(tmp_path, train):
    with pytest.raises(FileNotFoundError, match="missing.txt does not exist"):
        train(tmp_path / "missing.txt", 300)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="empty.txt has no text"):
        train(tmp_path / "empty.txt", 300)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(InputError, match="latin.txt is not UTF-8"):
        train(tmp_path / "latin.txt", 300)


def test_the_longest_special_token_is_found():
    found = special_regex(["<|a|>", "<|a|><|b|>"]).findall("<|a|><|b|><|a|>")
    assert found == ["<|a|><|b|>", "<|a|>"]


# ---- encode and decode


@pytest.fixture(scope="module")
def learned():
    "A vocabulary, the ranks of its merges, and tiktoken's encoder of one long pre-token."
    rng = random.Random(0)
    lengths = [rng.randint(2, 9) for _ in range(300)]
    words = Counter(bytes(rng.choices(b"ab =\xc3\xa9", k=length)) for length in lengths)
    merges = learn_merges(words, 120)
    tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in merges]
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=r"(?s).+",
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={},
    )
    return dict(enumerate(tokens)), {pair: rank for rank, pair in enumerate(merges)}, theirs


@both_encoders
@given(text=st.text(alphabet="ab =é", min_size=1, max_size=80))
@settings(max_examples=300, deadline=None)
def test_a_pretoken_has_the_tokens_of_tiktoken(learned, encode, text):
    vocab, ranks, theirs = learned
    found = encode(text.encode(), ranks)
    assert found == [vocab[i] for i in theirs.encode_ordinary(text)]


def test_a_long_pretoken_is_not_quadratic(learned):
    vocab, ranks, theirs = learned
    text = "ab= é" * 40_000
    found = encode_long_pretoken(text.encode(), ranks)
    assert found == [vocab[i] for i in theirs.encode_ordinary(text)]


@given(st.lists(st.integers(0, 375), max_size=30))
def test_any_ids_decode(learned, ids):
    vocab, *_ = learned
    expected = b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace")
    assert decode_ids(ids, vocab) == expected
