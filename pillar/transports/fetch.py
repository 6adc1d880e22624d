"""Bring one object to its place, whole, however often the connection or the process dies on the way.

The one resume contract of all transports:

* bytes go to a part file (see `partfile`), hashed as they come, and the target appears by one rename;
* a part that is there is continued if the server still has the same object (the transport's validator), else it is
  begun anew; its bytes are read back and hashed first, so the digest is always that of the whole file;
* a connection that breaks after it brought something is opened again at once; one that brings nothing is an error;
* whoever calls decides when to give up, through `check`, which may raise at any chunk. The part then stays.

Killed at any instant: at most the chunk in flight is fetched again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pillar.transports import partfile
from pillar.transports.base import Identity, ObjectChanged, Source, Stream, Transport, TransportFailed

CHUNK_BYTES = 1024 * 1024
LEAN_ATTEMPTS = 5  # reconnects in a row that brought less than a chunk each
RESTARTS = 3  # how often the object may change under us before that is an error
DRIP_WINDOW_S = 60.0
DRIP_BYTES = 16 * 1024  # less than this in a window is a server that holds the connection, not one that sends


class TooLarge(TransportFailed):
    """The object is larger than what may be stored."""


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

    `limit` is how many bytes the object may have, None for no limit. `progress(done, size)` is told after every chunk,
    on the calling thread. `expect_sha256` only decides whether a *resumed* file that hashes to something else is
    fetched once more from the beginning; judging a fresh one is the verifier's part.
    """

    opener: Callable[[], Transport]
    source: Source
    target: Path
    expect_sha256: str = ""
    limit: int | None = None
    check: Callable[[], None] = lambda: None
    progress: Callable[[int, int | None], None] = lambda done, size: None
    clock: Callable[[], float] = time.monotonic
    received: int = 0

    def run(self) -> Fetched:
        """Fetch, and return when the target stands and is on disk.

        Raises TransportFailed, partfile.DiskFull, OSError, or what `check` raised; the part then stays.
        """
        part = partfile.PartFile(self.target)
        try:
            known = part.open(self.source.identity(), self.check)
            resumed = part.length
            if known is not None:
                self.progress(part.length, known.size)
            if not _complete(part, known):
                self._transfer(part, known)
            digest = part.hash.hexdigest()
            if resumed and self.expect_sha256 and digest != self.expect_sha256.lower():
                resumed = 0
                part.restart()
                self._transfer(part, None)
                digest = part.hash.hexdigest()
            part.place(self.target)
            return Fetched(part.length, digest, self.received, min(resumed, part.length))
        finally:
            part.close()

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
                part.restart()
            except TooLarge:
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
        """One connection: everything that is missing, or an error."""
        self.check()
        transport = self.opener()
        try:
            stream = transport.read(part.length, known)
            identity = self._agree(part, known, stream)
            self._copy(part, identity, stream)
        finally:
            transport.close()
        if identity.size is not None and part.length < identity.size:
            raise TransportFailed(f"the connection ended after {part.length} of {identity.size} bytes")

    def _agree(self, part: partfile.PartFile, known: Identity | None, stream: Stream) -> Identity:
        """Which object the stream is, after making the part file fit it. Raises ObjectChanged, TooLarge."""
        identity = stream.identity
        if identity.size is not None and self.limit is not None and identity.size > self.limit:
            raise TooLarge(f"the object has {identity.size} bytes, only {self.limit} may be stored")
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
        window_start, window_bytes = self.clock(), self.received
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
            now = self.clock()
            if now - window_start >= DRIP_WINDOW_S:
                came = self.received - window_bytes
                if came < DRIP_BYTES and part.length != identity.size:
                    raise TransportFailed(f"stalled at byte {part.length}: {came} bytes in {now - window_start:.0f} s")
                window_start, window_bytes = now, self.received


def _complete(part: partfile.PartFile, known: Identity | None) -> bool:
    return known is not None and known.size is not None and part.length == known.size
