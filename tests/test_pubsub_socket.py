"""Sharing tables through EVE's socket: the same promises as by files, with real processes and kills."""

from __future__ import annotations

import gc
import json
import os
import random
import select
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from golden_wire import LargeItem, drain, key_and_value
from pubsub_story import Greeting, Story
from support import running, until

from pillar.pubsub import PubSub, RecordTooLarge, TableHeld
from pillar.pubsub.memorydriver import forget_all

TYPES = """
import sys, msgspec
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True):
    text: str = ""
    seq: int = 0
"""

PUBLISHER = (
    TYPES
    + """
with PubSub(sys.argv[1], "hello", driver="socket") as pubsub:
    publication = pubsub.publication(Greeting)
    for key in publication.keys():
        if key not in sys.argv[2:]:
            publication.unpublish(key)
    for key in sys.argv[2:]:
        publication.publish(key, Greeting(text=key))
    publication.signal_restarted()
    print("ready", flush=True)
    pubsub.run()
"""
)

RESTLESS_PUBLISHER = (
    TYPES
    + """
with PubSub(sys.argv[1], "hello", driver="socket", dialect=int(sys.argv[2])) as pubsub:
    publication = pubsub.publication(Greeting)
    seq = int(sys.argv[3])
    while True:
        seq += 1
        publication.publish(f"k{seq * 7 % 50}", Greeting("x" * (seq % 3000), seq))
        publication.unpublish(f"k{seq * 11 % 50}")
        pubsub.process(0)
        if seq % 100 == 0:
            print(seq, flush=True)
"""
)

SUBSCRIBER = (
    TYPES
    + """
with PubSub(sys.argv[1], "reader", driver="socket") as pubsub:
    subscription = pubsub.subscription("hello", Greeting)
    while not subscription.is_synchronized:
        pubsub.wait()
    print("synchronized", flush=True)
    wanted = {f"k{number}": Greeting(seq=3) for number in range(1, 2000, 2)}
    while len(subscription) != len(wanted) or subscription.items() != wanted:
        pubsub.wait()
    print("caught up", flush=True)
    pubsub.run()
"""
)


def socket_of(root: Path, topic: str = "Greeting") -> Path:
    return root / "run" / "hello" / f"{topic}.sock"


