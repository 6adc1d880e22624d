"""The tree of tables as a stranger reads it: no lock, no PubSub, nothing created, on a tree where nothing runs as well.

    <root>/run/<agent>[/<scope>]/<Topic>              ordinary tables; agent `global` for what belongs to nobody
    <root>/persist/status/<agent>[/<scope>]/<Topic>   persistent ones

A directory is a table when it holds what only tables hold (a record, the lock, `restarted`), or when its name is that
of a topic: EVE's are capitalised. Names that start with a dot are the tables' own and are skipped.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from pillar.agents import find as find_agent
from pillar.pubsub.names import LOCK, RESTARTED, STAGING, SUFFIX, key_of
from pillar.pubsub.records import read_file

_TOPIC: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MARKS: Final = frozenset({LOCK, RESTARTED, STAGING})
_SYSTEM: Final = frozenset({"shm", "lock", "user", "systemd", "udev"})  # what else stands in a machine's own /run
_PID: Final = re.compile(r"[1-9][0-9]{0,9}")


class NotFound(Exception):
    """There is no such table or key; the text says what there is instead."""


class Place(NamedTuple):
    """One table: where it stands, and what it is called."""

    agent: str  # as in the path: `global` for the empty agent
    scope: str  # "" for none
    topic: str
    persistent: bool
    path: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.agent, self.scope, self.topic) if self.scope else (self.agent, self.topic)

    @property
    def name(self) -> str:
        """`agent/Topic` or `agent/scope/Topic`."""
        return "/".join(self.parts)


class Holder(NamedTuple):
    """The process named in a table's lock file."""

    pid: int
    alive: bool  # it runs, and has this lock file open


class Summary(NamedTuple):
    """What a table holds, without its records having been read."""

    place: Place
    keys: int
    newest: float | None  # seconds since 1970 of the newest record's last change, None when there is none
    holder: Holder | None
    restarted: int


class Entry(NamedTuple):
    """One record of a table, without its content."""

    key: str
    size: int  # bytes
    changed: float  # seconds since 1970


class Folder(NamedTuple):
    """A directory that is no table but may come to hold some."""

    path: str


def walk(root: str) -> Iterator[Place | Folder]:
    """Every table below this root, ordinary ones first, in the order of their names; and every directory on the way.

    A directory that could still become either is both.
    """
    for base, persistent in ((os.path.join(root, "run"), False), (os.path.join(root, "persist/status"), True)):
        yield Folder(base)
        for agent in _directories(base):
            if agent in _SYSTEM:
                continue
            above = os.path.join(base, agent)
            yield Folder(above)
            for name in _directories(above):
                path = os.path.join(above, name)
                table = is_table(path)
                if table:
                    yield Place(agent, "", name, persistent, path)
                if not table or not is_marked(path):
                    yield Folder(path)
                    for topic in _directories(path):
                        below = os.path.join(path, topic)
                        if is_table(below):
                            yield Place(agent, name, topic, persistent, below)


def tables(root: str) -> list[Place]:
    """Every table below this root."""
    return [found for found in walk(root) if isinstance(found, Place)]


def is_table(path: str) -> bool:
    """Does a table stand here? An empty directory with a capitalised name counts: its publisher may be about to."""
    name = os.path.basename(path)
    if not _TOPIC.fullmatch(name):
        return False
    return is_marked(path) or (name[0].isupper() and not _directories(path))


def is_marked(path: str) -> bool:
    """Does this directory hold what only a table holds?"""
    try:
        return any(entry in _MARKS or key_of(entry) is not None for entry in os.listdir(path))
    except OSError:
        return False


class Selection(NamedTuple):
    """What `agent[/scope]/Topic[/key]`, or only the beginning of it, means."""

    places: list[Place]
    one_table: bool  # a whole name was given; an ordinary and a persistent table may share it
    key: str = ""  # as given; "" for none


