"""What the parts of one GPU run share: networks, ceilings, the official side, and one row."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from editmgt_lib.models.attention import AttentionFunction

from . import ceiling
from .cases import Case, random_inputs, write_checkpoint
from .clock import DTYPES, set_precision
from .compare import Row, Side, compare
from .official import Official, opened
from .ours import Ours


@dataclass
class Session:
    """One run on one device.

    folder: of the checkpoint, made on first use. quick: the fewest steps and rounds.
    official: a checkout, or None; official_python: an interpreter that has what it needs.
    """

    case: Case
    folder: Path
    device: str
    quick: bool = False
    official: Path | None = None
    official_python: str = ""
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    _ours: dict[str, Ours] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Of whole runs."""
        return 2 if self.quick else self.case.steps

    @property
    def inputs(self) -> dict[str, Tensor]:
        return random_inputs(self.case)

    def checkpoint(self) -> Path:
        """Write transformer and tokenizer, unless an earlier process of this run did."""
        complete = self.folder / "inputs.safetensors"  # written last
        if not complete.exists():
            write_checkpoint(replace(self.case, text_encoders=None), self.folder)
            save_file(self.inputs, complete)
        return self.folder

    def ours(self, precision: str) -> Ours:
        """Our side; of another precision than before, the earlier one is freed."""
        if precision not in self._ours:
            self.free()
            bare = replace(self.case, text_encoders=None)
            folder = self.checkpoint()
            self._ours[precision] = Ours(bare, folder, self.inputs, self.device, precision)
        return self._ours[precision]

    def free(self) -> None:
        """Drop the networks."""
        self._ours.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def limit(self, precision: str) -> dict[str, float]:
        """The device's ceilings, measured on first use."""
        if precision not in self.limits:
            self.limits[precision] = ceiling.measure(self.device, precision, self.quick)
        return self.limits[precision]

    def row(
        self, row: Row, precision: str, sides: dict[str, Side] | None = None, rounds: int = 3,
        warm_up: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """Measure one row, with its share of the ceiling."""
        sides = sides or {"ours": Caught(self.ours(precision))}
        set_precision(precision)  # others may have been measured since our side was opened
        (record,) = compare([row], sides, 1 if self.quick else rounds, warm_up)
        record["precision"] = precision
        size = DTYPES[precision].itemsize
        for reached in ceiling.achieved(self.case, [record], self.limit(precision), size):
            record["reached"] = reached
        return record

    @contextmanager
    def attending(self, attention: AttentionFunction, precision: str) -> Iterator[None]:
        """Use a back end inside the block."""
        transformer = self.ours(precision).model.transformer
        before, transformer.attention = transformer.attention, attention
        try:
            yield
        finally:
            transformer.attention = before

    @contextmanager
    def opened_official(self, precision: str) -> Iterator[Official]:
        """The official side, in its own process; ours is freed for the time."""
        folder, negative = self.checkpoint(), ""
        self.free()
        case = replace(self.case, text_encoders=None)
        with opened(case, folder, self.official, self.official_python, self.device, precision,
                    negative) as side:  # fmt: skip
            yield side


class Caught:
    """A side whose failures are answers: one row that fails must not end the others."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def measure(self, stage: str, **asked: Any) -> dict[str, Any]:
        """As the side's, without tensors, which JSON has no place for."""
        try:
            answer = self._side.measure(stage, **asked)
        except Exception as error:
            return {"missing": told(error)}
        return {key: value for key, value in answer.items() if key != "ids"}


def told(error: BaseException) -> str:
    """Kind, first and last line of an error; of a process that ended, the last one says why."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    text = " ... ".join(dict.fromkeys((lines[0][:160], lines[-1][:160])))
    return f"raises {type(error).__name__}: {text}"
