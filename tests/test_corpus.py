"Documents, splitting, and where a corpus comes from."

import gzip
import io
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm336.corpus import corpus_files, iter_documents, read_text, split_text
from lm336.errors import END_OF_TEXT, InputError
from lm336.grammar import StoryGrammar, write_stories
from lm336.texts import between, decoded, in_parts, utf8

# ---------------------------------------------------------------- files


def test_documents_of_every_kind_of_file(tmp_path):
    documents = ["Ein Bär.\n", "Zwei 🐻.\r\n", "drei"]
    text = END_OF_TEXT.join(documents)
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps({"text": d, "id": 1}) + "\n\n" for d in documents)
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "d.jsonl").write_text(
        "".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in documents),
        encoding="utf-8",
    )
    (tmp_path / "more" / "e.jsonl.gz").write_bytes(
        gzip.compress((tmp_path / "c.jsonl").read_bytes())
    )
    (tmp_path / "more" / "F.TXT").write_bytes(text.encode())
    (tmp_path / "more" / "g.md").write_bytes(text.encode())
    (tmp_path / "more" / "h.Txt.GZ").write_bytes(gzip.compress(text.encode()))
    names = (
        "a.txt",
        "b.txt.gz",
        "c.jsonl",
        *(f"more/{name}" for name in ("d.jsonl", "e.jsonl.gz", "F.TXT", "g.md", "h.Txt.GZ")),
    )
    for name in names:
        assert list(iter_documents(tmp_path / name)) == documents
    assert list(iter_documents(tmp_path)) == documents * len(names)
    (tmp_path / "e.jsonl").write_text('{"body": "x", "text": "y"}')
    assert list(iter_documents(tmp_path / "e.jsonl", field="body")) == ["x"]


@pytest.mark.parametrize("separator", [END_OF_TEXT, "-", "🙂é"])
def test_documents_do_not_depend_on_where_pieces_are_cut(tmp_path, separator):
    "A separator, or a character of several bytes, lies across the end of a megabyte."
    for begins in range(len(separator.encode()) + 4):
        first = "a" * ((1 << 20) - begins) + "é"
        for middle in ("🙂", "", separator[:-1]):
            (tmp_path / "in.txt").write_text(
                first + separator + middle + separator + "last", encoding="utf-8"
            )
            assert list(iter_documents(tmp_path / "in.txt", separator)) == [
                part for part in (first, middle, "last") if part
            ]


def test_pieces_may_end_anywhere():
    "In the middle of a character, and in the middle of a separator."
    text = "naïve 🙂"
    for size in range(1, 12):
        pieces = decoded(io.BytesIO(text.encode()), Path("a text"), size)
        assert "".join(pieces) == text
    for size in range(1, 9):
        pieces = ["One--Two-.--"[i : i + size] for i in range(0, 12, size)]
        assert list(between(pieces, "--")) == ["One", "Two-.", ""]


def test_parts_are_the_text_and_half_a_character_is_refused():
    assert list(in_parts(["abcde", "", "f"], 2)) == ["ab", "cd", "e", "f"]
    assert utf8("é") == b"\xc3\xa9"
    with pytest.raises(InputError, match="U\\+D83D"):
        utf8("half \ud83d here")


BAD = b'{"text": "a"}\n{"body": "b"}\n'
PACKED = gzip.compress("".join(f'{{"text": "line {n}"}}\n' for n in range(1000)).encode())


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("latin.txt", "Bär".encode("latin-1"), "latin.txt is not UTF-8 at byte 1; save it"),
        ("cut.txt", "Bär".encode()[:2], "ends in the middle of a UTF-8 character"),
        (
            "bad.jsonl",
            b'{"text": "a"}\n{"body": "b"}\n',
            'line 2: expected an object like {"text"',
        ),
        ("bad.jsonl", b'{"text": 7}', "line 1"),
        ("bad.jsonl", b"[1]", "line 1"),
        ("bad.jsonl", b"\xff\xfe", "line 1"),
        (
            "bad.jsonl",
            b'{"text": "a"}\n{"text": "half \\ud83d here"}',
            "line 2: half of a surrogate pair",
        ),
        (
            "bad.jsonl",
            '{"text": "half \ud83d here"}'.encode("utf-8", "surrogatepass"),
            "line 1",
        ),
        (
            "bad.jsonl",
            b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "line 1: expected",
        ),
        ("bad.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 1: expected"),
        ("bad.jsonl", b'"text"', "line 1: expected"),
        ("bad.jsonl.gz", gzip.compress(BAD, mtime=0), "line 2: expected"),
        *(
            (f"{how}.{kind}.gz", content, "not a complete gzip file")
            for kind in ("txt", "jsonl", "md")
            for how, content in (
                ("no", b"plain text"),
                ("cut", PACKED[:-9]),
                ("changed", PACKED[:100] + b"\xff" * 9 + PACKED[109:]),
                ("more", PACKED + b"more"),
            )
        ),
        *(
            (name, b"text", "make its name end in .txt")
            for name in (
                "all.tar.gz",
                "all.json",
                "all.json.gz",
                "all.csv",
                "all.txt.zip",
                "all.txt.part",
            )
        ),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        list(iter_documents(tmp_path / name))
    assert sentence in str(error.value) and name in str(error.value)


