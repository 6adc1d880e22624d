"""Two tiny agents that use all of pillar.pubsub that writes, and the process that forks them.

source    publishes Order (ordinary) and Setting (persistent), one step after another, the next one when worker has
          answered the last: records, a batch, changed records, records withdrawn. Its tables say how far it is.
worker    follows both durably, notes in /persist/effects what it was told of, and publishes what holds as Receipt.
          Both count their starts (`restarted`).

    python -m pillar.crashtest.coreagents       reads `<agent> <root>` a line: forks that agent and prints its pid
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from pillar.pubsub import Publication, PubSub, Subscription

EFFECTS: Final = "persist/effects"


class Order(msgspec.Struct, frozen=True):
    """Written by source."""

    number: int = 0


class Setting(msgspec.Struct, frozen=True):
    """Written by source, persistent."""

    number: int = 0


class Receipt(msgspec.Struct, frozen=True):
    """Written by worker, keyed `<topic>-<key>`: what it was told of last."""

    number: int = 0


def source(root: Path) -> None:
    """Take one step after another; each may be taken again after a kill."""
    with PubSub(root, "source") as pubsub:
        orders, settings = pubsub.publication(Order), pubsub.publication(Setting, persistent=True)

        def look(*_: object) -> None:
            while receipts.is_synchronized and _answered(orders, settings, receipts.items()):
                if not _step(orders, settings):
                    return

        receipts = pubsub.subscription("worker", Receipt, create=look, modify=look, delete=look, synchronized=look)
        orders.signal_restarted()
        pubsub.run()


def _step(orders: Publication[Order], settings: Publication[Setting]) -> bool:
    """What comes after what the tables hold; False when that is all."""
    a, x, y = orders.get("a"), settings.get("x"), settings.get("y")
    match x.number if x is not None else 0:
        case 0 if a is None:
            orders.publish("a", Order(1))
        case 1 if y is not None and a == Order(1):
            orders.publish("a", Order(2))
        case 1 if y is not None:
            settings.publish("x", Setting(2))
        case 0 | 1:
            with settings.batch():
                settings.publish("x", Setting(1))
                settings.publish("y", Setting(1))
        case _ if y is not None:
            settings.unpublish("y")
        case _ if a is not None:
            orders.unpublish("a")
        case _:
            return False
    return True


def _answered(orders: Publication[Order], settings: Publication[Setting], receipts: dict[str, Receipt]) -> bool:
    wanted = {f"Order-{key}": order.number for key, order in orders.items().items()}
    wanted |= {f"Setting-{key}": setting.number for key, setting in settings.items().items()}
    return wanted == {key: receipt.number for key, receipt in receipts.items()}


def worker(root: Path) -> None:
    """Answer what source publishes."""
    (root / EFFECTS).parent.mkdir(parents=True, exist_ok=True)
    with PubSub(root, "worker") as pubsub, (root / EFFECTS).open("ab", buffering=0) as effects:
        receipts = pubsub.publication(Receipt)
        for record_type in (Order, Setting):
            answer = _Answer(effects, receipts, record_type.__name__)
            answer.followed = follow(pubsub, record_type, answer)
        receipts.signal_restarted()
        pubsub.run()


class Handlers(Protocol):
    """What a subscription of worker calls."""

    def there(self, key: str, new: Any, *old: Any) -> None: ...
    def gone(self, key: str, last: Any = None) -> None: ...
    def synchronized(self) -> None: ...


class _Answer:
    """The handlers of one table."""

    followed: Subscription[Any]

    def __init__(self, effects: FileIO, receipts: Publication[Receipt], topic: str) -> None:
        self._effects = effects
        self._receipts = receipts
        self._topic = topic

    def there(self, key: str, new: Any, *_: Any) -> None:
        self._note(f"{key} {new.number}")
        self._receipts.publish(f"{self._topic}-{key}", Receipt(new.number))

    def gone(self, key: str, last: Any = None) -> None:
        self._note(f"{key} gone")
        self._receipts.unpublish(f"{self._topic}-{key}")

    def synchronized(self) -> None:
        """A key that went while the kill of its very first handler was not yet recovered from is told by nobody."""
        for name in list(self._receipts):
            topic, _, key = name.partition("-")
            if topic == self._topic and key not in self.followed:
                self.gone(key)

    def _note(self, text: str) -> None:
        self._effects.write(f"{self._topic} {text}\n".encode())


class Told:
    """Handlers that only note what a durable subscription tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def there(self, key: str, new: Any, *_: Any) -> None:
        self.lines.append(f"{key} {new}")

    def gone(self, key: str, last: Any = None) -> None:
        self.lines.append(f"{key} gone")

    def synchronized(self) -> None:
        pass


def follow(pubsub: PubSub, record_type: type[Any], handlers: Handlers) -> Subscription[Any]:
    """Follow one of source's tables durably, under worker's name."""
    return pubsub.subscription(
        "source",
        record_type,
        persistent=record_type is Setting,
        durable=record_type.__name__.lower(),
        create=handlers.there,
        modify=handlers.there,
        delete=handlers.gone,
        synchronized=handlers.synchronized,
    )


AGENTS: Final[dict[str, Callable[[Path], None]]] = {"source": source, "worker": worker}


def _fork_for_ever() -> None:
    """A fork costs a hundredth of a start: everything is imported already."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them; whoever asked has their pids
    become = ctypes.CDLL(None).crashpoints_become
    for line in sys.stdin:
        name, _, root = line.rstrip("\n").partition(" ")
        pid = os.fork()
        if pid == 0:
            become(name.encode())
            try:
                AGENTS[name](Path(root))
            finally:
                os._exit(1)  # an agent that ends has failed; nothing of the parent's is flushed twice
        print(pid, flush=True)


if __name__ == "__main__":
    _fork_for_ever()
