"""`pillar ls`, `get` and `watch` as people and scripts meet them: real processes, on trees where nothing else runs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import running

from pillar.command.render import changes, masked, name_of, short, text_of
from pillar.pubsub import PubSub
from pillar.terminal import Palette, age, printable, size, table
from pillar.types.downloader import DatastoreConfig
from pillar.types.networkmode import NetworkMode
from pillar.types.uuidtonum import UuidToNum

PILLAR = (sys.executable, "-m", "pillar")
NASTY = "\x1b]0;owned\x07\u202eevil\n"


def pillar(root: Path, *words: str, status: int = 0) -> str:
    """What a command printed; fails unless it ended with this status."""
    done = subprocess.run(
        [*PILLAR, *words, "--root", str(root)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout if status == 0 else done.stderr + done.stdout


def put(root: Path, path: str, record: Any) -> Path:
    """A record written by hand."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record) if not isinstance(record, str) else record)
    return file


@pytest.fixture
def tree(root: Path) -> Path:
    """Tables of every kind, left behind by processes that are gone."""
    with PubSub(root, "zedrouter") as pubsub:
        pubsub.publication(NetworkMode).publish("global", NetworkMode(Mode="none"))
        numbers = pubsub.publication(UuidToNum, persistent=True)
        numbers.publish("aaa1", UuidToNum(Number=1))
        numbers.publish("aab2", UuidToNum(Number=2))
    put(root, "run/downloader/appImg.obj/DownloaderStatus/http: x y.sha.json", {"State": 2, "Progress": 5})
    put(root, "run/global/GlobalConfig/global.json", {"ConfigInterval": 60})
    put(root, "run/zedagent/DatastoreConfig/s.json", {"Password": "hunter2", "ApiKey": "me", "Fqdn": "http://h"})
    put(root, "run/mine/thing/k.json", {"db_password": "hunter2", "size": 3, "list": [{"secret": "hunter2"}]})
    (root / "run/zedmanager/AppInstanceStatus").mkdir(parents=True)
    put(root, "run/zedmanager.pid", "1")
    return root


# ---- ls


def test_ls_shows_every_table_with_its_count_also_those_that_nobody_has_opened(tree: Path) -> None:
    listed = {one["table"]: one for one in json.loads(pillar(tree, "ls", "--json"))["tables"]}
    assert {name: one["keys"] for name, one in listed.items()} == {
        "downloader/appImg.obj/DownloaderStatus": 1,
        "global/GlobalConfig": 1,
        "mine/thing": 1,
        "zedagent/DatastoreConfig": 1,
        "zedmanager/AppInstanceStatus": 0,
        "zedrouter/NetworkMode": 1,
        "zedrouter/UuidToNum": 2,
    }
    assert listed["zedrouter/UuidToNum"]["persistent"] is True
    assert listed["downloader/appImg.obj/DownloaderStatus"]["scope"] == "appImg.obj"
    assert listed["zedmanager/AppInstanceStatus"]["newest"] is None
    assert 0 <= listed["zedrouter/NetworkMode"]["age_s"] < 60


def test_ls_tells_a_living_publisher_from_a_dead_one(tree: Path) -> None:
    def publisher() -> dict[str, Any]:
        (one,) = json.loads(pillar(tree, "ls", "zedrouter/NetworkMode", "--json"))["tables"]
        found: dict[str, Any] = one["publisher"]
        return found

    # This process closed the table: it runs, but it holds the table no more.
    assert publisher() == {"pid": os.getpid(), "alive": False}
    with PubSub(tree, "zedrouter") as pubsub:
        pubsub.publication(NetworkMode)
        assert publisher() == {"pid": os.getpid(), "alive": True}
        assert f"{os.getpid()}\n" in pillar(tree, "ls", "zedrouter") + "\n"
    assert "(gone)" in pillar(tree, "ls", "zedrouter")


def test_ls_of_an_agent_a_table_and_a_key(tree: Path) -> None:
    assert "zedagent" not in pillar(tree, "ls", "zedrouter")
    keys = pillar(tree, "ls", "zedrouter/UuidToNum")
    assert [line.split()[0] for line in keys.splitlines()] == ["KEY", "aaa1", "aab2"]
    assert "http: x y.sha" in pillar(tree, "ls", "downloader/appImg.obj/DownloaderStatus")
    entries = json.loads(pillar(tree, "ls", "zedrouter/UuidToNum/aab", "--json"))["tables"][0]["entries"]
    assert [entry["key"] for entry in entries] == ["aab2"]


