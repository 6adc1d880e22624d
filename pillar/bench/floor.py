"""The floors: the least that a publisher and a subscriber of such files can do."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Callable, Iterator

import msgspec

from pillar.types.downloader import DownloaderStatus

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(DownloaderStatus)
_IN_MOVED_TO = 0x80
_CHUNK = 64 * 1024  # bytes read at once: most records; a larger buffer would cost a mapping each time


class BareWriter:
    """Encode, write beside, rename over: nothing else. Durable: flushed as a persistent table is, `.bak` included."""

    def __init__(self, directory: str, *, durable: bool = False) -> None:
        self._directory = directory
        self._durable = durable
        os.makedirs(f"{directory}/.staging", exist_ok=True)
        self._names = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def publish(self, key: str, record: DownloaderStatus) -> None:
        staged = f"{self._directory}/.staging/record"
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.write(fd, _encoder.encode(record))
        if self._durable:
            os.fsync(fd)
        os.close(fd)
        name = f"{self._directory}/{key}.json"
        if self._durable:
            with contextlib.suppress(FileNotFoundError):
                os.link(name, f"{self._directory}/.staging/backup")
                os.rename(f"{self._directory}/.staging/backup", f"{name}.bak")
        os.rename(staged, name)
        if self._durable:
            os.fsync(self._names)


def bare_encode(record: DownloaderStatus) -> bytes:
    """One encode."""
    return _encoder.encode(record)


def bare_read(directory: str, name: str) -> tuple[bytes, DownloaderStatus]:
    """One file, read and decoded."""
    fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    data = os.read(fd, _CHUNK)
    while len(data) % _CHUNK == 0 and (more := os.read(fd, _CHUNK)):
        data += more
    os.close(fd)
    return data, _decoder.decode(data)


def bare_load(
    directory: str, handle: Callable[[str, DownloaderStatus], object] = lambda key, new: None
) -> dict[str, bytes]:
    """Every record of the directory, decoded and handled; their bytes are kept."""
    held = {}
    for name in os.listdir(directory):
        if name.endswith(".json"):
            key = name[:-5]
            held[key], new = bare_read(directory, name)
            handle(key, new)
    return held


def bare_watch(directory: str) -> int:
    """An inotify descriptor that tells of renames into the directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    inotify: int = libc.inotify_init1(os.O_CLOEXEC)
    if inotify < 0 or libc.inotify_add_watch(inotify, os.fsencode(directory), _IN_MOVED_TO) < 0:
        err = ctypes.get_errno()
        raise OSError(
            err, f"{os.strerror(err)}: a bare watch needs an inotify instance (fs.inotify.max_user_instances)"
        )
    return inotify


def read_watch(inotify: int, directory: str) -> Iterator[tuple[str, DownloaderStatus]]:
    """The records that the events waiting now tell of; waits for the first."""
    events = os.read(inotify, _CHUNK)
    place = 0
    while place < len(events):
        (length,) = struct.unpack_from("I", events, place + 12)
        name = events[place + 16 : place + 16 + length].rstrip(b"\0").decode()
        place += 16 + length
        if name.endswith(".json"):
            yield name[:-5], bare_read(directory, name)[1]


def bare_reader(directory: str) -> Iterator[DownloaderStatus]:
    """Every record that is renamed into the directory, as the events come; prints `ready` when the watch stands."""
    inotify = bare_watch(directory)
    print("ready", flush=True)
    while True:
        for _, record in read_watch(inotify, directory):
            yield record


def now() -> int:
    """Nanoseconds on the clock that all processes of a machine share."""
    return time.monotonic_ns()
