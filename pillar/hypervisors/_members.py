"""The processes of one `process` domain, and how to end them all without touching a stranger.

A process belongs to the domain when it is the holder named in the lock file (pid, start time and boot), has that
holder's session while the holder lives, has the lock file open, or carries the lock's path in its environment. The
last one holds even when somebody has removed the lock file. A pid alone proves nothing: each process is held by a
pidfd before it is asked, so the signal reaches the process that was asked or nobody.
"""

import os
import select
import signal
import threading
import time
from pathlib import Path

from pillar.bootid import boot_id
from pillar.hypervisors import _proc
from pillar.hypervisors._environment import LOCK_VARIABLE
from pillar.hypervisors._proc import Identity

LOOK_AGAIN_S = 0.5  # a look at all processes costs 20 ms, and one start of a domain asks a dozen times
KILL_WAIT_S = 10.0  # a killed process that is still there after that hangs in the kernel

_one_look = threading.Lock()
_Carriers = dict[Path, list[tuple[Identity, int]]]  # lock file -> processes, each with its session
_last_look: tuple[float, _Carriers] = (float("-inf"), {})


def members(lock: Path, holder: Identity | None) -> dict[int, int]:
    """The living processes of the domain: pid -> pidfd. The caller closes the descriptors."""
    real_path = os.path.realpath(lock)
    entry = _entry(lock)
    holder_lives = holder is not None and _proc.alive(holder)
    found: dict[int, int] = {}
    for pid in _proc.all_pids():
        try:
            descriptor = os.pidfd_open(pid)
        except (ProcessLookupError, OSError):  # OSError: a thread's id or a process that ended just now
            continue
        looks = _proc.stat(pid)
        ours = looks is not None and (
            (holder is not None and holder_lives and looks.session == holder.pid)
            or _proc.has_environment(pid, entry)
            or _proc.holds_file(pid, real_path)
        )
        if ours:
            found[pid] = descriptor
        else:
            os.close(descriptor)
    return found


def main_process(lock: Path, fresh: bool = False) -> Identity | None:
    """Who the domain is when its lock file is gone: the oldest session leader with the path or the file.

    Either may be missing: a program may close what it inherits, and during an exec the environment is empty. Looks at
    every process, so the answer may be half a second old unless it has to be `fresh`.
    """
    carriers = _carriers(fresh)
    found = [
        who
        for place in {lock, Path(os.path.realpath(lock))}
        for who, session in carriers.get(place, ())
        if session == who.pid and _proc.alive(who)
    ]
    return min(found, key=lambda who: (who.start_ticks, who.pid), default=None)


def locks_below(directory: Path) -> set[Path]:
    """The lock files in this directory, there or not, that living processes carry. May be half a second old."""
    places = directory, Path(os.path.realpath(directory))
    return {
        lock
        for lock, carriers in _carriers().items()
        if lock.parent in places and any(_proc.alive(who) for who, _ in carriers)
    }


def look_again() -> None:
    """A domain was just started: what was seen before does not tell of it."""
    global _last_look
    with _one_look:
        _last_look = float("-inf"), {}


def _carriers(fresh: bool = False) -> _Carriers:
    """Every lock file that a process carries in its environment or has open, with those processes."""
    global _last_look
    with _one_look:
        taken, found = _last_look
        if not fresh and time.monotonic() - taken < LOOK_AGAIN_S:
            return found
        taken, found, boot = time.monotonic(), {}, boot_id()
        start = os.fsencode(f"{LOCK_VARIABLE}=")
        for pid in _proc.all_pids():
            looks = _proc.stat(pid)
            if looks is None:
                continue
            entries = [entry for entry in _proc.environment(pid) if entry.startswith(start)]
            locks = {Path(os.fsdecode(entry[len(start) :])) for entry in entries}
            for lock in locks or {Path(path) for path in _proc.open_files(pid, ".lock")}:
                found.setdefault(lock, []).append((Identity(pid, looks.start_ticks, boot), looks.session))
        _last_look = taken, found
        return found


def _entry(lock: Path) -> bytes:
    return os.fsencode(f"{LOCK_VARIABLE}={lock}")


def end_all(lock: Path, holder: Identity | None, grace_s: float) -> list[int]:
    """TERM to every process of the domain, `grace_s` seconds, then KILL to what is left until nothing is.

    Returns the pids that survived even that: processes that hang in the kernel.
    """
    if holder is None and not lock.exists() and not {lock, Path(os.path.realpath(lock))} & _carriers().keys():
        return []
    first = members(lock, holder)
    if not first:
        return []
    _signal_and_wait(first, signal.SIGTERM, grace_s)
    deadline = time.monotonic() + KILL_WAIT_S
    while left := members(lock, holder):  # again and again: a process may fork while it is being looked for
        pids = sorted(left)
        _signal_and_wait(left, signal.SIGKILL, max(0.0, deadline - time.monotonic()))
        if time.monotonic() >= deadline:
            return pids
    return []


def _signal_and_wait(processes: dict[int, int], number: signal.Signals, wait_s: float) -> None:
    """Signal each and wait until all have ended or the time is over. Closes the descriptors."""
    deadline = time.monotonic() + wait_s
    poll = select.poll()
    waiting = set(processes.values())
    try:
        for descriptor in waiting:
            poll.register(descriptor, select.POLLIN)
        if wait_s > 0 or number is signal.SIGKILL:
            for descriptor in waiting:
                try:
                    signal.pidfd_send_signal(descriptor, number)
                except ProcessLookupError:
                    continue
        left = set(waiting)
        while left and (rest_s := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(rest_s * 1000):
                poll.unregister(descriptor)
                left.discard(descriptor)
    finally:
        for descriptor in waiting:
            os.close(descriptor)
