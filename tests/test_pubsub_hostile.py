"""Hostile input, row by row: names, planted files, contents. Each has one clear outcome and disturbs nothing else."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from pillar.pubsub import BadKey, BadName, PubSub, PubSubError


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] = 0


GOOD = '{"text":"good","seq":1}'
NFC, NFD = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")

REFUSED_NAMES = {
    "a slash": "a/b",
    "only a slash": "/",
    "the directory above": "..",
    "the directory itself": ".",
    "a way out": "../../etc/passwd",
    "empty": "",
    "a NUL": "a\0b",
    "a leading dot": ".hidden",
    "the lock": ".lock",
    "the staging directory": ".staging",
    "256 bytes": "x" * 256,
    "256 bytes of UTF-8": "ä" * 128,
    "not UTF-8": os.fsdecode(b"\xff\xfe"),
    "a lone surrogate": "\ud800",
}
TAKEN_NAMES = {
    "a newline": "a\nb",
    "a suffix of its own": "a.json",
    "what EVE mangles into a": "a.json.b",
    "250 bytes": "x" * 250,
    "the name of the restart counter": "restarted",
    "a terminal escape": "\x1b]0;owned\x07\x1b[31mred",
    "spaces and shell": " $(reboot) `reboot` ; rm -rf * ",
    "an option": "--help",
    "a percent sign": "%s%n",
    "composed": NFC,
    "decomposed": NFD,
    "right to left": "\u202egnp.exe",
}
TOO_LONG_KEYS = {f"{size} bytes": "x" * size for size in range(251, 256)}  # a directory may have such a name


def table(root: Path) -> Path:
    return root / "run/hello/Greeting"


@pytest.mark.parametrize("name", [*REFUSED_NAMES, *TOO_LONG_KEYS])
def test_a_key_is_refused_and_nothing_changes(root: Path, name: str) -> None:
    key = (REFUSED_NAMES | TOO_LONG_KEYS)[name]
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        publication.publish("good", Greeting())
        with pytest.raises(BadKey):
            publication.publish(key, Greeting())
        assert not publication.unpublish(key)
        assert publication.get(key) is None
        assert publication.keys() == ["good"]
        assert sorted(path.name for path in table(root).iterdir()) == [".lock", ".staging", "good.json"]


@pytest.mark.parametrize("key", [3, None, b"k", ("k",)])
def test_a_key_that_is_no_text_is_refused_as_such(root: Path, key: object) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        with pytest.raises(BadKey, match=f"is of type {type(key).__name__}, a key is text"):
            publication.publish(key, Greeting())  # type: ignore[arg-type]
        assert publication.keys() == []


@pytest.mark.parametrize("name", TAKEN_NAMES)
def test_a_key_is_taken_as_it_is(root: Path, name: str) -> None:
    key = TAKEN_NAMES[name]
    with PubSub(root, "hello") as pubsub, PubSub(root) as reader:
        pubsub.publication(Greeting).publish(key, Greeting(seq=7))
        subscription = reader.subscription("hello", Greeting)
        reader.wait(0)
        assert subscription.items() == {key: Greeting(seq=7)}
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        assert publication.keys() == [key]
        assert publication.unpublish(key)


def test_twins_that_look_the_same_are_two_keys(root: Path) -> None:
    with PubSub(root, "hello") as pubsub, PubSub(root) as reader:
        publication = pubsub.publication(Greeting)
        publication.publish(NFC, Greeting(seq=1))
        publication.publish(NFD, Greeting(seq=2))
        subscription = reader.subscription("hello", Greeting)
        reader.wait(0)
        assert subscription.items() == {NFC: Greeting(seq=1), NFD: Greeting(seq=2)}


# The empty agent is the global table, the empty scope is none, the empty name is not durable.
@pytest.mark.parametrize(
    ("part", "name"),
    [
        (part, name)
        for part in ("agent", "scope", "topic", "durable")
        for name in REFUSED_NAMES
        if name != "empty" or part == "topic"
    ],
)
def test_an_agent_a_scope_a_topic_is_refused_and_nothing_is_made(root: Path, part: str, name: str) -> None:
    text = REFUSED_NAMES[name]
    with PubSub(root, "me") as pubsub:
        if part in ("agent", "scope"):
            with pytest.raises(BadName):
                pubsub.publication(Greeting, **{part: text})  # type: ignore[arg-type]
        names = {"agent": "hello", "topic": "Greeting"} | {part: text}
        agent = names.pop("agent")
        with pytest.raises(BadName):
            pubsub.subscription(agent, None, **names)  # type: ignore[call-overload]
    assert list(root.rglob("*")) == []


@pytest.mark.parametrize("part", ["agent", "scope", "topic"])
@pytest.mark.parametrize("name", TAKEN_NAMES | TOO_LONG_KEYS)
def test_an_agent_a_scope_a_topic_is_taken_as_it_is(root: Path, part: str, name: str) -> None:
    parts = {"agent": "hello", "scope": "", "topic": "Greeting"} | {part: (TAKEN_NAMES | TOO_LONG_KEYS)[name]}
    record_type = msgspec.defstruct(parts["topic"], [("seq", int, 0)])
    with PubSub(root, parts["agent"]) as pubsub, PubSub(root) as reader:
        pubsub.publication(record_type, scope=parts["scope"]).publish("k", record_type(seq=7))
        subscription = reader.subscription(parts["agent"], record_type, scope=parts["scope"])
        reader.wait(0)
        assert subscription.items() == {"k": record_type(seq=7)}
    assert (root / "run" / parts["agent"] / parts["scope"] / parts["topic"] / "k.json").exists()


def test_a_topic_that_no_socket_address_has_room_for_is_refused_and_nothing_is_made(root: Path) -> None:
    with PubSub(root, "hello", driver="socket") as pubsub:
        fits, too_long = (msgspec.defstruct("T" * size, [("seq", int, 0)]) for size in (79, 80))
        for opened in (pubsub.publication, lambda record_type: pubsub.subscription("hello", record_type)):
            with pytest.raises(BadName, match="has 80 bytes, at most 79 fit into a socket's address"):
                opened(too_long)
        assert list(root.rglob("*")) == []
        for _ in range(2):  # the second time too: the first keeps no lock on the ledger
            with pytest.raises(BadName):
                pubsub.subscription("hello", too_long, durable="kept")
        publication = pubsub.publication(fits)
        publication.publish("k", fits(seq=7))
        subscription = pubsub.subscription("hello", fits)
        while not subscription.is_synchronized:
            pubsub.wait(1)
        assert subscription.items() == {"k": fits(seq=7)}


def test_no_terminal_escape_reaches_the_screen(root: Path) -> None:
    escape = TAKEN_NAMES["a terminal escape"]
    with PubSub(root, "hello") as pubsub:
        pubsub.publication(Greeting).publish(escape, Greeting(text=escape))
    with PubSub(root, escape) as pubsub:
        pubsub.publication(Greeting, scope=escape).publish("k", Greeting())
    for words in (["ls"], ["ls", "hello/Greeting"], ["get", "hello/Greeting"]):
        command = [sys.executable, "-m", "pillar", *words, "--root", str(root)]
        shown = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert shown.returncode == 0, shown.stderr
        assert b"\x1b]" not in shown.stdout and b"\x07" not in shown.stdout


# What stands under a record's name.


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def plant_socket(path: Path) -> None:
    where = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{where}/{path.name}")
    finally:
        os.close(where)


def plant_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making a device needs root")
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: endless
    except PermissionError:
        pytest.skip("this machine does not let root make a device")


def plant_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


def plant_directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text(GOOD)


PLANTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link inside the table": (link_to("good.json"), "symbolic link"),
    "a link outside": (link_to("/etc/passwd"), "symbolic link"),
    "a dangling link": (link_to("nowhere"), "symbolic link"),
    "a link to itself": (link_to("k.json"), "symbolic link"),
    "a FIFO": (os.mkfifo, "FIFO"),
    "a socket": (plant_socket, "socket"),
    "a device": (plant_device, "character device"),
    "a directory": (plant_directory, "directory"),
    "a file of 2 GiB": (plant_sparse, "has 2147483648 bytes"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_no_record_is_named_and_neither_followed_nor_waited_for(root: Path, name: str) -> None:
    plant, reason = PLANTED[name]
    table(root).mkdir(parents=True)
    (table(root) / "good.json").write_text(GOOD)
    plant(table(root) / "k.json")
    with PubSub(root) as reader:
        subscription = reader.subscription("hello", Greeting)
        reader.wait(0)
        assert subscription.items() == {"good": Greeting("good", 1)}
        assert subscription.is_synchronized
        assert list(subscription.rejected) == ["k.json"]
        assert reason in subscription.rejected["k.json"].reason
        # A publisher that starts there sets it aside and publishes under that very name.
        with PubSub(root, "hello") as pubsub:
            publication = pubsub.publication(Greeting)
            assert publication.keys() == ["good"]
            assert os.path.lexists(table(root) / ".quarantine/k.json")
            assert publication.publish("k", Greeting(seq=2))
            reader.wait(0)
            assert subscription.get("k") == Greeting(seq=2)
            assert subscription.rejected == {}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_under_a_live_publisher_is_replaced_by_its_record(root: Path, name: str) -> None:
    with PubSub(root, "hello", relist_seconds=(0.01, 0.01)) as pubsub:
        publication = pubsub.publication(Greeting)
        publication.publish("k", Greeting(seq=1))
        wanted = (table(root) / "k.json").read_bytes()
        (table(root) / "k.json").unlink()
        PLANTED[name][0](table(root) / "k.json")
        pubsub.wait(1)
        pubsub.wait(0.05)
        assert not (table(root) / "k.json").is_symlink()
        assert (table(root) / "k.json").read_bytes() == wanted


def test_a_hard_link_is_a_record_like_any_other(root: Path) -> None:
    table(root).mkdir(parents=True)
    (root / "outside").write_text(GOOD)
    os.link(root / "outside", table(root) / "k.json")
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting)
        assert publication.get("k") == Greeting("good", 1)
        publication.publish("k", Greeting(seq=2))
    assert (root / "outside").read_text() == GOOD  # replaced by name, never written through


READ_AS_NOBODY = """
import os, sys, msgspec
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
os.setgroups([])
os.setgid(int(sys.argv[3]))
os.setuid(65534)
pubsub = PubSub(sys.argv[1])
subscription = pubsub.subscription(sys.argv[2], Greeting)
pubsub.wait(0)
print(sorted(subscription.keys()), {name: bad.reason for name, bad in subscription.rejected.items()})
"""


def as_nobody(root: Path, agent: str = "hello", gid: int = 65534) -> str:
    """What a process without any right sees of a table."""
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else needs root")
    root.chmod(0o755)
    command = [sys.executable, "-c", READ_AS_NOBODY, str(root), agent, str(gid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_a_file_of_mode_0000_and_one_of_another_owner_are_named_with_their_mode(root: Path) -> None:
    table(root).mkdir(parents=True)
    for directory in (table(root), root / "run", root / "run/hello"):
        directory.chmod(0o755)
    for name, mode in (("none", 0), ("foreign", 0o600), ("open", 0o644)):
        (table(root) / f"{name}.json").write_text(GOOD)
        (table(root) / f"{name}.json").chmod(mode)
    said = as_nobody(root)
    assert said.startswith("['open']")
    assert "'none.json': 'may not be read: mode 0000, Permission denied'" in said
    assert "'foreign.json': 'may not be read: mode 0600, Permission denied'" in said


def test_a_table_is_its_owners_alone_unless_it_names_a_group(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to a group needs root")
    old = os.umask(0o077)
    try:
        with PubSub(root, "hello") as pubsub:
            publication = pubsub.publication(Greeting)
            publication.publish("k", Greeting())
            pubsub.publication(Greeting, scope="private").publish("k", Greeting())
        assert stat.S_IMODE((root / "run/hello").stat().st_mode) == 0o700
        assert "[]" in as_nobody(root, gid=1234)
        with PubSub(root, "hello") as pubsub:
            publication = pubsub.publication(Greeting, group=1234)
            publication.publish("new", Greeting())
            publication.signal_restarted()
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root / "run/hello", *table(root).iterdir()]}
        assert modes == {
            root / "run/hello": 0o711,
            table(root) / "k.json": 0o640,
            table(root) / "new.json": 0o640,
            table(root) / "restarted": 0o640,
            table(root) / ".lock": 0o600,
            table(root) / ".staging": 0o700,
        }
        assert stat.S_IMODE(table(root).stat().st_mode) == 0o750
        assert as_nobody(root, gid=1234).startswith("['k', 'new'] {}")
        assert "[]" in as_nobody(root, gid=4321)
        assert stat.S_IMODE((root / "run/hello/private").stat().st_mode) == 0o700
    finally:
        os.umask(old)
    with PubSub(root, "hello") as pubsub, pytest.raises(BadName, match="no group 'nobodies'"):
        pubsub.publication(Greeting, group="nobodies")


PUBLISH_AS_NOBODY = """
import os, sys, msgspec
from pillar.pubsub import PubSub, PublishFailed
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
os.setgroups([])
os.setgid(1234)
os.setuid(65534)
try:
    PubSub(sys.argv[1], "hello").publication(Greeting).publish("k", Greeting(text="not mine"))
