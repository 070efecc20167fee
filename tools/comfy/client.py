"""Talk to a ComfyUI server: queue workflows, follow their events, fetch what they made."""

import io
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from .websocket import EventStream

_open = build_opener(ProxyHandler({})).open
_ENDS = {"execution_success", "execution_error", "execution_interrupted"}


@dataclass
class Run:
    """What became of one queued workflow.

    status: "success", "error", "interrupted" or "rejected"; error: what the server says of it.
    executed: ids of nodes that ran, in order; cached: those that did not have to.
    previews: (node id, JPEG or PNG bytes) in order; progress: node id -> [(value, max), ...].
    seconds: node id -> time it ran; outputs: node id -> what it showed or saved.
    """

    status: str = ""
    error: dict[str, Any] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    previews: list[tuple[str | None, bytes]] = field(default_factory=list)
    progress: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _now: tuple[str, float] | None = None

    @property
    def texts(self) -> dict[str, list[str]]:
        """Node id -> what is written on it, one text a run of the node."""
        return {node: shown["text"] for node, shown in self.outputs.items() if shown.get("text")}

    def message(self) -> str:
        """The text of an error, wherever ComfyUI put it."""
        found = [self.error.get("exception_message", ""), self.error.get("error", {})]
        found.append(self.error.get("node_errors", {}))
        return " ".join(f if isinstance(f, str) else json.dumps(f) for f in found if f)


class Client:
    """A client id, and the events the server sends it."""

    def __init__(self, url: str) -> None:
        self.url, self.id = url, uuid.uuid4().hex
        self._stream = EventStream(f"{url}/ws?clientId={self.id}")
        asked = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        self._stream.send(json.dumps(asked).encode())
        self._run, self._done = Run(), threading.Event()
        self.on_event: Callable[[str, dict], None] | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    # ---- plain requests

    @staticmethod
    def get_json(url: str) -> Any:
        """Body of a GET, parsed."""
        with _open(url, timeout=60) as answer:
            return json.load(answer)

    def get(self, path: str) -> Any:
        """Body of a GET below the server's address, parsed."""
        return self.get_json(self.url + path)

    def get_bytes(self, path: str) -> bytes:
        """Body of a GET as it is."""
        with _open(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Status and parsed body of a POST."""
        request = Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with _open(request, timeout=60) as answer:
                body = answer.read()
                return answer.status, json.loads(body) if body else None
        except HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def upload(self, name: str, content: bytes) -> str:
        """Put a picture into ComfyUI's input folder; the name it has there."""
        edge = uuid.uuid4().hex
        parts = io.BytesIO()
        parts.write(
            f'--{edge}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: image/png\r\n\r\n".encode()
        )
        parts.write(content + f"\r\n--{edge}--\r\n".encode())
        head = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        request = Request(f"{self.url}/upload/image", parts.getvalue(), head)
        with _open(request, timeout=60) as answer:
            return json.load(answer)["name"]

    def fetch(self, item: dict[str, str]) -> bytes:
        """A file that a node has made, as listed in `Run.outputs`."""
        keys = ("filename", "subfolder", "type")
        return self.get_bytes("/view?" + urlencode({key: item.get(key, "") for key in keys}))

    def files(self, run: Run, node: str) -> list[bytes]:
        """All pictures a node has made in a run."""
        shown = run.outputs.get(node, {})
        kinds = ("images", "a_images", "b_images")  # the last two of core's Image Compare
        return [self.fetch(item) for kind in kinds for item in shown.get(kind, [])]

    # ---- runs

    def run(
        self, prompt: dict[str, Any], timeout: float = 300, extra: dict[str, Any] | None = None
    ) -> Run:
        """Queue an API-format workflow and wait for its end; `extra` goes in as extra_data."""
        self._run, self._done = Run(), threading.Event()
        run = self._run
        body = {"prompt": prompt, "client_id": self.id, "extra_data": extra or {}}
        status, answer = self.post("/prompt", body)
        if status != 200 or answer.get("node_errors"):
            run.status, run.error = "rejected", answer
            return run
        if not self._done.wait(timeout):
            raise TimeoutError(f"no end within {timeout} s; executed so far: {run.executed}")
        history = self._history(answer["prompt_id"])
        run.outputs = history.get("outputs", {})
        return run

    def interrupt(self) -> None:
        """What the canvas' cancel button does."""
        self.post("/interrupt", {})

    def _history(self, prompt_id: str) -> dict[str, Any]:
        for _ in range(100):  # the entry comes a moment after the last event
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            time.sleep(0.05)
        return {}

    def _listen(self) -> None:
        for message in self._stream.messages():
            if isinstance(message, bytes):
                self._binary(message)
                continue
            event = json.loads(message)
            kind, data = event.get("type", ""), event.get("data") or {}
            self._follow(kind, data)
            if self.on_event:
                self.on_event(kind, data)
            if kind in _ENDS:
                self._done.set()

    def _follow(self, kind: str, data: dict[str, Any]) -> None:
        run, now = self._run, time.monotonic()
        if kind == "execution_cached":
            run.cached = list(data.get("nodes", []))
        elif kind == "progress":
            run.progress.setdefault(str(data["node"]), []).append((data["value"], data["max"]))
        elif kind == "executing" or kind in _ENDS:
            if run._now:
                node, since = run._now
                run.seconds[node] = round(run.seconds.get(node, 0) + now - since, 3)
            node = data.get("node") if kind == "executing" else None
            run._now = (str(node), now) if node is not None else None
            if node is not None:
                run.executed.append(str(node))
        if kind in _ENDS:
            run.status = kind.removeprefix("execution_")
            run.error = data if run.status != "success" else {}

    def _binary(self, payload: bytes) -> None:
        kind = int.from_bytes(payload[:4], "big")
        if kind == 1:  # four bytes of picture type, then the picture
            self._run.previews.append((None, payload[8:]))
        elif kind == 4:  # length of the metadata, metadata, picture
            size = int.from_bytes(payload[4:8], "big")
            node = json.loads(payload[8 : 8 + size]).get("node_id")
            self._run.previews.append((node, payload[8 + size :]))
