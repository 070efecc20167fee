"""What an OpenAI-compatible server said, sorted into kinds; plain data in, plain data out."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError
from .transport import Answer

KINDS = ("ok", "refusal", "filter", "timeout", "malformed", "error")
"""An answer; the model declines; the provider's filter; no answer in time; an answer without
readable scores; anything else that the server or the line did.
"""
_FILTERS = ("content_filter", "content_policy", "responsibleai", "moderation", "data_inspection")
_TEMPORARY = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_LONGEST = 300  # characters of a server's message that are kept
_REFUSALS = re.compile(
    r"\b(i['’]?m sorry|i am sorry|i (can['’]?t|cannot|won['’]t)\b"
    r"|(unable|not able) to (assist|help|comply|evaluate|rate|provide)"
    r"|can(not|['’]t) (assist|help|comply)|against (my|the|our) (policy|policies|guidelines))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reply:
    """The outcome of one question.

    Attributes:
        kind: one of KINDS. reason: why it is not "ok".
        text, finish, model, usage: as the server gave them; model is "" where it states none.
        again: a further try may help. after: seconds the server asks to wait. unreachable: there
            was no server.
        tries: requests it took. seconds: time of all of them.
    """

    kind: str
    reason: str = ""
    text: str = ""
    finish: str = ""
    model: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False
    after: float = 0.0
    unreachable: bool = False
    tries: int = 1
    seconds: float = 0.0


def read_reply(answer: Answer, who: str, read: Callable[[str], Reply]) -> Reply:
    """Sort an HTTP answer; `read` sorts the text of a good one.

    Raises InputError for what no other question will change: a refused key, an unknown model or
    address, a used-up quota.
    """
    text = answer.body.decode("utf-8", "replace")
    if answer.status == 200 and (status := _status_within(text)):
        answer = replace(answer, status=status)
    return read(text) if answer.status == 200 else _read_error(answer, text, who)


def _status_within(text: str) -> int:
    """The status of an error inside a good answer, as some gateways put it; 0 for none."""
    try:
        content = json.loads(text)
        if not content.get("error") or content.get("choices") or content.get("data"):
            return 0
        code = content["error"].get("code")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 0
    return code if isinstance(code, int) else 500


def read_completion(text: str) -> Reply:
    """Read a chat completion."""
    try:
        content = json.loads(text)
        choice = content["choices"][0]
        message = choice["message"]
        answer, refusal = _plain(message.get("content")), _plain(message.get("refusal"))
        usage = dict(content.get("usage") or {})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply("error", f"no chat completion: {text[:_LONGEST]!r}", again=True)
    finish = _plain(choice.get("finish_reason"))
    said = {
        "text": answer or refusal,
        "finish": finish,
        "model": _plain(content.get("model")),
        "usage": {str(name): count for name, count in usage.items() if type(count) is int},
    }
    if finish == "content_filter":
        return Reply("filter", "the provider's filter stopped the answer", **said)
    if refusal:
        return Reply("refusal", f"the model declined: {refusal[:_LONGEST]}", **said)
    return Reply("ok", **said)


def _plain(value: Any) -> str:
    """Text that UTF-8 can hold (an answer may be cut inside a character); "" for nothing."""
    if isinstance(value, list):  # parts, as some servers give them
        value = "".join(str(part.get("text", "")) for part in value if isinstance(part, dict))
    return str(value or "").encode("utf-8", "replace").decode()


def _read_error(answer: Answer, text: str, who: str) -> Reply:
    status = answer.status
    message = f"HTTP {status}: {_message(text)}"
    lowered = text.lower()
    if any(sign in lowered for sign in _FILTERS):
        return Reply("filter", message)
    if 300 <= status < 400:
        raise InputError(f"{who}'s address leads elsewhere ({message}); give the final one")
    if status in (401, 403):
        raise InputError(
            f"{who} does not accept the key ({message}); check its environment variable"
        )
    if status == 404:
        raise InputError(f"{who} knows no such model or address ({message}); check both")
    if "insufficient_quota" in lowered:
        raise InputError(f"{who}'s quota is used up ({message}); run again to ask the rest")
    kind = "timeout" if status in (408, 504, 524) else "error"
    return Reply(kind, message, again=status in _TEMPORARY, after=_seconds(answer.after))


def _message(text: str) -> str:
    try:
        error = json.loads(text)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return " ".join(_plain(text).split())[:_LONGEST]


def _seconds(after: str | None) -> float:
    """Retry-After in seconds; its form as a date is rare and means no more than our own wait."""
    try:
        return min(max(0.0, float(after or 0)), 120.0)
    except ValueError:
        return 0.0


def unreadable(reply: Reply, reason: str) -> Reply:
    """The same reply, found to hold no scores."""
    if is_refusal(reply.text):
        return replace(reply, kind="refusal", reason=f"the model declined: {reply.text[:_LONGEST]}")
    cut = " (it was cut off by max_tokens)" if reply.finish == "length" else ""
    return replace(reply, kind="malformed", reason=f"the answer has {reason}{cut}")


def is_refusal(text: str) -> bool:
    """Whether an unreadable answer declines to answer."""
    return bool(_REFUSALS.search(text))
