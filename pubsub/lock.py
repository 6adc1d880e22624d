"""One publisher per table: a kernel lock on `<table>/.lock`.

flock(2) belongs to the open file description: it is free at once when the holder dies, however it dies, and
needs no clean-up. The file holds the holder's pid in decimal for people and for the error message;
/proc/locks would not do, it is empty from another pid namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from pillar.pubsub.errors import TableHeld
from pillar.pubsub.names import LOCK

_PATIENCE = 20  # looks at a lock whose holder has not written its pid yet: it does so right after taking it
_PAUSE_SECONDS = 0.001
_LOOK_SECONDS = 10.0  # whoever only looks and keeps a lock for so long was stopped with it


def take(fd: int) -> None:
    """Lock an open file for this process alone. Raises BlockingIOError when another process has it so.

    Who wants to know whether a file is locked takes a shared lock for a moment (on a busy machine, a long one): that is
    no holder, and is waited for.
    """
    give_up = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # refused unless all of them only look
        fcntl.flock(fd, fcntl.LOCK_UN)  # another one who takes it must not wait for us
        time.sleep(_PAUSE_SECONDS)


def acquire(directory: int, name: str, use: str = "published") -> int:
    """Take the lock of the table (or ledger) in this open directory; returns the descriptor that holds it.

    Closing the descriptor, or the end of the process, frees it. It is CLOEXEC: a program started by the
    holder does not keep the lock. A process that forks without exec while holding it would.
    Raises TableHeld with the holder's pid.
    """
    patience = _PATIENCE
    while True:
        fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory)
        try:
            take(fd)
        except BlockingIOError:
            pid = read_pid(fd)
            sure = pid is not None and _holds(pid, os.fstat(fd))
            os.close(fd)
            if patience and not sure:  # that was the holder before; the new one is about to write its own pid
                patience -= 1
                time.sleep(_PAUSE_SECONDS)
                continue
            raise TableHeld(name, pid if sure else None, use) from None
        except BaseException:
            os.close(fd)
            raise
        try:
            if still_there(directory, fd):
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
                return fd
        except BaseException:
            os.close(fd)  # or it would stay held by nobody
            raise
        os.close(fd)  # the file was removed between open and lock: whoever comes next locks another one


def read_pid(fd: int) -> int | None:
    """The pid in an open lock file, None when there is none yet."""
    text = os.pread(fd, 20, 0)
    return int(text) if text.isdigit() else None


def _holds(pid: int, file: os.stat_result) -> bool:
    """Whether this process has the lock, not only the file open; True when that cannot be told."""
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), file):
                    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as info:
                        if "\nlock:" in info.read():
                            return True
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    return False


def still_there(directory: int, fd: int) -> bool:
    """Whether the open lock file is the one that whoever comes next would lock."""
    try:
        path = os.stat(LOCK, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(path, os.fstat(fd))
