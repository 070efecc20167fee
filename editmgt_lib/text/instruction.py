"""An encoded prompt, with the text rows of each of its words.

It needs no text encoder any more: later stages use its tensors and plain fields alone.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from ..errors import InputError
from ..files import open_tensors, write_tensors
from .words import WordRows, match_phrase, split_phrases, split_words

DEFAULT_NEGATIVE = (
    "worst quality, low quality, low res, blurry, distortion, watermark, logo, signature, text, "
    "jpeg artifacts, signature, sketch, duplicate, ugly, identifying mark"
)
"""Negative prompt of the published example script."""

_KIND = "instruction"  # of file
_TENSORS = ("states", "pooled", "negative_states", "negative_pooled")


@dataclass(frozen=True, eq=False, repr=False)
class Instruction:
    """Encoded prompts. B prompts, L text rows, D text width, P pooled width.

    states, negative_states: [B, L, D] rows of the language model, padding rows included
    pooled, negative_pooled: [B, P] pooled CLIP embedding
        (both negative ones are None where they were not encoded, as guidance was off)
    rows: per prompt, its words in order with the text rows of each (none where it was cut off)
    content_rows: per prompt, all rows that carry prompt tokens (no padding, no start or end mark)
    truncated: per prompt, how many of its tokens did not fit into L rows
    prompt_notes: per prompt, what its author should know: unknown words, a text that was cut
    Row indices belong to the tokenizer whose states are used; it pads on the left, so they lie at
    the end. (The published code looks words up in the other tokenizer and so points at padding.)
    Raises InputError when sizes contradict each other.
    """

    prompt: tuple[str, ...]
    negative: tuple[str, ...]
    states: torch.Tensor
    pooled: torch.Tensor
    negative_states: torch.Tensor | None
    negative_pooled: torch.Tensor | None
    rows: tuple[tuple[WordRows, ...], ...]
    content_rows: tuple[tuple[int, ...], ...]
    truncated: tuple[int, ...]
    prompt_notes: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        batch = len(self.prompt)
        if not self.prompt_notes:
            object.__setattr__(self, "prompt_notes", ((),) * batch)
        if (self.negative_states is None) != (self.negative_pooled is None):
            raise InputError("instruction: give both negative_states and negative_pooled, or none")
        given = self._tensors
        for name in ("negative", "rows", "content_rows", "truncated", "prompt_notes", *given):
            if len(getattr(self, name)) != batch or not batch:
                raise InputError(
                    f"instruction: {name} has {len(getattr(self, name))} entries for {batch} "
                    "prompts; give one per prompt, and at least one prompt"
                )
        for name, tensor in given.items():
            ndim = 3 if name.endswith("states") else 2
            other = getattr(self, name.removeprefix("negative_"))
            if tensor.ndim != ndim or tensor.shape != other.shape:
                raise InputError(
                    f"instruction: {name} is {tuple(tensor.shape)}, expected {ndim} axes and the "
                    f"shape of its positive counterpart {tuple(other.shape)}"
                )

        self._check_rows()

    def _check_rows(self) -> None:
        for words, content in zip(self.rows, self.content_rows, strict=True):
            named = {row for word in words for row in word.rows} | set(content)
            if outside := sorted(row for row in named if not 0 <= row < self.text_length):
                raise InputError(
                    f"instruction: rows {outside[:4]} are outside its {self.text_length} text rows"
                )

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.states.shape))
        first = self.prompt[0] if len(self.prompt[0]) <= 40 else self.prompt[0][:37] + "..."
        more = f" +{len(self.prompt) - 1}" if len(self.prompt) > 1 else ""
        kind = f"{self.states.dtype}, {self.states.device}"
        return f"Instruction({first!r}{more}, states {shape}, {kind})"

    @property
    def _tensors(self) -> dict[str, torch.Tensor]:
        """Those there are, by name."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @property
    def _plain(self) -> dict[str, tuple]:
        """All other fields."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TENSORS}

    @property
    def guided(self) -> bool:
        """Whether the negative prompts are encoded, as guidance needs."""
        return self.negative_states is not None

    @property
    def batch(self) -> int:
        """Number of prompts B."""
        return len(self.prompt)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the author of the prompts should know, as sentences, none twice."""
        return tuple(dict.fromkeys(note for notes in self.prompt_notes for note in notes))

    @property
    def text_length(self) -> int:
        """Number of text rows L."""
        return self.states.shape[1]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Instruction":
        """The same instruction with its tensors on `device` and in `dtype` (None keeps)."""
        moved = {name: tensor.to(device, dtype) for name, tensor in self._tensors.items()}
        return replace(self, **moved)

    def expand(self, batch: int) -> "Instruction":
        """One prompt repeated for `batch` pictures (tensors are views); B prompts stay as they are.

        Raises InputError when B is neither 1 nor `batch`.
        """
        if self.batch == batch:
            return self
        if self.batch != 1 or batch < 1:
            raise InputError(
                f"instruction holds {self.batch} prompts for {batch} pictures; give one prompt or "
                f"{batch} prompts"
            )
        tensors = {n: t.expand(batch, *t.shape[1:]) for n, t in self._tensors.items()}
        return replace(self, **tensors, **{n: value * batch for n, value in self._plain.items()})

    def item(self, k: int) -> "Instruction":
        """Prompt k alone (tensors are views)."""
        parts = {**self._tensors, **self._plain}
        return replace(self, **{name: value[k : k + 1] for name, value in parts.items()})

    def rows_of(self, words: str | Sequence[str]) -> list[list[int]]:
        """Text rows of words or phrases, per prompt: sorted, all occurrences, no row twice.

        words: a sequence of words or phrases, or one string where commas separate them. Case does
        not matter; only whole words match, and the words of a phrase must follow each other.
        Raises InputError naming the words a prompt lacks (and listing those it has), or words cut
        off because the prompt is longer than the text rows.
        """
        phrases = _named_phrases(words)
        return [self._rows_of_item(item, phrases) for item in range(self.batch)]

    def _rows_of_item(self, item: int, phrases: Sequence[str]) -> list[int]:
        found = {phrase: match_phrase(self.rows[item], phrase) for phrase in phrases}
        if missing := [phrase for phrase, hits in found.items() if not hits]:
            have = ", ".join(dict.fromkeys(word.word for word in self.rows[item])) or "none"
            raise InputError(
                f"words: {', '.join(missing)} is not in the prompt {self.prompt[item]!r}; "
                f"its words are: {have}"
            )
        rows = {
            phrase: {row for word in hits for row in word.rows} for phrase, hits in found.items()
        }
        if lost := [phrase for phrase in phrases if not rows[phrase]]:
            raise InputError(
                f"words: {', '.join(lost)} was cut off, the prompt is {self.truncated[item]} "
                f"tokens longer than the {self.text_length} text rows; shorten it"
            )
        return sorted(set().union(*rows.values()))

    def save(self, path: str | os.PathLike) -> None:
        """Write one safetensors file, plain fields as JSON in its header.

        Raises InputError when the place cannot be written; an older file then stays as it was.
        """
        write_tensors(path, self._tensors, _KIND, self._plain)

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str = "cpu") -> "Instruction":
        """Read what `save` wrote. Raises InputError for any other file."""
        with open_tensors(path, _KIND, device) as (tensors, plain):
            plain = {name: tuple(value) for name, value in plain.items()}
            for name in ("content_rows", "prompt_notes"):
                plain[name] = tuple(map(tuple, plain.get(name, ())))
            plain["rows"] = tuple(
                tuple(WordRows(word, start, end, tuple(rows)) for word, start, end, rows in item)
                for item in plain["rows"]
            )
            needed = {name: tensors[name] for name in ("states", "pooled")}
            return cls(**plain, **{**dict.fromkeys(_TENSORS), **tensors, **needed})


def _named_phrases(words: str | Sequence[str]) -> tuple[str, ...]:
    """The phrases asked for; InputError when there is none or one holds no word."""
    phrases = tuple(dict.fromkeys(split_phrases(words)))
    if empty := [phrase for phrase in phrases if not split_words(phrase)]:
        raise InputError(
            f"words: {', '.join(empty)} holds no letter or digit; name words of the prompt"
        )
    if not phrases:
        raise InputError(f"words={words!r} names nothing; name words of the prompt")
    return phrases
