"""Faults that somebody outside has a hand in: it waits until they have happened, does its part, and ends them.

stop         the agent stands still for a while, as under a debugger or on a frozen machine
supervisor   while it stands the supervisor is killed and another one started, which adopts everybody
second       while it stands a second supervisor is started, which must refuse
overflow     while it stands its inotify queue is made to overflow
clock:S      the wall clock jumps by so many seconds, for everybody, and stays there
errors:E, delays:MS    last for a while
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pillar.crashpoints import Control, Fault
from pillar.crashtest import processes
from pillar.locations import Locations

STANDS_S: Final = 0.7
HOLDS_S: Final = 1.5  # errors for good
_QUEUE: Final = Path("/proc/sys/fs/inotify/max_queued_events")


class Meddler:
    """For one run; `look` is called over and over while it goes on."""

    def __init__(self, control: Control, where: Locations, faults: tuple[Fault, ...], up: Callable[[], None]) -> None:
        self.problems: list[str] = []
        self._control = control
        self._where = where
        self._faults = faults
        self._up = up  # starts another supervisor
        self._seen: set[int] = set()  # places of faults that happened
        self._waking: list[tuple[float, int]] = []  # when, which process
        self._lifting: list[tuple[float, int]] = []  # when, the place of which fault

    @property
    def holds(self) -> bool:
        """Something is still to be ended."""
        return bool(self._waking or self._lifting) or len(self._seen) < self._control.fired()

    def look(self) -> None:
        """See what has fired since, and whose time is over."""
        for place in self._control.happened(range(len(self._faults))):
            if place not in self._seen:
                self._seen.add(place)
                self._happened(place, self._faults[place])
        now = time.monotonic()
        for due, pid in list(self._waking):
            if now >= due:
                self._waking.remove((due, pid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        for due, place in list(self._lifting):
            if now >= due:
                self._lifting.remove((due, place))
                self._control.lift(place)

    def _happened(self, place: int, fault: Fault) -> None:
        name = fault.action.name
        if name in ("errors", "delays"):
            self._lifting.append((time.monotonic() + HOLDS_S, place))
        if not fault.action.outside:
            return
        # Not the pid file: it may be the very thing that the agent is about to write.
        pid = next((call.pid for call in reversed(self._control.calls()) if call.agent == fault.point.agent), 0)
        if pid:
            self._waking.append((time.monotonic() + STANDS_S, pid))
        if name == "supervisor":
            processes.kill([pid] if (pid := processes.pid_of(self._where, "pillar")) else [])
            self._up()
        elif name == "second":
            self._second()
        elif name == "overflow":
            self._overflow()
        elif name == "clock":
            self._control.set_clock(fault.action.number)

    def _second(self) -> None:
        command = [sys.executable, "-m", "pillar.crashtest.supervise", "--root", str(self._where.root)]
        done = subprocess.run(
            command,
            env=os.environ | self._control.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode != 3:
            self.problems.append(f"a second supervisor ended with {done.returncode}, not 3: {done.stderr.strip()}")

    def _overflow(self) -> None:
        """More events than the kernel keeps, in a directory that zedmanager and zedrouter follow."""
        directory = self._where.run / "zedagent" / "AppInstanceConfig"
        name = directory / ".flood"
        with contextlib.suppress(OSError):
            for _ in range(int(_QUEUE.read_text()) // 2 + 200):
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600))
                os.unlink(name)
