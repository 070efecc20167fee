"""The few requests to a ComfyUI server that an edit needs; its end is polled for."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote, urlencode

from ...endpoints.transport import TRANSPORT_ERRORS, Answer, Unreachable, completed, exchange
from ..rows import Unavailable
from .base import NoAnswer, unavailable
from .multipart import form

_REQUEST = 60.0  # seconds for one request
_LARGEST = 1 << 28  # bytes of an answer; /object_info of a full installation has tens of MB
_FOLDER = "editmgt"  # of the server's input folder


@dataclass(frozen=True)
class ComfyServer:
    """url: of the server. who: in messages. timeout: seconds a run may take. poll: between looks.

    Every method raises Unavailable if nobody listens there, and NoAnswer for what the server
    refuses.
    """

    url: str
    who: str
    timeout: float = 600.0
    poll: float = 0.5

    def get(self, path: str) -> Any:
        """A JSON answer."""
        return self._json(self._send(path), path)

    def upload(self, name: str, content: bytes) -> str:
        """Put a PNG into the input folder; the name LoadImage knows it by."""
        fields = {"overwrite": "true", "subfolder": _FOLDER, "type": "input"}
        body, kind = form(fields, {"image": (name, content)})
        said = self._json(self._send("/upload/image", body, kind), "/upload/image")
        try:
            return "/".join(filter(None, (said.get("subfolder", ""), said["name"])))
        except (LookupError, TypeError, AttributeError) as error:
            raise self._odd("/upload/image", said) from error

    def run(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Queue a workflow and wait for its end; the outputs by node id."""
        body = json.dumps({"prompt": prompt, "client_id": "editmgt"}).encode()
        answer = self._send("/prompt", body, "application/json")
        if answer.status == 400:
            raise NoAnswer("rejected", f"{self.who}: {_rejection(answer.body)}")
        said = self._json(answer, "/prompt")
        try:
            id = str(said["prompt_id"])
        except (LookupError, TypeError) as error:
            raise self._odd("/prompt", said) from error
        try:
            entry = self._wait(id)
        except BaseException:
            self._drop(id)
            raise
        return self._outputs(entry)

    def fetch(self, item: Mapping[str, Any]) -> bytes:
        """A file that a node has made, as listed in its outputs."""
        keys = ("filename", "subfolder", "type")
        path = "/view?" + urlencode({key: str(item.get(key, "")) for key in keys})
        answer = self._send(path)
        if answer.status != 200:
            raise self._odd(path, f"HTTP {answer.status}", lasting=False)
        return answer.body

    def _wait(self, id: str) -> dict[str, Any]:
        """The history's entry of a run. A server that forgets it was started anew."""
        until, lost = monotonic() + self.timeout, 0
        while True:
            entry = _dict(self.get(f"/history/{quote(id)}")).get(id)
            if entry is not None and _dict(_dict(entry).get("status")).get("status_str"):
                return _dict(entry)
            if entry is None:  # a finished run may leave the queue a moment before it is listed
                lost = 0 if self._queued(id) else lost + 1
            if lost > 3:
                raise NoAnswer("lost", f"{self.who} no longer knows the run", lasting=False)
            if monotonic() > until:
                detail = f"{self.who}: no end within {self.timeout:g} seconds"
                raise NoAnswer("timeout", detail, lasting=False)
            sleep(self.poll)

    def _queued(self, id: str) -> bool:
        queue = _dict(self.get("/queue"))
        return any(
            id in map(str, item)
            for part in ("queue_running", "queue_pending")
            for item in queue.get(part) or ()
        )

    def _drop(self, id: str) -> None:
        """Take a run off the queue, or stop it if it is the one running."""
        with suppress(NoAnswer, Unavailable):  # the first error says what went wrong
            self._send("/queue", json.dumps({"delete": [id]}).encode(), "application/json")
            running = _dict(self.get("/queue")).get("queue_running") or ()
            if any(id in map(str, item) for item in running):
                body = json.dumps({"prompt_id": id}).encode()
                self._send("/interrupt", body, "application/json")

    def _outputs(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        status = _dict(entry.get("status"))
        if status.get("status_str") == "success":
            return _dict(entry.get("outputs"))
        told = [
            _dict(message[1]).get("exception_message", "")
            for message in status.get("messages") or ()
            if len(message) == 2 and message[0] == "execution_error"
        ]
        detail = " ".join(str(told[0]).split())[:300] if told else "it was interrupted"
        raise NoAnswer("server_error", f"{self.who}: {detail}", lasting=bool(told))

    def _send(self, path: str, data: bytes | None = None, kind: str = "") -> Answer:
        url = completed(self.url, "", self.who) + path
        headers = {"Content-Type": kind} if kind else {}
        try:
            return exchange(url, data, headers, timeout=_REQUEST, largest=_LARGEST)
        except Unreachable as error:
            raise unavailable(self.who, _cannot(self.url, error)) from error
        except (TimeoutError, *TRANSPORT_ERRORS) as error:
            detail = f"{self.who}: {type(error).__name__}: {error}"
            raise NoAnswer("server_error", detail, lasting=False) from error

    def _json(self, answer: Answer, path: str) -> Any:
        if answer.status != 200:
            raise self._odd(path, f"HTTP {answer.status}", lasting=False)
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._odd(path, "no JSON", lasting=False) from error

    def _odd(self, path: str, what: Any, lasting: bool = True) -> NoAnswer:
        detail = f"{self.who} answered {str(what)[:200]} at {path}; is it a ComfyUI?"
        return NoAnswer("server_error", detail, lasting)


def _cannot(url: str, error: Exception) -> Exception:
    return Unreachable(f"cannot reach ComfyUI at {url}: {error}; start it, then run again")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rejection(body: bytes) -> str:
    """What a refused workflow lacks, in ComfyUI's words."""
    try:
        said = json.loads(body)
        errors = [said["error"], *(e for n in said["node_errors"].values() for e in n["errors"])]
        told = [f"{one['message']}: {one['details']}".strip(": ") for one in errors]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return repr(body[:200])
    return "; ".join(dict.fromkeys(told))[:500]
