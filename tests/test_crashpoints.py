"""Crash points of a small publisher: each call has a name, and the process dies, fails, stops or waits at it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import running, wait_for

from pillar.crashpoints import (
    KILL,
    STOP,
    Action,
    Control,
    Fault,
    NoCompiler,
    Plan,
    Point,
    delay,
    fails,
    fails_for_good,
    points,
)

UUID = "8b514462-0000-4000-8000-000000000001"
PROGRAM = f"""
import msgspec, os, subprocess, sys, tempfile, threading
from pillar.pubsub import PubSub, PubSubError
class Greeting(msgspec.Struct, frozen=True):
    text: str = ""
pubsub = PubSub(sys.argv[1], "hello")
greetings = pubsub.publication(Greeting, persistent=True)
for key, text in [("{UUID}", "1"), ("b", "1"), ("b", "2")]:
    try:
        greetings.publish(key, Greeting(text=text))
    except PubSubError as err:
        print(err)
greetings.unpublish("b")
os.close(tempfile.mkstemp(dir=sys.argv[1])[0])
thread = threading.Thread(target=lambda: open(sys.argv[1] + "/from a thread", "w").close())
thread.start()
thread.join()
child = subprocess.run([sys.executable, "-S", "-c", "open('" + sys.argv[1] + "/of a child', 'w')"])
print("done")
"""


@pytest.fixture
def control(root: Path) -> Iterator[Control]:
    (root / "control").mkdir()
    (root / "device").mkdir()
    try:
        control = Control(root / "control")
    except NoCompiler as err:
        if os.environ.get("CI"):
            pytest.fail(str(err))
        pytest.skip(str(err))
    with control:
        yield control


def plan(root: Path, *faults: Fault) -> Plan:
    return Plan(root / "device", labels={UUID: "<app>"}, ignore=(("*", "*/.lock"),), faults=faults)


def run(root: Path, control: Control) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, root / "device"],
        env=os.environ | control.environment("hello"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def keys(root: Path) -> dict[str, str]:
    table = root / "device" / "persist" / "status" / "hello" / "Greeting"
    return {path.stem.replace(UUID, "<app>"): json.loads(path.read_text())["text"] for path in table.glob("*.json")}


def test_every_call_has_a_name_that_is_the_same_in_the_next_run(root: Path, control: Control) -> None:
    recorded = []
    for again in range(2):
        subprocess.run(["rm", "-rf", root / "device"], check=True)
        (root / "device").mkdir()
        control.begin(plan(root))
        assert run(root, control).stdout == "done\n"
        recorded.append([str(point) for point in points(control.calls())])
        assert control.lost() == 0, again
    assert recorded[0] == recorded[1]
    table = "/persist/status/hello/Greeting"
    for name in (
        f"hello mkdir {table} 1",
        f"hello write {table}/.staging/record 3",
        f"hello fsync {table}/.staging/record 1",
        f"hello rename {table}/<app>.json 1",
        f"hello rename {table}/b.json 2",
        f"hello link {table}/.staging/backup 3",
        f"hello unlink {table}/b.json 1",
        "hello open /<tmp> 1",
        "hello create /from%20a%20thread 1",
        "hello spawn process 1",
    ):
        assert name in recorded[0], "\n".join(recorded[0])
        assert str(Point.parse(name)) == name
    assert not any(".lock" in name or "child" in name for name in recorded[0])
    looks = [point for point in points(control.calls(), looks=True) if point.call == "list"]
    assert looks


def test_the_process_dies_right_before_each_point(root: Path, control: Control) -> None:
    control.begin(plan(root))
    run(root, control)
    every = points(control.calls())
    assert len(every) > 30
    for number, point in enumerate(every):
        if number % 3 and point.call != "rename":
            continue
        subprocess.run(["rm", "-rf", root / "device"], check=True)
        (root / "device").mkdir()
        control.begin(plan(root, Fault(point, KILL)))
        assert run(root, control).returncode == -signal.SIGKILL, point
        assert control.fired() == 1
        died = control.calls()[-1]
        assert (died.call, died.path, died.result) == (point.call, point.path, "K")
        assert points(control.calls()) == every[: number + 1]
        if str(point) == "hello rename /persist/status/hello/Greeting/b.json 2":
            assert keys(root) == {"<app>": "1", "b": "1"}


def test_a_second_fault_is_looked_for_in_the_next_process_once_the_first_has_fired(
    root: Path, control: Control
) -> None:
    renamed = Point("hello", "rename", "/persist/status/hello/Greeting/<app>.json", 1)
    unlinked = Point("hello", "unlink", "/persist/status/hello/Greeting/b.json", 1)
    control.begin(plan(root, Fault(renamed), Fault(unlinked)))
    fired = []
    for _ in range(3):
        run(root, control)
        fired.append(control.fired())
    assert fired == [1, 2, 2]


def test_a_call_fails_once_or_for_good_until_it_is_lifted(root: Path, control: Control) -> None:
    second = Point("hello", "write", "/persist/status/hello/Greeting/.staging/record", 2)
    control.begin(plan(root, Fault(second, fails(errno.ENOSPC))))
    said = run(root, control).stdout
    assert said.count(os.strerror(errno.ENOSPC)) == 1 and said.endswith("done\n")
    assert [call.result for call in control.calls() if call.path.endswith("staging/record")].count("E") == 1

    subprocess.run(["rm", "-rf", root / "device"], check=True)
    (root / "device").mkdir()
    control.begin(plan(root, Fault(second, fails_for_good(errno.EDQUOT))))
    assert run(root, control).returncode == 1, "the thread's file cannot be made either"
    assert keys(root) == {"<app>": "1"}
    control.lift()
    assert run(root, control).stdout == "done\n"


def test_faults_that_are_armed_together_each_count_for_themselves_and_are_lifted_one_by_one(
    root: Path, control: Control
) -> None:
    table = "/persist/status/hello/Greeting"
    faults = (
        Fault(Point("hello", "unlink", f"{table}/b.json", 1), fails(errno.EIO)),  # the last to come
        Fault(Point("hello", "rename", f"{table}/never.json", 1), fails(errno.EIO)),
        Fault(Point("hello", "write", f"{table}/.staging/record", 2), fails(errno.ENOSPC)),
        Fault(Point("hello", "write", f"{table}/.staging/record", 3), fails(errno.EDQUOT)),
    )
    control.begin(plan(root, *faults)._replace(together=True))
    said = run(root, control).stdout
    assert control.happened(faults) == (faults[0], *faults[2:])
    assert control.fired() == [call.result for call in control.calls()].count("E") == 3
    assert [said.count(os.strerror(number)) for number in (errno.ENOSPC, errno.EDQUOT)] == [1, 1]

    subprocess.run(["rm", "-rf", root / "device"], check=True)
    (root / "device").mkdir()
    full = Fault(Point("hello", "write", f"{table}/.staging/record", 1), fails_for_good(errno.ENOSPC))
    broken = Fault(Point("hello", "create", "/from%20a%20thread", 1), fails_for_good(errno.EIO))
    control.begin(plan(root, full, broken)._replace(together=True))
    control.lift(0)  # before it comes: it fails once, and does not last
    made = root / "device" / "from a thread"
    assert run(root, control).stdout.count(os.strerror(errno.ENOSPC)) == 1
    assert control.happened("fb") == ("f", "b") and not made.exists()
    assert os.strerror(errno.EIO) in run(root, control).stderr, "that one lasts"
    control.lift(1)
    assert run(root, control).stdout == "done\n" and made.exists()


def test_a_process_stops_or_waits_at_a_point(root: Path, control: Control) -> None:
    point = Point("hello", "mkdir", "/persist", 1)
    control.begin(plan(root, Fault(point, STOP)))
    environment = os.environ | control.environment("hello")
    with running("python", "-c", PROGRAM, root / "device", env=environment, stdout=subprocess.PIPE) as process:
        wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T", "the process to be stopped")
        assert not (root / "device" / "persist").exists()
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=60)[0] == "done\n"

    subprocess.run(["rm", "-rf", root / "device"], check=True)
    (root / "device").mkdir()
    control.begin(plan(root, Fault(point, delay(300))))
    start = time.monotonic()
    run(root, control)
    assert time.monotonic() - start > 0.3


def test_an_agent_is_known_by_a_word_of_its_command_line_and_counts_anew_with_each_epoch(root: Path) -> None:
    (root / "control").mkdir()
    (root / "device").mkdir()
    program = root / "talker.py"
    program.write_text("import sys\nfor line in sys.stdin: open(sys.argv[1] + '/said', 'w').write(line)\n")
    try:
        control = Control(root / "control", {"talker": str(program)})
    except NoCompiler as err:
        pytest.skip(str(err))
    environment = os.environ | control.environment()
    with control, running("python", program, root / "device", env=environment, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for epoch in range(1, 4):
            control.begin(plan(root))
            process.stdin.write(f"{epoch}\n")
            process.stdin.flush()
            wait_for(lambda: any(call.call == "write" for call in control.calls()), "it to write")
            assert Point("talker", "create", "/said", 1) in points(control.calls())
        control.begin(plan(root, Fault(Point("talker", "write", "/said", 1))))
        process.stdin.write("last\n")
        process.stdin.flush()
        assert process.wait(timeout=20) == -signal.SIGKILL
        assert (root / "device" / "said").read_text() == ""


def test_names_of_points_and_faults_can_be_read_back() -> None:
    point = Point("hello", "write", "/run/x.json", 3)
    for action in (KILL, STOP, fails(errno.EIO), fails_for_good(errno.EMFILE), delay(5), delay(7, for_good=True)):
        assert Fault.parse(str(Fault(point, action))) == Fault(point, action)
    assert Fault.parse("hello write /run/x.json 3") == Fault(point, KILL)
    for wrong in ("hello write /run/x.json", "hello write /run/x.json 0", "a b c 1=error:EPERM", "a b c 1=explode"):
        with pytest.raises(ValueError, match=r"expected|is no"):
            Fault.parse(wrong)
    with pytest.raises(ValueError, match="explode"):
        Action.parse("explode")
