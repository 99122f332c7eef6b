"BPE: the reference in its plainest form against ours, on hostile input."
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from unittest import mock

import numpy as np
import psutil
import pytest
import regex
from hypothesis import given, settings, strategies as st

from lm336.bpe import (KeyIndex, PRETOKEN_PATTERN, PretokenCounts, count_pretokens, find_pretokens, learn_merges, pretokenize, special_regex,
                       text_blocks, train_bpe)
from lm336.errors import END_OF_TEXT, InputError

# strings in which apostrophes, spaces, newlines and special tokens meet at every boundary
atoms = st.sampled_from(["'", "'s", "'l", "'ll", "'v", "'ve", "'re", "S", "l", "e", "a", "é", "中", "🙂", "\u0301", "1", "²", " ", "  ",
                         "\n", "\r", "\r\n", "\t", "\u00a0", "\u2003", "\u200d", "\x00", "\x1c", "\x85", "!", "<", "|>", "<|", END_OF_TEXT,
                         "<|endoftext|", "<|a|>", "<|a|><|b|>"])
hostile = st.lists(atoms, max_size=30).map("".join) | st.text(max_size=40)
special_sets = st.sampled_from([[], [END_OF_TEXT], [END_OF_TEXT, "<|a|>", "<|a|><|b|>"], ["ab", "bcd", "c "], [" ", "'l"], ["中", "é🙂", "\n"]])


def plain_split(text, special_tokens):
    "Cut at special tokens, the longest at the leftmost place, and the regex on what is between."
    pieces, start, i = [], 0, 0
    while i < len(text):
        found = max((t for t in special_tokens if text.startswith(t, i)), key=len, default=None)
        if found:
            pieces += regex.findall(PRETOKEN_PATTERN, text[start:i]) + [found]
            start = i = i + len(found)
        else: i += 1
    return pieces + regex.findall(PRETOKEN_PATTERN, text[start:])


def arithmetic_split(text, special_tokens=()):
    "Our pieces, found without the regex."
    data = text.encode()
    starts = find_pretokens(data, special_regex(special_tokens, bytes)).tolist()
    return [data[a:b].decode() for a, b in zip(starts, [*starts[1:], len(data)])]


def plain_train(texts, num_merges):
    "Textbook BPE: everything is recounted after each merge."
    words = Counter(tuple(bytes([b]) for b in p.encode()) for text in texts for p in regex.findall(PRETOKEN_PATTERN, text))
    merges = []
    while len(merges) < num_merges:
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]): pairs[pair] += n
        if not pairs: break
        best = max(pairs.items(), key=lambda item: (item[1], item[0]))[0]
        merges.append(best)
        merged = Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                two = word[i:i + 2] == best
                out.append(b"".join(best) if two else word[i])
                i += 1 + two
            merged[tuple(out)] += n
        words = merged
    return merges


@given(hostile)
def test_pretokens_are_the_text(text): assert "".join(pretokenize(text)) == text


@given(hostile, special_sets)
@settings(max_examples=500, deadline=None)
def test_arithmetic_equals_the_regex(text, special_tokens):
    assert arithmetic_split(text, special_tokens) == plain_split(text, special_tokens)


@given(st.text(alphabet="'sdmtlvreSa1 \n!\u00a0é", max_size=60))
@settings(max_examples=500, deadline=None)
def test_contractions_at_every_boundary(text): assert arithmetic_split(text) == plain_split(text, [])


def test_every_character_has_the_class_of_the_regex():
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    text = "".join(f"a{c} {c}1{c}\n{c}" for c in characters[::7] + characters[:0x3100])
    assert arithmetic_split(text) == regex.findall(PRETOKEN_PATTERN, text)


