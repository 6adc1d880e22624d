"""The part file: what survives of a download when its process dies at any byte.

Beside the target stand `<name>.part`, the bytes, and `<name>.part.json`, what they are the beginning of: source,
size, validator. After `kill -9` the kernel still holds every byte that was written, so the part's whole length
counts. After a power cut a file system may show a length whose bytes never reached the disk; so the record also
names the boot, and in another boot only the prefix that was synced counts. The sha256 of that prefix is recorded
too: a resume reads the prefix anyway (to hash it), and a prefix that is not what was written is thrown away.

When several streams fill the part, `<name>.part.spans` says which bytes are there (see `pieces`); the hash follows the
beginning that is without a gap.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from pillar.bootid import boot_id
from pillar.durable import sync_directory
from pillar.transports.base import Identity
from pillar.transports.follower import Follower
from pillar.transports.pieces import Pieces

SYNC_EVERY_BYTES = 32 * 1024 * 1024  # what a power cut, not a kill, may cost
READ_BYTES = 1024 * 1024


class DiskFull(Exception):
    """The disk has no room for the next bytes; what was written before them stays for a resume."""


class PartBusy(Exception):
    """Another process is filling this part file."""


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the bytes in a part file are the beginning of. Written by the fetch that owns the part file."""

    source: str
    size: int | None = None  # bytes of the whole object; None: the server does not say
    validator: str = ""
    synced: int = 0  # bytes that certainly reached the disk
    synced_sha256: str = ""  # of these bytes
    boot: str = ""  # in which boot; in this one every byte of the file counts
    piece: int = 0  # bytes; when not 0, only what the spans file counts is there


