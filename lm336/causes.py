"""Which part of the grammar decides each token of a story: the causes of what a model
lacks; and where a generated text leaves the grammar.

A story is told by rules, so every byte is written by a piece of the grammar: fixed words,
a word of a list, somebody's name. Where a text can be told in several ways, or is
unfinished, the most probable way to tell it counts."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import regex

from .automaton import Cast, words_of
from .bpe import PRETOKEN_PATTERN
from .errors import InputError
from .grammar import Choice, Mention, Plot, StoryGrammar
from .oracle import Oracle
from .tokenizer import Tokenizer

__all__ = ["CAUSES", "Cause", "Judgement", "gap_by_cause", "judge", "token_causes"]

CAUSES = ("agreement", "cast", "word lists", "plot", "spelling", "end", "other")


class Cause(NamedTuple):
    "What decides a token."

    name: str  # one of CAUSES
    about: str = ""  # agreement, cast: the list from which the one who is named was drawn
    distance: int = 0  # agreement: how many tokens before he was named last


class _Piece(NamedTuple):
    "What one part of the grammar writes."

    begin: int  # the byte at which it begins
    words: tuple[bytes, ...]  # what it can be; none: the story is over
    cause: str  # of its first letter
    about: str = ""  # the list from which a member of the cast is named
    before: int = -1  # the byte at which he was named last


class _Telling(NamedTuple):
    "How far a plot has told a text."

    at: int  # bytes told
    place: tuple | None  # (parts, index, the place after them); None: the story is over
    cast: Cast  # who may still be who
    share: float  # its probability, but for the cast's
    chosen: bool  # whether a way was chosen since the last byte
    named: dict[int, int]  # slot -> the byte at which it was named last
    path: tuple | None  # (the pieces before, the last)


@lru_cache(4096)
def _encoded(words: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(word.encode() for word in words)


@lru_cache(4096)
def _members(words: tuple[str, ...], may: int) -> dict[bytes, int]:
    "The words that members may have, each with these members, as bits."
    found: dict[bytes, int] = {}
    for number, word in enumerate(_encoded(words)):
        if may >> number & 1:
            found[word] = found.get(word, 0) | 1 << number
    return found


def _first_letter(part: Any, ways: int, chosen: bool) -> str:
    "The cause of the first letter of a part, which can be so many different words."
    if isinstance(part, Mention):
        return "agreement" if ways == 1 else "cast"
    return "word lists" if chosen or isinstance(part, Choice) else "plot"


def _go_on(told: _Telling, plot: Plot, text: bytes) -> Iterator[tuple[_Telling, bool]]:
    "A telling after one more part, each way, and whether the text ends within that part."
    assert told.place is not None
    (parts, index, after), lists = told.place, list(plot.cast.values())
    part, after = parts[index], (parts, index + 1, after)
    words = (part,) if isinstance(part, str) else words_of(part)
    if words is None:
        assert isinstance(part, Choice)
        for way in part.ways:
            share = told.share / len(part.ways)
            yield told._replace(place=(way, 0, after), share=share, chosen=True), False
        return
    slot = part.slot if isinstance(part, Mention) else None
    may = (1 << len(words)) - 1 if slot is None else told.cast.candidates[slot]
    left, named, about = _members(words, may), told.named, ("", -1)
    if slot is not None:
        named, about = {**named, slot: told.at}, (lists[slot], named.get(slot, -1))
    cause = _first_letter(part, len(left), told.chosen)
    piece = _Piece(told.at, _encoded(words), cause, *about)
    told = told._replace(place=after, named=named, path=(told.path, piece))
    rest = text[told.at :]
    for word, members in left.items():
        if not (word.startswith(rest) or text.startswith(word, told.at)):
            continue
        cast = told.cast if slot is None else told.cast.narrowed(slot, members)
        share = told.share * (members.bit_count() / len(words) if slot is None else 1)
        chosen = not word and (told.chosen or not isinstance(part, str))
        new = told._replace(at=told.at + len(word), cast=cast, share=share, chosen=chosen)
        if cast.count:
            yield new, len(word) > len(rest)


def _pieces(grammar: StoryGrammar, text: bytes, ended: bool) -> list[_Piece]:
    "The pieces that tell a text; the last is the one that writes what follows it."
    found: dict[int, tuple[float, tuple | None]] = {}  # by the id of the last pieces
    for plot in grammar.plots:
        fixed = [part.encode() for part in plot.parts if isinstance(part, str)]
        if ended and not all(part in text for part in fixed):
            continue
        whole = Cast.of(plot)
        waiting = [_Telling(0, (plot.parts, 0, None), whole, 1.0, False, {}, None)]
        while waiting:
            told = waiting.pop()
            while told.place is not None and told.place[1] == len(told.place[0]):
                told = told._replace(place=told.place[2])
            if told.place is None:
                if told.at == len(text):
                    path = told.path, _Piece(told.at, (), "end")
                    found[id(path)] = told.share * told.cast.count / whole.count, path
                continue
            for new, within in _go_on(told, plot, text):
                if not within:
                    waiting.append(new)
                elif not ended:
                    share, _ = found.get(id(new.path), (0.0, None))
                    share += new.share * new.cast.count / whole.count
                    found[id(new.path)] = share, new.path
    _, path = max(found.values(), key=itemgetter(0), default=(0.0, None))
    pieces = []
    while path is not None:
        path, piece = path
        pieces.append(piece)
    return pieces[::-1]


def _cause(
    pieces: list[_Piece], text: bytes, begin: int, end: int, starts: set[int]
) -> _Piece:
    "The piece that decides a token, with its cause; `starts`: where pre-tokens begin."
    token = text[begin:end]
    first = begin + len(token) - len(token.lstrip(b" ") or token)
    at = bisect_right(pieces, first, key=lambda piece: piece.begin) - 1
    piece, over = pieces[at], pieces[-1].begin if not pieces[-1].words else -1
    if piece.begin == over or text[begin:] == b"\n" and over >= 0:
        return piece._replace(cause="end")
    within = [one for one in pieces[at + 1 :] if first < one.begin < end]
    if any(one.cause != "plot" for one in within):
        return piece._replace(cause="other")
    so_far = text[piece.begin : begin]
    if not so_far.strip():
        return piece
    if len(piece.words) == 1:
        return piece._replace(cause="plot" if begin in starts else "spelling")
    if sum(word.startswith(so_far) for word in set(piece.words)) == 1:
        return piece._replace(cause="spelling")
    return piece


def _starts(text: bytes) -> set[int]:
    "Where pre-tokens begin."
    found, at = set(), 0
    for match in regex.finditer(PRETOKEN_PATTERN, text.decode(errors="replace")):
        found.add(at)
        at += len(match[0].encode())
    return found


def token_causes(
    grammar: StoryGrammar,  # that told the stories
    tokenizer: Tokenizer,  # whose tokens they are
    ids: Sequence[int] | np.ndarray,  # (num_tokens,) of stories; the last may be unfinished
) -> list[Cause]:  # one for each token
    """What decides each token of some stories: the piece that writes its first byte, spaces
    aside.

    - agreement: somebody of the cast is named, and what came before leaves only one word
    - cast: somebody is named, and several words are possible
    - word lists: a word of a list begins, or one of several ways to go on
    - plot: a word of fixed text begins
    - spelling: the rest of a word, where the list has no other that begins so
    - end: the end of a story, and the newline before it
    - other: a token within which another of these begins

    `InputError` for a text that is not a story."""
    causes, story = [], []
    end = tokenizer.end_of_text_id
    for at, token in enumerate(np.asarray(ids).tolist(), 1):
        story.append(token)
        if token == end or at == len(ids):
            causes += _story_causes(grammar, tokenizer, story, token == end)
            story = []
    return causes


def _story_causes(
    grammar: StoryGrammar, tokenizer: Tokenizer, ids: list[int], ended: bool
) -> Iterator[Cause]:
    "The causes of one story's tokens."
    tokens = [tokenizer.vocab[token] for token in ids[: -1 if ended else None]]
    text = b"".join(tokens)
    pieces, starts = _pieces(grammar, text, ended), _starts(text)
    if not pieces:
        beginning = text.decode(errors="replace")[:80]
        raise InputError(f"no story goes like this: {beginning!r} ...")
    ends = np.cumsum([len(token) for token in tokens] + [1] * ended)
    begins = [0, *ends[:-1].tolist()]
    for at, (begin, end) in enumerate(zip(begins, ends.tolist(), strict=True)):
        name, about, before = _cause(pieces, text, begin, end, starts)[2:]
        distance = 0
        if name == "agreement" and before >= 0:
            distance = at + 1 - int(np.searchsorted(begins, before, side="right"))
        yield Cause(name, about if name in ("agreement", "cast") else "", distance)


def gap_by_cause(
    excess: np.ndarray,  # (num_tokens,) a model's bits less the perfect reader's
    of_oracle: np.ndarray,  # (num_tokens,) the perfect reader's bits
    causes: Sequence[Cause],  # (num_tokens,) from `token_causes`
) -> dict[str, float]:  # cause -> its share of the perfect reader's bits; the sum is the gap
    "The report card's gap, cause by cause."
    names = np.array([cause.name for cause in causes])
    return {name: float(excess[names == name].sum() / of_oracle.sum()) for name in CAUSES}


class Judgement(NamedTuple):
    "Whether the grammar can produce a text, and if not, where it leaves the grammar."

    told: bool  # whether it can
    at: int  # the bytes that a story may begin with
    cause: str = ""  # what decides the token there, if no story goes on with it


def judge(
    oracle: Oracle,  # who knows the stories
    tokenizer: Tokenizer,  # whose token is blamed
    text: str,  # generated
    ended: bool = True,  # whether the text is whole; if not, a story may begin with it
) -> Judgement:
    "Whether a generated text is a story, and if not, at which token it leaves the grammar."
    data = text.encode()
    at = oracle.told(text, ended)
    if at == len(data) + ended:
        return Judgement(True, len(data))
    if at == len(data):
        return Judgement(False, at, "end")
    begin = 0
    for token in tokenizer.encode(text):
        size = len(tokenizer.vocab[token])
        if begin + size > at:
            break
        begin += size
    letter = begin + (data[begin] == 32)  # a token may begin with a space
    pieces = _pieces(oracle.grammar, data[: min(letter, at)], False)
    return Judgement(False, at, _cause(pieces, data, begin, letter + 1, _starts(data)).cause)
