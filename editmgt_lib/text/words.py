"""Words of a text, lists of phrases, and which text rows carry which word. Pure functions."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Scripts written without spaces: every character is a word, a longer name is matched as a phrase.
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


class WordRows(NamedTuple):
    """A word of a prompt: its text, its characters [start, end), the text rows that carry it."""

    word: str
    start: int
    end: int
    rows: tuple[int, ...]


def split_phrases(text: str | Iterable[str]) -> tuple[str, ...]:
    """Split at commas (of any script), semicolons and line ends; drop blanks.

    A sequence of phrases is not split further.
    """
    parts = re.split("[,;\n\uff0c\u3001]", text) if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())


def split_words(text: str) -> list[tuple[str, int, int]]:
    """Words of a text with their characters [start, end).

    A word is a run of letters, digits, underscores and the marks on them; in scripts without spaces
    every character is one. Punctuation separates, so "t-shirt" is two words and one phrase.
    """
    words: list[tuple[str, int, int]] = []
    start = None
    for index, character in enumerate(text + " "):
        mark = start is not None and unicodedata.category(character).startswith("M")
        inside = mark or character.isalnum() or character == "_"
        alone = inside and not mark and _UNSPACED.match(character)
        if start is not None and (
            not inside or alone or (_UNSPACED.match(text[start]) and not mark)
        ):
            words.append((text[start:index], start, index))
            start = None
        if inside and start is None:
            start = index
    return words


def place_words(text: str, spans: Sequence[tuple[int, int] | None]) -> tuple[WordRows, ...]:
    """Words of `text` with the rows whose characters overlap them.

    spans: per text row, the characters [start, end) it carries, None for padding and marks.
    """
    filled = [(row, *span) for row, span in enumerate(spans) if span and span[0] < span[1]]
    return tuple(
        WordRows(word, start, end, tuple(row for row, a, b in filled if a < end and start < b))
        for word, start, end in split_words(text)
    )


def match_phrase(prompt: Sequence[WordRows], phrase: str) -> list[WordRows]:
    """Every word of every occurrence of the phrase, whatever the case."""
    sought = [_fold(word) for word, _, _ in split_words(phrase)]
    have = [_fold(word.word) for word in prompt]
    size = len(sought)
    starts = [i for i in range(len(have) - size + 1) if have[i : i + size] == sought]
    return [prompt[i + k] for i in starts for k in range(size)]


def _fold(word: str) -> str:
    """Equal for words that differ only in case or in how their marks are encoded."""
    return unicodedata.normalize("NFKC", word).casefold()
