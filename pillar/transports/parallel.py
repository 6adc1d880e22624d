"""Several streams fill one part file: each takes the next piece of the object, over a connection of its own.

A stream that breaks gives its piece back and ends; another one, or the next attempt, goes on where it stopped. What a
range's answer says about the object must be what the first answer said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pillar.transports.base import Identity, ObjectChanged, Stream, Transport, TransportFailed
from pillar.transports.partfile import PartFile
from pillar.transports.pieces import Claim, Pieces
from pillar.transports.throttle import Throttle

LOOK_S = 0.1  # between two looks of the calling thread


class _Stopped(Exception):
    """The others have given up, or nobody wants the object any more."""


@dataclass
class Parallel:
    """One attempt with up to `streams` connections."""

    part: PartFile
    pieces: Pieces
    known: Identity
    opener: Callable[[], Transport]
    closer: Callable[[Transport], None]
    throttle: Throttle
    streams: int
    received: int = 0
    _errors: list[BaseException] = field(default_factory=list)
    _running: int = 0
    _stop: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(
        self, transport: Transport, first: Stream | None, look: Callable[[int], None], stop: Callable[[], None]
    ) -> None:
        """Bring what is missing; returns when it is there.

        `transport` is open and becomes the first stream; `first`, if it was asked for already, is the answer for the
        first missing piece. `look(received)` is called on this thread every moment and may raise, `stop` makes
        blocked streams fail. No stream runs any more when this returns or raises. Raises TransportFailed, DiskFull,
        OSError.
        """
        threads = [threading.Thread(target=self._stream, args=(transport, first), daemon=True)]
        missing = self.part.record.size - self.pieces.present if self.part.record and self.part.record.size else 0
        for _ in range(min(self.streams, -(-missing // self.pieces.piece)) - 1):
            threads.append(threading.Thread(target=self._stream, args=(None, None), daemon=True))
        self._running = len(threads)
        for thread in threads:
            thread.start()
        try:
            while self._wait():
                look(self.received)
        finally:
            self._stop = True
            if self._running:
                stop()
            for thread in threads:
                thread.join()
        look(self.received)
        if self._errors:
            self._raise()

    def _wait(self) -> bool:
        """Whether streams still run and none has said that all is in vain; waits a moment."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running or self._in_vain(), timeout=LOOK_S)
            return self._running > 0 and not self._in_vain()

    def _in_vain(self) -> bool:
        return any(isinstance(err, ObjectChanged) or not isinstance(err, TransportFailed) for err in self._errors)

    def _raise(self) -> None:
        """What says most about what to do: no room and bugs, then a changed object, then broken connections."""
        for err in self._errors:
            if not isinstance(err, TransportFailed):
                raise err
        for err in self._errors:
            if isinstance(err, ObjectChanged):
                raise err
        if self.pieces.present != self.pieces.size:
            raise self._errors[0]

    def _stream(self, transport: Transport | None, stream: Stream | None) -> None:
        """One thread: piece after piece over one connection."""
        try:
            transport = transport or self.opener()
            while not self._stop and (claim := self.pieces.claim()) is not None:
                try:
                    self._bring(claim, stream or self._ask(transport, claim))
                finally:
                    self.pieces.release(claim.index)
                stream = None
        except _Stopped:
            return
        except BaseException as err:  # noqa: BLE001 - raised again on the calling thread
            self._errors.append(err)
        finally:
            if transport is not None:
                self.closer(transport)
            with self._changed:
                self._running -= 1
                self._changed.notify()

    def _ask(self, transport: Transport, claim: Claim) -> Stream:
        stream = transport.span(claim.at, claim.end, self.known)
        if stream.start != claim.at or stream.end is None:
            raise ObjectChanged(f"asked for the bytes from {claim.at} on, got those from {stream.start} on")
        if stream.identity.size not in (None, self.known.size):
            raise ObjectChanged(f"the object had {self.known.size} bytes and now has {stream.identity.size}")
        if stream.identity.validator and stream.identity.validator != self.known.validator:
            raise ObjectChanged(f"the object was {self.known.validator} and now is {stream.identity.validator}")
        return stream

    def _bring(self, claim: Claim, stream: Stream) -> None:
        at = claim.at
        for chunk in stream.chunks:
            self._raise_if_stopped()
            chunk = chunk[: claim.end - at]
            self.part.write_at(chunk, at)
            at += len(chunk)
            self.pieces.wrote(claim.index, at)
            with self._changed:
                self.received += len(chunk)
            self.throttle.took(len(chunk), self._raise_if_stopped)
            if at == claim.end:
                return
        raise TransportFailed(f"the connection ended at byte {at} of {self.known.size}")

    def _raise_if_stopped(self) -> None:
        if self._stop:
            raise _Stopped
