"""A proxy in front of any HTTP server that counts the body bytes it lets through, and holds at exactly the one asked.

What a killed client got is known to the byte: the server may have sent more, into the proxy, but nothing passes.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading

PIECE = 16 * 1024
SEND_BUFFER = 16 * 1024  # what is in it has been counted and has not left


class CountingProxy:
    """Forwards connections to a port of this machine; bodies of answers pass as far as `allow` says."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._gate = threading.Condition()
        self._left = 0
        self._headers_pass = True
        self._held = False
        self._generation = 0
        self._clients: list[socket.socket] = []  # since the last `allow`
        self.passed = 0  # body bytes, since the last `allow`
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def allow(self, count: int, headers: bool = True) -> None:
        """From now on let `count` body bytes through and then hold; without `headers`, not even an answer's head.

        Connections from before do not count any more and are closed.
        """
        with self._gate:
            self._generation += 1
            self._left, self._headers_pass = count, headers
            self.passed, self._held = 0, False
            self._clients = []
            self._gate.notify_all()

    def wait_held(self, timeout: float) -> bool:
        """Whether it holds now: all that was allowed has passed, and more is there."""
        with self._gate:
            return self._gate.wait_for(lambda: self._held, timeout)

    @property
    def delivered(self) -> int:
        """Those of the passed bytes that the client's kernel has taken, read or not. Nobody has hung up."""
        with self._gate:
            waiting = [fcntl.ioctl(client, termios.TIOCOUTQ, b"\0\0\0\0") for client in self._clients]
            return self.passed - sum(struct.unpack("i", count)[0] for count in waiting)

    def close(self) -> None:
        self.allow(0)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(("127.0.0.1", self._upstream))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._gate:
                self._clients.append(client)
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client, self._generation), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end went away
            while data := client.recv(PIECE):
                server.sendall(data)
        _end(server)
        _end(client)

    def _down(self, server: socket.socket, client: socket.socket, generation: int) -> None:
        """Answers, one after the other; only their bodies are counted."""
        head, body = b"", 0
        with contextlib.suppress(OSError, _Over):
            while data := server.recv(PIECE):
                while data:
                    if body:
                        part = data[: self._admit(min(body, len(data)), generation)]
                        client.sendall(part)
                        data, body = data[len(part) :], body - len(part)
                        continue
                    head += data
                    end = head.find(b"\r\n\r\n")
                    if end < 0:
                        break
                    self._admit_head(generation)
                    client.sendall(head[: end + 4])
                    body, data, head = _length(head[:end]), head[end + 4 :], b""
        _end(client)
        _end(server)
        server.close()
        client.close()

    def _admit(self, wanted: int, generation: int) -> int:
        """How many of `wanted` body bytes may pass now, at least one. Raises _Over for a connection from before."""
        with self._gate:
            while self._left == 0 and generation == self._generation:
                self._held = True
                self._gate.notify_all()
                self._gate.wait()
            if generation != self._generation:
                raise _Over
            count = min(wanted, self._left)
            self._left -= count
            self.passed += count
            return count

    def _admit_head(self, generation: int) -> None:
        with self._gate:
            while not self._headers_pass and generation == self._generation:
                self._held = True
                self._gate.notify_all()
                self._gate.wait()
            if generation != self._generation:
                raise _Over


class _Over(Exception):
    """The connection is from before the last `allow`."""


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
