"""The floors: the least that a publisher and a subscriber of such files can do."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator

import msgspec

from pillar.types.downloader import DownloaderStatus

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(DownloaderStatus)
_IN_MOVED_TO = 0x80


class BareWriter:
    """Encode, write beside, rename over: nothing else."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(f"{directory}/.staging", exist_ok=True)

    def publish(self, key: str, record: DownloaderStatus) -> None:
        staged = f"{self._directory}/.staging/record"
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.write(fd, _encoder.encode(record))
        os.close(fd)
        os.rename(staged, f"{self._directory}/{key}.json")


def bare_reader(directory: str) -> Iterator[DownloaderStatus]:
    """Every record that is renamed into the directory, as the events come; prints `ready` when the watch stands."""
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_CLOEXEC)
    if inotify < 0 or libc.inotify_add_watch(inotify, os.fsencode(directory), _IN_MOVED_TO) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    print("ready", flush=True)
    while True:
        events = os.read(inotify, 65536)
        place = 0
        while place < len(events):
            (length,) = struct.unpack_from("I", events, place + 12)
            name = events[place + 16 : place + 16 + length].rstrip(b"\0").decode()
            place += 16 + length
            fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            data = os.read(fd, 65536)
            os.close(fd)
            yield _decoder.decode(data)


def now() -> int:
    """Nanoseconds on the clock that all processes of a machine share."""
    return time.monotonic_ns()