def client_of(pubsub: PubSub, root: Path, topic: str = "Greeting") -> socket.socket:
    """A raw subscriber that has asked and was heard."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(str(socket_of(root, topic)))
    client.setblocking(False)
    client.send(f"request {topic}".encode())
    pubsub.wait(0)
    pubsub.wait(0)
    return client


# Processes that come, go and are killed.


def test_a_subscriber_connects_as_soon_as_the_socket_appears(root: Path) -> None:
    with PubSub(root, "reader", driver="socket") as reading:
        subscription = reading.subscription("hello", Greeting)
        reading.wait(0)
        with running("python", "-c", PUBLISHER, root, "a", stdout=-1) as publisher:
            assert publisher.stdout is not None and publisher.stdout.readline() == "ready\n"
            # EVE's tries again after 10 s. Here nothing would, for minutes: only that the socket is seen to appear.
            until(lambda: subscription.is_synchronized, reading)


def test_what_vanished_while_the_publisher_was_dead_is_told_as_deleted(root: Path) -> None:
    story = Story()
    with PubSub(root, "reader", driver="socket") as reading:
        subscription = story.follow(reading)
        for keys in (["a", "b", "c"], ["b", "d"]):
            with running("python", "-c", PUBLISHER, root, *keys, stdout=-1) as publisher:
                until(lambda keys=keys: set(subscription.keys()) == set(keys), reading)
                until(lambda: story.told[-1][0] == "restarted", reading)
                publisher.send_signal(signal.SIGKILL)
                publisher.wait(timeout=10)
        assert subscription.items() == {"b": Greeting("b"), "d": Greeting("d")}
    assert sorted(story.told[:3]) == [("create", "a", "a"), ("create", "b", "b"), ("create", "c", "c")]
    assert story.told[3] == ("synchronized",)
    assert story.told.count(("synchronized",)) == 1
    rest = [event for event in story.told[4:] if event[0] != "restarted"]
    # `b` was there all the time: neither deleted nor created again.
    assert sorted(rest) == [("create", "d", "d"), ("delete", "a", "a"), ("delete", "c", "c")]
    assert story.told[-1] == ("restarted", 2)


@pytest.mark.parametrize("dialect", [2019, 2026])
def test_kill_9_of_a_busy_publisher_leaves_every_subscriber_with_what_its_files_say(root: Path, dialect: int) -> None:
    story = Story()
    with PubSub(root, "reader") as reading:
        by_file = reading.subscription("hello", Greeting)
        by_socket = story.follow(reading, driver="socket")
        for life in range(4):
            with running("python", "-c", RESTLESS_PUBLISHER, root, dialect, life * 10**6, stdout=-1) as publisher:
                assert publisher.stdout is not None and publisher.stdout.readline()
                seen = by_socket.is_synchronized and len(story.told)
                until(lambda seen=seen: by_socket.is_synchronized and len(story.told) > seen + 50, reading)
                publisher.send_signal(signal.SIGKILL)
                publisher.wait(timeout=10)
        with PubSub(root, "hello", driver="socket") as publishing:
            publication = publishing.publication(Greeting)
            until(lambda: by_socket.items() == by_file.items() == publication.items(), publishing, reading)
    assert story.told.count(("synchronized",)) == 1


def test_a_killed_subscriber_costs_nobody_else_anything(root: Path) -> None:
    with PubSub(root, "hello", driver="socket") as publishing, PubSub(root, "reader", driver="socket") as reading:
        publication = publishing.publication(Greeting)
        subscription = reading.subscription("hello", Greeting)
        until(lambda: subscription.is_synchronized, publishing, reading)
        with running("python", "-c", SUBSCRIBER, root, stdout=-1) as other:
            fds = open_fds()
            until(lambda: _peers(publication) == 2, publishing)
            assert open_fds() == fds + 1
            other.send_signal(signal.SIGKILL)
            other.wait(timeout=10)
            publication.publish("a", Greeting("one"))
            until(lambda: subscription.get("a") == Greeting("one"), publishing, reading)
            until(lambda: _peers(publication) == 1, publishing)  # it was noticed
            assert open_fds() == fds


def test_a_stopped_subscriber_catches_up_to_the_last_of_everything(root: Path) -> None:
    keys, rounds = 2000, 3
    with PubSub(root, "hello", driver="socket") as publishing:
        publication = publishing.publication(Greeting)
        with running("python", "-c", SUBSCRIBER, root, stdout=-1) as other:
            assert other.stdout is not None
            until(lambda: select.select([other.stdout], [], [], 0)[0], publishing)
            assert other.stdout.readline() == "synchronized\n"
            other.send_signal(signal.SIGSTOP)
            for seq in range(1, rounds + 1):
                for number in range(keys):
                    publication.publish(f"k{number}", Greeting(seq=seq))
            for number in range(0, keys, 2):
                publication.unpublish(f"k{number}")
            other.send_signal(signal.SIGCONT)
            until(lambda: select.select([other.stdout], [], [], 0)[0], publishing)
            assert other.stdout.readline() == "caught up\n"


def _peers(publication: Any) -> int:
    return len(publication._audience._peers)


def open_fds() -> int:
    """How many descriptors this process has, those apart that only wait to be collected."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# One connection.


def test_a_slow_reader_costs_only_itself_and_gets_the_last_of_each_key(root: Path) -> None:
    with PubSub(root, "hello", driver="socket") as publishing, PubSub(root, "reader", driver="socket") as reading:
        publication = publishing.publication(Greeting)
        publication.publish("gone", Greeting())
        slow = client_of(publishing, root)
        quick = reading.subscription("hello", Greeting)
        until(lambda: quick.is_synchronized, publishing, reading)
        for number in range(3000):
            publication.publish(f"k{number % 10}", Greeting("x" * 500, number))
            reading.wait(0)
        publication.unpublish("gone")
        publication.publish("late", Greeting())
        until(lambda: quick.items() == publication.items(), publishing, reading)
        packets = drain(slow)
        first = len(packets)
        while waiting := (publishing.wait(0), drain(slow))[1]:
            packets += waiting
        assert len(packets) < 3000
        last = {}
        for packet in packets:
            if packet.startswith(b"update"):
                key, value = key_and_value(packet)
                last[key] = json.loads(value)["seq"]
        assert {key: last[key] for key in publication} == {k: v.seq for k, v in publication.items().items()}
        # What was waiting is told deletes first (one update was on its way already).
        assert b"delete" in {packet.split()[0] for packet in packets[first : first + 2]}
        slow.close()


