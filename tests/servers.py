"""Real servers for the tests, and one of our own that misbehaves on request. Everything listens on 127.0.0.1.

    FaultServer           an HTTP server that cuts, stalls, lies and counts every byte it sent
    Nginx                 the real thing; skips when it is not installed, fails when CI=true
    Authority             certificates: a root, intermediates, leaves, as wrong as a test needs them
    FreePort              where nobody listens, until a server that cannot be given a socket does
    eventually            wait for a condition, with a deadline

The fixtures are in `server_fixtures`; test modules get them with `pytest_plugins = ("server_fixtures",)`.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str = "", deadline_s: float = 20.0) -> T:
    """The first true value of `condition`, looked at every few milliseconds; fails the test after the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        late = time.monotonic() > until  # before the look: whoever stood still all the time looks once more
        value = condition()
        if value:
            return value
        if late:
            pytest.fail(f"not within {deadline_s:.0f} s: {what or condition}")
        time.sleep(0.005)  # the pause between two looks, not a guess how long something takes


def needs(program: str, package: str) -> str:
    """The path of an installed server program; skips the test without it, fails when CI=true."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        reason = f"{program} is not installed (Debian package {package})"
        not_here(reason)
    return path


def not_here(reason: str) -> NoReturn:
    """What a test needs is not to be had: skips it, fails it when CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class FreePort:
    """A port of 127.0.0.1 where nobody listens, kept until `close`: who asks the kernel for any port gets another one.

    A server that is told the number can listen there, as all of them set SO_REUSEADDR and this socket never listens.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


# ---- a server that misbehaves


@dataclass
class Fault:
    """What one request gets instead of a good answer. Byte numbers count from the start of this answer's body."""

    status: int = 0  # answer with this status and a short text
    headers: dict[str, str] = field(default_factory=dict)  # added to, or replacing, the good ones; "" removes one
    cut_after: int | None = None  # close the connection after so many bytes
    hold_after: int | None = None  # send so many bytes, then nothing until `release` is called
    ignore_range: bool = False
    content_range: str = ""  # a 206 with this Content-Range, whatever was asked
    chunked: bool = False  # no length, chunked encoding
    no_length: bool = False  # no length, ended by closing
    endless: bool = False  # the body never ends
    drip_s: float = 0.0  # one byte, then so many seconds nothing, and so on
    times: int = 1  # for how many requests
    unless: str = ""  # a request with this Authorization gets what comes next


@dataclass
class Seen:
    """One request as the server saw it, and how many bytes of body it handed to the kernel."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    peer: str = ""

    @property
    def range_start(self) -> int:
        """The first byte asked for, 0 without Range."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])

    @property
    def range_end(self) -> int | None:
        """Before which byte the range ends, None without one."""
        last = self.headers.get("range", "").partition("-")[2]
        return int(last) + 1 if last else None


@dataclass
class Object:
    content: bytes
    etag: str = ""
    last_modified: str = ""


