"Token files and windows: chance, the shift by one, files that are not what they should be."

import random

import numpy as np
import pytest
import torch

from lm336.dataset import batch_at, get_batch, load_tokens, prepare
from lm336.errors import END_OF_TEXT, InputError
from lm336.tokenizer import Tokenizer


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_load(tmp_path, dtype):
    np.save(tmp_path / "ids.npy", np.arange(1000, dtype=dtype))
    tokens = load_tokens(tmp_path / "ids.npy", 1000)
    assert tokens.dtype == dtype and (tokens == np.arange(1000)).all()
    with pytest.raises(ValueError):
        tokens[0] = 1
    with pytest.raises(InputError, match="token id 999 at position 999"):
        load_tokens(tmp_path / "ids.npy", 999)


def test_refuses_files(tmp_path):
    path = tmp_path / "ids.npy"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_tokens(path)
    np.save(path, np.arange(1000, dtype=np.uint16))
    whole = path.read_bytes()
    for change in (whole[:-1], whole[:-2], whole[:128], whole + b"xx"):
        path.write_bytes(change)
        with pytest.raises(InputError, match="cut off or changed"):
            load_tokens(path)
    for change in (
        b"",
        b"hello",
        whole[:20],
        whole[:100],
        b"\x00" * 500,
        b"PK\x03\x04" + whole,
        whole.replace(b"shape", b"spahe"),
    ):
        path.write_bytes(change)
        with pytest.raises(InputError, match="not a token file"):
            load_tokens(path)
    for foreign in (
        np.zeros((3, 3), np.uint16),
        np.zeros(9),
        np.zeros(9, np.int64),
        np.zeros(9, ">u2"),
        np.array(["text"]),
    ):
        np.save(path, foreign)
        with pytest.raises(InputError, match="array of"):
            load_tokens(path)
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match="array of object"):
        load_tokens(path)
    np.save(path, np.zeros(0, np.uint16))
    with pytest.raises(InputError, match="no tokens"):
        load_tokens(path)


def test_windows_are_uniform():
    tokens = np.arange(100, dtype=np.uint16)
    inputs, _ = get_batch(tokens, 200_000, 7, rng=np.random.default_rng(3))
    counts = np.bincount(inputs[:, 0].numpy(), minlength=93)
    p = 1 / 93
    assert (
        len(counts) == 93
        and (abs(counts - 200_000 * p) < 5 * (200_000 * p * (1 - p)) ** 0.5).all()
    )


def test_targets_are_inputs_shifted():
    tokens = np.random.default_rng(0).integers(0, 500, 1000).astype(np.uint16)
    inputs, targets = get_batch(tokens, 16, 32)
    assert inputs.dtype == targets.dtype == torch.int64 and inputs.shape == targets.shape == (
        16,
        32,
    )
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    row = tokens.astype(np.int64)
    windows = {tuple(row[i : i + 33]) for i in range(1000 - 32)}
    assert all(
        tuple(np.append(a, b[-1])) in windows for a, b in zip(inputs.numpy(), targets.numpy())
    )


def test_batches_are_a_function_of_seed_and_step():
    tokens = np.arange(1000, dtype=np.uint16)
    first = batch_at(tokens, 4, 8, seed=1, step=5)
    np.random.seed(0)
    torch.manual_seed(0)
    batch_at(tokens, 4, 8, seed=1, step=6)
    assert all(map(torch.equal, first, batch_at(tokens, 4, 8, seed=1, step=5)))
    others = [batch_at(tokens, 4, 8, seed, step)[0] for seed, step in ((1, 6), (2, 5), (5, 1))]
    assert not any(torch.equal(first[0], other) for other in others)


class Watched(np.ndarray):
    "An array that notes how many numbers are taken out of it."

    taken = 0

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if self.size == 1000:
            Watched.taken += found.size
        return found