@given(hostile, special_sets, st.data())
@settings(max_examples=300, deadline=None)
def test_blocks_of_any_size_have_the_pieces_of_the_whole(text, special_tokens, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    blocks = list(text_blocks(chunks, special_tokens, data.draw(st.integers(1, 40))))
    assert b"".join(blocks).decode() == text
    assert [piece for block in blocks for piece in arithmetic_split(block.decode(), special_tokens)] == plain_split(text, special_tokens)


def test_blocks_are_about_as_large_as_asked():
    sizes = [len(block) for block in text_blocks(["a word and another " * 10_000], [END_OF_TEXT], 5000)]
    assert max(sizes) < 5100 and len(sizes) < 45
    assert max(len(block) for block in text_blocks(["中文,中文。" * 1000] * 3, [], 600)) < 4000  # no white space at all


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1)), max_size=200), st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_key_index_is_a_dictionary(keys, bits):
    index, numbers = KeyIndex(bits), {}
    for part in (keys[:50], keys[50:], keys):
        first, second = np.array(part, np.uint64).reshape(-1, 2).T
        found = index.find(first, second, add=True)
        for key, number in zip(part, found.tolist()): assert numbers.setdefault(key, number) == number
    assert sorted(numbers.values()) == list(range(len(numbers))) and index.count == len(numbers)


