"""One GET from one local address, with that port's own name servers and proxy.

Blocks: for a thread. Nothing of the machine is used: neither its resolver nor its proxies nor, if there are others, its
root certificates.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Target:
    """Whom to ask, and by which certificates to know each other."""

    url: str
    root_certificates: Path | None = None  # PEM; None: the system's
    certificate: tuple[Path, Path] | None = None  # ours, and its key
    system_roots: bool = False  # these too, when there are others


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


class NoName(Exception):
    """The name servers do not know the host, or do not answer."""


@contextlib.contextmanager
def get(target: Target, way: Way, timeout_s: float) -> Iterator[http.client.HTTPResponse]:
    """The answer, whose body the caller may read; all of it together ends after `timeout_s`, however slow it drips, and
    so does asking for the host's name.

    Raises NoName, OSError (TimeoutError when the time was over), HTTPException, and ValueError for a URL or a proxy
    that is none.
    """
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
        sock = connection.sock = _connect(numbers, (to.port or 3128) if to else port, way, left)
        with _cut_after(sock, max(1.0, deadline - time.monotonic())):
            if to and secure:
                _tunnel(sock, host, port)
            elif to:
                path = target.url
            if secure:
                connection.sock = _context(target).wrap_socket(sock, server_hostname=host)
            connection.request("GET", path)
            with connection.getresponse() as answer:
                yield answer


@contextlib.contextmanager
def _cut_after(sock: socket.socket, seconds: float) -> Iterator[None]:
    """A socket's own timeout begins anew with each byte: this one does not. Raises TimeoutError when it was needed."""
    over = threading.Event()
    # A descriptor of its own, so that it is never another socket's that is cut; TLS takes the first one away.
    with socket.socket(fileno=os.dup(sock.fileno())) as same:

        def cut() -> None:
            over.set()
            with contextlib.suppress(OSError):  # the other side was faster
                same.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException) as err:
            if over.is_set() or isinstance(err, TimeoutError):
                raise TimeoutError(f"no whole answer within {seconds:.0f} s") from err
            raise
        finally:
            timer.cancel()
            timer.join()
        if over.is_set():  # a body without a length just ends
            raise TimeoutError(f"no whole answer within {seconds:.0f} s")


def resolve(host: str, way: Way, timeout_s: float) -> list[str]:
    """The addresses of a host, of the family of the way's own address. Raises NoName."""
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
        raise NoName(f"the name of {host} from {', '.join(way.dns_servers) or 'no name server'}: {answer}") from err
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
    if target.system_roots:
        context.load_default_certs()
    if target.certificate is not None:
        context.load_cert_chain(*target.certificate)
    return context
