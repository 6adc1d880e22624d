"""The control group of one domain, with cgroup v1 (a directory in each hierarchy), v2 or both at once.

A domain's group stands at the top of each hierarchy, so there is no parent that somebody would have to remove.
Membership is the surest answer to "whose process is this": nothing enters our groups but what runc or the launcher
puts there, and no process of a domain can leave. Nothing here needs a controller to be there. runc makes the groups of
containers; `make` is for the others.
"""

import errno
import hashlib
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KILL_WAIT_S = 10.0  # a killed process that is still there after that hangs in the kernel
CPU_PERIOD_US = 100_000
_POLL_S = 0.01
_NEEDS_SWAP_ACCOUNTING = ("memory.memsw.limit_in_bytes", "memory.swap.max")  # files that not every kernel has


@dataclass(frozen=True)
class Limits:
    """What a domain may use; 0 or "" leaves it open."""

    memory_bytes: int = 0
    swap_too: bool = False  # the kernel can count memory and swap together
    cpus: int = 0
    cpu_list: str = ""  # which ones, as cpuset wants them: 0-2,4
    processes: int = 0  # and threads


def prefix(root: Path, kind: str = "") -> str:
    """How the names of all groups of one kind of the device with this root begin; another root has another."""
    return f"pillar-{kind}{'-' if kind else ''}{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}-"


def settings(version: int, limits: Limits) -> dict[str, dict[str, str]]:
    """The files of a group and what to write into them: controller -> file -> text. Swap is not to be used."""
    memory, quota = str(limits.memory_bytes), CPU_PERIOD_US * limits.cpus
    if version == 1:
        found = {
            "memory": {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory},
            "cpu": {"cpu.cfs_period_us": str(CPU_PERIOD_US), "cpu.cfs_quota_us": str(quota)},
            "pids": {"pids.max": str(limits.processes)},
        }
    else:
        found = {
            "memory": {"memory.max": memory, "memory.swap.max": "0"},
            "cpu": {"cpu.max": f"{quota} {CPU_PERIOD_US}"},
            "pids": {"pids.max": str(limits.processes)},
        }
    asked = {"memory": limits.memory_bytes, "cpu": limits.cpus, "pids": limits.processes}
    return {controller: files for controller, files in found.items() if asked[controller]}


def make(name: str, limits: Limits) -> list[Path]:
    """Make a group with these limits in each hierarchy that has a controller for one; returns its directories.

    Where nobody lets us make groups there are none. `cpu_list` is not looked at. Raises OSError when the kernel
    does not take a limit; what was made then stays for `remove`.
    """
    made = []
    for place, controllers_v1 in _hierarchies():
        version = 2 if (place / "cgroup.controllers").exists() else 1
        wanted = settings(version, limits)
        there = _enabled(place, set(wanted)) if version == 2 else controllers_v1
        if not there & wanted.keys():
            continue
        directory = place / name
        try:
            directory.mkdir(exist_ok=True)
        except PermissionError:
            continue
        except OSError as error:
            if error.errno == errno.EROFS:
                continue
            raise
        for controller in sorted(there & wanted.keys()):
            for file, text in wanted[controller].items():
                if file not in _NEEDS_SWAP_ACCOUNTING or (directory / file).exists():
                    (directory / file).write_text(text)
        made.append(directory)
    return made


def _enabled(place: Path, wanted: set[str]) -> set[str]:
    """Which of these controllers the groups below this mount of v2 have; those that are off are switched on."""
    control = place / "cgroup.subtree_control"
    there = wanted & set((place / "cgroup.controllers").read_text().split())
    for controller in there - set(control.read_text().split()):
        with suppress(OSError):  # not ours to switch, or processes are in the way: what is on then counts
            control.write_text(f"+{controller}")
    return there & set(control.read_text().split())


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


def _whole(name: str) -> list[Path]:
    """The directories of a group and of the groups below it, those above first. Somebody may be removing them."""
    return [Path(found) for directory in directories(name) for found, _, _ in os.walk(directory)]


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
    for directory in _whole(name):
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
    while directories(name):
        for directory in reversed(_whole(name)):
            with suppress(OSError):
                directory.rmdir()
        left = directories(name)
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(_POLL_S)  # the last member is dead, and not reaped yet
    return []
