"""The control group of one container, with cgroup v1 (a directory in each hierarchy), v2 or both at once.

A container's group stands at the top of each hierarchy, so there is no parent that somebody would have to remove.
Membership is the surest answer to "whose process is this": nothing enters our groups but what runc puts there, and
no process of a container can leave. Nothing here needs a controller to be there.
"""

import hashlib
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

KILL_WAIT_S = 10.0  # a killed process that is still there after that hangs in the kernel
_POLL_S = 0.01


def prefix(root: Path) -> str:
    """How the names of all groups of the device with this root begin; another root has another."""
    return f"pillar-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}-"


def mounts() -> list[Path]:
    """Where the hierarchies are mounted; [] on a machine without control groups."""
    return [place for place, _ in _hierarchies()]


def controllers() -> set[str]:
    """What the machine can limit: memory, cpu, cpuset, pids and so on."""
    found: set[str] = set()
    for place, names in _hierarchies():
        found |= names
        with suppress(OSError):  # v2
            found |= set((place / "cgroup.controllers").read_text().split())
    return found


def _hierarchies() -> list[tuple[Path, set[str]]]:
    """Every mounted hierarchy, with v1's controllers (and mount options)."""
    found = []
    with suppress(FileNotFoundError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            if kind in ("cgroup", "cgroup2"):
                place = Path(before.split()[4].replace("\\040", " "))
                found.append((place, set(options.split(",")) if kind == "cgroup" else set()))
    return found


def directories(name: str) -> list[Path]:
    """The directories of a group that are there."""
    return [path for path in (mount / name for mount in mounts()) if path.is_dir()]


def names(start: str) -> set[str]:
    """Every group at the top of a hierarchy whose name begins so."""
    found = set()
    for mount in mounts():
        with suppress(OSError):
            found |= {entry.name for entry in os.scandir(mount) if entry.name.startswith(start)}
    return found


def members(name: str) -> set[int]:
    """The processes in a group and below it."""
    found: set[int] = set()
    for directory in directories(name):
        for path in directory.rglob("cgroup.procs"):
            with suppress(OSError):
                found |= {int(line) for line in path.read_text().split()}
        with suppress(OSError):
            found |= {int(line) for line in (directory / "cgroup.procs").read_text().split()}
    found.discard(0)  # a process of another pid namespace
    return found


def oom_files(name: str) -> list[str]:
    """The files that may count the processes killed for want of memory: v1's and v2's."""
    v1 = [str(place / name / "memory.oom_control") for place, names in _hierarchies() if "memory" in names]
    return v1 or [str(place / name / "memory.events") for place in mounts()]


def oom_kills(name: str) -> int:
    """How many processes of the group the kernel ended for want of memory; 0 when the group is gone."""
    found = 0
    for file in oom_files(name):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines():
                if line.startswith("oom_kill "):
                    found = max(found, int(line.split()[1]))
    return found


def limits_swap() -> bool:
    """Whether memory and swap can be limited together (v1 without swap accounting cannot)."""
    return any((mount / "memory.memsw.limit_in_bytes").exists() for mount in mounts()) or any(
        (mount / "cgroup.controllers").exists() and "memory" in (mount / "cgroup.controllers").read_text().split()
        for mount in mounts()
    )


def thaw(name: str) -> None:
    """Let a frozen group run again: on v1 a frozen process does not even take SIGKILL."""
    for directory in directories(name):
        for file, text in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with suppress(OSError):
                if (directory / file).exists():
                    (directory / file).write_text(text)


def kill(name: str, wait_s: float = KILL_WAIT_S) -> list[int]:
    """End every process of the group, also those that are made meanwhile. Returns those that survive."""
    deadline = time.monotonic() + wait_s
    while left := members(name):
        thaw(name)
        for pid in left:
            _kill_member(name, pid, deadline)
        if time.monotonic() >= deadline:
            return sorted(members(name))
    return []


def _kill_member(name: str, pid: int, deadline: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it ended
        return
    try:
        if pid not in members(name):  # asked after the pidfd was opened: it names the process that was a member
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        os.close(descriptor)


def remove(name: str, wait_s: float = KILL_WAIT_S) -> list[Path]:
    """Remove the directories of an empty group. Returns those that stay: something is still in them."""
    deadline = time.monotonic() + wait_s
    while left := directories(name):
        for directory in left:
            below = [path for path in directory.rglob("*") if path.is_dir()]
            for path in [*sorted(below, reverse=True), directory]:
                with suppress(OSError):
                    path.rmdir()
        left = directories(name)
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(_POLL_S)  # the last member is dead, and not reaped yet
    return []
