"""Where an image stands on its way: `pending`, then `verifier`, then `verified`, one directory per sha256 in each.

    pending/<sha>/<safename>     complete, from the downloader (part files beside it do not count)
    verifier/<sha>/<safename>    being checked
    verified/<sha>/<filename>    good; exactly one file

Files only ever move forward, each by one rename, so looking in this order cannot miss one that moves meanwhile. An
object without sha256 (a certificate) has no directory of its own and never leaves `pending`. What a directory of a
sha256 claims is proven by the verifier only: the downloader takes any complete file in it for that image.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pillar.locations import Locations, Stage
from pillar.transports import partfile

STAGES: tuple[Stage, ...] = ("pending", "verifier", "verified")

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Found:
    """An image on disk. `size` in bytes."""

    stage: Stage
    path: Path
    size: int


class ImageStore:
    """The three directories of one object type."""

    def __init__(self, where: Locations, objtype: str) -> None:
        self.objtype = objtype
        self._where = where

    def directory(self, stage: Stage, sha256: str = "") -> Path:
        base = self._where.downloads(self.objtype, stage)
        return base / sha256 if sha256 else base

    def pending_file(self, sha256: str, safename: str) -> Path:
        """Where the downloader puts the object."""
        return self.directory("pending", sha256) / safename

    def find(self, sha256: str, safename: str) -> Found | None:
        """The first stage that has the image. Raises OSError other than "not there"."""
        if not sha256:
            return self._file("pending", self.pending_file("", safename))
        for stage in STAGES:
            found = self.find_in(stage, sha256, safename)
            if found is not None:
                return found
        return None

    def find_in(self, stage: Stage, sha256: str, safename: str = "") -> Found | None:
        """The image of this sha256 in one stage; the file of this safename if there are several."""
        directory = self.directory(stage, sha256)
        names = sorted(_names(directory), key=lambda name: (name != safename, name))
        for name in names:
            if stage == "pending" and partfile.is_part(name):
                continue
            found = self._file(stage, directory / name)
            if found is not None:
                return found
        return None

    def verified(self) -> Iterator[tuple[str, Found]]:
        """Every verified image with its sha256."""
        for sha256 in sorted(_names(self.directory("verified"))):
            if is_sha256(sha256):
                found = self.find_in("verified", sha256)
                if found is not None:
                    yield sha256, found

    def _file(self, stage: Stage, path: Path) -> Found | None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        return Found(stage, path, status.st_size) if stat.S_ISREG(status.st_mode) else None


def is_sha256(text: str) -> bool:
    """64 hex digits, in either case."""
    return _SHA256.fullmatch(text) is not None


def name_problem(safename: str, sha256: str) -> str:
    """Why these cannot be file names below the stages; empty when they can."""
    if sha256 and not is_sha256(sha256):
        return f"ImageSha256 {sha256!r} is not 64 hexadecimal digits"
    if safename in ("", ".", "..") or "/" in safename or "\0" in safename or len(os.fsencode(safename)) > 255:
        return f"Safename {safename!r} cannot be a file name"
    return ""


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
