"""A durable subscription: what was finished is not run again, what vanished while nobody looked is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import running

from pillar.pubsub import BadName, Change, PubSub, TableHeld


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


def told_at_start(root: Path, *, fails: str = "", persistent: bool = False) -> list[tuple[Any, ...]]:
    """What one life of the durable subscriber `me` is told; the handlers of the key `fails` raise."""
    told: list[tuple[Any, ...]] = []

    def handler(kind: str) -> Any:
        def run(key: str = "", *values: object) -> None:
            if key == fails != "":
                raise ValueError(f"no {key}")
            told.append((kind, key, *values) if key else (kind,))

        return run

    with PubSub(root, "me") as pubsub:
        pubsub.subscription(
            "hello",
            Greeting,
            persistent=persistent,
            durable="greetings",
            create=handler("create"),
            modify=handler("modify"),
            delete=handler("delete"),
            synchronized=handler("synchronized"),
        )
        pubsub.wait(0)
    return told


def publish(root: Path, *, persistent: bool = False, **texts: str | None) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting, persistent=persistent)
        for key, text in texts.items():
            if text is None:
                publication.unpublish(key)
            else:
                publication.publish(key, Greeting(text=text))


A, B = Greeting(text="a"), Greeting(text="b")


def test_a_restarted_subscriber_is_told_only_what_differs(root: Path) -> None:
    publish(root, a="a", b="b", c="c")
    assert sorted(told_at_start(root))[:3] == [
        ("create", "a", A),
        ("create", "b", B),
        ("create", "c", Greeting(text="c")),
    ]
    assert told_at_start(root) == [("synchronized",)]
    publish(root, a="A", b=None, d="d")
    assert sorted(told_at_start(root)) == [
        ("create", "d", Greeting(text="d")),
        ("delete", "b", B),
        ("modify", "a", Greeting(text="A"), A),
        ("synchronized",),
    ]
    assert told_at_start(root) == [("synchronized",)]


@pytest.mark.parametrize("event", ["delete", "delete and recreate", "directory removed"])
@pytest.mark.parametrize("down", ["publisher", "subscriber", "both"])
def test_nine_cells_whoever_was_dead_the_end_of_a_key_is_told(root: Path, down: str, event: str) -> None:
    directory = root / "run/hello/Greeting"
    publish(root, a="a", b="b")
    told: list[tuple[str, str]] = []
    followed = {
        "durable": "greetings",
        "create": lambda key, new: told.append(("create", key)),
        "modify": lambda key, new, old: told.append(("modify", key)),
        "delete": lambda key, last: told.append(("delete", key)),
    }

    def happen() -> None:
        if event == "directory removed":
            shutil.rmtree(root / "run/hello")
        elif down == "subscriber":
            publish(root, a=None)
            if event != "delete":
                publish(root, a="new")
        else:  # nobody publishes: a hand does it
            (directory / "a.json").unlink()
            if event != "delete":
                (directory / "a.json").write_text('{"text":"new"}')

    subscriber = PubSub(root, "me")
    subscriber.subscription("hello", Greeting, **followed)  # type: ignore[call-overload]
    subscriber.wait(0)
    assert sorted(told) == [("create", "a"), ("create", "b")]
    told.clear()
    if down != "publisher":
        subscriber.close()
    happen()
    if down != "publisher":
        subscriber = PubSub(root, "me")
        subscriber.subscription("hello", Greeting, **followed)  # type: ignore[call-overload]
    subscriber.wait(0)
    subscriber.close()
    if event == "directory removed":
        assert sorted(told) == [("delete", "a"), ("delete", "b")]
    elif event == "delete":
        assert told == [("delete", "a")]
    else:  # one life or two: nobody looked in between
        assert told == [("modify", "a")]
    publish(root, b="b")
    assert [entry[:2] for entry in told_at_start(root)] == (
        [("create", "b"), ("synchronized",)] if event == "directory removed" else [("synchronized",)]
    )


def test_a_handler_that_raised_is_tried_again_at_the_next_start_and_other_keys_are_not(root: Path) -> None:
    publish(root, a="a", b="b")
    assert told_at_start(root, fails="a") == [("create", "b", B), ("synchronized",)]
    assert told_at_start(root, fails="a") == [("synchronized",)]
    assert told_at_start(root) == [("create", "a", A), ("synchronized",)]
    publish(root, a=None)
    assert told_at_start(root, fails="a") == [("synchronized",)]
    assert told_at_start(root) == [("delete", "a", A), ("synchronized",)]
    assert told_at_start(root) == [("synchronized",)]


FOLLOW = """
import msgspec, os, sys
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
pubsub = PubSub(sys.argv[1], "me")
say = lambda kind: lambda key, *values: os.write(1, f"{kind} {key}\\n".encode())
pubsub.subscription("hello", Greeting, durable="greetings",
    create=say("create"), modify=say("modify"), delete=say("delete"))
