"""What EVE's pubsub is known to get wrong, and here must not: those of the list that have no other test.

docs/pubsub.md has the whole list with the test of each; the last test here holds it to that.
"""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import CHECKOUT
from support import running, until

from pillar.pubsub import PublishFailed, PubSub, Subscription

DRIVERS = ("file", "socket")


class Greeting(msgspec.Struct, frozen=True):
    text: str = ""
    seq: int = 0


@contextlib.contextmanager
def followed(root: Path, driver: str) -> Iterator[tuple[PubSub, PubSub, Subscription[Greeting], list[tuple[Any, ...]]]]:
    """A publishing PubSub, a following one, its subscription to hello/Greeting, and what its handlers are told."""
    told: list[tuple[Any, ...]] = []
    with PubSub(root, "hello", driver=driver) as hello, PubSub(root, "reader", driver=driver) as reader:
        subscription = reader.subscription(
            "hello",
            Greeting,
            create=lambda key, new: told.append(("create", key, new.text)),
            modify=lambda key, new, old: told.append(("modify", key, new.text)),
            delete=lambda key, old: told.append(("delete", key)),
            restarted=lambda counter: told.append(("restarted", counter)),
        )
        yield hello, reader, subscription, told


# Counts, in a process of its own (an audit hook cannot be taken back), what one publish among many keys costs.
ONE_CHANGE = """
import os, sys, msgspec
from pillar.pubsub import PubSub

class Greeting(msgspec.Struct, frozen=True):
    text: str = ""

opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
root, keys = sys.argv[1], int(sys.argv[2])
with PubSub(root, "hello") as hello, PubSub(root) as reader:
    greetings = hello.publication(Greeting)
    for number in range(keys):
        greetings.publish(f"k{number}", Greeting(str(number)))
    heard = []
    subscriptions = [
        reader.subscription("hello", Greeting, modify=lambda key, new, old: heard.append(key)) for _ in range(3)
    ]
    while not all(subscription.is_synchronized for subscription in subscriptions):
        reader.wait()
    opened.clear()
    greetings.publish("k7", Greeting("changed"))
    while len(heard) < 3:
        reader.wait()
    print(len(opened), heard)
"""


def test_a_change_costs_each_side_one_file_whatever_the_tables_size(root: Path) -> None:
    counted = []
    for keys in (10, 3000):
        with running("python", "-c", ONE_CHANGE, root / str(keys), keys, stdout=-1) as process:
            assert process.stdout is not None
            counted.append(process.stdout.read())
    assert counted == ["2 ['k7', 'k7', 'k7']\n"] * 2  # the staged file, and the record, once for three subscriptions


def test_a_change_is_one_packet_to_each_peer_whatever_the_tables_size(root: Path) -> None:
    with PubSub(root, "hello", driver="socket") as hello:
        greetings = hello.publication(Greeting)
        for number in range(300):
            greetings.publish(f"k{number}", Greeting(str(number)))
        peers = []
        for _ in range(3):
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            peer.connect(str(root / "run/hello/Greeting.sock"))
            peer.send(b"request Greeting")
            peer.settimeout(0.01)
            peers.append(peer)
        said: list[list[bytes]] = [[] for _ in peers]

        def listen() -> bool:
            for peer, packets in zip(peers, said, strict=True):
                with contextlib.suppress(TimeoutError):
                    while True:
                        packets.append(peer.recv(65536))
            return all(packets and packets[-1].startswith(b"complete") for packets in said)

        until(listen, hello)
        for packets in said:
            packets.clear()
        greetings.publish("k7", Greeting("changed"))
        greetings.publish("last", Greeting("last"))

        def both() -> bool:
            listen()
            return all(len(packets) >= 2 for packets in said)

        until(both, hello)
        assert all([packet.split()[0] for packet in packets] == [b"update"] * 2 for packets in said)
        for peer in peers:
            peer.close()


