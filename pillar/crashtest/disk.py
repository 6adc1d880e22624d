"""What a file system may legally have on the disk after a power cut, from the system calls of processes.

`Disk` replays calls and builds every state that a cut behind any of them may leave: names not yet flushed are there or
not, each for itself; content not yet flushed is there, torn or missing. A flushed file has its content, a flushed
directory its names. A rename within the recorded tree is one step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Tree = dict[str, bytes | None]  # relative path -> content, None for a directory


class DiskCall(NamedTuple):
    """One system call that succeeded, its paths absolute."""

    name: str
    paths: list[str]
    data: bytes = b""
    flags: str = ""
    at: int | None = None  # where a write begins; None: at the end. Of a truncate: how long the file is then


class Inode:
    """A file or directory: what is certainly on the disk, and what may be."""

    def __init__(self, *, directory: bool) -> None:
        self.directory = directory
        self.names: dict[str, Inode] = {}  # flushed
        self.pending: list[tuple[str, Inode | None]] = []  # set or removed since
        self.content = b""
        self.versions: list[bytes] = [b""]  # what the disk may hold; one only when flushed


class Disk:
    """The tree below one root, as the calls left it and as a power cut may find it."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = str(root).rstrip("/")
        self._top = Inode(directory=True)
        self._live: dict[str, Inode] = {self.root: self._top}
        self._random = random.Random(seed)

    def apply(self, call: DiskCall) -> None:
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
            at = len(inode.content) if call.at is None else call.at
            before = inode.content[:at].ljust(at, b"\0")
            self._content(inode, before + call.data + inode.content[at + len(call.data) :])
        elif kind == "truncate":
            inode = self._live[paths[0]]
            self._content(inode, inode.content[: call.at or 0].ljust(call.at or 0, b"\0"))
        elif kind in ("fsync", "fdatasync"):
            self._flush(self._live[paths[0]])
        elif kind.startswith("rename"):
            inode = self._live[paths[0]]
            if self._live.get(paths[1]) is not inode:  # else nothing happens: two names of one file
                self._set(paths[1], inode)
                self._set(paths[0], None)
                for path in [path for path in self._live if path.startswith(f"{paths[0]}/")]:
                    self._live[paths[1] + path.removeprefix(paths[0])] = self._live.pop(path)
        elif kind in ("link", "linkat"):
            self._set(paths[1], self._live[paths[0]])
        elif kind in ("unlink", "unlinkat", "rmdir"):
            self._set(paths[0], None)
        else:
            raise ValueError(kind)

    def one(self, chance: random.Random) -> Tree:
        """One of the trees that a power cut now may leave, drawn by chance."""
        return dict(self._one(self._top, "", chance))

    def _one(self, directory: Inode, path: str, chance: random.Random) -> Iterator[tuple[str, bytes | None]]:
        names = dict(directory.names)
        reached = chance.choice((0.0, 0.5, 1.0))  # how much of what was not flushed came to the disk
        for name, inode in directory.pending:
            if chance.random() >= reached:
                continue
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        for name, inode in sorted(names.items()):
            below = f"{path}/{name}" if path else name
            if inode.directory:
                yield below, None
                yield from self._one(inode, below, chance)
            else:
                yield below, chance.choice(inode.versions)

    def states(self, at_most: int) -> Iterator[Tree]:
        """The trees that a power cut now may leave; a sample when a directory has too many unflushed names."""
        yield from self._states(self._top, "", at_most)

    def _states(self, directory: Inode, path: str, at_most: int) -> Iterator[Tree]:
        for names in self._namings(directory, at_most):
            options: list[list[Tree]] = []
            for name, inode in sorted(names.items()):
                below = f"{path}/{name}" if path else name
                if inode.directory:
                    options.append([{below: None, **tree} for tree in self._states(inode, below, at_most)])
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
