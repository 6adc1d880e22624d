"""What the downloader does in threads: fetch over one route after the other, or hash what is there."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as copied
from pathlib import Path

from msgspec.structs import replace

from pillar.cmd.downloader.decide import Done, Failed, Progress, WrongContent
from pillar.cmd.downloader.plan import Plan
from pillar.transports import Limits, Route, TransportFailed, Unsupported, open_transport
from pillar.transports.base import shown
from pillar.transports.fetch import Fetch, TooLarge
from pillar.transports.partfile import DiskFull, PartBusy
from pillar.transports.proxies import choices, proxy_for
from pillar.transports.throttle import Throttle
from pillar.types.downloader import DownloadAttempt
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
    tell: Callable[[Progress], None]  # at most once a second
    throttle: Throttle = field(default_factory=lambda: Throttle(0))
    streams: int = 1
    _fetch: Fetch | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _aborted: bool = field(default=False, init=False)
    _told: tuple[float, int] | None = field(default=None, init=False)  # when, and how many bytes that was
    ways: tuple[DownloadAttempt, ...] = field(default=(), init=False)  # that were tried; the last one is in use

    def run(self, cancel: Cancel) -> Done | Failed:
        """Fetch over the first route that works. Raises Cancelled; every other end is in the result."""
        for route in self._routes():
            cancel.raise_if_set()
            self._told = None
            self.ways = (*self.ways, DownloadAttempt(Port=route.port, Address=route.address))
            try:
                proxy = proxy_for(route, self.plan.source.url)
                self.ways = (*self.ways[:-1], replace(self.ways[-1], Proxy=shown(proxy)))
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
                self.ways = (*self.ways[:-1], replace(self.ways[-1], Error=str(err)))
            except OSError as err:
                return Failed(f"cannot store {self.target.name}: {err.strerror or err}")
            else:
                return fetched
        cancel.raise_if_set()
        return Failed("\n".join(told(way) for way in self.ways))

    def _routes(self) -> Iterator[Route]:
        """The plan's, each as often as its PAC file has answers."""
        for route in self.plan.routes:
            for choice in range(choices(route, self.plan.source.url)):
                yield copied(route, choice=choice)

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
        then, had = self._told = self._told or (now, done)  # what a resume found did not come now
        if now - then >= TELL_EVERY_S:
            self._told = (now, done)
            self.tell(Progress(done, size, max(0, int((done - had) / (now - then))), self.ways))


def told(way: DownloadAttempt) -> str:
    """One way and what came of it, in one line: port, address, proxy, error; the kernel's choice is left out."""
    where = " ".join(word for word in (way.Port, way.Address) if word)
    via = f" via {way.Proxy}" if way.Proxy else ""
    return f"{where}{via}: {way.Error}" if where or via else way.Error


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
