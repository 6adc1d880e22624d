"""Does the controller answer over this port? One request, from one local address, with the port's own name servers.

Runs in a thread. Nothing of the machine is used: neither its resolver nor its proxies nor its root certificates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pillar.workers import Cancel

PING: Final = "/api/v1/edgedevice/ping"
_GOOD: Final = (200, 201)
# OpenSSL's numbers for a chain that we cannot know, and a name that is another's: that is no controller of ours.
_STRANGERS: Final = frozenset({18, 19, 20, 21, 62, 64})


@dataclass(frozen=True)
class Target:
    """Whom to ask, and by which certificates to know each other."""

    url: str
    root_certificates: Path | None = None  # PEM; None: the system's
    certificate: tuple[Path, Path] | None = None  # ours, and its key


@dataclass(frozen=True)
class Way:
    """One way out: a port with one of its addresses."""

    ifname: str
    address: str
    dns_servers: tuple[str, ...] = ()
    proxy: str = ""  # http://host:port for the target, "" for none
    pac: str = ""  # base64 of the port's PAC file, which then says what `proxy` is

    def __str__(self) -> str:
        return f"{self.ifname} {self.address}" + (f" by {self.proxy}" if self.proxy else "")


@dataclass(frozen=True)
class Answer:
    """What came of a request: it worked, or `text` says why not; `remote` if the controller is reached but not well."""

    works: bool = False
    remote: bool = False
    text: str = field(default="", compare=False)


class _NoName(Exception):
    """The name servers do not know the controller, or do not answer."""


def controller(config: Path, url: str) -> Target | None:
    """Whom to ask: `url` if given, else the controller named in `config`/server; None when there is none."""
    root = config / "root-certificate.pem"
    certificate, key = config / "device.cert.pem", config / "device.key.pem"
    known = root if root.exists() else None
    own = (certificate, key) if certificate.exists() and key.exists() else None
    if url:
        return Target(url, known, own)
    try:
        server = (config / "server").read_text().strip()
    except OSError:
        return None
    return Target(f"https://{server}{PING}", known, own) if server else None


def ask_over(target: Target, ways: Iterable[Way], timeout_s: float, cancel: Cancel) -> dict[Way, Answer]:
    """Ask over one way after the other, until one works; each takes at most twice the timeout. Raises Cancelled."""
    answers: dict[Way, Answer] = {}
    for way in ways:
        cancel.raise_if_set()
        answers[way] = ask(target, way, timeout_s)
        if answers[way].works:
            break
    return answers


def ask(target: Target, way: Way, timeout_s: float) -> Answer:
    """One GET, through each proxy that the port's PAC file names until one works. Raises nothing for what a network or
    a server may do.
    """
    if not way.pac:
        return _ask(target, way, timeout_s)
    from pillar.transports.pac import PacFailed, proxies_for  # only who has a PAC file pays

    try:
        proxies = proxies_for(way.pac, target.url)
    except PacFailed as err:
        return Answer(text=f"{way}: {err}")
    answers: list[Answer] = []
    for proxy in proxies:
        answers.append(_ask(target, dataclasses.replace(way, proxy=proxy), timeout_s))
        if answers[-1].works:
            return answers[-1]
    remote = any(answer.remote for answer in answers)
    return Answer(remote=remote, text="; ".join(answer.text for answer in answers))


def _ask(target: Target, way: Way, timeout_s: float) -> Answer:
    try:
        status = _get(target, way, timeout_s)
    except _NoName as err:
        return Answer(text=f"{way}: {err}")
    except ssl.SSLCertVerificationError as err:
        stranger = err.verify_code in _STRANGERS
        return Answer(remote=not stranger, text=f"{way}: {target.url}: {err.verify_message}")
    except ConnectionRefusedError as err:
        return Answer(remote=not way.proxy, text=f"{way}: {target.url}: {err.strerror}")
    except (OSError, http.client.HTTPException, ValueError) as err:
        return Answer(text=f"{way}: {target.url}: {err or type(err).__name__}")
    if status in _GOOD:
        return Answer(works=True)
    return Answer(text=f"{way}: {target.url} answers {status}")


def _get(target: Target, way: Way, timeout_s: float) -> int:
    parts = urlsplit(target.url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    to = urlsplit(way.proxy) if way.proxy else None
    deadline = time.monotonic() + timeout_s
    numbers = resolve(to.hostname or "" if to else host, way, timeout_s)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    with contextlib.closing(connection):
        left = max(1.0, deadline - time.monotonic())
        connection.sock = _connect(numbers, (to.port or 3128) if to else port, way, left)
        if to and secure:
            _tunnel(connection.sock, host, port)
        elif to:
            path = target.url
        if secure:
            connection.sock = _context(target).wrap_socket(connection.sock, server_hostname=host)
        connection.request("GET", path)
        return connection.getresponse().status


def resolve(host: str, way: Way, timeout_s: float) -> list[str]:
    """The addresses of a host, of the family of the way's own address. Raises _NoName."""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    # A fifth of a second and some megabytes: only for who asks for a name.
    import dns.exception
    import dns.resolver

    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = list(way.dns_servers)
    kind = "AAAA" if ":" in way.address else "A"
    try:
        found = resolver.resolve(f"{host}.", kind, source=way.address, lifetime=timeout_s)
    except dns.exception.DNSException as err:
        answer = f"no answer within {timeout_s:.0f} s" if isinstance(err, dns.exception.Timeout) else str(err)
        raise _NoName(f"the name of {host} from {', '.join(way.dns_servers) or 'no name server'}: {answer}") from err
    return [record.to_text() for record in found]


def _connect(numbers: list[str], port: int, way: Way, timeout_s: float) -> socket.socket:
    """Raises the last address's OSError."""
    for number in numbers[:-1]:
        with contextlib.suppress(OSError):
            return socket.create_connection((number, port), timeout_s, (way.address, 0))
    return socket.create_connection((numbers[-1], port), timeout_s, (way.address, 0))


def _tunnel(sock: socket.socket, host: str, port: int) -> None:
    """Raises OSError when the proxy refuses."""
    sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    answer = http.client.HTTPResponse(sock, method="CONNECT")
    answer.begin()
    if answer.status != 200:
        raise OSError(f"the proxy answers {answer.status} {answer.reason}")


def _context(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(target.root_certificates) if target.root_certificates else None)
    if target.certificate is not None:
        context.load_cert_chain(*target.certificate)
    return context