@pytest.mark.parametrize("name", ["in.txt.gz", "in.jsonl.gz", "in.jsonl"])
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path, name):
    rng, refused = random.Random(336), 0
    whole = PACKED if name.endswith(".gz") else gzip.decompress(PACKED)[:2000]
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) + 1)
            piece = rng.choice(
                [
                    bytes([rng.randrange(256)]),
                    b"\xff" * 9,
                    b"\0" * 20,
                    b"\\ud83d",
                    b"[" * 3000,
                    b"NaN",
                    b"\n",
                    b'"',
                ]
            )
            how = rng.randrange(3)
            if how == 0:
                data[at : at + len(piece)] = piece
            elif how == 1:
                data[at:at] = piece
            else:
                del data[at : at + rng.randint(1, 50)]
        (tmp_path / name).write_bytes(data)
        try:
            assert all(
                isinstance(document, str) for document in iter_documents(tmp_path / name)
            )
        except InputError as error:
            refused += 1
            assert name in str(error) and "\n" not in str(error)
    assert refused > 200


def test_missing_and_empty_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give"):
        list(iter_documents(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match="does not exist; give"):
        corpus_files(tmp_path / "none.txt", tmp_path)
    with pytest.raises(InputError, match="has no .txt"):
        list(iter_documents(tmp_path))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="is empty"):
        split_text(tmp_path / "empty.txt", tmp_path)
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(InputError, match="cannot be cut off"):
        split_text(tmp_path / "short.txt", tmp_path)
    for wrong in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match="expected a share between 0 and 1"):
            split_text(tmp_path / "short.txt", tmp_path, wrong)
    with pytest.raises(InputError, match="separator is empty"):
        list(iter_documents(tmp_path / "short.txt", separator=""))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.txt", "short.txt"]


def test_split_counts_characters(tmp_path):
    text = "äb🙂d" * 400_000
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    train, valid = split_text(tmp_path / "a.txt", tmp_path / "out")
    assert (
        train.read_text("utf-8") == text[:1_440_000]
        and valid.read_text("utf-8") == text[1_440_000:]
    )
    with pytest.raises(InputError, match="overwritten"):
        split_text(train, tmp_path / "out")


# ---------------------------------------------------------------- folders


def write(folder, files):
    "Files from a dict of names and texts."
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")


def test_what_is_hidden_or_of_a_run_is_left_out_and_said(tmp_path, capsys):
    write(
        tmp_path / "corpus",
        {
            "a.txt": "one",
            "deep/er/b.md": "two",
            "book.txt/p1.txt": "three",
            ".hidden.txt": "no",
            "._a.txt": "no",
            ".ipynb_checkpoints/a-checkpoint.txt": "no",
            "deep/__MACOSX/b.txt": "no",
            "run/run.json": "{}",
            "run/report.md": "no",
            "run/data/valid.txt": "no",
            "deep/model/config.json": "{}",
            "deep/model/tokenizer.json": "{}",
            "deep/model/samples.md": "no",
            "weights/config.json": "{}",  # of a model that a notebook trained
            "weights/model.safetensors": "",
            "weights/report.md": "no",
            "metrics.jsonl": '{"step": 0}',  # and our commands' logs
            "experiments.jsonl": "{}",
            "speedrun.jsonl": "{}",
            "table.csv": "no",
            "notes": "no",
            "a.json": "{}",
            "text.txt.part": "no",
            "a.txt.gz": gzip.compress(b"one"),
        },
    )
    assert list(iter_documents(tmp_path / "corpus")) == ["one", "three", "two"]
    list(iter_documents(tmp_path / "corpus"))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{tmp_path / 'corpus'}: read 3; left out 4 hidden, 4 of other kinds, "
        "6 that a run wrote, 1 unpacked beside it"
    ]
    write(tmp_path / "plain", {"a.txt": "one"})
    assert (
        list(iter_documents(tmp_path / "plain")) == ["one"] and capsys.readouterr().out == ""
    )


