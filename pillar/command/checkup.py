"""What may be wrong with the tables below one root, and with the machine under them. Only looks; changes nothing.

Each check yields Findings; every Finding says how to mend it. Nothing here opens a PubSub or takes a lock.
"""

from __future__ import annotations

import os
import resource
import stat
import time
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from pillar.pubsub import BadRecord
from pillar.pubsub.names import LEDGERS, LOCK, QUARANTINE, STAGING, SUFFIX, key_of
from pillar.pubsub.records import read_file
from pillar.tables import Place, entries, holder, tables

_BAK: Final = ".bak"
_NEARLY: Final = 0.8  # of a limit
_LEAST_FREE: Final = 0.05  # of a file system's bytes and inodes
_LEAST_FILES: Final = 256  # descriptors an agent with its tables and transfers needs
_LEAST_EVENTS: Final = 1024
_EARLIEST: Final = 1_704_067_200.0  # 2024-01-01: a clock before that was never set
_TOLERANCE_S: Final = 60.0


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    level: Literal["note", "warning"]  # a note mends itself, or is only good to know
    check: str
    where: str
    what: str
    mend: str


def checkup(root: str) -> Iterator[Finding]:
    """Everything that is found, the machine first."""
    yield from limits()
    yield from clock(root)
    yield from space(root)
    for place in tables(root):
        yield from modes(place)
        yield from left_over(place)
        yield from records(place)
        yield from quarantined(place)
    yield from locks(root)
    yield from ledgers(root)


def limits() -> Iterator[Finding]:
    """inotify's limits against what is used, and the open files a process may have."""
    instances = _number("/proc/sys/fs/inotify/max_user_instances")
    used = _inotify_instances()
    if instances is not None and used >= _NEARLY * instances:
        yield Finding(
            "warning",
            "limits",
            "fs.inotify.max_user_instances",
            f"{used} of {instances} are in use; processes beyond it list their tables every few seconds instead",
            f"sysctl fs.inotify.max_user_instances={max(512, instances * 2)}",
        )
    for name, least in (("max_user_watches", 8192), ("max_queued_events", _LEAST_EVENTS)):
        value = _number(f"/proc/sys/fs/inotify/{name}")
        if value is not None and value < least:
            sysctl = f"fs.inotify.{name}"
            yield Finding("warning", "limits", sysctl, f"is {value}", f"sysctl {sysctl}={least * 8}")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < _LEAST_FILES:
        yield Finding("warning", "limits", "open files", f"a process may have {files}", "ulimit -n 1024")


def clock(root: str) -> Iterator[Finding]:
    """A clock that was never set, and records from its future."""
    now = time.time()
    if now < _EARLIEST:
        yield Finding("warning", "clock", "this machine", f"says {_date(now)}", "set it; TLS will fail until then")
        return
    for place in tables(root):
        ahead = [entry for entry in entries(place) if entry.changed > now + _TOLERANCE_S]
        if ahead:
            latest = max(entry.changed for entry in ahead)
            yield Finding(
                "note",
                "clock",
                place.path,
                f"{len(ahead)} records are dated up to {_date(latest)}: the clock was set back",
                "nothing to do: tables compare contents, not dates",
            )


def space(root: str) -> Iterator[Finding]:
    """Bytes and inodes of the file systems that the tables stand on."""
    for name in ("run", "persist"):
        path = os.path.join(root, name)
        try:
            found = os.statvfs(path)
        except FileNotFoundError:
            continue
        mend = "make room, or give it more; publishing fails when it is full, what is published stands"
        if found.f_blocks and found.f_bavail < _LEAST_FREE * found.f_blocks:
            free = found.f_bavail * found.f_frsize
            yield Finding("warning", "space", path, f"{free} bytes free, under {_LEAST_FREE:.0%}", mend)
        if found.f_files and found.f_favail < _LEAST_FREE * found.f_files:
            yield Finding("warning", "space", path, f"{found.f_favail} inodes free, under {_LEAST_FREE:.0%}", mend)
        if found.f_flag & os.ST_RDONLY:
            yield Finding("warning", "space", path, "is mounted read-only", "look into the kernel's log, then remount")


def modes(place: Place) -> Iterator[Finding]:
    """Who may write, and whether a group that may read was meant."""
    try:
        table = os.stat(place.path)
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(table.st_mode)
    if mode & 0o022:
        mend = f"chmod go-w {place.path}, and look who else put files there"
        yield Finding("warning", "modes", place.path, f"mode {mode:04o}: not only its owner can publish", mend)
    elif mode & 0o007:
        mend = f"chmod o= {place.path}, or name a reader group when publishing"
        yield Finding("note", "modes", place.path, f"mode {mode:04o}: everybody may read it", mend)
    foreign = _foreign(place, table.st_uid)
    if foreign:
        what = f"{len(foreign)} records belong to another user than the table, the first is {foreign[0]}"
        yield Finding(
            "warning", "modes", place.path, what, f"chown {table.st_uid} the files that are meant to be there"
        )


