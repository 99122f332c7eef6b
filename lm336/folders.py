"Which files of a folder are its text: none hidden, none twice, none that a run wrote."

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .errors import InputError
from .files import atomic_path

__all__ = ["check_free", "check_text", "kind_of", "mark_as_made", "say_once", "text_files"]

KINDS = ".txt", ".md", ".jsonl"  # each with or without .gz
EXPECTED = "a .txt, .md or .jsonl file, with or without .gz, or a folder of them"
MADE = ".lm336-made"  # lists the texts beside it that were made from others
# what is in the folder of a run or a model
RUNS = {"run.json"}, {"config.json", "tokenizer.json"}, {"config.json", "model.safetensors"}
# what our commands and trainers write into any folder
LOGS = {"metrics.jsonl", "experiments.jsonl", "speedrun.jsonl"}


def kind_of(
    path: Path,  # of a file, whether it exists or not
) -> str:  # such as ".txt"
    "The kind of a file, from the end of its name in lower case, .gz aside."
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_text(
    path: Path,  # a file that is to be read
):
    "FileNotFoundError if it does not exist, InputError if it is of a kind we do not read."
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give {EXPECTED}")
    if kind_of(path) not in ("", *KINDS):  # without a suffix, like a pipe, it is text
        raise InputError(
            f"{path} is not a kind of file that we read: give {EXPECTED}; if it is plain "
            "text, make its name end in .txt"
        )


def text_files(
    folder: str | os.PathLike,  # to be searched
) -> list[Path]:  # in the order in which they are read
    """The text files in a folder and its subfolders; prints one line about what is left out.

    InputError if there are none, or if it is the folder of a run or a model.
    """
    folder, left_out = Path(folder), Counter()
    if _is_run(folder):
        raise InputError(
            f"{folder} is the folder of a run or a model, not a text; give {EXPECTED}"
        )
    own = folder.stat()
    found = list(_text_files(folder, left_out, {(own.st_dev, own.st_ino)}))
    told = ", ".join(f"{number} {what}" for what, number in sorted(left_out.items()))
    if not found:
        kinds = ", ".join(KINDS)
        raise InputError(f"{folder} has no {kinds} in it; left out: {told or 'nothing'}")
    if told:
        say_once(f"{folder}: read {len(found)}; left out {told}")
    return found


def _text_files(folder: Path, left_out: Counter, seen: set) -> Iterator[Path]:
    "The same, each file once; counts what is left out."
    made = _made(folder)
    for path in sorted(folder.iterdir()):
        if path.name == MADE:
            continue
        try:
            status = path.stat()
        except OSError:  # a link to nothing
            left_out["that cannot be opened"] += 1
            continue
        same = status.st_dev, status.st_ino or path.resolve()
        if path.name.startswith(".") or path.name == "__MACOSX":
            left_out["hidden"] += 1
        elif path.name in made | LOGS or _is_run(path):
            left_out["that a run wrote"] += 1
        elif same in seen:
            left_out["met twice"] += 1
        elif path.is_dir():
            seen.add(same)
            yield from _text_files(path, left_out, seen)
        elif kind_of(path) not in KINDS or not path.is_file():
            left_out["of other kinds"] += 1
        elif path.suffix.lower() == ".gz" and path.with_suffix("").exists():
            left_out["unpacked beside it"] += 1
        else:
            seen.add(same)
            yield path


def _made(folder: Path) -> set[str]:
    "The names of the files in a folder that were made from other texts."
    mark = folder / MADE
    return set(mark.read_text("utf-8", "replace").split()) if mark.is_file() else set()


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and any(names <= set(os.listdir(folder)) for names in RUNS)


def mark_as_made(
    folder: str | os.PathLike,  # of train.txt and valid.txt
):
    "Record in a folder, before they are written, that its two texts are made from others."
    with atomic_path(Path(folder, MADE)) as mark:
        mark.write_text("train.txt\nvalid.txt\n", encoding="utf-8")


def check_free(
    *paths: Path,  # that are to be written
):
    "InputError if a text of ours would overwrite a file that is not ours."
    for path in paths:
        folder = path.parent
        if path.exists() and path.name not in _made(folder) and not _is_run(folder.parent):
            raise InputError(
                f"{path} already exists and would be overwritten; remove it, or give "
                "another folder"
            )


@cache
def say_once(
    sentence: str,  # printed the first time only
):
    "Print a line, unless it has been printed before."
    print(sentence, flush=True)
