"""Taking turns, and the record that is measured with."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pillar.pubsub import encode
from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import SwState

AGENT = "bench"  # whose table is measured
TMPFS = "/dev/shm"
DISK = "/var/tmp"
RUNS = 5
PUBLISHES = 2000
RECORD_BYTES = 1024


Publish = Callable[[str, DownloaderStatus], object]


class LeftOut(RuntimeError):
    """This machine cannot be measured so; the text says what is missing, and how to get it."""


class Pair(NamedTuple):
    """Medians of what was measured and of its floor, in the same unit."""

    subject: float
    floor: float

    @property
    def ratio(self) -> float:
        return self.subject / self.floor


def take_turns(subject: Callable[[], float], floor: Callable[[], float]) -> Pair:
    """Run both in turns, so that what else the machine does hits both; the first turn of each warms up."""
    (pair,) = take_turns_of_many(lambda: (subject(),), lambda: (floor(),))
    return pair


def take_turns_of_many(subject: Callable[[], Sequence[float]], floor: Callable[[], Sequence[float]]) -> list[Pair]:
    """The same where one turn gives several figures; each has its own medians."""
    subject(), floor()
    measured = [(floor(), subject()) for _ in range(RUNS)]
    floors = [statistics.median(figures) for figures in zip(*(turn[0] for turn in measured), strict=True)]
    subjects = [statistics.median(figures) for figures in zip(*(turn[1] for turn in measured), strict=True)]
    return [Pair(*figures) for figures in zip(subjects, floors, strict=True)]


def per_publish(publish: Publish, fresh: Callable[[], DownloaderStatus] | None = None) -> float:
    """Microseconds a publish of a value never published before (`fresh` makes one), under one of ten keys."""
    make = fresh or (lambda: record(next(fresh_numbers)))
    records = [(f"key{number % 10}", make()) for number in range(PUBLISHES)]
    start = time.perf_counter()
    for key, item in records:
        publish(key, item)
    return (time.perf_counter() - start) / PUBLISHES * 1e6


def table_directory(root: str) -> str:
    """Where the measured table stands below a root."""
    return f"{root}/run/{AGENT}/{DownloaderStatus.__name__}"


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A new directory on tmpfs."""
    return tempfile.TemporaryDirectory(prefix="pillar-bench-", dir=TMPFS if Path(TMPFS).is_dir() else None)


def disk() -> tempfile.TemporaryDirectory[str]:
    """A new directory on the disk."""
    return tempfile.TemporaryDirectory(prefix="pillar-bench-", dir=DISK)


def record(number: int, stamp: int = 0) -> DownloaderStatus:
    """A status of 1 KiB that differs with `number`; `stamp` travels in its Size."""
    return msgspec.structs.replace(_MODEL, RetryCount=number, Size=stamp)


# A value for `record` that was not used before in this process.
fresh_numbers = iter(range(1, 2**31))


def _model() -> DownloaderStatus:
    name = "images/appliances/edge/scada-os-18.04.qcow2"
    status = DownloaderStatus(
        Safename=name.replace("/", " ") + "." + "ab" * 32,
        Name=name,
        ObjType="appImg.obj",
        ImageSha256="ab" * 32,
        RefCount=1,
        State=SwState.DOWNLOAD_STARTED,
        Progress=42,
    )
    missing = RECORD_BYTES - len(encode(status))
    return msgspec.structs.replace(status, LastErr="x" * max(missing, 0))


_MODEL = _model()


def in_own_network(module: str, patience_s: float) -> dict[str, float]:
    """The figures that `python -m module` prints as JSON, in a network namespace that it may change. Needs root."""
    command = ["unshare", "--net", sys.executable, "-m", module]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=patience_s)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