@pytest.mark.parametrize(
    "marks",
    [["run.json"], ["config.json", "tokenizer.json"], ["config.json", "model.safetensors"]],
)
def test_a_run_is_no_text(tmp_path, marks):
    write(tmp_path, {"samples.md": "no", "data/train.txt": "no", **dict.fromkeys(marks, "{}")})
    with pytest.raises(
        InputError, match="is the folder of a run or a model, not a text; give a .txt"
    ):
        list(iter_documents(tmp_path))


def test_no_file_is_read_twice(tmp_path):
    write(
        tmp_path,
        {
            "corpus/a.txt": "one",
            "corpus/b/c.txt": "two",
            "elsewhere/d.txt": "three",
            "elsewhere/e/f.txt": "four",
        },
    )
    corpus_folder = tmp_path / "corpus"
    try:
        (corpus_folder / "a2.txt").symlink_to("a.txt")
        (corpus_folder / "hard.txt").hardlink_to(corpus_folder / "a.txt")
        (corpus_folder / "round").symlink_to(corpus_folder)
        (corpus_folder / "b" / "up").symlink_to(tmp_path / "corpus" / "b")
        (corpus_folder / "there").symlink_to(tmp_path / "elsewhere")
        (corpus_folder / "there again").symlink_to(tmp_path / "elsewhere")
        (corpus_folder / "nowhere.txt").symlink_to("nowhere")
        (corpus_folder / "self.txt").symlink_to("self.txt")
    except OSError:
        pytest.skip("this system makes no links")
    assert list(iter_documents(corpus_folder)) == ["one", "two", "three", "four"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    write(tmp_path, {"a.txt": "one"})
    os.mkfifo(tmp_path / "b.txt")
    assert list(iter_documents(tmp_path)) == ["one"]


def test_the_validation_text_does_not_stand_in_the_training_text(tmp_path):
    words = np.random.default_rng(0).integers(0, 400, 2400)
    write(
        tmp_path / "corpus",
        {
            "a.txt": " ".join(map(str, words[:2000])),
            "z.txt": " ".join(map(str, words[2000:])),
            ".ipynb_checkpoints/z-checkpoint.txt": " ".join(map(str, words[2000:])),
        },
    )
    train, valid = split_text(tmp_path / "corpus", tmp_path / "corpus/run/data")
    first = train.read_text()
    assert (
        valid.read_text().removesuffix(END_OF_TEXT) == (tmp_path / "corpus/z.txt").read_text()
    )
    assert first.removesuffix(END_OF_TEXT) == (tmp_path / "corpus/a.txt").read_text()
    for again in (
        "corpus/run/data",
        "corpus/run2/data",
        "elsewhere",
    ):  # the first one was not even finished
        train, valid = split_text(tmp_path / "corpus", tmp_path / again)
        assert train.read_text() == first
    train, valid = split_text(tmp_path / "corpus", tmp_path / "corpus")
    assert (
        train.read_text() == first
        and split_text(tmp_path / "corpus", tmp_path / "last")[0].read_text() == first
    )


def test_your_own_train_txt_is_not_overwritten(tmp_path):
    write(
        tmp_path,
        {
            "data/train.txt": "my own text, " * 9,
            "data/valid.txt": "mine",
            "other.txt": "another text, " * 9,
        },
    )
    for data in ("data", "data/train.txt", "data/valid.txt", "other.txt", "stories:0.01"):
        with pytest.raises(InputError, match="overwritten"):
            corpus_files(
                data if data.startswith("stories") else tmp_path / data, tmp_path / "data"
            )
    assert (tmp_path / "data/train.txt").read_text() == "my own text, " * 9
    (tmp_path / "run.json").write_text("{}")  # the folder of a run, whose texts these are
    corpus_files(tmp_path / "other.txt", tmp_path / "data")
    corpus_files("stories:0.01", tmp_path / "data")


# ---------------------------------------------------------------- the split


@pytest.mark.parametrize("form", ["txt", "jsonl", "folder"])
@pytest.mark.parametrize("number", [2, 3, 10, 57])
def test_the_split_falls_between_documents(tmp_path, form, number):
    documents = [f"Document {n}, {'very ' * (n % 3)}short. 🙂\n" for n in range(number)]
    if form == "txt":
        write(tmp_path, {"in.txt": END_OF_TEXT.join(documents) + END_OF_TEXT + "\n"})
    elif form == "jsonl":
        write(
            tmp_path, {"in.jsonl": "".join(json.dumps({"text": d}) + "\n" for d in documents)}
        )
    else:
        write(tmp_path, {f"in.folder/{n:02}.txt": d for n, d in enumerate(documents)})
    train, valid = split_text(tmp_path / f"in.{form}", tmp_path / "out")
    first, second = list(iter_documents(train)), list(iter_documents(valid))
    assert first + second == documents and first and second
    assert (train.read_bytes() + valid.read_bytes()).decode() == "".join(
        read_text(tmp_path / f"in.{form}")
    )
    sizes = [len(d) + len(END_OF_TEXT) for d in documents]
    best = min(range(1, number), key=lambda n: abs(sum(sizes[:n]) - 0.9 * sum(sizes)))
    assert len(first) == best


def test_a_short_note_behind_a_long_book_is_no_examination(tmp_path):
    book = "A line of a long book.\n" * 1000
    for text in (
        book + END_OF_TEXT + "The end.",
        "Title." + END_OF_TEXT + book,
        book + END_OF_TEXT + "\n" * 1800,
        END_OF_TEXT + book,
    ):
        write(tmp_path, {"in.txt": text})
        train, valid = split_text(tmp_path / "in.txt", tmp_path / "out")
        assert (
            len(train.read_text()) == int(len(text) * 0.9)
            and train.read_text() + valid.read_text() == text
        )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("a\n🙂", max_size=30), min_size=1, max_size=6), st.floats(0.05, 0.95))
