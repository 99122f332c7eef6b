"""What benchmarks/tokenizer.py measures: each function is the whole job of one process.

    python benchmarks/tokenizer_jobs.py FUNCTION TEXT VOCABULARY_SIZE_OR_FOLDER OUT

Beside OUT it leaves OUT.json, with the CPU seconds and the peak memory of the process and of
its helpers. What a job needs it imports itself, so that no other has to wait for it.
"""

import json
import os
import sys
from pathlib import Path

from memory import peak_bytes

END_OF_TEXT = "<|endoftext|>"
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def documents(path):
    "The documents of a file, a few at a time in memory."
    rest = ""
    with open(path, encoding="utf-8", newline="") as file:
        while chunk := file.read(1 << 20):
            *found, rest = (rest + chunk).split(END_OF_TEXT)
            yield from found
    if rest:
        yield rest


def save_lengths(out, tokens):
    "How long each token is: every trainer writes a file, and none is spared the work."
    Path(out).write_text(json.dumps([len(token) for token in tokens]))


def train_lm336(text, vocab_size, out, num_workers=None):
    from lm336.fast_bpe import fast_train_bpe

    vocab, _ = fast_train_bpe(text, vocab_size, [END_OF_TEXT], num_workers)
    save_lengths(out, vocab.values())


def train_lm336_alone(text, vocab_size, out):
    "In one process."
    train_lm336(text, vocab_size, out, 1)


def train_rustbpe(text, vocab_size, out):
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(documents(text), vocab_size - 1, pattern=PATTERN)
    save_lengths(out, (token for token, _ in tokenizer.get_mergeable_ranks()))


def train_huggingface(text, vocab_size, out):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents(text), trainer)
    tokenizer.save(str(out))


def train_gigatoken(text, vocab_size, out):
    import gigatoken

    source = gigatoken.TextFileSource([text], separator=END_OF_TEXT)
    vocab, _ = gigatoken.train_bpe(source, vocab_size, [END_OF_TEXT])
    save_lengths(out, vocab.values())


def train_naive(text, vocab_size, out):
    "As in minbpe: pre-tokens are lists of ids, and each merge counts all their pairs again."
    from collections import Counter

    import regex

    chunks = [
        list(piece.encode())
        for document in documents(text)
        for piece in regex.findall(PATTERN, document)
    ]
    merges = {}
    for new in range(256, vocab_size - 1):
        pairs = Counter(pair for ids in chunks for pair in zip(ids, ids[1:]))
        if not pairs:
            break
        best = max(pairs, key=pairs.get)
        merges[best] = new
        for k, ids in enumerate(chunks):
            merged, i = [], 0
            while i < len(ids):
                if tuple(ids[i : i + 2]) == best:
                    merged.append(new)
                    i += 2
                else:
                    merged.append(ids[i])
                    i += 1
            chunks[k] = merged
    Path(out).write_text(json.dumps(list(merges.values())))


def encode_lm336(text, folder, out, num_workers=None):
    from lm336.tokenizer import Tokenizer

    Tokenizer.from_pretrained(folder).encode_file(text, out, num_workers)


def encode_lm336_alone(text, folder, out):
    "In one process."
    encode_lm336(text, folder, out, 1)


def byte_characters():
    "byte -> the character that stands for it in a tokenizer.json."
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return {b: chr(b if b in printable else next(others)) for b in range(256)}


def tiktoken_encoding(folder):
    "The tokenizer of a folder as tiktoken's, and the id of <|endoftext|>."
    import tiktoken

    byte_of = {character: b for b, character in byte_characters().items()}
    data = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in data["added_tokens"]}
    vocab = data["model"]["vocab"]
    ranks = {
        bytes(byte_of[c] for c in token): i
        for token, i in vocab.items()
        if token not in special
    }
    encoding = tiktoken.Encoding(
        "same", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special
    )
    return encoding, special[END_OF_TEXT]


def encode_tiktoken(text, folder, out):
    "One thread, the whole text in one call, ids straight into an array."
    import numpy as np

    encoding, _ = tiktoken_encoding(folder)
    with open(text, encoding="utf-8", newline="") as file:
        ids = encoding.encode_to_numpy(file.read(), allowed_special="all")
    np.save(out, ids.astype(np.uint16))


def batches(text, size=1000):
    "Lists of `size` documents."
    batch = []
    for document in documents(text):
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def save_documents(out, encoded, end_of_text):
    "The ids of batches of documents in one file, each document with its end."
    import numpy as np

    arrays = [np.array(ids + [end_of_text], np.uint16) for batch in encoded for ids in batch]
    np.save(out, np.concatenate(arrays))


def encode_tiktoken_threads(text, folder, out):
    "Documents in batches over all cores."
    encoding, end_of_text = tiktoken_encoding(folder)
    encoded = (
        encoding.encode_ordinary_batch(batch, num_threads=os.cpu_count())
        for batch in batches(text)
    )
    save_documents(out, encoded, end_of_text)


def encode_huggingface(text, folder, out):
    "Documents in batches over all cores."
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    encoded = (
        [found.ids for found in tokenizer.encode_batch_fast(batch)] for batch in batches(text)
    )
    save_documents(out, encoded, tokenizer.token_to_id(END_OF_TEXT))


def encode_gigatoken(text, folder, out):
    "The file in one call, over all cores."
    import awkward
    import gigatoken
    import numpy as np

    tokenizer = gigatoken.Tokenizer(Path(folder) / "tokenizer.json")
    source = gigatoken.TextFileSource([text], separator=END_OF_TEXT)
    found = tokenizer.encode_files(source)
    ids = np.asarray(awkward.flatten(found)).astype(np.uint16)
    ends = np.cumsum(np.asarray(awkward.num(found)))
    np.save(out, np.insert(ids, ends, tokenizer.encode(END_OF_TEXT)[0]))


if __name__ == "__main__":
    sys.path.insert(
        0, str(Path(__file__).resolve().parent.parent)
    )  # a clone need not be installed
    name, text, second, out = sys.argv[1:]
    globals()[name](Path(text), int(second) if second.isdigit() else second, Path(out))
    used = dict(cpu_seconds=round(sum(os.times()[:4]), 3), peak_mb=round(peak_bytes() / 1e6))
    Path(f"{out}.json").write_text(json.dumps(used))
