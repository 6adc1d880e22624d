"""A publisher's promises: records whole and in place, one publisher a table, nothing lost to a kill."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support import running

from pillar.pubsub import BadKey, BadName, PublishFailed, PubSub, TableHeld, TopicMismatch, decode


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


def file(root: Path, key: str, agent: str = "hello") -> Path:
    return root / "run" / agent / "Greeting" / f"{key}.json"


def test_a_published_record_is_compact_json_at_eves_path_for_its_owner_only(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        assert pubsub.publication(Greeting).publish("world", Greeting(text="hi <b>"))
    assert file(root, "world").read_bytes() == b'{"text":"hi \\u003cb\\u003e","seq":0}'
    assert stat.S_IMODE(file(root, "world").stat().st_mode) == 0o600
    assert stat.S_IMODE(file(root, "world").parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("agent", "scope", "persistent", "place"),
    [
        ("downloader", "", False, "run/downloader/Greeting"),
        ("downloader", "appImg.obj", False, "run/downloader/appImg.obj/Greeting"),
        ("zedmanager", "", True, "persist/status/zedmanager/Greeting"),
        ("zedmanager", "x", True, "persist/status/zedmanager/x/Greeting"),
        ("", "", False, "run/global/Greeting"),
    ],
)
def test_tables_stand_where_eve_has_them(root: Path, agent: str, scope: str, persistent: bool, place: str) -> None:
    with PubSub(root, "me") as pubsub:
        pubsub.publication(Greeting, agent=agent, scope=scope, persistent=persistent).publish("k", Greeting())
    assert (root / place / "k.json").exists()


def test_a_global_table_is_never_persistent(root: Path) -> None:
    with PubSub(root) as pubsub, pytest.raises(BadName, match="neither persistent nor scoped"):
        pubsub.publication(Greeting, persistent=True)


def test_publishing_an_equal_value_writes_nothing(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        assert publication.publish("k", Greeting(text="a"))
        before = file(root, "k").stat()
        assert not publication.publish("k", Greeting(text="a"))
        after = file(root, "k").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_restarted_publisher_holds_what_it_had_and_leaves_a_newer_agents_fields_alone(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting).publish("k", Greeting(text="a"))
    newer = b'{ "text":"a", "seq":0, "Added":"by a newer agent" }'
    file(root, "k").write_bytes(newer)
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        assert publication.items() == {"k": Greeting(text="a")}
        assert not publication.publish("k", Greeting(text="a"))
        assert file(root, "k").read_bytes() == newer
        assert publication.publish("k", Greeting(text="b"))
        assert file(root, "k").read_bytes() == b'{"text":"b","seq":0}'


def test_left_over_staging_files_are_swept_at_the_next_start(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting)
    left_over = root / "run/hello/Greeting/.staging/record"
    left_over.write_text("{cut")
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting)
        assert not left_over.exists()


def test_unpublish_removes_the_file_and_says_whether_there_was_one(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        publication.publish("k", Greeting())
        assert publication.unpublish("k")
        assert not file(root, "k").exists()
        assert not publication.unpublish("k")
        assert publication.get("k") is None


@pytest.mark.parametrize("key", ["", ".", "..", ".hidden", "a/b", "nul\0", "x" * 251, "ä" * 126, "\udcff"])
def test_a_key_that_cannot_be_a_file_name_is_refused_before_anything_changes(root: Path, key: str) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        with pytest.raises(BadKey, match="key "):
            publication.publish(key, Greeting())
        assert publication.keys() == []
        assert [p for p in (root / "run/hello/Greeting").iterdir() if not p.name.startswith(".")] == []


@pytest.mark.parametrize("key", ["x" * 250, "ä" * 125, "a b", "a.json", "a.json.b", "restarted", "line\nfeed", "<&>"])
def test_odd_keys_come_back_as_they_were(root: Path, key: str) -> None:
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting).publish(key, Greeting(text=key[:9]))
        subscription = PubSub(root).subscription("hello", Greeting)
        subscription._hub.wait(1)
        assert subscription.items() == {key: Greeting(text=key[:9])}


def test_a_persistent_key_leaves_room_for_its_backup(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting, persistent=True)
        for seq in range(3):
            assert publication.publish("x" * 246, Greeting(seq=seq))
        with pytest.raises(BadKey):
            publication.publish("x" * 247, Greeting())


def test_a_record_of_another_type_is_refused(root: Path) -> None:
    class Other(msgspec.Struct):
        pass

    with PubSub(root, "hello") as pubsub, pytest.raises(TopicMismatch, match="Other is no Greeting"):
        pubsub.publication(Greeting).publish("k", Other())  # type: ignore[arg-type]


FULL_DISK = """
import msgspec, os, resource, sys
from pillar.pubsub import PublishFailed, PubSub
class Greeting(msgspec.Struct, frozen=True):
    text: str = ""
