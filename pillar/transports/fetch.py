"""Bring one object to its place, whole, however often the connection or the process dies on the way.

The one resume contract of all transports:

* bytes go to a part file (see `partfile`), hashed as they come, and the target appears by one rename;
* a part that is there is continued if the server still has the same object (the transport's validator), else it is
  begun anew; its bytes are read back and hashed first, so the digest is always that of the whole file;
* a large object comes in several streams at once (see `parallel`) where the server gives ranges of an object that it
  can name; else, and always after it changed under us, in one;
* a connection that breaks after it brought something is opened again at once; one that brings nothing is an error;
* whoever calls decides when to give up, through `check`, which may raise at any chunk. The part then stays.

Killed at any instant: at most the chunk in flight is fetched again (256 KiB for each stream, and what the kernel had
received and not yet handed over).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pillar.transports import partfile
from pillar.transports.base import Identity, ObjectChanged, Source, Stream, Transport, TransportFailed
from pillar.transports.parallel import Parallel
from pillar.transports.pieces import PIECE_BYTES
from pillar.transports.throttle import Throttle

CHUNK_BYTES = 1024 * 1024
STREAMS = 4
LEAN_ATTEMPTS = 5  # reconnects in a row that brought less than a chunk each
RESTARTS = 3  # how often the object may change under us before that is an error
DRIP_WINDOW_S = 60.0
DRIP_BYTES = 16 * 1024  # less than this in a window is a server that holds the connection, not one that sends


class TooLarge(TransportFailed):
    """The object is larger than what may be stored."""


class Dripping(TransportFailed):
    """The server holds the connection and hardly sends; asking again at once would give it another minute."""


class WrongContent(TransportFailed):
    """The object is whole and is not the one that was asked for."""


@dataclass(frozen=True)
class Fetched:
    """What came of it. `received` is what crossed the network this time, `resumed` what was there already, in bytes."""

    size: int
    sha256: str
    received: int
    resumed: int


@dataclass
class Fetch:
    """One object on its way to `target`. `opener` gives a new transport for each connection.

    `limit` is how many bytes the object may have, None for no limit. `progress(done, size)` is told after every chunk
    (of several streams: every moment), on the calling thread. `expect_sha256` only decides whether a *resumed* file
    that hashes to something else is fetched once more from the beginning; judging a fresh one is the verifier's part,
    unless `strict`: then nothing else than that sha256 is put in place.
    `streams` is how many connections a large object may have at once.
    """

    opener: Callable[[], Transport]
    source: Source
    target: Path
    expect_sha256: str = ""
    strict: bool = False
    limit: int | None = None
    check: Callable[[], None] = lambda: None
    progress: Callable[[int, int | None], None] = lambda done, size: None
    clock: Callable[[], float] = time.monotonic
    streams: int = 1
    throttle: Throttle = field(default_factory=lambda: Throttle(0))
    received: int = 0
    _open: list[Transport] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _aborted: bool = field(default=False, init=False)
    _window: tuple[float, int] = field(default=(0.0, 0), init=False)

    def run(self) -> Fetched:
        """Fetch, and return when the target stands and is on disk.

        Raises TransportFailed, partfile.DiskFull, partfile.PartBusy, OSError, or what `check` raised; the part then
        stays, except for WrongContent.
        """
        part = partfile.PartFile(self.target)
        try:
            known = part.open(self.source.identity(), self.check)
            resumed = part.pieces.present if part.pieces is not None else part.length
            if known is not None:
                self.progress(resumed, known.size)
            if not _complete(part, known):
                self._transfer(part, known)
            digest = part.digest()
            if resumed and self.expect_sha256 and digest != self.expect_sha256.lower():
                resumed = 0
                part.restart()
                self._transfer(part, None)
                digest = part.digest()
            if self.strict and digest != self.expect_sha256.lower():
                partfile.discard(self.target)
                raise WrongContent(f"the sha256 of what came is {digest}, asked for was {self.expect_sha256.lower()}")
            part.place(self.target)
            return Fetched(part.length, digest, self.received, max(0, min(resumed, part.length)))
        finally:
            part.close()

    def abort(self) -> None:
        """From any thread: make blocked connections fail now, and new ones at once."""
        with self._lock:
            self._aborted = True
            transports = list(self._open)
        for transport in transports:
            transport.abort()

    # ---- connections

    def _transfer(self, part: partfile.PartFile, known: Identity | None) -> None:
        """Connect as often as it takes until the part is complete."""
        lean = changed = 0
        while True:
            before = self.received
            try:
                self._attempt(part, known)
                return
            except ObjectChanged:
                changed += 1
                if changed > RESTARTS:
                    raise
                self.streams = 1  # a server that is at odds with itself is asked in the plainest way
                part.restart()
            except (TooLarge, Dripping):
                raise
            except TransportFailed:
                gained = self.received - before
                lean = 0 if gained >= CHUNK_BYTES else lean + 1
                if gained == 0 or lean > LEAN_ATTEMPTS:
                    raise
            record = part.record
            known = Identity(record.size, record.validator) if record is not None and record.validator else None
            if known is None:
                part.restart()

    def _attempt(self, part: partfile.PartFile, known: Identity | None) -> None:
        """One connection, or several at once: everything that is missing, or an error."""
        self.check()
        transport = self._connect()
        try:
            if part.pieces is not None and not transport.ranges:
                part.restart()
                known = None
            if part.pieces is not None and known is not None:
                self._several(part, known, transport, None)
                return
            stream = None
            if known is None and self.streams > 1 and transport.ranges:
                stream = transport.span(0, PIECE_BYTES)
                if _can_be_cut(stream):
                    self._refuse_too_large(stream.identity)
                    part.begin(self.source.identity(), stream.identity, PIECE_BYTES)
                    self._several(part, stream.identity, transport, stream)
                    return
                if stream.end is not None and stream.end != stream.identity.size:
                    stream = None  # a beginning that nothing could be joined to
            stream = stream or transport.read(part.length, known)
            identity = self._agree(part, known, stream)
            self._copy(part, identity, stream)
        finally:
            self._close(transport)
        if identity.size is not None and part.length < identity.size:
            raise TransportFailed(f"the connection ended after {part.length} of {identity.size} bytes")

    def _connect(self) -> Transport:
        transport = self.opener()
        with self._lock:
            self._open.append(transport)
            aborted = self._aborted
        if aborted:
            transport.abort()
        return transport

    def _close(self, transport: Transport) -> None:
        with self._lock:
            if transport in self._open:
                self._open.remove(transport)
        transport.close()

    # ---- bytes

    def _several(self, part: partfile.PartFile, known: Identity, transport: Transport, first: Stream | None) -> None:
        """Everything that is missing, in several streams."""
        assert part.pieces is not None
        before = self.received
        parallel = Parallel(part, part.pieces, known, self._connect, self._close, self.throttle, max(1, self.streams))
        self._window = (self.clock(), self.received)

        def look(received: int) -> None:
            self.received = before + received
            self.check()
            part.follow()
            assert part.pieces is not None
            self.progress(part.pieces.present, known.size)
            self._refuse_to_drip(part.length)

        def stop() -> None:
            with self._lock:
                transports = list(self._open)
            for each in transports:
                each.abort()

        try:
            parallel.run(transport, first, look, stop)
        finally:
            self.received = before + parallel.received
        part.follow()

    def _agree(self, part: partfile.PartFile, known: Identity | None, stream: Stream) -> Identity:
        """Which object the stream is, after making the part file fit it. Raises ObjectChanged, TooLarge."""
        identity = stream.identity
        self._refuse_too_large(identity)
        if known is not None and stream.start > 0:
            if stream.start != part.length:
                raise ObjectChanged(f"asked for the bytes from {part.length} on, got those from {stream.start} on")
            if known.size is not None and identity.size not in (None, known.size):
                raise ObjectChanged(f"the object had {known.size} bytes and now has {identity.size}")
            if identity.validator and identity.validator != known.validator:
                raise ObjectChanged(f"the object was {known.validator} and now is {identity.validator}")
            return Identity(known.size if known.size is not None else identity.size, known.validator)
        if stream.start > 0:
            raise ObjectChanged(f"asked for the whole object, got the bytes from {stream.start} on")
        part.begin(self.source.identity(), identity)
        return identity

    def _copy(self, part: partfile.PartFile, identity: Identity, stream: Stream) -> None:
        """Write the stream's bytes. Raises when they are too many or drip."""
        self._window = (self.clock(), self.received)
        for chunk in stream.chunks:
            self.check()
            end = part.length + len(chunk)
            if identity.size is not None and end > identity.size:
                part.restart()
                raise TransportFailed(f"the server sends more than the {identity.size} bytes it announced")
            if self.limit is not None and end > self.limit:
                part.restart()
                raise TooLarge(f"the object does not end within the {self.limit} bytes that may be stored")
            part.append(chunk)
            self.received += len(chunk)
            self.progress(part.length, identity.size)
            if part.length != identity.size:
                self._refuse_to_drip(part.length)
                self.throttle.took(len(chunk), self.check)

    def _refuse_too_large(self, identity: Identity) -> None:
        if identity.size is not None and self.limit is not None and identity.size > self.limit:
            raise TooLarge(f"the object has {identity.size} bytes, only {self.limit} may be stored")

    def _refuse_to_drip(self, at: int) -> None:
        start, bytes_then = self._window
        now = self.clock()
        if now - start >= DRIP_WINDOW_S:
            came = self.received - bytes_then
            if came < min(DRIP_BYTES, self.throttle.bytes_per_s or DRIP_BYTES):
                raise Dripping(f"stalled at byte {at}: {came} bytes in {now - start:.0f} s")
            self._window = (now, self.received)


def _can_be_cut(stream: Stream) -> bool:
    """Whether the answer is a range of a large object that later answers can be recognised to be of."""
    size = stream.identity.size
    return stream.end is not None and size is not None and size > stream.end and stream.identity.validator != ""


def _complete(part: partfile.PartFile, known: Identity | None) -> bool:
    return known is not None and known.size is not None and part.length == known.size
