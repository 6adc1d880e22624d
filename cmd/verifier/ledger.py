"""What was proven about files, so that a restart need not read them again.

One small file per sha256: how the image looked (size, times, inode) when its digest was computed, and which
signatures were found good for it. Whoever changes a file's content changes its ctime, which nobody can set; so a
file that still looks the same has the same content. A hard link or a chmod changes it too: that costs one reading.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pillar.durable import replace_file


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The look of one file when it was proven to have the sha256 that the entry's name says."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    signatures: tuple[str, ...] = ()  # fingerprints of signature, signer and chain that were found good


class Ledger:
    """The entries of one object type. The verifier is their only writer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for left in directory.glob("*.new"):  # by a verifier that was killed while it wrote
            left.unlink(missing_ok=True)

    def get(self, sha256: str) -> Entry | None:
        """What is known; None when nothing is, or when it cannot be read (then it has to be proven again)."""
        try:
            return msgspec.json.decode(self._path(sha256).read_bytes(), type=Entry)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def proves(self, sha256: str, status: os.stat_result) -> bool:
        """Is the file of this `status` the one that was proven?"""
        entry = self.get(sha256)
        return entry is not None and entry == look(status, entry.signatures)

    def write(self, sha256: str, entry: Entry) -> None:
        """Remember. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(sha256)
        replace_file(path, msgspec.json.encode(entry), staged=path.with_suffix(".new"))

    def forget(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.json"


def look(status: os.stat_result, signatures: tuple[str, ...] = ()) -> Entry:
    """What is remembered of a file."""
    return Entry(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        signatures=signatures,
    )