@contextlib.contextmanager
def no_file_may_grow() -> Iterator[None]:
    """Every write(2) to a file is refused (EFBIG), as by a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_the_disk_refused_is_neither_held_nor_told(root: Path, driver: str) -> None:
    with followed(root, driver) as (hello, reader, subscription, told):
        greetings = hello.publication(Greeting)
        greetings.publish("k", Greeting("before"))
        until(lambda: subscription.is_synchronized and "k" in subscription, hello, reader)
        with no_file_may_grow(), pytest.raises(PublishFailed, match="the previous record stands"):
            greetings.publish("k", Greeting("refused"))
        assert greetings.get("k") == Greeting("before")
        greetings.publish("last", Greeting("last"))
        until(lambda: "last" in subscription, hello, reader)
        assert told == [("create", "k", "before"), ("create", "last", "last")]


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_life_of_a_publisher_is_told_to_a_subscriber_that_stayed(root: Path, driver: str) -> None:
    told: list[int] = []
    with PubSub(root, "reader", driver=driver) as reader:
        subscription = reader.subscription("hello", Greeting, restarted=told.append)
        for life in (1, 2, 3):
            with PubSub(root, "hello", driver=driver) as hello:
                greetings = hello.publication(Greeting)
                greetings.publish("k", Greeting(str(life)))
                greetings.signal_restarted()
                until(lambda life=life: told[-1:] == [life], hello, reader)
                assert subscription.get("k") == Greeting(str(life))
    assert told == [1, 2, 3]


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_equal_value_is_said_to_be_no_change_and_a_kick_has_its_own_signal(root: Path, driver: str) -> None:
    with followed(root, driver) as (hello, reader, subscription, told):
        greetings = hello.publication(Greeting)
        assert greetings.publish("k", Greeting("hi")) is True
        until(lambda: subscription.is_synchronized and "k" in subscription, hello, reader)
        assert greetings.publish("k", Greeting("hi")) is False, "the caller learns that nobody will be told"
        for kick in (1, 2):
            greetings.signal_restarted()
            until(lambda kick=kick: told[-1] == ("restarted", kick), hello, reader)
        assert told == [("create", "k", "hi"), ("restarted", 1), ("restarted", 2)]


def test_there_and_back_while_nobody_looked_is_no_change_unless_the_record_counts(root: Path) -> None:
    with followed(root, "file") as (hello, reader, subscription, told):
        greetings = hello.publication(Greeting)
        greetings.publish("k", Greeting("on"))
        until(lambda: subscription.is_synchronized and "k" in subscription, hello, reader)
        for text in ("off", "on"):  # as in EVE: what is shared is the state, not how it came about
            greetings.publish("k", Greeting(text))
        greetings.publish("last", Greeting("last"))
        until(lambda: "last" in subscription, hello, reader)
        assert told == [("create", "k", "on"), ("create", "last", "last")]
        greetings.publish("k", Greeting("off", seq=1))  # who needs every transition noticed gives the record a number
        greetings.publish("k", Greeting("on", seq=2))
        until(lambda: subscription.get("k") == Greeting("on", seq=2), hello, reader)
        assert told[-1] == ("modify", "k", "on")


def test_garbage_in_restarted_is_one_at_the_load_and_live(root: Path) -> None:
    table = root / "run/hello/Greeting"
    table.mkdir(parents=True)
    (table / "restarted").write_text("soon")
    with followed(root, "file") as (_, reader, subscription, told):
        until(lambda: subscription.is_synchronized, reader)
        assert told == [("restarted", 1)]
        (table / "restarted").write_text("2")
        until(lambda: told[-1] == ("restarted", 2), reader)
        (table / "restarted").write_text("again")
        until(lambda: told[-1] == ("restarted", 1), reader)
    with PubSub(root, "hello") as hello:
        assert hello.publication(Greeting).restarted == 1


def test_opening_a_subscription_waits_for_nothing_not_even_the_directory(root: Path) -> None:
    with PubSub(root) as pubsub:
        begin = time.monotonic()
        subscriptions = [pubsub.subscription(f"agent{number}", Greeting) for number in range(50)]
        pubsub.wait(0)
        assert time.monotonic() - begin < 10, "EVE would have slept 10 s for each"
        assert not any(subscription.is_synchronized for subscription in subscriptions)
        with PubSub(root, "agent49") as hello:
            hello.publication(Greeting).publish("k", Greeting("hi"))
            until(lambda: subscriptions[49].is_synchronized and "k" in subscriptions[49], pubsub)


def test_a_deleted_file_that_gave_no_event_is_found_by_the_slow_re_list(root: Path) -> None:
    with PubSub(root, relist_seconds=(0.05, 0.05)) as pubsub:
        table = root / "run/hello/Greeting"
        table.mkdir(parents=True)
        (table / "k.json").write_text('{"text":"hi"}')
        deleted: list[str] = []
        subscription = pubsub.subscription("hello", Greeting, delete=lambda key, old: deleted.append(key))
        until(lambda: "k" in subscription, pubsub)
        pubsub.inotify.dispatch = lambda: None  # type: ignore[method-assign]  # the kernel's events are lost
        (table / "k.json").unlink()
        until(lambda: deleted == ["k"], pubsub)


def test_every_test_that_the_docs_name_exists() -> None:
    named = re.findall(r"(?:(test_\w+\.py)|…)?(?:::(\w+))?", (CHECKOUT / "docs/pubsub.md").read_text())
    file, functions = "", 0
    for found, function in named:
        file = found or file  # `…::` stands for the file named before
        if found or function:
            text = (CHECKOUT / "tests" / file).read_text()
            assert not function or f"def {function}(" in text, f"{file}::{function}"
            functions += bool(function)
    assert functions > 30


def test_the_docs_answer_every_weakness_of_the_list() -> None:
    rows = re.findall(r"^\| (\d+) \|.*::test_.*\|$", (CHECKOUT / "docs/pubsub.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 19))
