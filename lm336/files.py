"Files that are whole or not there, that can be told apart by their digest, in folders that one process owns at a time."

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InputError

__all__ = [
    "atomic_path", "clear_leftovers", "owned", "pretrained_folder", "read_json", "read_json_lines", "sha256", "sync",
    "write_json",
]

LEFTOVER = ".lm336-unfinished-"  # what our temporary folders are called, and nobody else's files
LOCK = ".lm336.lock"


@contextmanager
def atomic_path(
    path: str | os.PathLike,  # where the finished file shall be; its folder is made if missing
) -> Iterator[Path]:
    """A path to write to: renamed to `path`, once it is on the disk, when the block ends; removed on any error.

    It lies in a folder of its own beside `path`, so that whatever a library leaves behind when the process is killed
    while it writes can be told from everybody else's files: see `clear_leftovers`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=LEFTOVER))
    try:
        yield folder / path.name
        sync(folder / path.name)
        os.replace(folder / path.name, path)
        sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(
    path: str | os.PathLike,  # a file, or a folder whose names are meant
):
    "Wait until the disk has it, so that a power cut cannot take it back."
    if os.path.isdir(path) and os.name == "nt":
        return  # Windows opens no folders, and has renamed when it says so
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def clear_leftovers(
    folder: str | os.PathLike,  # it and the folders inside it are looked through
):
    "Remove what `atomic_path` left when a process was killed, and only that. The caller owns the folder."
    for left in Path(folder).rglob(LEFTOVER + "*"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def owned(
    folder: str | os.PathLike,  # made if missing
) -> Iterator[Path]:
    """Own a folder while the block runs, cleared of what a killed process left there.

    A second process gets an `InputError` that names the folder; a crash releases it. Where the file system
    cannot lock, a warning says so, and nothing is held.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder} is in use by another process: wait until that has ended, or give another folder"
        ) from None
    except (NotImplementedError, OSError) as error:
        warnings.warn(f"{folder} cannot be locked ({error}): let no other process write there", stacklevel=3)
    try:
        if lock.lock_counter < 2:  # an owner inside an owner has nothing to clear
            clear_leftovers(folder)
        yield folder
    finally:
        if lock.is_locked:
            lock.release()


def sha256(
    path: str | os.PathLike,  # a file
) -> str:  # in hexadecimal
    "A file's digest: the same for the same bytes, and for no others."
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(
    path: str | os.PathLike,  # replaced as a whole
    value,  # anything that JSON can hold
    indent: int = 1,  # columns for each level
):
    "Write a value as UTF-8 JSON, whole or not at all."
    text = json.dumps(value, indent=indent) + "\n"
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_json(
    path: str | os.PathLike,  # a UTF-8 file
    kind: type = dict,  # what its value must be
) -> dict | list:
    "The value of a JSON file. `FileNotFoundError`; `InputError` for whatever is no JSON, or of another kind."
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        value = _strict(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {_first_sentence(error)}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path} must hold a JSON {'object' if kind is dict else 'list'}, not {type(value).__name__}")
    return value


def read_json_lines(
    path: str | os.PathLike,  # a UTF-8 file with an object on each line; a missing one has none
) -> list[dict]:
    """The objects of a log. A last line without its newline, cut short by a power cut, is left out;
    `InputError` names any other line that holds no object."""
    path = Path(path)
    if not path.exists():
        return []
    lines, values = path.read_bytes().split(b"\n"), []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            values.append(value)
        elif line.strip() and number < len(lines):
            raise InputError(f"{path}, line {number}: expected a JSON object")
    return values


def _strict(text):
    "JSON as its standard has it: no NaN, and no half of a surrogate pair, which no file could hold."
    def refused(constant):
        raise ValueError(f"{constant} is no number")

    value = json.loads(text, parse_constant=refused)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _first_sentence(error):
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 at byte {error.start:,}"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half of a surrogate pair"
    return str(error)


def pretrained_folder(
    name: str | os.PathLike,  # a folder, or "stories" for the model that comes with lm336
) -> Path:
    "Where a model or a tokenizer of that name is. A folder of the name wins over what comes with lm336."
    if str(name) != "stories" or Path(name).exists():
        return Path(name)
    installed, checkout = Path(__file__).parent / "stories", Path(__file__).parent.parent / "data" / "demo"
    return installed if installed.is_dir() else checkout
