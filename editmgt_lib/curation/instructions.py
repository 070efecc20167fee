"""Stage `instructions`: what could be edited in a picture, said by a writer and checked by code."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..checks import require_choice, require_number
from ..data.draws import draws
from ..data.rows import key_of
from ..errors import InputError
from .backends.base import CATEGORIES, Answer, NoAnswer, Writer
from .decoding import decode_picture
from .rows import Failure, Found, Row
from .validation import CHECKS, Proposal, find_faults, same_edit
from .variety import draw_counts, draw_wishes
from .wording import count_words

VERSION = 1  # of checks and draws; other instructions for the same answers need another number
UNASKED, REPEATED = "unasked", "repeated"
VALUES = (*CHECKS, UNASKED, REPEATED, "words", "tries")
"""Numbers a threshold may be set for; faults are 1 or 0."""
_TOLD = {
    **{name: check.told for name, check in CHECKS.items()},
    REPEATED: "another instruction asks for the same",
}


@dataclass(frozen=True)
class InstructionOptions:
    """What writers are asked for. Raises InputError.

    Attributes:
        per_picture: instructions of a picture.
        balance: weights of categories, 1 where none is given.
        tries: questions at most; after the first, only for what had faults.
        seed: of all draws.
        most_alike: of a category and about the same object, kept in the whole curation; 0: all. May
            change at any time.
    """

    per_picture: int = 2
    balance: Mapping[str, float] = field(default_factory=dict)
    tries: int = 3
    seed: int = 0
    most_alike: int = 0

    def __post_init__(self) -> None:
        require_number("per_picture", self.per_picture, 1, 50, whole=True)
        require_number("tries", self.tries, 1, 10, whole=True)
        require_number("seed", self.seed, 0, 2**63 - 1, whole=True)
        require_number("most_alike", self.most_alike, 0, whole=True)
        for name, weight in self.balance.items():
            require_choice("balance", name, CATEGORIES)
            require_number(f"balance.{name}", weight, 0)
        if not any(self.balance.get(name, 1) for name in CATEGORIES):
            raise InputError("balance leaves out every category; give one of them a weight")


@dataclass(frozen=True)
class InstructionStage:
    """Asks a writer for a caption, then for instructions, until they have no faults.

    A picture's writer is drawn by its id; if it has no answer, the next is asked. Every instruction
    becomes a part, those with faults too: thresholds decide on them. Values, besides `VALUES`:
    category, instruction, object, target_caption, caption, writer, spatial, and box where the
    writer knows it. Beside the parts:
    caption, objects, asked, and `raw`, the model's own words and what they cost.
    """

    writers: Mapping[str, Writer]
    options: InstructionOptions = InstructionOptions()

    name = "instructions"
    batch = 1
    missing = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        options = self.options
        return {
            "version": VERSION, "per_picture": options.per_picture, "tries": options.tries,
            "balance": dict(options.balance), "seed": options.seed,
            "writers": {name: writer.describe() for name, writer in self.writers.items()},
        }  # fmt: skip

    def expect(self, rows: int) -> tuple[str, int]:
        """Work on so many pictures, and the rows it leaves, at most."""
        asked = rows * self.options.tries
        text = f"{rows:,} captions and {rows:,} to {asked:,} questions for instructions"
        return text, rows * self.options.per_picture

    def __call__(self, rows: Sequence[Row]) -> Sequence[Found]:
        return [self._found(row) for row in rows]

    def _found(self, row: Row) -> Found:
        rgb = decode_picture(row.encoded()).rgb
        names, unanswered = list(self.writers), []
        first = int(self._rng(row, "writer").integers(len(names)))
        for name in (*names[first:], *names[:first]):
            try:
                return self._written(row, rgb, self.writers[name])
            except NoAnswer as error:
                unanswered.append(error.failure)
        return Found(failure=joined(unanswered))

    def _written(self, row: Row, rgb: np.ndarray, writer: Writer) -> Found:
        caption = writer.caption(rgb, self._seed(row, f"caption {writer.name}"))
        counts = draw_counts(
            self.options.seed, row.id, self.options.per_picture, self.options.balance
        )
        answers = [caption]
        parts = tuple(self._refined(row, rgb, writer, caption.values, counts, answers))
        values = {
            "caption": caption.values["caption"], "objects": caption.values["objects"],
            "asked": counts, "raw": [dict(answer.raw) for answer in answers if answer.raw],
        }  # fmt: skip
        if parts:
            return Found(values, parts=parts)
        detail = f"{writer.name} wrote none of {', '.join(counts)}"
        return Found(values, failure=Failure("no_instructions", detail))

    def _refined(
        self,
        row: Row,
        rgb: np.ndarray,
        writer: Writer,
        caption: Mapping[str, Any],
        counts: Mapping[str, int],
        answers: list[Answer],
    ) -> Iterator[Found]:
        """Instructions of all tries; answers takes what the writer said."""
        left, faults, seen = Counter(counts), [], set()
        wishes: Mapping[str, Any] = draw_wishes(self.options.seed, row.id, counts)
        for attempt in range(self.options.tries):
            seed = self._seed(row, f"write {writer.name} {attempt}")
            try:
                answer = writer.write(caption, dict(left), seed, rgb, faults, wishes)
            except NoAnswer:
                if not attempt:
                    raise
                return  # the instructions so far stand
            answers.append(answer)
            told, due = [], Counter[str]()
            for one in answer.values["instructions"]:
                found, why = _checked(one, caption, left, seen)
                yield replace(found, values={**found.values, "writer": writer.name,
                                             "tries": attempt + 1})  # fmt: skip
                if not why:
                    left[one["category"]] -= 1
                elif why != (UNASKED,):
                    due[one["category"]] += 1
                    told.append(_told(one, why))
            left = left & due
            if not left:
                return
            faults, wishes = [*faults, *told], {}  # a wish may be what did not fit

    def _rng(self, row: Row, purpose: str) -> np.random.Generator:
        return draws(self.options.seed, key_of(row.id), purpose)

    def _seed(self, row: Row, purpose: str) -> int:
        return int(self._rng(row, purpose).integers(1 << 32))


def joined(failures: Sequence[Failure]) -> Failure:
    """The failure of several that could have answered: the first's, unless another may pass."""
    first = next((one for one in failures if not one.lasting), failures[0])
    return replace(first, detail="; ".join(dict.fromkeys(one.detail for one in failures)))


