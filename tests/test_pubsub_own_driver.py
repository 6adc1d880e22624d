"""A driver of one's own, over TCP: what the library has to offer for tables across machines is enough for it.

A line is `[key, record]`, `[key, null]` when the key is gone, or `[counter]`: all that was told before belongs to it,
the first one ends the first copy. Slow readers, broken lines and the search for the other end are left out; what
is shown is that a network needs no other Driver, Publication or Subscription.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
from pathlib import Path
from typing import Any

import msgspec
from support import until

from pillar.pubsub import Publication, PubSub, Subscription
from pillar.pubsub.checkpoint import Checkpoint
from pillar.pubsub.drivers import Audience, Driver, Source, Store
from pillar.pubsub.names import Table

RETRY_S = 0.01


class TcpDriver:
    """`address` is where the one table of this test is told."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def store(self, table: Table, group: int | None) -> Store:
        return Checkpoint(table, group)

    def audience(self, publication: Publication[Any], hub: PubSub) -> Audience:
        return TcpAudience(publication, hub, self._address)

    def source(self, subscription: Subscription[Any], hub: PubSub) -> Source:
        return TcpSource(subscription, hub, self._address)


class TcpAudience:
    def __init__(self, publication: Publication[Any], hub: PubSub, address: tuple[str, int]) -> None:
        self._publication = publication
        self._hub = hub
        self._peers: list[socket.socket] = []
        self._listener = socket.create_server(address)
        hub.watch_fd(self._listener.fileno(), select.EPOLLIN, self._accept)

    def check(self, key: str, data: bytes) -> None:
        pass

    def changed(self, key: str) -> None:
        for peer in self._peers:
            self._tell(peer, key)

    def restarted(self) -> None:
        for peer in self._peers:
            self._say(peer, [self._publication.restarted])

    def check_place(self) -> None:
        pass

    def close(self) -> None:
        self._hub.unwatch_fd(self._listener.fileno())
        for each in (self._listener, *self._peers):
            each.close()

    def _accept(self, events: int) -> None:
        peer, _ = self._listener.accept()
        for key in self._publication:
            self._tell(peer, key)
        self._say(peer, [self._publication.restarted])
        self._peers.append(peer)

    def _tell(self, peer: socket.socket, key: str) -> None:
        held = self._publication.as_held(key)
        self._say(peer, [key, held and held.decode()])

    def _say(self, peer: socket.socket, line: list[Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(json.dumps(line).encode() + b"\n")


class TcpSource:
    def __init__(self, core: Subscription[Any], hub: PubSub, address: tuple[str, int]) -> None:
        self._core = core
        self._hub = hub
        self._address = address
        self._socket: socket.socket | None = None
        self._rest = b""
        self._missing: set[str] | None = None  # known before, and not told in the first copy yet
        self._try_now = True
        self._readable = False

    @property
    def has_work(self) -> bool:
        return self._try_now or self._readable

    def list_again(self) -> None:
        self._try_now = self._socket is None

    def prepare(self) -> bool:
        if self._try_now:
            self._try_now = False
            try:
                self._socket = socket.create_connection(self._address)
            except ConnectionRefusedError:
                self._hub.call_within(RETRY_S, self.list_again)
            else:
                self._missing = set(self._core.known)
                self._hub.watch_fd(self._socket.fileno(), select.EPOLLIN, self._ready)
        return False

    def place_mark(self) -> None:
        pass

    def check_place(self) -> None:
        pass

    def work(self, at_most: int) -> None:
        if self._socket is None or not self._readable:
            return
        self._readable = False
        data = self._socket.recv(65536)
        if not data:
            self.close()
            self._try_now = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def close(self) -> None:
        if self._socket is not None:
            self._hub.unwatch_fd(self._socket.fileno())
            self._socket.close()
            self._socket, self._rest = None, b""

    def _ready(self, events: int) -> None:
        self._readable = True

    def _take(self, line: list[Any]) -> None:
        if len(line) == 1:
            for key in self._missing or ():
                self._core.gone(key)
            self._missing = None
            self._core.reach(line[0], complete=True)
            return
        key, text = line
        if self._missing:
            self._missing.discard(key)
        if text is None:
            self._core.gone(key)
        else:
            self._core.seen(key, text.encode())


class Greeting(msgspec.Struct, frozen=True):
    text: str = ""


def test_a_driver_over_a_network_keeps_the_promises_without_another_shape(root: Path) -> None:
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ours.bind(("127.0.0.1", 0))  # kept, never listening: nobody else gets the port before and between the lives
    driver: Driver = TcpDriver(ours.getsockname())
    told: list[tuple[Any, ...]] = []
    with ours, PubSub(root / "there", driver=driver) as reading:  # another root: no file is shared
        subscription = reading.subscription(
            "hello",
            Greeting,
            create=lambda key, new: told.append(("create", key, new.text)),
            modify=lambda key, new, old: told.append(("modify", key, new.text, old.text)),
            delete=lambda key, old: told.append(("delete", key, old.text)),
            synchronized=lambda: told.append(("synchronized",)),
            restarted=lambda counter: told.append(("restarted", counter)),
        )
        reading.wait(0)  # nobody is there yet
        with PubSub(root / "here", "hello", driver=driver) as publishing:
            publication = publishing.publication(Greeting)
            publication.publish("a", Greeting("one"))
            publication.publish("b", Greeting("one"))
            until(lambda: subscription.is_synchronized, publishing, reading)
            publication.publish("a", Greeting("two"))
            assert not publication.publish("a", Greeting("two"))
            publication.signal_restarted()
            until(lambda: subscription.restarted, publishing, reading)
        with PubSub(root / "here", "hello", driver=driver) as publishing:  # its next life
            publication = publishing.publication(Greeting)
            assert publication.items() == {"a": Greeting("two"), "b": Greeting("one")}
            publication.unpublish("b")
            publication.publish("c", Greeting("one"))
            publication.signal_restarted()
            until(lambda: subscription.restarted == 2, publishing, reading)
            assert subscription.items() == publication.items()
    assert sorted(told[:2]) == [("create", "a", "one"), ("create", "b", "one")]
    assert told[2:5] == [("synchronized",), ("modify", "a", "two", "one"), ("restarted", 1)]
    assert sorted(told[5:7]) == [("create", "c", "one"), ("delete", "b", "one")]
    assert told[7:] == [("restarted", 2)]
