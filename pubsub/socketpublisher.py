"""Telling subscribers through EVE's socket.

    listen   under a name of our own, then rename: whoever sees the socket's file can connect
    peer     asks for the topic; gets hello, every record, `complete`, the restart counter; then what changes
    change   a key is marked for each peer and sent at once; what a slow reader's socket does not take
             stays marked and is sent, as it then is, when there is room: a slow reader costs only itself

Nothing is compared and no table is walked, except once for a new peer (socketpeer.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from pillar.pubsub import largefields, socketplace, wire
from pillar.pubsub.codec import encode_tree
from pillar.pubsub.errors import EncodeFailed, RecordTooLarge, TableHeld
from pillar.pubsub.names import Table
from pillar.pubsub.socketpeer import Peer
from pillar.pubsub.wire import Dialect

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub
    from pillar.pubsub.publication import Publication

log = logging.getLogger("pillar.pubsub")

_BACKLOG = 128
_RETRY_SECONDS = 1.0  # after the machine refused: no descriptors


class SocketAudience:
    """Everybody who is connected to one publication's socket. Made while the table's lock is held."""

    def __init__(self, publication: Publication[Any], hub: PubSub, dialect: Dialect) -> None:
        self.publication = publication
        self.table = publication.table
        self.dialect = dialect
        self.hub = hub
        self._peers: dict[int, Peer] = {}
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
        try:
            if self._listener is not None and self._stands():
                os.unlink(socketplace.path(self.table))
        except OSError as err:
            where = socketplace.path(self.table)
            log.warning("%s: cannot be removed: %s; the next publisher replaces it", where, err.strerror)
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
        self._peers[connection.fileno()] = Peer(self, connection)

    def _accept_again(self) -> None:
        if self._listener is not None:
            self.hub.watch_fd(self._listener.fileno(), select.EPOLLIN, self._accept)


class _Measure:
    """Stands in for an Outbox to know how large the files and the packet would be; writes nothing."""

    def __init__(self, table: Table, sizes: list[int]) -> None:
        self._directory = largefields.directory(table)
        self._sizes = sizes

    def place(self, name: str, content: bytes) -> str:
        """A path as long as a real one's."""
        self._sizes.append(len(content))
        return f"{self._directory}/{name}{'_' * 8}"
