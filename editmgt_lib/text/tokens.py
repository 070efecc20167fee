"""A text as token ids of one length: encoded once and padded, cut and explained here.

The options of a fast tokenizer (padding, truncation) are state of the tokenizer, shared by all
threads. None is used: its backend encodes the plain text and everything else is done on the result.
"""

import re
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from .words import place_words

WHOLE_WORDS = "whole_words"  # in tokenizer_config.json: a word of several tokens is an unknown word
_MOST_NAMED, _LONGEST = 12, 40  # words in a note, characters of one
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class TextTokens:
    """One text for one encoder.

    ids: padded and cut to the encoder's length.
    spans: per row, the characters [start, end) it carries, None for padding and marks.
    surplus: how many tokens did not fit.
    unknown: words (or characters outside words) the vocabulary lacks, in order.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int] | None, ...]
    surplus: int
    unknown: tuple[str, ...]


def prepare_tokenizer(name: str, tokenizer: Any, vocabulary: int) -> None:
    """Clear the padding and truncation a tokenizer file may switch on.

    vocabulary: number of tokens of the encoder beside it. Raises CheckpointError if the two do not
    belong together, or the tokenizer cannot report which characters a token carries.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{name} tokenizer is {type(tokenizer).__name__}, which reports no character offsets; "
            "save it as tokenizer.json"
        )
    if len(tokenizer) > vocabulary or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"{name} tokenizer has {len(tokenizer)} tokens and padding token "
            f"{tokenizer.pad_token!r}; the encoder beside it has {vocabulary} tokens "
            "and needs a padding token. Take both from the same checkpoint"
        )
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()


def tokenize(tokenizer: Any, text: str, length: int, padding_side: str) -> TextTokens:
    """Encode a text with the marks around it; cut the text's end, never the marks.

    tokenizer: as `prepare_tokenizer` left it. padding_side: "left" or "right".
    """
    encoding = tokenizer.backend_tokenizer.encode(text)
    marks = encoding.special_tokens_mask
    rows = [
        (token, None if mark else span)
        for token, mark, span in zip(encoding.ids, marks, encoding.offsets, strict=True)
    ]
    surplus = max(0, len(rows) - length)
    closing = marks[::-1].index(0) if 0 in marks else 0  # marks at the end
    end = len(rows) - closing
    rows = rows[: end - surplus] + rows[end:]
    padding = [(tokenizer.pad_token_id, None)] * (length - len(rows))
    ids, spans = zip(*(padding + rows if padding_side == "left" else rows + padding), strict=True)
    return TextTokens(ids, spans, surplus, _unknown(tokenizer, text, encoding))


def notes(name: str, rows: TextTokens, clip: TextTokens | None = None) -> tuple[str, ...]:
    """What the author of a text should know, as sentences; `name` says which text it is.

    rows: the text for the encoder of the text rows; clip: for CLIP, if that is another.
    """
    said = []
    if rows.unknown:
        named = ", ".join(f'"{word[:_LONGEST]}"' for word in rows.unknown[:_MOST_NAMED])
        more = len(rows.unknown) - _MOST_NAMED
        said.append(f"{name}: the model does not know {named}{f' and {more} more' * (more > 0)}")
    cut = [
        f"{len(tokens.ids) + tokens.surplus} tokens for {len(tokens.ids)} {unit}"
        for tokens, unit in ((rows, "text rows"), (clip, "CLIP positions"))
        if tokens is not None and tokens.surplus
    ]
    if cut:
        said.append(f"{name}: too long, its end is ignored ({', '.join(cut)})")
    return tuple(said)


def _unknown(tokenizer: Any, text: str, encoding: Any) -> tuple[str, ...]:
    """What is spelled with the unknown token, in bytes or, where words are whole, in pieces."""
    marks = encoding.special_tokens_mask
    spans = [None if mark else span for mark, span in zip(marks, encoding.offsets, strict=True)]
    odd = {
        row
        for row, piece in enumerate(encoding.tokens)
        if spans[row] and (piece == tokenizer.unk_token or _BYTE.fullmatch(piece))
    }
    whole = tokenizer.init_kwargs.get(WHOLE_WORDS, False)
    words = place_words(text, spans)
    found = {
        word.start: word.word
        for word in words
        if odd.intersection(word.rows) or (whole and len(word.rows) > 1)
    }
    outside = odd.difference(row for word in words for row in word.rows)
    found |= {spans[row][0]: text[slice(*spans[row])].strip() for row in outside}
    return tuple(dict.fromkeys(found[start] for start in sorted(found) if found[start]))
