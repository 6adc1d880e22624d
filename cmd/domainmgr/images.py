"""ImageStatus and the garbage collection of /persist/img.

A copy's users are counted from the domains' disks each time, never kept. How long a copy has been without a user is
measured on the monotonic clock and starts anew when domainmgr does, so a clock that jumps deletes nothing.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pillar.cmd.domainmgr.disks import TMP_SUFFIX
from pillar.types.domainmgr import DomainStatus, ImageStatus
from pillar.types.scalars import Time


def sizes(directory: Path) -> dict[str, int]:
    """Every copy there is: file name -> bytes. Copies in the making are left out."""
    found: dict[str, int] = {}
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return found
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith(TMP_SUFFIX) or not entry.is_file(follow_symlinks=False):
            continue
        found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found


def users(directory: Path, domains: Iterable[DomainStatus]) -> Counter[str]:
    """How many disks of domains stand in each copy."""
    return Counter(
        Path(disk.ActiveFileLocation).name
        for domain in domains
        for disk in domain.DiskStatusList or ()
        if not disk.ReadOnly and Path(disk.ActiveFileLocation).parent == directory
    )


def table(
    directory: Path, found: Mapping[str, int], used: Mapping[str, int], before: Mapping[str, ImageStatus], now: Time
) -> dict[str, ImageStatus]:
    """The ImageStatus of every copy. LastUse is when its number of users last changed."""
    result = {}
    for name, size in found.items():
        old = before.get(name)
        count = used.get(name, 0)
        last_use = old.LastUse if old is not None and old.RefCount == count else now
        result[name] = ImageStatus(
            Filename=name, FileLocation=str(directory / name), RefCount=count, LastUse=last_use, Size=size
        )
    return result


def to_collect(
    images: Mapping[str, ImageStatus], unused_since: Mapping[str, float], now_s: float, limit_s: float
) -> list[str]:
    """The copies that nobody has used for `limit_s` seconds. Times are on the monotonic clock."""
    return [
        name
        for name, image in images.items()
        if image.RefCount == 0 and now_s - unused_since.get(name, now_s) >= limit_s
    ]