table = sys.argv[1] + "/run/hello/Greeting"
with PubSub(sys.argv[1], "hello") as pubsub:
    greetings = pubsub.publication(Greeting)
    greetings.publish("k", Greeting("first"))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        greetings.publish("k", Greeting("x" * 10000))
    except PublishFailed as error:
        print(error.__cause__.strerror)
    print(os.listdir(table + "/.staging"), greetings.get("k").text)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(greetings.publish("k", Greeting("x" * 10000)))
"""


def test_a_record_that_the_disk_took_only_a_part_of_takes_no_room(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(root)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "File too large\n[] first\nTrue\n"


def test_a_second_publisher_is_refused_with_the_first_ones_pid(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting)
        script = (
            "import msgspec, sys; from pillar.pubsub import PubSub, TableHeld\n"
            "class Greeting(msgspec.Struct): pass\n"
            "try: PubSub(sys.argv[1], 'hello').publication(Greeting)\n"
            "except TableHeld as err: print(err.pid, err)"
        )
        with running("python", "-c", script, root, stdout=subprocess.PIPE) as second:
            said, _ = second.communicate(timeout=20)
    assert said.startswith(f"{os.getpid()} hello/Greeting: already published by process {os.getpid()}")


HOLD = """
import msgspec, sys, time
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
publication = PubSub(sys.argv[1], 'hello').publication(Greeting, persistent=len(sys.argv) > 2)
print("held", flush=True)
for seq in range(1, 1_000_000):
    publication.publish("counter", Greeting(text="x" * 5000, seq=seq))
    print(seq, flush=True)
"""


def test_the_lock_is_free_at_once_after_kill_9(root: Path) -> None:
    with running("python", "-c", HOLD, root, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with PubSub(root, "hello") as pubsub:
            with pytest.raises(TableHeld):
                pubsub.publication(Greeting)
            holder.send_signal(signal.SIGKILL)
            holder.wait(timeout=10)
            pubsub.publication(Greeting)


@pytest.mark.parametrize("persistent", [False, True])
def test_kill_9_anywhere_leaves_what_publish_returned_for_or_that_plus_the_one_in_flight(
    root: Path, persistent: bool
) -> None:
    for _ in range(8):
        arguments = [root, "persistent"] if persistent else [root]
        with running("python", "-c", HOLD, *arguments, stdout=subprocess.PIPE) as publisher:
            assert publisher.stdout is not None
            for _ in range(20):
                publisher.stdout.readline()
            publisher.send_signal(signal.SIGKILL)
            publisher.wait(timeout=10)
            said = [line for line in publisher.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        with PubSub(root, "hello") as pubsub:
            held = pubsub.publication(Greeting, persistent=persistent).get("counter")
            assert held is not None
            assert held.text == "x" * 5000
            if said:
                assert held.seq - int(said[-1]) in (0, 1)


PUBLISH_FOREVER = """
import itertools, msgspec, sys
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
publication = PubSub(sys.argv[1], "hello").publication(Greeting, persistent=len(sys.argv) > 2)
before = publication.get("k")
for seq in itertools.count(1 if before is None else before.seq + 1):
    publication.publish("k", Greeting(text=str(seq % 10) * 300_000, seq=seq))
    print(seq, flush=True)
