"""The reference count of a config that several users share, and the Expired handshake with its worker.

zedmanager and baseosmgr ask the downloader and the verifier for images in one config per image, whose RefCount says
how many users it has. EVE raises and lowers that number event by event, and it drifts as soon as the one who counts
is restarted. Here it is counted, each time, from who refers; it is never remembered:

    somebody refers                                    a config with the number of references
    nobody, the worker still keeps the object          a config with RefCount 0: "keep it, unused"
    nobody, the worker offers it up (Expired)          no config: "drop it"
    nobody, the worker has nothing                     no config

So the worker alone decides how long an unused object is kept (its garbage collection sets Expired), and nothing is
dropped that somebody has begun to use again. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar


class Kept(Protocol):
    """What both DownloaderStatus and VerifyImageStatus say about an object that a worker keeps."""

    @property
    def PendingDelete(self) -> bool: ...

    @property
    def Expired(self) -> bool: ...


class Counted(Protocol):
    """What both DownloaderConfig and VerifyImageConfig say about how many use an object."""

    @property
    def RefCount(self) -> int: ...


S = TypeVar("S", bound=Kept)


def wanted_refcount(references: int, status: Kept | None, *, published: bool, status_known: bool = True) -> int | None:
    """The RefCount that the config of one object must have now, None when there must be no config.

    `references` are the users counted now, `status` is what the worker says of the object, `published` whether
    there is a config already. With `status_known` False (the worker's table has not been read yet) nothing is taken
    away: a config without users stays, with RefCount 0, until the worker has been heard.
    """
    if references > 0:
        return references
    if not status_known:
        return 0 if published else None
    if status is not None and not status.Expired:
        return 0
    return None


def leaving(status: Kept, published: Counted | None) -> bool:
    """Is the object on its way out, so that nobody may build on it? `published` is its config.

    Expired with a RefCount above 0 is no farewell: the worker clears Expired when it sees who refers.
    """
    return status.PendingDelete or (status.Expired and (published is None or published.RefCount == 0))


def staying(statuses: Mapping[str, S], published: Mapping[str, Counted]) -> dict[str, S]:
    """The statuses of objects that are not on their way out."""
    return {key: status for key, status in statuses.items() if not leaving(status, published.get(key))}
