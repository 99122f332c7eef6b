"Texts in pieces: read at any size, cut between documents, split in two."

import codecs
import gzip
import io
import json
import os
import shutil
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .errors import END_OF_TEXT, InputError
from .folders import check_text, kind_of, say_once

__all__ = ["between", "decoded", "in_parts", "read_file", "utf8", "write_parts"]

PIECE = 1 << 20  # bytes read at a time


# Reading. -----------------------------------------------------------------------------------


def decoded(
    file: io.BufferedIOBase,  # open, binary
    path: Path,  # its name in error messages
    size: int = PIECE,  # bytes read at a time
) -> Iterator[str]:
    """The text of a UTF-8 file, piece by piece.

    A character that lies across two pieces waits until it is complete. InputError if the file
    is not UTF-8.
    """
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    while piece := file.read(size):
        held = len(decoder.getstate()[0])
        try:
            yield decoder.decode(piece)
        except UnicodeDecodeError as error:
            wrong = f"not UTF-8 at byte {position - held + error.start:,}"
            raise InputError(f"{path} is {wrong}; save it as UTF-8 text") from None
        position += len(piece)
    if decoder.getstate()[0]:
        raise InputError(f"{path} ends in the middle of a UTF-8 character; save it again")


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    "The bytes of a file, unpacked if its name ends in .gz."
    packed = path.name.lower().endswith(".gz")
    with (gzip.open if packed else open)(path, "rb") as file:
        try:
            yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is not a complete gzip file ({error})") from None


def _lines(path: Path, field: str) -> Iterator[str]:
    "The texts of a .jsonl file."
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line.decode("utf-8-sig"))[field]
                text.encode("utf-8")
            except UnicodeEncodeError:
                wrong = "half of a surrogate pair is not a character"
                raise InputError(f"{path}, line {number}: {wrong}") from None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                wrong = f'expected an object like {{"{field}": "some text"}}'
                raise InputError(f"{path}, line {number}: {wrong}") from None
            yield text


def read_file(
    path: Path,  # a .txt, .md or .jsonl file, with or without .gz
    separator: str,  # put after each text of a .jsonl file
    field: str,  # the text's name in a .jsonl file
) -> Iterator[str]:
    """The text of one file, piece by piece.

    FileNotFoundError; InputError if it is not UTF-8, lacks the field, or is of another kind.
    """
    check_text(path)
    if kind_of(path) == ".jsonl":
        for text in _lines(path, field):
            yield text + separator
    else:
        with _opened(path) as file:
            yield from decoded(file, path)


# Characters. ---------------------------------------------------------------------------------


def in_parts(
    chunks: Iterable[str],  # of any length
    size: int,  # characters
) -> Iterator[str]:  # each of at most that length
    "The same text in shorter parts."
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            yield chunk[start : start + size]


def utf8(
    text: str,  # any
) -> bytes:  # its encoding
    "A text as bytes. InputError if it has a lone surrogate."
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        at = error.start
        around = text[max(0, at - 10) : at + 11]
        raise InputError(
            f"the text has half a character, U+{ord(text[at]):04X}, in {around!r}; a lone "
            "surrogate is not text: read it with errors='replace' first"
        ) from None


# Documents. ---------------------------------------------------------------------------------


