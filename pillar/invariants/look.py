"""Read a whole tree for the checks. Takes no table's lock, opens no PubSub, changes nothing."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pillar.agents import AGENTS
from pillar.invariants.facts import SUPERVISOR, File, Tree
from pillar.locations import Locations
from pillar.pidfile import locked
from pillar.pubsub import BadRecord, decode
from pillar.pubsub.names import RESTARTED, STAGING, SUFFIX
from pillar.supervisor.process import start_ticks
from pillar.supervisor.survey import ledger
from pillar.tables import Place, content, entries, holder, small_text, tables
from pillar.topics import find_type

_STAGED: Final = (".tmp", ".new")
_COUNTER_BYTES: Final = 40  # of a restart counter: enough to tell nonsense from a number


def look(root: str | Path) -> Tree:
    """Everything the checks need, as it is now. Raises OSError when the root is no directory that can be read."""
    where = Locations(root)
    os.listdir(where.root)
    now = time.time()
    ordinary: dict[str, dict[str, Any]] = {}
    stored: dict[str, dict[str, Any]] = {}
    ages: dict[tuple[str, str], float] = {}
    unreadable: dict[str, str] = {}
    counters: dict[str, str] = {}
    staged: set[str] = set()
    live = {entry.name for entry in AGENTS if locked(where.pid(entry.name))}
    if locked(where.pid(SUPERVISOR)):
        live.add(SUPERVISOR)
    for place in tables(str(where.root)):
        records = (stored if place.persistent else ordinary).setdefault(place.name, {})
        for entry in entries(place):
            path = _below(where.root, os.path.join(place.path, entry.key + SUFFIX))
            if not place.persistent:
                ages[place.name, entry.key] = max(0.0, now - entry.changed)
            try:
                record = _record(place, entry.key)
            except (BadRecord, ValueError, RecursionError, OSError) as err:
                unreadable[path] = str(err)
            else:
                if record is not None:
                    records[entry.key] = record
        held = holder(place)
        if held is not None and held.alive:
            live.add(place.agent)
        counter = os.path.join(place.path, RESTARTED)
        if (text := small_text(counter, _COUNTER_BYTES)) is not None:
            counters[_below(where.root, counter)] = text
        directory = os.path.join(place.path, STAGING)
        staged.update(_below(where.root, os.path.join(directory, name)) for name in _names(directory))
    files = dict(_files(where.root, "persist"))
    staged.update(path for path in files if _is_staged(path))
    staged.update(f"config/{name}" for name in _names(str(where.config)) if name.startswith(".device."))
    return Tree(
        tables=ordinary,
        stored=stored,
        ages=ages,
        unreadable=unreadable,
        counters=counters,
        live=frozenset(live),
        supervised=frozenset(ledger(where)),
        files=files,
        staged=frozenset(staged),
        limit_kib=_limit_kib(where.persist),
        domains=_domains(where),
        now=now,
    )


def _record(place: Place, key: str) -> Any:
    """The record, None when it went away meanwhile."""
    data = content(place, key)
    if data is None:
        return None
    record_type = find_type(place.topic)
    if record_type is not None:
        return decode(record_type, data)
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _files(root: Path, name: str) -> Iterator[tuple[str, File]]:
    """Every regular file below one directory of the root, but an app's own (persist/process/<uuid>/work)."""
    waiting = [name]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(root / below) as found:
                for entry in found:
                    path = f"{below}/{entry.name}"
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        if not (entry.name == "work" and below.startswith("persist/process/")):
                            waiting.append(path)
                    elif stat.S_ISREG(status.st_mode):
                        yield path, File(status.st_size, status.st_blocks * 512, status.st_mtime)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue


def _is_staged(path: str) -> bool:
    """Is this a file that is renamed when it is complete? Images keep the names that the controller gave them."""
    if path.startswith(("persist/status/", "persist/downloads/")) and not path.endswith(".part.json.new"):
        return "/.seen/" in path and path.endswith(_STAGED)
    if path.startswith("persist/process/") and path.count("/") > 2:
        return path.endswith(_STAGED)
    name = path.rpartition("/")[2]
    return name.endswith(_STAGED) or (name.startswith(".") and name.count(".") > 1)  # .<name>.<random>


def _domains(where: Locations) -> dict[str, bool]:
    """Each app with a lock of the `process` backend: does the process that it names run?"""
    found = {}
    for name in _names(str(where.persist / "process")):
        uuid, dot, suffix = name.rpartition(".")
        if dot and suffix == "lock":
            path = where.persist / "process" / name
            found[uuid] = locked(path) or _runs(path)
    return found


def _runs(path: Path) -> bool:
    try:
        said = json.loads(path.read_bytes())
        return start_ticks(int(said["pid"])) == int(said["start_ticks"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _limit_kib(persist: Path) -> int:
    """Half of the file system, as the downloader takes it without a configured limit."""
    try:
        found = os.statvfs(persist)
    except OSError:
        return 0
    return found.f_blocks * found.f_frsize // 1024 // 2


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _below(root: Path, path: str) -> str:
    return os.path.relpath(path, root)
