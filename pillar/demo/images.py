"""The image server of the demo: HTTP on loopback, ranges and ETag as real servers have them.

It counts what it sends, and can hold a transfer in the middle for as long as somebody needs to kill the
downloader at exactly that point.
"""

from __future__ import annotations

import http.server
import re
import sys
import threading
from collections import Counter
from typing import Any

from pillar.demo.eco import Image

_BLOCK = 64 * 1024
_HOLD_AT_MOST_S = 30.0  # nobody let go: the transfer goes on, whoever waits for it will see


class ImageServer(http.server.ThreadingHTTPServer):
    """Serves each image under `/<name>`. Runs in threads of its own from construction until `close`."""

    daemon_threads = True

    def __init__(self, *images: Image, hold_at: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.images = {image.name: image for image in images}  # more may be added while it serves
        self.sent = 0  # bytes of content handed to the kernel, all requests together
        self.sent_of: Counter[str] = Counter()  # the same, by the image's name
        self.fetched: Counter[str] = Counter()  # GET requests, by the image's name
        self.requests: list[str] = []  # the Range header of each request, "" for the whole image
        self.hold_at = hold_at  # once this many bytes were sent, the transfer stands until `let_go`
        self.held = threading.Event()
        self._go_on = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's scheme and address."""
        return f"http://127.0.0.1:{self.server_port}"

    def hold(self, at: int) -> None:
        """Let transfers stand once `at` bytes were sent in all, until `let_go`."""
        self.held.clear()
        self._go_on.clear()
        self.hold_at = at

    def let_go(self) -> None:
        """Send the rest, of this and of all further requests, without holding."""
        self.hold_at = None
        self._go_on.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed resets its connection: that is what the demo is about, and no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop serving and free the port."""
        self.let_go()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def count(self, name: str, sent: int) -> None:
        """Add to `sent`, holding where the holding point is reached."""
        with self._lock:
            self.sent += sent
            self.sent_of[name] += sent
            hold = self.hold_at is not None and self.sent >= self.hold_at
        if hold:
            self.held.set()
            self._go_on.wait(_HOLD_AT_MOST_S)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ImageServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.server.requests.append(self.headers.get("Range", ""))
        self.server.fetched[self.path.lstrip("/")] += 1
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """The demo shows what matters itself."""

    def _answer(self, *, body: bool) -> None:
        image = self.server.images.get(self.path.lstrip("/"))
        if image is None:
            self.send_error(404)
            return
        etag = f'"{image.sha256[:16]}"'
        first, last, status = self._range(len(image.content), etag)
        if status == 416:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(image.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(image.content)}")
        self.end_headers()
        if not body:
            return
        for start in range(first, last + 1, _BLOCK):
            block = image.content[start : min(start + _BLOCK, last + 1)]
            try:
                self.wfile.write(block)
            except OSError:  # the downloader was killed; it will ask for the rest
                self.close_connection = True
                return
            self.server.count(image.name, len(block))

    def _range(self, size: int, etag: str) -> tuple[int, int, int]:
        """First and last byte to send, and the status (RFC 9110, sections 13.1.5 and 14.2)."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None or self.headers.get("If-Range", etag) != etag:
            return 0, size - 1, 200
        first = int(match[1])
        last = min(int(match[2]) if match[2] else size - 1, size - 1)
        return (first, last, 206) if first <= last else (0, -1, 416)
