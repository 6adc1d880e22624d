"""What the downloader does in threads: fetch over one route after the other, or hash what is there."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pillar.cmd.downloader.decide import Done, Failed, WrongContent
from pillar.cmd.downloader.plan import Plan
from pillar.transports import Limits, Route, TransportFailed, Unsupported, open_transport
from pillar.transports.fetch import Fetch, TooLarge
from pillar.transports.partfile import DiskFull, PartBusy
from pillar.transports.throttle import Throttle
from pillar.workers import Cancel

TELL_EVERY_S = 1.0
HASH_BYTES = 1024 * 1024


@dataclass
class Download:
    """One object on its way. `run` is called in a worker's thread, `abort` from any."""

    plan: Plan
    target: Path
    sha256: str
    limit: int
    limits: Limits
    tell: Callable[[int, int | None], None]  # bytes so far and in all; at most once a second
    throttle: Throttle = field(default_factory=lambda: Throttle(0))
    streams: int = 1
    _fetch: Fetch | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _aborted: bool = field(default=False, init=False)
    _told: float = field(default_factory=time.monotonic, init=False)

    def run(self, cancel: Cancel) -> Done | Failed:
        """Fetch over the first route that works. Raises Cancelled; every other end is in the result."""
        tried: list[str] = []
        for route in self.plan.routes:
            cancel.raise_if_set()
            try:
                fetched = self._over(route, cancel)
            except Unsupported as err:
                return Failed(str(err), lasting=True)  # no time and no other way there would help
            except TooLarge as err:
                return Failed(str(err))  # another way there would not help
            except DiskFull as err:
                return Failed(str(err), full=True)
            except PartBusy as err:
                return Failed(str(err))
            except TransportFailed as err:
                tried.append(f"{route}: {err}" if len(self.plan.routes) > 1 or route.address else str(err))
            except OSError as err:
                return Failed(f"cannot store {self.target.name}: {err.strerror or err}")
            else:
                return fetched
        cancel.raise_if_set()
        return Failed("\n".join(tried))

    def abort(self) -> None:
        """Make a blocked read fail now."""
        with self._lock:
            self._aborted = True
            fetch = self._fetch
        if fetch is not None:
            fetch.abort()

    def _over(self, route: Route, cancel: Cancel) -> Done:
        fetch = Fetch(
            lambda: open_transport(self.plan.source, route, self.limits),
            self.plan.source,
            self.target,
            expect_sha256=self.sha256,
            limit=self.limit,
            check=cancel.raise_if_set,
            progress=self._progress,
            streams=self.streams,
            throttle=self.throttle,
        )
        with self._lock:
            self._fetch = fetch
            aborted = self._aborted
        if aborted:
            fetch.abort()
        return Done(fetch.run().size)

    def _progress(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            self.tell(done, size)


def adopt(path: Path, sha256: str, cancel: Cancel) -> Done | WrongContent | Failed:
    """Whether a complete file is the image of this sha256. Raises Cancelled."""
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(HASH_BYTES):
                digest.update(block)
                size += len(block)
                cancel.raise_if_set()
    except FileNotFoundError:
        return Failed(f"{path.name} vanished while it was looked at")
    except OSError as err:
        return Failed(f"cannot read {path.name}: {err.strerror or err}")
    return Done(size) if digest.hexdigest() == sha256.lower() else WrongContent(path)
