"""A publisher and a subscriber as processes of their own, told by their stdin what to do.

`python pubsub_actors.py publisher ROOT` and `python pubsub_actors.py subscriber ROOT HISTORY`; a command is one line of
JSON, its answer is one line of JSON on stdout. Between commands both live in their loop, as agents do.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from pillar.pubsub import PubSub


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


def live(pubsub: PubSub, answer: Callable[[list[Any]], object]) -> None:
    """Handle events and commands for ever."""
    poll = select.poll()
    poll.register(pubsub.fileno(), select.POLLIN)
    poll.register(0, select.POLLIN)
    rest = b""
    while True:
        ready = dict(poll.poll(max(pubsub.timeout() * 1000, 0)))
        pubsub.wait(0)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                os.write(1, json.dumps(answer(json.loads(line))).encode() + b"\n")


def publisher(root: str) -> None:
    """Publishes hello/Greeting."""
    pubsub = PubSub(root, "hello")
    publication = pubsub.publication(Greeting)
    publication.signal_restarted()

    def answer(command: list[Any]) -> object:
        match command:
            case ["publish", key, seq]:
                return publication.publish(key, Greeting(seq=seq))
            case ["unpublish", key]:
                return publication.unpublish(key)
            case ["many", count, keys, first]:
                for number in range(count):
                    publication.publish(f"many{number % keys}", Greeting(seq=first + number))
                return True
            case ["restarted"]:
                publication.signal_restarted()
                return publication.restarted
            case ["items"]:
                return {key: item.seq for key, item in publication.items().items()}, publication.restarted
        raise ValueError(command)

    os.write(1, b'"ready"\n')
    live(pubsub, answer)


def subscriber(root: str, history: str) -> None:
    """Follows hello/Greeting twice, plainly and durably; each handler adds a line to the history."""
    log = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    pubsub = PubSub(root, "me")

    def follow(name: str, durable: str) -> Any:
        def say(kind: str) -> Callable[..., None]:
            def handler(*told: Any) -> None:
                values = [item.seq if isinstance(item, Greeting) else item for item in told]
                os.write(log, json.dumps([name, kind, *values]).encode() + b"\n")

            return handler

        return pubsub.subscription(
            "hello",
            Greeting,
            durable=durable,
            create=say("create"),
            modify=say("modify"),
            delete=say("delete"),
            synchronized=say("synchronized"),
            restarted=say("restarted"),
        )

    followed = {"plain": follow("plain", ""), "durable": follow("durable", "greetings")}

    def answer(command: list[Any]) -> object:
        return {
            name: {key: item.seq for key, item in subscription.items().items()}
            for name, subscription in followed.items()
        }

    os.write(1, b'"ready"\n')
    live(pubsub, answer)


if __name__ == "__main__":
    {"publisher": publisher, "subscriber": subscriber}[sys.argv[1]](*sys.argv[2:])
