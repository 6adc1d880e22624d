"""At the edges: no inotify to be had, a million publishes, one clock tick, eight publishers at once."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support import running, wait_for

from pillar.pubsub import PubSub, TableHeld, lock


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


def table(root: Path) -> Path:
    return root / "run/hello/Greeting"


FOLLOW_WITH_LIMITS = """
import logging, msgspec, os, sys, time
from pillar.pubsub import PubSub
from pillar.pubsub import hub
hub.BLIND_SECONDS = 0.2
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
root, limit, value = sys.argv[1:]
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
def set_limit(value):
    with open(f"/proc/sys/user/{limit}", "w") as file:
        file.write(str(value))
def until(condition):
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        pubsub.wait(1)
set_limit(value)
pubsub = PubSub(root, "me")
other = PubSub(root, "hello").publication(Greeting)
mine = pubsub.publication(Greeting)
seen = pubsub.subscription("hello", Greeting)
other.publish("k", Greeting(seq=1))
until(lambda: seen.is_synchronized and seen.get("k") == Greeting(seq=1))
other.publish("k", Greeting(seq=2))
until(lambda: seen.get("k") == Greeting(seq=2))
other.unpublish("k")
until(lambda: seen.keys() == [])
mine.publish("own", Greeting(seq=3))
path = root + "/run/me/Greeting/own.json"
os.unlink(path)
until(lambda: os.path.exists(path))
print("listing was enough", flush=True)
set_limit(1000)
until(lambda: not pubsub._inotify.blind)
other.publish("k", Greeting(seq=4))
until(lambda: seen.get("k") == Greeting(seq=4))
print("watched again", flush=True)
"""


@pytest.mark.parametrize(
    ("limit", "value", "call", "sysctl"),
    [
        ("max_inotify_instances", 0, "inotify_init1", "fs.inotify.max_user_instances"),
        ("max_inotify_instances", 1, "inotify_init1", "fs.inotify.max_user_instances"),
        ("max_inotify_watches", 0, "inotify_add_watch", "fs.inotify.max_user_watches"),
        ("max_inotify_watches", 1, "inotify_add_watch", "fs.inotify.max_user_watches"),
    ],
)
def test_without_inotify_the_log_names_the_sysctl_and_listing_takes_its_place_until_it_is_back(
    root: Path, limit: str, value: int, call: str, sysctl: str
) -> None:
    possible = subprocess.run(["unshare", "-Ur", "test", "-w", f"/proc/sys/user/{limit}"], check=False)
    if possible.returncode:
        pytest.skip("this machine has no user namespaces with limits of their own")
    command = ["unshare", "-Ur", sys.executable, "-c", FOLLOW_WITH_LIMITS, str(root), limit, str(value)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "listing was enough\nwatched again\n", result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    # With one instance allowed the first PubSub has it: what is blind then is the other, whose table nobody follows.
    assert errors and all(call in line and f"raise {sysctl}" in line for line in errors)
    assert all("found only by listing it every few seconds" in line for line in errors)


def test_a_watch_that_the_kernel_ends_by_an_unmount_is_set_anew(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    table(root).mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", table(root)], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        (table(root) / "above.json").write_text("{}")
        with PubSub(root) as pubsub:
            subscription = pubsub.subscription("hello", Greeting)
            pubsub.wait(0)
            assert subscription.keys() == ["above"]
            subprocess.run(["umount", table(root)], check=True)  # not busy: a subscriber keeps nothing open there
            pubsub.wait(5)
            assert subscription.keys() == []
            (table(root) / "below.json").write_text("{}")
            pubsub.wait(5)
            assert subscription.keys() == ["below"]
    finally:
        subprocess.run(["umount", "-q", table(root)], check=False)


PUBLISH = """
import msgspec, sys
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
root, count, keys = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
publication = PubSub(root, "hello").publication(Greeting)
for seq in range(1, count + 1):
    publication.publish(f"k{seq % keys}", Greeting(seq=seq))
for key in range(0, keys, 10):
    publication.unpublish(f"k{key}")
