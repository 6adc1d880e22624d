"""Following a table by its files.

An inotify event says only "look at this name again". Looking compares the file with what was known. A full listing
is the same: every name that is there or was known is looked at. So lost, doubled, merged and reordered events can do no
harm.

What waits to be looked at stands in one queue, in the order of the events, and is worked off in slices. The restart
counter is read before the events behind it are, and takes its turn in the queue as a mark: whoever
signals it has published first, so its handler runs after all of that was looked at.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from pillar.pubsub.checkpoint import Checkpoint, read_restarted
from pillar.pubsub.errors import BadRecord
from pillar.pubsub.inotify import InotifyConstants
from pillar.pubsub.names import NAME_MAX, RESTARTED, SUFFIX, Table, key_of
from pillar.pubsub.pathwatch import PathWatch
from pillar.pubsub.records import read_file

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub
    from pillar.pubsub.publication import Publication
    from pillar.pubsub.subscription import Subscription

log = logging.getLogger("pillar.pubsub")

_C = InotifyConstants
_READER_MASK = (
    _C.IN_MODIFY
    | _C.IN_CLOSE_WRITE
    | _C.IN_CREATE
    | _C.IN_DELETE
    | _C.IN_MOVED_FROM
    | _C.IN_MOVED_TO
    | _C.IN_ATTRIB
    | _C.IN_DELETE_SELF
    | _C.IN_MOVE_SELF
)
# After these a writer may still be at it: a good record is taken at once, a bad one is judged when it is closed.
_UNFINISHED = _C.IN_CREATE | _C.IN_MODIFY

# So few names are looked at by their paths: opening the directory for them would be a third of the system calls.
_FEW = 2
_PATH_MAX = 4096

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class FileDriver:
    """The files of the table are all there is: the store, the news, and what subscribers read."""

    def store(self, table: Table, group: int | None) -> Checkpoint:
        """The table's directory, locked. Raises TableHeld."""
        return Checkpoint(table, group)

    def audience(self, publication: Publication[Any], hub: PubSub) -> None:
        """None: a publish is one rename, which is the subscribers' event."""

    def source(self, subscription: Subscription[Any], hub: PubSub) -> FileSource:
        """The table's directory, watched by inotify."""
        return FileSource(subscription, hub)


class _Mark(NamedTuple):
    """A place in the queue: everything before it was looked at when its turn comes."""

    counter: int  # the restart counter, read when the mark was set
    listed: bool  # the end of a listing


