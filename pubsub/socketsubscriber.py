"""Following a table through EVE's socket.

The directory of the socket is watched, so a connection is tried at once when the socket appears, and again when the
publisher hangs up. Packets are read in slices, straight from the kernel: while handlers are slow the publisher holds
what is new.

After a reconnect the whole table comes again. What is equal to what was known is no change, and a key that did
not come by `complete` vanished during the outage and is told as deleted; EVE's subscribers keep it for ever.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from typing import TYPE_CHECKING, Any

from pillar.pubsub import largefields, socketplace, wire
from pillar.pubsub.errors import BadRecord
from pillar.pubsub.inotify import InotifyConstants
from pillar.pubsub.names import SUFFIX, check_key, key_of
from pillar.pubsub.pathwatch import PathWatch
from pillar.pubsub.records import read_file

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub
    from pillar.pubsub.subscription import Subscription

log = logging.getLogger("pillar.pubsub")

_C = InotifyConstants
_MASK = _C.IN_CREATE | _C.IN_MOVED_TO | _C.IN_ATTRIB | _C.IN_DELETE_SELF | _C.IN_MOVE_SELF

# A publisher that binds before it listens (EVE's) refuses for a moment; after these only a new socket file, the
# publisher hanging up or the slow re-list makes another try. Seconds.
_TRIES_AFTER = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0)
_REFUSED_SECONDS = 2.0  # the publisher hung up before its hello, or spoke of another topic
_BUFFER_BYTES = 256 * 1024  # more than the kernel's default lets anybody send in one packet


class SocketSource:
    """A subscription's connection to its publisher, made and made again."""

    def __init__(self, core: Subscription[Any], hub: PubSub) -> None:
        self._core = core
        self._hub = hub
        self._table = core.table
        self._path = socketplace.path(core.table)
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._readable = False
        self._lookup = True  # the way to the socket is to be watched anew
        self._try_now = True
        self._tries = 0  # since the socket last appeared or a connection ended
        self._paused = False  # refused for its words, not for want of a listener
        self._closed = False
        self._hello: wire.Hello | None = None
        self._publisher = 0  # pid of the publisher that was last connected to
        self._unseen: set[str] | None = None  # known before this connection and not told on it yet; None once complete
        self._complaint = ""
        self._loaded = not core.table.persistent  # EVE 2026: a persistent table is read from its files at first
        parts = socketplace.parts(core.table)
        self._watch = PathWatch(hub.inotify, core.table.root, parts, _MASK, self._noted, self._moved)

    @property
    def has_work(self) -> bool:
        """Packets wait, or a connection is to be tried."""
        return self._readable or self._try_now or self._lookup or not self._loaded

    def list_again(self) -> None:
        """The slow re-list: look for the socket again unless there is a connection, which tells by itself."""
        self._lookup = True
        if self._socket is None:
            self._appeared()

    def prepare(self) -> bool:
        """Watch the way and connect where that is due."""
        if self._lookup:
            self._lookup = False
            self._watch.lookup()  # first the watch, then the try: a socket that comes in between is not missed
        if self._try_now:
            self._try_now = False
            if self._socket is None and not self._closed:
                self._connect()
        return False

    def place_mark(self) -> None:
        """Nothing: the protocol has its own marks."""

    def check_place(self) -> None:
        """After a mount or unmount: the socket may be another."""
        if self._watch.leads_elsewhere():
            self._moved()

    def work(self, at_most: int) -> None:
        """Read and tell up to so many packets."""
        if not self._loaded:
            self._loaded = True
            self._load_files()
        for _ in range(at_most):
            if not self._readable:
                return
            self._read_one()

    def close(self) -> None:
        """Hang up and look no more."""
        self._closed = True
        self._readable = self._try_now = self._lookup = False
        self._watch.close()
        self._hang_up()

    # Connecting.

    def _noted(self, name: str, mask: int) -> None:
        if name == socketplace.name(self._table):
            self._appeared()

    def _moved(self) -> None:
        self._lookup = True
        self._appeared()

    def _appeared(self) -> None:
        self._tries = 0
        self._paused = False
        self._try_now = True

    def _connect(self) -> None:
        try:
            peer = socketplace.connect(self._table)
        except (FileNotFoundError, NotADirectoryError):
            return  # the watch tells when it comes
        except (ConnectionRefusedError, BlockingIOError):
            self._try_later()
            return
        except OSError as err:
            self._complain(f"cannot connect: {err.strerror}")
            self._hub.retry_soon()
            return
        try:
            peer.send(wire.request(self._table.topic))
        except OSError:  # it hung up already
            peer.close()
            self._try_later()
            return
        self._socket = peer
        self._hello = None
        self._unseen = set(self._core.known)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._hub.watch_fd(peer.fileno(), select.EPOLLIN, self._ready)

    def _try_later(self) -> None:
        """Nobody listens: a publisher that is just starting, or the file of a dead one."""
        if self._tries < len(_TRIES_AFTER):
            self._tries += 1
            self._hub.call_within(_TRIES_AFTER[self._tries - 1], self._try_again)

    def _try_again(self) -> None:
        if not self._closed and not self._paused:
            self._try_now = True

    def _ready(self, events: int) -> None:
        self._readable = True

    def _hang_up(self) -> None:
        self._readable = False
        self._unseen = None
        self._buffer = bytearray()
        if self._socket is not None:
            self._hub.unwatch_fd(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _ended(self) -> None:
        """The publisher hung up: it died, or it does not want us."""
        welcome = self._hello is not None
        self._hang_up()
        if welcome:
            self._tries = 0
            self._try_now = True
        else:
            self._refuse("hung up without a hello")

    def _refuse(self, why: str) -> None:
        """Not our publisher: said once, and tried again in a while or when the socket is another."""
        self._hang_up()
        self._complain(why)
        self._paused = True
        self._hub.call_within(_REFUSED_SECONDS, self._unpause)

    def _unpause(self) -> None:
        if self._paused and not self._closed:
            self._paused = False
            self._try_now = True

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            log.warning("%s: %s; tried again", self._path, text)

    # Reading.

    def _read_one(self) -> None:
        assert self._socket is not None  # readable
        try:
            size, _, flags, _ = self._socket.recvmsg_into([self._buffer])
        except BlockingIOError:
            self._readable = False
            return
        except OSError:  # reset
            size = flags = 0
        if not size:
            self._ended()
            return
        if flags & socket.MSG_TRUNC:
            self._bad_packet(f"a packet is longer than {_BUFFER_BYTES} bytes")
            return
        try:
            packet = wire.parse(bytes(memoryview(self._buffer)[:size]))
        except wire.BadPacket as err:
            if err.key is not None:
                self._reject(err.key, str(err))
            else:
                self._bad_packet(str(err))
            return
        self._take(packet)

    def _take(self, packet: wire.Packet) -> None:
        if isinstance(packet, wire.Request):
            self._bad_packet("a `request` is not for a publisher to send")
        elif packet.topic != self._table.topic:
            if self._hello is None:
                self._refuse(f"it publishes {packet.topic[:80]!r}, not {self._table.topic}")
            else:
                self._bad_packet(f"is about {packet.topic[:80]!r}, not {self._table.topic}")
        elif isinstance(packet, wire.Hello):
            self._greeted(packet)
        elif self._hello is None:
            self._refuse("sent something else before its hello")
        elif isinstance(packet, wire.Update):
            self._updated(packet)
        elif isinstance(packet, wire.Delete):
            self._seen_on_wire(packet.key)
            self._core.gone(packet.key)
        elif isinstance(packet, wire.Complete):
            self._completed()
        else:
            self._core.reach(1 if packet.counter is None else packet.counter, complete=False)

    def _greeted(self, hello: wire.Hello) -> None:
        assert self._socket is not None
        self._hello = hello
        self._complaint = ""
        publisher = socketplace.pid_of(self._socket)
        if publisher != self._publisher:
            self._publisher = publisher
            # Another life of the publisher: a counter that looks the same is news (EVE's starts at 1 each time).
            self._core.restarted = 0
        if hello.persistent is not None and hello.persistent != self._table.persistent:
            kept, asked = _kept(hello.persistent), _kept(self._table.persistent)
            log.error("%s: its publisher keeps the table %s, it was asked for %s", self._path, kept, asked)

    def _updated(self, update: wire.Update) -> None:
        key = update.key
        self._seen_on_wire(key)
        name = key + SUFFIX
        data = update.data
        try:
            if len(data) > self._hub.max_record_bytes:
                raise BadRecord(f"has {len(data)} bytes, at most {self._hub.max_record_bytes} are read")
            check_key(key, persistent=False)
            if self._hello is not None and self._hello.dialect == 2026 and largefields.has_files(data):
                data = largefields.move_in(data, self._table)
            if data != self._core.known.get(key):
                self._core.seen(key, data)
        except (BadRecord, ValueError) as err:
            self._core.reject(name, f"{self._path}: key {key!r}", str(err))
            return
        except OSError as err:
            self._core.reject(name, f"{self._path}: key {key!r}", f"its large field cannot be read: {err.strerror}")
            return
        if self._core.rejected:
            self._core.rejected.pop(name, None)

    def _completed(self) -> None:
        """The first copy is whole: what was known and did not come is gone."""
        vanished, self._unseen = self._unseen or (), None
        for key in vanished:
            self._core.gone(key)
            if self._closed:  # by that handler
                return
        self._core.reach(self._core.restarted, complete=True)

    def _seen_on_wire(self, key: str) -> None:
        if self._unseen:
            self._unseen.discard(key)

    def _reject(self, key: str, reason: str) -> None:
        self._seen_on_wire(key)
        self._core.reject(key + SUFFIX, f"{self._path}: key {key!r}", reason)

    def _bad_packet(self, reason: str) -> None:
        self._core.rejected_count += 1
        log.warning("%s: %s; the packet is dropped", self._path, reason)

    def _load_files(self) -> None:
        """What a persistent table's files say, until its publisher is there to tell."""
        try:
            directory = os.open(self._table.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return  # its publisher was never here, or keeps it to itself
        try:
            for name in sorted(os.listdir(directory)):
                key = key_of(name)
                if key is not None and key not in self._core.known and not self._closed:
                    self._load_file(directory, name, key)
        finally:
            os.close(directory)

    def _load_file(self, directory: int, name: str, key: str) -> None:
        try:
            data = read_file(directory, name, self._hub.max_record_bytes)
            if data is not None:
                self._core.seen(key, data)
                if self._unseen is not None:
                    self._unseen.add(key)
        except BadRecord as err:
            self._core.reject(name, self._table.file(key), str(err))
        except OSError as err:
            log.warning("%s: %s; its publisher tells it when it comes", self._table.file(key), err.strerror)


def _kept(persistent: bool) -> str:
    return "on disk" if persistent else "until the next boot"
