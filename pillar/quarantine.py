"""Files that turned out to be another content than they were fetched for: kept out of the way, to be looked at.

    <persist>/downloads/<objtype>/quarantine/<sha256 that was asked for>.<sha256 that it has>     mode 0400

The verifier puts them there and removes them when the right content has come, or after DownloadGCTime. At most one
file per image: a later one takes the place of an earlier one. They count as used room, but never stand in the way of a
download: the downloader removes them when it needs the room. Nothing ever reads them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pillar.locations import Locations


class Quarantine:
    """The wrong files of one object type."""

    def __init__(self, where: Locations, objtype: str) -> None:
        self.directory = where.persist / "downloads" / objtype / "quarantine"

    def take(self, path: Path, wanted: str, actual: str) -> Path:
        """Move the file there by one rename; returns where it is now. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.remove(wanted)
        target = self.directory / f"{wanted.lower()}.{actual}"
        path.rename(target)
        target.chmod(0o400)
        return target

    def files(self) -> list[Path]:
        """What is in quarantine. Raises OSError other than "not there"."""
        try:
            return sorted(self.directory.iterdir())
        except FileNotFoundError:
            return []

    def remove(self, wanted: str) -> None:
        """Remove what came instead of this sha256. Raises OSError."""
        for path in self.files():
            if path.name.startswith(wanted.lower() + "."):
                path.unlink(missing_ok=True)

    def sizes(self) -> list[int]:
        """Of each file in quarantine, in bytes. Raises OSError other than "not there"."""
        sizes = []
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):  # the other of the two agents has removed it
                sizes.append(path.lstat().st_size)
        return sizes

    def empty(self) -> int:
        """Remove everything; returns how many bytes that were. Raises OSError."""
        size = sum(self.sizes())
        for path in self.files():
            path.unlink(missing_ok=True)
        return size