class FileSource:
    """One table's directory as a subscription follows it."""

    def __init__(self, core: Subscription[Any], hub: PubSub) -> None:
        self._core = core
        self._hub = hub
        self._table = table = core.table
        self._path = table.path
        self._short = len(os.fsencode(self._path)) + 1 + NAME_MAX < _PATH_MAX
        self._queue: deque[str | _Mark] = deque()
        self._judge: dict[str, bool] = {}  # names in the queue -> report it when it is bad
        self._trouble = ""  # what the machine refused since the last listing began; then that one is not complete
        self._trouble_told = ""
        self._relist = True
        self._signalled = False
        self._counter: int | None = None  # read, and not yet in the queue
        parts = table.path[len(table.root) :].strip("/").split("/")
        self._watch = PathWatch(hub.inotify, table.root, parts, _READER_MASK, self._noted, self.list_again)

    def close(self) -> None:
        """Stop looking."""
        self._watch.close()
        self._queue.clear()
        self._judge.clear()
        self._relist = self._signalled = False

    def list_again(self) -> None:
        """Have the whole table compared with what is known: start, overflow, a replaced directory, the slow re-list."""
        self._relist = True

    @property
    def has_work(self) -> bool:
        """Something waits to be looked at."""
        return self._relist or self._signalled or bool(self._queue)

    def prepare(self) -> bool:
        """List the table if that is due, or read a restart counter that was signalled.

        Returns True when a counter was read: the events that are waiting now are then to be read, as what was
        published before the counter is among them, and `place_mark` be called.
        """
        if self._relist:
            self._relist = self._signalled = False
            self._list()
        elif self._signalled:
            self._signalled = False
            self._counter = self._read_restarted()
        return self._counter is not None

    def place_mark(self) -> None:
        """Queue the counter that `prepare` read behind all that was published before it."""
        if self._counter is not None and not self._relist:  # a listing reads the counter itself
            self._queue.append(_Mark(self._counter, listed=False))
        self._counter = None

    def check_place(self) -> None:
        """After a mount or unmount anywhere, which gives no event: list again if the path leads elsewhere now."""
        if self._watch.leads_elsewhere():
            self._relist = True

    def work(self, at_most: int) -> None:
        """Look at up to `at_most` names, running the handlers of what changed."""
        queue = self._queue
        if len(queue) <= _FEW and self._short:
            self._work_off(None, len(queue))
            return
        try:
            directory = os.open(self._path, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            directory = -1
        except OSError as err:
            self._blame_machine(self._path, err)
            queue.clear()  # the listing that is due now has it all again; until then there is nothing to be done
            self._judge.clear()
            return
        try:
            self._work_off(directory, min(at_most, len(queue)))
        finally:
            if directory != -1:
                os.close(directory)

    def _work_off(self, directory: int | None, at_most: int) -> None:
        """Look at the first names of the queue, in an open directory, -1 when there is none, or by their paths."""
        for _ in range(at_most):
            if not self._queue:  # a handler closed the subscription
                break
            item = self._queue.popleft()
            if isinstance(item, _Mark):
                self._reach(item)
            else:
                self._look(directory, item, self._judge.pop(item))

    def _noted(self, name: str, mask: int) -> None:
        if name == RESTARTED:
            self._signalled = True
        elif name.endswith(SUFFIX) and name[0] != ".":
            self._enqueue(name, judge=not mask & _UNFINISHED)

    def _enqueue(self, name: str, *, judge: bool) -> None:
        waiting = self._judge.get(name)
        if waiting is None:
            self._queue.append(name)
            self._judge[name] = judge
        elif judge:
            self._judge[name] = True

    def _list(self) -> None:
        """Queue every name that is there or was known, and a mark behind them."""
        self._watch.lookup()  # first the watch, then the listing: what changes in between is seen twice, not never
        self._trouble = ""
        counter = self._read_restarted()
        complete = True
        try:
            names = os.listdir(self._path)
        except (FileNotFoundError, NotADirectoryError):
            names = []
            complete = self._core.is_synchronized  # else its publisher has not opened it yet
        except OSError as err:
            self._blame_machine(self._path, err)
            return
        for name in sorted(names):
            if key_of(name) is not None:
                self._enqueue(name, judge=True)
        for key in self._core.known:
            self._enqueue(key + SUFFIX, judge=True)
        for name in self._core.rejected:
            self._enqueue(name, judge=True)
        self._queue.append(_Mark(counter, listed=complete))

    def _read_restarted(self) -> int:
        try:
            directory = os.open(self._path, _DIRECTORY)
            try:
                return read_restarted(directory)
            finally:
                os.close(directory)
        except (FileNotFoundError, NotADirectoryError):
            return 0  # no directory, no signal
        except OSError as err:
            self._blame_machine(f"{self._path}/{RESTARTED}", err)
            return self._core.restarted

    def _look(self, directory: int | None, name: str, judge: bool) -> None:
        """Compare one file with what was known of it."""
        key = name[: -len(SUFFIX)]
        try:
            data = self._read(directory, name)
            if data is None:
                self._core.gone(key)
            elif data != self._core.known.get(key):
                self._core.seen(key, data)
        except BadRecord as err:
            if judge:
                self._reject(name, str(err))
            return
        except OSError as err:
            if err.errno == errno.EIO:  # this file's own; the others go on, and it is tried again
                self._hub.retry_soon()
                self._reject(name, f"cannot be read: {err.strerror}")
            else:
                self._blame_machine(self._table.file(key), err)
            return
        if self._core.rejected:
            self._core.rejected.pop(name, None)

    def _read(self, directory: int | None, name: str) -> bytes | None:
        if directory == -1:
            return None
        shared = self._hub.read_in_this_pass
        if shared is not None and (self._path, name) in shared:
            return shared[self._path, name]
        if directory is None:
            data = read_file(None, f"{self._path}/{name}", self._hub.max_record_bytes)
        else:
            data = read_file(directory, name, self._hub.max_record_bytes)
        if shared is not None:
            shared[self._path, name] = data
        return data

    def _reach(self, mark: _Mark) -> None:
        if self._trouble:  # something before the mark could not be looked at; the listing that is due sets a new one
            return
        self._trouble_told = ""
        self._core.reach(mark.counter, complete=mark.listed)

    def _reject(self, name: str, reason: str) -> None:
        self._core.reject(name, os.path.join(self._table.path, name), reason)

    def _blame_machine(self, path: str, err: OSError) -> None:
        """Not the record's fault: nothing is concluded from it, and the table is listed again soon."""
        self._hub.retry_soon()
        self._trouble = f"{path}: {err.strerror}"
        if self._trouble != self._trouble_told:
            self._trouble_told = self._trouble
            log.error("%s; looked at again in a moment", self._trouble)
