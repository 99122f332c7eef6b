"Files that are whole or not there, in folders that one process owns at a time."

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from filelock import BaseFileLock, FileLock, Timeout

from .errors import InputError

__all__ = [
    "PRESETS",
    "append_json_line",
    "atomic_path",
    "clear_leftovers",
    "log_file",
    "made_once",
    "owned",
    "pretrained_folder",
    "read_json",
    "read_json_lines",
    "sha256",
    "sync",
    "write_json",
]

LEFTOVER = ".lm336-unfinished-"  # what our temporary folders are called, and no others
LOCK = ".lm336.lock"
PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.json")))  # their names
LEVELS = 2  # our files lie at most this many folders below the one that is owned
_owners: dict[Path, tuple[int, int]] = {}  # folder -> process and thread that own it


@contextmanager
def atomic_path(
    path: str | os.PathLike,  # where the finished file goes; its folder is made if missing
) -> Iterator[Path]:
    """A path to write to: renamed to `path` when the block ends, removed on any error.

    It is in a folder of its own beside `path`, so that whatever a library leaves there when
    the process is killed can be told apart from everybody else's files: see
    `clear_leftovers`.
    """
    path = Path(path).absolute()  # whatever the current folder will be when the block ends
    if path.is_dir():
        raise InputError(f"{path} is a folder; a file is to be written, so give another name")
    _make_folder(path.parent)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=LEFTOVER))
    try:
        yield folder / path.name
        sync(folder / path.name)
        os.replace(folder / path.name, path)
        sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder(folder: Path):
    "Make a folder, with its parents, so that a power cut cannot take it back."
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} cannot be a folder: a file is in its place") from None
    for level in missing:
        sync(level.parent)


def sync(
    path: str | os.PathLike,  # a file, or a folder whose names are meant
):
    """Wait until the disk has it, so that a power cut cannot take it back.

    A file system that cannot report this is trusted.
    """
    if os.path.isdir(path) and os.name == "nt":
        return  # Windows cannot open folders; there, a rename is done when it returns
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def clear_leftovers(
    folder: str | os.PathLike,  # the caller owns it
):
    """Remove what `atomic_path` left when a process was killed, and only that.

    It looks into subfolders, too, except for those that had an owner of their own.
    """
    ours = re.compile(re.escape(LEFTOVER) + r"[a-z0-9_]{8}")
    top = Path(folder)
    for place, folders, _ in os.walk(top):
        level = len(Path(place).relative_to(top).parts)
        left = [name for name in folders if ours.fullmatch(name)]
        for name in left:
            shutil.rmtree(Path(place, name), ignore_errors=True)
        others = [name for name in folders if not Path(place, name, LOCK).exists()]
        folders[:] = sorted(set(others) - set(left)) if level < LEVELS else []


@contextmanager
def owned(
    folder: str | os.PathLike,  # made if missing
    keep_lock: bool = True,  # False: remove the lock's file at the end
) -> Iterator[Path]:
    """Own a folder while the block runs, cleared of what a killed process left there.

    A second process (or thread) gets an `InputError` that names the folder; a crash releases
    it; inside the block the owner may own it again. Where the file system cannot lock, a
    warning is given, and no lock is held.
    """
    folder = Path(folder)
    _make_folder(folder)
    place = folder.resolve()
    me = os.getpid(), threading.get_ident()
    if _owners.get(place) == me:
        yield folder  # an owner inside an owner has nothing to lock or to clear
        return
    try:
        lock = _lock(place / LOCK, seconds=0)
    except Timeout:
        raise InputError(
            f"{folder} is in use by another process: wait for it, or give another folder"
        ) from None
    _owners[place] = me
    try:
        clear_leftovers(place)
        yield folder
    finally:
        _owners.pop(place, None)
        if not keep_lock:
            _unlink_held(place / LOCK)
        if lock:
            lock.release()


@contextmanager
def made_once(
    path: str | os.PathLike,  # a file that several processes may want to make
) -> Iterator[Path]:
    """Be the only process that makes a file; others wait, and then find it made.

    Where the file system cannot lock, a warning is given, and no process waits.
    """
    path = Path(path)
    _make_folder(path.parent)
    place = path.with_name(f".{path.name}.lock")
    try:
        lock = _lock(place, seconds=0)
    except Timeout:
        print(f"another process is making {path}: waiting for it", flush=True)
        lock = _lock(place, seconds=-1)
    try:
        yield path
    finally:
        _unlink_held(place)
        if lock:
            lock.release()