def _checked(
    one: Mapping[str, Any], caption: Mapping[str, Any], left: Counter[str], seen: set[Any]
) -> tuple[Found, tuple[str, ...]]:
    """A part without its writer, and the faults of it; seen takes the edit it asks for."""
    proposal = Proposal(
        one["category"], *(" ".join(one[k].split()) for k in ("instruction", "object", "caption")),
        caption["caption"], tuple(caption["objects"]),
    )  # fmt: skip
    faults = [] if left[one["category"]] > 0 else [UNASKED]
    faults += find_faults(proposal)
    edit = same_edit(proposal)
    if edit in seen:
        faults.append(REPEATED)
    seen.add(edit)
    values = {
        "category": proposal.category, "instruction": proposal.instruction,
        "object": proposal.object, "target_caption": proposal.target, "caption": proposal.caption,
        "words": count_words(proposal.instruction), "spatial": proposal.spatial,
        **{name: int(name in faults) for name in (*CHECKS, UNASKED, REPEATED)},
        **({"box": list(one["box"])} if one.get("box") else {}),
    }  # fmt: skip
    return Found(values), tuple(faults)


def _told(one: Mapping[str, Any], faults: Sequence[str]) -> dict[str, str]:
    """A refused instruction as `Writer.write` takes it."""
    reason = "; ".join(_TOLD[name] for name in faults if name in _TOLD)
    return {"category": one["category"], "instruction": one["instruction"], "reason": reason}
