"""Follows resolv.conf without polling: the file, its directory, and where a link leads to."""

from __future__ import annotations

import os
from collections.abc import Callable
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
    """`changed` is called when resolv.conf may be another one.

    Directories are watched, because the file is usually replaced by a rename; one that does not exist is looked for
    again only when something else changes here. Not a `PubSub.folder`: the file may stand outside the root, and a link
    to it leads anywhere. Raises WatchFailed when the kernel grants no watch.
    """

    def __init__(self, path: Path, inotify: Inotify, changed: Callable[[], None]) -> None:
        self._path = path
        self._inotify = inotify
        self._changed = changed
        self._names: set[bytes] = set()
        self._moved = False
        self._handles: list[tuple[WatchDescriptor, CallbackId]] = []
        self._watch()

    def follow(self) -> None:
        """Before the file is read: a link may lead elsewhere since `changed` was called. Raises WatchFailed."""
        if self._moved:
            self._watch()
            self._moved = False

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

    # What Inotify calls: only notes are taken.

    def on_event(self, mask: int, name: bytes) -> None:
        if name in self._names:
            self._note()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._note()

    def on_queue_overflow(self) -> None:
        self._note()

    def _note(self) -> None:
        self._moved = True
        self._changed()
