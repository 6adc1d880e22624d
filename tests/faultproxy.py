"""A proxy of ours in front of any TCP server: it cuts, resets, stalls, slows, lies about length, or does something.

One Trouble per connection, in the order they come; further connections pass as they are. Bytes are counted from the
server to the client, encrypted ones too.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

PIECE = 16 * 1024


@dataclass
class Trouble:
    """What happens to one connection when `after` bytes of the server's have passed."""

    after: int = 0
    cut: bool = False  # both directions are closed
    reset: bool = False  # the client gets a RST
    stall: bool = False  # nothing passes any more; the connection stays open
    pause_s: float = 0.0  # before each piece from then on
    length: int | None = None  # the first answer's Content-Length says this
    call: Callable[[], None] | None = None  # once


class FaultProxy:
    """Forwards connections to a port of this machine."""

    def __init__(self, port: int, *troubles: Trouble) -> None:
        self._upstream = port
        self.left = list(troubles)
        self.connections = 0
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            trouble = self.left.pop(0) if self.left else Trouble()
            server = socket.create_connection(("127.0.0.1", self._upstream))
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client, trouble), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end went away
            while data := client.recv(PIECE):
                server.sendall(data)
        _end(server)

    def _down(self, server: socket.socket, client: socket.socket, trouble: Trouble) -> None:
        passed = 0
        with contextlib.suppress(OSError):  # either end went away
            while data := server.recv(PIECE):
                if trouble.length is not None and not passed:
                    data = re.sub(rb"(?i)(content-length: )\d+", b"\\g<1>%d" % trouble.length, data, count=1)
                if passed + len(data) > trouble.after:
                    client.sendall(data[: max(0, trouble.after - passed)])
                    data = data[max(0, trouble.after - passed) :]
                    passed = max(passed, trouble.after)
                    if not self._happens(trouble, client):
                        break
                client.sendall(data)
                passed += len(data)
        _end(server)
        _end(client)
        server.close()
        client.close()

    def _happens(self, trouble: Trouble, client: socket.socket) -> bool:
        """Whether the connection goes on."""
        if trouble.call is not None:
            trouble.call()
            trouble.call = None
        if trouble.stall:
            self._over.wait()
        if trouble.reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.shutdown(socket.SHUT_RD)  # the other thread lets go of it
            client.close()
        time.sleep(trouble.pause_s)  # this is the slowness, not a wait
        return not (trouble.cut or trouble.reset or trouble.stall)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
