"""Room on the disk: what the downloader says it takes, against the files that are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pillar.invariants.facts import File, Problem, Tree
from pillar.types.common import kib
from pillar.types.enums import SwState

_KIND = "space"
_SUMS = "downloader/GlobalDownloadStatus/global"


def space(tree: Tree) -> Iterator[Problem]:
    """Every sum and size that is not that of the files."""
    sums = tree.table("downloader/GlobalDownloadStatus").get("global")
    if sums is not None:
        yield from _sums(tree, sums)
    yield from _sizes(tree)
    yield from _copies(tree)


def _sums(tree: Tree, sums: Any) -> Iterator[Problem]:
    mend = "downloader counts anew within seconds of its next change; restart it if it does not"
    used = sum(_kib(path, file) for path, file in tree.files.items() if path.startswith("persist/downloads/"))
    if sums.UsedSpace != used:
        what = f"UsedSpace is {sums.UsedSpace} KiB, the files in persist/downloads take {used} KiB"
        yield Problem(_KIND, _SUMS, what, mend, "downloader")
    promised = [
        (key, status)
        for name, table in tree.tables.items()
        if name.startswith("downloader/") and name.endswith("/DownloaderStatus")
        for key, status in table.items()
        if status.ReservedSpace
    ]
    if not promised and sums.ReservedSpace:
        what = f"ReservedSpace is {sums.ReservedSpace} KiB, and no download has anything reserved"
        yield Problem(_KIND, _SUMS, what, mend, "downloader")
    most = sum(status.ReservedSpace for _, status in promised)
    if sums.ReservedSpace > most:
        what = f"ReservedSpace is {sums.ReservedSpace} KiB, all downloads together have {most} KiB reserved"
        yield Problem(_KIND, _SUMS, what, mend, "downloader")
    limit = _limit_kib(tree)
    remaining = max(0, limit - sums.UsedSpace - sums.ReservedSpace)
    if limit and sums.RemainingSpace != remaining:
        told = f"RemainingSpace is {sums.RemainingSpace} KiB"
        what = f"{told}, but the {limit} KiB allowed less used and reserved are {remaining} KiB"
        yield Problem(_KIND, _SUMS, what, mend, "downloader")


def _limit_kib(tree: Tree) -> int:
    configured = tree.table("global/GlobalDownloadConfig").get("global")
    return configured.MaxSpace if configured is not None and configured.MaxSpace else tree.limit_kib


def _kib(path: str, file: File) -> int:
    """As the downloader counts: each file rounded up, part files without their gaps."""
    part = path.endswith((".part", ".part.json", ".part.json.new", ".part.spans"))
    return kib(min(file.size, file.allocated) if part else file.size)


def _sizes(tree: Tree) -> Iterator[Problem]:
    for scope in ("appImg.obj", "baseOs.obj"):
        for key, status in tree.table(f"verifier/{scope}/VerifyImageStatus").items():
            if status.State != SwState.DELIVERED or status.IsContainer:
                continue
            directory = f"persist/downloads/{scope}/verified/{status.ImageSha256}/".lower()
            found = [file.size for path, file in tree.files.items() if path.lower().startswith(directory)]
            if len(found) == 1 and found[0] != status.Size:
                what = f"Size is {status.Size} bytes, the verified file has {found[0]}"
                mend = "somebody wrote into it: restart verifier, it reads what has changed again"
                yield Problem(_KIND, f"verifier/{scope}/VerifyImageStatus/{key}", what, mend, "verifier")


def _copies(tree: Tree) -> Iterator[Problem]:
    """Private copies of disks against ImageStatus. A running domain may grow its disk: sizes are not compared."""
    if "domainmgr/ImageStatus" not in tree.tables:
        return
    table = tree.table("domainmgr/ImageStatus")
    there = {
        path.rpartition("/")[2]
        for path in tree.files
        if path.startswith("persist/img/") and path.count("/") == 2 and path not in tree.staged
    }
    for name in sorted(there - table.keys()):
        mend = "domainmgr lists it when it looks again, and deletes it when unused for VdiskGCTime"
        yield Problem(_KIND, f"persist/img/{name}", "no ImageStatus counts this file", mend, "domainmgr")
    for name in sorted(table.keys() - there):
        what = f"there is no file persist/img/{name}"
        yield Problem(_KIND, f"domainmgr/ImageStatus/{name}", what, "domainmgr drops it at its next look", "domainmgr")