def _parts(pieces: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """A text that comes in pieces, cut where documents end: (part, whether one ends there).

    A separator may lie across two pieces, so the last characters of a piece wait for the next.
    """
    waiting = ""
    for piece in pieces:
        *ended, waiting = (waiting + piece).split(separator)
        for end in ended:
            yield end, True
        sure = max(0, len(waiting) - len(separator) + 1)  # no separator can begin before this
        yield waiting[:sure], False
        waiting = waiting[sure:]
    yield waiting, False


def between(
    pieces: Iterable[str],  # a text, cut anywhere
    separator: str,  # not empty
) -> Iterator[str]:
    "What lies between the separators of a text, empty or not: `str.split` for a stream."
    document = []
    for part, ended in _parts(pieces, separator):
        document.append(part)
        if ended:
            yield "".join(document)
            document = []
    yield "".join(document)


# Two parts. ---------------------------------------------------------------------------------


class _Written(NamedTuple):
    "A text in a file, and where each of its documents but the first begins."

    chars: int  # in the whole text
    starts: array  # characters before each of these documents
    sizes: array  # bytes before it


def write_parts(
    pieces: Iterable[str],  # a text, cut anywhere
    first: Path,  # gets its beginning
    second: Path,  # gets its end
    second_fraction: float,  # the share of the characters that should go to the end
    where: str | os.PathLike,  # the text's name in messages
) -> None:
    """Cut a text in two: at the start of the document nearest to the share that was asked for.

    If that would leave a part less than half of its share, the cut is within a document.
    The text is read once, so it may come from a pipe: all of it goes to the first file, and
    once its length is known, its end is moved to the second. InputError if nothing can be
    moved.
    """
    text = _write(pieces, first)
    if text.chars == 0:
        raise InputError(f"{where} is empty; give a file with text in it")
    chars, size = _cut(where, text, second_fraction)
    size = _bytes_before(first, chars) if size is None else size
    if not 0 < chars < text.chars or not _move_end(first, second, size):
        share = f"{where} has {text.chars:,} characters, and {second_fraction:.0%} of them"
        raise InputError(f"{share} cannot be cut off to validate on; give a longer text")


def _write(pieces: Iterable[str], path: Path) -> _Written:
    "Write a text, and note where its documents begin."
    chars, size, starts, sizes = 0, 0, array("Q"), array("Q")
    first, last = None, 0  # where there are words
    with open(path, "wb") as file:
        for part, ended in _parts(pieces, END_OF_TEXT):
            if part and not part.isspace():
                first = chars if first is None else first
                last = chars
            text = part + END_OF_TEXT if ended else part
            chars += len(text)
            size += file.write(text.encode("utf-8"))
            if ended:
                starts.append(chars)
                sizes.append(size)
    if first is None:
        return _Written(chars, array("Q"), array("Q"))
    inner = slice(bisect_right(starts, first), bisect_right(starts, last))
    return _Written(chars, starts[inner], sizes[inner])


def _cut(where: str | os.PathLike, text: _Written, fraction: float) -> tuple[int, int | None]:
    "How many characters the first part has, and how many bytes if a document ends there."
    cut = int(text.chars * (1 - fraction))
    start = _nearest_start(text, cut)
    if start is None:
        return cut, None
    share = 1 - text.starts[start] / text.chars
    if abs(share - fraction) > fraction / 2:
        say_once(f"{where}: its last documents, {share:.0%} of the text, are for validation")
    return text.starts[start], text.sizes[start]


def _nearest_start(text: _Written, cut: int) -> int | None:
    "Which of the starts is nearest to a cut; None if a part would lose more than half."
    first = bisect_left(text.starts, cut / 2)
    after = bisect_right(text.starts, (cut + text.chars) / 2)
    return min(
        range(first, after), key=lambda start: abs(text.starts[start] - cut), default=None
    )


def _bytes_before(path: Path, chars: int) -> int:
    "How many bytes the first characters of a text file take."
    size = 0
    with open(path, "rb") as file:
        for piece in decoded(file, path):
            size += len(piece[:chars].encode("utf-8"))
            chars -= len(piece)
            if chars <= 0:
                break
    return size


def _move_end(whole: Path, end: Path, at: int) -> bool:
    "Move the bytes from `at` on to another file; False, and no move, within a marker."
    separator = END_OF_TEXT.encode("utf-8")
    reach = len(separator) - 1
    begin = max(0, at - reach)
    with open(whole, "r+b") as source, open(end, "wb") as target:
        source.seek(begin)
        if separator in source.read(at + reach - begin):
            return False
        source.seek(at)
        shutil.copyfileobj(source, target, 1 << 20)
        source.truncate(at)
    return True
