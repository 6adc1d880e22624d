"""A tree of files as a value, and what differs between two of them. Pure but for `read_tree`.

What chance makes is not compared, by rule: times (RFC 3339 text, numbers that are the present second, milli- or
nanosecond), process numbers under a name with `pid` in it, and whatever differed between undisturbed runs. Of a text
that differed between those the number of lines still counts, and of a directory whose names differed their number: what
was done twice is seen even where its content is random.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

Tree = Mapping[str, bytes]  # path below the root -> content

# Not the agent's result: the touch and pid files of an agent, logs, and the library's own count of its starts.
UNCOMPARED: Final = ("run/*.touch", "run/*.pid", "persist/log/*", "*/restarted")
LARGEST: Final = 1 << 20  # bytes of a file that are read

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")
_PID: Final = re.compile(r"(^|[^a-z])pid|Pid|PID")
_AROUND_S: Final = 86400.0  # a number within so much of now is a time
_UNITS: Final = (1.0, 1e3, 1e6, 1e9)


class Difference(NamedTuple):
    """One thing that is not as it should be."""

    path: str
    field: str  # `$.Ports[0].Error`; "" for the whole file
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.path} {self.field}" if self.field else self.path
        return f"{where}: {self.found}, expected {self.expected}"


def read_tree(root: Path, ignore: Sequence[str] = ()) -> dict[str, bytes]:
    """Every regular file below root whose path has no part that begins with a dot; links as what they point to."""
    found: dict[str, bytes] = {}
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        below = os.path.relpath(directory, root)
        for name in sorted(files):
            path = name if below == "." else f"{below}/{name}"
            if name.startswith(".") or any(fnmatch.fnmatchcase(path, pattern) for pattern in (*UNCOMPARED, *ignore)):
                continue
            try:
                status = os.lstat(root / path)
                if stat.S_ISLNK(status.st_mode):
                    found[path] = f"link to {os.readlink(root / path)}".encode()
                elif stat.S_ISREG(status.st_mode):
                    with open(root / path, "rb") as file:
                        found[path] = file.read(LARGEST)
            except FileNotFoundError:
                continue  # a moment later it may not be there: the agent is at work
    return found


class Baseline:
    """What undisturbed runs leave: one tree, and what of it is chance because another run has it otherwise."""

    def __init__(self, runs: Sequence[Tree]) -> None:
        self.tree = dict(runs[0])
        common = set(runs[0]).intersection(*runs[1:])
        self.names = frozenset(common)
        self.directories = Counter(_directory(path) for path in self.tree if path not in common)
        self.chance: set[tuple[str, str]] = set()  # (path, field), and (path, "") for a text as a whole
        for other in runs[1:]:
            for path in common:
                self.chance |= {(path, field) for field in _unequal(runs[0][path], other[path])}

    def differences(self, tree: Tree) -> list[Difference]:
        """How this tree is not as the undisturbed one."""
        found: list[Difference] = []
        for path in sorted(self.names - tree.keys()):
            found.append(Difference(path, "", _shown(self.tree[path]), "there is no such file"))
        for path in sorted(self.names & tree.keys()):
            found += self._of_file(path, self.tree[path], tree[path])
        others = [path for path in sorted(tree) if path not in self.names]
        counted = Counter(_directory(path) for path in others)
        for directory in sorted(self.directories.keys() | counted.keys()):
            if directory not in self.directories:
                more = [path for path in others if _directory(path) == directory]
                found += [Difference(path, "", "no such file", _shown(tree[path])) for path in more]
            elif counted[directory] != self.directories[directory]:
                wanted = f"{self.directories[directory]} files with names of chance"
                found.append(Difference(f"{directory}/", "", wanted, f"{counted[directory]} files"))
        return found

    def _of_file(self, path: str, expected: bytes, found: bytes) -> Iterator[Difference]:
        if expected == found:
            return
        before, after = _fields(expected), _fields(found)
        if before is None or after is None:
            yield from self._of_text(path, _lines(expected), _lines(found))
            return
        for field in dict.fromkeys((*before, *after)):
            one, two = before.get(field, _ABSENT), after.get(field, _ABSENT)
            if one != two and (path, field) not in self.chance:
                yield Difference(path, field, str(one), str(two))

    def _of_text(self, path: str, expected: list[str], found: list[str]) -> Iterator[Difference]:
        if (path, "") in self.chance:
            if len(expected) != len(found):
                yield Difference(path, "", _count(expected), _count(found))
        elif expected != found:
            changes = [line for line in difflib.ndiff(expected, found) if line[:2] in ("+ ", "- ")]
            shown = "; ".join(_cut(line) for line in changes[:6])
            yield Difference(path, "", _count(expected), f"{_count(found)} ({shown})")


def as_expected(expected: Tree, tree: Tree) -> list[Difference]:
    """How this tree is not as the expected tables say.

    Of a directory that `expected` has files in, exactly those must be there. Of a JSON object only the members that
    `expected` names are compared, so times need not be given; any other file must be equal.
    """
    found: list[Difference] = []
    directories = {_directory(path) for path in expected}
    for path in sorted(expected):
        if path not in tree:
            found.append(Difference(path, "", _shown(expected[path]), "there is no such file"))
            continue
        wanted, has = _json(expected[path]), _json(tree[path])
        if isinstance(wanted, dict) and isinstance(has, dict):
            found += [Difference(path, *rest) for rest in _lacks(wanted, has, "$")]
        elif expected[path] != tree[path]:
            found.append(Difference(path, "", _shown(expected[path]), _shown(tree[path])))
    more = [path for path in sorted(tree) if path not in expected and _directory(path) in directories]
    return found + [Difference(path, "", "no such file", _shown(tree[path])) for path in more]


class _Absent:
    def __str__(self) -> str:
        return "absent"


_ABSENT: Final = _Absent()


def _lacks(wanted: Any, has: Any, where: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(wanted, dict) and isinstance(has, dict):
        for name, member in wanted.items():
            yield from _lacks(member, has.get(name, _ABSENT), f"{where}.{name}")
    elif type(wanted) is not type(has) or wanted != has:
        yield where, _told(wanted), _told(has)


def _told(value: Any) -> str:
    return str(value) if value is _ABSENT else _cut(json.dumps(value))


def _unequal(one: bytes, other: bytes) -> Iterable[str]:
    """The fields in which two undisturbed runs have this file otherwise; "" for a text that differs."""
    if one == other:
        return ()
    before, after = _fields(one), _fields(other)
    if before is None or after is None:
        return ("",) if _lines(one) != _lines(other) else ()
    return [f for f in dict.fromkeys((*before, *after)) if before.get(f, _ABSENT) != after.get(f, _ABSENT)]


def _fields(content: bytes) -> dict[str, str] | None:
    """Every leaf of a JSON object or array by its path, times and process numbers masked; None for what is no JSON."""
    value = _json(content)
    return None if value is None else dict(_leaves(value, "$", ""))


def _json(content: bytes) -> Any:
    """The object or array, None for anything else."""
    if content[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _leaves(value: Any, where: str, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from _leaves(member, f"{where}.{key}", key)
    elif isinstance(value, list) and value:
        for position, member in enumerate(value):
            yield from _leaves(member, f"{where}[{position}]", name)
    else:
        yield where, _masked(value, name)


def _masked(value: Any, name: str) -> str:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return "<time>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if _is_now(float(value)):
            return "<time>"
        if _PID.search(name):
            return "<pid>"
    return json.dumps(value)


def _is_now(number: float) -> bool:
    now = time.time()
    return any(abs(number / unit - now) < _AROUND_S for unit in _UNITS)


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8", "backslashreplace")
    return [_TIME.sub("<time>", line) for line in text.splitlines()]


def _count(lines: Sequence[str]) -> str:
    return f"{len(lines)} line" if len(lines) == 1 else f"{len(lines)} lines"


def _directory(path: str) -> str:
    return path.rpartition("/")[0]


def _shown(content: bytes) -> str:
    return _cut(content.decode("utf-8", "backslashreplace").strip()) or "an empty file"


def _cut(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
