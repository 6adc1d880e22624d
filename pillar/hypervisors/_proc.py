"""Who is who among processes: a pid alone names nobody, a pid with its start time and boot does.

All answers come from /proc and are true only for the moment they were read; to act on a process, hold its pidfd
first and ask afterwards (`opened`): the pidfd then names the process that was asked about, whatever the pid does later.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pillar.bootid import boot_id

DEAD_STATES = "ZXx"  # an orphan may stay a zombie for seconds under a slow init; it is dead all the same


@dataclass(frozen=True)
class ProcessStat:
    """What of /proc/<pid>/stat matters here."""

    state: str
    session: int
    start_ticks: int  # field 22: clock ticks since boot


@dataclass(frozen=True)
class Identity:
    """One process, for ever."""

    pid: int
    start_ticks: int
    boot: str


def stat(pid: int) -> ProcessStat | None:
    """Read one process; None when there is none, or it is dead and only waits to be reaped."""
    fields = _fields(pid)
    if not fields or _is_zombie(pid, fields):
        return None
    return ProcessStat(state=fields[0].decode(), session=int(fields[3]), start_ticks=int(fields[19]))


def zombie_status(who: Identity) -> int | None:
    """The wait status of exactly this process if it is dead and not reaped yet; None if not, or not ours to know."""
    fields = _fields(who.pid)
    if not fields or int(fields[19]) != who.start_ticks or who.boot != boot_id() or not _is_zombie(who.pid, fields):
        return None
    with suppress(FileNotFoundError, ProcessLookupError):
        if os.geteuid() in (0, os.stat(f"/proc/{who.pid}").st_uid):  # to others the kernel shows a 0
            return int(fields[49])  # field 52
    return None


def _fields(pid: int) -> list[bytes]:
    """/proc/<pid>/stat from field 3 on; [] when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name in field 2 may hold spaces and parentheses; what follows the last one is regular.
    return text[text.rindex(b")") + 2 :].split()


def _is_zombie(pid: int, fields: list[bytes]) -> bool:
    return fields[0].decode() in DEAD_STATES and not _has_other_threads(pid)


def _has_other_threads(pid: int) -> bool:
    """Whether a process whose first thread ended goes on in others: the kernel calls it a zombie all the same."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def alive(who: Identity) -> bool:
    """Whether exactly this process lives."""
    if who.boot != boot_id():
        return False
    found = stat(who.pid)
    return found is not None and found.start_ticks == who.start_ticks


def opened(who: Identity) -> int | None:
    """A pidfd of exactly this process, or None when it does not live. The caller closes it."""
    try:
        descriptor = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return None
    if alive(who):
        return descriptor
    os.close(descriptor)
    return None


def all_pids() -> list[int]:
    """Every process of this pid namespace but our own."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def open_files(pid: int, ending: str) -> list[str]:
    """The paths of the process's open files that end so, whether or not they are still there. [] if we may not look.

    Names as the kernel tells them, nothing is opened: another process's file may hang on a dead server.
    """
    found = []
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError, ProcessLookupError):
                path = os.readlink(f"/proc/{pid}/fd/{name}").removesuffix(" (deleted)")
                if path.endswith(ending):
                    found.append(path)
    return found


def holds_file(pid: int, path: str) -> bool:
    """Whether the process has the file open that stands, or stood, at this real path. False when we may not look."""
    return path in open_files(pid, path)


def environment(pid: int) -> list[bytes]:
    """Every NAME=value the process was started with, [] when it is gone or not ours to look at."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def has_environment(pid: int, entry: bytes) -> bool:
    """Whether the process was started with this NAME=value. False when it is not ours to look at."""
    return entry in environment(pid)


def command_line(pid: int) -> list[bytes]:
    """The arguments of a process, [] when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
