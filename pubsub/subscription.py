"""Following one table.

An inotify event says only "look at this name again". Looking compares the file with what was known; that
decides create, modify, delete or nothing. A full listing is the same: every name that is there or was
known is looked at. So lost, doubled, merged and reordered events can do no harm.

What waits to be looked at stands in one queue, in the order of the events, and is worked off in slices. The restart
counter is read before the events behind it are, and takes its turn in the queue as a mark: whoever
signals it has published first, so its handler runs after all of that was looked at.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from pillar.pubsub.checkpoint import read_restarted
from pillar.pubsub.errors import BadRecord
from pillar.pubsub.inotify import Inotify, InotifyConstants
from pillar.pubsub.ledger import Ledger
from pillar.pubsub.names import RESTARTED, SUFFIX, Table, key_of
from pillar.pubsub.pathwatch import PathWatch
from pillar.pubsub.records import read_file

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub

T = TypeVar("T")

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

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Change(NamedTuple, Generic[T]):
    """One observed change, as a `for` loop over a subscription gets it."""

    kind: Literal["create", "modify", "delete", "synchronized", "restarted"]
    key: str = ""  # empty for synchronized and restarted
    new: T | None = None  # create, modify
    old: T | None = None  # modify, delete: the last value
    counter: int = 0  # restarted


class Rejected(NamedTuple):
    """A file that is no record of this table; the last good value of its key stays in force."""

    path: str
    reason: str


class Handlers(NamedTuple, Generic[T]):
    """What a subscriber wants to be told; see PubSub.subscription."""

    create: Callable[[str, T], None] | None = None
    modify: Callable[[str, T, T], None] | None = None
    delete: Callable[[str, T], None] | None = None
    synchronized: Callable[[], None] | None = None
    restarted: Callable[[int], None] | None = None


class _Mark(NamedTuple):
    """A place in the queue: everything before it was looked at when its turn comes."""

    counter: int  # the restart counter, read when the mark was set
    listed: bool  # the end of a listing


class Subscription(Generic[T]):
    """One table as this process sees it. Made by `PubSub.subscription`; iterate over it, or give it handlers."""

    def __init__(
        self,
        table: Table,
        decode: Callable[[bytes], T],
        inotify: Inotify,
        hub: PubSub,
        handlers: Handlers[T],
        ledger: Ledger | None = None,
    ) -> None:
        self.table = table
        self._path = table.path
        self.handlers = handlers
        self.is_synchronized = False  # the first complete load is done
        self.restarted = 0  # the counter last told
        self.rejected: dict[str, Rejected] = {}  # by file name, what is wrong right now
        self.rejected_count = 0  # how often something was rejected since the start
        self._decode = decode
        self._hub = hub
        self._ledger = ledger
        self._known: dict[str, bytes] = {} if ledger is None else self._remembered(ledger)
        self._queue: deque[str | _Mark] = deque()
        self._judge: dict[str, bool] = {}  # names in the queue -> report it when it is bad
        self._changes: deque[tuple[Change[T], bytes | None]] | None = None
        self._trouble = ""  # what the machine refused since the last listing began; then that one is not complete
        self._trouble_told = ""
        self._relist = True
        self._signalled = False
        self._counter: int | None = None  # read, and not yet in the queue
        parts = table.path[len(table.root) :].strip("/").split("/")
        self._watch = PathWatch(inotify, table.root, parts, _READER_MASK, self._noted, self.list_again)

    def get(self, key: str) -> T | None:
        """The value last seen under `key`, None when there is none. Each call gives a value of its own."""
        data = self._known.get(key)
        return None if data is None else self._decode(data)

    def items(self) -> dict[str, T]:
        """Everything known now, as a copy."""
        return {key: self._decode(data) for key, data in self._known.items()}

    def keys(self) -> list[str]:
        """The keys known now."""
        return list(self._known)

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Change[T]]:
        """Every change from here on, for ever, waiting for each.

        When nothing was loaded before, all that is there comes first, as create. A change counts as finished when
        the next one is asked for.
        """
        changes: deque[tuple[Change[T], bytes | None]] = deque()
        self._changes = changes
        try:
            while True:
                while changes:
                    change, data = changes.popleft()
                    yield change
                    self._finish(change, data)
                self._hub.wait()
        finally:
            self._changes = None

    def close(self) -> None:
        """Stop following; no handler runs any more."""
        self._watch.close()
        self._queue.clear()
        self._judge.clear()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        self._hub.forget(self)

    # What the loop calls.

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
        try:
            directory = os.open(self._path, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            directory = -1
        except OSError as err:
            self._blame_machine(self.table.path, err)
            queue.clear()  # the listing that is due now has it all again; until then there is nothing to be done
            self._judge.clear()
            return
        try:
            for _ in range(min(at_most, len(queue))):
                item = queue.popleft()
                if isinstance(item, _Mark):
                    self._reach(item)
                else:
                    self._look(directory, item, self._judge.pop(item))
        finally:
            if directory != -1:
                os.close(directory)

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
            names = os.listdir(self.table.path)
        except (FileNotFoundError, NotADirectoryError):
            names = []
            complete = self.is_synchronized  # else its publisher has not opened it yet
        except OSError as err:
            self._blame_machine(self.table.path, err)
            return
        for name in sorted(names):
            if key_of(name) is not None:
                self._enqueue(name, judge=True)
        for key in self._known:
            self._enqueue(key + SUFFIX, judge=True)
        for name in self.rejected:
            self._enqueue(name, judge=True)
        self._queue.append(_Mark(counter, listed=complete))

    def _read_restarted(self) -> int:
        try:
            directory = os.open(self.table.path, _DIRECTORY)
        except OSError:
            return 0  # no directory, no signal; another reason is told by the listing
        try:
            return read_restarted(directory)
        except OSError as err:
            self._blame_machine(f"{self.table.path}/{RESTARTED}", err)
            return self.restarted
        finally:
            os.close(directory)

    def _look(self, directory: int, name: str, judge: bool) -> None:
        """Compare one file with what was known of it."""
        key = name[: -len(SUFFIX)]
        try:
            data = None if directory == -1 else read_file(directory, name, self._hub.max_record_bytes)
            if data is None:
                self._gone(key)
            elif data != self._known.get(key):
                self._seen(key, data)
        except BadRecord as err:
            if judge:
                self._reject(name, str(err))
            return
        except OSError as err:
            if err.errno == errno.EIO:  # this file's own; the others go on, and it is tried again
                self._hub.retry_soon()
                self._reject(name, f"cannot be read: {err.strerror}")
            else:
                self._blame_machine(self.table.file(key), err)
            return
        if self.rejected:
            self.rejected.pop(name, None)

    def _seen(self, key: str, data: bytes) -> None:
        new = self._decode(data)
        before = self._known.get(key)
        if before is None:
            _check_text(key)
            self._known[key] = data
            self._tell(Change("create", key, new=new), data)
            return
        self._known[key] = data
        old = self._decode(before)
        if old != new:  # other bytes may say the same: order, white space, fields we do not know
            self._tell(Change("modify", key, new=new, old=old), data)

    def _gone(self, key: str) -> None:
        data = self._known.pop(key, None)
        if data is not None:
            self._tell(Change("delete", key, old=self._decode(data)))

    def _reach(self, mark: _Mark) -> None:
        if self._trouble:  # something before the mark could not be looked at; the listing that is due sets a new one
            return
        self._trouble_told = ""
        if mark.listed and not self.is_synchronized:
            self.is_synchronized = True
            self._tell(Change("synchronized"))
        if mark.counter != self.restarted:
            self.restarted = mark.counter
            if mark.counter:  # cleared is no restart
                self._tell(Change("restarted", counter=mark.counter))

    def _tell(self, change: Change[T], data: bytes | None = None) -> None:
        """Run the handler of one change. A handler that raises is logged; the other keys go on.

        A durable subscription then leaves it unfinished: it is tried again at the next start.
        """
        if self._changes is not None:
            self._changes.append((change, data))
        kind, key, new, old, counter = change
        handler: Callable[..., Any] | None = getattr(self.handlers, kind)
        try:
            if handler is None:
                pass
            elif kind == "create":
                handler(key, new)
            elif kind == "modify":
                handler(key, new, old)
            elif kind == "delete":
                handler(key, old)
            elif kind == "restarted":
                handler(counter)
            else:
                handler()
        except (
            Exception
        ):  # the boundary between the library and its user's code: one key's failure must not stop the rest
            log.exception("%s: the %s handler of key %r failed", self.table.name, kind, key)
            return
        if self._changes is None:
            self._finish(change, data)

    def _finish(self, change: Change[T], data: bytes | None) -> None:
        if self._ledger is None or not change.key:
            return
        try:
            self._ledger.finish(change.key, data)
        except OSError as err:
            log.error(
                "%s: cannot be written: %s; handlers finished from now on may be run again after a restart",
                self._ledger.path,
                err.strerror,
            )

    def _remembered(self, ledger: Ledger) -> dict[str, bytes]:
        """What was finished before this start, except what the record's type cannot read any more."""
        known = ledger.finished()
        for key, data in ledger.finished().items():
            try:
                self._decode(data)
            except BadRecord as err:
                log.warning("%s: %s: %s; its handler is run again", ledger.path, key, err)
                ledger.forget(key)
                del known[key]
        return known

    def _reject(self, name: str, reason: str) -> None:
        rejected = Rejected(_in_words(os.path.join(self.table.path, name)), reason)
        if self.rejected.get(name) != rejected:
            self.rejected[name] = rejected
            self.rejected_count += 1
            kept = (
                "keeping the previous record" if name[: -len(SUFFIX)] in self._known else "ignored until it is mended"
            )
            log.warning("%s: %s; %s", rejected.path, reason, kept)

    def _blame_machine(self, path: str, err: OSError) -> None:
        """Not the record's fault: nothing is concluded from it, and the table is listed again soon."""
        self._hub.retry_soon()
        self._trouble = f"{path}: {err.strerror}"
        if self._trouble != self._trouble_told:
            self._trouble_told = self._trouble
            log.error("%s; looked at again in a moment", self._trouble)


def _in_words(path: str) -> str:
    """A path for a log or a terminal: bytes that are no UTF-8 written out, as `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _check_text(key: str) -> None:
    """A file name is bytes; one that is not UTF-8 cannot be a key. Raises BadRecord."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise BadRecord("its name is not UTF-8, so it is no key") from None
