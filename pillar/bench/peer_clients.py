"""The two ends of each peer: publish a record and wait for the acknowledgement; receive records and decode them."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import msgspec

from pillar.bench.floor import BareWriter, bare_read
from pillar.bench.measure import AGENT
from pillar.pubsub import PubSub
from pillar.types.downloader import DownloaderStatus

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DownloaderStatus).decode

Publish = Callable[[str, DownloaderStatus], object]
Records = Iterator[tuple[str, DownloaderStatus]]
BUCKET = "bench"


class Client(NamedTuple):
    """One peer: what it needs, how it publishes, and how it receives (calling `ready` once it listens)."""

    name: str
    publisher: Callable[[str], AbstractContextManager[Publish]]
    records: Callable[[str, Callable[[], object]], Records]
    server: str = ""
    package: str = ""  # Debian's
    module: str = ""
    distribution: str = ""  # PyPI's


# This library.


@contextlib.contextmanager
def _pillar_publisher(root: str) -> Iterator[Publish]:
    with PubSub(root, AGENT) as pubsub:
        yield pubsub.publication(DownloaderStatus).publish


def _pillar_records(root: str, ready: Callable[[], object]) -> Records:
    for change in PubSub(root).subscription(AGENT, DownloaderStatus):
        if change.kind == "synchronized":
            ready()
        elif change.new is not None:
            yield change.key, change.new


# NATS JetStream, a key-value bucket.


@contextlib.contextmanager
def _nats_publisher(address: str) -> Iterator[Publish]:
    import nats
    from nats.js.api import StorageType

    with asyncio.Runner() as runner:

        async def connect() -> tuple[Any, Any]:
            client = await nats.connect(f"nats://{address}")
            return client, await client.jetstream().create_key_value(bucket=BUCKET, storage=StorageType.FILE)

        client, bucket = runner.run(connect())
        yield lambda key, record: runner.run(bucket.put(key, _encode(record)))
        runner.run(client.close())


def _nats_records(address: str, ready: Callable[[], object]) -> Records:
    import nats

    with asyncio.Runner() as runner:

        async def watch() -> Any:
            client = await nats.connect(f"nats://{address}")
            return await (await client.jetstream().key_value(BUCKET)).watchall()

        watcher = runner.run(watch())
        while True:
            entry = runner.run(watcher.updates(timeout=3600))
            if entry is None:  # what was there before is told
                ready()
            else:
                yield entry.key, _decode(entry.value)


# etcd, over its gRPC interface. The few messages are put together here: its Python clients are years old.


@contextlib.contextmanager
def _etcd_publisher(address: str) -> Iterator[Publish]:
    import grpc

    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        put = channel.unary_unary("/etcdserverpb.KV/Put")
        yield lambda key, record: put(_field(1, key.encode()) + _field(2, _encode(record)))


def _etcd_records(address: str, ready: Callable[[], object]) -> Records:
    import grpc

    everything = _field(1, _field(1, b"\0") + _field(2, b"\0"))  # create_request {key, range_end}: all keys
    asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    asked.put(everything)
    with grpc.insecure_channel(address) as channel:
        for answer in channel.stream_stream("/etcdserverpb.Watch/Watch")(iter(asked.get, None)):
            fields = list(_fields(answer))
            if any(number == 3 for number, _ in fields):  # created
                ready()
            for number, event in fields:
                if number == 11 and isinstance(event, bytes):
                    pair = dict(_fields(event))[2]
                    assert isinstance(pair, bytes)
                    members = dict(_fields(pair))
                    key, value = members[1], members[5]
                    assert isinstance(key, bytes)
                    assert isinstance(value, bytes)
                    yield key.decode(), _decode(value)


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    size, length = len(value), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The varints and the length-delimited fields of a protobuf message; etcd's have no others."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            yield tag >> 3, message[place : place + value]
            place += value
        else:
            yield tag >> 3, value


# Redis: a notification names the key, the value is fetched.


@contextlib.contextmanager
def _redis_publisher(address: str) -> Iterator[Publish]:
    import redis

    host, port = address.split(":")
    with redis.Redis(host, int(port)) as client:
        yield lambda key, record: client.set(key, _encode(record))


def _redis_records(address: str, ready: Callable[[], object]) -> Records:
    import redis

    host, port = address.split(":")
    with redis.Redis(host, int(port)) as client, client.pubsub() as notes:
        notes.psubscribe("__keyspace@0__:*")
        for note in notes.listen():
            if note["type"] == "psubscribe":
                ready()
            elif note["type"] == "pmessage":
                key = note["channel"].partition(b":")[2].decode()
                value = client.get(key)
                assert isinstance(value, bytes)
                yield key, _decode(value)


# Bare files, told of by others' watchers.


@contextlib.contextmanager
def _file_publisher(place: str) -> Iterator[Publish]:
    yield BareWriter(f"{place}/files").publish


def _watchdog_records(place: str, ready: Callable[[], object]) -> Records:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    directory = f"{place}/files"
    records: queue.SimpleQueue[tuple[str, DownloaderStatus]] = queue.SimpleQueue()

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            # A rename from a place that is not watched is told as a creation, one over an existing file as well.
            path = str(event.dest_path or event.src_path)
            if event.event_type in ("created", "moved") and path.endswith(".json"):
                name = path.rpartition("/")[2]
                records.put((name[:-5], bare_read(directory, name)[1]))

    observer = Observer()
    observer.schedule(Handler(), directory)
    observer.start()
    ready()
    while True:
        yield records.get()


def _watchfiles_records(place: str, ready: Callable[[], object]) -> Records:
    from watchfiles import watch

    directory = f"{place}/files"
    # The shortest it can be told to collect before it hands over. Its watch stands at the first turn.
    turns = watch(directory, debounce=1, step=1, recursive=False, yield_on_timeout=True, rust_timeout=100)
    next(turns)
    ready()
    for changes in turns:
        for _, path in changes:
            if path.endswith(".json"):
                name = path.rpartition("/")[2]
                yield name[:-5], bare_read(directory, name)[1]


CLIENTS = {
    client.name: client
    for client in (
        Client("pillar", _pillar_publisher, _pillar_records),
        Client("nats", _nats_publisher, _nats_records, "nats-server", "nats-server", "nats", "nats-py"),
        Client("etcd", _etcd_publisher, _etcd_records, "etcd", "etcd-server", "grpc", "grpcio"),
        Client("redis", _redis_publisher, _redis_records, "redis-server", "redis-server", "redis", "redis"),
        Client("watchdog", _file_publisher, _watchdog_records),
        Client("watchfiles", _file_publisher, _watchfiles_records, module="watchfiles", distribution="watchfiles"),
    )
}
