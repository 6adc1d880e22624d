"""The machine refuses at the n-th file system call: never a false success, never a crash, and it converges after."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EVERY = 11  # the suite takes each eleventh call, beginning with another one for each error; --full takes all


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the library that makes calls fail")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return library


def said(shim: Path, *arguments: str | Path, limit_s: float) -> str:
    """What Python prints with these arguments under the library that makes calls fail."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENOMEM", "EROFS"])
def test_every_call_may_fail_once_or_for_good(
    root: Path, shim: Path, name: str, request: pytest.FixtureRequest
) -> None:
    number = getattr(errno, name)
    step = 1 if request.config.getoption("--full") else EVERY
    story = HERE / "fault_story.py", root / "device", str(number), str(1 + number % step), str(step)
    for line in said(shim, *story, limit_s=500).splitlines():
        driver, persistent, forever, calls, tried = json.loads(line)
        table, way = "persistent" if persistent else "ordinary", "for good" if forever else "once"
        print(f"{name} {way}, {table} table by {driver}: {tried} calls failed; {calls} happened in the last story")
        assert tried > 0


PUBLISH_WHILE_IT_FAILS = """
import ctypes, errno, itertools, sys
import msgspec
from pillar.pubsub import PublishFailed, PubSub
class Greeting(msgspec.Struct, frozen=True):
    seq: int = 0
faults = ctypes.CDLL(None)
faults.fault_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
OPENS_AND_WRITES = 5
with PubSub(sys.argv[1], "hello") as pubsub:
    greetings = pubsub.publication(Greeting, persistent=True)
    greetings.publish("k", Greeting(-1))
    for n in itertools.count(1):
        faults.fault_arm(n, errno.EIO, True, OPENS_AND_WRITES)
        try:
            greetings.publish("k", Greeting(2 * n))
        except PublishFailed:
            faults.fault_disarm()
        else:
            break
        greetings.publish("k", Greeting(2 * n + 1))
    print(n)
"""


def test_as_soon_as_the_disk_works_again_so_does_publishing(root: Path, shim: Path) -> None:
    failed = int(said(shim, "-c", PUBLISH_WHILE_IT_FAILS, root, limit_s=60))
    assert failed > 6, "every call of a publish has failed once"
