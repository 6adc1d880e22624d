"""An image that came with other content than its sha256 says, or got lost, is fetched again, a few times. Pure.

The verifier judges once and never again, so its config and the downloader's are withdrawn, both until the worker has
let go of the object, and then published anew:

    (no record) --wrong content--> WITHDRAWN --both let go of it---> FETCHING --right content--> (no record)
                                       ^                                |
                                       +------wrong content again-------+--> GAVE_UP after MAX_ATTEMPTS

The record is published before the configs are withdrawn, so the count survives a kill; it is forgotten with the
last app that uses the image, or when the image turns out right.
"""

from __future__ import annotations

from typing import Final

from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import OpenEnum, SwState
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Time
from pillar.types.verifier import VerifyImageStatus

MAX_ATTEMPTS: Final = 3
# What the verifier's error begins with when another fetch may help.
WRONG_CONTENT: Final = "sha256 mismatch"
NO_FILE: Final = "no downloaded image"


class RetryState(OpenEnum):
    """Where fetching an image again stands."""

    NONE = 0
    WITHDRAWN = 1  # no config is published, until both workers have let go
    FETCHING = 2
    GAVE_UP = 3


class ImageRetry(Record):
    """An image that came with the wrong content. Written and read by zedmanager only; keyed by safename."""

    Safename: str = ""
    State: RetryState = RetryState.NONE
    Attempt: int = 0  # which fetch this is; the first one, which came without a record, was 1
    LastErr: str = ""  # what the verifier said of the fetch before
    LastErrTime: Time = ZERO_TIME


def is_wrong(verify: VerifyImageStatus | None, download: DownloaderStatus | None) -> bool:
    """Did the verifier find other content than asked for, or nothing although the downloader is done?"""
    if verify is None or verify.PendingAdd:
        return False
    done = download is not None and download.State == SwState.DOWNLOADED and not download.PendingAdd
    return verify.LastErr.startswith(WRONG_CONTENT) or (verify.LastErr.startswith(NO_FILE) and done)


def is_right(status: VerifyImageStatus | None) -> bool:
    """Did the verifier find what was asked for?"""
    return status is not None and status.State >= SwState.DELIVERED and not status.LastErr


def refetch(
    name: str,
    retry: ImageRetry | None,
    *,
    used: bool,
    referred: bool,
    download: DownloaderStatus | None,
    verify: VerifyImageStatus | None,
) -> ImageRetry | None:
    """The record that the image should have now.

    `used`: some app still wants it. `referred`: some app's status still refers to the old download or
    verification, which would be published again if the withdrawal ended now.
    """
    if not used:
        return None
    wrong = is_wrong(verify, download)
    match retry.State if retry is not None else RetryState.NONE:
        case RetryState.WITHDRAWN if verify is None and download is None and not referred:
            assert retry is not None
            return ImageRetry(
                Safename=name,
                State=RetryState.FETCHING,
                Attempt=retry.Attempt,
                LastErr=retry.LastErr,
                LastErrTime=retry.LastErrTime,
            )
        case _ if is_right(verify):
            return None
        case RetryState.WITHDRAWN | RetryState.GAVE_UP:
            return retry
        case _ if wrong:
            assert verify is not None
            attempt = retry.Attempt if retry is not None else 1
            gave_up = attempt >= MAX_ATTEMPTS
            return ImageRetry(
                Safename=name,
                State=RetryState.GAVE_UP if gave_up else RetryState.WITHDRAWN,
                Attempt=attempt if gave_up else attempt + 1,
                LastErr=verify.LastErr,
                LastErrTime=verify.LastErrTime,
            )
        case _:
            return retry


def withdrawn(retry: ImageRetry | None) -> bool:
    """Must nothing be published for this image now?"""
    return retry is not None and retry.State == RetryState.WITHDRAWN


def explanation(retry: ImageRetry) -> str:
    """For people: what was wrong and the how-manieth fetch this is."""
    last = retry.State == RetryState.GAVE_UP
    what = "gave up after" if last else "fetching the image again,"
    return f"{retry.LastErr}; {what} attempt {retry.Attempt} of {MAX_ATTEMPTS}"
