"""What a durable subscription has finished, so that a restarted process neither repeats nor misses a handler.

    <me>/.seen/<name>/journal    one line per finished handler, only ever added to
    <me>/.seen/<name>/.lock      held while the subscriber lives

`<me>` is the subscriber's own directory below the base of the table it follows: the ledger of an ordinary table is
lost in a reboot together with that table, the one of a persistent table survives it and is flushed line by line.

A line is `<crc32> <JSON>`: first the name of the table, then `[key, record]`, or `[key]` when the key is gone. It
is added when the handler has returned. So a kill between the two runs that one handler again, and no other; a line
that a kill or a power cut tore fails its checksum and counts as not written. When most lines are outdated the
journal is written anew beside and renamed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Iterator

import msgspec

from pillar.pubsub import lock
from pillar.pubsub.errors import BadName
from pillar.pubsub.names import Table, ledger_path
from pillar.pubsub.records import read_file

log = logging.getLogger("pillar.pubsub")

_JOURNAL = "journal"
_FRESH = "journal.new"
_MAX_BYTES = 1 << 40  # only we write here: no limit that a record could reach
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW = _APPEND | os.O_CREAT | os.O_TRUNC
_SLACK_BYTES = 256 * 1024  # outdated lines that are always tolerated


class Ledger:
    """One durable subscription's memory across its death.

    Raises TableHeld when a live process uses it, BadName when it belongs to another table, OSError.
    """

    def __init__(self, table: Table, agent: str, name: str) -> None:
        self.path = ledger_path(table, agent, name)
        self._table = table
        self._flush = table.persistent
        self._finished: dict[str, bytes] = {}
        self._journal = self._lock = self._directory = -1
        self._live_bytes = self._bytes = 0
        try:
            self._open(f"{agent}/{name}")
        except BaseException:
            self.close()
            raise

    def finished(self) -> dict[str, bytes]:
        """Per key the bytes of the record whose handler has finished last."""
        return dict(self._finished)

    def forget(self, key: str) -> None:
        """Leave out an entry that cannot be read any more (its type has changed)."""
        self._finished.pop(key, None)

    def finish(self, key: str, data: bytes | None) -> None:
        """The handler that was told of these bytes, or with None of the key's end, has returned. Raises OSError.

        After an error the entry is kept and written by the next call that succeeds.
        """
        self._live_bytes -= _cost(key, self._finished.get(key))
        if data is None:
            if self._finished.pop(key, None) is None:
                return
            entry: list[str] = [key]
        else:
            self._finished[key] = data
            entry = [key, data.decode()]
        self._live_bytes += _cost(key, data)
        if self._journal == -1 or self._bytes > 2 * self._live_bytes + _SLACK_BYTES:
            self._write_anew()
            return
        try:
            self._add(self._journal, _line(entry))
        except OSError:
            os.close(self._journal)  # its last line may be torn: nothing may follow it
            self._journal = -1
            raise

    def close(self) -> None:
        """Free the lock; the ledger stays."""
        for fd in (self._journal, self._directory, self._lock):
            if fd != -1:
                os.close(fd)
        self._journal = self._directory = self._lock = -1

    def _open(self, name: str) -> None:
        with contextlib.suppress(FileExistsError):  # not exist_ok: that would report a failing disk as "File exists"
            os.makedirs(self._table.base)
        path = self._table.base
        for part in os.path.relpath(self.path, path).split("/"):
            path = os.path.join(path, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        self._directory = os.open(self.path, _DIRECTORY)
        self._lock = lock.acquire(self._directory, f"the ledger {name} of {self._table.name}", "used")
        data = read_file(self._directory, _JOURNAL, _MAX_BYTES)
        if data:
            self._replay(data)
        if self._bytes:
            self._journal = os.open(_JOURNAL, _APPEND, dir_fd=self._directory)
            os.ftruncate(self._journal, self._bytes)  # a torn line goes; this works on a full disk too
        else:
            self._write_anew()

    def _replay(self, data: bytes) -> None:
        """Take over the lines up to the first torn one."""
        lines = _lines(data)
        head, self._bytes = next(lines, ([], 0))
        if not head:
            log.error("%s/%s: not readable; every handler is run again", self.path, _JOURNAL)
            return
        if head[0] != self._table.name:
            raise BadName(f"{self.path}: the ledger of {head[0]} cannot serve {self._table.name}; use another name")
        for entry, end in lines:
            self._bytes = end
            if len(entry) == 1:
                self._finished.pop(entry[0], None)
            else:
                self._finished[entry[0]] = entry[1].encode()
        self._live_bytes = sum(_cost(key, value) for key, value in self._finished.items())
        if self._bytes < len(data):
            log.warning("%s/%s: cut short at byte %d; goes on from there", self.path, _JOURNAL, self._bytes)

    def _write_anew(self) -> None:
        """The journal without outdated lines, beside the old one and then in its place."""
        fresh = os.open(_FRESH, _NEW, 0o600, dir_fd=self._directory)
        try:
            self._bytes = 0
            lines = [[self._table.name], *([key, data.decode()] for key, data in self._finished.items())]
            self._add(fresh, b"".join(map(_line, lines)))
            os.rename(_FRESH, _JOURNAL, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            if self._flush:
                os.fsync(self._directory)
        except BaseException:
            os.close(fresh)
            raise
        if self._journal != -1:
            os.close(self._journal)
        self._journal = fresh

    def _add(self, fd: int, data: bytes) -> None:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, data[written:])
        self._bytes += len(data)
        if self._flush:
            os.fsync(fd)


def _cost(key: str, data: bytes | None) -> int:
    return 0 if data is None else len(key) + len(data)


def _line(entry: list[str]) -> bytes:
    text = msgspec.json.encode(entry)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(data: bytes) -> Iterator[tuple[list[str], int]]:
    """The entries up to the first line that is not whole, each with the offset behind it."""
    start = 0
    while (end := data.find(b"\n", start)) != -1:
        text = data[start + 9 : end]
        entry: list[str] = []
        if data[start : start + 9] == b"%08x " % zlib.crc32(text):
            with contextlib.suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(text, type=list[str])
        if len(entry) not in (1, 2):
            return
        start = end + 1
        yield entry, start