@given(st.lists(hostile, min_size=1, max_size=5), special_sets, st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_block_sizes_change_nothing(texts, special_tokens, size):
    text = END_OF_TEXT.join(texts)
    expected = Counter(piece.encode() for piece in plain_split(text, special_tokens) if piece not in special_tokens)
    counts = PretokenCounts()
    counts.add_blocks(text_blocks([text], special_tokens, size), special_tokens)
    for token in special_tokens: counts.discard(token.encode())
    assert counts.counter() == expected


HARD = ["'", "'s", "'ll", "'ve", "S", "l", "a", "é", "中", "🙂", "\u0301", "1", "²", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\x00", "\x85", "!", "<|"]


@pytest.fixture(scope="module")
def long_text(tmp_path_factory):
    "Enough text for helpers to start: (path, special tokens, the counts of its pre-tokens)."
    rng, specials = random.Random(0), [END_OF_TEXT, "<|a|>"]
    part = "".join(rng.choice(HARD + specials) for _ in range(30_000)) + " incomprehensibilities of a thunderstorm " + "x" * 300 + "\n"
    times = 14_000_000 // len(part.encode())
    path = tmp_path_factory.mktemp("long") / "text.txt"
    path.write_bytes(part.encode() * times)
    pieces = plain_split(part, specials)
    assert plain_split(part * 2, specials) == pieces * 2
    return path, specials, Counter({piece.encode(): times * n for piece, n in Counter(pieces).items() if piece not in specials})


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_change_nothing(long_text, num_workers):
    path, special_tokens, expected = long_text
    assert count_pretokens(path, special_tokens, num_workers).counter() == expected


@pytest.mark.skipif(os.name != "posix", reason="their size can be chosen on Linux alone")
def test_pipes_may_be_as_small_as_the_system_wants_them(long_text):
    path, special_tokens, expected = long_text
    with mock.patch("fcntl.fcntl", side_effect=PermissionError("this user has no more room for pipes")):
        assert count_pretokens(path, special_tokens, 2).counter() == expected


def test_an_error_late_in_the_text_stops_the_helpers(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"fine words " * 1_200_000 + b"\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 13,200,000"): count_pretokens(tmp_path / "text.txt", (), 2)


def test_a_helper_that_dies_is_reported(long_text):
    with mock.patch.object(sys, "executable", shutil.which("false")):
        with pytest.raises(ChildProcessError, match="has died.*num_workers=1"): count_pretokens(long_text[0], (), 2)


@pytest.mark.parametrize("num_workers", [0, -1])
def test_nobody_cannot_do_the_work(long_text, num_workers):
    with pytest.raises(InputError, match=f"num_workers is {num_workers}"): count_pretokens(long_text[0], (), num_workers)


ENDLESS = """
import lm336.bpe
def endless(path):
    while True: yield "a word and another " * 10_000
lm336.bpe.read_text = endless
print("begun", flush=True)
try: lm336.bpe.count_pretokens("a text without end", (), 3)
except KeyboardInterrupt: print("stopped", flush=True)
"""


def helpers_at_work(work):
    "The two helpers of a process, once each has computed for a while."
    while len(helpers := psutil.Process(work.pid).children()) < 2 or any(helper.cpu_times().user < 1 for helper in helpers):
        assert work.poll() is None
        time.sleep(0.05)
    return helpers


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C goes to a group of processes")
def test_ctrl_c_stops_all_and_says_nothing():
    work = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert work.stdout.readline() == "begun\n"
        helpers = helpers_at_work(work)
        os.killpg(work.pid, signal.SIGINT)
        assert work.communicate(timeout=100) == ("stopped\n", "")
    finally:
        work.kill()
    assert psutil.wait_procs(helpers, timeout=100)[1] == []


def test_helpers_end_when_they_are_left_alone():
    work = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        helpers = helpers_at_work(work)
    finally:
        work.kill()
    assert work.communicate(timeout=100)[1] == ""  # the helpers hold it open until they end
    assert psutil.wait_procs(helpers, timeout=100)[1] == []


def test_words_that_look_alike_are_different(tmp_path):
    words = [b"a", b"a\0", b"a\0\0", b"\0", b"\0\0", b"\0" * 8, b"\0" * 9, b"\0" * 15, b"\0" * 16, b"\0" * 17, b"abcdefgh", b"abcdefghi"]
    (tmp_path / "text.txt").write_bytes(b"<|endoftext|>".join(words * 3))
    counts = count_pretokens(tmp_path / "text.txt", [END_OF_TEXT]).counter()
    assert counts == {**{word: 3 for word in words if b"a" not in word or b"\0" not in word}, b"a": 9, b"\0": 6, b"\0\0": 6}


@given(st.lists(hostile, min_size=1, max_size=5), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_train_equals_the_textbook(tmp_path_factory, texts, num_merges):
    texts = [text.replace(END_OF_TEXT, "") for text in texts]
    path = tmp_path_factory.mktemp("bpe") / "text.txt"
    path.write_bytes(END_OF_TEXT.join(texts).encode())
    if not any(texts): return
    vocab, merges = train_bpe(path, 257 + num_merges, [END_OF_TEXT])
    assert merges == plain_train(texts, num_merges)
    expected = [bytes([b]) for b in range(256)] + [a + b for a, b in merges] + [END_OF_TEXT.encode()]
    assert vocab == dict(enumerate(expected))


def test_ties_go_to_the_greater_pair():
    assert learn_merges({b"ab": 2, b"ba": 2, b"bb": 1}, 1) == [(b"b", b"a")]
    assert learn_merges({b"ab": 1, b"a\xff": 1}, 1) == [(b"a", b"\xff")]
    # bytes of the pair as a pair: (a, bc) < (ab, c) although the joined bytes are the same length
    assert learn_merges({b"bc": 9, b"ab": 8, b"xbc": 1, b"xab": 1, b"abq": 1}, 3)[0] == (b"b", b"c")


def test_special_tokens_are_boundaries_without_counts(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>".join(["ab"] * 3 + ["xy"] * 5) + "<|endoftext|>")
    assert count_pretokens(path, [END_OF_TEXT]).counter() == {b"ab": 3, b"xy": 5}
    vocab, merges = train_bpe(path, 1000, [END_OF_TEXT])
    assert merges == [(b"x", b"y"), (b"a", b"b")]
    assert vocab[258] == END_OF_TEXT.encode() and len(vocab) == 259


@pytest.mark.parametrize("size, specials, message", [
    (255, [], "at least 256"), (256, [END_OF_TEXT], "at least 257"), (300, [""], "empty"), (300, END_OF_TEXT, "give a list")])
def test_refuses_bad_arguments(tmp_path, size, specials, message):
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(InputError, match=message): train_bpe(tmp_path / "text.txt", size, specials)


@pytest.mark.parametrize("special, message", [("x" * 1001, "1,001 characters; at most 1,000"), ("a\ud800", "half a character"), (5, "no string"), (None, "no string")])
def test_refuses_impossible_special_tokens(tmp_path, special, message):
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(InputError, match=message) as error: train_bpe(tmp_path / "text.txt", 300, [special])
    assert len(str(error.value)) < 200


def test_more_may_be_asked_for_than_a_text_can_give(tmp_path):
    (tmp_path / "text.txt").write_text("ab ab")
    vocab, merges = train_bpe(tmp_path / "text.txt", 10**13, ["\n", "<|x|>"])
    assert merges == [(b"a", b"b"), (b" ", b"ab")] and list(vocab.values())[256:] == [b"ab", b" ab", b"<|x|>"]


def test_refuses_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.txt does not exist"): train_bpe(tmp_path / "missing.txt", 300)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="empty.txt has no text"): train_bpe(tmp_path / "empty.txt", 300)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(InputError, match="latin.txt is not UTF-8"): train_bpe(tmp_path / "latin.txt", 300)
