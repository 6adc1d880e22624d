"""A subscriber's promises: it ends up with exactly what is in the directory, and its handlers run in a legal order."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import running, wait_for

from pillar.pubsub import Change, InsideHandler, PubSub, Subscription


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


class Heard:
    """A subscriber to hello/Greeting that writes down what its handlers were told."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.pubsub = PubSub(root, **options)
        self.subscription: Subscription[Greeting] = self.pubsub.subscription(
            "hello",
            Greeting,
            create=lambda key, new: self.log.append(("create", key, new)),
            modify=lambda key, new, old: self.log.append(("modify", key, new, old)),
            delete=lambda key, old: self.log.append(("delete", key, old)),
            synchronized=lambda: self.log.append(("synchronized",)),
            restarted=lambda counter: self.log.append(("restarted", counter)),
        )

    def hears(self) -> list[tuple[Any, ...]]:
        """What is told when everything that happened until now is handled; forgets it."""
        self.pubsub.wait(0)
        told, self.log[:] = list(self.log), []
        return told


@pytest.fixture
def heard(root: Path) -> Iterator[Heard]:
    subscriber = Heard(root)
    yield subscriber
    subscriber.pubsub.close()


@pytest.fixture
def hello(root: Path) -> Iterator[PubSub]:
    with PubSub(root, "hello") as pubsub:
        yield pubsub


def table(root: Path) -> Path:
    return root / "run/hello/Greeting"


def test_a_life_is_create_then_modifies_that_differ_then_delete(hello: PubSub, heard: Heard) -> None:
    publication = hello.publication(Greeting)
    publication.publish("k", Greeting(text="a"))
    assert heard.hears() == [("create", "k", Greeting(text="a")), ("synchronized",)]
    publication.publish("k", Greeting(text="b"))
    assert heard.hears() == [("modify", "k", Greeting(text="b"), Greeting(text="a"))]
    publication.unpublish("k")
    assert heard.hears() == [("delete", "k", Greeting(text="b"))]
    assert heard.hears() == []


def test_the_first_load_comes_whole_before_synchronized_and_that_before_restarted(hello: PubSub, heard: Heard) -> None:
    publication = hello.publication(Greeting)
    for key in "cab":
        publication.publish(key, Greeting(text=key))
    publication.signal_restarted()
    told = heard.hears()
    assert {(event[0], event[1]) for event in told[:3]} == {("create", key) for key in "abc"}
    assert told[3:] == [("synchronized",), ("restarted", 1)]


def test_nothing_is_synchronized_before_the_table_exists(hello: PubSub, heard: Heard) -> None:
    assert heard.hears() == []
    assert not heard.subscription.is_synchronized
    hello.publication(Greeting)
    assert heard.hears() == [("synchronized",)]


def test_restarted_comes_after_all_that_was_published_before_it(hello: PubSub, heard: Heard) -> None:
    publication = hello.publication(Greeting)
    heard.hears()
    for turn in range(1, 4):
        for key in range(300):
            publication.publish(f"k{key}", Greeting(seq=turn))
        publication.signal_restarted()
        told = heard.hears()
        assert told[-1] == ("restarted", turn)
        assert len(told) == 301
    publication.clear_restarted()
    assert heard.hears() == []
    publication.signal_restarted()
    assert heard.hears() == [("restarted", 1)]


def test_an_unchanged_table_listed_again_calls_nobody(hello: PubSub, heard: Heard) -> None:
    hello.publication(Greeting).publish("k", Greeting())
    heard.hears()
    heard.subscription.list_again()
    assert heard.hears() == []


def test_white_space_and_order_are_no_change(root: Path, heard: Heard) -> None:
    table(root).mkdir(parents=True)
    (table(root) / "k.json").write_text('{"text":"a","seq":1}')
    heard.hears()
    (table(root) / "k.json").write_text('{ "seq": 1, "text": "a", "Later": true }')
    assert heard.hears() == []


