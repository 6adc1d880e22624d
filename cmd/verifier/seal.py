"""Make a file one that nobody without our rights can change any more, before it is hashed.

What is read is proven only if it stays as it was read. Directories of mode 0700 and 0500 keep others from reaching a
file by name, but somebody may have it open for writing already, or own it and have it under another name elsewhere (a
person who moved an image into place). So a file is sealed when

    it belongs to us and has mode 0400    nobody without our rights can open it for writing or change its mode
    nobody has it open for writing        asked of the kernel: it grants a read lease only then; mappings count as open

A file that cannot be brought to that is copied: the copy is a new inode that only this process ever had open.
A file system without leases (NFS, some FUSE) cannot say who writes; there, owner and mode have to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

SEALED = 0o400
COPY_BYTES = 1024 * 1024
PATIENCE_S = 2.0  # a downloader that has just renamed its file is about to close it
LOOK_AGAIN_S = 0.05
_CANNOT_SAY = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def seal(path: Path, check: Callable[[], None] = lambda: None) -> bool:
    """When this returns the file at `path` is sealed; True if that took a copy, which then has the name.

    `check` may raise meanwhile. A kill leaves the file as it was, and perhaps the beginning of a copy beside it.
    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        staged = path.with_name(f".copy-{os.fstat(fd).st_ino}")
        staged.unlink(missing_ok=True)  # of an earlier try
        if _is_ours(fd) and _nobody_writes(fd, check):
            return False
        _copy(fd, staged, check)
    finally:
        os.close(fd)
    staged.replace(path)
    return True


def _is_ours(fd: int) -> bool:
    """Make it so, if we may."""
    status = os.fstat(fd)
    try:
        if status.st_uid != os.geteuid():
            os.fchown(fd, os.geteuid(), -1)
        if status.st_mode & 0o7777 != SEALED:
            os.fchmod(fd, SEALED)
    except OSError:
        return False  # not ours to change, or nothing can be changed here: then the copy will say so
    return True


def _nobody_writes(fd: int, check: Callable[[], None]) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while not _lease_granted(fd):
        if time.monotonic() > give_up:
            return False
        check()
        time.sleep(LOOK_AGAIN_S)
    return True


def _lease_granted(fd: int) -> bool:
    """Whether the kernel grants a read lease now; it is given back at once."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # who opens it in this moment must not end us with SIGIO
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as err:
        if err.errno in _CANNOT_SAY:
            return True
        if err.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _copy(fd: int, target: Path, check: Callable[[], None]) -> None:
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, SEALED)
    try:
        while block := os.read(fd, COPY_BYTES):
            view = memoryview(block)
            while view:
                view = view[os.write(copy, view) :]
            check()
        os.fsync(copy)
    finally:
        os.close(copy)