def _unlink_held(path: Path):
    """Remove a lock's file. Only the process that holds the lock may do so.

    A process that opened the file before and locks it afterwards finds that it no longer has a
    name, and does not take it for the lock (filelock handles that).
    """
    with suppress(OSError):  # Windows removes it itself
        path.unlink()


def _lock(path: Path, seconds: float) -> BaseFileLock | None:
    """A lock that is held; None, with a warning, if the file system has no locks.

    `Timeout`; `OSError` if nothing can be written there, before anybody has worked for it.
    """
    lock = FileLock(path, timeout=seconds, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (NotImplementedError, OSError) as error:
        if not os.access(path.parent, os.W_OK):
            raise
        text = f"{path.parent} cannot be locked ({error}): let no other process write there"
        warnings.warn(text, stacklevel=4)
        return None
    return lock


def sha256(
    path: str | os.PathLike,  # a file
) -> str:  # in hexadecimal
    "A file's SHA-256 digest."
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(
    path: str | os.PathLike,  # replaced as a whole
    value: object,  # anything that JSON can hold
    indent: int = 1,  # columns for each level
):
    """Write a value as UTF-8 JSON, whole or not at all.

    `FloatingPointError` for NaN and infinity, which JSON does not have.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    except ValueError as error:
        raise FloatingPointError(f"{path} is not written: {error}") from None
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_json(
    path: str | os.PathLike,  # a UTF-8 file
    kind: type = dict,  # what its value must be
) -> Any:  # of that kind
    "The value of a JSON file. `InputError` if it is not JSON, or not of that kind."
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        value = _strict(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {_first_sentence(error)}") from None
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "list"
        raise InputError(f"{path} must hold a JSON {wanted}, not {type(value).__name__}")
    return value


def append_json_line(
    path: str | os.PathLike,  # a log; made if missing
    value: dict,  # its new last line
):
    "Add a line to a log, replacing a last line that a power cut left unfinished."
    _make_folder(Path(path).parent)
    line = json.dumps(value).encode("utf-8") + b"\n"
    with open(path, "a+b") as file:
        last = _unended(file)
        if _object(last):
            line = b"\n" + line
        elif last:
            file.truncate(file.seek(0, os.SEEK_END) - len(last))
        file.write(line)
        file.flush()
        sync(path)


def _unended(file: BinaryIO) -> bytes:
    "What follows the last newline of an open file: nothing, unless it was cut short."
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    if file.read() == b"\n":
        return b""
    file.seek(0)
    return file.read().rpartition(b"\n")[2]


def read_json_lines(
    path: str | os.PathLike,  # UTF-8, an object on each line; a missing file has none
) -> list[dict]:
    """The objects of a log. A last line that a power cut left unfinished is left out.

    `InputError` names any other line that holds no object.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    values = []
    for number, line in enumerate(lines, 1):
        value = _object(line)
        if value is not None:
            values.append(value)
        elif line.strip() and number < len(lines):
            raise InputError(f"{path}, line {number}: expected a JSON object")
    return values


def _object(line: bytes) -> dict | None:
    "The object that a line of a log holds, or None."
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _strict(text: str) -> Any:
    "JSON as its standard defines it: no NaN or infinity, no half of a surrogate pair."

    def refused(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number")

    def finite(digits: str) -> float:
        if not math.isfinite(float(digits)):
            refused(digits)
        return float(digits)

    value = json.loads(text, parse_constant=refused, parse_float=finite)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _first_sentence(error: Exception) -> str:
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
    "Where a model or a tokenizer of that name is. A folder called so comes first."
    if str(name) != "stories" or Path(name).is_dir():
        return Path(name)
    package = Path(__file__).parent
    installed = package / "stories"
    return installed if installed.is_dir() else package.parent / "data" / "demo"


def log_file(
    name: str,  # such as "experiments"
) -> Path:  # of a `.jsonl` file
    """Where a log that comes with lm336 is: of the experiments, or of a benchmark.

    In a clone they are in `data` and `benchmarks`. FileNotFoundError lists those that exist.
    """
    package = Path(__file__).parent
    clone = [package.parent / "data", package.parent / "benchmarks"]
    folders = [package / "logs"] if (package / "logs").is_dir() else clone
    logs = {path.stem: path for folder in folders for path in sorted(folder.glob("*.jsonl"))}
    if name not in logs:
        there = ", ".join(logs) or "none: install it again from its repository"
        raise FileNotFoundError(f"this lm336 comes without a log {name!r}; it has {there}")
    return logs[name]