@pytest.mark.parametrize("how", ["echo", "editor", "cp", "mv", "two halves", "hard link"])
def test_a_hand_written_file_is_an_input_like_any_other(root: Path, heard: Heard, how: str, tmp_path: Path) -> None:
    table(root).mkdir(parents=True)
    heard.hears()
    path, text = table(root) / "k.json", '{"text":"by hand"}'
    outside = root / "outside"
    outside.write_text(text)
    if how == "echo":
        subprocess.run(["sh", "-c", f"echo '{text}' > {path}"], check=True)
    elif how == "editor":
        swap = table(root) / ".k.json.swp"
        swap.write_text(text)
        swap.rename(path)
    elif how == "cp":
        subprocess.run(["cp", outside, path], check=True)
    elif how == "mv":
        outside.rename(path)
    elif how == "hard link":
        os.link(outside, path)
    else:
        with path.open("w") as half:
            half.write(text[:8])
            half.flush()
            assert heard.hears() == []
            assert heard.subscription.rejected_count == 0
            half.write(text[8:])
    assert heard.hears() == [("create", "k", Greeting(text="by hand"))]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"text":"a', "truncated"),
        ("", "truncated"),
        ('{"text":7}', r"\$\.text"),
        ('[{"text":"a"}]', "object"),
        ("\ufeff{}", "malformed"),
        ('{"text":"a"} trailing', "trailing"),
    ],
)
def test_a_bad_record_is_reported_once_and_the_last_good_value_stays(
    hello: PubSub, heard: Heard, root: Path, content: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    hello.publication(Greeting).publish("k", Greeting(text="good"))
    heard.hears()
    hello.close()
    caplog.clear()
    (table(root) / "k.json").write_text(content)
    assert heard.hears() == []
    heard.subscription.list_again()
    assert heard.hears() == []
    assert heard.subscription.get("k") == Greeting(text="good")
    assert [(record.levelno, str(table(root) / "k.json") in record.message) for record in caplog.records] == [
        (logging.WARNING, True)
    ]
    assert heard.subscription.rejected_count == 1
    (table(root) / "k.json").write_text('{"text":"mended"}')
    assert heard.hears() == [("modify", "k", Greeting(text="mended"), Greeting(text="good"))]
    assert heard.subscription.rejected == {}


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "dangling link"])
def test_what_is_no_regular_file_is_a_bad_record(root: Path, heard: Heard, kind: str) -> None:
    table(root).mkdir(parents=True)
    heard.hears()
    path = table(root) / "k.json"
    (root / "elsewhere").write_text('{"text":"secret"}')
    if kind == "symlink":
        path.symlink_to(root / "elsewhere")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert heard.hears() == []
    # A name that only appeared may still be written to: it is judged by the next listing at the latest.
    heard.subscription.list_again()
    assert heard.hears() == []
    assert "not a regular file" in heard.subscription.rejected["k.json"].reason


@pytest.mark.parametrize("content", [b'{"text":"\xff"}', b"[" * 100_000, b'{"text":"' + b"x" * 2000])
def test_no_content_of_a_file_makes_the_subscriber_fail(root: Path, heard: Heard, content: bytes) -> None:
    table(root).mkdir(parents=True)
    (table(root) / "bad.json").write_bytes(content)
    (table(root) / "good.json").write_text("{}")
    assert ("create", "good", Greeting()) in heard.hears()
    assert list(heard.subscription.rejected) == ["bad.json"]


def test_a_name_that_is_not_utf8_is_reported_and_skipped(root: Path, heard: Heard) -> None:
    table(root).mkdir(parents=True)
    (table(root) / os.fsdecode(b"\xff.json")).write_text("{}")
    assert heard.hears() == [("synchronized",)]
    (rejected,) = heard.subscription.rejected.values()
    assert rejected.path.endswith(r"\xff.json") and "UTF-8" in rejected.reason


def test_a_handler_that_raises_is_logged_and_the_other_keys_go_on(
    root: Path, hello: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def create(key: str, new: Greeting) -> None:
        seen.append(key)
        if key == "b":
            raise ValueError("no b")

    publication = hello.publication(Greeting)
    for key in "abc":
        publication.publish(key, Greeting())
    with PubSub(root) as pubsub:
        pubsub.subscription("hello", Greeting, create=create)
        pubsub.wait(0)
    assert sorted(seen) == ["a", "b", "c"]
    assert "hello/Greeting: the create handler of key 'b' failed" in caplog.text


def test_deletes_while_the_directory_was_away_are_told_when_it_comes_back(
    hello: PubSub, heard: Heard, root: Path
) -> None:
    publication = hello.publication(Greeting)
    for key in "ab":
        publication.publish(key, Greeting(text=key))
    heard.hears()
    publication.close()
    away = root / "away"
    (root / "run/hello").rename(away)
    (away / "Greeting/a.json").unlink()
    away.rename(root / "run/hello")
    assert heard.hears() == [("delete", "a", Greeting(text="a"))]


@pytest.mark.parametrize("component", ["run/hello/Greeting", "run/hello", "run"])
def test_a_removed_and_recreated_directory_is_followed(heard: Heard, root: Path, component: str) -> None:
    table(root).mkdir(parents=True)
    (table(root) / "old.json").write_text('{"text":"old"}')
    heard.hears()
    shutil.rmtree(root / component)
    assert heard.hears() == [("delete", "old", Greeting(text="old"))]
    table(root).mkdir(parents=True)
    (table(root) / "new.json").write_text('{"text":"new"}')
    assert heard.hears() == [("create", "new", Greeting(text="new"))]
    (table(root) / "new.json").write_text('{"text":"newer"}')
    assert heard.hears() == [("modify", "new", Greeting(text="newer"), Greeting(text="new"))]


def test_a_linked_topic_directory_is_followed_also_when_the_link_changes(heard: Heard, root: Path) -> None:
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "k.json").write_text(f'{{"text":"{name}"}}')
    table(root).parent.mkdir(parents=True)
    table(root).symlink_to(root / "one")
    assert heard.hears() == [("create", "k", Greeting(text="one")), ("synchronized",)]
    (root / "link").symlink_to(root / "two")
    (root / "link").rename(table(root))
    assert heard.hears() == [("modify", "k", Greeting(text="two"), Greeting(text="one"))]