except PublishFailed as err:
    print(err)
"""


@pytest.mark.parametrize("driver", ["file", "socket"])
def test_only_its_owners_processes_can_publish_not_even_the_group_that_reads(root: Path, driver: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else needs root")
    root.chmod(0o755)
    with PubSub(root, "hello", driver=driver) as pubsub:
        pubsub.publication(Greeting, group=1234).publish("k", Greeting(text="mine"))
    command = [sys.executable, "-c", PUBLISH_AS_NOBODY, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == f"{table(root)}: cannot be opened: Permission denied\n", done.stderr
    assert (table(root) / "k.json").read_text() == '{"text":"mine","seq":0}'


@pytest.mark.parametrize("where", ["inside the root", "outside", "dangling", "to itself", "to a file"])
def test_a_linked_topic_directory_is_followed_or_named(root: Path, where: str, tmp_path: Path) -> None:
    table(root).parent.mkdir(parents=True)
    (root / "file").write_text("")
    (root / "elsewhere").mkdir()
    target = {
        "inside the root": root / "elsewhere",
        "outside": tmp_path,
        "dangling": root / "nowhere",
        "to itself": table(root),
        "to a file": root / "file",
    }[where]
    table(root).symlink_to(target)
    with PubSub(root) as reader, PubSub(root, "hello") as pubsub:
        subscription = reader.subscription("hello", Greeting)
        reader.wait(0)
        if target.is_dir():
            pubsub.publication(Greeting).publish("k", Greeting(seq=3))
            reader.wait(0)
            assert subscription.items() == {"k": Greeting(seq=3)}
            assert (target / "k.json").exists()
        else:
            with pytest.raises(PubSubError, match="run/hello/Greeting: cannot be opened"):
                pubsub.publication(Greeting)
            assert not subscription.is_synchronized


# What a record's file holds. The outcome is the record that Go would read, or the reason why there is none.

CONTENTS: dict[str, tuple[bytes, Greeting | str]] = {
    "empty": (b"", "Expecting value"),
    "white space": (b" \n", "Expecting value"),
    "trailing bytes": (GOOD.encode() + b"}", "Extra data"),
    "two records": (GOOD.encode() * 2, "Extra data"),
    "NULs after a crash": (b"\0" * 512, "Expecting value"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "BOM"),
    "UTF-16": (GOOD.encode("utf-16"), "UTF-8"),
    "bad UTF-8": (b'{"text":"\xff"}', "UTF-8"),
    "an overlong NUL": (b'{"text":"\xc0\x80"}', "UTF-8"),
    "an escaped lone surrogate": (b'{"text":"\\ud800"}', Greeting("\ufffd")),
    "a member twice": (b'{"seq":1,"seq":2}', Greeting(seq=2)),
    "a member in another case": (b'{"SEQ":2}', Greeting(seq=2)),
    "an unknown member": (b'{"seq":2,"Later":[1]}', Greeting(seq=2)),
    "another topic's record": (b'{"Name":"x","State":255}', Greeting()),
    "another topic's types": (b'{"text":{"Name":"x"}}', r"$.text"),
    "null": (b"null", "object"),
    "a list": (b"[]", "object"),
    "a number": (b"7", "object"),
    "NaN": (b'{"seq":NaN}', "no JSON number"),
    "Infinity": (b'{"seq":Infinity}', "no JSON number"),
    "a single quote": (b"{'seq':1}", "double quotes"),
    "a comment": (b'{"seq":1} // one', "Extra data"),
    "400 digits": (b'{"seq":' + b"9" * 400 + b"}", r"$.seq"),
    "a fraction": (b'{"seq":1.5}', r"$.seq"),
    "nested a million times": (b'{"text":' + b"[" * 1_000_000, "nested"),
    "nested a million times and closed": (b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000, "nested"),
    "a hundred thousand members": (
        b'{"seq":2,' + b",".join(b'"m%d":0' % n for n in range(100_000)) + b"}",
        Greeting(seq=2),
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_files_content_is_the_record_that_go_reads_or_a_reason(root: Path, name: str) -> None:
    content, outcome = CONTENTS[name]
    table(root).mkdir(parents=True)
    (table(root) / "k.json").write_text(GOOD)
    with PubSub(root) as reader:
        subscription = reader.subscription("hello", Greeting)
        reader.wait(0)
        (table(root) / "k.json").write_bytes(content)
        (table(root) / "after.json").write_text("{}")
        reader.wait(0)
        assert subscription.get("after") == Greeting()
        if isinstance(outcome, Greeting):
            assert subscription.get("k") == outcome
            assert subscription.rejected == {}
        else:
            assert subscription.get("k") == Greeting("good", 1)
            assert outcome in subscription.rejected["k.json"].reason


def test_a_record_cut_at_any_byte_is_never_taken(root: Path) -> None:
    table(root).mkdir(parents=True)
    whole = '{"text":"a \\u003c \\" \\\\ é","seq":-12}'.encode()
    with PubSub(root) as reader:
        subscription = reader.subscription("hello", Greeting)
        for length in range(len(whole)):
            (table(root) / f"{length}.json").write_bytes(whole[:length])
        reader.wait(0)
        assert subscription.keys() == []
        assert len(subscription.rejected) == len(whole)


def test_the_rows_are_counted() -> None:
    keys = len(REFUSED_NAMES) + len(TOO_LONG_KEYS) + len(TAKEN_NAMES)
    parts = 4 * len(REFUSED_NAMES) - 3 + 3 * (len(TAKEN_NAMES) + len(TOO_LONG_KEYS))
    rows = keys + parts + 2 * len(PLANTED) + len(CONTENTS)
    print(f"\nhostile input: {rows} rows of names, planted files and contents, each with its outcome")
    assert rows > 120
