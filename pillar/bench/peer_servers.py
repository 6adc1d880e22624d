"""The peers' servers, on loopback, their data below a directory of the measurement."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator

PATIENCE_S = 20.0


@contextlib.contextmanager
def serving(name: str, place: str) -> Iterator[str]:
    """A peer's address for the length of a block; `place` itself for those that need no server."""
    if name not in _COMMANDS:
        yield place
        return
    port, other = _free_port(), _free_port()
    command = [word.format(port=port, other=other, place=place) for word in _COMMANDS[name]]
    with (
        open(f"{place}/server.log", "wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=place) as server,
    ):
        try:
            _until_it_listens(server, port, f"{place}/server.log")
            yield f"127.0.0.1:{port}"
        finally:
            server.kill()


_COMMANDS = {
    "nats": ["nats-server", "-a", "127.0.0.1", "-p", "{port}", "-js", "-sd", "{place}/data"],
    "etcd": [
        "etcd",
        "--data-dir={place}/data",
        "--listen-client-urls=http://127.0.0.1:{port}",
        "--advertise-client-urls=http://127.0.0.1:{port}",
        "--listen-peer-urls=http://127.0.0.1:{other}",
        "--initial-advertise-peer-urls=http://127.0.0.1:{other}",
        "--initial-cluster=default=http://127.0.0.1:{other}",
    ],
    "redis": [
        *["redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--dir", "{place}", "--save", ""],
        *["--appendonly", "yes", "--appendfsync", "always", "--notify-keyspace-events", "KA"],
    ],
}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _until_it_listens(server: subprocess.Popen[bytes], port: int, log: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if server.poll() is not None or time.monotonic() > deadline:
            with open(log, encoding="utf-8", errors="replace") as text:
                raise RuntimeError(f"{server.args!r} does not listen: {text.read()[-500:]}")
        time.sleep(0.02)