def test_a_mount_over_the_table_and_its_unmount_are_noticed_without_an_event(heard: Heard, root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    table(root).mkdir(parents=True)
    (table(root) / "below.json").write_text("{}")
    heard.hears()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", table(root)], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        wait_for(lambda: ("delete", "below", Greeting()) in heard.hears(), "the hidden record's delete")
        (table(root) / "above.json").write_text("{}")
        assert heard.hears() == [("create", "above", Greeting())]
    finally:
        subprocess.run(["umount", table(root)], check=True)
    wait_for(lambda: ("create", "below", Greeting()) in heard.hears(), "the record below the mount")


PUBLISH_MANY = """
import msgspec, sys
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
publication = PubSub(sys.argv[1], "hello").publication(Greeting)
for seq in range(1, int(sys.argv[2]) + 1):
    publication.publish(f"k{seq % 7000}", Greeting(seq=seq))
for key in range(0, 7000, 2):
    publication.unpublish(f"k{key}")
"""


def test_an_overflowed_queue_loses_nothing(heard: Heard, root: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    table(root).mkdir(parents=True)
    heard.hears()
    with running("python", "-c", PUBLISH_MANY, root, max(20_000, limit + 5_000)) as publisher:
        publisher.wait(timeout=100)
    heard.hears()
    on_disk = {path.stem: path.read_bytes() for path in table(root).glob("*.json")}
    assert len(on_disk) == 3500
    assert {key: msgspec.json.encode(value) for key, value in heard.subscription.items().items()} == on_disk


def test_the_slow_relist_finds_what_gave_no_event(root: Path) -> None:
    table(root).mkdir(parents=True)
    linked = root / "linked.json"
    linked.write_text('{"text":"a"}')
    os.link(linked, table(root) / "k.json")
    heard = Heard(root, relist_seconds=(0.05, 0.05))
    assert heard.hears() == [("create", "k", Greeting(text="a")), ("synchronized",)]
    linked.write_text('{"text":"through the other name"}')
    wait_for(lambda: heard.hears(), "the re-list to see the change")
    assert heard.subscription.get("k") == Greeting(text="through the other name")
    heard.pubsub.close()


def test_a_handed_out_record_cannot_change_the_table(root: Path) -> None:
    class Bag(msgspec.Struct):
        things: list[str] = []
        table: dict[str, str] = {}

    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Bag)
        mine = Bag(things=["a"], table={"k": "v"})
        publication.publish("bag", mine)
        mine.things.append("changed after publish")
        assert publication.publish("bag", mine)
        got = publication.get("bag")
        assert got is not None
        got.things.append("changed by a reader")
        again = publication.get("bag")
        assert again is not None and again.things == ["a", "changed after publish"]


def test_a_for_loop_gets_every_change_with_its_values(hello: PubSub, root: Path) -> None:
    publication = hello.publication(Greeting)
    publication.publish("k", Greeting(text="a"))
    with PubSub(root) as pubsub:
        subscription = pubsub.subscription("hello", Greeting)
        changes = iter(subscription)
        assert next(changes) == Change("create", "k", new=Greeting(text="a"))
        assert next(changes) == Change("synchronized")
        publication.publish("k", Greeting(text="b"))
        assert next(changes) == Change("modify", "k", new=Greeting(text="b"), old=Greeting(text="a"))
        publication.unpublish("k")
        assert next(changes) == Change("delete", "k", old=Greeting(text="b"))
        publication.signal_restarted()
        assert next(changes) == Change("restarted", counter=1)


def test_a_file_read_once_for_several_subscriptions_is_never_too_old_for_any(hello: PubSub, root: Path) -> None:
    publication = hello.publication(Greeting)
    told: list[tuple[Any, ...]] = []
    with PubSub(root) as pubsub:

        def first(key: str, new: Greeting, old: Greeting | None = None) -> None:
            told.append(("first", new.seq))
            if new.seq % 3 == 1:  # between the first one's look and the second one's
                publication.publish(key, Greeting(seq=new.seq + 1))
                publication.signal_restarted()

        def second(key: str, new: Greeting, old: Greeting | None = None) -> None:
            told.append(("second", new.seq))

        subscriptions = [
            pubsub.subscription("hello", Greeting, create=first, modify=first),
            pubsub.subscription(
                "hello", Greeting, create=second, modify=second, restarted=lambda counter: told.append(("restarted",))
            ),
        ]
        for seq in (1, 4, 7):
            publication.publish("k", Greeting(seq=seq))
            wait_for(
                lambda seq=seq: pubsub.wait(0) or [s.get("k") for s in subscriptions] == [Greeting(seq=seq + 1)] * 2,
                "both to see the last value",
            )
            wait_for(lambda: pubsub.wait(0) or told[-1] == ("restarted",), "restarted to be told")
            seconds = [entry for entry in told if entry[0] != "first"]
            assert seconds[-2:] == [("second", seq + 1), ("restarted",)], "after all that was published before it"


def test_a_table_can_be_followed_without_its_type(hello: PubSub, root: Path) -> None:
    hello.publication(Greeting).publish("k", Greeting(text="a"))
    with PubSub(root) as pubsub:
        subscription = pubsub.subscription("hello", None, topic="Greeting")
        pubsub.wait(0)
        assert subscription.items() == {"k": {"text": "a", "seq": 0}}


def test_a_followed_folder_is_looked_at_once_per_change_and_when_it_comes_and_goes(root: Path) -> None:
    looks: list[list[str]] = []
    config = root / "config"
    with PubSub(root) as pubsub:
        pubsub.folder(config, lambda: looks.append(sorted(p.name for p in config.glob("d*"))), {"device.json"})
        pubsub.wait(0)
        config.mkdir()
        pubsub.wait(0)
        (config / "device.json").write_text("{}")
        pubsub.wait(0)
        (config / "of no interest").write_text("{}")
        pubsub.wait(0)
        shutil.rmtree(config)
        pubsub.wait(0)
        pubsub.wait(0)
    assert looks == [[], [], ["device.json"], []]


def test_a_folder_may_be_looked_at_at_each_write_to_a_file_that_stays_open(root: Path) -> None:
    looks: list[str] = []
    (root / "run").mkdir()
    leases = root / "run" / "leases"
    with PubSub(root) as pubsub, leases.open("w") as file:
        pubsub.folder(root / "run", lambda: looks.append("closed"))
        pubsub.folder(root / "run", lambda: looks.append(leases.read_text()), each_write=True)
        pubsub.wait(0)
        looks.clear()
        file.write("one")
        file.flush()
        pubsub.wait(0)
        assert looks == ["one"]


def test_a_handler_may_close_its_own_subscription(hello: PubSub, root: Path) -> None:
    publication = hello.publication(Greeting)
    for key in "abcde":
        publication.publish(key, Greeting(text=key))
    told: list[str] = []

    def create(key: str, new: Greeting) -> None:
        told.append(key)
        subscription.close()

    with PubSub(root) as pubsub:
        subscription = pubsub.subscription("hello", Greeting, create=create)
        pubsub.wait(0)
        pubsub.wait(0)
    assert told == ["a"]


@pytest.mark.parametrize("waiting", ["wait", "process", "list", "set"])
def test_a_handler_that_waits_for_changes_is_told_so_and_the_other_keys_go_on(
    waiting: str, hello: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    calls: dict[str, Any] = {"wait": hello.wait, "process": hello.process}
    created: list[str] = []

    def create(key: str, _new: Greeting) -> None:
        created.append(key)
        if key == "a":
            calls.get(waiting, lambda: {"list": list, "set": set}[waiting](subscription))()

    subscription = hello.subscription("hello", Greeting, create=create)
    publication = hello.publication(Greeting)
    publication.publish("a", Greeting())
    publication.publish("b", Greeting())
    hello.wait(0)
    assert sorted(created) == ["a", "b"]
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [InsideHandler]
    publication.publish("c", Greeting())
    hello.wait(0)
    assert sorted(created) == ["a", "b", "c"]