@pytest.mark.parametrize("num_processes", [1, 2, 3, 6])
def test_each_process_reads_its_own_rows_only(num_processes):
    row = np.arange(1000, dtype=np.uint16)
    whole = batch_at(row, 6, 8, seed=1, step=5)
    for rank in range(num_processes):
        Watched.taken = 0
        mine = batch_at(
            row.view(Watched), 6, 8, seed=1, step=5, rank=rank, num_processes=num_processes
        )
        for part, all_rows in zip(mine, whole):
            assert torch.equal(part, all_rows.chunk(num_processes)[rank])
        assert Watched.taken == 6 // num_processes * 9


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(batch_size=7), "2 processes cannot share 7 windows"),
        (dict(rank=2), "num_processes is 2; expected a whole number, at least 3"),
        (dict(rank=-1), "rank is -1"),
        (dict(num_processes=0), "num_processes is 0"),
        (dict(seed=-1), "seed is -1"),
        (dict(step=1.5), "step is 1.5"),
        (dict(batch_size=0), "batch_size is 0; expected a whole number, at least 1"),
        (dict(batch_size=True), "batch_size is True"),
        (dict(batch_size="4"), "batch_size is '4'"),
        (dict(context_length=8.0), "context_length is 8.0"),
        (dict(context_length=1000), "1,000 tokens"),
    ],
)
def test_what_no_batch_can_be_made_of(change, sentence):
    asked = (
        dict(batch_size=4, context_length=8, seed=1, step=5, rank=0, num_processes=2) | change
    )
    with pytest.raises(InputError, match=sentence):
        batch_at(np.arange(1000, dtype=np.uint16), **asked)


def test_the_shortest_row_has_one_window():
    inputs, targets = get_batch(np.arange(6, dtype=np.uint16), 3, 5)
    assert (
        inputs.tolist() == [[0, 1, 2, 3, 4]] * 3 and targets.tolist() == [[1, 2, 3, 4, 5]] * 3
    )
    for context_length in (6, 7):
        with pytest.raises(InputError, match="6 tokens"):
            get_batch(np.arange(6), 3, context_length)
    for context_length in (0, -1):
        with pytest.raises(InputError, match="at least 1"):
            get_batch(np.arange(6), 3, context_length)


def test_a_rotten_header_is_refused_or_read(tmp_path):
    rng, path, refused = random.Random(336), tmp_path / "ids.npy", 0
    np.save(path, np.arange(1000, dtype=np.uint16))
    whole = path.read_bytes()
    for _ in range(500):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(128)
            piece = rng.choice(
                [
                    bytes([rng.randrange(256)]),
                    b"(",
                    b"-",
                    b"0x",
                    b"[" * 60,
                    b"\n ",
                    b"'",
                    b"\\",
                    b"1L",
                    b"{}",
                    b"",
                ]
            )
            changed[at : at + len(piece)] = piece
        path.write_bytes(changed)
        try:
            assert len(load_tokens(path)) == 1000
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{path} ") and "\n" not in str(error)
    assert refused > 200


def test_a_folder_with_a_tokenizer_is_whole(tmp_path, monkeypatch):
    "Cut off while the ids are written: no tokenizer.json yet, and the next time all is well."
    text = tmp_path / "in.jsonl"
    text.write_text(
        "".join(f'{{"text": "Day {n}, and then day {n + 1}."}}\n' for n in range(300))
    )
    kept = Tokenizer.encode_file

    def cut_off(self, text_path, ids_path):
        if "valid" in str(ids_path):
            raise KeyboardInterrupt
        return kept(self, text_path, ids_path)

    monkeypatch.setattr(Tokenizer, "encode_file", cut_off)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(text), 300, tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer.json").exists()
    monkeypatch.undo()
    tokenizer = prepare(str(text), 300, tmp_path / "run")
    assert Tokenizer.from_pretrained(tmp_path / "run").vocab_size == tokenizer.vocab_size
    parts = [
        load_tokens(tmp_path / "run" / "data" / f"{name}.npy", tokenizer.vocab_size)
        for name in ("train", "valid")
    ]
    days = [tokenizer.decode(part.tolist()).split(END_OF_TEXT) for part in parts]
    assert [day for part in days for day in part if day] == [
        f"Day {n}, and then day {n + 1}." for n in range(300)
    ]


def test_a_text_with_little_to_merge_gives_fewer_tokens(tmp_path):
    (tmp_path / "in.txt").write_text("abc " * 100)
    tokenizer = prepare(str(tmp_path / "in.txt"), 1000, tmp_path / "run")
    assert 257 <= tokenizer.vocab_size < 300
    with pytest.raises(
        InputError,
        match=f"the tokenizer in .* has {tokenizer.vocab_size} tokens, but the model only 200",
    ):
        prepare(str(tmp_path / "none.txt"), 200, tmp_path / "other", tmp_path / "run")
    assert (
        prepare(
            str(tmp_path / "in.txt"), 1000, tmp_path / "other", tmp_path / "run"
        ).vocab_size
        == tokenizer.vocab_size
    )
