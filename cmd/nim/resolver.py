"""Follows resolv.conf without polling: the file, its directory, and where a link leads to."""

from pathlib import Path

from pillar.pubsub.inotify import Inotify, InotifyConstants, InotifyEvent, WatchDescriptor

_MASK = (
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_DELETE
)


class ResolverWatch:
    """`fileno` is readable when resolv.conf may have changed; `look` says whether it was about this file.

    Directories are watched, because the file is usually replaced by a rename. One that does not exist is not followed.
    Raises WatchFailed when the kernel grants no descriptor or watch.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inotify = Inotify()
        self._names: set[bytes] = set()
        self._touched = False
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
        for place in {self._path, self._path.resolve()}:
            self._names.add(place.name.encode())
            if place.parent.is_dir():
                self._inotify.watch(str(place.parent), _MASK | InotifyConstants.IN_ONLYDIR, self)

    # watchdog's WatchCallback protocol

    def on_event(self, event: InotifyEvent) -> None:
        self._touched = self._touched or event.name in self._names

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._touched = True

    def on_queue_overflow(self) -> None:
        self._touched = True
