"""`async for` over a subscription: the same changes as the plain loop, while the event loop goes on with other work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import running

from pillar.pubsub import Change, NotOpen, PubSub, Subscription

PATIENCE_S = 60.0


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""


class Farewell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""


PUBLISHER = """
import sys, msgspec
from pillar.pubsub import PubSub

class Greeting(msgspec.Struct, frozen=True):
    text: str = ""

with PubSub(sys.argv[1], "hello") as pubsub:
    greetings = pubsub.publication(Greeting)
    for line in sys.stdin:
        greetings.publish("world", Greeting(text=line.strip()))
"""


@pytest.fixture
def hello(root: Path) -> Iterator[PubSub]:
    with PubSub(root, "hello") as pubsub:
        yield pubsub


async def until(changes: AsyncIterator[Change[Any]], kind: str, key: str = "") -> list[Change[Any]]:
    """What is told up to and with the first change of this kind."""
    told = []
    async with asyncio.timeout(PATIENCE_S):
        async for change in changes:
            told.append(change)
            if (change.kind, change.key) == (kind, key):
                break
    return told


def test_async_for_gets_what_the_plain_loop_gets(root: Path, hello: PubSub) -> None:
    greetings = hello.publication(Greeting)
    greetings.publish("a", Greeting("hi"))

    async def follow() -> list[Change[Greeting]]:
        with PubSub(root) as pubsub:
            changes = aiter(pubsub.subscription("hello", Greeting))
            told = await until(changes, "synchronized")
            greetings.publish("a", Greeting("again"))
            greetings.unpublish("a")
            greetings.publish("b", Greeting("b"))
            greetings.signal_restarted()
            return told + await until(changes, "restarted")

    told = asyncio.run(follow())
    assert told[:2] == [Change("create", "a", new=Greeting("hi")), Change("synchronized")]
    assert told[-3:] == [
        Change("delete", "a", old=told[-3].old),
        Change("create", "b", new=Greeting("b")),
        Change("restarted", counter=1),
    ]


def test_the_event_loop_goes_on_while_a_coroutine_waits_and_a_killed_publisher_comes_back(root: Path) -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def follow() -> None:
        with PubSub(root) as pubsub:
            changes = aiter(pubsub.subscription("hello", Greeting))
            for text in ("one", "two"):
                with running("python", "-c", PUBLISHER, root, stdin=subprocess.PIPE) as publisher:
                    kind = "create" if text == "one" else "modify"
                    waiting, before = asyncio.create_task(until(changes, kind, "world")), turns
                    while turns < before + 100:  # for ever, if what waits kept the event loop to itself
                        await asyncio.sleep(0)
                    assert publisher.stdin is not None
                    publisher.stdin.write(f"{text}\n")
                    publisher.stdin.flush()
                    assert (await waiting)[-1].new == Greeting(text)
                    os.kill(publisher.pid, signal.SIGKILL)

    async def both() -> None:
        working = asyncio.create_task(work())
        await follow()
        working.cancel()

    asyncio.run(both())


def test_several_loops_of_one_pubsub_run_side_by_side(root: Path, hello: PubSub) -> None:
    greetings, farewells = hello.publication(Greeting), hello.publication(Farewell)

    async def follow() -> None:
        with PubSub(root) as pubsub:
            first = asyncio.create_task(until(aiter(pubsub.subscription("hello", Greeting)), "create", "last"))
            second = asyncio.create_task(until(aiter(pubsub.subscription("hello", Farewell)), "create", "last"))
            for number in range(200):
                greetings.publish(f"key{number}", Greeting(str(number)))
                farewells.publish(f"key{number}", Farewell(str(number)))
                if number % 10 == 0:
                    await asyncio.sleep(0)
            greetings.publish("last", Greeting())
            farewells.publish("last", Farewell())
            for told in await asyncio.gather(first, second):
                assert sorted(c.key for c in told if c.kind == "create") == sorted(
                    [*(f"key{n}" for n in range(200)), "last"]
                )

    asyncio.run(follow())


def test_a_cancelled_loop_leaves_nothing_watched_and_the_next_one_goes_on(root: Path, hello: PubSub) -> None:
    greetings = hello.publication(Greeting)

    async def follow() -> None:
        with PubSub(root) as pubsub:
            subscription = pubsub.subscription("hello", Greeting)
            waiting = asyncio.create_task(until(aiter(subscription), "never"))
            while not subscription.is_synchronized:
                await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            assert not asyncio.get_running_loop().remove_reader(pubsub.fileno())
            greetings.publish("a", Greeting("hi"))
            assert await until(aiter(subscription), "create", "a") == [Change("create", "a", new=Greeting("hi"))]

    asyncio.run(follow())


def test_closing_the_pubsub_ends_the_wait_with_an_error(root: Path) -> None:
    async def follow() -> None:
        pubsub = PubSub(root)
        subscription: Subscription[Greeting] = pubsub.subscription("hello", Greeting)
        waiting = asyncio.create_task(until(aiter(subscription), "never"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        pubsub.close()
        with pytest.raises(NotOpen):
            await waiting

    asyncio.run(follow())