def select(places: list[Place], spec: str) -> Selection:
    """What of these tables `spec` means; an agent may be called by its alias.

    Raises NotFound with the nearest name there is.
    """
    parts = parts_of(spec)
    exact = [place for place in places if parts[: len(place.parts)] == place.parts]
    for place in exact:
        rest = parts[len(place.parts) :]
        if len(rest) > 1:
            raise NotFound(f"{spec}: a key holds no slash, and {place.name} is a table")
        same = [other for other in exact if other.parts == place.parts]
        return Selection(same, True, rest[0] if rest else "")
    below = [place for place in places if place.parts[: len(parts)] == parts]
    if below:
        return Selection(below, False)
    names = [*dict.fromkeys(place.agent for place in places), *(place.name for place in places)]
    raise NotFound(f"there is no table {spec!r}{_nearest('/'.join(parts), names)}")


def parts_of(spec: str) -> tuple[str, ...]:
    """The parts of `agent/Topic/...`, the agent by its published name."""
    parts = tuple(part for part in spec.split("/") if part)
    agent = find_agent(parts[0]) if parts else None
    return (agent.name, *parts[1:]) if agent is not None else parts


def one_key(place: Place, wanted: str) -> str:
    """The key of this table that is `wanted`, or the only one that begins with it. Raises NotFound."""
    keys = [entry.key for entry in entries(place)]
    if wanted in keys:
        return wanted
    if wanted.removesuffix(SUFFIX) in keys:  # the shell completed a file name
        return wanted.removesuffix(SUFFIX)
    beginning = [key for key in keys if key.startswith(wanted)]
    if len(beginning) == 1:
        return beginning[0]
    if beginning:
        shown = ", ".join(beginning[:5]) + (", ..." if len(beginning) > 5 else "")
        raise NotFound(f"{len(beginning)} keys of {place.name} begin with {wanted!r}: {shown}")
    raise NotFound(f"{place.name} has no key {wanted!r}{_nearest(wanted, keys)}")


def entries(place: Place) -> list[Entry]:
    """The records of a table, by key; what is not a regular file is left out, as it is no record."""
    found = []
    try:
        with os.scandir(place.path) as listing:
            for item in listing:
                key = key_of(item.name)
                if key is None:
                    continue
                try:
                    status = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append(Entry(key, status.st_size, status.st_mtime))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)


def content(place: Place, key: str) -> bytes | None:
    """The bytes of one record, None when there is none. Raises BadRecord for what is no readable regular file."""
    try:
        directory = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return read_file(directory, key + SUFFIX)
    finally:
        os.close(directory)


def summary(place: Place) -> Summary:
    """Counts, ages and the holder of one table."""
    records = entries(place)
    newest = max((entry.changed for entry in records), default=None)
    return Summary(place, len(records), newest, holder(place), restarted(place))


def holder(place: Place) -> Holder | None:
    """Who publishes this table, None when nobody ever did.

    The lock itself is not tried: that would refuse a publisher that starts at this moment.
    """
    path = os.path.join(place.path, LOCK)
    text = small_text(path)
    if text is None or not _PID.fullmatch(text):
        return None
    pid = int(text)
    try:
        lock = os.stat(path, follow_symlinks=False)
        alive = any(os.path.samestat(lock, opened) for opened in _open_files(pid))
    except FileNotFoundError:
        return Holder(pid, False)
    except PermissionError:  # another user's process: that it runs is all that can be told
        return Holder(pid, True)
    return Holder(pid, alive)


def seconds_ago(moment: float | None) -> float | None:
    """The age of a time, None for None."""
    return None if moment is None else time.time() - moment


def restarted(place: Place) -> int:
    """The table's restart counter, 0 for none."""
    text = small_text(os.path.join(place.path, RESTARTED))
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def small_text(path: str, at_most: int = 20) -> str | None:
    """The first bytes of a small text file, None when it cannot be read. Never blocks, whatever stands there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, at_most).decode("ascii", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)


def _open_files(pid: int) -> Iterator[os.stat_result]:
    """What a process has open. Raises FileNotFoundError when it does not run."""
    directory = f"/proc/{pid}/fd"
    for fd in os.listdir(directory):
        try:
            yield os.stat(f"{directory}/{fd}")
        except FileNotFoundError:  # closed meanwhile
            continue


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as listing:
            return sorted(entry.name for entry in listing if entry.name[0] != "." and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _nearest(wanted: str, names: list[str]) -> str:
    near = difflib.get_close_matches(wanted, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
