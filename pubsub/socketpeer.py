"""One subscriber of a publication's socket, and what it is still to be told.

A mark says only that the key is to be told: its record is read when it is sent, so many changes of one key become one
packet. Marks stand in order: those made before `complete` or before a restart counter are told before it, and in
each group deletes go first, as EVE does.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from pillar.pubsub import largefields, socketplace, wire

if TYPE_CHECKING:
    from pillar.pubsub.socketpublisher import SocketAudience

log = logging.getLogger("pillar.pubsub")

_RETRY_SECONDS = 1.0  # after the machine refused, a full disk for large fields
_READ_EVENTS = select.EPOLLIN | select.EPOLLRDHUP


class _Group:
    """Keys to be told before one thing is said: `complete`, or the restart counter."""

    def __init__(self) -> None:
        self.deletes: dict[str, None] = {}
        self.updates: dict[str, None] = {}
        self.then_complete = False
        self.then_restarted = False

    def __bool__(self) -> bool:
        return bool(self.deletes or self.updates)


class Peer:
    """One connected subscriber."""

    def __init__(self, audience: SocketAudience, connection: socket.socket) -> None:
        self._audience = audience
        self._socket = connection
        self._asked = False  # it has sent its request
        self._closed = False
        self._blocked = False  # its socket takes no more just now
        self._told: set[str] = set()  # the keys it knows
        self._restarted_told = 0
        self._groups: deque[_Group] = deque([_Group()])
        self._group_of: dict[str, _Group] = {}  # where a marked key waits
        self._unsent: deque[tuple[bytes, largefields.Outbox | None]] = deque()
        audience.hub.watch_fd(connection.fileno(), _READ_EVENTS, self._ready)

    def mark(self, key: str) -> None:
        """This key is to be told as it is now."""
        if not self._asked:
            return
        gone = key not in self._audience.publication
        group = self._group_of.get(key)
        if group is None:
            if gone and key not in self._told:
                return
            group = self._group_of[key] = self._groups[-1]
        wanted, other = (group.deletes, group.updates) if gone else (group.updates, group.deletes)
        other.pop(key, None)
        wanted[key] = None

    def mark_restarted(self) -> None:
        """The restart counter is to be told after what is marked now."""
        if not self._asked:
            return
        if not self._groups[-1] and len(self._groups) > 1:  # nothing was marked since the last one
            self._groups[-2].then_restarted = True
            return
        self._groups[-1].then_restarted = True
        self._groups.append(_Group())

    def send_waiting(self) -> None:
        """Send until nothing waits or the socket takes no more; that is not waited for."""
        if self._blocked or not self._asked or self._closed:
            return
        try:
            while self._unsent or self._next():
                self._socket.send(self._unsent[0][0])
                self._unsent.popleft()
        except BlockingIOError:
            self._blocked = True
            self._audience.hub.watch_fd(self._socket.fileno(), _READ_EVENTS | select.EPOLLOUT, self._ready)
        except OSError as err:
            if err.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                self.close()
            else:
                log.error("%s: cannot send: %s; tried again", socketplace.path(self._audience.table), err.strerror)
                self._blocked = True
                self._audience.hub.call_within(_RETRY_SECONDS, self._unblock)

    def close(self) -> None:
        """Hang up; files that were written for packets it never got are removed."""
        if self._closed:
            return
        self._closed = True
        for _, outbox in self._unsent:
            if outbox is not None:
                outbox.take_back()
        fd = self._socket.fileno()
        self._audience.hub.unwatch_fd(fd)
        self._audience.forget(fd)
        self._socket.close()

    def _ready(self, events: int) -> None:
        if self._closed:
            return
        if events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            self.close()
            return
        if events & select.EPOLLOUT:
            self._audience.hub.watch_fd(self._socket.fileno(), _READ_EVENTS, self._ready)
            self._unblock()
        if events & select.EPOLLIN and not self._closed:
            self._receive()

    def _unblock(self) -> None:
        self._blocked = False
        self.send_waiting()

    def _receive(self) -> None:
        """The request, once. What a subscriber says later has no meaning and is dropped."""
        try:
            packet = self._socket.recv(wire.MAX_REQUEST_BYTES + 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
        elif not self._asked:
            self._take_request(packet)

    def _take_request(self, packet: bytes) -> None:
        audience = self._audience
        topic = audience.table.topic
        try:
            if len(packet) > wire.MAX_REQUEST_BYTES:
                raise wire.BadPacket(f"is longer than {wire.MAX_REQUEST_BYTES} bytes")
            asked = wire.parse_request(packet).topic
            if asked != topic:
                raise wire.BadPacket(f"asks for topic {asked[:80]!r}, here is {topic}")
        except wire.BadPacket as err:
            log.warning(
                "%s: process %d: its request %s; hung up",
                socketplace.path(audience.table),
                socketplace.pid_of(self._socket),
                err,
            )
            self.close()
            return
        self._asked = True
        self._unsent.append((wire.hello(topic, audience.dialect, persistent=audience.table.persistent), None))
        first = self._groups[0]
        first.updates = dict.fromkeys(audience.publication.keys())
        self._group_of = dict.fromkeys(first.updates, first)
        first.then_complete = first.then_restarted = True
        self._groups.append(_Group())
        self.send_waiting()

    def _next(self) -> bool:
        """Put the next packets to be sent into `_unsent`; False when nothing waits."""
        audience = self._audience
        while True:
            group = self._groups[0]
            if group:
                keys = group.deletes or group.updates
                key = next(iter(keys))
                outbox = largefields.Outbox(audience.table)
                packet = audience.packet(key, outbox)
                del keys[key], self._group_of[key]
                if key in audience.publication:
                    self._told.add(key)
                elif key in self._told:
                    self._told.remove(key)
                else:
                    continue
                if packet is not None:
                    self._unsent.append((packet, outbox))
                    return True
            elif group.then_complete or group.then_restarted:
                self._groups.popleft()
                if group.then_complete:
                    self._unsent.append((wire.complete(audience.table.topic), None))
                if group.then_restarted:
                    self._say_restarted()
                if self._unsent:
                    return True
            else:
                return False

    def _say_restarted(self) -> None:
        counter = self._audience.publication.restarted
        if self._audience.dialect == 2019:
            counter = min(counter, 1)
            if counter <= self._restarted_told:  # a connection is told once, and never of a clearing
                return
        if counter != self._restarted_told:
            self._restarted_told = counter
            packet = wire.restarted(self._audience.table.topic, self._audience.dialect, counter)
            self._unsent.append((packet, None))
