"""One HTTP request to a server the user named; beside `checkpoints.hub` the only use of a network.

Nothing else is contacted: no redirects are followed, and an API key is read from the environment,
sent in a header, and written nowhere.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from time import monotonic
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import InputError

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
TRANSPORT_ERRORS = (OSError, HTTPException)
"""What `exchange` raises besides TimeoutError and Unreachable."""


class Unreachable(Exception):
    """Nothing listens at the address, or its name is unknown."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """A redirect would carry the key to another server."""
        return None


@dataclass(frozen=True)
class Answer:
    """status: of HTTP. after: Retry-After, as it was sent."""

    status: int
    body: bytes
    after: str | None = None


def exchange(
    url: str,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float,
    largest: int,
) -> Answer:
    """GET, or POST `data`; errors of HTTP are answers too.

    timeout: seconds for the whole exchange. largest: bytes of an answer.
    Raises Unreachable, TimeoutError, or one of TRANSPORT_ERRORS.
    """
    until = monotonic() + timeout
    request = urllib.request.Request(url, data, {"User-Agent": "editmgt", **(headers or {})})
    own = urlsplit(url).hostname in _THIS_MACHINE  # which a proxy would not reach
    proxies = (urllib.request.ProxyHandler({}),) if own else ()
    opener = urllib.request.build_opener(_NoRedirect, *proxies)
    try:
        with opener.open(request, timeout=timeout) as response:
            return Answer(response.status, _read(response, until, largest))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(largest), error.headers.get("Retry-After"))
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError from error
        raise Unreachable(str(error.reason)) from error


def _read(response: Any, until: float, largest: int) -> bytes:
    """Read it all; the socket's own timeout knows only single reads."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > largest:
            raise HTTPException(f"an answer of more than {largest} bytes")
        if monotonic() > until:
            raise TimeoutError
    return b"".join(parts)


def completed(url: str, path: str, who: str) -> str:
    """The address of `path` under a base address such as "http://localhost:8000/v1".

    who: owns the address, for the InputError: "the judge".
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise InputError(f"{who}'s address is {url!r}; use one as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise InputError(f"{who}'s address holds a password; put it in an environment variable")
    whole = parts.path.rstrip("/").removesuffix(path) + path
    return urlunsplit((parts.scheme, parts.netloc, whole, parts.query, ""))


def read_key(variable: str | None, who: str) -> str:
    """Read an API key from an environment variable; "" without one. Raises InputError."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {variable!r} holds no key for {who}; set it, or name another"
        )
    return key
