"""The files of one table as its publisher writes them.

    <table>/<key>.json        the records, each put in place whole by a rename
    <table>/<key>.json.bak    persistent tables: the value before (EVE 2026's way)
    <table>/restarted         the restart counter, a decimal number
    <table>/.staging/         where the next record is written; not watched by anybody
    <table>/.lock             held while the publisher lives
    <table>/.quarantine/      files found in a held table that are no record of its publisher

A publish is: write .staging/record, rename it over <key>.json. The rename is the one event that
subscribers get. Dying anywhere before it leaves the old record, dying after it the new one. A persistent table also
flushes the content before the rename and the directory behind it, so the name is on the disk when write() returns.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator

from pillar.pubsub import lock
from pillar.pubsub.errors import BadRecord
from pillar.pubsub.names import QUARANTINE, RESTARTED, STAGING, SUFFIX, Table, key_of
from pillar.pubsub.records import read_file

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
_RECORD = "record"  # one publisher, one thread: one staging file is enough
_BACKUP = "backup"
_BAK = ".bak"


class Checkpoint:
    """A table's directory, opened and locked. Methods raise OSError when the file system refuses.

    `group` is the number of the group that may read the table, None for its owner alone.
    Raises TableHeld when another process publishes the table.
    """

    def __init__(self, table: Table, group: int | None = None) -> None:
        self.table = table
        self.batching = False  # names are flushed by `flush`, not by each change
        self._unflushed = False
        self._untidy = False  # something may be left staged
        self._group = group
        self._directory = self._staging = self._lock = -1
        try:
            self._directory = _make_directory(table)
            self._lock = lock.acquire(self._directory, table.name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(STAGING, 0o700, dir_fd=self._directory)
            self._staging = os.open(STAGING, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._directory)
            self._sweep()
            if group is not None:
                self._open_to_group(group)
            if table.persistent:
                _flush_way_to(table)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the lock and the descriptors; the files stay."""
        for fd in (self._staging, self._directory, self._lock):
            if fd != -1:
                os.close(fd)
        self._directory = self._staging = self._lock = -1

    def stands_at_its_path(self) -> bool:
        """Whether the table's path still leads to this directory, with its lock and staging directory in it."""
        try:
            return (
                os.path.samestat(os.stat(self.table.path), os.fstat(self._directory))
                and os.path.samestat(os.stat(STAGING, dir_fd=self._directory), os.fstat(self._staging))
                and lock.still_there(self._directory, self._lock)
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def recorded_keys(self) -> Iterator[str]:
        """The keys that have a file, or in a persistent table a backup, in no order."""
        found = set()
        for name in os.listdir(self._directory):
            key = key_of(name.removesuffix(_BAK) if self.table.persistent else name)
            if key is not None and key not in found:
                found.add(key)
                yield key

    def read(self, key: str) -> bytes | None:
        """A record's bytes as they stand, None when there is no file. Raises BadRecord."""
        return read_file(self._directory, key + SUFFIX)

    def read_backup(self, key: str) -> bytes | None:
        """The bytes before the last change, None when there are none. Raises BadRecord."""
        return read_file(self._directory, key + SUFFIX + _BAK)

    def write(self, key: str, data: bytes) -> None:
        """Put a record in place; in a persistent table it is then on the disk, or within a batch after `flush`."""
        name = key + SUFFIX
        try:
            self.tidy()  # a backup that could not be removed would be in the way of the next
            self._stage(data)
            if self.table.persistent:
                self._back_up(name)
            os.rename(_RECORD, name, src_dir_fd=self._staging, dst_dir_fd=self._directory)
        except BaseException:
            self._unstage()
            raise
        self._name_changed()

    def flush(self) -> None:
        """Have every name on the disk; nothing to do when each change has seen to that itself."""
        if self._unflushed:
            os.fsync(self._directory)
            self._unflushed = False

    def remove(self, key: str) -> None:
        """Take a record away; a file that is gone already is fine.

        A persistent table's backup goes first, and is gone on the disk too before the record is touched:
        else a power cut could keep only the backup, and the next start would take it for the record.
        """
        if self.table.persistent:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(key + SUFFIX + _BAK, dir_fd=self._directory)
                os.fsync(self._directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(key + SUFFIX, dir_fd=self._directory)
        self._name_changed()

    def tidy(self) -> None:
        """Take away what a refused change left staged; mostly there is nothing."""
        if self._untidy:
            for name in (_RECORD, _BACKUP):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._staging)
            self._untidy = False

    def quarantine(self, name: str) -> str:
        """Move a file that is no record of ours out of the table; returns where it went, below the table."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(QUARANTINE, 0o700, dir_fd=self._directory)
        target = f"{QUARANTINE}/{os.path.basename(name)}"
        try:
            os.rename(name, target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as err:
            if err.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY):
                raise
            target += f".{time.time_ns()}"  # a directory stands in the way of a file, or the other way round
            os.rename(name, target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        return target

    def read_restarted(self) -> int:
        """The restart counter; 0 when it was never signalled or is cleared."""
        return read_restarted(self._directory)

    def write_restarted(self, counter: int) -> None:
        """Set the restart counter, 0 removes the file."""
        if counter == 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(RESTARTED, dir_fd=self._directory)
        else:
            try:
                self._stage(str(counter).encode())
                os.rename(_RECORD, RESTARTED, src_dir_fd=self._staging, dst_dir_fd=self._directory)
            except BaseException:
                self._unstage()
                raise
        self._name_changed()

    def _name_changed(self) -> None:
        if self.table.persistent:
            self._unflushed = True
            if not self.batching:
                self.flush()

    def _stage(self, data: bytes) -> None:
        """These bytes as the staged record, in a persistent table flushed."""
        fd = os.open(_RECORD, _NEW_FILE, 0o600, dir_fd=self._staging)
        try:
            written = os.write(fd, data)
            while written < len(data):  # a nearly full disk takes what it can before it says ENOSPC
                written += os.write(fd, data[written:])
            if self._group is not None:
                _open_to(fd, self._group, 0o640)
            if self.table.persistent:
                os.fsync(fd)
        finally:
            os.close(fd)

    def _unstage(self) -> None:
        """What a refusal left staged takes room that is wanted. If even this fails, the repair that follows does it."""
        self._untidy = True
        with contextlib.suppress(OSError):
            self.tidy()

    def _back_up(self, name: str) -> None:
        """Keep the present value as `.bak`: a second name for the same, already flushed, inode."""
        try:
            os.link(name, _BACKUP, src_dir_fd=self._directory, dst_dir_fd=self._staging)
        except FileNotFoundError:
            return  # the first value of this key
        os.rename(_BACKUP, name + _BAK, src_dir_fd=self._staging, dst_dir_fd=self._directory)
        # rename(2) between two names of one inode does nothing and leaves both: after a kill between the
        # two renames of a publish, the next backup is such a case.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_BACKUP, dir_fd=self._staging)

    def _sweep(self) -> None:
        """Remove what a killed publisher left in the staging directory. Only the lock's holder may."""
        for name in os.listdir(self._staging):
            try:
                os.unlink(name, dir_fd=self._staging)
            except IsADirectoryError:  # none of ours
                self.quarantine(f"{STAGING}/{name}")

    def _open_to_group(self, group: int) -> None:
        """Let the group read what is there and pass through the directories above, the agent's own (0711)."""
        _open_to(self._directory, group, 0o750)
        for name in os.listdir(self._directory):
            if key_of(name.removesuffix(_BAK)) is None and name != RESTARTED:
                continue
            status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory)
                try:
                    _open_to(fd, group, 0o640)
                finally:
                    os.close(fd)
        above = self.table.path
        for _ in self.table.name.split("/")[1:]:
            above = os.path.dirname(above)
            os.chmod(above, stat.S_IMODE(os.stat(above).st_mode) | 0o711)


