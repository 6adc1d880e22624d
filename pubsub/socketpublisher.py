"""Telling subscribers through EVE's socket.

    listen   under a name of our own, then rename: whoever sees the socket's file can connect
    peer     asks for the topic; gets hello, every record, `complete`, the restart counter; then what changes
    change   a key is marked for each peer and sent at once; what a slow reader's socket does not take
             stays marked and is sent, as it then is, when there is room: a slow reader costs only itself

A mark says only that the key is to be told: its record is read when it is sent, so many changes of one key become one
packet. Marks stand in order: those made before `complete` or before a restart counter are told before it, and in
each group deletes go first, as EVE does. Nothing is compared and no table is walked, except once for a new peer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from pillar.pubsub import largefields, socketplace, wire
from pillar.pubsub.codec import encode_tree
from pillar.pubsub.errors import EncodeFailed, RecordTooLarge, TableHeld
from pillar.pubsub.names import Table
from pillar.pubsub.wire import Dialect

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub
    from pillar.pubsub.publication import Publication

log = logging.getLogger("pillar.pubsub")

_BACKLOG = 128
_RETRY_SECONDS = 1.0  # after the machine refused: no descriptors, a full disk
_READ_EVENTS = select.EPOLLIN | select.EPOLLRDHUP


class SocketAudience:
    """Everybody who is connected to one publication's socket. Made while the table's lock is held."""

    def __init__(self, publication: Publication[Any], hub: PubSub, dialect: Dialect) -> None:
        self.publication = publication
        self.table = publication.table
        self.dialect = dialect
        self.hub = hub
        self._peers: dict[int, _Peer] = {}
        self._untold: set[str] = set()  # keys whose record is too large for a packet; said once
        self._latest = (b"", "", b"")  # held bytes, key, packet: the same one goes to every peer
        self._listener: socket.socket | None = None
        self._listen()

    def check(self, key: str, data: bytes) -> None:
        """Refuse a record that no packet can carry. Raises RecordTooLarge."""
        limit = wire.MAX_PACKET_BYTES[self.dialect]
        # `[]` may become `null`; nothing grows by more than that.
        if wire.update_bytes(self.table.topic, key, 2 * len(data)) <= limit:
            return
        sizes: list[int] = []
        size = wire.update_bytes(self.table.topic, key, len(self._encoded(data, _Measure(self.table, sizes))))
        if size > limit:
            raise RecordTooLarge(
                f"{self.table.file(key)}: its packet would have {size} bytes, EVE's limit of {self.dialect} is {limit}"
                f" (the record has {len(data)}); the previous record stands"
            )
        if sizes and max(sizes) > largefields.MAX_FILE_BYTES:
            raise RecordTooLarge(
                f"{self.table.file(key)}: a large field has {max(sizes)} bytes,"
                f" EVE's limit is {largefields.MAX_FILE_BYTES}; the previous record stands"
            )

    def changed(self, key: str) -> None:
        """Tell every peer, as far as each can take it now."""
        for peer in list(self._peers.values()):
            peer.mark(key)
            peer.send_waiting()

    def restarted(self) -> None:
        """Tell every peer after all that was marked before."""
        for peer in list(self._peers.values()):
            peer.mark_restarted()
            peer.send_waiting()

    def check_place(self) -> None:
        """Listen again when somebody removed or replaced the socket's file."""
        if self._listener is None or not self._stands():
            log.warning("%s: was removed or replaced; listening again", socketplace.path(self.table))
            self._stop_listening()
            self._listen()

    def close(self) -> None:
        """Hang up on everybody and remove the socket's file."""
        for peer in list(self._peers.values()):
            peer.close()
        if self._listener is not None and self._stands():
            os.unlink(socketplace.path(self.table))
        self._stop_listening()

    # What the peers need.

    def packet(self, key: str, outbox: largefields.Outbox) -> bytes | None:
        """The packet that tells what stands under this key now, None when that cannot be told. Raises OSError."""
        held = self.publication.as_held(key)
        if held is None:
            return wire.delete(self.table.topic, key)
        if held is self._latest[0] and key == self._latest[1]:
            return self._latest[2]
        limit = wire.MAX_PACKET_BYTES[self.dialect]
        try:
            packet = wire.update(self.table.topic, key, self._value(key, held, outbox))
        except (EncodeFailed, RecursionError) as err:  # nested deeper than can be sorted
            reason = str(err)
        except OSError:
            outbox.take_back()
            raise
        else:
            if len(packet) <= limit:
                self._untold.discard(key)
                if not outbox:  # else each peer gets files of its own
                    self._latest = held, key, packet
                return packet
            reason = f"its packet would have {len(packet)} bytes, EVE's limit of {self.dialect} is {limit}"
        outbox.take_back()
        if key not in self._untold:  # an earlier publisher, with another driver, has left it
            self._untold.add(key)
            log.error("%s: %s; subscribers by socket do not see it", self.table.file(key), reason)
        return None

    def forget(self, fd: int) -> None:
        """A peer has gone."""
        del self._peers[fd]

    def _value(self, key: str, held: bytes, outbox: largefields.Outbox) -> bytes:
        """EVE 2019 sends what it read from the file, members it does not know included; 2026 what it understood."""
        try:
            return self._encoded(held if self.dialect == 2019 else self._understood(key), outbox)
        except (msgspec.DecodeError, UnicodeDecodeError):  # a file that only the lenient reader can read
            return self._encoded(self._understood(key), outbox)

    def _understood(self, key: str) -> bytes:
        data = self.publication.as_encoded(key)
        assert data is not None  # asked for keys that are held
        return data

    def _encoded(self, data: bytes, outbox: largefields.Outbox | _Measure) -> bytes:
        if self.dialect == 2026 and largefields.has_large_fields(data):
            return encode_tree(largefields.move_out(wire.tree(data, self.dialect), outbox.place))
        return wire.record(data, self.dialect)

    # Listening.

    def _listen(self) -> None:
        """Bind and listen under a name of our own, and only then take the socket's name."""
        socketplace.make_directory(self.table, passable=self.publication.group is not None)
        self._refuse_if_held()
        name, ours = socketplace.name(self.table), f".{self.table.topic}.sock"
        listener = socketplace.new_socket()
        try:
            with socketplace.opened(self.table) as directory:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(ours, dir_fd=directory)  # of a publisher that was killed just here
                listener.bind(socketplace.address(directory, ours))
                listener.listen(_BACKLOG)
                if self.publication.group is not None:
                    os.chown(ours, -1, self.publication.group, dir_fd=directory, follow_symlinks=False)
                    os.chmod(ours, 0o660, dir_fd=directory)
                self._inode = os.stat(ours, dir_fd=directory, follow_symlinks=False).st_ino
                os.rename(ours, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self.hub.watch_fd(listener.fileno(), select.EPOLLIN, self._accept)

    def _refuse_if_held(self) -> None:
        """We hold the table's lock, so only a publisher that knows of none, EVE's own, can be listening."""
        try:
            with socketplace.connect(self.table) as other:
                raise TableHeld(self.table.name, socketplace.pid_of(other) or None)
        except BlockingIOError:
            raise TableHeld(self.table.name, None) from None  # it listens, and has a queue of others
        except (FileNotFoundError, ConnectionRefusedError):
            return  # nobody there, or the file of a dead one: it is replaced

    def _stands(self) -> bool:
        try:
            return os.stat(socketplace.path(self.table), follow_symlinks=False).st_ino == self._inode
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(KeyError):  # not watched while descriptors are short
                self.hub.unwatch_fd(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _accept(self, events: int) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as err:
            # It stays readable: without a pause the loop would do nothing else.
            log.error("%s: cannot accept: %s; tried again", socketplace.path(self.table), err.strerror)
            self.hub.unwatch_fd(self._listener.fileno())
            self.hub.call_within(_RETRY_SECONDS, self._accept_again)
            return
        connection.setblocking(False)
        self._peers[connection.fileno()] = _Peer(self, connection)

    def _accept_again(self) -> None:
        if self._listener is not None:
            self.hub.watch_fd(self._listener.fileno(), select.EPOLLIN, self._accept)


class _Group:
    """Keys to be told before one thing is said: `complete`, or the restart counter."""

    def __init__(self) -> None:
        self.deletes: dict[str, None] = {}
        self.updates: dict[str, None] = {}
        self.then_complete = False
        self.then_restarted = False

    def __bool__(self) -> bool:
        return bool(self.deletes or self.updates)


class _Peer:
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


class _Measure:
    """Stands in for an Outbox to know how large the files and the packet would be; writes nothing."""

    def __init__(self, table: Table, sizes: list[int]) -> None:
        self._directory = largefields.directory(table)
        self._sizes = sizes

    def place(self, name: str, content: bytes) -> str:
        """A path as long as a real one's."""
        self._sizes.append(len(content))
        return f"{self._directory}/{name}{'_' * 8}"