def test_restarted_is_told_after_all_that_was_published_before_it_even_to_a_slow_reader(root: Path) -> None:
    with PubSub(root, "hello", driver="socket") as publishing:
        publication = publishing.publication(Greeting)
        with client_of(publishing, root) as slow:
            for number in range(1000):
                publication.publish(f"k{number}", Greeting("x" * 500))
            publication.signal_restarted()
            publication.publish("after", Greeting())
            packets: list[bytes] = []
            while waiting := (publishing.wait(0), drain(slow))[1]:
                packets += waiting
        place = packets.index(b"restarted Greeting 1")
        before = {key_and_value(packet)[0] for packet in packets[:place] if packet.startswith(b"update")}
        assert before >= {f"k{number}" for number in range(1000)}
        assert key_and_value(packets[-1])[0] == "after"


@pytest.mark.parametrize("dialect", [2019, 2026])
def test_a_record_that_eve_cannot_carry_is_refused_before_anything_changes(root: Path, dialect: Any) -> None:
    limit = {2019: 65535, 2026: 65534}[dialect]
    with (
        PubSub(root, "hello", driver="socket", dialect=dialect) as publishing,
        PubSub(root, "reader", driver="socket") as reading,
    ):
        publication = publishing.publication(Greeting)
        subscription = reading.subscription("hello", Greeting)
        publication.publish("k", Greeting("small"))
        largest = 0
        for size in range(49_000, 49_300):
            try:
                publication.publish("edge", Greeting("x" * size))
                largest = size
            except RecordTooLarge as err:
                assert str(limit) in str(err)
                break
        before = (root / "run/hello/Greeting/k.json").read_bytes()
        with pytest.raises(RecordTooLarge, match=f"EVE's limit of {dialect} is {limit}"):
            publication.publish("k", Greeting("x" * (largest + 8)))
        assert publication.get("k") == Greeting("small")
        assert (root / "run/hello/Greeting/k.json").read_bytes() == before
        until(lambda: subscription.is_synchronized, publishing, reading)
        assert subscription.items() == publication.items()  # and the largest that passes arrives


def test_a_record_too_large_for_the_socket_fits_the_files_up_to_the_readers_limit(root: Path) -> None:
    large = Greeting("x" * 64 * 1024 * 1024)
    with PubSub(root, "hello") as pubsub, PubSub(root, max_record_bytes=1_000_000) as careful:
        publication = pubsub.publication(Greeting)
        followed, refused = (one.subscription("hello", Greeting) for one in (pubsub, careful))
        assert publication.publish("k", Greeting("small"))
        until(lambda: "k" in followed and "k" in refused, pubsub, careful, seconds=60)
        assert publication.publish("k", large)
        until(lambda: followed.get("k") == large and refused.rejected, pubsub, careful, seconds=60)
        assert refused.rejected["k.json"].reason.endswith("at most 1000000 are read")
        assert refused.get("k") == Greeting("small"), "the last good value stays"


def test_a_path_longer_than_a_socket_address_works(root: Path) -> None:
    deep = root.joinpath(*["d" * 60] * 4)
    with PubSub(deep, "hello", driver="socket") as publishing, PubSub(deep, "reader", driver="socket") as reading:
        publishing.publication(Greeting).publish("k", Greeting("one"))
        subscription = reading.subscription("hello", Greeting)
        until(lambda: "k" in subscription, publishing, reading)


def test_the_socket_file_of_a_killed_publisher_is_replaced(root: Path) -> None:
    with running("python", "-c", PUBLISHER, root, "a", stdout=-1) as publisher:
        assert publisher.stdout is not None and publisher.stdout.readline() == "ready\n"
    assert socket_of(root).is_socket()
    with PubSub(root, "hello", driver="socket") as publishing, PubSub(root, "reader", driver="socket") as reading:
        publishing.publication(Greeting)
        subscription = reading.subscription("hello", Greeting)
        until(lambda: "a" in subscription, publishing, reading)
    assert not socket_of(root).exists()


