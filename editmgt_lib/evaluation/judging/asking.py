"""One item before the judge: questions, answers known from before, one re-ask, rows to keep."""

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from ...endpoints import Endpoint, Reply, data_uri, fingerprint, unreadable
from ..items import Item
from ..manifest import digest_of_texts
from ..metrics.samples import Pixels
from .options import Column
from .parsing import Unreadable
from .protocols import Question

Row = Mapping[str, Any]
_AGAIN = (
    "That answer could not be used: it has {reason}. Rate the same pictures again, by the same "
    "rules and in exactly the form that was asked for."
)


@dataclass
class Judged:
    """What came of one item.

    Attributes:
        rows: new lines of judge-RANK.jsonl. models: that the server says have answered.
        answers: scores by question, for each repeat. reasons: of failures, likewise.
        failure: why there was nothing to ask about.
        asked: questions sent.
    """

    item: Item
    rows: list[dict[str, Any]] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    answers: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    reasons: list[dict[str, str]] = field(default_factory=list)
    failure: str = ""
    asked: int = 0


@dataclass(frozen=True)
class Asker:
    """Asks about items.

    known: earlier answers by key. kept: (item, column, key) of those that the run's own rows hold.
    """

    column: Column
    endpoint: Endpoint
    known: Mapping[str, Row] = field(default_factory=dict)
    kept: Set[tuple[str, str, str]] = frozenset()

    def judge(
        self, item: Item, questions: Iterable[Question], pictures: Mapping[str, Pixels], stop: Event
    ) -> Judged:
        """Ask all questions as often as wanted. Raises InputError as `Endpoint.ask`."""
        judged, questions = Judged(item), tuple(questions)
        prints = {role: fingerprint(pixels) for role, pixels in pictures.items()}
        uris: dict[str, str] = {}
        for repeat in range(self.column.options.repeat):
            judged.answers.append({})
            judged.reasons.append({})
            for question in questions:
                key = self._key(question, prints, repeat)
                if not self._recall(judged, question, repeat, key):
                    for role in question.shows:
                        if role not in uris:
                            uris[role] = data_uri(pictures[role], self.column.options.encoding)
                    self._ask(judged, question, repeat, key, uris, stop)
        return judged

    def _key(self, question: Question, prints: Mapping[str, str], repeat: int) -> str:
        """Fingerprint of all that an answer depends on."""
        options = self.column.options
        parts = {
            "text": question.text,
            "pictures": [prints[role] for role in question.shows],
            "encoding": options.encoding,
            "order": options.order,
            "model": options.model,
            "parameters": options.request(repeat),
            "repeat": repeat,
        }
        return digest_of_texts([json.dumps(parts, sort_keys=True)])

    def _recall(self, judged: Judged, question: Question, repeat: int, key: str) -> bool:
        row = self.known.get(key)
        if row is None:
            return False
        try:
            scores = question.read(row["text"])
        except Unreadable:  # read by an older, laxer rule
            return False
        here = {"item": judged.item.id, "column": self.column.id}
        if (*here.values(), key) not in self.kept:
            judged.rows.append({**row, **here, "reused": True})
        judged.models.add(row["returned"])
        judged.answers[repeat][question.name] = scores
        return True

    def _ask(
        self,
        judged: Judged,
        question: Question,
        repeat: int,
        key: str,
        uris: Mapping[str, str],
        stop: Event,
    ) -> None:
        """Ask, and once again if the answer cannot be read."""
        messages = [{"role": "user", "content": self._content(question, uris)}]
        for attempt in (1, 2):
            request = self.column.options.request(repeat)
            payload = {"model": self.column.options.model, "messages": messages, **request}
            reply = self.endpoint.ask(payload, stop)
            judged.asked += 1
            scores = None
            if reply.kind == "ok":
                try:
                    scores = question.read(reply.text)
                except Unreadable as error:
                    fault = str(error)
                    reply = unreadable(reply, fault)
            row = self._row(judged.item, question, repeat, key, attempt, reply)
            judged.rows.append(row)
            if reply.kind in ("ok", "malformed", "refusal"):
                judged.models.add(row["returned"])
            if scores is not None:
                judged.answers[repeat][question.name] = scores
                return
            if reply.kind != "malformed":
                break
            said = {"role": "assistant", "content": reply.text}
            messages = [*messages, said, {"role": "user", "content": _AGAIN.format(reason=fault)}]
        judged.reasons[repeat][question.name] = f"{reply.kind}: {reply.reason}"

    def _content(self, question: Question, uris: Mapping[str, str]) -> list[dict[str, Any]]:
        text = [{"type": "text", "text": question.text}]
        pictures = [{"type": "image_url", "image_url": {"url": uris[r]}} for r in question.shows]
        return text + pictures if self.column.options.order == "text-first" else pictures + text

    def _row(
        self, item: Item, question: Question, repeat: int, key: str, attempt: int, reply: Reply
    ) -> dict[str, Any]:
        options = self.column.options
        return {
            "item": item.id,
            "column": self.column.id,
            "question": question.name,
            "repeat": repeat,
            "attempt": attempt,
            "key": key,
            "prompt": digest_of_texts([question.text]),
            "model": options.model,
            "parameters": options.request(repeat),
            "returned": reply.model or f"{options.model} (unconfirmed)",
            "outcome": reply.kind,
            "reason": reply.reason,
            "text": reply.text,
            "finish": reply.finish,
            "usage": dict(reply.usage),
            "tries": reply.tries,
            "seconds": reply.seconds,
        }
