"""Whole tables: a publisher's and a subscriber's start, many subscribers, memory a key, and the price of a flush."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pillar.bench.floor import BareWriter, now
from pillar.bench.measure import (
    AGENT,
    RECORD_BYTES,
    LeftOut,
    disk,
    fresh_numbers,
    record,
    scratch,
    table_directory,
    take_turns,
)
from pillar.bench.scale_children import LAST
from pillar.pubsub import PubSub
from pillar.types.downloader import DownloaderStatus

MANY_KEYS = 100_000
PROCESSES, SUBSCRIBERS = 10, 50
FANNED_OUT = 1000  # records a turn
PERSISTED = 100  # publishes a turn


def load() -> dict[str, float]:
    """load_ratio, load_us_per_key: a publisher restarts on 100,000 keys, against reading and decoding its files."""
    with _filled(MANY_KEYS) as root:
        pair = take_turns(lambda: _child("load-subject", root)[0], lambda: _child("load-floor", root)[0])
    return {"load_us_per_key": pair.subject / MANY_KEYS / 1000, "load_ratio": pair.ratio}


def sync() -> dict[str, float]:
    """sync_ratio, sync_us_per_key: a new subscriber of 100,000 keys up to `synchronized`, a handler for each."""
    with _filled(MANY_KEYS) as root:
        pair = take_turns(lambda: _child("sync-subject", root)[0], lambda: _child("sync-floor", root)[0])
    return {"sync_us_per_key": pair.subject / MANY_KEYS / 1000, "sync_ratio": pair.ratio}


def fanout() -> dict[str, float]:
    """fanout_ratio: distinct keys, until the last of 50 subscribers in 10 processes has handled the last of them."""
    return {"fanout_ratio": take_turns(lambda: fan_out(SUBSCRIBERS), lambda: fan_out(SUBSCRIBERS, floor=True)).ratio}


def persist() -> dict[str, float]:
    """persist_us, persist_ratio: a persistent publish on disk, against the same writes, links, renames and flushes."""
    with disk() as place, PubSub(place, AGENT) as pubsub:
        publication = pubsub.publication(DownloaderStatus, persistent=True)
        bare = BareWriter(f"{place}/floor", durable=True)
        pair = take_turns(lambda: _per_flushed(publication.publish), lambda: _per_flushed(bare.publish))
    return {"persist_us": pair.subject, "persist_ratio": pair.ratio}


def rss_per_key() -> dict[str, float]:
    """rss_per_key_ratio: resident bytes a key over its encoded bytes; the largest of three kinds of process."""
    with _filled(MANY_KEYS) as root, scratch() as empty:
        grown = max(
            _child("load-subject", root)[1],
            _child("sync-subject", root)[1],
            _child("publish-subject", empty, MANY_KEYS)[1],
        )
    return {"rss_per_key_ratio": grown / MANY_KEYS / RECORD_BYTES}


def fan_out(subscribers: int, *, floor: bool = False, processes: int = PROCESSES) -> float:
    """Seconds until every one of so many subscribers has handled what was published."""
    with scratch() as root, contextlib.ExitStack() as stack, PubSub(root, AGENT) as pubsub:
        publish = BareWriter(table_directory(root)).publish if floor else pubsub.publication(DownloaderStatus).publish
        publish("warm", record(next(fresh_numbers)))  # each reads one record before it is ready
        task = "follow-floor" if floor else "follow-subject"
        shares = [len(range(number, subscribers, processes)) for number in range(min(processes, subscribers))]
        children = [stack.enter_context(_started(task, root, share)) for share in shares]
        said = [child.stdout for child in children if child.stdout is not None]
        for answer in [lines.readline() for lines in said]:
            if answer != "ready\n":
                raise LeftOut(f"a subscriber ({task}) could not start: {answer.strip() or 'see above'}")
        records = [(f"key{number}", record(number)) for number in range(FANNED_OUT - 1)]
        records.append((LAST, record(FANNED_OUT)))
        start = now()
        for key, item in records:
            publish(key, item)
        return (max(int(lines.readline()) for lines in said) - start) / 1e9


def _per_flushed(publish: Callable[[str, DownloaderStatus], object]) -> float:
    """Microseconds a publish of a value never published before, under one of ten keys."""
    records = [(f"key{number % 10}", record(next(fresh_numbers))) for number in range(PERSISTED)]
    start = time.perf_counter()
    for key, item in records:
        publish(key, item)
    return (time.perf_counter() - start) / PERSISTED * 1e6


@contextlib.contextmanager
def _filled(count: int) -> Iterator[str]:
    """A root with a table of so many keys, that nobody publishes."""
    with scratch() as root:
        bare = BareWriter(table_directory(root))
        for number in range(count):
            bare.publish(f"key{number}", record(number))
        yield root


def _child(task: str, root: str, *number: int) -> tuple[int, int]:
    """Nanoseconds and bytes of one task in a process of its own."""
    with _started(task, root, *number) as child:
        assert child.stdout is not None
        nanoseconds, resident = child.stdout.readline().split()
        return int(nanoseconds), int(resident)


@contextlib.contextmanager
def _started(task: str, root: str, *number: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pillar.bench.scale_children", task, root, *map(str, number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path("/")) as child:
        try:
            yield child
        finally:
            child.kill()