def test_a_publisher_killed_before_its_socket_had_its_name_is_not_in_the_way_of_the_next(root: Path) -> None:
    left = socket_of(root).with_name(".Greeting.sock")
    left.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.bind(str(left))
    with PubSub(root, "hello", driver="socket") as publishing:
        publishing.publication(Greeting)
        assert socket_of(root).is_socket() and not left.exists()


def test_a_live_publisher_of_eves_own_is_not_robbed_of_its_socket(root: Path) -> None:
    socket_of(root).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as eves, PubSub(root, "hello", driver="socket") as pubsub:
        eves.bind(str(socket_of(root)))
        eves.listen()
        with pytest.raises(TableHeld, match=f"process {os.getpid()}"):
            pubsub.publication(Greeting)
        assert socket_of(root).is_socket()


def test_a_removed_socket_file_is_put_back_by_the_slow_re_list(root: Path) -> None:
    with PubSub(root, "hello", driver="socket", relist_seconds=(0.05, 0.05)) as publishing:
        publishing.publication(Greeting).publish("k", Greeting("one"))
        socket_of(root).unlink()
        with PubSub(root, "reader", driver="socket") as reading:
            subscription = reading.subscription("hello", Greeting)
            until(lambda: "k" in subscription, publishing, reading)


@pytest.mark.parametrize(
    "request_", [b"request Other", b"request Greeting more", b"nonsense", b"request " + b"x" * 300]
)
def test_a_wrong_request_is_hung_up_on_with_a_reason_in_the_log(
    root: Path, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with PubSub(root, "hello", driver="socket") as publishing:
        publication = publishing.publication(Greeting)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(socket_of(root)))
            client.send(request_)
            publishing.wait(0)
            publishing.wait(0)
            assert client.recv(100) == b""
        assert "its request" in caplog.text and f"process {os.getpid()}" in caplog.text
        assert _peers(publication) == 0


def test_hundreds_of_connections_leave_no_descriptor_behind(root: Path) -> None:
    with PubSub(root, "hello", driver="socket") as publishing:
        publication = publishing.publication(Greeting)
        before = open_fds()
        for number in range(300):
            client = client_of(publishing, root)
            if number % 2:
                publication.publish("k", Greeting(seq=number))
            client.close()
            if number % 3:
                publication.publish("k", Greeting(seq=-number))
        until(lambda: _peers(publication) == 0, publishing)
        assert open_fds() == before


class Recorded:
    """Listens where the publisher would and says what a test wants."""

    def __init__(self, root: Path) -> None:
        socket_of(root).parent.mkdir(parents=True, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(socket_of(root)))
        self.listener.listen()
        self.listener.settimeout(5)

    def accept(self, reading: PubSub, *packets: bytes) -> socket.socket:
        reading.wait(0)
        connection, _ = self.listener.accept()
        assert connection.recv(100) == b"request Greeting"
        for packet in packets:
            connection.send(packet)
        for _ in range(5):
            reading.wait(0.01)
        return connection


def test_bad_packets_are_reported_and_the_rest_goes_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with PubSub(root, "reader", driver="socket") as reading:
        subscription = reading.subscription("hello", Greeting)
        publisher = Recorded(root)
        packets = [
            b"hello Greeting false",
            b"update Greeting Z29vZA== eyJ0ZXh0Ijoib25lIn0=",  # good
            b"update Greeting Z29vZA== eyJ0ZXh0Ijo1fQ==",  # good, but its text is a number
            b"update Greeting Z29vZA== ???",
            b"update Greeting LmRvdA== e30=",  # the key `.dot`
            b"update Greeting Li4vLi4veA== e30=",  # the key `../../x`
            b"update Other b3RoZXI= e30=",
            b"shout Greeting",
            b"x" * 200,
            b"complete Greeting",
        ]
        with publisher.listener, publisher.accept(reading, *packets):
            until(lambda: subscription.is_synchronized, reading)
            assert subscription.items() == {"good": Greeting("one")}
            assert subscription.rejected_count == 7
            assert "keeping the previous record" in caplog.text
            assert "is about 'Other', not Greeting" in caplog.text


