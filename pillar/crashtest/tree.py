"""The whole tree below a root as a value that is the same after each run: times and pids excepted, by rule."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

Tree = dict[str, Any]  # path below the root, labelled -> record, hash of the content, or "directory"

# Not compared at all: what tells of processes and times only.
NOT_COMPARED: Final = (
    "/persist/log/*",
    "/run/*.touch",
    "/run/*.pid",  # but see `strays`
    "/run/pillar",
    "/run/pillar/*",  # the supervisor's bookkeeping; the number of restarts is checked by itself
    "/run/downloader/GlobalDownloadStatus/global.json",  # counts what other stories left; checked by itself
    "/run/nim/*/global.json",  # the machine's own interfaces, whose addresses and errors have their own life
    "/config/*",
)
# Only that it is there: a pid, a restart counter (each start adds one), the inode and times of a verified image, what
# the last process that fetched it tells of its attempts, a ledger that has a line more for a handler run again.
CONTENT_NOT_COMPARED: Final = (
    "*/.lock",
    "*/restarted",
    "*/restarted.bak",
    "*/DownloadProgress/*",
    "*/.seen/*/journal",
    "/persist/verifier/*",
    "/persist/checkpoint/lastconfig",
)
_TIMES: Final = ("Time", "LastUse", "Age")
# Only whether there is one: a process, and an error, whose words may say more once its certificate is gone.
# Not at all: how often something had to be tried.
_ATTEMPTS: Final = frozenset({"RetryCount"})
_WHETHER: Final = frozenset({"DomainId", "Pid", "StartTicks", "LastErr"})
_OTHER_STORY: Final = re.compile(r"story\d{5}")


def snapshot(root: Path, labels: Mapping[str, str]) -> Tree:
    """Everything below the root but what other stories left. May be called while agents work."""
    found: Tree = {}
    for directory, _, names in os.walk(root):
        here = "/" + os.path.relpath(directory, root) if directory != str(root) else ""
        if _compared(here or "/"):
            place = labelled(here, labels)
            if not _of_another_story(place):
                found[place or "/"] = "directory"
        for name in names:
            path = f"{here}/{name}"
            place = labelled(path, labels)
            if not _compared(path) or _of_another_story(place):
                continue
            with contextlib.suppress(FileNotFoundError):
                value = _content(os.path.join(directory, name), path, labels)
                if not _of_another_story(json.dumps(value)) and not _as_good_as_gone(place, value):
                    found[place] = value
    return found


def differences(expected: Tree, found: Tree) -> list[str]:
    """In words, one a path."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            lines.append(f"{path} is missing")
        elif path not in expected:
            lines.append(f"{path} is left over: {_short(found[path])}")
        elif expected[path] != found[path]:
            lines.append(f"{path}: {_between(expected[path], found[path])}")
    return lines


def labelled(text: str, labels: Mapping[str, str]) -> str:
    for plain, label in labels.items():
        if plain in text:
            text = text.replace(plain, label)
    return text


def timeless(value: Any) -> Any:
    """A record without its times and process ids: EVE's names for times all end alike."""
    if isinstance(value, dict):
        return {
            name: timeless(member) if name not in _WHETHER else bool(member)
            for name, member in value.items()
            if not name.endswith(_TIMES) and name not in _ATTEMPTS
        }
    if isinstance(value, list):
        return [timeless(member) for member in value]
    return value


def _compared(path: str) -> bool:
    return not any(fnmatch.fnmatch(path, pattern) for pattern in NOT_COMPARED)


def _of_another_story(text: str) -> bool:
    return _OTHER_STORY.search(text) is not None or re.search(r"[0-9a-f]{64}", text) is not None


def _as_good_as_gone(place: str, value: Any) -> bool:
    """zedrouter keeps the number of what was removed while it was down for five minutes: it might come back."""
    if "/zedrouter/UuidToNum/" not in place:
        return False
    return place.endswith(".json.bak") or (isinstance(value, dict) and value.get("InUse") is False)


def _content(file: str, path: str, labels: Mapping[str, str]) -> Any:
    if any(fnmatch.fnmatch(path, pattern) for pattern in CONTENT_NOT_COMPARED):
        return "a file"
    if os.path.islink(file) or not os.path.isfile(file):
        return "special"
    data = Path(file).read_bytes()
    if path.endswith((".json", ".bak")):
        with contextlib.suppress(ValueError):
            return timeless(json.loads(labelled(data.decode(), labels)))
    return f"{len(data)} bytes, {hashlib.sha256(labelled(data.decode('latin-1'), labels).encode()).hexdigest()[:8]}"


def _between(expected: Any, found: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        names = [name for name in expected | found if expected.get(name) != found.get(name)]
        return ", ".join(f"{name} {_short(found.get(name))}, not {_short(expected.get(name))}" for name in names)
    return f"{_short(found)}, not {_short(expected)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."
