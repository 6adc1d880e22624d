"""`pillar doctor` finds what is wrong and says how to mend it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support import running, wait_for

from pillar.command import checkup, doctor
from pillar.pubsub import PubSub


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


@pytest.fixture(autouse=True)
def a_roomy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many inotify descriptors this user has is the machine's affair, except where a test asks for it."""
    monkeypatch.setattr(checkup, "_inotify_instances", lambda: 0)


def findings(root: Path) -> list[tuple[str, str, str]]:
    """Level, check and the place below the root, of this root's own findings."""
    found = [finding for finding in checkup.checkup(str(root)) if finding.where.startswith(str(root))]
    assert all(finding.what and finding.mend for finding in found)
    return [(finding.level, finding.check, finding.where.removeprefix(f"{root}/")) for finding in found]


def table(root: Path) -> Path:
    return root / "run/hello/Greeting"


def publish(root: Path, *, persistent: bool = False) -> None:
    with PubSub(root, "hello") as pubsub:
        publication = pubsub.publication(Greeting, persistent=persistent)
        for seq in range(2):
            publication.publish("k", Greeting(seq=seq))


def test_a_healthy_tree_has_no_findings(root: Path) -> None:
    with PubSub(root, "me") as pubsub:
        for persistent in (False, True):
            pubsub.publication(Greeting, persistent=persistent).publish("k", Greeting())
        pubsub.subscription("me", Greeting, durable="greetings")
        pubsub.wait(0)
        assert findings(root) == []


def test_everything_wrong_with_a_table_is_found(root: Path) -> None:
    publish(root)
    (table(root) / ".quarantine").mkdir()
    (table(root) / ".quarantine/stray.json").write_text("{}")
    (table(root) / ".staging/record").write_text("{cut")
    (table(root) / "k.json.swp").write_text("")
    (table(root) / "cut.json").write_text('{"text":')
    (table(root) / "list.json").write_text("[]")
    (table(root) / "link.json").symlink_to("/etc/passwd")
    os.utime(table(root) / "k.json", (2**33, 2**33))
    table(root).chmod(0o777)
    here = "run/hello/Greeting"
    assert findings(root) == [
        ("note", "clock", here),
        ("warning", "modes", here),
        ("note", "left-over", f"{here}/.staging/record"),
        ("note", "left-over", f"{here}/k.json.swp"),
        ("warning", "records", f"{here}/cut.json"),
        ("warning", "records", f"{here}/link.json"),
        ("warning", "records", f"{here}/list.json"),
        ("warning", "quarantine", f"{here}/.quarantine/stray.json"),
        ("note", "locks", str(root)),
    ]


def test_a_backup_without_its_record_and_a_ledger_without_entries_are_found(root: Path) -> None:
    publish(root, persistent=True)
    (root / "persist/status/hello/Greeting/k.json").unlink()
    (root / "run/me/.seen/greetings").mkdir(parents=True)
    assert findings(root) == [
        ("warning", "left-over", "persist/status/hello/Greeting/k.json.bak"),
        ("note", "locks", str(root)),
        ("note", "ledgers", "run/me/.seen/greetings/journal"),
    ]


HOLD = """
import msgspec, os, signal, sys
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct): pass
publication = PubSub(sys.argv[1], "hello").publication(Greeting)
child = os.fork()  # as nobody should while holding a table: the child keeps the lock
if child == 0:
    signal.pause()
print(child, flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_killed_publisher_is_a_note_unless_a_child_of_it_keeps_it(root: Path) -> None:
    with running("python", "-c", HOLD, root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        assert findings(root) == []
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
        try:
            assert findings(root) == [("warning", "locks", "run/hello/Greeting")]
        finally:
            os.kill(child, signal.SIGKILL)
    wait_for(lambda: findings(root) == [("note", "locks", str(root))], "the lock to be free")


def test_records_of_another_owner_are_found(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    publish(root)
    os.chown(table(root) / "k.json", 65534, -1)
    assert findings(root) == [("warning", "modes", "run/hello/Greeting"), ("note", "locks", str(root))]


def test_a_full_file_system_is_found(root: Path) -> None:
    (root / "run").mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", root / "run"], check=False).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root")
    try:
        (root / "run/filler").write_bytes(b"x" * 64 * 1024)
        assert ("warning", "space", "run") in findings(root)
        subprocess.run(["mount", "-o", "remount,ro", root / "run"], check=True)
        assert findings(root).count(("warning", "space", "run")) == 2
    finally:
        subprocess.run(["umount", root / "run"], check=True)


def test_used_up_inotify_instances_are_found_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_inotify_instances", lambda: 10**9)
    found = next(iter(checkup.limits()))
    assert found.where == "fs.inotify.max_user_instances"
    assert found.mend.startswith("sysctl fs.inotify.max_user_instances=")


def test_a_clock_that_was_never_set_is_found(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(checkup.time, "time", lambda: 0.0)
    assert [(finding.check, finding.what) for finding in checkup.clock(str(root))] == [
        ("clock", "says 1970-01-01 00:00 UTC")
    ]


def test_the_command_prints_for_people_and_programs_and_its_status_means_something(root: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pillar", "doctor", "--root", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    publish(root)
    (table(root) / "bad\x1b[31m.json").write_text("")
    shown = run()
    assert shown.returncode == doctor.EXIT_WRONG
    assert "records: " in shown.stdout and "mend: " in shown.stdout and "\x1b[31m" not in shown.stdout
    told = json.loads(run("--json").stdout)
    assert told["root"] == str(root)
    assert "records" in {finding["check"] for finding in told["findings"]}
    assert run("--bad").returncode == 2