def test_a_publisher_of_another_topic_is_refused(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with PubSub(root, "reader", driver="socket") as reading:
        subscription = reading.subscription("hello", Greeting)
        publisher = Recorded(root)
        with publisher.listener, publisher.accept(reading, b"hello Other false") as connection:
            assert connection.recv(100) == b""  # hung up
            assert not subscription.is_synchronized
            assert "it publishes 'Other', not Greeting" in caplog.text


def test_a_publisher_that_says_the_same_again_after_a_reconnect_is_not_told_again(root: Path) -> None:
    story = Story()
    packets = [
        b"hello Greeting",
        b"update Greeting azE= eyJ0ZXh0Ijoib25lIn0=",
        b"complete Greeting",
        b"restarted Greeting",
    ]
    with PubSub(root, "reader", driver="socket") as reading:
        story.follow(reading)
        publisher = Recorded(root)
        with publisher.listener:
            for _ in range(3):
                publisher.accept(reading, *packets).close()
                reading.wait(0.01)
    assert story.told == [("create", "k1", "one"), ("synchronized",), ("restarted", 1)]


def test_a_cut_connection_sweeps_nothing_before_the_copy_is_complete(root: Path) -> None:
    story = Story()
    one, two = b"update Greeting azE= eyJ0ZXh0Ijoib25lIn0=", b"update Greeting azI= eyJ0ZXh0IjoidHdvIn0="
    with PubSub(root, "reader", driver="socket") as reading:
        subscription = story.follow(reading)
        publisher = Recorded(root)
        with publisher.listener:
            publisher.accept(reading, b"hello Greeting false", one, two, b"complete Greeting").close()
            publisher.accept(reading, b"hello Greeting false", one).close()
            assert set(subscription.keys()) == {"k1", "k2"}
            publisher.accept(reading, b"hello Greeting false", one, b"complete Greeting").close()
    assert story.told == [("create", "k1", "one"), ("create", "k2", "two"), ("synchronized",), ("delete", "k2", "two")]


def test_a_publisher_that_listens_only_after_its_socket_is_seen_is_reached_soon(root: Path) -> None:
    with (
        PubSub(root, "reader", driver="socket") as reading,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        reading.subscription("hello", Greeting)
        socket_of(root).parent.mkdir(parents=True)
        listener.bind(str(socket_of(root)))
        for _ in range(3):
            reading.wait(0.01)  # refused
        listener.listen()
        listener.settimeout(0)
        accepted: list[socket.socket] = []

        def reached() -> bool:
            try:
                accepted.append(listener.accept()[0])
            except BlockingIOError:
                return False
            return True

        until(reached, reading)  # the slow re-list would come minutes later
        accepted[0].close()


def test_a_persistent_table_is_known_from_its_files_until_its_publisher_comes(root: Path) -> None:
    story = Story()
    with PubSub(root, "hello", driver="socket") as publishing:
        publication = publishing.publication(Greeting, persistent=True)
        publication.publish("a", Greeting("one"))
        publication.publish("b", Greeting("one"))
    with PubSub(root, "reader", driver="socket") as reading:
        subscription = story.follow(reading, persistent=True)
        until(lambda: len(subscription) == 2, reading)
        assert not subscription.is_synchronized
        with PubSub(root, "hello", driver="socket") as publishing:
            publication = publishing.publication(Greeting, persistent=True)
            publication.unpublish("a")
            until(lambda: subscription.is_synchronized, publishing, reading)
    assert story.told == [("create", "a", "one"), ("create", "b", "one"), ("delete", "a", "one"), ("synchronized",)]


# Large fields.


def test_each_subscriber_gets_files_of_its_own_for_large_fields_and_removes_them(root: Path) -> None:
    value = LargeItem(Other="o", StrVal="<é>" * 50_000, Bytes=b"\0" * 1000, Last=1)
    with (
        PubSub(root, "hello", driver="socket") as publishing,
        PubSub(root, "one", driver="socket") as one,
        PubSub(root, "two", driver="socket") as two,
    ):
        publication = publishing.publication(LargeItem)
        subscriptions = [loop.subscription("hello", LargeItem) for loop in (one, two)]
        publication.publish("l", value)
        until(lambda: all(each.get("l") == value for each in subscriptions), publishing, one, two)
        with client_of(publishing, root, "LargeItem") as dead:
            drain(dead)
        assert len(list(root.rglob("pubsub-file-*"))) == 2  # a reader that dies leaves its own
        with pytest.raises(RecordTooLarge, match="a large field has"):
            publication.publish("l", LargeItem(StrVal="x" * 1024 * 1024))


def test_a_large_field_is_read_from_the_tables_own_directory_only(root: Path) -> None:
    secret = root / "pubsub-file-secret"
    secret.write_text('{"pubsub-large-StrVal":"secret"}')
    with PubSub(root, "hello", driver="socket") as publishing, PubSub(root, "reader", driver="socket") as reading:

        class LargeItem(msgspec.Struct, frozen=True, rename={"StrVal": "pubsub-file-StrVal"}):
            StrVal: str = ""

        publishing.publication(LargeItem).publish("l", LargeItem(StrVal=json.dumps(str(secret))))
        subscription = reading.subscription("hello", None, topic="LargeItem")
        until(lambda: subscription.is_synchronized, publishing, reading)
        assert subscription.items() == {}
        assert "which is not in" in subscription.rejected["l.json"].reason
    assert secret.exists()


def test_drivers_and_dialects_there_are_not_are_refused(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        with pytest.raises(ValueError, match="file, socket and memory"):
            pubsub.publication(Greeting, driver="telepathy")
        with pytest.raises(ValueError, match="2019 and 2026"):
            pubsub.publication(Greeting, driver="socket", dialect=2020)  # type: ignore[arg-type]


# Whatever happens, in whatever order.


@pytest.mark.parametrize("driver", ["socket", "memory"])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_the_subscriber_ends_with_the_publishers_table(root: Path, driver: str, seed: int) -> None:
    chance = random.Random(seed)
    dialect: Any = chance.choice([2019, 2026])
    story = Story()
    publishing = PubSub(root, "hello", driver=driver, dialect=dialect)
    publication = publishing.publication(Greeting)
    with PubSub(root, "reader", driver=driver) as reading:
        subscription = story.follow(reading)
        for step in range(150):
            match chance.choice(
                ["publish"] * 6 + ["unpublish"] * 3 + ["restarted", "read", "read", "serve", "cut", "die"]
            ):
                case "publish":
                    publication.publish(f"k{chance.randrange(8)}", Greeting("x" * chance.choice([1, 30_000]), step))
                case "unpublish":
                    publication.unpublish(f"k{chance.randrange(8)}")
                case "restarted":
                    publication.signal_restarted()
                case "read":
                    reading.process(0)
                case "serve":
                    publishing.process(0)
                case "cut":
                    if driver == "socket":
                        for peer in list(publication._audience._peers.values()):  # type: ignore[union-attr]
                            peer.close()
                case "die":
                    publishing.close()
                    publishing = PubSub(root, "hello", driver=driver, dialect=dialect)
                    publication = publishing.publication(Greeting)
        until(lambda: subscription.is_synchronized and subscription.items() == publication.items(), publishing, reading)
    publishing.close()
    forget_all(root)
    lives: set[str] = set()
    for kind, *rest in story.told:
        if kind == "create":
            assert rest[0] not in lives
            lives.add(rest[0])
        elif kind in ("modify", "delete"):
            assert rest[0] in lives
            if kind == "delete":
                lives.remove(rest[0])
    assert story.told.count(("synchronized",)) == 1
    assert lives == set(publication.keys())


def test_a_group_may_connect_to_the_socket_of_a_table_that_is_opened_to_it(root: Path) -> None:
    with PubSub(root, "hello", driver="socket") as publishing:
        publishing.publication(Greeting, group=os.getgid(), persistent=True)
        assert stat.S_IMODE(socket_of(root).stat().st_mode) == 0o660
        assert stat.S_IMODE(socket_of(root).parent.stat().st_mode) == 0o711
