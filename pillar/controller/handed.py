"""The device config files below <root>/config: which one counts, and how a command replaces it."""

import os
from dataclasses import dataclass
from pathlib import Path

from pillar.durable import replace_file

JSON_NAME = "device.json"
BINARY_NAME = "device.pb"
NAMES = (JSON_NAME, BINARY_NAME)
CHECKPOINT_NAME = "lastconfig"  # below <root>/persist/checkpoint, in binary


@dataclass(frozen=True)
class Handed:
    """A config file as it stood when it was looked at; equal values mean the same content but for a clock tick."""

    path: Path
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def handed_in(directory: Path) -> list[Handed]:
    """The config files that are there, the newest (by modification time) first."""
    found: list[Handed] = []
    for name in NAMES:
        path = directory / name
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        found.append(Handed(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return sorted(found, key=lambda handed: (handed.mtime_ns, handed.ctime_ns), reverse=True)


def hand_in(directory: Path, name: str, data: bytes) -> tuple[Path, list[Path]]:
    """Make `data` the config that counts; returns its file and the files that had to go.

    It is put in place by rename, so zedagent reads all of it or nothing. Another config file goes only when its
    modification time is not older (a clock that ran ahead): it would count instead. Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = directory / name
    replace_file(target, data)
    placed = os.stat(target).st_mtime_ns
    removed = [other.path for other in handed_in(directory) if other.path != target and other.mtime_ns >= placed]
    for path in removed:
        path.unlink(missing_ok=True)
    return target, removed
