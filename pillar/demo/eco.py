"""The ECO of the demo: one executable file that serves HTTP, of any size from a few KiB on.

A Python zip application (PEP 441): the kernel reads the first line, Python reads the archive behind it, so
one file can carry a program and ballast that makes it as large as an image.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from typing import NamedTuple

# It takes a port of its own and says which in its log: nothing has to be agreed on beforehand.
_PROGRAM = """
import http.server
import json
import os


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"hello": "from " + os.environ["PILLAR_ECO_NAME"], "uuid": os.environ["PILLAR_ECO_UUID"],
                           "pid": os.getpid(), "path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
print("listening on 127.0.0.1:%d" % server.server_port, flush=True)
server.serve_forever()
"""


class Image(NamedTuple):
    """An application image as the image server offers it."""

    name: str
    content: bytes
    sha256: str


def build(name: str, size: int) -> Image:
    """An image of at least `size` bytes, different each time it is built."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        members.writestr("__main__.py", _PROGRAM)
        members.writestr("ballast", os.urandom(max(size, 32)))
    # The interpreter itself, not the environment's link to it: the ECO needs nothing but Python.
    content = f"#!{os.path.realpath(sys.executable)}\n".encode() + archive.getvalue()
    return Image(name, content, hashlib.sha256(content).hexdigest())