pubsub.run()
"""


def test_kill_9_at_any_moment_runs_at_most_the_one_handler_again(root: Path) -> None:
    keys = 400
    publish(root, **{f"k{number}": "x" for number in range(keys)})
    runs: list[str] = []
    kills = 0
    for after in (1, 7, 40, 90, 33, keys):
        with running("python", "-c", FOLLOW, root, stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            for _ in range(after):
                if len(set(runs)) == keys:
                    break
                runs.append(follower.stdout.readline().strip())
            follower.send_signal(signal.SIGKILL)
            follower.wait(timeout=10)
            runs += follower.stdout.read().splitlines()
            kills += 1
    assert set(runs) == {f"create k{number}" for number in range(keys)}
    assert len(runs) <= keys + kills
    assert len(told_at_start(root)) <= 2  # the last kill may have fallen into the last handler
    assert told_at_start(root) == [("synchronized",)]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_ledger_cut_at_any_byte_loses_only_its_last_entries(root: Path, persistent: bool) -> None:
    publish(root, a="a", b="b", c="c", persistent=persistent)
    told_at_start(root, persistent=persistent)
    base = root / ("persist/status" if persistent else "run")
    journal = base / "me/.seen/greetings/journal"
    whole = journal.read_bytes()
    assert whole.count(b"\n") == 4
    for length in range(0, len(whole), 7):
        journal.write_bytes(whole[:length] + b"\0" * (length % 3))
        entries = max(whole[:length].count(b"\n") - 1, 0)
        again = told_at_start(root, persistent=persistent)
        assert [entry[0] for entry in again] == ["create"] * (3 - entries) + ["synchronized"]
        assert told_at_start(root, persistent=persistent) == [("synchronized",)]


def test_the_ledger_stays_small_however_often_a_key_changes(root: Path) -> None:
    with PubSub(root, "hello") as publisher, PubSub(root, "me") as subscriber:
        publication = publisher.publication(Greeting)
        subscriber.subscription("hello", Greeting, durable="greetings")
        for seq in range(2000):
            publication.publish(f"k{seq % 3}", Greeting(text="x" * 1000, seq=seq))
            subscriber.wait(0)
    assert (root / "run/me/.seen/greetings/journal").stat().st_size < 400_000
    assert told_at_start(root) == [("synchronized",)]


def test_a_full_disk_under_the_ledger_is_reported_and_mended_by_the_next_entry(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    ledgers = root / "run/me"
    ledgers.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", ledgers], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        publish(root, a="a", big="x" * 100_000)
        assert len(told_at_start(root)) == 3
        assert "No space left on device; handlers finished from now on may be run again" in caplog.text
        publish(root, big="small")
        assert ("create", "big", Greeting(text="small")) in told_at_start(root)
        assert told_at_start(root) == [("synchronized",)]
    finally:
        subprocess.run(["umount", ledgers], check=True)


def test_one_process_at_a_time_uses_a_ledger_and_only_for_its_table(root: Path) -> None:
    with PubSub(root, "me") as first, PubSub(root, "me") as second, PubSub(root) as nobody:
        first.subscription("hello", Greeting, durable="greetings")
        with pytest.raises(TableHeld, match=f"already used by process {os.getpid()}"):
            second.subscription("hello", Greeting, durable="greetings")
        second.subscription("hello", Greeting, durable="others")
        with pytest.raises(BadName, match="needs an owner"):
            nobody.subscription("hello", Greeting, durable="greetings")
        with pytest.raises(BadName, match="slash"):
            second.subscription("hello", Greeting, durable="greetings/..")
    with PubSub(root, "me") as third, pytest.raises(BadName, match="hello/Greeting cannot serve"):
        third.subscription("elsewhere", Greeting, durable="greetings")


def test_a_loop_over_changes_finishes_each_when_it_asks_for_the_next(root: Path) -> None:
    publish(root, a="a", b="b")
    with PubSub(root, "me") as pubsub:
        for change in pubsub.subscription("hello", Greeting, durable="greetings"):
            if change.key == "b":
                break  # b was being handled
    with PubSub(root, "me") as pubsub:
        changes = iter(pubsub.subscription("hello", Greeting, durable="greetings"))
        assert next(changes) == Change("create", "b", new=B)
        assert next(changes) == Change("synchronized")