def test_ls_of_what_is_not_there_names_what_is(tree: Path) -> None:
    assert "did you mean 'zedrouter'?" in pillar(tree, "ls", "zedroute", status=1)
    assert "is no directory" in pillar(tree / "nowhere", "ls", status=1)
    assert not (tree / "nowhere").exists()
    empty = tree / "empty"
    empty.mkdir()
    assert "no tables" in pillar(empty, "ls")


# ---- get


def test_get_prints_a_record_by_the_beginning_of_its_key(tree: Path) -> None:
    assert json.loads(pillar(tree, "get", "zedrouter/UuidToNum/aab", "--json"))["Number"] == 2
    assert json.loads(pillar(tree, "get", "zedrouter/UuidToNum/aab2.json"))["Number"] == 2
    assert json.loads(pillar(tree, "get", "global/GlobalConfig/global")) == {"ConfigInterval": 60}
    assert "2 keys of zedrouter/UuidToNum begin with 'aa': aaa1, aab2" in pillar(
        tree, "get", "zedrouter/UuidToNum/aa", status=1
    )


def test_get_prints_a_table_key_by_key(tree: Path) -> None:
    whole = json.loads(pillar(tree, "get", "zedrouter/UuidToNum", "--json"))
    assert {key: record["Number"] for key, record in whole.items()} == {"aaa1": 1, "aab2": 2}
    assert json.loads(pillar(tree, "get", "zedmanager/AppInstanceStatus")) == {}


def test_secrets_are_masked_unless_asked_for_also_in_types_nobody_knows(tree: Path) -> None:
    for path in ("zedagent/DatastoreConfig", "mine/thing"):
        assert "hunter2" not in pillar(tree, "get", path)
        assert "hunter2" in pillar(tree, "get", path, "--show-secrets")
    record = json.loads(pillar(tree, "get", "mine/thing/k"))
    assert (record["size"], record["db_password"], record["list"]) == (3, "********", [{"secret": "********"}])


def test_get_of_what_is_not_there_or_is_no_table(tree: Path) -> None:
    assert "there is no table 'nim/Nothing'" in pillar(tree, "get", "nim/Nothing", status=1)
    assert "has no key 'zzz'" in pillar(tree, "get", "zedrouter/UuidToNum/zzz", status=1)
    assert "a key holds no slash" in pillar(tree, "get", "zedrouter/UuidToNum/a/b", status=1)
    assert "zedrouter/NetworkMode, zedrouter/UuidToNum" in pillar(tree, "get", "zedrouter", status=2)
    pillar(tree, "get", status=2)


def test_a_bad_record_is_reported_and_the_others_are_printed(tree: Path) -> None:
    put(tree, "run/mine/thing/cut.json", '{"a":')
    put(tree, "run/mine/thing/deep.json", '{"a":' + "[" * 100_000)
    os.mkfifo(tree / "run/mine/thing/pipe.json")
    (tree / "run/mine/thing/link.json").symlink_to("/etc/passwd")
    output = pillar(tree, "get", "mine/thing", status=1)
    for name in ("cut", "deep", "pipe", "link"):
        assert f"/{name}.json" in output
    assert "root:" not in output
    assert '"size": 3' in output


def test_what_a_record_holds_cannot_command_the_terminal(tree: Path) -> None:
    put(tree, f"run/mine/thing/{NASTY.strip()}.json", {NASTY: NASTY})
    for words in (["ls", "mine/thing"], ["get", "mine/thing"], ["get", "mine/thing", "--json"], ["watch", "--once"]):
        output = pillar(tree, *words)
        assert not any(nasty in output for nasty in ("\x1b", "\x07", "\u202e"))
        assert "owned" in output
    assert json.loads(pillar(tree, "get", "mine/thing"))[NASTY.strip()] == {NASTY: NASTY}  # and is still exact