def read_restarted(directory: int) -> int:
    """The restart counter of the table in this open directory.

    EVE reads garbage as 1 when it loads and as 0 when it watches; here it is 1 in both: the file itself is the signal.
    """
    try:
        text = read_file(directory, RESTARTED, limit=64)
    except BadRecord:
        return 1
    if text is None:
        return 0
    return int(text) if text.strip().isdigit() else 1


def _make_directory(table: Table) -> int:
    """Open the table's directory, making what is missing on the way: shared levels 0755, the agent's own 0700."""
    path = table.root
    with contextlib.suppress(FileExistsError):  # not exist_ok: that would report a failing disk as "File exists"
        os.makedirs(path)
    for part, mode in [(p, 0o755) for p in os.path.relpath(table.base, table.root).split("/")] + [
        (p, 0o700) for p in table.name.split("/")
    ]:
        path = os.path.join(path, part)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)
            os.chmod(path, mode)  # whatever the umask: agents run with 077
    return os.open(table.path, _DIRECTORY)


def _flush_way_to(table: Table) -> None:
    """Have the names on the way to the table and those in it on the disk.

    Also those that were there already: a publisher that was killed may not have come to flushing them, and
    what this one loads counts as published.
    """
    path = table.root
    for part in ("", *os.path.relpath(table.path, path).split("/")):
        path = os.path.join(path, part)
        fd = os.open(path, _DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _open_to(fd: int, group: int, mode: int) -> None:
    os.fchown(fd, -1, group)
    os.fchmod(fd, mode)
