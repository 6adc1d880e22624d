"""What people are told of a download beyond DownloaderStatus. Pure: the decision and its facts in, a record out."""

from __future__ import annotations

from msgspec.structs import replace

from pillar.cmd.downloader.decide import Facts, Failed, Fetch, Progress, Step
from pillar.transports.base import shown
from pillar.types.downloader import DownloadAttempt, DownloadProgress
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME, Time

QUEUED = "waits for its turn: as many downloads as may run at once are running"


def report(
    old: DownloadProgress | None,
    decision: Step,
    facts: Facts,
    ways: tuple[DownloadAttempt, ...],
    next_retry: Time,
    queued: bool,
) -> DownloadProgress | None:
    """The next record; None when there is nothing to tell of.

    `ways` are those of the attempt that runs or has just ended. `next_retry` is when the next one is due (zero: none).
    """
    status = decision.status
    if status is None:
        return None
    said = old or DownloadProgress(Safename=status.Safename)
    match facts.event:
        case Progress(done, size, rate, on_the_way):
            said = replace(said, Done=done, Total=size or 0, Rate=rate, Attempts=on_the_way or None)
        case Failed():
            said = replace(said, Attempts=ways or None, NextRetry=next_retry)
    if isinstance(decision.work, Fetch):
        source = shown(decision.work.plan.source.url)
        said = replace(said, Source=source, Attempt=said.Attempt + 1, Attempts=None, NextRetry=ZERO_TIME)
    if status.State != SwState.DOWNLOAD_STARTED:
        said = replace(said, Rate=0)
    if status.State == SwState.DOWNLOADED:  # however it came, and however often a kill fell in between, it ends alike
        said = replace(said, Attempt=0, Attempts=None, Done=status.Size, Total=status.Size, NextRetry=ZERO_TIME)
    waiting = decision.note if status.State != SwState.DOWNLOAD_STARTED else QUEUED if queued else ""
    return replace(said, Waiting=waiting)
