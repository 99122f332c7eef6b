"""What makes a tokenizer, and how files keep one: in Hugging Face's layout, or in GPT-2's.

`from_json(to_json(...))` gives the same vocabulary. A file that asks for anything that lm336's
tokenizer does not do is rejected, and the message names the setting. Chapter 02 of the book
explains why a byte is written as a character.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as shown
from typing import cast

from .errors import InputError
from .files import read_json

__all__ = [
    "from_json", "from_printable", "ids_of_tokens", "printable", "ranks_of_merges",
    "read_gpt2", "to_json",
]


# A byte as a character. ----------------------------------------------------------------------


def _byte_characters() -> dict[int, str]:
    "GPT-2's printable character for each byte: itself if it prints, or one from U+0100 on."
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)}
    printing |= {*range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return {b: chr(b if b in printing else next(others)) for b in range(256)}


_CHARACTERS = _byte_characters()
_BYTES = {character: b for b, character in _CHARACTERS.items()}


def printable(
    token: bytes,  # any bytes
) -> str:  # as many characters
    "A token as it is written in files, with a printable character for each byte."
    return "".join(_CHARACTERS[b] for b in token)


def from_printable(
    text: str,  # as `printable` writes a token
) -> bytes | None:
    "The bytes that printable characters stand for; None if one of them stands for no byte."
    if not _BYTES.keys() >= set(text):
        return None
    return bytes(_BYTES[character] for character in text)


# What makes a tokenizer. ---------------------------------------------------------------------


def ids_of_tokens(
    vocab: Mapping[int, bytes],  # id -> token; the ids are 0 to len(vocab) - 1
    special_tokens: Sequence[str],  # valid Unicode; new ones get the next ids
) -> dict[bytes, int]:  # in the order of the ids
    """The inverse of the vocabulary.

    InputError if an id or one of the 256 bytes is missing, if two ids have the same bytes, or
    if a special token could not be told from another token in a file.
    """
    if set(vocab) != set(range(len(vocab))):
        raise InputError(f"the vocabulary's {len(vocab)} ids are not 0 to {len(vocab) - 1}, "
                         "each once")
    ids = {}
    for i, token in sorted(vocab.items()):
        if not isinstance(token, bytes) or not token:
            raise InputError(f"id {i} of the vocabulary is {shown(token)}; "
                             "expected one byte or more")
        if ids.setdefault(token, int(i)) != i:
            raise InputError(f"ids {ids[token]} and {i} of the vocabulary are both "
                             f"{shown(token)}; a token has one id")
    _check_special_tokens(special_tokens, ids)
    for token in special_tokens:
        ids.setdefault(token.encode("utf-8"), len(ids))
    missing = [b for b in range(256) if bytes([b]) not in ids]
    if missing:
        raise InputError(f"the vocabulary has no token for {len(missing)} of the 256 bytes, "
                         f"among them {missing[0]}")
    return ids


def ranks_of_merges(
    merges: Sequence[tuple[bytes, bytes]],  # in the order in which they were learned
    ids: Mapping[bytes, int],  # of the tokens
) -> dict[tuple[bytes, bytes], int]:  # merge -> its place
    "The order of the merges; InputError for merges that cannot be done in this order."
    for rank, pair in enumerate(merges):
        if len(pair) != 2 or {type(part) for part in pair} != {bytes}:
            raise InputError(f"merge {rank} is {shown(pair)}; expected two strings of bytes")
    made = {a + b: rank for rank, (a, b) in enumerate(merges)}
    ranks = {}
    for rank, (a, b) in enumerate(merges):
        merge = f"merge {rank} joins {shown(a)} and {shown(b)}"
        if not {a, b, a + b} <= ids.keys():
            raise InputError(f"{merge}; the vocabulary must have both and {shown(a + b)}")
        late = max(made.get(a, -1), made.get(b, -1))
        if late >= rank:
            raise InputError(
                f"{merge}, but merge {late} makes one of them; merges must be in the order "
                "in which they were learned"
            )
        if (a, b) in ranks:
            raise InputError(f"{merge}, as merge {ranks[a, b]} does; "
                             "each pair can be learned once")
        ranks[a, b] = rank
    return ranks


def _check_special_tokens(special_tokens: Sequence[str], ids: Mapping[bytes, int]):
    """InputError for a special token that looks like another token's printable form.

    Special tokens are written unchanged, so no reader of the file could tell the two apart.
    """
    known = {*ids, *(bytes([b]) for b in range(256))}
    known |= {token.encode("utf-8") for token in special_tokens}
    for token in special_tokens:
        looks_like = from_printable(token)
        if looks_like in known and looks_like != token.encode("utf-8"):
            raise InputError(
                f"special token {token!r} is how files write the token {looks_like!r}, so "
                f"a file could not tell them apart; use another, such as '<|{token}|>'"
            )


# Out. ----------------------------------------------------------------------------------------


_CUT = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
_PLAIN = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
_UNSET = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
_MODEL = dict(type="BPE", fuse_unk=False, byte_fallback=False, ignore_merges=False)


def to_json(
    vocab: Mapping[int, bytes],  # id -> token, special tokens included
    merges: Sequence[tuple[bytes, bytes]],  # in the order in which they were learned
    special_ids: Mapping[str, int],  # special token -> id
) -> dict:
    """A tokenizer in the layout of tokenizer.json.

    A special token that the merges also build is in the vocabulary in both spellings.
    """
    special = {i: token for token, i in special_ids.items()}
    merged = {token for a, b in merges for token in (a, b, a + b)}
    printed = {}
    for i, token in sorted(vocab.items()):
        if i in special:
            printed[special[i]] = i
        if i not in special or token in merged:
            printed[printable(token)] = i
    pairs = [[printable(a), printable(b)] for a, b in merges]
    added = [dict(id=i, content=token) | _PLAIN for i, token in sorted(special.items())]
    return dict(
        version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
        pre_tokenizer=_CUT, post_processor=None, decoder=_CUT,
        model=_MODEL | dict.fromkeys(_UNSET) | dict(vocab=printed, merges=pairs),
    )


# In. -----------------------------------------------------------------------------------------


def from_json(
    data: dict,  # what a tokenizer.json holds
    where: str | os.PathLike,  # the file, as errors name it
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]], list[str]]:
    """The vocabulary, merges and special tokens of a tokenizer.json.

    InputError names the setting that lm336's tokenizer does not follow, or what is damaged.
    """
    _refuse_what_is_not_followed(data, where)
    special = _added_ids(data.get("added_tokens") or [], where)
    vocab = _vocab_bytes(data["model"].get("vocab"), special, where)
    return vocab, _merge_bytes(data["model"].get("merges"), where), list(special)


def read_gpt2(
    vocab_path: str | os.PathLike,  # JSON: printable token -> id
    merges_path: str | os.PathLike,  # text: on each line two printable tokens, a space between
    special_tokens: Sequence[str],  # unchanged where they are in the vocabulary
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    "Vocabulary and merges in GPT-2's format. InputError names what is wrong."
    vocab = cast(dict, read_json(vocab_path))
    pairs = _merge_lines(merges_path)
    special = {token: vocab[token] for token in special_tokens if token in vocab}
    return _vocab_bytes(vocab, special, vocab_path), _merge_bytes(pairs, merges_path)


def _token_bytes(text: str, where: str | os.PathLike) -> bytes:
    "The bytes of a token in printable characters; InputError names the file."
    found = from_printable(text)
    if found is None:
        raise InputError(
            f"{where}: {shown(text)} is not a token; it has a character that stands for no "
            "byte in GPT-2's alphabet"
        )
    return found


def _vocab_bytes(
    vocab: object, special: Mapping[str, int], where: str | os.PathLike
) -> dict[int, bytes]:
    "Printable vocabulary -> id to bytes. Special tokens (text -> id) are in it unchanged."
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise InputError(f"{where} has no vocabulary: an object of tokens and whole numbers "
                         "is expected")
    tokens = {}
    for text, i in vocab.items():
        token = text.encode("utf-8") if text in special else _token_bytes(text, where)
        if tokens.setdefault(i, token) != token:
            raise InputError(f"{where}: id {shown(i)} is both {shown(tokens[i])} and "
                             f"{shown(token)}")
    free = len(vocab)
    for text, i in special.items():
        place = vocab.get(text, free)
        if i != place:
            raise InputError(
                f"{where}: the added token {shown(text)} has the id {shown(i)}, and its place "
                f"in the vocabulary is {shown(place)}"
            )
        if text not in vocab:
            tokens[i] = text.encode("utf-8")
            free += 1
    return tokens


def _merge_bytes(merges: object, where: str | os.PathLike) -> list[tuple[bytes, bytes]]:
    "Pairs of printable tokens, with a space between or in a list, as pairs of bytes."
    if not isinstance(merges, list):
        raise InputError(f"{where} has no merges: a list of pairs of tokens is expected")
    pairs = []
    for rank, pair in enumerate(merges):
        parts = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
            raise InputError(f"{where}: merge {rank} is {shown(pair)}; expected two tokens")
        pairs.append((_token_bytes(parts[0], where), _token_bytes(parts[1], where)))
    return pairs


def _merge_lines(path: str | os.PathLike) -> list[list[str]]:
    "The pairs of a merges.txt. InputError names the line that is wrong."
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; expected GPT-2's merges.txt")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start:,}") from None
    merges = []
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise InputError(f"{path}, line {number}: expected two tokens and a space "
                             f"between them, found {shown(line)}")
        merges.append(pair)
    return merges


def _added_ids(added: list[dict], where: str | os.PathLike) -> dict[str, int]:
    "Text -> id of a tokenizer.json's added tokens."
    ids = {}
    for token in added:
        text, i = token.get("content"), token.get("id")
        if not isinstance(text, str) or type(i) is not int:
            raise InputError(
                f"{where}: an added token has the content {shown(text)} and the id "
                f"{shown(i)}; expected a text and a whole number"
            )
        if ids.setdefault(text, i) != i:
            raise InputError(f"{where}: the added token {shown(text)} has two ids, "
                             f"{shown(ids[text])} and {shown(i)}")
    return ids


# What is followed, and what is refused. ------------------------------------------------------

_ANY = object()  # a setting that does not change any id
_BYTE_LEVEL = dict(type="ByteLevel", add_prefix_space=_ANY, use_regex=_ANY, trim_offsets=_ANY)
_FOLLOWED = {  # part of a tokenizer.json -> the settings that may be set, and to what
    "": dict(version="1.0", added_tokens=_ANY, model=_ANY)
    | dict(pre_tokenizer=_ANY, post_processor=_ANY, decoder=_ANY),
    "pre_tokenizer": _BYTE_LEVEL | dict(add_prefix_space=False, use_regex=True),
    "post_processor": _BYTE_LEVEL,
    "decoder": _BYTE_LEVEL,
    "model": dict(type="BPE", vocab=_ANY, merges=_ANY, unk_token=_ANY),  # no byte is unknown
    "added_tokens": dict(id=_ANY, content=_ANY, special=_ANY, normalized=_ANY),
}


def _refuse_settings(
    settings: object, part: str, where: str | os.PathLike, required: Sequence[str] = ()
):
    "InputError names the first setting that this tokenizer does not follow."
    if not isinstance(settings, dict):
        raise InputError(f"{where}: {part} is {shown(settings)}; an object is expected")
    for name, value in (dict.fromkeys(required) | settings).items():
        found = f"{where}: {shown(name)} in its {part or 'settings'} is {shown(value)}"
        if name not in _FOLLOWED[part]:
            if value:
                raise InputError(f"{found}; this tokenizer has no such setting")
            continue
        followed = _FOLLOWED[part][name]
        if followed is not _ANY and value != followed:
            raise InputError(f"{found}; this tokenizer follows only {followed!r}")


def _adds_nothing(template: object) -> bool:
    "Whether it is a TemplateProcessing that adds nothing to the text, as transformers writes."
    if not isinstance(template, dict) or template.get("type") != "TemplateProcessing":
        return False
    single = template.get("single")
    if not isinstance(single, list) or len(single) != 1:
        return False
    return isinstance(single[0], dict) and list(single[0]) == ["Sequence"]


def _refuse_what_is_not_followed(data: dict, where: str | os.PathLike):
    "InputError names what a tokenizer.json asks for that this tokenizer does not do."
    _refuse_settings(data, "", where)
    cut = data.get("pre_tokenizer")
    _refuse_settings(cut, "pre_tokenizer", where, required=("type", "add_prefix_space"))
    _refuse_settings(data.get("decoder") or {}, "decoder", where)
    last = data.get("post_processor") or {}
    if not _adds_nothing(last):
        _refuse_settings(last, "post_processor", where)
    _refuse_settings(data.get("model"), "model", where)
    added = data.get("added_tokens") or []
    if not isinstance(added, list):
        raise InputError(f"{where}: added_tokens is {shown(added)}; a list is expected")
    for token in added:
        _refuse_settings(token, "added_tokens", where)
    if len({bool(token.get("normalized")) for token in added}) > 1:
        raise InputError(
            f"{where}: 'normalized' is true for some of its added_tokens and false for "
            "others; this tokenizer looks for all of them at once"
        )
