"""Follows resolv.conf without polling: the file, its directory, and where a link leads to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pillar.pubsub.inotify import Inotify, InotifyConstants, WatchDescriptor

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import CallbackId

_MASK = (
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_DELETE
)


class ResolverWatch:
    """`fileno` is readable when resolv.conf may have changed; `look` says whether it was about this file.

    Directories are watched, because the file is usually replaced by a rename; one that does not exist is looked for
    again only when something else changes here.
    Raises WatchFailed when the kernel grants no descriptor or watch.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inotify = Inotify()
        self._names: set[bytes] = set()
        self._touched = False
        self._handles: list[tuple[WatchDescriptor, CallbackId]] = []
        self._watch()

    def fileno(self) -> int:
        return self._inotify.fileno()

    def look(self) -> bool:
        """Take in what happened; True when the file should be read again."""
        self._touched = False
        self._inotify.dispatch()
        if self._touched:
            self._watch()  # a link may lead elsewhere now
        return self._touched

    def close(self) -> None:
        self._inotify.close()

    def _watch(self) -> None:
        places = {self._path, self._path.resolve()}
        before = self._handles
        self._names = {os.fsencode(place.name) for place in places}
        self._handles = [
            self._inotify.watch(str(folder), _MASK | InotifyConstants.IN_ONLYDIR, self)
            for folder in {place.parent for place in places}
            if folder.is_dir()
        ]
        for handle in before:  # after the new ones, so that a directory is never unwatched for a moment
            self._inotify.unwatch(handle)

    # what `Inotify` calls

    def on_event(self, mask: int, name: bytes) -> None:
        self._touched = self._touched or name in self._names

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._touched = True

    def on_queue_overflow(self) -> None:
        self._touched = True
