"""One process per agent and root: the pid file, held by a kernel lock.

`<root>/run/<agent>.pid` holds the pid in decimal, without a newline, as EVE's does. The lock on it, not the
number, says whether the agent runs: it is free at once when its holder dies, so neither a kill -9 nor a pid
that another program got since can block a start or make us signal a stranger.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from pillar.pubsub.lock import take

# A start may lock a file that is removed at this moment, and lets go of it: another one tries again for so long.
_PATIENCE_S: Final = 0.25


class AlreadyRunning(Exception):
    """The pid file is held by another live process; `pid` is None while it has not written its pid yet."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        super().__init__(f"already running with pid {pid if pid is not None else 'unknown'}: {path} is held by it")


class PidFile:
    """The pid file of this process, from `acquire` to the end of the process (or `release`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock and write our pid.

        To be called in the process that stays (after daemonising). The descriptor is CLOEXEC: programs started
        later do not hold it. Raises AlreadyRunning, or OSError when the file cannot be written.
        """
        os.makedirs(self.path.parent, mode=0o700, exist_ok=True)
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                if self._taken(fd):
                    return
            except BlockingIOError:
                pid = _read_pid(fd)
                if time.monotonic() >= give_up:
                    raise AlreadyRunning(self.path, pid) from None
                time.sleep(0.01)
            finally:
                if fd != self._fd:
                    os.close(fd)

    def keep(self) -> None:
        """Take the file again when ours is no longer at its path: somebody removed it, or the directory it was in.

        Until then another process could start beside us. Raises AlreadyRunning when one has, and OSError.
        """
        if self._fd >= 0 and not _is_at(self._fd, self.path):
            self.acquire()

    def _taken(self, fd: int) -> bool:
        """Lock this open file and make it ours; False when its last holder removed it before we had the lock."""
        take(fd)
        if not _is_at(fd, self.path):
            return False
        text = str(os.getpid()).encode()
        os.pwrite(fd, text, 0)  # before cutting: a reader never finds it empty
        os.ftruncate(fd, len(text))
        former, self._fd = self._fd, fd
        if former >= 0:
            os.close(former)
        return True

    def release(self) -> None:
        """At a clean end: remove the file, then give the lock back. Does nothing when not held."""
        if self._fd < 0:
            return
        if _is_at(self._fd, self.path):
            os.unlink(self.path)
        os.close(self._fd)
        self._fd = -1


def holder(path: Path) -> int | None:
    """The pid of the live process that holds this pid file; None when nobody does.

    The number in the file is believed only when that process has the file open: between the lock and the
    write of a starting agent it is its predecessor's, and from another pid namespace it means nothing here.
    The answer is as old as the call: to act on the process, open a pidfd and ask again.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # no such file, or not a file of ours
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _read_pid(fd)
        return pid if pid is not None and _has_open(pid, os.fstat(fd)) else None
    finally:
        os.close(fd)
    return None


def locked(path: Path) -> bool:
    """Does a live process hold this file's lock, whatever pid stands in it?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 20, 0)
    return int(text) if text.isdigit() and int(text) > 0 else None


def _has_open(pid: int, file: os.stat_result) -> bool:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except PermissionError:
        return True  # another user's: we can only show it, signals will be refused to us
    except OSError:
        return False
    for name in names:
        try:
            if os.path.samestat(os.stat(f"{directory}/{name}"), file):
                return True
        except OSError:
            continue  # closed meanwhile
    return False


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
