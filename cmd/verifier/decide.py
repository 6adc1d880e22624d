"""One image's next move. Pure: no disk, no clock, no log."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from pillar.imagestore import Found, name_problem
from pillar.ociimage import sha256_of_id
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME, Time
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus


@dataclass(frozen=True)
class Verify:
    """Take, hash, check and place the image."""


@dataclass(frozen=True)
class Cancel:
    """Stop what is running; its result is not wanted."""


@dataclass(frozen=True)
class Remove:
    """Remove what the verifier has of this sha256; `verified`: the good image too."""

    sha256: str
    verified: bool


Work = Verify | Cancel | Remove


@dataclass(frozen=True)
class Good:
    """It stands in `verified`."""

    size: int


@dataclass(frozen=True)
class Bad:
    """The content was another one; the file is gone."""

    text: str


@dataclass(frozen=True)
class Refused:
    """It is not let through as things are; what there is of it stays."""

    text: str


@dataclass(frozen=True)
class Facts:
    """What the world looks like for one image right now."""

    now: Time
    objtype: str
    found: Found | None = None  # the furthest stage that has it
    proven: bool = True  # a verified file looked, when this process began, as when its digest was computed
    signature_known: bool = True  # the signature that the config asks for was found good before, or none is asked for
    running: bool = False
    event: Good | Bad | Refused | None = None  # news from the work, given once
    twin: bool = False  # work for another name of the same sha256 is running
    backing_off: bool = False
    unused: bool = False  # since DownloadGCTime


@dataclass(frozen=True)
class Step:
    """What to publish (None: unpublish) and what to do."""

    status: VerifyImageStatus | None
    work: Work | None = None


def step(config: VerifyImageConfig | None, status: VerifyImageStatus | None, facts: Facts) -> Step:
    """Decide. Returned work other than Cancel is only started when nothing runs for this image."""
    if config is None:
        return _without_config(status, facts)
    if status is None:
        status = _new(config, facts)
    elif status.ImageSha256 != config.ImageSha256:
        # Another image under the same name: the old one is left to garbage collection under its own name.
        if facts.running:
            return Step(status, Cancel())
        status = _new(config, facts)
    status = _follow(config, status, facts)
    problem = name_problem(config.Safename, config.ImageSha256)
    if not config.ImageSha256:
        problem = "no ImageSha256 is given: the image cannot be verified"
    if problem:
        return Step(_failed(status, problem, facts))
    if facts.running:
        return Step(status, Cancel() if config.RefCount == 0 and status.State != SwState.DELIVERED else None)
    return _with_config(config, _hear(status, facts), facts)


def _with_config(config: VerifyImageConfig, status: VerifyImageStatus, facts: Facts) -> Step:
    """Somebody knows the image; nothing runs."""
    in_place = facts.found is not None and facts.found.stage == "verified"
    if status.State == SwState.DELIVERED and in_place and facts.proven and facts.signature_known:
        return Step(_expire(status, facts))
    if config.RefCount == 0:
        # Nobody uses it: an image that has to be looked at again is, so that its status is true; others wait.
        if in_place and not facts.proven and not facts.twin and not facts.backing_off:
            return Step(_pending(status), Verify())
        kept = status if in_place and facts.proven else replace(status, State=SwState.DOWNLOADED)
        return Step(_expire(replace(kept, PendingAdd=False), facts))
    if facts.found is None:
        # After an error the file is gone for a reason, and that stays to be read.
        text = status.LastErr or no_file_text(config.ImageSha256)
        return Step(_failed(status, text, facts))
    if facts.backing_off:
        return Step(status)
    if facts.twin:
        return Step(_pending(status))
    return Step(_pending(status), Verify())


def _without_config(status: VerifyImageStatus | None, facts: Facts) -> Step:
    """Nobody asks: a good image is offered for use until it is garbage, anything else goes."""
    if status is None:
        return Step(None)
    in_place = facts.found is not None and facts.found.stage == "verified"
    if facts.running:
        return Step(status, None if in_place else Cancel())
    status = _hear(status, facts)
    if status.RefCount:
        status = replace(status, RefCount=0, LastUse=facts.now)
    if not in_place or status.Expired:
        return Step(None, Remove(status.ImageSha256, verified=in_place))
    if not facts.proven:
        waits = facts.twin or facts.backing_off
        return Step(status) if waits else Step(_pending(status), Verify())
    delivered = replace(status, PendingAdd=False, State=SwState.DELIVERED, LastErr="", LastErrTime=ZERO_TIME)
    return Step(_expire(delivered, facts))


def by_content(config: VerifyImageConfig) -> VerifyImageConfig:
    """A container without ImageSha256 is verified by what its tag turned out to be when it was fetched."""
    if config.IsContainer and not config.ImageSha256:
        return replace(config, ImageSha256=sha256_of_id(config.ContainerImageID))
    return config


def offered(safename: str, sha256: str, size: int, objtype: str, proven: bool, now: Time) -> VerifyImageStatus:
    """The status of an image in `verified` that nobody has asked for: there to be used."""
    return VerifyImageStatus(
        Safename=safename,
        ObjType=objtype,
        ImageSha256=sha256,
        State=SwState.DELIVERED if proven else SwState.DOWNLOADED,
        Size=size,
        LastUse=now,
    )


def no_file_text(sha256: str) -> str:
    """What is said when there is nothing to verify."""
    return f"no downloaded image of sha256 {sha256}"


def _new(config: VerifyImageConfig, facts: Facts) -> VerifyImageStatus:
    return VerifyImageStatus(
        Safename=config.Safename,
        ObjType=facts.objtype,
        ImageSha256=config.ImageSha256,
        State=SwState.DOWNLOADED,
        RefCount=config.RefCount,
        LastUse=facts.now,
    )


def _follow(config: VerifyImageConfig, status: VerifyImageStatus, facts: Facts) -> VerifyImageStatus:
    """Copy what the owner says; a changed RefCount is a use."""
    if status.RefCount != config.RefCount:
        status = replace(status, RefCount=config.RefCount, LastUse=facts.now, Expired=False)
    return replace(status, IsContainer=config.IsContainer, ContainerImageID=config.ContainerImageID)


def _hear(status: VerifyImageStatus, facts: Facts) -> VerifyImageStatus:
    """Put news from the work into the status."""
    match facts.event:
        case Good(size):
            return replace(
                status, PendingAdd=False, State=SwState.DELIVERED, Size=size, LastErr="", LastErrTime=ZERO_TIME
            )
        case Bad(text) | Refused(text):
            return _failed(status, text, facts)
        case None:
            return status


def _pending(status: VerifyImageStatus) -> VerifyImageStatus:
    return replace(status, PendingAdd=True, State=SwState.DOWNLOADED)


def _failed(status: VerifyImageStatus, text: str, facts: Facts) -> VerifyImageStatus:
    since = status.LastErrTime if status.LastErr == text and status.LastErrTime != ZERO_TIME else facts.now
    return replace(status, PendingAdd=False, State=SwState.DOWNLOADED, LastErr=text, LastErrTime=since)


def _expire(status: VerifyImageStatus, facts: Facts) -> VerifyImageStatus:
    """Offer an unused image for removal; its owner answers by withdrawing the config."""
    if status.RefCount == 0 and facts.unused and not status.Expired:
        return replace(status, Expired=True)
    return status
