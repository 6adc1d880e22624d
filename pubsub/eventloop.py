"""Waiting for a PubSub inside an asyncio event loop: what `async for` over a subscription stands on.

The loop watches the PubSub's descriptor, and only while somebody waits. Whoever waits first sets that up; when
something happens it is handled once, in the loop's thread, and everybody who waits goes on. Between two waits nothing
is watched: events stay in the kernel, so a slow coroutine is not overrun.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillar.pubsub.errors import NotOpen

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub


class LoopWait:
    """The coroutines that wait for one PubSub. All of them in one event loop, the one of its thread."""

    def __init__(self, hub: PubSub) -> None:
        self._hub = hub
        self._waiting: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = hub.fileno()

    async def wait(self) -> None:
        """Return when something may have happened, and is handled. Raises what handling it raised, as TableHeld."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.add(future)
        if self._timer is None:
            self._watch(loop)
        try:
            await future
        finally:
            self._waiting.discard(future)
            if not self._waiting:
                self._unwatch(loop)

    def close(self) -> None:
        """The PubSub is about to be closed: everybody who waits gets NotOpen."""
        for future in self._waiting:
            self._unwatch(future.get_loop())
            _end(future, NotOpen("this PubSub was closed"))

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._fd, self._ready, loop)
        self._timer = loop.call_later(self._hub.timeout(), self._ready, loop)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            loop.remove_reader(self._fd)
            self._timer.cancel()
            self._timer = None

    def _ready(self, loop: asyncio.AbstractEventLoop) -> None:
        self._unwatch(loop)
        failure: Exception | None = None
        try:
            self._hub.process()
        except Exception as err:  # noqa: BLE001  # it belongs to those who wait, not to the event loop
            failure = err
        for future in self._waiting:
            _end(future, failure)


def _end(future: asyncio.Future[None], failure: Exception | None) -> None:
    if future.done():  # cancelled a moment ago
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
