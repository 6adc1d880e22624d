"""Where a table's socket stands, and reaching it however long the path is.

`<root>/run/<agent>[/<scope>]/<Topic>.sock`, beside the table's directory, for persistent tables too. The kernel takes
107 bytes of path in an address, so it is given the name below an open directory: `/proc/self/fd/<N>/<Topic>.sock`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator

from pillar.pubsub.errors import BadName
from pillar.pubsub.names import Table

# What an address leaves for a topic: `/proc/self/fd/<seven digits>/.<Topic>.sock`, as a publisher binds it.
MAX_TOPIC_BYTES = 107 - len("/proc/self/fd/1234567/..sock")

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

# Its socket is never used: EVE's `zedclient` runs once and ends, and its readers follow its files.
_FILES_ONLY = ("zedclient",)


def has_socket(table: Table) -> bool:
    """Whether EVE's subscribers use a socket for this table: not for global ones and zedclient's."""
    return bool(table.agent) and table.agent not in _FILES_ONLY


def check(table: Table) -> None:
    """Refuse a topic whose socket could not be bound or connected to. Raises BadName."""
    size = len(table.topic.encode())
    if size > MAX_TOPIC_BYTES:
        raise BadName(f"topic {table.topic!r} has {size} bytes, at most {MAX_TOPIC_BYTES} fit into a socket's address")


def parts(table: Table) -> list[str]:
    """The directories of the socket below the root."""
    return [part for part in ("run", table.agent, table.scope) if part]


def directory(table: Table) -> str:
    """The directory of the socket."""
    return os.path.join(table.root, *parts(table))


def make_directory(table: Table, *, passable: bool) -> None:
    """Make the socket's directory, as a table's: `run` 0755, the agent's own 0700, or 0711 if others may pass.

    Raises OSError.
    """
    place = table.root
    for part in parts(table):
        place = os.path.join(place, part)
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o755 if part == "run" else 0o700)
        if passable and part != "run":
            os.chmod(place, stat.S_IMODE(os.stat(place).st_mode) | 0o711)


def name(table: Table) -> str:
    """The socket's file name."""
    return table.topic + ".sock"


def path(table: Table) -> str:
    """The socket's path, for people."""
    return os.path.join(directory(table), name(table))


@contextlib.contextmanager
def opened(table: Table) -> Iterator[int]:
    """The socket's directory, open. Raises OSError."""
    fd = os.open(directory(table), _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def address(fd: int, filename: str) -> str:
    """An address for bind and connect that does not depend on the length of the directory's path."""
    return f"/proc/self/fd/{fd}/{filename}"


def new_socket() -> socket.socket:
    """A socket as EVE's `unixpacket`, never blocking."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def connect(table: Table) -> socket.socket:
    """A connection to the table's publisher.

    Raises FileNotFoundError when there is no socket, ConnectionRefusedError when nobody listens at it, BlockingIOError
    when its queue of connections is full, and another OSError when the machine refuses.
    """
    peer = new_socket()
    try:
        with opened(table) as fd:
            peer.connect(address(fd, name(table)))
    except BaseException:
        peer.close()
        raise
    return peer


def pid_of(peer: socket.socket) -> int:
    """The process at the other end: who connected, or who listened. 0 from another pid namespace."""
    pid: int = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid
