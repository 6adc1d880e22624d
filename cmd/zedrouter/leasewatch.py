"""Tells when a dnsmasq has given a lease: it writes its lease file in place, and no event of the kernel says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pillar.pubsub.inotify import Inotify, InotifyConstants, WatchDescriptor


class LeaseWatch:
    """Calls `changed` when a lease file in `directory`, which must exist, was written. Raises WatchFailed."""

    def __init__(self, directory: Path, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._inotify = Inotify()
        self._inotify.watch(str(directory), InotifyConstants.IN_MODIFY | InotifyConstants.IN_ONLYDIR, self)

    def fileno(self) -> int:
        return self._inotify.fileno()

    def look(self) -> None:
        """Take in what happened."""
        self._inotify.dispatch()

    # what `Inotify` calls

    def on_event(self, mask: int, name: bytes) -> None:
        if name.endswith(b".leases"):
            self._changed()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._changed()

    def on_queue_overflow(self) -> None:
        self._changed()
