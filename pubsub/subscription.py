"""Following one table: what is known of it, and telling its handlers.

Where the table is looked at is its source's business (see drivers.py: files, a socket, this process's memory). A
source says what stands under a key now; comparing that with what was known decides create, modify, delete or nothing.
So what a source says twice, merged or in another order can do no harm.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from pillar.pubsub.errors import BadRecord
from pillar.pubsub.ledger import Ledger
from pillar.pubsub.names import SUFFIX, Table

if TYPE_CHECKING:
    from pillar.pubsub.drivers import MakeSource
    from pillar.pubsub.hub import PubSub

T = TypeVar("T")

log = logging.getLogger("pillar.pubsub")


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


class Subscription(Generic[T]):
    """One table as this process sees it. Made by `PubSub.subscription`; iterate over it, or give it handlers."""

    def __init__(
        self,
        table: Table,
        decode: Callable[[bytes], T],
        source: MakeSource,
        hub: PubSub,
        handlers: Handlers[T],
        ledger: Ledger | None = None,
    ) -> None:
        self.table = table
        self.handlers = handlers
        self.is_synchronized = False  # the first complete load is done
        self.restarted = 0  # the counter last told
        self.rejected: dict[str, Rejected] = {}  # by file name, what is wrong right now
        self.rejected_count = 0  # how often something was rejected since the start
        self._decode = decode
        self._hub = hub
        self._ledger = ledger
        # The bytes last seen under each key; its source may look, and changes them by `seen` and `gone`.
        self.known: dict[str, bytes] = {} if ledger is None else self._remembered(ledger)
        self._changes: deque[tuple[Change[T], bytes | None]] | None = None
        self._source = source(self)

    def get(self, key: str) -> T | None:
        """The value last seen under `key`, None when there is none. Each call gives a value of its own."""
        data = self.known.get(key)
        return None if data is None else self._decode(data)

    def items(self) -> dict[str, T]:
        """Everything known now, as a copy."""
        return {key: self._decode(data) for key, data in self.known.items()}

    def keys(self) -> list[str]:
        """The keys known now."""
        return list(self.known)

    def __contains__(self, key: object) -> bool:
        return key in self.known

    def __len__(self) -> int:
        return len(self.known)

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
            if self._changes is changes:
                self._changes = None

    async def __aiter__(self) -> AsyncGenerator[Change[T], None]:
        """The same for a coroutine of an asyncio event loop, which goes on while this waits.

        Loops over several subscriptions of one PubSub may run side by side, in one event loop.
        """
        changes: deque[tuple[Change[T], bytes | None]] = deque()
        self._changes = changes
        try:
            while True:
                while changes:
                    change, data = changes.popleft()
                    yield change
                    self._finish(change, data)
                await self._hub.wait_async()
        finally:
            if self._changes is changes:  # a loop that was left is only closed when the event loop comes to it
                self._changes = None

    def close(self) -> None:
        """Stop following; no handler runs any more."""
        self._source.close()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        self._hub.forget(self)

    # What the loop calls.

    @property
    def has_work(self) -> bool:
        """Something waits to be looked at."""
        return self._source.has_work

    def list_again(self) -> None:
        """Have the whole table compared with what is known."""
        self._source.list_again()

    def prepare(self) -> bool:
        """See Source."""
        return self._source.prepare()

    def place_mark(self) -> None:
        """See Source."""
        self._source.place_mark()

    def check_place(self) -> None:
        """After a mount or unmount anywhere, which gives no event."""
        self._source.check_place()

    def work(self, at_most: int) -> None:
        """Look at up to `at_most` keys, running the handlers of what changed."""
        self._source.work(at_most)

    # What its source tells it.

    def seen(self, key: str, data: bytes) -> None:
        """These bytes stand under this key now. Raises BadRecord; the last good value then stays."""
        new = self._decode(data)
        before = self.known.get(key)
        if before is None:
            _check_text(key)
            self.known[key] = data
            self._tell(Change("create", key, new=new), data)
            return
        self.known[key] = data
        old = self._decode(before)
        if old != new:  # other bytes may say the same: order, white space, fields we do not know
            self._tell(Change("modify", key, new=new, old=old), data)

    def gone(self, key: str) -> None:
        """Nothing stands under this key now."""
        data = self.known.pop(key, None)
        if data is not None:
            self._tell(Change("delete", key, old=self._decode(data)))

    def reach(self, counter: int, *, complete: bool) -> None:
        """All that was published before the restart counter got this value was seen; `complete`: the whole table."""
        if complete and not self.is_synchronized:
            self.is_synchronized = True
            self._tell(Change("synchronized"))
        if counter != self.restarted:
            self.restarted = counter
            if counter:  # cleared is no restart
                self._tell(Change("restarted", counter=counter))

    def reject(self, name: str, path: str, reason: str) -> None:
        """What stands under the file name `name`, found at `path`, is no record of this table; said once."""
        rejected = Rejected(_in_words(path), reason)
        if self.rejected.get(name) != rejected:
            self.rejected[name] = rejected
            self.rejected_count += 1
            kept = "keeping the previous record" if name[: -len(SUFFIX)] in self.known else "ignored until it is mended"
            log.warning("%s: %s; %s", rejected.path, reason, kept)

    def _tell(self, change: Change[T], data: bytes | None = None) -> None:
        """Run the handler of one change. A handler that raises is logged; the other keys go on.

        A durable subscription then leaves it unfinished: it is tried again at the next start.
        """
        if self._changes is not None:
            self._changes.append((change, data))
        kind, key, new, old, counter = change
        handler: Callable[..., Any] | None = getattr(self.handlers, kind)
        if handler is not None:
            self._hub.handling = self.table.name, kind, key
            try:
                if kind == "create":
                    handler(key, new)
                elif kind == "modify":
                    handler(key, new, old)
                elif kind == "delete":
                    handler(key, old)
                elif kind == "restarted":
                    handler(counter)
                else:
                    handler()
            except Exception:  # the boundary to the user's code: one key's failure must not stop the rest
                log.exception("%s: the %s handler of key %r failed", self.table.name, kind, key)
                return
            finally:
                self._hub.handling = None
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


def _in_words(path: str) -> str:
    """A path for a log or a terminal: bytes that are no UTF-8 written out, as `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _check_text(key: str) -> None:
    """A file name is bytes; one that is not UTF-8 cannot be a key. Raises BadRecord."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise BadRecord("its name is not UTF-8, so it is no key") from None
