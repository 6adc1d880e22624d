"""How a table is kept, told and heard: the four small protocols behind every publication and subscription.

    Driver     makes the other three for one table; `file`, `socket` and `memory` are the ones there are
    Store      where a publication keeps what it holds, so that its next life has it: the checkpoint
    Audience   how subscribers hear of a change; the file driver needs none, the files are the news
    Source     where a subscription looks; it says what stands under a key, the Subscription decides what that changes

A publication is the same with every driver: held records, the unchanged check, store first and audience after.
So is a subscription: known values, comparing, handlers. A driver over a network has a Store on disk, an Audience that
sends and a Source that receives; it needs nothing else from either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from pillar.pubsub.names import Table

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub
    from pillar.pubsub.publication import Publication
    from pillar.pubsub.subscription import Subscription
    from pillar.pubsub.wire import Dialect


class Store(Protocol):
    """What a publisher holds, kept across its death. Methods raise OSError when the place refuses."""

    batching: bool  # names are flushed by `flush`, not by each change

    def close(self) -> None:
        """Let the next publisher have the table; what is kept stays."""

    def stands_at_its_path(self) -> bool:
        """Whether this is still what readers find under the table's name."""

    def recorded_keys(self) -> Iterator[str]:
        """The keys of what is kept, in no order."""

    def read(self, key: str) -> bytes | None:
        """A record's bytes, None when there is none. Raises BadRecord."""

    def read_backup(self, key: str) -> bytes | None:
        """The bytes before the last change, None when there are none. Raises BadRecord."""

    def write(self, key: str, data: bytes) -> None:
        """Keep a record, whole or not at all."""

    def remove(self, key: str) -> None:
        """Drop a record; one that is gone already is fine."""

    def flush(self) -> None:
        """End of a batch: have everything as safe as the table promises."""

    def tidy(self) -> None:
        """Take away what a refused change may have left."""

    def quarantine(self, name: str) -> str:
        """Set aside what is no record; returns where it went."""

    def read_restarted(self) -> int:
        """The restart counter, 0 when it was never signalled or is cleared."""

    def write_restarted(self, counter: int) -> None:
        """Set the restart counter."""


class Audience(Protocol):
    """Who is told of changes that the Store has already. Never waits for anybody."""

    def check(self, key: str, data: bytes) -> None:
        """Refuse a record that could not be told, before anything changes. Raises RecordTooLarge."""

    def changed(self, key: str) -> None:
        """Another record than before stands under this key, or none."""

    def restarted(self) -> None:
        """The publication's restart counter changed; everything published before it is to be told first."""

    def check_place(self) -> None:
        """The slow re-list: put right what others did to the place where the audience is found."""

    def close(self) -> None:
        """Tell nobody any more."""


class Source(Protocol):
    """Where a subscription looks. The loop calls these, on its thread; only `work` may run handlers."""

    @property
    def has_work(self) -> bool:
        """Something waits to be looked at."""

    def list_again(self) -> None:
        """Have the whole table compared with what is known: at the start, and for the slow re-list."""

    def prepare(self) -> bool:
        """Do what has to be done before work. True: read the events that wait now, then call `place_mark`."""

    def place_mark(self) -> None:
        """See `prepare`."""

    def check_place(self) -> None:
        """After a mount or unmount anywhere, which gives no event."""

    def work(self, at_most: int) -> None:
        """Look at up to `at_most` keys and tell the subscription."""

    def close(self) -> None:
        """Look no more."""


class Driver(Protocol):
    """One way to keep, tell and hear."""

    def store(self, table: Table, group: int | None) -> Store:
        """Take the table for this process. Raises TableHeld when another process publishes it."""

    def audience(self, publication: Publication[Any], hub: PubSub) -> Audience | None:
        """Whoever follows this publication, None when the store's files are all the news. Raises TableHeld."""

    def source(self, subscription: Subscription[Any], hub: PubSub) -> Source:
        """Where this subscription looks."""


MakeSource = Callable[["Subscription[Any]"], Source]


def find(driver: str | Driver, dialect: Dialect) -> Driver:
    """The driver of this name; a driver that was given is itself. Raises ValueError for a name there is not."""
    # Each is loaded by who uses it: a start must not pay for the others.
    if not isinstance(driver, str):
        return driver
    if driver == "file":
        from pillar.pubsub.filedriver import FileDriver

        return FileDriver()
    if driver == "socket":
        from pillar.pubsub.socketdriver import SocketDriver

        return SocketDriver(dialect)
    if driver == "memory":
        from pillar.pubsub.memorydriver import MemoryDriver

        return MemoryDriver()
    raise ValueError(f"driver {driver!r}: there are file, socket and memory")
