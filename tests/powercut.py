"""What a file system may legally have on the disk after a power cut, from the system calls of a process.

`record` runs a program under strace; `Disk` replays its calls and builds every state that a cut behind any of them may
leave: names not yet flushed are there or not, each for itself; content not yet flushed is there, torn or missing.
A flushed file has its content, a flushed directory its names. A rename within the recorded tree is one step.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CALLS = "openat,mkdir,mkdirat,write,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir"
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)(?:<(.*)>)?(?: \(.*)?$")
_ARGUMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^,"\s][^,"]*')
_FD = re.compile(r"^(?:-?\d+|AT_FDCWD)<(.*)>$")

Tree = dict[str, bytes | None]  # relative path -> content, None for a directory


class Call(NamedTuple):
    """One system call that succeeded, its paths absolute."""

    name: str
    paths: list[str]
    data: bytes = b""
    flags: str = ""


class Inode:
    """A file or directory: what is certainly on the disk, and what may be."""

    def __init__(self, *, directory: bool) -> None:
        self.directory = directory
        self.names: dict[str, Inode] = {}  # flushed
        self.pending: list[tuple[str, Inode | None]] = []  # set or removed since
        self.content = b""
        self.versions: list[bytes] = [b""]  # what the disk may hold; one only when flushed


def record(root: Path, program: str, *arguments: object) -> list[Call]:
    """Run a Python program under strace; its calls below `root`, and what it writes to stdout."""
    log = root.parent / "strace"
    command = ["strace", "-y", "-s", "1000000", "-e", f"trace={_CALLS}", "-o", str(log)]
    subprocess.run(
        [*command, sys.executable, "-c", program, str(root), *map(str, arguments)],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    return [call for call in map(_parse, log.read_text().splitlines()) if call is not None and _concerns(call, root)]


def _concerns(call: Call, root: Path) -> bool:
    return call.name == "said" or any(path.startswith(str(root)) for path in call.paths)


def _parse(line: str) -> Call | None:
    found = _CALL.match(line)
    if found is None or int(found[3]) < 0:
        return None
    name, text, _, opened = found.groups()
    arguments = [argument.strip() for argument in _ARGUMENT.findall(text)]
    paths: list[str] = []
    base = ""
    data = b""
    for argument in arguments:
        fd = _FD.match(argument)
        if fd is not None:
            base = fd[1]
            if name in ("write", "fsync", "fdatasync"):
                paths.append(base)
        elif argument.startswith('"'):
            value = ast.literal_eval("b" + argument)
            if name == "write":
                data = value
            else:
                paths.append(str(Path(base or "/", value.decode())))
    if name == "write" and arguments[0].startswith("1<"):
        return Call("said", [], data)
    if name == "openat":
        return Call(name, [opened], flags=arguments[2])
    return Call(name, paths, data)


class Disk:
    """The tree below one root, as the calls left it and as a power cut may find it."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = str(root)
        self._top = Inode(directory=True)
        self._live: dict[str, Inode] = {self.root: self._top}
        self._random = random.Random(seed)

    def apply(self, call: Call) -> None:
        """Let one call happen."""
        kind, paths = call.name, call.paths
        if kind in ("mkdir", "mkdirat"):
            self._set(paths[0], Inode(directory=True))
        elif kind == "openat":
            if "O_CREAT" in call.flags and paths[0] not in self._live:
                self._set(paths[0], Inode(directory=False))
            if "O_TRUNC" in call.flags:
                self._content(self._live[paths[0]], b"")
        elif kind == "write":
            inode = self._live[paths[0]]
            self._content(inode, inode.content + call.data)
        elif kind in ("fsync", "fdatasync"):
            self._flush(self._live[paths[0]])
        elif kind.startswith("rename"):
            inode = self._live[paths[0]]
            if self._live.get(paths[1]) is not inode:  # else nothing happens: two names of one file
                self._set(paths[1], inode)
                self._set(paths[0], None)
        elif kind in ("link", "linkat"):
            self._set(paths[1], self._live[paths[0]])
        elif kind in ("unlink", "unlinkat", "rmdir"):
            self._set(paths[0], None)
        else:
            raise ValueError(kind)

    def states(self, at_most: int) -> Iterator[Tree]:
        """The trees that a power cut now may leave; a sample when a directory has too many unflushed names."""
        yield from self._states(self._top, "", at_most)

    def _states(self, directory: Inode, path: str, at_most: int) -> Iterator[Tree]:
        for names in self._namings(directory, at_most):
            options: list[list[Tree]] = []
            for name, inode in sorted(names.items()):
                below = f"{path}/{name}" if path else name
                if inode.directory:
                    options.append([{below: None} | tree for tree in self._states(inode, below, at_most)])
                else:
                    options.append([{below: content} for content in dict.fromkeys(inode.versions)])
            for parts in itertools.product(*options):
                yield {place: content for part in parts for place, content in part.items()}

    def _namings(self, directory: Inode, at_most: int) -> Iterator[dict[str, Inode]]:
        pending = directory.pending
        choices: Iterator[tuple[bool, ...]]
        if 2 ** len(pending) <= at_most:
            choices = itertools.product([True, False], repeat=len(pending))
        else:
            whole = [tuple(place < length for place in range(len(pending))) for length in range(len(pending) + 1)]
            drawn = [tuple(self._random.random() < 0.5 for _ in pending) for _ in range(max(at_most - len(whole), 0))]
            choices = iter([*whole, *drawn])
        for chosen in choices:
            names = dict(directory.names)
            for (name, inode), there in zip(pending, chosen, strict=True):
                if there and inode is None:
                    names.pop(name, None)
                elif there and inode is not None:
                    names[name] = inode
            yield names

    def _set(self, path: str, inode: Inode | None) -> None:
        parent, _, name = path.rpartition("/")
        if parent not in self._live:
            return  # above the root
        self._live[parent].pending.append((name, inode))
        if inode is None:
            del self._live[path]
        else:
            self._live[path] = inode

    def _content(self, inode: Inode, content: bytes) -> None:
        inode.content = content
        inode.versions = [*inode.versions, content[: len(content) // 2], content]

    def _flush(self, inode: Inode) -> None:
        for name, target in inode.pending:
            if target is None:
                inode.names.pop(name, None)
            else:
                inode.names[name] = target
        inode.pending = []
        inode.versions = [inode.content]
