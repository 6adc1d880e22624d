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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENOMEM", "EROFS"])
def test_every_call_may_fail_once_or_for_good(
    root: Path, shim: Path, name: str, request: pytest.FixtureRequest
) -> None:
    number = getattr(errno, name)
    step = 1 if request.config.getoption("--full") else EVERY
    result = subprocess.run(
        [sys.executable, HERE / "fault_story.py", root / "device", str(number), str(1 + number % step), str(step)],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        driver, persistent, forever, calls, tried = json.loads(line)
        table, way = "persistent" if persistent else "ordinary", "for good" if forever else "once"
        print(f"{name} {way}, {table} table by {driver}: {tried} calls failed; {calls} happened in the last story")
        assert tried > 0
