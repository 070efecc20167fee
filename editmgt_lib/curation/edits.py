"""Stage `edits`: an instruction done by every editor, and the better result chosen by a judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..checks import require_number
from ..data.draws import draws
from ..data.rows import key_of
from ..endpoints.pictures import encoded
from ..errors import InputError
from .backends.base import Editor, Judge, NoAnswer, Pixels, seed_of
from .backends.sizes import resized, working_size
from .choosing import Choice, choose
from .decoding import decode_picture
from .instructions import joined
from .rows import Failure, Found, Row, Unavailable, failure_of

VERSION = 2  # of the steps here; other results for the same answers need another number
VALUES = ("width", "height", "agreed")
"""Numbers a threshold may be set for; agreed is 1 or 0."""


@dataclass(frozen=True)
class EditOptions:
    """How editors are asked. Raises InputError.

    Attributes:
        short_side: of a pair, in pixels; larger pictures are scaled down first. 0: never.
        tries: edits by each editor, with a seed each.
        seed: of all seeds.
    """

    short_side: int = 1024
    tries: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        require_number("short_side", self.short_side, 0, 8192, whole=True)
        require_number("tries", self.tries, 1, 20, whole=True)
        require_number("seed", self.seed, 0, 2**63 - 1, whole=True)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What an editor gave. pixels: None with a failure."""

    editor: Editor
    seed: int
    pixels: Pixels | None = None
    facts: Mapping[str, Any] | None = None
    failure: Failure | None = None

    @property
    def told(self) -> dict[str, Any]:
        """As plain data."""
        editor, failure = self.editor, self.failure
        said = {"failure": failure.code, "detail": failure.detail} if failure else {"failure": ""}
        return {
            "editor": editor.name, "revision": editor.revision, "licence": editor.terms.licence,
            "uses": list(editor.terms.uses), "seed": self.seed, **said,
            "facts": dict(self.facts or {}),
        }  # fmt: skip


@dataclass(frozen=True)
class EditStage:
    """Has all editors do an instruction; an editor without an answer is left out.

    Pictures: edited, and `other`, the second best. Values, besides `VALUES`: editor, revision,
    editor_licence, editor_uses, seed, sent_width, sent_height, candidates, chosen, second
    (their places in candidates), chosen_by, judge, comparisons (see `Choice`).
    """

    editors: Mapping[str, Editor]
    judges: Mapping[str, Judge]
    options: EditOptions = EditOptions()

    name = "edits"
    batch = 1

    @property
    def missing(self) -> tuple[str, ...]:
        if self.judges or len(self.editors) * self.options.tries == 1:
            return ()
        return ("nobody judges which edit is better, so it is drawn; name one, [judges.NAME]",)

    @property
    def settings(self) -> Mapping[str, Any]:
        options = self.options
        return {
            "version": VERSION, "short_side": options.short_side, "tries": options.tries,
            "seed": options.seed,
            "editors": {name: editor.describe() for name, editor in self.editors.items()},
            "judges": {name: judge.describe() for name, judge in self.judges.items()},
        }  # fmt: skip

    def expect(self, rows: int) -> tuple[str, int]:
        """Work on so many instructions, and the rows it leaves, at most."""
        each = len(self.editors) * self.options.tries
        edits = ", ".join(f"{rows * self.options.tries:,} edits by {n}" for n in self.editors)
        judged = rows * each * (each - 1) if self.judges else 0
        return f"{edits}; {judged:,} judgements", rows

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [self._found(row) for row in rows]

    def _found(self, row: Row) -> Found:
        instruction = row.value("instructions.instruction")
        if not instruction:
            raise InputError(f"row {row.id} has no instruction; run the stage instructions first")
        before = self._before(row)
        asked = product(self.editors.values(), range(self.options.tries))
        candidates = [self._candidate(row, *one, before, instruction) for one in asked]
        told = {"candidates": [one.told for one in candidates]}
        done = [one for one in candidates if one.pixels is not None]
        if not done:
            return Found(told, failure=joined([c.failure for c in candidates if c.failure]))
        choice = self._choice(row, before, done)
        best, *others = (done[index] for index in choice.order)
        pictures, told["chosen"] = {"edited": encoded(best.pixels)}, candidates.index(best)
        if others:
            pictures["other"] = encoded(others[0].pixels)
            told["second"] = candidates.index(others[0])
        return Found({**_of_winner(best, before), **_of_choice(choice), **told}, pictures)

    def _before(self, row: Row) -> Pixels:
        """The picture in the size of its pair: what every editor takes without scaling it down."""
        rgb = decode_picture(row.encoded()).rgb
        size, short = (rgb.shape[1], rgb.shape[0]), self.options.short_side
        if short and min(size) > short:
            scale = short / min(size)
            size = (round(size[0] * scale), round(size[1] * scale))
        return resized(rgb, working_size(size, [one.sizing for one in self.editors.values()]))

    def _choice(self, row: Row, before: Pixels, done: Sequence[_Candidate]) -> Choice:
        results = [one.pixels for one in done if one.pixels is not None]
        ranks = draws(self.options.seed, key_of(row.id), "edits").permutation(len(done))
        return choose(
            list(self.judges.values()), before, results, row.value("instructions.instruction"),
            row.value("instructions.category"), ranks.tolist(),
        )  # fmt: skip

    def _candidate(
        self, row: Row, editor: Editor, attempt: int, before: Pixels, instruction: str
    ) -> _Candidate:
        seed = seed_of(self.options.seed, row.id, editor.name, attempt)
        try:
            made = editor.edit(before, instruction, seed)
            if made.pixels.shape != before.shape or made.pixels.dtype != np.uint8:
                raise NoAnswer("size", f"{editor.name} gave a picture of another size")
        except Unavailable:
            raise  # later rows would lack this editor for good
        except Exception as error:
            return _Candidate(editor, seed, failure=failure_of(error))
        return _Candidate(editor, seed, made.pixels, made.facts)


def edit_source(row: Row) -> Pixels:
    """The picture as its editors got it: the input of the pair, in the size of the edit."""
    size = (row.value("edits.width"), row.value("edits.height"))
    return resized(decode_picture(row.encoded()).rgb, size)


def _of_winner(best: _Candidate, before: Pixels) -> dict[str, Any]:
    size = (before.shape[1], before.shape[0])
    sent = (best.facts or {}).get("sent", size)
    return {
        "editor": best.editor.name, "revision": best.editor.revision,
        "editor_licence": best.editor.terms.licence, "editor_uses": list(best.editor.terms.uses),
        "seed": best.seed, "width": size[0], "height": size[1],
        "sent_width": sent[0], "sent_height": sent[1],
    }  # fmt: skip


def _of_choice(choice: Choice) -> dict[str, Any]:
    return {
        "chosen_by": choice.by, "agreed": choice.agreed, "judge": choice.judge,
        "comparisons": [dict(one) for one in choice.comparisons],
    }  # fmt: skip
