"""A vision-language model as writer, judge and scorer."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import prompts
from .asking import Asker, Question
from .base import CATEGORIES, Answer, Pixels
from .model_options import ModelOptions


class _Model:
    """What the three roles share."""

    role = ""

    def __init__(self, name: str, options: ModelOptions) -> None:
        self.name = name
        self.revision = options.revision or options.model
        self.asker = Asker(f"{self.role} {name!r}", options)

    def check(self) -> None:
        """Raise InputError for an absent server or a bad key."""
        self.asker.check()

    def describe(self) -> dict[str, Any]:
        """Model, and a fingerprint of our questions."""
        return {"kind": "openai", "prompts": prompts.DIGEST, **self.asker.describe()}


class VlmWriter(_Model):
    """Writes captions and instructions."""

    role = "writer"

    def caption(self, pixels: Pixels, seed: int = 0) -> Answer:
        """See `Writer`."""
        return self.asker.ask(
            Question("caption", prompts.CAPTION, prompts.CAPTION_SCHEMA, (pixels,), seed)
        )

    def write(
        self,
        caption: Mapping[str, Any],
        counts: Mapping[str, int],
        seed: int,
        pixels: Pixels | None = None,
        faults: Sequence[Mapping[str, str]] = (),
    ) -> Answer:
        """See `Writer`."""
        counts = {name: counts[name] for name in CATEGORIES if counts.get(name, 0) > 0}
        text = prompts.write_text(caption, counts, faults)
        shown = () if pixels is None else (pixels,)
        schema = prompts.write_schema(counts)
        return self.asker.ask(Question("instructions", text, schema, shown, seed))


class VlmJudge(_Model):
    """Compares and rates."""

    role = "judge"

    def compare(
        self, before: Pixels, first: Pixels, second: Pixels, instruction: str, category: str
    ) -> Answer:
        """See `Judge`."""
        text = prompts.compare_text(instruction, category)
        pictures = (before, first, second)
        return self.asker.ask(Question("comparison", text, prompts.COMPARE_SCHEMA, pictures))

    def rate(self, before: Pixels, after: Pixels, instruction: str, category: str) -> Answer:
        """See `Judge`; beside the rubric "done", what really changed."""
        text = prompts.rate_text(instruction, category)
        return self.asker.ask(Question("rating", text, prompts.RATE_SCHEMA, (before, after)))


class VlmScorer(_Model):
    """States facts about pictures."""

    role = "scorer"
    gives = tuple(prompts.SCORE_SCHEMA["properties"])

    def score(self, pixels: Pixels) -> Answer:
        """See `Scorer`; yes is 1 and no is 0."""
        answer = self.asker.ask(Question("facts", prompts.SCORE, prompts.SCORE_SCHEMA, (pixels,)))
        values = {
            name: int(value) if isinstance(value, bool) else value
            for name, value in answer.values.items()
        }
        return Answer(values, answer.raw)
