"""PubSub: a process's tables, and the one place where its events are waited for.

    with PubSub(root, "hello") as pubsub:
        greetings = pubsub.publication(Greeting)
        greetings.publish("world", Greeting(text="hi"))

    for change in PubSub(root).subscription("hello", Greeting):
        print(change.kind, change.key, change.new)

There is no thread: handlers run inside `wait`, `process` or `run`, on the caller's thread, one at a time. In asyncio,
`async for change in subscription`. Another loop (selectors, an agent's own) watches `fileno()`, calls `process()`
when it is readable or `timeout()` is over.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import select
import time
from collections.abc import Callable, Container
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import msgspec

from pillar.pubsub.codec import decoder
from pillar.pubsub.drivers import Driver, find
from pillar.pubsub.errors import BadName, BadRecord, InsideHandler, NotOpen
from pillar.pubsub.folder import Folder
from pillar.pubsub.inotify import Inotify
from pillar.pubsub.ledger import Ledger
from pillar.pubsub.names import table as name_table
from pillar.pubsub.publication import Publication
from pillar.pubsub.records import MAX_RECORD_BYTES
from pillar.pubsub.subscription import Handlers, Subscription

if TYPE_CHECKING:
    from pillar.pubsub.eventloop import LoopWait
    from pillar.pubsub.wire import Dialect

T = TypeVar("T")

# EVE re-lists every 3 to 10 minutes, at random so that the agents of a device do not do it together.
RELIST_SECONDS = (180.0, 600.0)
BLIND_SECONDS = 3.0  # while the kernel refuses a watch, listing stands in for events
RETRY_SECONDS = 1.0  # after an error of the machine (no descriptors, a failing disk)
_SLICE = 64  # names looked at before the next subscription has its turn


class PubSub:
    """The tables that one process publishes and follows, below one root directory.

    `root` is where `/run` and `/persist` stand; `agent` is who publishes here (may stay empty for a mere reader, or to
    publish global tables); `relist_seconds` is the range of the slow re-list, the seat belt for what gives no event;
    records above `max_record_bytes` are refused by readers. Where the kernel refuses inotify (a limit is reached),
    the log names the sysctl and the tables are listed every few seconds instead.

    `driver` is how the tables are shared unless one says otherwise: "file"; "socket", EVE's own protocol beside the
    same checkpoint files; "memory", between the PubSubs of this process with the same root; or a Driver of your
    own. `dialect` is the year of the EVE whose subscribers a publisher speaks to; a subscriber learns its publisher's.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "/",
        agent: str = "",
        *,
        relist_seconds: tuple[float, float] = RELIST_SECONDS,
        max_record_bytes: int = MAX_RECORD_BYTES,
        driver: str | Driver = "file",
        dialect: Dialect = 2026,
    ) -> None:
        self.root = os.path.abspath(root)
        self.agent = agent
        self.max_record_bytes = max_record_bytes
        os.makedirs(self.root, exist_ok=True)
        self.driver = driver
        self.dialect = dialect
        self._relist_seconds = relist_seconds
        self._publications: list[Publication[Any]] = []
        self._subscriptions: list[Subscription[Any]] = []
        self._folders: list[Folder] = []
        self._inotify = Inotify()
        self._mounts = _open_mounts()
        self._mounts_judge = _open_mounts()
        self._poll = select.epoll()
        self._poll.register(self._inotify.fileno(), select.EPOLLIN)
        # The kernel tells of a changed mount table by a priority event, once per open file: whoever polls first takes
        # it. That may be an outer loop that polls our epoll, so this one only wakes; the other, never shared, tells.
        self._poll.register(self._mounts, select.EPOLLPRI)
        self._mounts_changed = select.poll()
        self._mounts_changed.register(self._mounts_judge, select.POLLPRI)
        self._next_relist = self._draw_relist()
        self._callbacks: dict[int, Callable[[int], None]] = {}  # what drivers watch
        self._timers: list[tuple[float, int, Callable[[], None]]] = []  # a heap: when, in which order, what
        self._timers_made = 0
        # When several subscriptions follow one table: files read since the last notes were taken, by table and name.
        # Whatever any of them looks at now was noted before, so each read is news enough for all of them.
        self.read_in_this_pass: dict[tuple[str, str], bytes | None] | None = None
        self._loop_wait: LoopWait | None = None
        self.handling: tuple[str, str, str] | None = None  # table, change and key of the handler that runs
        self._closed = False

    # Opening tables.

    def publication(
        self,
        record_type: type[T],
        *,
        scope: str = "",
        persistent: bool = False,
        agent: str | None = None,
        group: str | int | None = None,
        driver: str | Driver | None = None,
        dialect: Dialect | None = None,
    ) -> Publication[T]:
        """Publish the table of this type's topic, loading what is there.

        `agent` is for the empty agent, "": the global table of that topic; left out, it is this PubSub's own.
        `group`, a name or number, may read the table (directory 0750, files 0640, the agent's directory 0711); without
        one only its owner may (0700, 0600). Raises BadName, TableHeld with the pid of the process that publishes it
        already, and PublishFailed when the file system refuses. `driver` and `dialect` are for a table that
        is shared in another way than this PubSub's others.
        """
        owner = self.agent if agent is None else agent
        table = name_table(self.root, owner, scope, record_type.__name__, persistent=persistent)
        how = find(driver or self.driver, dialect or self.dialect)
        publication = Publication(table, record_type, how, self, _group_number(group))
        self._publications.append(publication)
        return publication

    @overload
    def subscription(
        self,
        agent: str,
        record_type: type[T],
        *,
        scope: str = ...,
        persistent: bool = ...,
        create: Callable[[str, T], None] | None = ...,
        modify: Callable[[str, T, T], None] | None = ...,
        delete: Callable[[str, T], None] | None = ...,
        synchronized: Callable[[], None] | None = ...,
        restarted: Callable[[int], None] | None = ...,
        durable: str = ...,
        driver: str | Driver | None = ...,
    ) -> Subscription[T]: ...

    @overload
    def subscription(
        self,
        agent: str,
        record_type: None,
        *,
        topic: str,
        scope: str = ...,
        persistent: bool = ...,
        create: Callable[[str, dict[str, Any]], None] | None = ...,
        modify: Callable[[str, dict[str, Any], dict[str, Any]], None] | None = ...,
        delete: Callable[[str, dict[str, Any]], None] | None = ...,
        synchronized: Callable[[], None] | None = ...,
        restarted: Callable[[int], None] | None = ...,
        durable: str = ...,
        driver: str | Driver | None = ...,
    ) -> Subscription[dict[str, Any]]: ...

    def subscription(
        self,
        agent: str,
        record_type: type[Any] | None,
        *,
        topic: str = "",
        scope: str = "",
        persistent: bool = False,
        create: Callable[[str, Any], None] | None = None,
        modify: Callable[[str, Any, Any], None] | None = None,
        delete: Callable[[str, Any], None] | None = None,
        synchronized: Callable[[], None] | None = None,
        restarted: Callable[[int], None] | None = None,
        durable: str = "",
        driver: str | Driver | None = None,
    ) -> Subscription[Any]:
        """Follow the table of `agent` (the empty agent: the global table) that holds this type's topic.

        Nothing is called from here: the first load and all that follows come through `wait`, `process` or
        `run`, or by iterating over the result. Per key: `create(key, new)` once per observed life,
        `modify(key, new, old)` only when the value differs, `delete(key, last)`. `synchronized()` comes once, after
        the first complete load, and `restarted(counter)` after everything that was published before it.
        A handler that raises is logged; the others go on. A table that does not exist yet is waited for; a
        reader creates nothing.

        With a name in `durable`, what the handlers have finished is remembered in this agent's own directory
        (see pubsub/ledger.py): after a restart only what differs from that is told, deletes included; a
        handler that raised, and the one that a kill interrupted, are run again. Only when it was `create` and the key
        is gone by then nothing is told: whoever acts looks at `synchronized` for what that may have left. One process
        at a time may use a name.

        With `record_type` None and a `topic`, records come as plain JSON objects. Raises BadName, and for a durable
        subscription TableHeld, or OSError when its ledger cannot be opened.
        """
        if record_type is None:
            decode: Callable[[bytes], Any] = _decode_object
        else:
            topic = record_type.__name__
            decode = decoder(record_type)

        table = name_table(self.root, agent, scope, topic, persistent=persistent)
        handlers = Handlers(create, modify, delete, synchronized, restarted)
        how = find(driver or self.driver, self.dialect)
        ledger = Ledger(table, self.agent, durable) if durable else None
        try:
            subscription = Subscription(table, decode, lambda core: how.source(core, self), self, handlers, ledger)
        except BaseException:
            if ledger is not None:
                ledger.close()  # or nobody could use it while this process lives
            raise
        self._subscriptions.append(subscription)
        return subscription

    def folder(
        self,
        path: str | os.PathLike[str],
        look: Callable[[], None],
        names: Container[str] | None = None,
        *,
        each_write: bool = False,
    ) -> Folder:
        """Follow the files of a directory below the root that is no table; all of them, or only these names.

        `look()` is called, from `wait`, `process` or `run`, at the start and whenever one of them may have changed;
        it compares for itself. With `each_write` also for files that somebody writes to and does not close. Raises
        BadName for a path elsewhere.
        """
        parts = os.path.relpath(os.path.abspath(path), self.root).split(os.sep)
        if parts[0] in (os.pardir, os.curdir):
            raise BadName(f"{path} is not below the root {self.root}")
        folder = Folder(self.root, parts, look, names, self._inotify, self, each_write=each_write)
        self._folders.append(folder)
        return folder

    # Driving them.

    def fileno(self) -> int:
        """A descriptor that is readable when `process` has something to do."""
        return self._poll.fileno()

    def timeout(self) -> float:
        """Seconds until `process` wants to be called although nothing happened; 0 when it has work left."""
        if self._has_work():
            return 0.0
        if self._inotify.blind:
            self._relist_within(BLIND_SECONDS)
        due = min(self._next_relist, self._timers[0][0]) if self._timers else self._next_relist
        return max(0.0, due - time.monotonic())

    def wait(self, timeout: float | None = None) -> None:
        """Wait for something to happen, for at most `timeout` seconds, and handle all of it.

        Raises InsideHandler when a handler calls it, and TableHeld when another process has taken a table that is
        published here (its directory was removed), as `process`, `run` and a loop over a subscription do.
        """
        self._check_outside()
        limit = self.timeout()
        if timeout is not None:
            limit = min(limit, timeout)
        self._handle(self._poll.poll(limit), until=math.inf)

    def run(self) -> None:
        """Wait and handle for ever."""
        while True:
            self.wait()

    def process(self, budget: float = 0.05) -> bool:
        """Handle what has happened, for about `budget` seconds; returns True when there is more.

        Only one handler at a time is run, and none is cut short: a slow handler makes this longer. Raises
        InsideHandler when a handler calls it.
        """
        self._check_outside()
        self._handle(self._poll.poll(0), until=time.monotonic() + budget)
        return self._has_work()

    async def wait_async(self) -> None:
        """`wait`, for a coroutine of an asyncio event loop, for some of what happens; others of that loop may wait too.

        Handlers run in the event loop's thread, for about the time that `process` takes at once. Raises NotOpen
        when the PubSub is closed, also meanwhile.
        """
        if self._closed:
            raise NotOpen("this PubSub was closed")
        if self._loop_wait is None:
            from pillar.pubsub.eventloop import LoopWait  # asyncio: whoever has no event loop must not pay for it

            self._loop_wait = LoopWait(self)
        await self._loop_wait.wait()

    @property
    def running_handler(self) -> str:
        """Which handler runs right now, in words, for whoever looks from another thread; "" when none does."""
        handling = self.handling
        if handling is None:
            return ""
        table, kind, key = handling
        return f"the {kind} handler of {table}" + (f", key {key!r}" if key else "")

    def retry_soon(self) -> None:
        """Something could not be read or written for want of the machine's resources: re-list in a moment."""
        self._relist_within(RETRY_SECONDS)

    # What drivers call.

    @property
    def inotify(self) -> Inotify:
        """This process's inotify descriptor."""
        return self._inotify

    def watch_fd(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Have `callback(events)` called when the descriptor is ready; called again: watch for other events."""
        if fd in self._callbacks:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch_fd(self, fd: int) -> None:
        """Forget a descriptor, before it is closed."""
        del self._callbacks[fd]
        self._poll.unregister(fd)

    def call_within(self, seconds: float, callback: Callable[[], None]) -> None:
        """Have `callback` called once, from the loop, in so many seconds. It cannot be taken back."""
        self._timers_made += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timers_made, callback))

    def forget(self, closed: Publication[Any] | Subscription[Any] | Folder) -> None:
        """Drop what was closed."""
        self._publications = [publication for publication in self._publications if publication is not closed]
        self._subscriptions = [subscription for subscription in self._subscriptions if subscription is not closed]
        self._folders = [folder for folder in self._folders if folder is not closed]

    def close(self) -> None:
        """Close everything; published records stay. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._loop_wait is not None:
            self._loop_wait.close()
        for opened in self._opened():
            opened.close()
        self._poll.close()
        os.close(self._mounts)
        os.close(self._mounts_judge)
        self._inotify.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> list[Publication[Any] | Subscription[Any] | Folder]:
        return [*self._publications, *self._subscriptions, *self._folders]

    def _handle(self, ready: list[tuple[int, int]], until: float) -> None:
        if self._mounts_changed.poll(0):
            for opened in self._opened():
                opened.check_place()
        self._take_notes(ready)
        while busy := [subscription for subscription in self._subscriptions if subscription.has_work]:
            several = len(busy) > 1 and len({subscription.table for subscription in busy}) < len(busy)
            self.read_in_this_pass = {} if several else None
            for subscription in busy:
                subscription.work(_SLICE)
            self.read_in_this_pass = None
            if time.monotonic() >= until:
                break
            if any(subscription.has_work for subscription in busy):
                self._take_notes(self._poll.poll(0))
        for folder in self._folders:
            if folder.has_work:
                folder.work()

    def _check_outside(self) -> None:
        if self.handling is not None:
            raise InsideHandler(
                "a handler waits for changes (by wait, process, run or a loop over a subscription, as list() and set() "
                "are): handlers run one at a time, so none would come; for what is known now use items() or keys()"
            )

    def _followed(self) -> list[Subscription[Any] | Folder]:
        return [*self._subscriptions, *self._folders]

    def _take_notes(self, ready: list[tuple[int, int]]) -> None:
        """Read the events; they only say which names and tables to look at."""
        for fd, events in ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
            elif fd != self._mounts:
                self._inotify.dispatch()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if now >= self._next_relist:
            self._relist()
        for publication in self._publications:
            if publication.needs_repair:
                publication.repair()
        counted = [subscription for subscription in self._subscriptions if subscription.prepare()]
        if counted:
            self._inotify.dispatch()
            for subscription in counted:
                subscription.place_mark()

    def _relist(self) -> None:
        """The slow re-list: finds what gave no event."""
        self._next_relist = self._draw_relist()
        if self._inotify.missing and self._inotify.acquire():
            self._poll.register(self._inotify.fileno(), select.EPOLLIN)
        for followed in self._followed():
            followed.list_again()
        for publication in self._publications:
            publication.repair(everything=True)

    def _relist_within(self, seconds: float) -> None:
        self._next_relist = min(self._next_relist, time.monotonic() + seconds)

    def _draw_relist(self) -> float:
        return time.monotonic() + random.uniform(*self._relist_seconds)

    def _has_work(self) -> bool:
        return any(followed.has_work for followed in self._followed())


def _open_mounts() -> int:
    return os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)


def _group_number(group: str | int | None) -> int | None:
    if not isinstance(group, str):
        return group
    import grp  # rare, and a start must not pay for it

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise BadName(f"there is no group {group!r} on this machine") from None


def _decode_object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise BadRecord(str(err)) from err
    if not isinstance(value, dict):
        raise BadRecord("is JSON, but no object")
    return value
