"""Training and encoding: lm336 beside Hugging Face tokenizers, rustbpe, tiktoken, and a naive trainer.

    python benchmarks/tokenizer.py                        everything, about half an hour on two cores
    python benchmarks/tokenizer.py --tasks small --runs 3
    python benchmarks/tokenizer.py --tasks train encode --corpora source --runs 3
    python benchmarks/tokenizer.py --tasks large          a gigabyte, for its memory

Each measurement is a process of its own: the time is its whole wall time, from starting Python to the finished file, the
memory its peak and that of a helper process. The libraries take turns, so that whatever else the machine does hits all alike; the table has medians.
Every run is a line of benchmarks/tokenizer.jsonl. Needs `pip install rustbpe tokenizers tiktoken`.
"""
import json, os, sys, time  # what only the measuring needs is imported below, so that no job has to wait for it
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LOG = Path(__file__).with_suffix(".jsonl")


def documents(path):
    "The documents of a file, a few at a time in memory."
    rest = ""
    with open(path, encoding="utf-8", newline="") as file:
        while chunk := file.read(1 << 20):
            *found, rest = (rest + chunk).split(END_OF_TEXT)
            yield from found
    if rest: yield rest


# What is measured: each function is the whole job of one process. ------------------------------------------------

def train_lm336(text, vocab_size, out, num_workers=None):
    from lm336.bpe import train_bpe
    vocab, _ = train_bpe(text, vocab_size, [END_OF_TEXT], num_workers)
    json.dump([len(token) for token in vocab.values()], open(out, "w"))


def train_lm336_alone(text, vocab_size, out):
    "In one process."
    train_lm336(text, vocab_size, out, 1)


def train_rustbpe(text, vocab_size, out):
    import rustbpe
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(documents(text), vocab_size - 1, pattern=PATTERN)
    json.dump([len(token) for token, _ in tokenizer.get_mergeable_ranks()], open(out, "w"))


def train_huggingface(text, vocab_size, out):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents(text), trainer)
    tokenizer.save(str(out))


def train_naive(text, vocab_size, out):
    "As in minbpe: every pre-token a list of ids; after each merge all pairs of all of them are counted again."
    import regex
    from collections import Counter
    chunks = [list(piece.encode()) for document in documents(text) for piece in regex.findall(PATTERN, document)]
    merges = {}
    for new in range(256, vocab_size - 1):
        pairs = Counter(pair for ids in chunks for pair in zip(ids, ids[1:]))
        if not pairs: break
        best = max(pairs, key=pairs.get)
        merges[best] = new
        for k, ids in enumerate(chunks):
            out_ids, i = [], 0
            while i < len(ids):
                two = tuple(ids[i:i + 2]) == best
                out_ids.append(new if two else ids[i])
                i += 1 + two
            chunks[k] = out_ids
    json.dump(list(merges.values()), open(out, "w"))


def encode_lm336(text, folder, out, num_workers=None):
    from lm336.tokenizer import Tokenizer
    Tokenizer.from_pretrained(folder).encode_file(text, out, num_workers)


def encode_lm336_alone(text, folder, out):
    "In one process."
    encode_lm336(text, folder, out, 1)


