"""The library's figures: publish, idle latency, bursts, growth with the table."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator

from pillar.bench.floor import BareWriter, bare_encode, now
from pillar.bench.measure import (
    AGENT,
    Publish,
    disk,
    fresh_numbers,
    per_publish,
    record,
    scratch,
    take_turns,
    take_turns_of_many,
)
from pillar.pubsub import PubSub
from pillar.types.downloader import DownloaderStatus

CALLS = 2000
LATENCIES = 300
IDLE_S = 0.004  # between two publishes of a latency measurement: the receiver has gone back to sleep
BURST = 10_000
MANY_KEYS = 100_000
BATCH = 100


def publish() -> dict[str, float]:
    """publish_us, publish_ratio: a changed value under one of ten keys."""
    with scratch() as place, PubSub(place, AGENT) as pubsub:
        publication = pubsub.publication(DownloaderStatus)
        bare = BareWriter(f"{place}/floor")
        pair = take_turns(lambda: per_publish(publication.publish), lambda: per_publish(bare.publish))
    return {"publish_us": pair.subject, "publish_ratio": pair.ratio}


def unchanged() -> dict[str, float]:
    """unchanged_us, unchanged_ratio: publishing an equal value, against encoding it once."""
    with scratch() as place, PubSub(place, AGENT) as pubsub:
        publication = pubsub.publication(DownloaderStatus)
        item = record(next(fresh_numbers))
        publication.publish("key", item)
        pair = take_turns(
            lambda: _per_call(lambda: publication.publish("key", item)), lambda: _per_call(lambda: bare_encode(item))
        )
    return {"unchanged_us": pair.subject, "unchanged_ratio": pair.ratio}


def latency() -> dict[str, float]:
    """latency_p50_us, latency_p50_ratio, latency_p99_us, latency_p99_ratio.

    From publish to the handler in another process that was asleep.
    """
    with scratch() as place, PubSub(place, AGENT) as pubsub:
        publication = pubsub.publication(DownloaderStatus)
        bare = BareWriter(f"{place}/floor")
        p50, p99 = take_turns_of_many(
            lambda: _delays("subject", place, publication.publish),
            lambda: _delays("floor", f"{place}/floor", bare.publish),
        )
    return {
        "latency_p50_us": p50.subject,
        "latency_p50_ratio": p50.ratio,
        "latency_p99_us": p99.subject,
        "latency_p99_ratio": p99.ratio,
    }


def burst() -> dict[str, float]:
    """burst_per_s, burst_ratio: distinct keys as fast as possible, until the last handler in another process."""
    pair = take_turns(lambda: _burst("subject"), lambda: _burst("floor"))
    return {"burst_per_s": pair.subject, "burst_ratio": pair.ratio}


def growth() -> dict[str, float]:
    """growth_ratio: the same ten keys published while the table holds many, against while it holds ten."""
    with scratch() as small, scratch() as large, PubSub(small, AGENT) as few, PubSub(large, AGENT) as many:
        ten = few.publication(DownloaderStatus)
        hundred_thousand = many.publication(DownloaderStatus)
        for number in range(MANY_KEYS):
            hundred_thousand.publish(f"filler{number}", record(number))
        pair = take_turns(lambda: per_publish(hundred_thousand.publish), lambda: per_publish(ten.publish))
    return {"growth_ratio": pair.ratio}


def batch() -> dict[str, float]:
    """batch_us, batch_ratio: a persistent publish, on disk, in a batch of a hundred against one by one."""
    with disk() as place, PubSub(place, AGENT) as pubsub:
        publication = pubsub.publication(DownloaderStatus, persistent=True)

        def hundred(changes: contextlib.AbstractContextManager[None]) -> float:
            start = time.perf_counter()
            with changes:  # its end counts, too
                for number in range(BATCH):
                    publication.publish(f"key{number}", record(next(fresh_numbers)))
            return (time.perf_counter() - start) / BATCH * 1e6

        pair = take_turns(lambda: hundred(publication.batch()), lambda: hundred(contextlib.nullcontext()))
    return {"batch_us": pair.subject, "batch_ratio": pair.ratio}


def _per_call(call: Callable[[], object]) -> float:
    """Microseconds a call."""
    return min(timeit.repeat(call, number=CALLS, repeat=5)) / CALLS * 1e6


def _delays(kind: str, place: str, publish: Publish) -> tuple[float, float]:
    """Microseconds, median and 99th percentile. One record at a time: two close together may rightly be seen as one."""
    delays = []
    with _receiver(kind, place, 0) as said:
        for _ in range(LATENCIES):
            time.sleep(IDLE_S)
            publish("key", record(next(fresh_numbers), stamp=now()))
            delays.append(int(next(said)))
    delays.sort()
    return statistics.median(delays) / 1000, delays[len(delays) * 99 // 100] / 1000


def _burst(kind: str) -> float:
    """Records a second, from the first publish to the last handler."""
    with scratch() as place, PubSub(place, AGENT) as pubsub:
        if kind == "subject":
            publish: Publish = pubsub.publication(DownloaderStatus).publish
        else:
            publish = BareWriter(place).publish
        records = [(f"key{number}", record(number)) for number in range(BURST)]
        with _receiver(kind, place, BURST) as said:
            start = now()
            for key, item in records:
                publish(key, item)
            end = int(next(said))
    return BURST / ((end - start) / 1e9)


@contextlib.contextmanager
def _receiver(kind: str, place: str, count: int) -> Iterator[Iterator[str]]:
    """A receiving process that is ready; gives the lines it prints."""
    command = [sys.executable, "-m", "pillar.bench.children", kind, place, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            if child.stdout.readline() != "ready\n":
                raise RuntimeError(f"the receiving process ({kind}) did not start")
            yield child.stdout
        finally:
            child.kill()