class PartFile:
    """The open part file of one object. One owner at a time; the owner's table lock sees to that."""

    def __init__(self, target: Path) -> None:
        self.path = part_path(target)
        self.record_path = self.path.with_name(self.path.name + ".json")
        self.spans_path = self.path.with_name(self.path.name + ".spans")
        self.length = 0  # bytes that are there without a gap from the beginning
        self.record: PartRecord | None = None
        self.pieces: Pieces | None = None
        self._synced_at = 0  # the length when sync was last called; the hash may not have come so far
        self._fd = -1
        self._follower = Follower(-1)

    def open(self, source: str, check: Callable[[], None] = lambda: None) -> Identity | None:
        """Take up what is there of `source`, or begin with nothing.

        Returns the object's identity when at least its beginning is here; `length` and `pieces` then tell of it.
        `check` is called after every block that is read back and may raise. Raises PartBusy, OSError.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = self._open_locked()
        self._follower = Follower(self._fd)
        record = self._read_record()
        if record is None or record.source != source:
            self.restart()
            return None
        same_boot = record.boot != "" and record.boot == boot_id()
        there = os.fstat(self._fd).st_size
        if record.piece and record.size is not None:
            self.pieces = Pieces(self.spans_path, record.size, record.piece)
            there = max(record.synced, min(there, self.pieces.whole))
        usable = there if same_boot else record.synced
        longer_than_it_can_be = record.size is not None and usable > record.size
        if longer_than_it_can_be or (not record.validator and usable != record.size):
            self.restart()  # nothing could tell whether the rest belongs to this beginning
            return None
        self.record = record
        self._synced_at = record.synced
        if not self._rehash(usable, record, check):
            self.restart()
            return None
        if self.pieces is None:
            os.ftruncate(self._fd, self.length)
        elif not same_boot:
            self.pieces.forget_from(self.length)
            os.ftruncate(self._fd, self.length)
        return Identity(record.size, record.validator)

    def begin(self, source: str, identity: Identity, piece: int = 0) -> None:
        """Start over: `source` is now the object `identity`. Its record is on disk first. Raises DiskFull, OSError.

        With `piece`, in bytes, the object of known size is filled by `write_at`, in pieces of that size.
        """
        self.restart()
        self.record = PartRecord(
            source=source, size=identity.size, validator=identity.validator, boot=boot_id(), piece=piece
        )
        if piece and identity.size is not None:
            self.pieces = Pieces(self.spans_path, identity.size, piece)
        self._write_record()

    def append(self, chunk: bytes) -> None:
        """Write the next bytes. Raises DiskFull; the bytes before them stay."""
        self.write_at(chunk, self.length)
        self.length += len(chunk)
        self.follow()

    def write_at(self, chunk: bytes, at: int) -> None:
        """Write bytes that stand at `at` in the object; from any thread. Raises DiskFull, OSError."""
        view = memoryview(chunk)
        while view:
            try:
                written = os.pwrite(self._fd, view, at)
            except OSError as err:
                raise_if_full(err, self.path)
                raise
            at += written
            view = view[written:]

    def follow(self) -> None:
        """Hash what has come without a gap, and sync now and then. Raises DiskFull, OSError."""
        if self.pieces is not None:
            self.length = self.pieces.whole
        self._follower.advance(self.length)
        if self.length - self._synced_at >= SYNC_EVERY_BYTES:
            self.sync()

    def digest(self) -> str:
        """The sha256 of everything, which has to be complete. Raises OSError."""
        return self._follower.digest(self.length)

    def sync(self) -> None:
        """Put what was written so far on the disk and record what of it is hashed. Raises DiskFull, OSError."""
        if self.record is None:
            return
        self._synced_at = self.length
        synced, digest = self._follower.so_far()
        try:
            os.fdatasync(self._fd)
            self.record = msgspec.structs.replace(
                self.record, synced=synced, synced_sha256=digest if synced else "", boot=boot_id()
            )
            self._write_record()
        except OSError as err:
            raise_if_full(err, self.path)
            raise

    def place(self, target: Path) -> None:
        """Make the part file the target: on disk first, then by rename, then its name on disk. Raises OSError."""
        try:
            os.fsync(self._fd)
        except OSError as err:
            raise_if_full(err, self.path)
            raise
        self.path.replace(target)
        sync_directory(target.parent)
        self.record_path.unlink(missing_ok=True)
        self.spans_path.unlink(missing_ok=True)

    def restart(self) -> None:
        """Forget what was there."""
        self._follower.close()
        if self.pieces is not None:
            self.pieces.close()
            self.pieces = None
        self.spans_path.unlink(missing_ok=True)  # before the bytes it counts
        os.ftruncate(self._fd, 0)
        self.length = self._synced_at = 0
        self.record = None
        self._follower = Follower(self._fd)

    def close(self) -> None:
        """Let go of the file; what was written stays."""
        self._follower.close()
        if self.pieces is not None:
            self.pieces.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open_locked(self) -> int:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                    return fd
            except FileNotFoundError:
                pass  # its owner has just put it in place or thrown it away: what we hold is not the part any more
            except BlockingIOError as err:
                os.close(fd)
                raise PartBusy(f"{self.path}: another process is fetching this") from err
            os.close(fd)

    def _rehash(self, usable: int, record: PartRecord, check: Callable[[], None]) -> bool:
        """Read the first `usable` bytes back. False: they are not the bytes that were written."""
        while self.length < usable:
            stop = record.synced if self.length < record.synced else usable
            try:
                self.length = self._follower.catch_up(min(self.length + READ_BYTES, stop, usable))
            except EOFError:
                return False
            if self.length == record.synced and self._follower.so_far()[1] != record.synced_sha256:
                return False
            check()
        return True

    def _read_record(self) -> PartRecord | None:
        try:
            return msgspec.json.decode(self.record_path.read_bytes(), type=PartRecord)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None  # never written, or cut by a power failure: the part cannot be trusted, so it is fetched again

    def _write_record(self) -> None:
        staged = self.record_path.with_name(self.record_path.name + ".new")
        try:
            with staged.open("wb") as file:
                file.write(msgspec.json.encode(self.record))
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self.record_path)
        except OSError as err:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            raise_if_full(err, self.path)
            raise


def part_path(target: Path) -> Path:
    """Where the bytes of `target` stand while they are not complete.

    A name too long for the suffixes is shortened with its own hash, so that every legal target has a part file.
    """
    name = target.name
    if len(os.fsencode(name)) > 255 - len(".part.json.new"):
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return target.with_name(name + ".part")


def is_part(name: str) -> bool:
    """Whether a file of this name belongs to an incomplete download."""
    return name.endswith((".part", ".part.json", ".part.json.new", ".part.spans"))


def discard(target: Path) -> None:
    """Remove what there is of an incomplete `target`. Raises OSError."""
    for path in every_part(target):
        path.unlink(missing_ok=True)


def every_part(target: Path) -> list[Path]:
    """All files that may stand beside an incomplete `target`."""
    part = part_path(target)
    return [part.with_name(part.name + suffix) for suffix in (".spans", "", ".json", ".json.new")]


def on_disk(target: Path) -> int:
    """How many bytes of the disk the part file of `target` takes; 0 when there is none. Gaps do not count."""
    try:
        status = part_path(target).stat()
    except FileNotFoundError:
        return 0
    return min(status.st_size, status.st_blocks * 512)


def raise_if_full(err: OSError, path: Path) -> None:
    """Raise DiskFull if that is what `err` says; else return."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise DiskFull(
            f"{path.parent}: {os.strerror(err.errno)}; the part is kept and continued when there is room"
        ) from err
