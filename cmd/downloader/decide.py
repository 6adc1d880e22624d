"""One object's next move. Pure: no disk, no clock, no log, no network.

`step` is called again whenever a fact may have changed and decides from scratch; what it says twice is done once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from pillar.cmd.downloader.plan import Impossible, Plan, Waiting
from pillar.imagestore import Found, name_problem
from pillar.ociimage import sha256_of_id
from pillar.types.common import kib
from pillar.types.downloader import DownloadAttempt, DownloaderConfig, DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME, Time


@dataclass(frozen=True)
class Fetch:
    """Bring the object, resuming what is there of it. At most `limit` bytes."""

    plan: Plan
    limit: int


@dataclass(frozen=True)
class Adopt:
    """Hash the complete file in pending: it may be left from a download whose end was not published."""

    found: Found


@dataclass(frozen=True)
class Cancel:
    """Stop what is running; its result is not wanted."""


@dataclass(frozen=True)
class Discard:
    """Remove what the downloader has of this sha256; `path` is a file in pending that must go in any case."""

    sha256: str
    path: Path | None = None


Work = Fetch | Adopt | Cancel | Discard


@dataclass(frozen=True)
class Progress:
    """So far, in bytes. `size` is None when the server does not say; `rate` is bytes a second, over `ways`."""

    done: int
    size: int | None
    rate: int = 0
    ways: tuple[DownloadAttempt, ...] = ()


@dataclass(frozen=True)
class Done:
    """The object is in its place."""

    size: int
    container_id: str = ""  # sha256:... of the root document, when it is a container from a registry


@dataclass(frozen=True)
class Failed:
    """The work ended without the object; `full`: for want of room on the disk; `lasting`: until the plan changes."""

    text: str
    full: bool = False
    lasting: bool = False


@dataclass(frozen=True)
class WrongContent:
    """The file in pending is not what its directory says."""

    path: Path


@dataclass(frozen=True)
class Facts:
    """What the world looks like for one object right now."""

    now: Time
    objtype: str
    plan: Plan | Waiting | Impossible
    found: Found | None = None  # complete, in one of the three stages
    part_kib: int = 0  # of it that is in the part file
    free_kib: int = 0  # that this object may take in all, its part and its own reservation included
    running: Work | None = None
    event: Progress | Done | Failed | WrongContent | None = None  # news from the work, given once
    twin: bool = False  # another object with the same sha256 is being fetched
    backing_off: bool = False  # the last attempt failed and the next one is not due
    unused: bool = False  # since DownloadGCTime
    first_look: bool = False  # this process has not looked at this object before


@dataclass(frozen=True)
class Step:
    """What to publish (None: unpublish), what to do, and a line for the log when it waits."""

    status: DownloaderStatus | None
    work: Work | None = None
    note: str = ""


def step(config: DownloaderConfig | None, status: DownloaderStatus | None, facts: Facts) -> Step:
    """Decide. Returned work other than Cancel is only started when nothing runs for this object."""
    if config is None:
        return _go_away(status, facts)
    if status is None:
        status = _new(config, facts)
    elif status.ImageSha256 != config.ImageSha256:
        # Another object under the same name: the old one ends as if its config had gone.
        if facts.running is not None:
            return Step(replace(status, PendingDelete=True), Cancel())
        return Step(_new(config, facts), Discard(content_of(status)))
    status = _follow(config, status, facts)
    if facts.event is not None:
        status = _hear(config, status, facts)
    if facts.running is not None:
        return _while_running(config, status, facts)
    problem = name_problem(config.Safename, config.ImageSha256)
    if problem:
        return Step(_blocked(status, problem, facts))
    if isinstance(facts.event, WrongContent):
        return Step(_idle(status), Discard(config.ImageSha256, facts.event.path))
    return _while_idle(config, status, facts)


def _go_away(status: DownloaderStatus | None, facts: Facts) -> Step:
    """The config was withdrawn: stop, clean up, forget."""
    if facts.running is not None:
        gone = replace(status, PendingAdd=False, PendingDelete=True) if status is not None else None
        return Step(gone, Cancel())
    return Step(None, Discard(content_of(status)) if status is not None else None)


def _while_running(config: DownloaderConfig, status: DownloaderStatus, facts: Facts) -> Step:
    """Work is in flight: let it, unless nobody wants it any more or it fetches from the wrong place."""
    if config.RefCount == 0:
        return Step(_idle(status), Cancel())
    if isinstance(facts.running, Fetch) and not (
        isinstance(facts.plan, Plan) and facts.plan.source == facts.running.plan.source
    ):
        return Step(replace(status, PendingAdd=True), Cancel(), "the datastore changed on the way, starting again")
    return Step(status)


def _while_idle(config: DownloaderConfig, status: DownloaderStatus, facts: Facts) -> Step:
    """Nothing runs: be content, wait, or start."""
    if status.State == SwState.DOWNLOADED:
        # It may well have gone on to other hands or been found wrong by the verifier, whose owner then withdraws the
        # config. Only a process that finds an old promise unfulfilled when it starts takes it back.
        if facts.found is not None or not facts.first_look:
            return Step(_expire(status, facts))
        status = _idle(status)
    # Without a sha256 nothing can be compared: a certificate counts as it is, a container is the verifier's to judge.
    if facts.found is not None and (facts.found.stage != "pending" or not config.ImageSha256):
        return Step(_expire(_downloaded(status, facts.found.size, facts), facts))
    if config.RefCount == 0:
        return Step(_expire(_idle(status), facts))
    if facts.found is not None:
        return Step(replace(status, PendingAdd=True, PendingDelete=False), Adopt(facts.found))
    if facts.twin:
        return Step(_waiting(status), note="the same image is being fetched under another name")
    if isinstance(facts.plan, Waiting):
        return Step(_waiting(status), note=facts.plan.text)
    if isinstance(facts.plan, Impossible):
        return Step(_blocked(status, facts.plan.text, facts))
    if facts.backing_off:
        return Step(status)
    wanted = kib(config.Size)
    if max(wanted, 1) > facts.free_kib:
        return Step(_blocked(status, f"no space: needs {wanted} KiB, may take {facts.free_kib} KiB", facts))
    started = replace(
        status,
        PendingAdd=True,
        PendingDelete=False,
        State=SwState.DOWNLOAD_STARTED,
        ReservedSpace=max(wanted, facts.part_kib),
        Size=0,
    )
    return Step(started, Fetch(facts.plan, facts.free_kib * 1024))


def content_of(status: DownloaderStatus) -> str:
    """The sha256 under which the object stands: the config's, or that which a registry's tag turned out to be."""
    return status.ImageSha256 or sha256_of_id(status.ContainerImageID)


def _new(config: DownloaderConfig, facts: Facts) -> DownloaderStatus:
    """The first thing that is said about an object."""
    return DownloaderStatus(
        Safename=config.Safename,
        ObjType=facts.objtype,
        ImageSha256=config.ImageSha256,
        RefCount=config.RefCount,
        LastUse=facts.now,
        PendingAdd=config.RefCount > 0,
    )


def _follow(config: DownloaderConfig, status: DownloaderStatus, facts: Facts) -> DownloaderStatus:
    """Copy what the owner says; a changed RefCount is a use."""
    if status.RefCount != config.RefCount:
        status = replace(status, RefCount=config.RefCount, LastUse=facts.now, Expired=False)
    return replace(
        status,
        DatastoreID=config.DatastoreID,
        ImageID=config.ImageID,
        Name=config.Name,
        NameIsURL=config.NameIsURL,
        IsContainer=config.IsContainer,
        AllowNonFreePort=config.AllowNonFreePort,
        PendingDelete=False,
    )


def _hear(config: DownloaderConfig, status: DownloaderStatus, facts: Facts) -> DownloaderStatus:
    """Put news from the work into the status."""
    match facts.event:
        case Progress(done, size):
            return replace(
                status,
                State=SwState.DOWNLOAD_STARTED,
                Progress=min(100, done * 100 // size) if size else 0,
                ReservedSpace=max(kib(config.Size), kib(size or 0), kib(done)),
                LastErr="",
                LastErrTime=ZERO_TIME,
            )
        case Done(size, container_id):
            status = replace(status, ContainerImageID=container_id or status.ContainerImageID)
            if status.IsContainer and facts.found is not None:
                size = facts.found.size  # with its blobs
            return _downloaded(status, size, facts)
        case Failed(text):
            return replace(_idle(status), LastErr=text, LastErrTime=facts.now, RetryCount=status.RetryCount + 1)
        case _:
            return status


def _downloaded(status: DownloaderStatus, size: int, facts: Facts) -> DownloaderStatus:
    by_config = f"sha256:{status.ImageSha256.lower()}" if status.IsContainer and status.ImageSha256 else ""
    return replace(
        status,
        PendingAdd=False,
        State=SwState.DOWNLOADED,
        ContainerImageID=status.ContainerImageID or by_config,
        ReservedSpace=0,
        Size=size,
        Progress=100,
        ModTime=facts.now,
        LastErr="",
        LastErrTime=ZERO_TIME,
    )


def _idle(status: DownloaderStatus) -> DownloaderStatus:
    """Nothing is on its way and no room is held; what went wrong last stays to be read."""
    return replace(status, PendingAdd=False, State=SwState.INITIAL, ReservedSpace=0, Size=0, Progress=0)


def _waiting(status: DownloaderStatus) -> DownloaderStatus:
    """Something has to come first, and will: not an error."""
    return replace(_idle(status), PendingAdd=True, State=SwState.NONE, LastErr="", LastErrTime=ZERO_TIME)


def _blocked(status: DownloaderStatus, text: str, facts: Facts) -> DownloaderStatus:
    """Somebody has to act; no attempt was made, so none is counted."""
    since = status.LastErrTime if status.LastErr == text else facts.now
    return replace(_idle(status), LastErr=text, LastErrTime=since)


def _expire(status: DownloaderStatus, facts: Facts) -> DownloaderStatus:
    """Offer an unused object for removal; its owner answers by withdrawing the config."""
    if status.RefCount == 0 and facts.unused and not status.Expired:
        return replace(status, Expired=True)
    return status
