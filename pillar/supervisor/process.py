"""Processes told apart for certain: by pidfd while we hold one, by pid and start time otherwise."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Final

import pillar
from pillar import ready

_READY_FD: Final = 3
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Process:
    """One process, held by its pidfd: signals never reach another one that got its pid."""

    __slots__ = ("adopted", "pid", "pidfd", "ticks")

    def __init__(self, pid: int, pidfd: int, ticks: int, *, adopted: bool) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.ticks = ticks
        self.adopted = adopted

    def signal(self, number: signal.Signals) -> None:
        """Send it; a process that has ended meanwhile is fine. Raises PermissionError for another user's."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def ended(self) -> bool:
        """Has it ended (a zombie has)?"""
        return wait_for([self], 0.0) == []

    def how_it_ended(self) -> tuple[str, int | None]:
        """Words for a person and the exit status, after it has ended; reaps it when it is our child."""
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return "unknown (it was adopted)", None
        if result is None:
            return "unknown", None
        if result.si_code == os.CLD_EXITED:
            return f"status {result.si_status}", result.si_status
        try:
            name = signal.Signals(result.si_status).name
        except ValueError:
            name = f"signal {result.si_status}"
        return f"killed by {name}", None

    def close(self) -> None:
        os.close(self.pidfd)


def start_ticks(pid: int) -> int | None:
    """The kernel's start time of a live process, in clock ticks since boot; None when there is none, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything, parentheses included.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def uptime_s(ticks: int) -> float:
    """How long ago a process with this start time started."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS_PER_S)


def adopt(pid: int, ticks: int | None = None) -> Process | None:
    """Hold a live process; with `ticks` only if it started then. None when it is not there (any more).

    Without `ticks` the caller has to ask again, now that the pid cannot be reused, whether it is the right one.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    found = start_ticks(pid)
    if found is None or (ticks is not None and found != ticks):
        os.close(pidfd)
        return None
    return Process(pid, pidfd, found, adopted=True)


def spawn(module: str, arguments: list[str], stderr: Path) -> tuple[Process, int]:
    """Start `python -m module arguments` in its own session; returns it and the pipe it reports on (pillar.ready).

    What it writes to its standard streams goes to `stderr`, which is emptied. It inherits no other descriptor.
    Raises OSError.
    """
    os.makedirs(stderr.parent, mode=0o700, exist_ok=True)
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", module.removesuffix(".__main__"), *arguments],
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(stderr), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, writer, _READY_FD),
            ],
            setsid=True,  # a Ctrl-C on the supervisor's terminal is the supervisor's
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
        )
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    # It is our child and not reaped: the pid is certainly its.
    return Process(pid, os.pidfd_open(pid), start_ticks(pid) or 0, adopted=False), reader


def wait_for(processes: list[Process], seconds: float) -> list[Process]:
    """Wait until all have ended or the time is over; returns those that still run."""
    poll = select.poll()
    running = {process.pidfd: process for process in processes}
    for pidfd in running:
        poll.register(pidfd, select.POLLIN)
    until = time.monotonic() + seconds
    while running:
        ready_ones = poll.poll(max(0.0, until - time.monotonic()) * 1000)
        if not ready_ones:
            break
        for pidfd, _ in ready_ones:
            poll.unregister(pidfd)
            del running[pidfd]
    return list(running.values())


def last_words(stderr: Path, limit: int = 300) -> str:
    """The last line an agent wrote to standard error, the point of a traceback; "" when it wrote none."""
    try:
        with open(stderr, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:limit] if said else ""


def _environment() -> dict[str, str]:
    """Ours, and the way to this very package: a daemon's directory is /, where a plain checkout is not found."""
    package_parent = os.path.dirname(os.path.dirname(os.path.abspath(pillar.__file__)))
    path = [package_parent, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(entry for entry in dict.fromkeys(path) if entry)
    environment[ready.READY_FD] = str(_READY_FD)
    return environment