"""

CATCH_UP = """
import json, msgspec, os, sys, time
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
pubsub = PubSub(sys.argv[1])
subscription = pubsub.subscription("hello", Greeting)
pubsub.wait(0)
print("ready", flush=True)
sys.stdin.readline()  # stopped here while everything happens
start = time.monotonic()
pubsub.wait(0)
took = time.monotonic() - start
print(json.dumps([took, {key: item.seq for key, item in subscription.items().items()}]), flush=True)
"""


def stopped_subscriber_catches_up(root: Path, publishes: int, keys: int) -> None:
    table(root).mkdir(parents=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running("python", "-c", CATCH_UP, root, **pipes) as subscriber:
        assert subscriber.stdin is not None and subscriber.stdout is not None
        assert subscriber.stdout.readline() == "ready\n"
        subscriber.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with running("python", "-c", PUBLISH, root, publishes, keys) as publisher:
            publisher.wait(timeout=600)
        took = time.monotonic() - start
        subscriber.send_signal(signal.SIGCONT)
        subscriber.stdin.write("\n")
        subscriber.stdin.flush()
        catching_up, seen = json.loads(subscriber.stdout.readline())
    wanted = {path.stem: json.loads(path.read_bytes())["seq"] for path in table(root).glob("*.json")}
    print(
        f"\n{publishes} publishes over {keys} keys in {took:.1f} s against a stopped subscriber:"
        f" it caught up in {catching_up:.2f} s, {len(wanted.items() - seen.items())} keys lost"
    )
    assert len(wanted) == keys - len(range(0, keys, 10))
    assert seen == wanted


def test_a_stopped_subscriber_loses_no_key_of_sixty_thousand_publishes(root: Path) -> None:
    stopped_subscriber_catches_up(root, 60_000, 5_000)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_stopped_subscriber_loses_no_key_of_a_million_publishes(root: Path) -> None:
    stopped_subscriber_catches_up(root, 1_000_000, 50_000)


@pytest.mark.parametrize("how", ["publisher", "by hand in place"])
def test_two_values_of_one_clock_tick_one_size_and_one_inode_are_both_seen(
    root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    told: list[int] = []
    with PubSub(root, "hello") as publisher, PubSub(root) as subscriber:
        subscription = subscriber.subscription(
            "hello",
            Greeting,
            create=lambda key, new: told.append(new.seq),
            modify=lambda key, new, old: told.append(new.seq),
        )
        publication = publisher.publication(Greeting)
        publication.publish("k", Greeting(seq=1))
        subscriber.wait(0)
        path = table(root) / "k.json"
        frozen = path.stat()
        one_stat(monkeypatch, frozen)
        for seq in (2, 3, 4):
            if how == "publisher":
                publication.publish("k", Greeting(seq=seq))
            else:
                path.write_text(path.read_text().replace(str(seq - 1), str(seq)))
            os.utime(path, ns=(frozen.st_mtime_ns, frozen.st_mtime_ns))
            if how == "publisher" and seq == 4:
                subscription.list_again()  # without an event, too
            subscriber.wait(0)
    assert told == [1, 2, 3, 4]


def one_stat(monkeypatch: pytest.MonkeyPatch, frozen: os.stat_result) -> None:
    """Every look at a regular file gives this result from here on."""

    def inject(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def looked(*args: object, **kwargs: object) -> os.stat_result:
            status = real(*args, **kwargs)
            return frozen if status.st_mode == frozen.st_mode and status.st_size == frozen.st_size else status

        return looked

    monkeypatch.setattr(os, "stat", inject(os.stat))
    monkeypatch.setattr(os, "fstat", inject(os.fstat))


RACE = """
import msgspec, os, sys
from pillar.pubsub import PubSub, TableHeld
class Greeting(msgspec.Struct): pass
for line in sys.stdin:
    pubsub = PubSub(line.strip(), "hello")
    try:
        pubsub.publication(Greeting)
        print("held", flush=True)
    except TableHeld as err:
        print(err.pid, flush=True)
    sys.stdin.readline()
    pubsub.close()
    print("closed", flush=True)
