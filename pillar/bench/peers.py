"""What else people use to share state, by the same work: `scripts/bench --peers`.

    pillar      this library, an ordinary table
    nats        NATS JetStream, a key-value bucket on files, watched
    etcd        a put, and a watch of all keys
    redis       a set with AOF flushed always, keyspace notifications, and a get for each
    watchdog    bare renames into a directory, watchdog's own Observer on the other side
    watchfiles  the same, watchfiles on the other side

One process publishes a record of 1 KiB and waits until that is acknowledged; another receives and decodes it. Servers
listen on loopback and keep their data where the library does, on tmpfs. What is not installed is left out, and said.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pillar.bench.floor import now
from pillar.bench.measure import fresh_numbers, record, scratch
from pillar.bench.peer_clients import CLIENTS, Client
from pillar.bench.peer_servers import serving
from pillar.types.downloader import DownloaderStatus

ROUNDS = 3
PUBLISHES = 500
LATENCIES = 100
IDLE_S = 0.004  # between two publishes of a latency measurement: the receiver has gone back to sleep
BURST = 10_000

Publish = Callable[[str, DownloaderStatus], object]


def measure(say: Callable[[str], object]) -> dict[str, dict[str, float]]:
    """Per peer that is installed: publish_us, latency_p50_us, burst_per_s.

    `say` is told what is missing, and how to get it.
    """
    present = []
    for client in CLIENTS.values():
        lacking = missing(client)
        if lacking:
            say(f"{client.name} is left out: {lacking}")
        else:
            present.append(client)
    rounds: dict[str, list[dict[str, float]]] = {client.name: [] for client in present}
    for _ in range(ROUNDS):  # in turns: what else the machine does hits all of them
        for client in present:
            rounds[client.name].append(_round(client))
    return {
        name: {figure: round(statistics.median(one[figure] for one in figures), 1) for figure in figures[0]}
        for name, figures in rounds.items()
    }


def missing(client: Client) -> str:
    """What has to be installed for this peer, and how; empty when all is there."""
    lacking = []
    if client.server and shutil.which(client.server) is None:
        lacking.append(f"{client.server} is not installed: apt-get install {client.package}")
    if client.module and importlib.util.find_spec(client.module) is None:
        lacking.append(
            f"Python's {client.module} is not installed: {sys.executable} -m pip install {client.distribution}"
        )
    return "; ".join(lacking)


def _round(client: Client) -> dict[str, float]:
    with scratch() as place, serving(client.name, place) as address, client.publisher(address) as publish:
        figures = {"publish_us": _per_publish(publish), "latency_p50_us": _delay(client, address, publish)}
    with scratch() as place, serving(client.name, place) as address, client.publisher(address) as publish:
        figures["burst_per_s"] = _burst(client, address, publish)
    return figures


def _per_publish(publish: Publish) -> float:
    """Microseconds until a changed value under one of ten keys is acknowledged."""
    records = [(f"key{number % 10}", record(next(fresh_numbers))) for number in range(PUBLISHES)]
    publish(*records[0])
    start = time.perf_counter()
    for key, item in records[1:]:
        publish(key, item)
    return (time.perf_counter() - start) / (PUBLISHES - 1) * 1e6


def _delay(client: Client, address: str, publish: Publish) -> float:
    """Median microseconds from the publish to the decoded record in a process that was asleep."""
    delays = []
    with _receiver(client, address, 0) as said:
        for _ in range(LATENCIES):
            time.sleep(IDLE_S)
            publish("key", record(next(fresh_numbers), stamp=now()))
            delays.append(int(next(said)))
    return statistics.median(delays) / 1000


def _burst(client: Client, address: str, publish: Publish) -> float:
    """Records a second: distinct keys, each acknowledged before the next, until the last is decoded elsewhere."""
    records = [(f"key{number}", record(number)) for number in range(BURST)]
    with _receiver(client, address, BURST) as said:
        start = now()
        for key, item in records:
            publish(key, item)
        return BURST / ((int(next(said)) - start) / 1e9)


@contextlib.contextmanager
def _receiver(client: Client, address: str, count: int) -> Iterator[Iterator[str]]:
    command = [sys.executable, "-m", "pillar.bench.peers", client.name, address, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path("/")) as child:
        assert child.stdout is not None
        try:
            if child.stdout.readline() != "ready\n":
                raise RuntimeError(f"the receiving process ({client.name}) did not start")
            yield child.stdout
        finally:
            child.kill()


def receive() -> None:
    """`python -m pillar.bench.peers NAME ADDRESS COUNT`: the receiving process, as in children.py.

    Prints `ready`; with COUNT 0 for each record the nanoseconds since its stamp, else when it had so many keys.
    """
    name, address, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seen: set[str] = set()
    for key, item in CLIENTS[name].records(address, lambda: print("ready", flush=True)):
        if not count:
            if item.Size:  # records without a stamp were there before
                print(now() - item.Size, flush=True)
            continue
        seen.add(key)
        if len(seen) == count:
            print(now(), flush=True)
            return


if __name__ == "__main__":
    receive()