def test_a_separator_is_never_cut(tmp_path_factory, documents, valid_fraction):
    folder, text = tmp_path_factory.mktemp("split"), END_OF_TEXT.join(documents)
    write(folder, {"in.txt": text})
    try:
        train, valid = (
            path.read_bytes().decode()
            for path in split_text(folder / "in.txt", folder / "out", valid_fraction)
        )
    except InputError as error:
        assert "cannot be cut off" in str(error) or "is empty" in str(error)
        crowded = len(text) < 26 / min(valid_fraction, 1 - valid_fraction)
        assert crowded or not all(document.strip() for document in documents), (
            "there was room for both"
        )
    else:
        assert (
            train + valid == text
            and train.count(END_OF_TEXT) + valid.count(END_OF_TEXT) == len(documents) - 1
        )


def test_a_pipe_is_a_text_too(tmp_path):
    if sys.platform == "win32":
        pytest.skip("no such pipes")
    text = "".join(f"Line {n}.\n" for n in range(50_000))
    code = f"from lm336 import split_text; split_text('/dev/stdin', {str(tmp_path / 'out')!r})"
    subprocess.run([sys.executable, "-c", code], input=text.encode(), check=True, timeout=60)
    train, valid = (tmp_path / "out" / name for name in ("train.txt", "valid.txt"))
    assert (
        train.read_text() == text[: int(len(text) * 0.9)]
        and train.read_text() + valid.read_text() == text
    )
    if os.path.isdir("/proc/self"):  # a file that says it is empty, and is not
        train, valid = split_text("/proc/self/maps", tmp_path / "proc")
        assert len(train.read_text()) > 1000


# ---------------------------------------------------------------- a corpus by its name


@pytest.mark.parametrize("megabytes, wanted", [(0.4, 20_000), (0.00001, 1)])
def test_validation_gets_a_twentieth_as_many_bytes(tmp_path, megabytes, wanted):
    _, valid = corpus_files(f"stories:{megabytes:f}", tmp_path)
    text = valid.read_text(encoding="utf-8")
    last = len(text.removesuffix(END_OF_TEXT).rpartition(END_OF_TEXT)[2]) + len(END_OF_TEXT)
    assert len(text) - last < wanted <= len(text), "as many whole stories as it takes"


def test_training_and_validation_share_no_story(tmp_path):
    grammar = StoryGrammar()
    train, valid = corpus_files("stories:0.4", tmp_path, seed=5)
    held_out = list(iter_documents(valid))
    assert not set(iter_documents(train)) & set(held_out)
    write_stories(tmp_path / "again.txt", 20_000, [5, 1], without=held_out[:3])
    assert list(iter_documents(tmp_path / "again.txt"))[: len(held_out) - 3] == held_out[3:]
    surprise = [-grammar.log2_prob(story) for story in held_out]
    assert min(surprise) > 0 and max(surprise) < math.inf
    assert math.isclose(
        grammar.file_bits_per_byte(valid),
        sum(surprise) / sum(len(story) for story in held_out),
    )


def test_your_own_text(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789")
    train, valid = corpus_files(tmp_path / "a.txt", tmp_path / "out")
    assert (train.read_text(), valid.read_text()) == ("012345678", "9")
    assert StoryGrammar().file_bits_per_byte(train) == math.inf
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(InputError, match="no stories"):
        StoryGrammar().file_bits_per_byte(tmp_path / "none.txt")


def test_the_corpus_needs_no_torch():
    code = "import sys, lm336.corpus; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