"""


def test_of_eight_publishers_that_start_at_once_exactly_one_holds_the_table(
    root: Path, request: pytest.FixtureRequest
) -> None:
    races = 1000 if request.config.getoption("--full") else 60
    command = [sys.executable, "-c", RACE]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(8)
    ]
    try:
        for race in range(races):
            # Every other race is for a table that is still to be made.
            answers = ask(racers, str(root / f"device{race // 2}"))
            holders = [racer.pid for racer, answer in zip(racers, answers, strict=True) if answer == "held"]
            assert len(holders) == 1, answers
            assert set(answers) <= {"held", str(holders[0]), "None"}
            assert set(ask(racers, "")) == {"closed"}
    finally:
        for racer in racers:
            racer.kill()
            racer.wait(timeout=10)
            for stream in (racer.stdin, racer.stdout):
                assert stream is not None
                stream.close()
    print(f"\n{races} races of 8 publishers: one holder each time")


def ask(racers: list[subprocess.Popen[str]], line: str) -> list[str]:
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(line + "\n")
    answers = []
    for racer in racers:
        assert racer.stdout is not None
        answers.append(racer.stdout.readline().strip())
    return answers


def test_a_publisher_whose_lock_or_staging_is_removed_takes_them_back(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        publication.publish("k", Greeting(seq=1))
        for name in (".staging", ".lock"):
            subprocess.run(["rm", "-rf", table(root) / name], check=True)
            if name == ".lock":
                wait_for(lambda: pubsub.wait(0) or (table(root) / ".lock").exists(), "the lock to be back")
            assert publication.publish("k", Greeting(seq=publication.get("k").seq + 1))  # type: ignore[union-attr]
            assert (table(root) / ".lock").read_text() == str(os.getpid())


def test_who_only_looks_whether_a_table_is_held_refuses_no_publisher(root: Path) -> None:
    table(root).mkdir(parents=True)
    file = table(root) / ".lock"
    taken: list[str] = []
    refused: list[str] = []

    def start() -> None:
        with file.open("r+") as mine:
            try:
                lock.take(mine.fileno())
            except BlockingIOError:
                refused.append("by the other one")
            else:
                taken.append("by one")
                all_tried.wait(timeout=20)

    all_tried = threading.Event()
    with file.open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        starts = [threading.Thread(target=start) for _ in range(2)]
        for each in starts:
            each.start()
        # Both wait for the look to end, and neither of them for the other one.
        wait_for(lambda: _waiters(root) == 2, "both to try")
        assert (taken, refused) == ([], [])
        fcntl.flock(look, fcntl.LOCK_UN)
        wait_for(lambda: taken and refused, "one to have the lock")
    all_tried.set()
    for each in starts:
        each.join()


def _waiters(root: Path) -> int:
    """Descriptors of this process that have the lock file open, the looker's apart."""
    opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return opened.count(str(table(root) / ".lock")) - 1


def test_who_holds_a_table_refuses_another_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("it waits for a holder"))
    file = root / "lock"
    with file.open("w") as holder, file.open("r+") as other:
        lock.take(holder.fileno())
        with pytest.raises(BlockingIOError):
            lock.take(other.fileno())


def test_a_look_that_never_ends_is_not_waited_for_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.0)
    file = root / "lock"
    with file.open("w") as looks, file.open("r+") as other:
        fcntl.flock(looks, fcntl.LOCK_SH)
        with pytest.raises(BlockingIOError):
            lock.take(other.fileno())


def test_the_pid_of_a_holder_before_is_not_told_for_the_one_that_has_the_lock(root: Path) -> None:
    table(root).mkdir(parents=True)
    file = table(root) / ".lock"
    with running("true") as before:
        before.wait(timeout=20)
    file.write_text(str(before.pid))  # the new holder has not come to write its own
    with file.open("r+") as holder, PubSub(root, "hello") as pubsub:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(TableHeld) as error:
            pubsub.publication(Greeting)
        assert error.value.pid is None
