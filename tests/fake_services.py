"""Servers on this machine that curation talks to: models, image editors, a ComfyUI."""

import base64
import io
import json
import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from .fake_judge import completion, failure


class FakeServer:
    """`answer(method, path, body)` gives (status, bytes or JSON value, headers); asked: all."""

    def __init__(self):
        self.asked, self._lock = [], threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method, path, body):
        raise NotImplementedError

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            def _any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with server._lock:
                    server.asked.append((self.command, self.path, body))
                self.reply(*server.answer(self.command, self.path, body))

            do_GET = do_POST = _any

            def reply(self, status, content, headers=None):
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                with suppress(OSError):
                    self.send_response(status)
                    for name, value in {
                        "Content-Length": str(len(data)),
                        **(headers or {}),
                    }.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        return Handler


class FakeModel(FakeServer):
    """A chat model that says what it is told to, one thing after another; the last for ever.

    says: texts, answers of `fake_judge`, or functions of the payload.
    """

    def __init__(self, *says):
        super().__init__()
        self.says = list(says)

    @property
    def payloads(self):
        return [json.loads(body) for method, _, body in self.asked if method == "POST"]

    def answer(self, method, path, body):
        if method == "GET":
            return failure(405)
        with self._lock:
            said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        said = said(json.loads(body)) if callable(said) else said
        if isinstance(said, (dict, str)):
            said = completion(said if isinstance(said, str) else json.dumps(said))
        return said if path.endswith("/chat/completions") else failure(404)


def pictures_of(payload):
    """The pictures of a chat request."""
    parts = payload["messages"][1]["content"]
    uris = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [opened(base64.b64decode(uri.partition(",")[2])) for uri in uris]


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def form_of(body):
    """Fields of a multipart body, as bytes."""
    edge = body.partition(b"\r\n")[0]
    found = {}
    for part in body.split(edge)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        found[re.search(rb'name="([^"]*)"', head)[1].decode()] = content[:-2]
    return found


class FakeImages(FakeServer):
    """An images/edits endpoint that inverts; `change` may alter the answer."""

    def __init__(self, change=lambda pixels: (200, None)):
        super().__init__()
        self.change = change

    def answer(self, method, path, body):
        if method == "GET":
            return 405, b"", {}
        form = form_of(body)
        status, content = self.change(form)
        if content is None:
            picture = png(255 - opened(form["image"]))
            content = {"data": [{"b64_json": base64.b64encode(picture).decode()}]}
        return status, content, {}


class FakeComfy(FakeServer):
    """A ComfyUI whose workflows invert the picture they load.

    polls: looks at the history until a run ends; None: never. outcome: "success", "error",
    "interrupted", "lost" (the server was started anew) or "rejected". resize: of the result.
    """

    nodes = ("LoadImage", "SaveImage", "CLIPTextEncode", "KSampler")

    def __init__(self, polls=2, outcome="success", resize=None):
        super().__init__()
        self.polls, self.outcome, self.resize = polls, outcome, resize
        self.files, self.runs, self.looks, self.deleted, self.stopped = {}, {}, {}, [], []

    def answer(self, method, path, body):
        with self._lock:
            return self._answer(method, urlsplit(path), body)

    def _answer(self, method, url, body):
        if url.path == "/object_info":
            return 200, dict.fromkeys(self.nodes, {})
        if url.path == "/upload/image":
            form = form_of(body)
            name = form.get("subfolder", b"").decode()
            file = re.search(rb'filename="([^"]*)"', body)[1].decode()
            self.files[f"{name}/{file}"] = form["image"]
            return 200, {"name": file, "subfolder": name, "type": "input"}
        if url.path == "/prompt":
            return self._queue(json.loads(body)["prompt"])
        if url.path == "/queue" and method == "POST":
            self.deleted += json.loads(body)["delete"]
            return 200, b""
        if url.path == "/interrupt":
            self.stopped.append(json.loads(body).get("prompt_id"))
            return 200, b""
        if url.path == "/queue":
            running = [] if self.outcome == "lost" else [[0, id, {}] for id in self.runs]
            return 200, {"queue_running": running, "queue_pending": []}
        if url.path.startswith("/history/"):
            return self._history(url.path.rpartition("/")[2])
        if url.path == "/view":
            return 200, self.files[parse_qs(url.query)["filename"][0]]
        return 404, b""

    def _queue(self, prompt):
        if self.outcome == "rejected":
            wrong = {"message": "Value not in list", "details": "image: 'x.png'"}
            error = {"message": "Prompt outputs failed validation", "details": ""}
            return 400, {"error": error, "node_errors": {"1": {"errors": [wrong]}}}
        id = f"run-{len(self.runs)}"
        self.runs[id] = prompt
        return 200, {"prompt_id": id, "number": 1, "node_errors": {}}

    def _history(self, id):
        self.looks[id] = self.looks.get(id, 0) + 1
        if self.outcome == "lost" or self.polls is None or self.looks[id] <= self.polls:
            return 200, {}
        if self.outcome != "success":
            told = {"error": "execution_error", "interrupted": "execution_interrupted"}
            message = [told[self.outcome], {"exception_message": "CUDA out of memory\n"}]
            return 200, {id: {"status": {"status_str": "error", "messages": [message]}}}
        prompt = self.runs[id]
        named = (n["inputs"]["image"] for n in prompt.values() if n["class_type"] == "LoadImage")
        pixels = 255 - opened(self.files[next(name for name in named if name in self.files)])
        if self.resize:
            pixels = np.asarray(Image.fromarray(pixels).resize(self.resize))
        name = f"{id}.png"
        self.files[name] = png(pixels)
        shown = {"images": [{"filename": name, "subfolder": "", "type": "output"}]}
        outputs = {key: shown for key, n in prompt.items() if n["class_type"] == "SaveImage"}
        return 200, {id: {"status": {"status_str": "success"}, "outputs": outputs}}
