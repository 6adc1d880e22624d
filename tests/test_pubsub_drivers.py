"""The same story by file, by socket and in memory, and all of them on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from pubsub_story import Greeting, Story
from support import until

from pillar.pubsub import PubSub, TableHeld
from pillar.pubsub.memorydriver import forget_all


@pytest.mark.parametrize("driver", ["file", "socket", "memory"])
def test_a_story_is_told_the_same_by_every_driver(root: Path, driver: str) -> None:
    story = Story()
    with PubSub(root, "hello", driver=driver) as publishing, PubSub(root, "reader", driver=driver) as reading:
        subscription = story.follow(reading)
        reading.wait(0)
        assert not subscription.is_synchronized
        publication = publishing.publication(Greeting)
        with pytest.raises(TableHeld):
            publishing.publication(Greeting)
        publication.publish("a", Greeting("one"))
        publication.publish("b", Greeting("one"))
        publication.signal_restarted()
        until(lambda: subscription.restarted, publishing, reading)
        publication.publish("a", Greeting("two"))
        until(lambda: subscription.get("a") == Greeting("two"), publishing, reading)
        assert not publication.publish("a", Greeting("two"))
        publication.unpublish("b")
        until(lambda: "b" not in subscription, publishing, reading)
        publication.close()
        publication = publishing.publication(Greeting)
        assert publication.items() == {"a": Greeting("two")}
        publication.publish("c", Greeting("one"))
        until(lambda: "c" in subscription, publishing, reading)
        with PubSub(root, "late", driver=driver) as late:
            second = late.subscription("hello", Greeting)
            until(lambda: second.is_synchronized, publishing, late)
            assert second.items() == subscription.items() == publication.items()
    assert sorted(story.told[:2]) == [("create", "a", "one"), ("create", "b", "one")]
    assert story.told[2:] == [
        ("synchronized",),
        ("restarted", 1),
        ("modify", "a", "two", "one"),
        ("delete", "b", "one"),
        ("create", "c", "one"),
    ]
    forget_all(root)


@pytest.mark.parametrize("driver", ["file", "socket", "memory"])
def test_a_handler_may_close_its_subscription(root: Path, driver: str) -> None:
    with PubSub(root, "hello", driver=driver) as publishing, PubSub(root, "reader", driver=driver) as reading:
        publication = publishing.publication(Greeting)
        told: list[str] = []

        def once(key: str, new: Greeting) -> None:
            told.append(key)
            subscription.close()

        subscription = reading.subscription("hello", Greeting, create=once)
        for key in "abc":
            publication.publish(key, Greeting())
        until(lambda: told, publishing, reading)
        for _ in range(3):
            publishing.wait(0.01)
            reading.wait(0.01)
        assert len(told) == 1
    forget_all(root)


def test_what_an_earlier_publisher_left_too_large_is_said_and_the_rest_is_told(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with PubSub(root, "hello") as publishing:
        publication = publishing.publication(Greeting)
        publication.publish("large", Greeting("x" * 100_000))
        publication.publish("small", Greeting("x"))
    with PubSub(root, "hello", driver="socket") as publishing, PubSub(root, "reader", driver="socket") as reading:
        publication = publishing.publication(Greeting)
        subscription = reading.subscription("hello", Greeting)
        until(lambda: subscription.is_synchronized, publishing, reading)
        assert subscription.keys() == ["small"]
        assert "large.json: its packet would have" in caplog.text
        publication.publish("large", Greeting("no more"))
        until(lambda: "large" in subscription, publishing, reading)


def test_a_memory_table_is_gone_after_the_reboot(root: Path) -> None:
    with PubSub(root, "hello", driver="memory") as pubsub:
        pubsub.publication(Greeting).publish("a", Greeting("one"))
    assert not (root / "run").exists()
    forget_all(root)
    with PubSub(root, "hello", driver="memory") as pubsub:
        assert pubsub.publication(Greeting).items() == {}


def test_drivers_mix_on_one_machine(root: Path) -> None:
    with (
        PubSub(root, "hello") as publishing,
        PubSub(root, "reader") as reading,
    ):
        publication = publishing.publication(Greeting, driver="socket", dialect=2019)
        by_file = reading.subscription("hello", Greeting)
        by_socket = reading.subscription("hello", Greeting, driver="socket")
        for number in range(50):
            publication.publish(f"k{number % 20}", Greeting(seq=number))
            if number % 3 == 0:
                publication.unpublish(f"k{number % 7}")
        until(lambda: by_file.items() == by_socket.items() == publication.items(), publishing, reading)


def test_what_eve_gives_no_socket_is_shared_by_files(root: Path) -> None:
    with PubSub(root, "zedclient", driver="socket") as pubsub:
        pubsub.publication(Greeting, agent="").publish("global", Greeting("one"))
        pubsub.publication(Greeting).publish("k", Greeting("two"))
    assert not list(root.rglob("global/*.sock"))
    with PubSub(root, "reader", driver="socket") as reading:
        shared = reading.subscription("", Greeting)
        zedclients = reading.subscription("zedclient", Greeting)
        until(lambda: shared.is_synchronized and zedclients.is_synchronized, reading)
        assert (shared.items(), zedclients.items()) == ({"global": Greeting("one")}, {"k": Greeting("two")})
