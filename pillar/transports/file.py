"""A directory of this machine as datastore: for devices without network, and for tests by hand.

Datastore   DsType    DsFile; or an HTTP type whose Fqdn, or the image's URL, is file://...
            Fqdn      the directory, as a path or file:// URL
            Dpath     folder in it; Name is the file below that

Only regular files inside the directory are read: no `..`, no link that leads out of it. A file is recognised by
device, inode, size and times.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from pillar.transports.base import Identity, Limits, ObjectChanged, Route, Source, Stream, Transport, TransportFailed

READ_BYTES = 256 * 1024


class FileTransport(Transport):
    """One file; the route is not used."""

    ranges: ClassVar[bool] = True

    def __init__(self, source: Source, route: Route, limits: Limits) -> None:
        self._path = path_of(source)
        self._fd = -1
        self._aborted = False

    def stat(self) -> Identity:
        return self._open()

    def read(self, start: int = 0, known: Identity | None = None) -> Stream:
        identity = self._open()
        assert identity.size is not None
        if known is not None and known.validator != identity.validator:
            start = 0
        return Stream(identity, start, self._chunks(start, identity.size, identity))

    def span(self, start: int, end: int, known: Identity | None = None) -> Stream:
        identity = self._open()
        assert identity.size is not None
        if known is not None and known.validator != identity.validator:
            raise ObjectChanged(f"{self._path}: was written to meanwhile")
        end = min(end, identity.size)
        return Stream(identity, start, self._chunks(start, end, identity), end)

    def abort(self) -> None:
        self._aborted = True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> Identity:
        """Raises TransportFailed."""
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            status = os.fstat(self._fd)
        except (OSError, ValueError) as err:
            raise TransportFailed(f"{self._path}: {getattr(err, 'strerror', None) or err}") from err
        if not stat.S_ISREG(status.st_mode):
            raise TransportFailed(f"{self._path}: not a regular file")
        return _identity(status)

    def _chunks(self, start: int, end: int, identity: Identity) -> Iterator[bytes]:
        """The bytes up to `end`; raises when the file was written to while it was read."""
        while start < end and not self._aborted:
            try:
                chunk = os.pread(self._fd, min(READ_BYTES, end - start), start)
            except OSError as err:
                raise TransportFailed(f"{self._path}: {err.strerror}") from err
            if _identity(os.fstat(self._fd)) != identity:
                raise ObjectChanged(f"{self._path}: was written to while it was read")
            if not chunk:
                raise TransportFailed(f"{self._path}: ended {end - start} bytes early")
            start += len(chunk)
            yield chunk
        if self._aborted:
            raise TransportFailed(f"{self._path}: given up")


def path_of(source: Source) -> Path:
    """The file. Raises TransportFailed when it is not inside the datastore's directory."""
    if not source.fqdn or "://" in source.name:
        return _local(source.name if "://" in source.name else source.url)
    directory = Path(os.path.realpath(_local(source.fqdn)))
    path = Path(os.path.realpath(directory.joinpath(source.dpath.strip("/"), source.name.lstrip("/"))))
    if not path.is_relative_to(directory):
        raise TransportFailed(f"{source.dpath}/{source.name}: leads out of the datastore's directory {directory}")
    return path


def _local(text: str) -> Path:
    if not text.startswith("file:"):
        path = text
    else:
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise TransportFailed(f"{text}: a file of another machine, {parts.netloc}")
        path = unquote(parts.path)
    if not path.startswith("/") or "\0" in path:
        raise TransportFailed(f"{text!r}: not an absolute path or file:// URL")
    return Path(path)


def _identity(status: os.stat_result) -> Identity:
    marks = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Identity(status.st_size, "-".join(map(str, marks)))


TRANSPORTS = {"DsFile": FileTransport}
