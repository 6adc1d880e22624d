"""How much room downloads take and may take, in KiB. Counted from what is there, never added to or subtracted from."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pillar.below import everything_below
from pillar.transports.partfile import every_part, is_part
from pillar.types.common import kib
from pillar.types.downloader import GlobalDownloadStatus

_log = logging.getLogger("pillar.downloader")
_unreadable: set[Path] = set()  # said once, and again when it became readable in between


@dataclass(frozen=True)
class Reservation:
    """What one object in flight may grow to and how much of it is on disk already, both KiB."""

    promised: int
    on_disk: int

    @property
    def outstanding(self) -> int:
        return max(0, self.promised - self.on_disk)


def tally(max_space: int, used: int, reservations: Iterable[Reservation]) -> GlobalDownloadStatus:
    """The published sums: what is on disk (part files too), what is promised beyond that, and what remains."""
    reserved = sum(reservation.outstanding for reservation in reservations)
    return GlobalDownloadStatus(
        UsedSpace=used, ReservedSpace=reserved, RemainingSpace=max(0, max_space - used - reserved)
    )


def used_kib(directory: Path) -> int:
    """Size of every file below, each rounded up, part files without their gaps. What vanishes meanwhile counts not.

    Nor does what cannot be looked into, a lost+found for example: no download is in there.
    """
    total = 0
    waiting = [directory]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(below) as entries:
                _unreadable.discard(below)
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        total += kib(
                            min(status.st_size, status.st_blocks * 512) if is_part(entry.name) else status.st_size
                        )
        except FileNotFoundError:
            continue
        except (PermissionError, NotADirectoryError) as err:
            if below not in _unreadable:
                _unreadable.add(below)
                _log.warning("%s is not counted: %s", below, err.strerror)
    return total


def default_max_kib(persist: Path) -> int:
    """Half of the file system: what downloads may take when no GlobalDownloadConfig says otherwise."""
    existing = next(path for path in (persist, *persist.parents) if path.exists())
    filesystem = os.statvfs(existing)
    return filesystem.f_blocks * filesystem.f_frsize // 1024 // 2


def sweep(pending: Path, wanted: Iterable[tuple[str, str]]) -> list[Path]:
    """Remove every file in `pending` that belongs to no wanted (safename, sha256); returns what was removed."""
    names: set[str] = set()
    digests: set[str] = set()
    for safename, sha256 in wanted:
        names |= {safename, *(path.name for path in every_part(Path(safename)))}
        digests.add(sha256)
    removed = []
    for path in sorted(everything_below(pending), reverse=True):  # a directory after what is in it
        if path.is_dir():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif not (path.parent != pending and path.parent.name in digests) and path.name not in names:
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed
