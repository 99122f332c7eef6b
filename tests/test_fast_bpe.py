"BPE on whole arrays: pre-tokens, blocks, counts, helper processes, the encoder."

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from unittest import mock

import numpy as np
import psutil
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.bpe import PRETOKEN_PATTERN, count_pretokens
from lm336.errors import END_OF_TEXT, InputError
from lm336.fast_bpe import (
    ArrayEncoder,
    KeyIndex,
    PretokenCounts,
    fast_count_pretokens,
    find_pretokens,
    special_bytes_regex,
    text_blocks,
    token_dtype,
)
from lm336.tokenizer import Tokenizer

from .test_bpe import hostile, long_words, plain_split, special_sets


def arithmetic_split(text, special_tokens=()):
    "Our pieces, found without the regex."
    data = text.encode()
    starts = find_pretokens(data, special_bytes_regex(special_tokens)).tolist()
    return [data[a:b].decode() for a, b in zip(starts, [*starts[1:], len(data)])]


@given(hostile, special_sets)
@settings(max_examples=500, deadline=None)
def test_arithmetic_equals_the_regex(text, special_tokens):
    assert arithmetic_split(text, special_tokens) == plain_split(text, special_tokens)


@given(st.text(alphabet="'sdmtlvreSa1 \n!\u00a0é", max_size=60))
@settings(max_examples=500, deadline=None)
def test_contractions_at_every_boundary(text):
    assert arithmetic_split(text) == plain_split(text, [])


def test_every_character_has_the_class_of_the_regex():
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    some = characters[::7] + characters[:0x3100]
    text = "".join(f"a{c} {c}1{c}\n{c}" for c in some)
    assert arithmetic_split(text) == regex.findall(PRETOKEN_PATTERN, text)


@given(hostile, special_sets, st.data())
@settings(max_examples=300, deadline=None)
def test_blocks_of_any_size_have_the_pieces_of_the_whole(text, special_tokens, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    blocks = list(text_blocks(chunks, special_tokens, data.draw(st.integers(1, 40))))
    assert b"".join(blocks).decode() == text
    pieces = [arithmetic_split(block.decode(), special_tokens) for block in blocks]
    assert sum(pieces, []) == plain_split(text, special_tokens)


def test_blocks_are_about_as_large_as_asked():
    text = "a word and another " * 10_000
    sizes = [len(block) for block in text_blocks([text], [END_OF_TEXT], 5000)]
    assert max(sizes) < 5100 and len(sizes) < 45
    no_white_space = text_blocks(["中文,中文。" * 1000] * 3, [], 600)
    assert max(len(block) for block in no_white_space) < 4000


keys = st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1))


@given(st.lists(keys, max_size=200), st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_key_index_is_a_dictionary(keys, bits):
    index, numbers = KeyIndex(bits), {}
    for part in (keys[:50], keys[50:], keys):
        first, second = np.array(part, np.uint64).reshape(-1, 2).T
        found = index.lookup(first, second, add=True)
        for key, number in zip(part, found.tolist()):
            assert numbers.setdefault(key, number) == number
    assert sorted(numbers.values()) == list(range(len(numbers)))
    assert index.count == len(numbers)


@given(st.lists(hostile | long_words, max_size=5), special_sets, st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_block_sizes_change_nothing(texts, special_tokens, size):
    text = END_OF_TEXT.join(texts)
    counts = PretokenCounts()
    counts.add_blocks(text_blocks([text], special_tokens, size), special_tokens)
    for token in special_tokens:
        counts.discard(token.encode())
    assert counts.to_counter() == count_pretokens(text, special_tokens)


@given(hostile | long_words, hostile | long_words)
@settings(max_examples=150, deadline=None)
def test_two_counts_are_added_word_by_word(one, other):
    first, second = PretokenCounts(), PretokenCounts()
    first.add_blocks([one.encode()], [])
    second.add_blocks([other.encode()], [])
    first.update(second)
    expected = count_pretokens(one) + count_pretokens(other)
    assert first.to_counter() == expected
    flat, lengths, counts = first.to_arrays()
    words = [flat.tobytes()[end - size : end] for size, end in ends(lengths)]
    assert dict(zip(words, counts.tolist())) == expected


def ends(lengths):
    "(length, end) of words that have a zero byte behind each."
    return zip(lengths.tolist(), (np.cumsum(lengths + 1) - 1).tolist())


def test_words_that_look_alike_are_different(tmp_path):
    words = [b"a", b"a\0", b"a\0\0", b"\0", b"\0\0", b"\0" * 8, b"\0" * 9, b"\0" * 15]
    words += [b"\0" * 16, b"\0" * 17, b"abcdefgh", b"abcdefghi"]
    (tmp_path / "text.txt").write_bytes(END_OF_TEXT.encode().join(words * 3))
    counts = fast_count_pretokens(tmp_path / "text.txt", [END_OF_TEXT]).to_counter()
    text = (tmp_path / "text.txt").read_text()
    assert counts == count_pretokens(text, [END_OF_TEXT])
    assert counts[b"a"] == 9 and counts[b"\0" * 16] == counts[b"\0" * 17] == 3


# ---- helpers

HARD = ["'", "'s", "'ll", "'ve", "S", "l", "a", "é", "中", "🙂", "\u0301", "1", "²", " ", "  "]
HARD += ["\n", "\r\n", "\t", "\u00a0", "\u2003", "\x00", "\x85", "!", "<|"]


@pytest.fixture(scope="module")
def long_text(tmp_path_factory):
    "Enough text for helpers to start: (path, special tokens, the counts of its pre-tokens)."
    rng, specials = random.Random(0), [END_OF_TEXT, "<|a|>"]
    part = "".join(rng.choice(HARD + specials) for _ in range(30_000))
    part += " incomprehensibilities of a thunderstorm " + "x" * 300 + "\n"
    times = 14_000_000 // len(part.encode())
    path = tmp_path_factory.mktemp("long") / "text.txt"
    path.write_bytes(part.encode() * times)
    pieces = plain_split(part, specials)
    assert plain_split(part * 2, specials) == pieces * 2
    counts = Counter(piece.encode() for piece in pieces if piece not in specials)
    return path, specials, {word: times * count for word, count in counts.items()}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_change_nothing(long_text, num_workers):
    path, special_tokens, expected = long_text
    counts = fast_count_pretokens(path, special_tokens, num_workers)
    assert counts.to_counter() == expected


@pytest.mark.skipif(os.name != "posix", reason="their size can be chosen on Linux alone")
def test_pipes_may_be_as_small_as_the_system_wants_them(long_text):
    path, special_tokens, expected = long_text
    no_room = PermissionError("this user has no more room for pipes")
    with mock.patch("fcntl.fcntl", side_effect=no_room):
        assert fast_count_pretokens(path, special_tokens, 2).to_counter() == expected


def test_an_error_late_in_the_text_stops_the_helpers(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"fine words " * 1_200_000 + b"\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 13,200,000"):
        fast_count_pretokens(tmp_path / "text.txt", (), 2)


def test_a_helper_that_dies_is_reported(long_text):
    refused = pytest.raises(ChildProcessError, match="has died.*num_workers=1")
    with mock.patch.object(sys, "executable", shutil.which("false")), refused:
        fast_count_pretokens(long_text[0], (), 2)


@pytest.mark.parametrize("num_workers", [0, -1])
def test_nobody_cannot_do_the_work(long_text, num_workers):
    with pytest.raises(InputError, match=f"num_workers is {num_workers}"):
        fast_count_pretokens(long_text[0], (), num_workers)


ENDLESS = """
import lm336.fast_bpe

def endless(path):
    while True:
        yield "a word and another " * 10_000

lm336.fast_bpe.read_text = endless
print("begun", flush=True)
try:
    lm336.fast_bpe.fast_count_pretokens("a text without end", (), 3)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def begin_endless_work(**options):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", ENDLESS], text=True, **pipes, **options)


def helpers_at_work(work):
    "The two helpers of a process, once each has computed for a while."
    while True:
        helpers = psutil.Process(work.pid).children()
        if len(helpers) == 2 and all(helper.cpu_times().user >= 1 for helper in helpers):
            return helpers
        assert work.poll() is None
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C goes to a group of processes")
def test_ctrl_c_stops_all_and_says_nothing():
    work = begin_endless_work(start_new_session=True)
    try:
        assert work.stdout is not None and work.stdout.readline() == "begun\n"
        helpers = helpers_at_work(work)
        os.killpg(work.pid, signal.SIGINT)
        assert work.communicate(timeout=100) == ("stopped\n", "")
    finally:
        work.kill()
    assert psutil.wait_procs(helpers, timeout=100)[1] == []


def test_helpers_end_when_they_are_left_alone():
    work = begin_endless_work()
    try:
        helpers = helpers_at_work(work)
    finally:
        work.kill()
    assert work.communicate(timeout=100)[1] == ""  # the helpers hold it open until they end
    assert psutil.wait_procs(helpers, timeout=100)[1] == []


# ---- the encoder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "text.txt"
    text = "I'll say we've seen the naïve dog's café 中文中文 🙂🙂 they're\n\n 100 1000\t" * 3
    path.write_text(text + "the internationalisation of internationalisations" * 5)
    return Tokenizer.train(path, 400, [END_OF_TEXT, "<|a|>", "<|a|><|b|>"])


def fresh_encoder(tokenizer):
    return ArrayEncoder(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens)


def all_ids(arrays):
    return [i for ids in arrays for i in ids.tolist()]


@given(st.lists(hostile | long_words, max_size=4))
@settings(max_examples=300, deadline=None)
def test_arrays_have_the_ids_of_the_stream(tokenizer, texts):
    text = "".join(texts)
    expected = list(tokenizer.encode_iterable([text]))
    encoder = fresh_encoder(tokenizer)
    assert all_ids(encoder.encode_blocks(texts)) == expected
    assert all_ids(encoder.encode_blocks([text])) == expected  # now from memory


def test_threads_may_share_an_encoder(tokenizer):
    rng, encoder, found = random.Random(0), fresh_encoder(tokenizer), {}
    texts = ["".join(rng.choices(HARD, k=20_000)) for _ in range(8)]

    def encode(i):
        found[i] = all_ids(encoder.encode_blocks([texts[i]]))

    threads = [threading.Thread(target=encode, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {i: list(tokenizer.encode_iterable([text])) for i, text in enumerate(texts)}
    assert found == expected


def test_dtype_by_vocabulary():
    assert token_dtype(65_536) == np.uint16 and token_dtype(65_537) == np.uint32
    vocab = {i: bytes([i]) for i in range(256)}
    vocab |= {256 + i: b"<%d>" % i for i in range(65_281)}
    assert token_dtype(Tokenizer(vocab, []).vocab_size) == np.uint32
