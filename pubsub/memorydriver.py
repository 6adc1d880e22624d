"""Tables in this process's memory, for tests: `driver="memory"`.

The same promises without a disk: PubSubs of one process with the same root share their tables, one publisher a
table, records stay when it closes and are there for the next one, and a subscription hears of each key, in order with
`synchronized` and the restart counter. `forget_all(root)` is the reboot. From one thread, as everything here.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pillar.pubsub.errors import BadRecord, TableHeld
from pillar.pubsub.names import SUFFIX, Table

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub
    from pillar.pubsub.publication import Publication
    from pillar.pubsub.subscription import Subscription


class _Shared:
    """One table: what its publisher holds, and who follows it."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.restarted = 0
        self.ever_opened = False
        self.held = False
        self.followers: list[MemorySource] = []


_tables: dict[Table, _Shared] = {}


def forget_all(root: str | os.PathLike[str]) -> None:
    """Forget every table below this root that nobody has open."""
    for table, shared in list(_tables.items()):
        if table.root == os.path.abspath(root) and not shared.held and not shared.followers:
            del _tables[table]


class MemoryDriver:
    """Keeps, tells and hears inside this process."""

    def store(self, table: Table, group: int | None) -> MemoryStore:
        """The table's records, held. Raises TableHeld when this process publishes it already."""
        return MemoryStore(table)

    def audience(self, publication: Publication[Any], hub: PubSub) -> MemoryAudience:
        """The subscriptions of this process."""
        return MemoryAudience(publication)

    def source(self, subscription: Subscription[Any], hub: PubSub) -> MemorySource:
        """The table's records."""
        return MemorySource(subscription, hub)


class MemoryStore:
    """See drivers.Store; nothing here can fail."""

    def __init__(self, table: Table) -> None:
        self.batching = False
        self._shared = _tables.setdefault(table, _Shared())
        if self._shared.held:
            raise TableHeld(table.name, os.getpid())
        self._shared.held = self._shared.ever_opened = True

    def close(self) -> None:
        """Free the table; its records stay."""
        self._shared.held = False

    def stands_at_its_path(self) -> bool:
        """Always: there is no path to lead elsewhere."""
        return True

    def recorded_keys(self) -> Iterator[str]:
        """The keys there are."""
        yield from list(self._shared.records)

    def read(self, key: str) -> bytes | None:
        """A record's bytes."""
        return self._shared.records.get(key)

    def read_backup(self, key: str) -> bytes | None:
        """None: a process's memory is not torn."""
        return None

    def write(self, key: str, data: bytes) -> None:
        """Keep a record."""
        self._shared.records[key] = data

    def remove(self, key: str) -> None:
        """Drop a record."""
        self._shared.records.pop(key, None)

    def flush(self) -> None:
        """Nothing is more durable than it was."""

    def tidy(self) -> None:
        """No change is refused."""

    def quarantine(self, name: str) -> str:
        """Drop what this publisher's type cannot read."""
        self._shared.records.pop(name.removesuffix(SUFFIX), None)
        return "nowhere"

    def read_restarted(self) -> int:
        """The restart counter."""
        return self._shared.restarted

    def write_restarted(self, counter: int) -> None:
        """Set the restart counter."""
        self._shared.restarted = counter


class MemoryAudience:
    """Marks what changed for each follower; they look when their loop comes round."""

    def __init__(self, publication: Publication[Any]) -> None:
        self._shared = _tables[publication.table]
        for follower in self._shared.followers:
            follower.list_again()

    def check(self, key: str, data: bytes) -> None:
        """Everything fits."""

    def changed(self, key: str) -> None:
        """Have every follower look at this key."""
        for follower in self._shared.followers:
            follower.mark(key)

    def restarted(self) -> None:
        """Have every follower told, after what is marked now."""
        for follower in self._shared.followers:
            follower.mark(None)

    def check_place(self) -> None:
        """Nothing can be removed."""

    def close(self) -> None:
        """The followers keep what they know."""


class _Mark(NamedTuple):
    """The restart counter's place in the queue; `complete`: the whole table was looked at before it."""

    complete: bool


class MemorySource:
    """One subscription's queue of keys to look at."""

    def __init__(self, core: Subscription[Any], hub: PubSub) -> None:
        self._core = core
        self._hub = hub
        self._shared = _tables.setdefault(core.table, _Shared())
        self._shared.followers.append(self)
        self._queue: deque[str | _Mark] = deque()
        self._queued: set[str] = set()
        self._relist = True
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # wakes a loop that waits elsewhere
        hub.watch_fd(self._bell, select.EPOLLIN, self._rung)

    def mark(self, key: str | None) -> None:
        """This key is to be looked at; None: the restart counter."""
        if key is None:
            if not self._relist:  # a listing reads the counter itself
                self._queue.append(_Mark(complete=False))
        elif key not in self._queued:
            self._queue.append(key)
            self._queued.add(key)
        os.eventfd_write(self._bell, 1)

    @property
    def has_work(self) -> bool:
        """Something is marked."""
        return bool(self._queue) or self._relist

    def list_again(self) -> None:
        """Have everything looked at."""
        self._relist = True
        os.eventfd_write(self._bell, 1)

    def prepare(self) -> bool:
        """Mark everything when that is due."""
        if self._relist:
            self._relist = False
            for key in [*self._shared.records, *self._core.known]:
                self.mark(key)
            self._queue.append(_Mark(complete=self._shared.ever_opened))
        return False

    def place_mark(self) -> None:
        """Nothing: marks are placed as they are made."""

    def check_place(self) -> None:
        """Mounts do not matter."""

    def work(self, at_most: int) -> None:
        """Look at up to so many keys."""
        for _ in range(min(at_most, len(self._queue))):
            if not self._queue:  # a handler closed the subscription
                return
            key = self._queue.popleft()
            if isinstance(key, _Mark):
                self._core.reach(self._shared.restarted, complete=key.complete)
                continue
            self._queued.discard(key)
            data = self._shared.records.get(key)
            if data is None:
                self._core.gone(key)
            elif data != self._core.known.get(key):
                try:
                    self._core.seen(key, data)
                except BadRecord as err:
                    self._core.reject(key + SUFFIX, self._core.table.file(key), str(err))

    def close(self) -> None:
        """Look no more."""
        self._shared.followers.remove(self)
        self._queue.clear()
        self._relist = False
        self._hub.unwatch_fd(self._bell)
        os.close(self._bell)

    def _rung(self, events: int) -> None:
        os.eventfd_read(self._bell)
