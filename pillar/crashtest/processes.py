"""The processes of one device: which they are, and kill -9 from outside."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from pillar.locations import Locations

ENDS_WITHIN_S = 60.0  # a process that was killed
EXECUTES_WITHIN_S = 1.0  # a program, from its first look at the file to its first instruction


def pid_of(where: Locations, agent: str) -> int:
    """The agent's process by its pid file, 0 when there is none."""
    with contextlib.suppress(OSError, ValueError):
        return int(where.pid(agent).read_text())
    return 0


def lives(pid: int) -> bool:
    """Whether this process is there and no zombie."""
    return state_of(pid) not in ("", "Z", "X")


def state_of(pid: int) -> str:
    """The letter that proc(5) has for it; "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def kill(pids: Iterable[int]) -> None:
    """kill -9 all of them together; returns when the kernel has taken them down. Raises TimeoutError."""
    held = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            held.append(os.pidfd_open(pid))
    try:
        for process in held:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        for process in held:
            if not select.select([process], [], [], ENDS_WITHIN_S)[0]:
                raise TimeoutError(f"a process that was killed does not end within {ENDS_WITHIN_S:g} s")
    finally:
        for process in held:
            os.close(process)


def started_on(root: Path) -> list[int]:
    """Every process that was started on this root, which nobody else has: agents by argument, ECOs by environment."""
    name = os.fsencode(root)
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command, environment = _started_as(directory)
            if name in command.split(b"\0") or b"PILLAR_ECO_LOCK=" + name + b"/" in environment:
                found.append(int(directory.name))
    return found


def _started_as(directory: Path) -> tuple[bytes, bytes]:
    """The command and the environment of a process. Raises OSError.

    While it executes a program both are empty for a moment, as a zombie's and the kernel's own are, which have none.
    """
    deadline = time.monotonic() + EXECUTES_WITHIN_S
    while True:
        told = (directory / "cmdline").read_bytes(), (directory / "environ").read_bytes()
        if any(told) or not _has_program(directory) or time.monotonic() > deadline:
            return told


def _has_program(directory: Path) -> bool:
    try:
        os.readlink(directory / "exe")
    except FileNotFoundError:
        return False
    return True
