"""What a transport is: something that can say how big an object is and read it from any byte on.

Everything that is not the protocol stands in `fetch`: the part file, resuming, hashing, limits, placing. So a
transport is one small class:

    stat()               -> Identity               how big the object is and by what it can be recognised again
    read(start, known)   -> Stream                 its bytes from `start` to the end
    span(start, end, known) -> Stream              only those before `end`; a transport without it is read in one stream
    abort()                                        from any thread: make a blocked call fail now
    close()

A transport belongs to one attempt over one route and is used by one thread (abort() excepted).

Errors say to the caller what to do, and to a person what happened where:

    TransportFailed      try again later
    ObjectChanged        the object is not the one the part file was begun with: start over
    Unsupported          no transport speaks this datastore type; a new datastore is needed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


class TransportFailed(Exception):
    """The object could not be read this time; the text names the server and what it said."""


class ObjectChanged(TransportFailed):
    """The server no longer has the object that the part file was begun with."""


class Unsupported(TransportFailed):
    """No transport is registered for this datastore type."""


@dataclass(frozen=True)
class Source:
    """Where an object comes from: a datastore's fields and the object's name, as the transport needs them.

    `url` is complete for transports that speak in URLs. Secrets do not show in `repr`.
    """

    ds_type: str
    url: str
    dpath: str = ""
    name: str = ""
    region: str = ""
    api_key: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    fqdn: str = ""  # as the datastore has it; for transports whose objects are not named by a URL

    def identity(self) -> str:
        """What must be equal for a part file to belong to this source. Holds no secret (login and query are out)."""
        return "|".join((self.ds_type, shown(self.url), self.dpath, self.name, self.region))


@dataclass(frozen=True)
class Route:
    """One way out of the device: a port's address to bind to and that port's proxies.

    An empty `address` leaves the choice to the kernel. `proxies` are (scheme, proxy URL) pairs; hosts that match
    `exceptions` (a comma list, as in ProxyConfig) are reached without them. `pac` is a PAC file in base64, which goes
    before both; of its answers the one numbered `choice` is taken.
    """

    address: str = ""
    port: str = ""
    proxies: tuple[tuple[str, str], ...] = ()
    exceptions: str = ""
    pac: str = ""
    choice: int = 0

    def __str__(self) -> str:
        return " ".join(word for word in (self.port, self.address) if word) or "default route"


@dataclass(frozen=True)
class Limits:
    """How long a transport waits, in seconds, and where it finds the device's own trust anchor and its certificate.

    `client_certificate` and `client_key` (PEM files) are shown to a TLS server that asks for them, if both exist.
    """

    connect_s: float = 30.0
    stall_s: float = 60.0
    root_certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True)
class Identity:
    """How an object is recognised again.

    `size` in bytes, None when the server does not say. `validator` is opaque to everyone but the transport that made
    it; empty means the object cannot be told from a changed one, so its download cannot be resumed.
    """

    size: int | None = None
    validator: str = ""


@dataclass(frozen=True)
class Stream:
    """The bytes of an object from `start` to its end.

    `start` is what the server delivers, which is 0 when it would not or could not go on where it was asked to;
    `chunks` raises TransportFailed when the bytes end early and the transport can tell. A span ends before byte `end`;
    None: it is the rest of the object.
    """

    identity: Identity
    start: int
    chunks: Iterator[bytes]
    end: int | None = None


class Transport(ABC):
    """One attempt at one object over one route."""

    ranges: ClassVar[bool] = False  # whether `span` works; several transports may then read one object at once

    @abstractmethod
    def stat(self) -> Identity:
        """Ask for size and validator without reading the object. Raises TransportFailed."""

    @abstractmethod
    def read(self, start: int = 0, known: Identity | None = None) -> Stream:
        """Open the object at byte `start`.

        With `known`, only if the object is still that one; a transport whose server cannot check that in the same
        request raises ObjectChanged or begins at 0. Raises TransportFailed.
        """

    def span(self, start: int, end: int, known: Identity | None = None) -> Stream:
        """Open the bytes from `start` to before `end`, or to the end of the object if that is less.

        The identity is that of the whole object. With `known`, only if the object is still that one, else raises
        ObjectChanged. Without it, a server that gives no ranges may answer with all of it. Raises TransportFailed.
        """
        raise Unsupported(f"{type(self).__name__} cannot read ranges")

    @abstractmethod
    def abort(self) -> None:
        """Make a call that is blocked in another thread fail now. May be called at any time, any number of times."""

    @abstractmethod
    def close(self) -> None:
        """Give back connections. The transport is not used afterwards."""


def shown(url: str) -> str:
    """`url` as it may stand in a log or a status: without login, query and fragment, which may hold secrets."""
    url = url.split("#", 1)[0].split("?", 1)[0]
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
