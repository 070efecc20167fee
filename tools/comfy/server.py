"""A real ComfyUI as a child process: start it on a fresh folder with the pack linked in, stop it.

Where it is comes from the environment: COMFYUI_PATH, a checkout; COMFY_PYTHON, a Python that has
its requirements; COMFY_FRONTEND, if a frontend of another version is to be served: the `static`
folder of its package. Or COMFY_URL, a server that is already running (COMFY_LOG: its log).
"""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .client import Client

ROOT = Path(__file__).resolve().parents[2]
WAIT = 900  # seconds for the first answer


@dataclass(frozen=True)
class Server:
    """A running ComfyUI."""

    url: str
    log_file: Path | None
    version: str
    start_seconds: float

    @property
    def log(self) -> str:
        """All it has printed; nothing where that is not known."""
        if self.log_file is None:
            return ""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """To compare with."""
        return tuple(int(part) for part in self.version.split(".")[:3])

    def client(self) -> Client:
        """A connection with an event stream of its own."""
        return Client(self.url)


def places() -> tuple[Path, str] | None:
    """(checkout, Python) from the environment, or None where either is not given."""
    checkout, python = os.environ.get("COMFYUI_PATH"), os.environ.get("COMFY_PYTHON")
    return (Path(checkout), python) if checkout and python else None


@contextlib.contextmanager
def running(
    base: Path, *, name: str = "any-name", arguments: Sequence[str] = ("--cpu",)
) -> Iterator[Server]:
    """Start ComfyUI with the pack under `custom_nodes/<name>`; it ends with the block."""
    found = places()
    if found is None:
        raise RuntimeError("set COMFYUI_PATH to a ComfyUI checkout and COMFY_PYTHON to its Python")
    checkout, python = found
    for folder in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes" / name).symlink_to(ROOT, target_is_directory=True)
    port = _free_port()
    command = [
        python, "main.py", "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(base), "--disable-api-nodes",
        "--database-url", f"sqlite:///{base}/user/comfyui.db", *arguments,
    ]  # fmt: skip
    if frontend := os.environ.get("COMFY_FRONTEND"):
        command += ["--front-end-root", frontend]
    began = time.monotonic()
    with open(base / "comfyui.log", "wb") as log:
        # A process group of its own, so that an interrupt at the keyboard reaches only the tests.
        process = subprocess.Popen(
            command, cwd=checkout, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        version = _wait(url, process, base / "comfyui.log")
        yield Server(url, base / "comfyui.log", version, round(time.monotonic() - began, 1))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def temporary(**options) -> Iterator[Server]:
    """`running` on a folder that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="comfy") as folder,
        running(Path(folder), **options) as server,
    ):
        yield server


def already_running() -> Server | None:
    """The server that COMFY_URL names."""
    url, log = os.environ.get("COMFY_URL"), os.environ.get("COMFY_LOG")
    if not url:
        return None
    version = Client.get_json(f"{url}/system_stats")["system"]["comfyui_version"]
    return Server(url, Path(log) if log else None, version, 0.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(url: str, process: subprocess.Popen, log: Path) -> str:
    """ComfyUI's version, once it answers."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return Client.get_json(f"{url}/system_stats")["system"]["comfyui_version"]
        time.sleep(0.3)
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    raise RuntimeError(f"ComfyUI gave no answer; its log ends:\n{tail}")
