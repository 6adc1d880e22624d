"""A socket on which the kernel's netfilter tells what happens, of the namespace this process is in."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Final

_NETLINK_NETFILTER: Final = 12


def opened() -> socket.socket:
    """One that never blocks, bound, and told of nothing yet. Raises OSError where the kernel has no netfilter."""
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    )
    try:
        made.bind((0, 0))
    except OSError:
        made.close()
        raise
    return made


def datagrams(from_socket: socket.socket, at_most: int, size: int) -> Iterator[bytes]:
    """What the kernel has told since: so many datagrams, of so many bytes, at most. An overflowed queue loses some."""
    for _ in range(at_most):
        try:
            yield from_socket.recv(size)
        except BlockingIOError:
            return
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise
