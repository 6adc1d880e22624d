"""EVE's socket beside the same checkpoint files: `driver="socket"`.

A publisher keeps its table as the file driver does, so a subscriber by file follows it too; a subscriber by socket
follows any publisher that speaks the protocol, EVE's own included. What EVE gives no socket (the global tables,
zedclient's) is shared by files here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillar.pubsub import socketplace
from pillar.pubsub.checkpoint import Checkpoint
from pillar.pubsub.drivers import Audience, Source
from pillar.pubsub.filedriver import FileSource
from pillar.pubsub.names import Table
from pillar.pubsub.wire import Dialect

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub
    from pillar.pubsub.publication import Publication
    from pillar.pubsub.subscription import Subscription


class SocketDriver:
    """Publishers speak this dialect; subscribers learn it from the publisher."""

    def __init__(self, dialect: Dialect = 2026) -> None:
        if dialect not in (2019, 2026):
            raise ValueError(f"dialect {dialect!r}: EVE's are 2019 and 2026")
        self._dialect = dialect

    def store(self, table: Table, group: int | None) -> Checkpoint:
        """The table's directory, locked. Raises TableHeld, and BadName for a topic too long for a socket."""
        if table.agent:
            socketplace.check(table)
        return Checkpoint(table, group)

    def audience(self, publication: Publication[Any], hub: PubSub) -> Audience | None:
        """The table's socket, listening. Raises TableHeld when EVE's own publisher listens there."""
        if not publication.table.agent:
            return None
        from pillar.pubsub.socketpublisher import SocketAudience

        return SocketAudience(publication, hub, self._dialect)

    def source(self, subscription: Subscription[Any], hub: PubSub) -> Source:
        """The table's socket, connected to as soon as it appears. Raises BadName for a topic too long for a socket."""
        if not socketplace.has_socket(subscription.table):
            return FileSource(subscription, hub)
        socketplace.check(subscription.table)
        from pillar.pubsub.socketsubscriber import SocketSource

        return SocketSource(subscription, hub)
