"""Watching a directory that may come, go and be replaced.

inotify watches inodes, people mean paths. So every component of the path is watched, from the base down: the
directory itself for its entries, each one above for the name below it. When anything on the way
changes, the whole way is looked up again and the owner lists the directory afresh. A link's target is
followed as it stands when looked up; a change inside a link's own way, and a mount, give no event here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from pillar.pubsub.errors import WatchFailed
from pillar.pubsub.inotify import Inotify, InotifyConstants, WatchDescriptor

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import CallbackId

log = logging.getLogger("pillar.pubsub")

_C = InotifyConstants

GONE = _C.IN_DELETE_SELF | _C.IN_MOVE_SELF | _C.IN_UNMOUNT
ABOVE_MASK = _C.IN_CREATE | _C.IN_MOVED_FROM | _C.IN_MOVED_TO | _C.IN_DELETE | _C.IN_DELETE_SELF | _C.IN_MOVE_SELF

_ONLY_DIRECTORIES = _C.IN_ONLYDIR


class PathWatch:
    """Follows one directory by its path, below a base directory that exists.

    `on_name(name, mask)` is called for every event on an entry of the directory, `on_change()` whenever the
    directory may be another one than before, is gone, or events were lost: then all of it must be listed again.
    Both are called from Inotify.dispatch and must only take notes.
    """

    def __init__(
        self,
        inotify: Inotify,
        base: str,
        parts: list[str],
        mask: int,
        on_name: Callable[[str, int], None],
        on_change: Callable[[], None],
    ) -> None:
        self.path = os.path.join(base, *parts)
        self._inotify = inotify
        self._base = base
        self._parts = parts
        self._mask = mask
        self._on_name = on_name
        self._on_change = on_change
        self._levels: list[_Level] = []
        self._refused = ""  # why the kernel refused a watch at the last lookup
        self._complaint = ""  # the refusal last logged
        self._identity: tuple[int, int] | None = None

    def lookup(self) -> None:
        """Walk the path afresh, watching each component before looking for the next.

        Safe to call at any time. A watch that the kernel refuses is logged once, naming the limit; the
        directory is then followed by re-listing alone, every few seconds, until a later lookup succeeds. No
        descriptor is kept on the way: a subscriber must not keep a file system from being unmounted.
        """
        old, self._levels = self._levels, []
        self._refused = ""
        self._identity = self._identify()
        path = self._base
        try:
            for below in (*self._parts, None):
                self._watch_level(path, below)
                if below is not None:
                    path = os.path.join(path, below)
        except (FileNotFoundError, NotADirectoryError):
            pass  # the level above tells when it comes
        except OSError as err:
            self._refused = f"{path}: {err.strerror}"
        # New watches stand before old ones go: an unchanged directory is never unwatched for a moment.
        for level in old:
            level.close()
        self._report()

    def leads_elsewhere(self) -> bool:
        """Whether the path leads to another directory than at the last `lookup`."""
        return self._identify() != self._identity

    def close(self) -> None:
        """Forget the directory."""
        self._inotify.blind.discard(self)
        for level in self._levels:
            level.close()
        self._levels = []

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _watch_level(self, path: str, below: str | None) -> None:
        level = _Level(self, below)
        try:
            mask = self._mask if below is None else ABOVE_MASK
            level.handle = self._inotify.watch(path, mask | _ONLY_DIRECTORIES, level)
        except WatchFailed as err:
            self._refused = str(err)
            return
        self._levels.append(level)

    def _report(self) -> None:
        """Say once that watches were refused, and once that they are granted again."""
        if self._refused:
            self._inotify.blind.add(self)
        else:
            self._inotify.blind.discard(self)
        if self._refused == self._complaint:
            return
        self._complaint = self._refused
        if self._refused:
            log.error("%s; changes in %s are found only by listing it every few seconds", self._refused, self.path)
        else:
            log.info("%s: watched again", self.path)

    def _lost(self, level: _Level) -> None:
        if level in self._levels:  # not one that we closed ourselves
            self._on_change()


class _Level:
    """One watched component; `below` is the name that matters in it, None for the directory itself."""

    handle: tuple[WatchDescriptor, CallbackId]

    def __init__(self, owner: PathWatch, below: str | None) -> None:
        self._owner = owner
        self._below = below

    def close(self) -> None:
        self._owner._inotify.unwatch(self.handle)

    # What Inotify calls.

    def on_event(self, mask: int, name: bytes) -> None:
        owner = self._owner
        if mask & GONE:
            owner._on_change()
        elif self._below is None:
            owner._on_name(os.fsdecode(name), mask)
        elif os.fsdecode(name) == self._below:
            owner._on_change()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._owner._lost(self)

    def on_queue_overflow(self) -> None:
        self._owner._on_change()
