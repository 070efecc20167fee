"""Just enough of RFC 6455 to listen to ComfyUI's event stream, on the standard library alone."""

import base64
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class EventStream:
    """One connection; iterate over `messages`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        self._file = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}",
            "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
        ]  # fmt: skip
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = self._file.readline()
        if b" 101 " not in status:
            raise OSError(f"no event stream: {status!r}")
        while self._file.readline().strip():
            pass
        self._socket.settimeout(None)

    def send(self, payload: bytes, kind: int = TEXT) -> None:
        """Send one short frame, masked as clients must."""
        size = len(payload)
        head = bytes([0x80 | kind]) + (
            bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
        )
        mask = os.urandom(4)
        body = bytes(byte ^ mask[k % 4] for k, byte in enumerate(payload))
        self._socket.sendall(head + mask + body)

    def messages(self) -> Iterator[str | bytes]:
        """Text as str, binary as bytes, until either side closes."""
        kind, parts = TEXT, b""
        while frame := self._frame():
            last, code, payload = frame
            if code == CLOSE:
                return
            if code == PING:
                self.send(payload, PONG)
            if code >= CLOSE:
                continue
            kind, parts = (code, payload) if code else (kind, parts + payload)
            if last:
                yield parts.decode() if kind == TEXT else parts

    def close(self) -> None:
        """End the stream; a thread inside `messages` returns."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _frame(self) -> tuple[bool, int, bytes] | None:
        try:
            head = self._file.read(2)
            if len(head) < 2:
                return None
            size = head[1] & 0x7F
            if size >= 126:
                wide = self._file.read(2 if size == 126 else 8)
                size = int.from_bytes(wide, "big")
            return bool(head[0] & 0x80), head[0] & 0x0F, self._file.read(size)
        except (OSError, ValueError):
            return None
