"""One DHCP client (udhcpc) per port. They outlive nim: the next one finds them by the lease file in their environment.

A client never touches the kernel's addresses: at each event it runs `lease.sh`, which writes the lease file, and nim
does the rest. So a client may be killed and started anew at any time: the lease stays good until it expires, and the
new client asks for the same address.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pillar.loop import Loop, Timer
from pillar.supervisor.process import Process, adopt

LEASE: Final = "PILLAR_NIM_LEASE"  # in a client's environment: the file its script writes
SCRIPT: Final = Path(__file__).with_name("lease.sh")
FIRST_WAIT_S: Final = 1.0
LAST_WAIT_S: Final = 30.0
_LONG_LIFE_S: Final = 10.0  # a client that lived so long is started again at once


class Clients:
    """The clients of this device. `errors` says of an interface why its client cannot be started; `changed` that it is
    to be looked at again.
    """

    def __init__(self, loop: Loop, log: logging.Logger, changed: Callable[[], None]) -> None:
        self.errors: dict[str, str] = {}
        self._loop = loop
        self._log = log
        self._changed = changed
        self._processes: dict[str, Process] = {}
        self._leases: dict[str, Path] = {}  # of the wanted ones
        self._requested: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._waits: dict[str, float] = {}
        self._timers: dict[str, Timer] = {}

    def adopt(self, folder: Path) -> None:
        """Take over the clients whose lease files stand below `folder`, one per interface; others of them are ended."""
        for pid in _all_pids():
            lease = _lease_of(pid)
            if lease is None or lease.parent.parent != folder:
                continue
            process = adopt(pid)
            if process is None:
                continue
            if _lease_of(pid) != lease or lease.parent.name in self._processes:
                if _lease_of(pid) == lease:
                    process.signal(signal.SIGKILL)
                process.close()
                continue
            self._hold(lease.parent.name, process)
            self._log.info("port %s: adopted the DHCP client, pid %d", lease.parent.name, pid)

    def keep(self, wanted: Mapping[str, Path], requested: Mapping[str, str]) -> None:
        """Have a client for exactly these interfaces, with their lease files; `requested` addresses are asked for."""
        self._leases = dict(wanted)
        self._requested = dict(requested)
        for ifname in set(self._processes) - set(wanted):
            self._end(ifname)
        for ifname in set(self._timers) - set(wanted):
            self._timers.pop(ifname).cancel()
            self.errors.pop(ifname, None)
        for ifname in wanted:
            if ifname not in self._processes and ifname not in self._timers:
                self._start(ifname)

    def renew(self, ifname: str) -> None:
        """Ask anew at once: the cable may lead somewhere else now. The lease stays until the answer."""
        if ifname in self._processes:
            self._end(ifname)
            self._waits.pop(ifname, None)
            self._start(ifname)

    def _start(self, ifname: str) -> None:
        lease = self._leases[ifname]
        try:
            command = [*_program(), "-f", "-i", ifname, "-s", str(SCRIPT), "-t", "4", "-T", "2", "-A", "5"]
            for option in ("ntpsrv", "wpad"):
                command += ["-O", option]
            if ifname in self._requested:
                command += ["-r", self._requested[ifname]]
            lease.parent.mkdir(parents=True, exist_ok=True)
            pid = os.posix_spawn(
                command[0],
                command,
                {**os.environ, LEASE: str(lease)},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
        except OSError as err:
            self.errors[ifname] = f"cannot start a DHCP client for port {ifname}: {err.strerror or err}"
            self._again(ifname, self.errors[ifname])
            self._changed()
            return
        process = adopt(pid)
        if process is None:  # it ended at once
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            self._again(ifname, f"the DHCP client for port {ifname} ends at once")
            return
        if self.errors.pop(ifname, ""):
            self._changed()
        self._log.info("port %s: DHCP client started, pid %d", ifname, pid)
        self._hold(ifname, process)

    def _hold(self, ifname: str, process: Process) -> None:
        self._processes[ifname] = process
        self._began[ifname] = time.monotonic()
        self._loop.add_reader(process.pidfd, lambda: self._ended(ifname))

    def _ended(self, ifname: str) -> None:
        how, _ = self._processes[ifname].how_it_ended()
        self._let_go(ifname)
        self._again(ifname, f"the DHCP client for port {ifname} ended: {how}")

    def _again(self, ifname: str, why: str) -> None:
        lived = time.monotonic() - self._began.get(ifname, time.monotonic())
        wait = FIRST_WAIT_S if lived >= _LONG_LIFE_S else self._waits.get(ifname, 0.0)
        self._waits[ifname] = min(max(FIRST_WAIT_S, wait * 2), LAST_WAIT_S)
        self._log.warning("%s; the next one in %.0f s", why, wait)

        def start() -> None:
            self._timers.pop(ifname, None)
            if ifname in self._leases:
                self._start(ifname)

        self._timers[ifname] = self._loop.call_later(wait, start)

    def _end(self, ifname: str) -> None:
        """Without a word to the server: the lease is asked for again when the port is back."""
        process = self._processes[ifname]
        process.signal(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # an adopted one is not ours to reap
            os.waitpid(process.pid, 0)
        self._log.info("port %s: DHCP client ended, pid %d", ifname, process.pid)
        self._let_go(ifname)

    def _let_go(self, ifname: str) -> None:
        process = self._processes.pop(ifname)
        self._loop.remove_reader(process.pidfd)
        process.close()


def _program() -> list[str]:
    """How udhcpc is called here. Raises FileNotFoundError naming the package."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for name, applet in (("udhcpc", []), ("busybox", ["udhcpc"])):
        program = shutil.which(name, path=path)
        if program is not None:
            return [program, *applet]
    raise FileNotFoundError(2, "udhcpc is not installed (Debian package udhcpc)")


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _lease_of(pid: int) -> Path | None:
    """The lease file of a client; None for other processes, the client's script among them."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"-s" not in words or os.fsencode(SCRIPT.name) not in b"".join(words):
            return None
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == LEASE.encode():
                return Path(os.fsdecode(value))
    return None
