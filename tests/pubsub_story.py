"""A record, and what the handlers of a subscription to hello/Greeting are told of it."""

from __future__ import annotations

from typing import Any

import msgspec

from pillar.pubsub import PubSub, Subscription


class Greeting(msgspec.Struct, frozen=True):
    text: str = ""
    seq: int = 0


class Story:
    """What a subscription's handlers were told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def follow(self, pubsub: PubSub, **options: Any) -> Subscription[Greeting]:
        return pubsub.subscription(
            "hello",
            Greeting,
            create=lambda key, new: self.told.append(("create", key, new.text)),
            modify=lambda key, new, old: self.told.append(("modify", key, new.text, old.text)),
            delete=lambda key, old: self.told.append(("delete", key, old.text)),
            synchronized=lambda: self.told.append(("synchronized",)),
            restarted=lambda counter: self.told.append(("restarted", counter)),
            **options,
        )
