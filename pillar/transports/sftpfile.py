"""A file at an SFTP server, read in order: as much of SFTP (version 3) as that takes, over one SSH channel.

paramiko brings SSH. Its own SFTP client reads either one block per round trip, or as far ahead as the server is fast;
what it has read ahead is lost with the process. Here at most WINDOW_BYTES are asked for and not yet handed on.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillar.transports.base import TransportFailed

if TYPE_CHECKING:
    import paramiko

BLOCK_BYTES = 32 * 1024  # what every server gives at once
WINDOW_BYTES = 896 * 1024
MAX_PACKET_BYTES = 256 * 1024  # OpenSSH's own bound

_INIT, _VERSION, _OPEN, _CLOSE, _READ, _FSTAT = 1, 2, 3, 4, 5, 8
_STATUS, _HANDLE, _DATA, _ATTRS = 101, 102, 103, 105
_EOF = 1
_FOR_READING = 1
_REASONS = {2: "no such file", 3: "permission denied", 8: "the server does not do that"}


@dataclass(frozen=True)
class Attributes:
    """What the server says of an open file; `mtime` in seconds, None when it does not say."""

    size: int | None
    mtime: int | None
    regular: bool


class SftpFile:
    """One file, open for reading. Every method raises TransportFailed, or what the SSH connection raises."""

    def __init__(self, channel: paramiko.Channel, path: str) -> None:
        import paramiko

        self._message = paramiko.Message
        self._channel = channel
        self._path = path
        self._next_id = 0
        channel.invoke_subsystem("sftp")
        self._send(_INIT, self._message().add_int(3))
        kind, answer = self._receive()
        if kind != _VERSION or answer.get_int() < 3:
            raise TransportFailed("the server does not speak SFTP version 3")
        request = self._message()
        request.add_string(path.encode("utf-8", "surrogateescape"))
        request.add_int(_FOR_READING).add_int(0)
        kind, answer = self._call(_OPEN, request)
        if kind != _HANDLE:
            raise self._failure(kind, answer)
        self._handle = answer.get_string()

    def attributes(self) -> Attributes:
        kind, answer = self._call(_FSTAT, self._message().add_string(self._handle))
        if kind != _ATTRS:
            raise self._failure(kind, answer)
        flags = answer.get_int()
        size = answer.get_int64() if flags & 1 else None
        if flags & 2:
            answer.get_int(), answer.get_int()  # uid and gid
        mode = answer.get_int() if flags & 4 else stat.S_IFREG
        mtime = None
        if flags & 8:
            answer.get_int()  # atime
            mtime = answer.get_int()
        return Attributes(size, mtime, stat.S_IFMT(mode) in (0, stat.S_IFREG))

    def read(self, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes from `start` to before `end`, or to the end of the file if that comes first."""
        waiting: deque[tuple[int, int, int]] = deque()  # request id, offset, length; in the order of the bytes
        came: dict[int, bytes | None] = {}  # answers that are not due yet; None is the end of the file
        ahead = start
        while True:
            while len(waiting) * BLOCK_BYTES < WINDOW_BYTES and (end is None or ahead < end):
                length = BLOCK_BYTES if end is None else min(BLOCK_BYTES, end - ahead)
                waiting.append((self._ask(ahead, length), ahead, length))
                ahead += length
            if not waiting:
                return
            number, offset, length = waiting.popleft()
            while number not in came:
                answered, data = self._next_block()
                came[answered] = data
            block = came.pop(number)
            if not block:
                return
            if len(block) < length:  # a server may give less than was asked for
                rest = offset + len(block), length - len(block)
                waiting.appendleft((self._ask(*rest), *rest))
            yield block[:length]

    def _ask(self, offset: int, length: int) -> int:
        request = self._message().add_string(self._handle)
        request.add_int64(offset).add_int(length)
        return self._request(_READ, request)

    def _next_block(self) -> tuple[int, bytes | None]:
        kind, answer = self._receive()
        number = answer.get_int()
        if kind == _DATA:
            return number, answer.get_string()
        if kind == _STATUS and answer.get_int() == _EOF:
            return number, None
        answer.rewind()
        answer.get_int()
        raise self._failure(kind, answer)

    def _call(self, kind: int, body: paramiko.Message) -> tuple[int, paramiko.Message]:
        number = self._request(kind, body)
        answered, answer = self._receive()
        if answer.get_int() != number:
            raise TransportFailed("the server answers something else than it was asked")
        return answered, answer

    def _request(self, kind: int, body: paramiko.Message) -> int:
        self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        self._send(kind, self._message().add_int(self._next_id), body)
        return self._next_id

    def _send(self, kind: int, *parts: paramiko.Message) -> None:
        payload = bytes([kind]) + b"".join(part.asbytes() for part in parts)
        self._channel.sendall(len(payload).to_bytes(4, "big") + payload)

    def _receive(self) -> tuple[int, paramiko.Message]:
        length = int.from_bytes(self._bytes(4), "big")
        if not 1 <= length <= MAX_PACKET_BYTES:
            raise TransportFailed(f"the server sends a packet of {length} bytes: that is not SFTP")
        packet = self._bytes(length)
        return packet[0], self._message(packet[1:])

    def _bytes(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._channel.recv(count)
            if not part:
                raise TransportFailed("the server closed the connection")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _failure(self, kind: int, answer: paramiko.Message) -> TransportFailed:
        """What the server says instead of the answer that was due."""
        if kind != _STATUS:
            return TransportFailed(f"the server answers with a packet of type {kind}: that is not SFTP")
        code = answer.get_int()
        text = answer.get_string().decode("utf-8", "replace").strip()
        return TransportFailed(f"{self._path}: {_REASONS.get(code) or text or f'error {code}'}")
