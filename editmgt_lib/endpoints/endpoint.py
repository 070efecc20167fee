"""A path of an OpenAI-compatible server, asked again after temporary failures."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Event
from time import monotonic
from typing import Any

from ..errors import InputError
from .replies import Reply, read_completion, read_reply
from .transport import TRANSPORT_ERRORS, Unreachable, completed, exchange, read_key

CHAT = "/chat/completions"
_LONGEST_WAIT = 60.0  # seconds between two tries
_PROBE = 10.0  # seconds to wait for a sign of life


@dataclass(frozen=True)
class Endpoint:
    """Sends requests. Safe to use from several threads.

    Attributes:
        url: complete. key: sent if not empty. who: the user's name for it, as in "the judge".
        timeout: seconds per request. retries: further tries after 429, 5xx and timeouts.
        backoff: seconds before the first of them; it doubles.
        read: turns the text of a good answer into a Reply. largest: bytes of an answer.
    """

    url: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    who: str = "the judge"
    read: Callable[[str], Reply] = read_completion
    largest: int = 1 << 23

    @classmethod
    def at(
        cls, url: str, key_variable: str | None, who: str, path: str = CHAT, **values: Any
    ) -> "Endpoint":
        """Check the address and fetch the key. Raises InputError."""
        key = read_key(key_variable, who)
        return cls(completed(url, path, who), key, who=who, **values)

    def probe(self) -> None:
        """Raise InputError if nobody listens or the key is refused; asks nothing."""
        try:
            answer = exchange(self.url, None, self._headers, timeout=_PROBE, largest=self.largest)
        except (Unreachable, TimeoutError, *TRANSPORT_ERRORS) as error:
            reason = str(error) or f"no answer within {_PROBE:g} seconds"
            raise InputError(
                f"cannot reach {self.who} at {self.url}: {reason}; start the server first"
            ) from error
        if answer.status in (401, 403):  # anything else says that a server is there
            raise InputError(
                f"{self.who} does not accept the key (HTTP {answer.status}); check its environment "
                "variable"
            )

    def ask(self, payload: Mapping[str, Any], stop: Event | None = None) -> Reply:
        """Send one question as JSON; see `send`."""
        return self.send(json.dumps(payload).encode(), "application/json", stop)

    def send(self, data: bytes, kind: str, stop: Event | None = None) -> Reply:
        """Send a body of a content type, until answered or out of tries.

        stop: no further try begins once it is set.
        Raises InputError where no request can be answered: nothing listens there any more, or as
        `read_reply`.
        """
        stop = stop or Event()
        start, tries = monotonic(), 0
        while True:
            tries += 1
            reply = self._once(data, kind)
            if not reply.again or tries > self.retries:
                break
            if stop.wait(max(reply.after, min(self.backoff * 2 ** (tries - 1), _LONGEST_WAIT))):
                break
        if reply.unreachable:
            raise InputError(
                f"{reply.reason} after {tries} tries; start {self.who}, then run again: the "
                "answers until now are kept"
            )
        reason = reply.reason.replace(self.key, "(key)") if self.key else reply.reason
        return replace(reply, reason=reason, tries=tries, seconds=round(monotonic() - start, 3))

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def _once(self, data: bytes, kind: str) -> Reply:
        headers = {"Content-Type": kind, **self._headers}
        try:
            answer = exchange(self.url, data, headers, timeout=self.timeout, largest=self.largest)
            return read_reply(answer, self.who, self.read)
        except InputError as error:  # the server's message may repeat the key
            if self.key and self.key in str(error):
                raise InputError(str(error).replace(self.key, "(key)")) from None
            raise
        except TimeoutError:
            return Reply("timeout", f"no answer within {self.timeout:g} seconds", again=True)
        except Unreachable as error:
            reason = f"cannot reach {self.who} at {self.url}: {error}"
            return Reply("error", reason, again=True, unreachable=True)
        except TRANSPORT_ERRORS as error:
            return Reply("error", f"{type(error).__name__}: {error}", again=True)