class FaultServer:
    """HTTP/1.1 on loopback with objects, faults in the order they shall happen, and a record of every request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.objects: dict[str, Object] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.seen: list[Seen] = []
        self.holding = threading.Event()
        self._release = threading.Event()
        self._choosing = threading.Lock()
        owner = self

        class Handler(_FaultHandler):
            server_of_tests = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "https" if tls else "http"
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def put(self, path: str, content: bytes, etag: str = "", last_modified: str = "") -> str:
        """Serve `content` under `path`; its ETag is made of its hash unless one is given ("-" for none)."""
        if etag == "":
            etag = f'"{hash(content) & 0xFFFFFFFF:08x}"'
        self.objects[path] = Object(content, "" if etag == "-" else etag, last_modified)
        return self.url(path)

    def fault(self, path: str, *faults: Fault) -> None:
        self.faults.setdefault(path, []).extend(faults)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def release(self) -> None:
        """Let every held answer go on."""
        self.holding.clear()
        self._release.set()

    def hold_again(self) -> None:
        self._release.clear()

    def requests(self, path: str, method: str = "GET") -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.path.partition("?")[0] == path and seen.method == method]

    def sent(self, path: str) -> int:
        """Body bytes handed out for `path`, all requests together."""
        return sum(seen.sent for seen in self.requests(path))

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


class _FaultHandler(BaseHTTPRequestHandler):
    server_of_tests: FaultServer
    protocol_version = "HTTP/1.1"
    PIECE = 16 * 1024

    def log_message(self, format: str, *args: Any) -> None:
        """The record of requests is `seen`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        owner = self.server_of_tests
        path = self.path.partition("?")[0]
        seen = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        seen.peer = self.client_address[0]
        owner.seen.append(seen)
        fault = self._next_fault(path)
        thing = owner.objects.get(path)
        if fault.status or thing is None:
            self._short(seen, fault.status or 404, fault)
            return
        start, status = self._start_of(thing, fault, seen)
        if status == 416:
            self._short(seen, 416, Fault(headers={"Content-Range": f"bytes */{len(thing.content)}"}))
            return
        self._send_object(thing, fault, seen, start, status)

    def _next_fault(self, path: str) -> Fault:
        login = self.headers.get("Authorization", "")
        with self.server_of_tests._choosing:
            faults = self.server_of_tests.faults.get(path, [])
            mine = [fault for fault in faults if not fault.unless or fault.unless != login]
            if not mine or self.command == "HEAD":
                return Fault()
            fault = mine[0]
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
            return fault

    def _start_of(self, thing: Object, fault: Fault, seen: Seen) -> tuple[int, int]:
        if "range" not in seen.headers or fault.ignore_range:
            return 0, 200
        condition = seen.headers.get("if-range", "")
        if condition and condition not in (thing.etag, thing.last_modified):
            return 0, 200
        if seen.range_start >= len(thing.content):
            return 0, 416
        return seen.range_start, 206

    def _short(self, seen: Seen, status: int, fault: Fault) -> None:
        body = f"{status}\n".encode()
        seen.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_object(self, thing: Object, fault: Fault, seen: Seen, start: int, status: int) -> None:
        end = min(seen.range_end or len(thing.content), len(thing.content)) if status == 206 else len(thing.content)
        body = memoryview(thing.content)[start:end]
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/octet-stream"}
        if thing.etag:
            headers["ETag"] = thing.etag
        if thing.last_modified:
            headers["Last-Modified"] = thing.last_modified
        if status == 206 or fault.content_range:
            status = 206
            headers["Content-Range"] = fault.content_range or f"bytes {start}-{end - 1}/{len(thing.content)}"
        if fault.chunked:
            headers["Content-Length"], headers["Transfer-Encoding"] = "", "chunked"
        if fault.no_length or fault.endless:
            headers["Content-Length"], headers["Connection"] = "", "close"
            self.close_connection = True
        headers.update(fault.headers)
        seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self._send_body(body, fault, seen)
        except OSError:
            self.close_connection = True  # the client went away: often just what the test is about

    def _send_body(self, body: memoryview, fault: Fault, seen: Seen) -> None:
        at = 0
        stops = sorted(stop for stop in (fault.cut_after, fault.hold_after) if stop is not None)
        while at < len(body) or fault.endless:
            if fault.hold_after == at:
                self.server_of_tests.holding.set()
                self.server_of_tests._release.wait()
            if fault.cut_after == at:
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if fault.drip_s and self.server_of_tests._release.wait(fault.drip_s):
                return  # the test is over
            end = min([at + (1 if fault.drip_s else self.PIECE), *(stop for stop in stops if stop > at)])
            piece = body[at:end] if not fault.endless else b"x" * self.PIECE
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)
            at += len(piece)
            seen.sent += len(piece)
        if fault.chunked:
            self.wfile.write(b"0\r\n\r\n")


# ---- nginx


class Nginx:
    """nginx serving `root` on loopback; `extra` goes into the server block, `tls` is (certificate, key)."""

    def __init__(self, directory: Path, extra: str = "", tls: tuple[Path, Path] | None = None) -> None:
        program = needs("nginx", "nginx-light")
        self.root = directory / "www"
        self.root.mkdir(parents=True)
        self.access_log = directory / "access.log"
        self._kept = FreePort()
        self.port = self._kept.number
        self.scheme = "https" if tls else "http"
        secure = f"ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};" if tls else ""
        temporary = "".join(
            f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        config = directory / "nginx.conf"
        config.write_text(
            f"daemon off; {user} worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;"
            "events {} http { default_type application/octet-stream;"
            'log_format sent "$request_method $uri $status $body_bytes_sent";'
            f"access_log {self.access_log} sent; {temporary}"
            f"server {{ listen 127.0.0.1:{self.port} {'ssl' if tls else ''}; {secure} root {self.root}; {extra} }} }}"
        )
        self._process = subprocess.Popen([program, "-c", str(config), "-e", str(directory / "error.log")])
        eventually(self._answers, "nginx answers")

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def _answers(self) -> bool:
        assert self._process.poll() is None, "nginx ended; see its error.log"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._kept.close()


# ---- certificates

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Authority:
    """A certificate with its key that can issue others: a root when made directly, else what `issue` says."""

    def __init__(
        self,
        name: str = "test root",
        *,
        issuer: Authority | None = None,
        ca: bool = True,
        key: Key | None = None,
        days: tuple[int, int] = (-1, 30),
        hosts: tuple[str, ...] = (),
        path_length: int | None = None,
    ) -> None:
        self.key: Key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer or self
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
            .add_extension(_key_usage(ca), critical=True)
        )
        if hosts:
            names = [x509.DNSName(host) if not host[0].isdigit() else _address(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    def issue(self, name: str, **arguments: Any) -> Authority:
        return Authority(name, issuer=self, **arguments)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Certificate and key as PEM files."""
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key

    def tls(self, directory: Path) -> ssl.SSLContext:
        """A server's context with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.write(directory, "server"))
        return context


def _address(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