def on_terminal(root: Path, *words: str) -> str:
    """What a person at a terminal sees."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    try:
        subprocess.run([*PILLAR, *words, "--root", str(root)], stdout=follower, env=environment, timeout=60, check=True)
        return os.read(leader, 65536).decode()
    finally:
        os.close(leader)
        os.close(follower)


def test_colour_is_for_terminals_only(tree: Path) -> None:
    for words in (["ls"], ["get", "zedrouter/NetworkMode"], ["watch", "--once"]):
        assert "\x1b[" in on_terminal(tree, *words)
        assert "\x1b" not in pillar(tree, *words)


# ---- watch


@contextmanager
def watching(root: Path, *words: str) -> Iterator[Callable[[], Any]]:
    """A running `pillar watch --json`; calling what is yielded waits for its next line."""
    with running(*PILLAR, "watch", "--json", *words, "--root", root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = process.stdout

        def following() -> Any:
            line = lines.readline()
            assert line, "pillar watch ended"
            return json.loads(line)

        yield following


def test_watch_begins_with_what_is_there_and_shows_each_change_field_by_field(tree: Path) -> None:
    with watching(tree, "downloader") as following:
        first = following()
        assert (first["kind"], first["key"], first["initial"]) == ("create", "http: x y.sha", True)
        path = "run/downloader/appImg.obj/DownloaderStatus"
        put(tree, f"{path}/http: x y.sha.json", {"State": 3, "Progress": 5, "Errors": ["a"]})
        change = following()
        assert (change["kind"], change["table"]) == ("modify", "downloader/appImg.obj/DownloaderStatus")
        assert change["changes"] == [{"field": "State", "old": 2, "new": 3}, {"field": "Errors", "new": ["a"]}]
        put(tree, f"{path}/two.json", {"State": 1})
        assert (following()["key"], change["initial"]) == ("two", False)
        (tree / path / "two.json").unlink()
        gone = following()
        assert (gone["kind"], gone["key"], gone["old"]) == ("delete", "two", {"State": 1})


def test_watch_finds_tables_that_come_later_at_any_depth(tree: Path) -> None:
    with watching(tree) as following:
        initial = {following()["table"] for _ in range(7)}
        assert "zedrouter/UuidToNum" in initial
        put(tree, "run/nim/DeviceNetworkStatus/global.json", {"Version": 1})
        assert following()["table"] == "nim/DeviceNetworkStatus"
        put(tree, "run/nim/deep.obj/Topic/k.json", {"a": 1})
        assert (following()["table"]) == "nim/deep.obj/Topic"
        put(tree, "persist/status/nim/lower/k.json", {"a": 1})
        assert (following()["table"]) == "nim/lower"


def test_watch_waits_for_a_table_that_does_not_exist_in_a_root_that_is_empty(root: Path) -> None:
    with watching(root, "mine/Thing/k") as following:
        put(root, "run/other/Thing/k.json", {"a": 1})
        put(root, "run/mine/Thing/other.json", {"a": 1})
        put(root, "run/mine/Thing/key1.json", {"a": 1})
        assert (following()["key"]) == "key1"


def test_watch_tells_restarts_and_masks_secrets(tree: Path) -> None:
    with PubSub(tree, "zedagent") as pubsub:
        stores = pubsub.publication(DatastoreConfig)
        with watching(tree, "zedagent/DatastoreConfig") as following:
            assert following()["new"]["Password"] == "********"
            stores.signal_restarted()
            assert (following() | {"time": ""})["counter"] == 1
            stores.publish("s", DatastoreConfig(Password="hunter3"))
            change = following()
            assert "hunter" not in json.dumps(change)
            assert not any(one["field"] == "Password" for one in change["changes"])


def test_watch_for_people_names_states(tree: Path) -> None:
    words = [*PILLAR, "watch", "downloader", "--root", tree]
    with running(*words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert "+ downloader/appImg.obj/DownloaderStatus http: x y.sha" in process.stdout.readline()
        put(tree, "run/downloader/appImg.obj/DownloaderStatus/http: x y.sha.json", {"State": 3, "Progress": 5})
        assert "~ downloader" in process.stdout.readline()
        assert process.stdout.readline() == "      State: DOWNLOAD_STARTED → DOWNLOADED\n"


def test_watch_ends_when_it_is_told_to(tree: Path) -> None:
    assert len(pillar(tree, "watch", "--once", "--json").splitlines()) == 7
    assert pillar(tree, "watch", "--once", "--new") == ""
    assert len(pillar(tree, "watch", "--count", "2").splitlines()) == 2
    assert pillar(tree, "watch", "--new", "--timeout", "0") == ""
    pillar(tree, "watch", "--new", "--count", "1", "--timeout", "0.1", status=1)
    pillar(tree, "watch", "--count", "0", status=2)
    assert "is no directory" in pillar(tree / "nowhere", "watch", status=1)
    assert not (tree / "nowhere").exists()


def test_watch_ends_when_its_reader_has_gone(tree: Path) -> None:
    with running(*PILLAR, "watch", "mine", "--root", tree, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        for number in range(100):
            put(tree, f"run/mine/thing/{number}.json", {"a": number})
        assert process.wait(timeout=20) == 0


def test_watch_reports_a_bad_record_and_goes_on(tree: Path) -> None:
    command = [*PILLAR, "watch", "mine", "--root", tree]
    with running(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        put(tree, "run/mine/thing/cut.json", '{"a":')
        assert "cut.json" in process.stderr.readline()
        put(tree, "run/mine/thing/cut.json", '{"a": 1}')
        assert "+ mine/thing cut" in process.stdout.readline()


def test_looking_needs_no_heavy_library(tree: Path) -> None:
    heavy = ("boto3", "requests", "pyroute2", "google.protobuf", "cryptography")
    code = (
        "import sys; from pillar.command.main import main; "
        f"status = main(['watch', '--once', '--root', {str(tree)!r}]); "
        f"main(['ls', '--root', {str(tree)!r}]); main(['get', 'mine/thing', '--root', {str(tree)!r}]); "
        f"sys.exit(status or [name for name in {heavy!r} if name in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_looking_takes_no_lock_and_leaves_nothing_behind(tree: Path) -> None:
    before = sorted(str(path) for path in tree.rglob("*"))
    for words in (["ls"], ["ls", "zedrouter/NetworkMode"], ["get", "mine/thing"], ["watch", "--once"]):
        pillar(tree, *words)
    assert sorted(str(path) for path in tree.rglob("*")) == before
    with PubSub(tree, "mine") as pubsub, watching(tree, "mine") as following:
        following()
        pubsub.publication(NetworkMode).publish("global", NetworkMode())  # nobody else holds it
        assert following()["table"] == "mine/NetworkMode"


# ---- how values are shown


def test_a_change_names_the_deepest_member() -> None:
    old = {"a": 1, "list": [{"x": 1}, {"x": 2}], "gone": True, "same": None}
    new = {"a": 1.0, "list": [{"x": 1}, {"x": 3}, {"x": 4}], "same": None, "came": 0}
    found = [(one.field, text_of(one.old), text_of(one.new)) for one in changes(old, new)]
    assert found == [
        ("a", "1", "1.0"),
        ("list[1].x", "2", "3"),
        ("list[2]", "(absent)", '{"x": 4}'),
        ("gone", "true", "(absent)"),
        ("came", "(absent)", "0"),
    ]


def test_numbers_that_are_states_have_names() -> None:
    assert name_of("DownloaderStatus", "State", 3) == "DOWNLOADED"
    assert name_of("AppInstanceStatus", "StorageStatusList[0].State", 4) == "DELIVERED"
    assert name_of("DownloaderStatus", "State", 99) == ""
    assert name_of("DownloaderStatus", "Progress", 3) == ""
    assert name_of("Unknown", "State", 3) == ""


def test_masking_reaches_a_secret_wherever_it_is() -> None:
    record = {"FixedResources": {"VncPasswd": "x"}, "Extra": [{"apiKey": "x", "api_key": "", "Token": None}]}
    assert masked("AppInstanceConfig", record) == {
        "FixedResources": {"VncPasswd": "********"},
        "Extra": [{"apiKey": "********", "api_key": "", "Token": None}],
    }
    assert masked("Unknown", [1, "x"]) == [1, "x"]


def test_text_is_made_harmless_and_stays_readable() -> None:
    assert printable("Größe 東京 \x1b[31m\n\u202e\ud800") == "Größe 東京 \\x1b[31m\\n\\u202e\\ud800"
    assert text_of("ñ\x9b\U000e0001\x7f") == '"ñ\\u009b\\udb40\\udc01\\u007f"'
    assert short("x" * 500).endswith("... (502 characters)")


def test_columns_align_whatever_is_in_them() -> None:
    lines = table([["a", "12"], [("東京", "red"), "3"], ["x"]], Palette(False), ("NAME", "N"), right=[1])
    assert lines == ["NAME   N", "a     12", "東京   3", "x"]
    assert table([[("a", "red"), "b"]], Palette(True))[0] == "\x1b[31ma\x1b[0m  b"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-5, "0.0 s"),
        (0.44, "0.4 s"),
        (59.4, "59 s"),
        (59.6, "1 m 0 s"),
        (3700, "1 h 1 m"),
        (1e6, "11 d 13 h"),
    ],
)
def test_ages_are_short(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


def test_sizes_are_short() -> None:
    assert [size(count) for count in (0, 1023, 1536, 5 << 20, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3072.0 TiB",
    ]


def test_a_publisher_that_has_not_written_its_pid_is_no_publisher(tree: Path) -> None:
    put(tree, "run/mine/thing/.lock", "rubbish")
    assert json.loads(pillar(tree, "ls", "mine", "--json"))["tables"][0]["publisher"] is None
