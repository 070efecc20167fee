"""A Hugging Face Hub of one repository: a folder, served over HTTP as fast as a test wants."""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

CHUNK = 1 << 16


def commit_of(revision: str) -> str:
    """The commit that a name stands for; a commit stands for itself."""
    return revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()


class FakeHub:
    """What is served, how slowly, and what was asked for.

    pause: seconds after each 64 KiB. sent: path -> bytes of content sent, by each request for it.
    revisions: those asked for. corrupt: path -> content sent in place of what the listing states.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.pause, self.url = folder, 0.0, ""
        self.sent: dict[str, list[int]] = {}
        self.requests, self.revisions = 0, set()
        self.corrupt: dict[str, bytes] = {}

    def tree(self) -> list[dict]:
        """The listing as the Hub gives it: large files by SHA-256, small ones by git's SHA-1."""
        return [self._entry(p) for p in sorted(self.folder.rglob("*")) if p.is_file()]

    def info(self, revision: str) -> dict:
        """What the Hub says of the repository at a revision, with the metadata of its files."""
        siblings = [
            {"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]}
            | ({"lfs": {**e["lfs"], "sha256": e["lfs"]["oid"]}} if "lfs" in e else {})
            for e in self.tree()
        ]
        return {"id": "owner/name", "sha": commit_of(revision), "siblings": siblings}

    def _entry(self, path: Path) -> dict:
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": path.relative_to(self.folder).as_posix(),
                 "size": len(content), "oid": blob}  # fmt: skip
        if path.suffix in (".safetensors", ".parquet"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return entry


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[FakeHub]:
    """A running hub; HF_ENDPOINT takes its `url`."""
    hub = FakeHub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            _answer(self, hub, body=False)

        def do_GET(self) -> None:
            _answer(self, hub, body=True)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def point_at(hub: FakeHub, monkeypatch: Any, cache: Path) -> FakeHub:
    """Have huggingface_hub ask this hub, online, with a cache of its own; gives the hub."""
    import huggingface_hub.constants
    import huggingface_hub.file_download

    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, huggingface_hub.file_download):  # older versions copy it
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return hub


def _answer(request: BaseHTTPRequestHandler, hub: FakeHub, body: bool) -> None:
    hub.requests += 1
    path = unquote(urlsplit(request.path).path)
    if path.startswith(("/api/models/", "/api/datasets/")):
        _, found, revision = path.partition("/revision/")
        hub.revisions |= {revision} if found else set()
        content = json.dumps(hub.info(revision) if found else hub.tree()).encode()
        return _send(request, content, {"Content-Type": "application/json"}, body, 0, None)
    revision, _, name = path.partition("/resolve/")[2].partition("/")
    file = hub.folder / name
    if not name or not file.is_file():
        return request.send_error(404)
    hub.revisions.add(revision)
    entry = hub._entry(file)
    etag = entry.get("lfs", entry)["oid"]
    headers = {"X-Repo-Commit": commit_of(revision), "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
    content = hub.corrupt.get(name) or file.read_bytes()
    _send(request, content, headers, body, start, (hub, name))


def _send(
    request: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str], body: bool,
    start: int, meter: tuple[FakeHub, str] | None,
) -> None:  # fmt: skip
    """Head and, if wanted, the content from a byte on."""
    request.send_response(206 if start else 200)
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    for name, value in {**headers, "Content-Length": str(len(content) - start)}.items():
        request.send_header(name, value)
    request.end_headers()
    if not body:
        return
    count = meter[0].sent.setdefault(meter[1], []) if meter else []
    count.append(0)
    with contextlib.suppress(ConnectionError):
        for at in range(start, len(content), CHUNK):
            request.wfile.write(content[at : at + CHUNK])
            count[-1] += len(content[at : at + CHUNK])
            time.sleep(meter[0].pause if meter else 0)
