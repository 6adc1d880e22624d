"""What tests share: waiting for a condition, and processes that never outlive their test."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from pillar.pubsub import PubSub

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """The first true value of `condition`, asked again every few milliseconds; fails naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
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


def until(condition: Callable[[], object], *loops: PubSub, seconds: float = 60.0) -> None:
    """Run these loops, one after the other, until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        for loop in loops:
            loop.wait(0.005)