def locks(root: str) -> Iterator[Finding]:
    """Locks of publishers that are gone: free ones, in one note, and those that a child of theirs still keeps."""
    dead = [(place, held) for place in tables(root) if (held := holder(place)) is not None and not held.alive]
    keepers = _who_has_open([os.path.join(place.path, LOCK) for place, _ in dead])
    free = 0
    for place, held in dead:
        lock = os.path.join(place.path, LOCK)
        if lock in keepers:
            what = f"process {held.pid} is gone, but process {keepers[lock]} still has its lock open"
            mend = f"end process {keepers[lock]}: until then nobody can publish this table"
            yield Finding("warning", "locks", place.path, what, mend)
        else:
            free += 1
    if free:
        what = f"{free} tables were last published by processes that are gone"
        yield Finding("note", "locks", root, what, "nothing to do: their locks are free, the next publisher takes over")


def left_over(place: Place) -> Iterator[Finding]:
    """Files that belong to nobody: half-written ones, editors' copies, backups without their record."""
    held = holder(place)
    if held is None or not held.alive:
        for name in _names(os.path.join(place.path, STAGING)):
            where = os.path.join(place.path, STAGING, name)
            yield Finding("note", "left-over", where, "was being written at a kill", "the next publisher removes it")
    names = set(_names(place.path))
    for name in sorted(names):
        where = os.path.join(place.path, name)
        if name.endswith(("~", ".swp", ".tmp", ".orig", ".rej")):
            yield Finding("note", "left-over", where, "is an editor's, no record", f"rm {where}")
        elif place.persistent and name.endswith(SUFFIX + _BAK) and name.removesuffix(_BAK) not in names:
            mend = "the next publisher brings the record back from it; to prevent that, remove it"
            yield Finding("warning", "left-over", where, "is the backup of a record that is missing", mend)


def records(place: Place) -> Iterator[Finding]:
    """Records that no reader takes."""
    try:
        directory = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        yield Finding("warning", "records", place.path, f"cannot be opened: {err.strerror}", "see its mode and owner")
        return
    try:
        for name in sorted(_names(place.path)):
            if key_of(name) is None:
                continue
            try:
                data = read_file(directory, name)
                if data is not None:
                    msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            except (BadRecord, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OSError) as err:
                where = os.path.join(place.path, name)
                mend = "subscribers keep the last good value; write it anew, or remove it"
                yield Finding("warning", "records", where, str(err), mend)
    finally:
        os.close(directory)


def quarantined(place: Place) -> Iterator[Finding]:
    """What publishers have set aside."""
    for name in _names(os.path.join(place.path, QUARANTINE)):
        where = os.path.join(place.path, QUARANTINE, name)
        mend = f"stop the publisher and move it back to {place.path} if it was meant to be there, else remove it"
        yield Finding("warning", "quarantine", where, "was found in a held table, or could not be read", mend)


def ledgers(root: str) -> Iterator[Finding]:
    """Durable subscriptions whose ledger is empty: every handler would be run again."""
    for base in (os.path.join(root, "run"), os.path.join(root, "persist/status")):
        for agent in _names(base):
            seen = os.path.join(base, agent, LEDGERS)
            for name in _names(seen):
                journal = os.path.join(seen, name, "journal")
                try:
                    empty = os.stat(journal).st_size == 0
                except FileNotFoundError:
                    empty = True
                if empty:
                    what = f"has nothing of what {agent} has finished"
                    yield Finding("note", "ledgers", journal, what, "its handlers are run again at the next start")


def _inotify_instances() -> int:
    """How many inotify descriptors this user's processes have."""
    count = 0
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                continue
            for fd in os.listdir(f"/proc/{pid}/fd"):
                count += os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:inotify"
        except OSError:  # it ended meanwhile, or is not ours to look into
            continue
    return count


def _who_has_open(paths: list[str]) -> dict[str, int]:
    """For each of these files that some process has open, one such process."""
    wanted = {}
    for path in paths:
        status = os.stat(path)
        wanted[status.st_dev, status.st_ino] = path
    found: dict[str, int] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc") if wanted else ())):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                place = (status.st_dev, status.st_ino)
                if place in wanted:
                    found[wanted[place]] = pid
        except OSError:  # it ended or closed something meanwhile, or is not ours to look into
            continue
    return found


def _foreign(place: Place, owner: int) -> list[str]:
    found = []
    for entry in entries(place):
        try:
            status = os.stat(os.path.join(place.path, entry.key + SUFFIX), follow_symlinks=False)
        except FileNotFoundError:
            continue
        if status.st_uid != owner:
            found.append(entry.key)
    return found


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
