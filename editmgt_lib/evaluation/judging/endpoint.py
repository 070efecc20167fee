"""The judge's server: beside checkpoints/hub.py the only module that uses a network.

Nothing here runs unless a judge's address is named, and nothing else is contacted: no redirects are
followed, and the API key is read from the environment, sent in a header, and written nowhere.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from threading import Event
from time import monotonic
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ...errors import InputError
from .options import JudgeOptions
from .replies import Reply, read_reply

_PATH = "/chat/completions"
_LONGEST_WAIT = 60.0  # seconds between two tries
_LARGEST = 1 << 23  # bytes of an answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """A redirect would carry the key to another server."""
        return None


@dataclass(frozen=True)
class Endpoint:
    """Sends questions; see `JudgeOptions` for the values. Safe to use from several threads."""

    url: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0

    @classmethod
    def of(cls, options: JudgeOptions) -> "Endpoint":
        """Check the address and fetch the key. Raises InputError."""
        key = ""
        if options.key_variable is not None:
            key = os.environ.get(options.key_variable, "").strip()
            if not key:
                raise InputError(
                    f"the environment variable {options.key_variable!r} holds no key for the judge;"
                    " set it, or name another"
                )
        values = options.timeout, options.retries, options.backoff
        return cls(_completed(options.url), key, *values)

    def ask(self, payload: Mapping[str, Any], stop: Event | None = None) -> Reply:
        """Send one question, again after temporary failures, until answered or out of tries.

        stop: no further try begins once it is set.
        Raises InputError where no question can be answered: nothing listens there any more, or as
        `read_reply`.
        """
        stop = stop or Event()
        data = json.dumps(payload).encode()
        start, tries = monotonic(), 0
        while True:
            tries += 1
            reply = self._once(data)
            if not reply.again or tries > self.retries:
                break
            if stop.wait(max(reply.after, min(self.backoff * 2 ** (tries - 1), _LONGEST_WAIT))):
                break
        if reply.unreachable:
            raise InputError(
                f"{reply.reason} after {tries} tries; start the judge, then run again: the answers "
                "until now are kept"
            )
        reason = reply.reason.replace(self.key, "(key)") if self.key else reply.reason
        return replace(reply, reason=reason, tries=tries, seconds=round(monotonic() - start, 3))

    def _once(self, data: bytes) -> Reply:
        until = monotonic() + self.timeout
        try:
            return read_reply(*self._post(data, until))
        except InputError as error:  # the server's message may repeat the key
            if self.key and self.key in str(error):
                raise InputError(str(error).replace(self.key, "(key)")) from None
            raise
        except TimeoutError:
            return Reply("timeout", f"no answer within {self.timeout:g} seconds", again=True)
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                return Reply("timeout", f"no answer within {self.timeout:g} seconds", again=True)
            reason = f"cannot reach the judge at {self.url}: {error.reason}"
            return Reply("error", reason, again=True, unreachable=True)
        except (OSError, HTTPException) as error:
            return Reply("error", f"{type(error).__name__}: {error}", again=True)

    def _post(self, data: bytes, until: float) -> tuple[int, bytes, str | None]:
        """Status, body and Retry-After."""
        headers = {"Content-Type": "application/json", "User-Agent": "editmgt"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, data, headers)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return response.status, _read(response, until), None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(_LARGEST), error.headers.get("Retry-After")


def _completed(url: str) -> str:
    """The address of chat completions under a base address such as "http://localhost:8000/v1"."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InputError(f"the judge's address is {url!r}; use one as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise InputError("the judge's address holds a password; put it in an environment variable")
    path = parts.path.rstrip("/").removesuffix(_PATH) + _PATH
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _read(response: Any, until: float) -> bytes:
    """Read it all; the socket's own timeout knows only single reads."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _LARGEST:
            raise HTTPException(f"an answer of more than {_LARGEST} bytes")
        if monotonic() > until:
            raise TimeoutError
    return b"".join(parts)
