"""A judge on this machine, with an OpenAI-compatible address: good, or in any bad mood."""

import base64
import hashlib
import io
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


@dataclass
class Asked:
    """One request. nth: how often this very request came, from 1."""

    payload: dict
    headers: dict
    nth: int

    @property
    def parts(self):
        return self.payload["messages"][0]["content"]

    @property
    def text(self):
        return next(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def uris(self):
        return [p["image_url"]["url"] for p in self.parts if p["type"] == "image_url"]

    @property
    def pictures(self):
        data = (base64.b64decode(uri.partition(",")[2]) for uri in self.uris)
        return [Image.open(io.BytesIO(one)) for one in data]

    @property
    def is_again(self):
        """Whether this is the re-ask after an unreadable answer."""
        return len(self.payload["messages"]) > 1

    @property
    def chance(self):
        """A number 0..1 that depends on the pictures and the text alone."""
        total = hashlib.sha256(self.text.encode())
        for picture in self.pictures:
            total.update(picture.convert("RGB").tobytes())
        return int.from_bytes(total.digest()[:4], "big") / 2**32


# ---- answers: (status, body, headers), or seconds to wait before one


def completion(text, finish="stop", model="fake-judge-2026-01-01", **message):
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return 200, {"model": model, "choices": [choice], "usage": usage}, {}


def failure(status, message="no", code=None, **headers):
    return status, {"error": {"message": message, "code": code}}, headers


def good(asked, model="fake-judge-2026-01-01"):
    """Scores that depend on what is asked, in the form asked for."""
    number = int(asked.chance * 1000)
    if "A number from 1 to 5" in asked.text:
        names = [x.partition(":")[0] for x in asked.text.splitlines() if "A number from" in x]
        lines = [f"{name}: {1 + (number + k) % 5}" for k, name in enumerate(names)]
        return completion("\n".join(["Brief reasoning: fine", *lines]), model=model)
    scores = [number % 11, (number // 11) % 11]
    return completion(json.dumps({"score": scores, "reasoning": "fine"}), model=model)


def moody(asked):
    """A judge of every kind: what it does to a question is always the same, whoever asks when."""
    mood = int(asked.chance * 100)
    if asked.is_again:  # the second chance is taken by half
        return good(asked) if mood % 2 else completion("I would say quite good.")
    if asked.nth == 1 and mood % 10 == 0:
        return failure(429, "slow down", **{"Retry-After": "0"})
    if asked.nth == 1 and mood % 10 == 1:
        return failure(503, "starting")
    answers = {
        2: completion("I'm sorry, but I can't rate this picture."),
        3: completion('{"score": [11, -1], "reasoning": "Prompt Compliance: 9"}'),
        4: completion("I would say quite good."),
        5: failure(400, "blocked", "content_filter"),
        6: failure(504, "upstream took too long"),
        7: (200, b"<html>gateway</html>", {}),
    }
    return answers.get(mood) or good(asked)


class FakeJudge:
    """A running server; `answer(asked)` gives what it says. Use as a context manager.

    asked: all requests in order. peak: most of them at one time.
    """

    def __init__(self, answer=good, delay=0.0):
        self.answer, self.delay = answer, delay
        self.asked, self.peak, self._now = [], 0, 0
        self._lock, self._counts = threading.Lock(), {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Die; nobody listens any more."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, path, headers, data):
        with self._lock:
            self._now += 1
            self.peak = max(self.peak, self._now)
            self._counts[data] = self._counts.get(data, 0) + 1
            asked = Asked(json.loads(data), headers, self._counts[data])
            self.asked.append(asked)
        try:
            if not path.endswith("/chat/completions"):
                return failure(404, "no such page")
            time.sleep(self.delay)
            said = self.answer(asked)
            if isinstance(said, (int, float)):
                time.sleep(said)
                said = good(asked)
            return said
        finally:
            with self._lock:
                self._now -= 1

    def _handler(judge):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                status, body, headers = judge._take(self.path, dict(self.headers), data)
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                with suppress(OSError):  # whoever asked has gone
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