def _tiktoken(folder):
    import tiktoken
    characters = {c: b for b, c in _byte_characters().items()}
    data = json.loads((Path(folder) / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in data["added_tokens"]}
    ranks = {bytes(characters[c] for c in token): i for token, i in data["model"]["vocab"].items() if token not in special}
    return tiktoken.Encoding("same", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special), special[END_OF_TEXT]


def _byte_characters():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return {b: chr(b if b in printable else next(others)) for b in range(256)}


def encode_tiktoken(text, folder, out):
    "One thread, the whole text in one call, ids straight into an array."
    import numpy as np
    encoding, _ = _tiktoken(folder)
    text = open(text, encoding="utf-8", newline="").read()
    np.save(open(out, "wb"), encoding.encode_to_numpy(text, allowed_special="all").astype(np.uint16))


def _save_documents(out, batches, end_of_text):
    import numpy as np
    arrays = [np.array(ids + [end_of_text], np.uint16) for batch in batches for ids in batch]
    np.save(open(out, "wb"), np.concatenate(arrays))


def _batches(text, size=1000):
    batch = []
    for document in documents(text):
        batch.append(document)
        if len(batch) == size: yield batch; batch = []
    yield batch


def encode_tiktoken_threads(text, folder, out):
    "Documents in batches over all cores."
    encoding, end_of_text = _tiktoken(folder)
    batches = (encoding.encode_ordinary_batch(batch, num_threads=os.cpu_count()) for batch in _batches(text))
    _save_documents(out, batches, end_of_text)


def encode_huggingface(text, folder, out):
    "Documents in batches over all cores."
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    batches = ([found.ids for found in tokenizer.encode_batch_fast(batch)] for batch in _batches(text))
    _save_documents(out, batches, tokenizer.token_to_id(END_OF_TEXT))


# What it is measured on. ------------------------------------------------------------------------------------------

def make_stories(path, num_bytes):
    from lm336.corpus import write_stories
    write_stories(path, num_bytes, seed=0)


def make_source(path, num_bytes):
    "Program text of this Python's own packages and what is below /usr: every file once, in a fixed order."
    import hashlib, sysconfig, unicodedata
    size, seen = 0, set()
    with open(path, "w", encoding="utf-8", newline="") as out:
        for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/lib", "/usr/include", "/usr/share"):
            for folder, folders, files in os.walk(root):
                folders.sort()
                for name in sorted(files):
                    if not name.endswith((".py", ".pyi", ".txt", ".md", ".rst", ".h", ".hpp", ".js", ".c", ".html")): continue
                    try: text = open(Path(folder) / name, encoding="utf-8", newline="").read()
                    except (OSError, UnicodeDecodeError): continue
                    digest = hashlib.sha256(text.encode()).digest()
                    # characters newer than a library's Unicode tables would be letters for one and not for the other
                    if not text or digest in seen or END_OF_TEXT in text or len(text) > 20_000_000 or (
                            not text.isascii() and any(unicodedata.category(c) == "Cn" for c in set(text))): continue
                    seen.add(digest)
                    text = text[:num_bytes - size]
                    size += len(text.encode()) + len(END_OF_TEXT)
                    out.write(text + END_OF_TEXT)
                    if size >= num_bytes: return


def corpus(name, folder, num_bytes):
    path = folder / f"{name}-{num_bytes}.txt"
    if not path.exists():
        {"stories": make_stories, "source": make_source}[name](path.with_suffix(".part"), num_bytes)
        path.with_suffix(".part").rename(path)
    return path


# Measuring. -------------------------------------------------------------------------------------------------------

def machine():
    "The machine and the versions, as the log names them."
    from importlib.metadata import PackageNotFoundError, version
    from lm336.evaluation import environment
    versions = {}
    for name in ("numpy", "tokenizers", "tiktoken", "rustbpe", "regex"):
        try: versions[name] = version(name)
        except PackageNotFoundError: pass
    return environment() | versions


def measure(function, *arguments):
    "Wall seconds, CPU seconds and peak megabytes of one process that does this job."
    import subprocess
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--job", function, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode: return None
    peak = Path(f"{arguments[-1]}.peak")
    return {"seconds": round(seconds, 3), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "peak_mb": round(int(peak.read_text()) / 1e3)}


def peak_kilobytes():
    "This process's own peak, and its helper's. (getrusage would count the parent's memory, from before the program was loaded.)"
    import resource
    unit, status = 1024 if sys.platform == "darwin" else 1, Path("/proc/self/status")
    helper = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit
    if status.exists(): return int(status.read_text().split("VmHWM:")[1].split()[0]) + helper
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit + helper


def compare(title, path, jobs, runs, log):
    "Run all jobs `runs` times in turn, and print the medians."
    import statistics
    results = {name: [] for name in jobs}
    for run in range(runs):
        for name, (function, *arguments) in jobs.items():
            if (result := measure(function, *arguments)) is None: continue
            results[name].append(result)
            with open(LOG, "a") as file: file.write(json.dumps({**log, "task": title, "bytes": path.stat().st_size, "library": name, **result}) + "\n")
    median = lambda name, key: statistics.median(result[key] for result in results[name])
    ours = median("lm336", "seconds") if results.get("lm336") else None
    print(f"\n{title}, {path.stat().st_size / 1e6:,.1f} MB, median of {runs}")
    print(f"  {'':28}{'seconds':>9}{'MB/s':>8}{'times ours':>12}{'CPU s':>9}{'peak MB':>9}")
    for name in jobs:
        if not results[name]: print(f"  {name:28}  failed or is not installed"); continue
        seconds = median(name, "seconds")
        print(f"  {name:28}{seconds:9.2f}{path.stat().st_size / 1e6 / seconds:8.1f}{seconds / ours:12.1f}"
              f"{median(name, 'cpu_seconds'):9.2f}{median(name, 'peak_mb'):9.0f}", flush=True)


def same_ids(folder, names):
    "Whether the encoded files hold the same ids."
    import numpy as np
    first, *others = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names if (folder / f"{name}.npy").exists()]
    return all(np.array_equal(first, other) for other in others)