"""


@pytest.mark.parametrize("persistent", [False, True])
def test_a_reader_never_sees_half_a_record_even_when_the_publisher_is_killed(root: Path, persistent: bool) -> None:
    base = root / ("persist/status" if persistent else "run")
    seen: list[Greeting] = []
    with PubSub(root) as reading:
        subscription = reading.subscription("hello", Greeting, persistent=persistent)
        for _ in range(3):
            arguments = [root, "persistent"] if persistent else [root]
            with running("python", "-c", PUBLISH_FOREVER, *arguments, stdout=subprocess.PIPE) as publisher:
                assert publisher.stdout is not None
                publisher.stdout.readline()
                for _ in range(40):
                    with (base / "hello/Greeting/k.json").open("rb") as file:  # as `cat` does
                        seen.append(decode(Greeting, file.read()))
                    reading.wait(0)
                    followed = subscription.get("k")
                    assert followed is not None
                    assert followed.text == str(followed.seq % 10) * 300_000
                    publisher.stdout.readline()
                publisher.send_signal(signal.SIGKILL)
                publisher.wait(timeout=10)
    assert all(record.text == str(record.seq % 10) * 300_000 for record in seen)
    numbers = [record.seq for record in seen]
    assert numbers == sorted(numbers)  # never back in time, over the kills too
    assert subscription.rejected_count == 0


def test_a_live_publisher_puts_back_what_others_delete_overwrite_or_remove(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        publication.signal_restarted()
        for key in "abc":
            publication.publish(key, Greeting(text=key))
        wanted = file(root, "a").read_bytes()
        file(root, "a").unlink()
        file(root, "b").write_text("scribble")
        pubsub.wait(1)
        assert file(root, "a").read_bytes() == wanted
        assert file(root, "b").read_bytes() == b'{"text":"b","seq":0}'
        subprocess.run(["rm", "-rf", root / "run/hello"], check=True)
        pubsub.wait(1)
        assert sorted(p.name for p in (root / "run/hello/Greeting").glob("[!.]*")) == [
            "a.json",
            "b.json",
            "c.json",
            "restarted",
        ]
        assert not publication.publish("a", Greeting(text="a"))


def test_a_directory_removed_just_before_a_publish_is_made_again_with_everything(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        publication.publish("a", Greeting(text="a"))
        subprocess.run(["rm", "-rf", root / "run"], check=True)
        assert publication.publish("b", Greeting(text="b"))
        assert sorted(p.stem for p in (root / "run/hello/Greeting").glob("*.json")) == ["a", "b"]


def test_a_strangers_file_in_a_held_table_is_moved_aside_not_deleted(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting)
        file(root, "stray").write_text('{"text":"by hand"}')
        pubsub.wait(1)
        assert not file(root, "stray").exists()
        assert (root / "run/hello/Greeting/.quarantine/stray.json").read_text() == '{"text":"by hand"}'


def test_a_strangers_file_is_moved_aside_even_where_a_directory_of_that_name_was_before(root: Path) -> None:
    file(root, "stray").mkdir(parents=True)
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting)
        file(root, "stray").write_text('{"text":"by hand"}')
        pubsub.wait(1)
        assert not file(root, "stray").exists()
        aside = sorted((root / "run/hello/Greeting/.quarantine").iterdir())
        assert [path.is_file() for path in aside] == [False, True]
        assert aside[1].read_text() == '{"text":"by hand"}'


def test_an_unreadable_record_of_a_former_publisher_is_set_aside_at_the_start(root: Path) -> None:
    directory = root / "run/hello/Greeting"
    directory.mkdir(parents=True)
    (directory / "cut.json").write_text('{"text":"a')
    (directory / "good.json").write_text('{"text":"g"}')
    with PubSub(root, "hello") as pubsub:
        assert pubsub.publication(Greeting).items() == {"good": Greeting(text="g")}
    assert (directory / ".quarantine/cut.json").read_text() == '{"text":"a'


@pytest.mark.parametrize("damage", ["missing", "empty", "garbled"])
def test_a_persistent_record_comes_back_from_its_backup(root: Path, damage: str) -> None:
    path = root / "persist/status/hello/Greeting/k.json"
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting, persistent=True)
        publication.publish("k", Greeting(seq=1))
        assert not path.with_name("k.json.bak").exists()
        publication.publish("k", Greeting(seq=2))
        publication.publish("k", Greeting(seq=3))
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("" if damage == "empty" else '{"seq":')
    with PubSub(root, "hello") as pubsub:
        assert pubsub.publication(Greeting, persistent=True).get("k") == Greeting(seq=2)


def test_a_kill_between_the_two_renames_of_a_publish_leaves_nothing_in_staging(root: Path) -> None:
    path = root / "persist/status/hello/Greeting/k.json"
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting, persistent=True).publish("k", Greeting(seq=1))
    path.with_name("k.json.bak").hardlink_to(path)  # the backup was in place, the new record not yet
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting, persistent=True).publish("k", Greeting(seq=2))
    assert list((path.parent / ".staging").iterdir()) == []
    assert path.with_name("k.json.bak").read_bytes() == b'{"text":"","seq":1}'


def test_an_unpublished_persistent_record_never_comes_back(root: Path) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting, persistent=True)
        for seq in range(3):
            publication.publish("k", Greeting(seq=seq))
        publication.unpublish("k")
    with PubSub(root, "hello") as pubsub:
        assert pubsub.publication(Greeting, persistent=True).items() == {}


def test_a_full_disk_keeps_the_previous_record_and_says_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        with PubSub(small, "hello") as pubsub:
            publication = pubsub.publication(Greeting)
            publication.publish("k", Greeting(text="small"))
            with pytest.raises(PublishFailed, match="No space left on device; the previous record stands"):
                publication.publish("k", Greeting(text="x" * 300_000))
            assert publication.get("k") == Greeting(text="small")
            assert file(small, "k").read_bytes() == b'{"text":"small","seq":0}'
            assert publication.publish("k", Greeting(text="still alive"))
    finally:
        subprocess.run(["umount", small], check=True)
