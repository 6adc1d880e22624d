"""Reading one file of a table without trusting it.

Anybody who may write the directory can put a link, a FIFO or two gigabytes where a record is
expected; the reader must neither follow, block nor swallow it.
"""

from __future__ import annotations

import errno
import os
import stat

from pillar.pubsub.errors import BadRecord

MAX_RECORD_BYTES = 256 * 1024 * 1024

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def read_file(directory: int | None, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
    """The content of one file of an open directory, or at a path; None when there is no such file.

    Raises BadRecord when what stands there is no readable regular file of at most `limit` bytes,
    and OSError when the machine is at fault (no descriptors, no memory, a failing disk).
    """
    try:
        fd = os.open(name, _OPEN, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):  # the latter only on the way of a path
        return None
    except OSError as err:
        raise _judge_open(directory, name, err) from err
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BadRecord(f"is {kind_of(status.st_mode)}, not a regular file")
        if status.st_size > limit:
            raise BadRecord(f"has {status.st_size} bytes, at most {limit} are read")
        # One byte more than the size tells in one call that nothing follows.
        data = os.read(fd, status.st_size + 1)
        while len(data) > status.st_size:  # it grows under our eyes: read on, up to the limit
            more = os.read(fd, limit + 1 - len(data))
            if not more:
                break
            data += more
            if len(data) > limit:
                raise BadRecord(f"grew beyond {limit} bytes while it was read")
        return data
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
    finally:
        os.close(fd)


def kind_of(mode: int) -> str:
    """What a file of this st_mode is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "a regular file")


def _judge_open(directory: int | None, name: str, err: OSError) -> Exception:
    """An error of the file itself becomes a BadRecord; one of the machine stays what it is."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return err
    if not stat.S_ISREG(mode):
        return BadRecord(f"is {kind_of(mode)}, not a regular file")
    if isinstance(err, PermissionError):
        return BadRecord(f"may not be read: mode {stat.S_IMODE(mode):04o}, {err.strerror}")
    return err