def main():
    import argparse, compileall, tempfile
    from datetime import datetime, timezone
    import lm336
    compileall.compile_dir(Path(lm336.__file__).parent, quiet=1)  # as pip does with what it installs
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["small", "train", "train32k", "encode", "large"],
                        choices=["small", "train", "train32k", "encode", "large"])
    parser.add_argument("--corpora", nargs="+", default=["stories", "source"], choices=["stories", "source"])
    parser.add_argument("--libraries", nargs="+", default=None, help="only these, such as lm336 rustbpe")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=105_000_000, help="size of each corpus")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lm336-benchmarks", help="keeps the corpora")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    log = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **machine()}
    print(", ".join(f"{key} {value}" for key, value in log.items()))
    wanted = lambda jobs: {name: job for name, job in jobs.items() if args.libraries is None or name in args.libraries}
    out = args.folder / "out"
    if "small" in args.tasks:
        path = corpus("source", args.folder, 133_000)
        jobs = {"lm336": "train_lm336", "rustbpe": "train_rustbpe", "huggingface": "train_huggingface", "naive": "train_naive"}
        compare("train, vocabulary 500, source", path, wanted({name: (job, path, 500, out) for name, job in jobs.items()}), args.runs, log)
    for name in args.corpora:
        path = corpus(name, args.folder, args.bytes)
        jobs = {"lm336": "train_lm336", "lm336, one process": "train_lm336_alone", "rustbpe": "train_rustbpe",
                "huggingface": "train_huggingface"}
        for task, size in (("train", 10_000), ("train32k", 32_000)):
            if task not in args.tasks: continue
            todo = wanted({library: (job, path, size, out) for library, job in jobs.items()})
            compare(f"train, vocabulary {size:,}, {name}", path, todo, args.runs, log)
        if "encode" in args.tasks:
            from lm336.tokenizer import Tokenizer
            folder = args.folder / name
            Tokenizer.train(path, 10_000).save_pretrained(folder)
            jobs = {"lm336": "encode_lm336", "lm336, one process": "encode_lm336_alone", "tiktoken": "encode_tiktoken",
                    "tiktoken, threads": "encode_tiktoken_threads", "huggingface": "encode_huggingface"}
            todo = wanted({library: (job, path, folder, folder / f"{library}.npy") for library, job in jobs.items()})
            compare(f"encode, vocabulary 10,000, {name}", path, todo, args.runs, log)
            print("  all ids are identical" if same_ids(folder, todo) else "  THE IDS DIFFER")
    if "large" in args.tasks:
        path = corpus("stories", args.folder, 1_000_000_000)
        compare("train, vocabulary 10,000, stories", path, {"lm336": ("train_lm336", path, 10_000, out)}, 1, log)
        Tokenizer = __import__("lm336.tokenizer", fromlist=["Tokenizer"]).Tokenizer
        Tokenizer.train(path, 10_000).save_pretrained(args.folder / "large")
        todo = {"lm336": ("encode_lm336", path, args.folder / "large", args.folder / "large" / "ids.npy")}
        compare("encode, vocabulary 10,000, stories", path, todo, 1, log)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job, text, second, out = sys.argv[2:]
        globals()[job](Path(text), int(second) if second.isdigit() else second, Path(out))
        Path(f"{out}.peak").write_text(str(peak_kilobytes()))
    else: main()
