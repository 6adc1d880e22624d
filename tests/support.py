"""What tests share: waiting for a condition, and processes that never outlive their test."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pillar.pubsub import PubSub

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """The first true value of `condition`, asked again every few milliseconds; fails naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline  # before the look: whoever stood still all the time looks once more
        value = condition()
        if value:
            return value
        if late:
            pytest.fail(f"waited {seconds:g} s for {what}; last seen: {value!r}")
        time.sleep(0.005)  # between two looks at the condition, not instead of one


def kernel_tells_of_reaped() -> bool:
    """Whether a pidfd still tells how its process ended after that was reaped: PIDFD_INFO_EXIT, Linux 6.15."""
    return tuple(map(int, platform.release().split(".")[:2])) >= (6, 15)


@contextlib.contextmanager
def running(*command: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process for the length of a block, killed at its end. Starts with `python` for this interpreter."""
    words = [str(word) for word in command]
    if words[0] == "python":
        words[0] = sys.executable
    process = subprocess.Popen(words, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def stop(pid: int) -> None:
    """SIGSTOP; returns when all of the process stands. The signal alone leaves it a moment in which to do something."""
    os.kill(pid, signal.SIGSTOP)

    def stands() -> bool:
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    wait_for(stands, f"process {pid} to stand still")


def until(condition: Callable[[], object], *loops: PubSub, seconds: float = 60.0) -> None:
    """Run these loops, one after the other, until the condition holds."""
    deadline = time.monotonic() + seconds
    late = False
    while not condition():
        assert not late, "waited in vain"
        late = time.monotonic() > deadline
        for loop in loops:
            loop.wait(0.005)
