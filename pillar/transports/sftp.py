"""SFTP: one file over one SSH connection, continued with a seek.

Where the server is, and which one it is, stands in the datastore's Fqdn, as in the SFTP URI draft
(draft-ietf-secsh-scp-sftp-ssh-uri): `sftp://;fingerprint=SHA256:...@host:port`. The fingerprint is what
`ssh-keygen -lf` prints of the server's host key (`/` may be written `_`); several are joined by commas while a server
changes its key. A server with no pinned key, or with another one, gets no login: the error shows its key and how to
pin it.

ApiKey is the user. Password is the password, or a private key if it holds one in PEM or OpenSSH form.

A path begins at the root when Dpath does, else in the user's home directory (in a URL: `/~/`). A file is recognised
by its size and its modification time in seconds: SFTP has nothing better, so a file that changed within a second is
found by its sha256 only. One connection with requests ahead is as fast as several, so ranges are not offered.
Proxies are not used, as in EVE.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pillar.transports.base import Identity, Limits, Route, Source, Stream, Transport, TransportFailed
from pillar.transports.sftpfile import Attributes, SftpFile

if TYPE_CHECKING:
    import paramiko

# One family of host keys per connection, the usual one first: which key a server shows depends on what is asked for.
KEY_FAMILIES = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<user>[^/@;:]*);fingerprint=(?P<pins>[^@]*)@|(?P<login>[^/@]*)@)?"
    r"(?P<host>\[[^]/]+\]|[^/:@]+)(?::(?P<port>\d+))?(?P<path>/.*)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Address:
    """Where a file is, and whose keys are accepted there."""

    host: str
    port: int
    user: str
    path: str
    pins: tuple[str, ...]  # SHA256:..., as ssh-keygen prints them

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sftp://{host}" + ("" if self.port == 22 else f":{self.port}")


class SftpTransport(Transport):
    """One file over one route."""

    def __init__(self, source: Source, route: Route, limits: Limits) -> None:
        self._address = parse(source)
        self._password = source.password
        self._route = route
        self._limits = limits
        self._ssh: paramiko.Transport | None = None
        self._socket: socket.socket | None = None
        self._aborted = False

    def stat(self) -> Identity:
        with self._explained():
            return self._identity(self._open())[0]

    def read(self, start: int = 0, known: Identity | None = None) -> Stream:
        with self._explained():
            file = self._open()
            identity, attributes = self._identity(file)
            if known is not None and identity != known:
                start = 0  # another file by now: read it as what it is
            return Stream(identity, start, self._chunks(file, start, attributes.size))

    def abort(self) -> None:
        self._aborted = True
        self._hang_up()

    def close(self) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        """Cut the connection; who is blocked in it fails."""
        ssh, connection = self._ssh, self._socket
        if connection is not None:
            with contextlib.suppress(OSError):  # it is gone already
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if ssh is not None:
            ssh.close()

    def _chunks(self, file: SftpFile, start: int, end: int | None) -> Iterator[bytes]:
        with self._explained():
            yield from file.read(start, end)

    def _identity(self, file: SftpFile) -> tuple[Identity, Attributes]:
        attributes = file.attributes()
        if not attributes.regular:
            raise TransportFailed(f"{self._address.path}: not a file")
        dated = attributes.size is not None and attributes.mtime is not None
        validator = f"{attributes.size} bytes of {attributes.mtime}" if dated else ""
        return Identity(attributes.size, validator), attributes

    def _open(self) -> SftpFile:
        ssh = self._ssh or self._connect()
        channel = ssh.open_session(timeout=self._limits.connect_s)
        channel.settimeout(self._limits.stall_s)
        return SftpFile(channel, self._address.path)

    def _connect(self) -> paramiko.Transport:
        """A connection to the pinned server, logged in. Nothing secret is said before the server is known."""
        if not self._address.user:
            raise TransportFailed("no user is given: it stands in the datastore's ApiKey")
        keys = []
        for family in KEY_FAMILIES:
            ssh = self._shake_hands(family)
            if ssh is None:
                continue  # the server has no key of this family
            key = ssh.get_remote_server_key()
            if key.fingerprint in self._address.pins:
                self._log_in(ssh)
                return ssh
            keys.append(f"{key.get_name()} {key.fingerprint}")
            self._hang_up()
            if not self._address.pins:
                break
        raise TransportFailed(self._stranger(keys))

    def _shake_hands(self, family: tuple[str, ...]) -> paramiko.Transport | None:
        """A new connection on which the server proved that it holds a key of this family; None: it has none."""
        import paramiko

        if self._aborted:
            raise TransportFailed("given up")
        source = (self._route.address, 0) if self._route.address else None
        self._socket = socket.create_connection(
            (self._address.host, self._address.port), self._limits.connect_s, source_address=source
        )
        self._ssh = ssh = paramiko.Transport(self._socket)
        ssh.banner_timeout = ssh.auth_timeout = ssh.handshake_timeout = self._limits.connect_s
        ssh.get_security_options().key_types = family
        try:
            ssh.start_client(timeout=self._limits.connect_s)
        except paramiko.ssh_exception.IncompatiblePeer as err:
            self._hang_up()
            if "host key" not in str(err):
                raise
            return None
        return ssh

    def _stranger(self, keys: list[str]) -> str:
        """Why the server gets no login, and what to do about it."""
        shown = ", ".join(keys) or "none of a usable kind"
        pin = keys[0].split()[1] if keys else "SHA256:..."
        place = str(self._address).removeprefix("sftp://")
        how = f"sftp://;fingerprint={pin}@{place}"
        if not self._address.pins:
            return (
                f"the datastore pins no host key and the server's is {shown}; if `ssh-keygen -lf` on the server says "
                f"the same, set the datastore's Fqdn to {how}"
            )
        return (
            f"the server's host key is {shown}, the datastore pins {', '.join(self._address.pins)}; somebody may stand "
            f"between; if the server's key was changed on purpose, set the datastore's Fqdn to {how}"
        )

    def _log_in(self, ssh: paramiko.Transport) -> None:
        import paramiko

        user = self._address.user
        key = private_key(self._password)
        try:
            if key is not None:
                ssh.auth_publickey(user, key)
            else:
                ssh.auth_password(user, self._password)
        except paramiko.BadAuthenticationType as err:
            allowed = ", ".join(err.allowed_types)
            tried = "a private key" if key is not None else "a password"
            raise TransportFailed(f"user {user} may not log in with {tried} (the server takes {allowed})") from err
        except paramiko.AuthenticationException as err:
            what = "private key" if key is not None else "password"
            raise TransportFailed(f"login of user {user} refused: the datastore's {what} is not accepted") from err

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Every error names the server."""
        import paramiko

        try:
            yield
        except TransportFailed as err:
            raise type(err)(f"{self._address}: {err}") from err
        except (paramiko.SSHException, OSError, EOFError) as err:
            if self._aborted:
                raise TransportFailed(f"{self._address}: given up") from err
            raise TransportFailed(f"{self._address}: {_reason(err)}") from err


TRANSPORTS = {"DsSFTP": SftpTransport}


def parse(source: Source) -> Address:
    """The file's address. Raises TransportFailed when there is none in it."""
    match = _URL.fullmatch(source.url)
    if match is None or (match["scheme"] or "sftp").lower() != "sftp":
        raise TransportFailed("the datastore's Fqdn is not sftp://;fingerprint=SHA256:...@host:port")
    user, colon, _ = (match["login"] or "").partition(":")
    if colon:
        raise TransportFailed("a password stands in the datastore's Password, not in its Fqdn")
    if source.name and "://" not in source.name:
        path = "/".join(part for part in (source.dpath.rstrip("/"), source.name.lstrip("/")) if part)
        path = f"/{path}" if source.dpath == "/" else path
    else:
        path = unquote(match["path"] or "/").replace("/~/", "", 1)
    return Address(
        host=match["host"].strip("[]"),
        port=int(match["port"] or 22),
        user=source.api_key or unquote(match["user"] or user),
        path=path,
        pins=tuple(_pin(pin) for pin in (match["pins"] or "").split(",") if pin),
    )


def _pin(text: str) -> str:
    """A fingerprint as ssh-keygen prints it."""
    pin = unquote(text).removeprefix("SHA256:").removeprefix("SHA256-").rstrip("=").replace("_", "/").replace("-", "+")
    if not re.fullmatch(r"[A-Za-z0-9+/]{43}", pin):
        raise TransportFailed(f"fingerprint {text!r} is not SHA256: and 43 characters, as ssh-keygen -lf prints it")
    return f"SHA256:{pin}"


def private_key(text: str) -> paramiko.PKey | None:
    """The private key that a datastore's Password holds; None when it is a password. Raises TransportFailed."""
    if "PRIVATE KEY-----" not in text:
        return None
    import paramiko

    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.PasswordRequiredException as err:
            raise TransportFailed("the private key in the datastore's Password is encrypted; store it plain") from err
        except (paramiko.SSHException, ValueError, IndexError, TypeError):
            continue  # of another kind, or damaged: then no kind reads it
    raise TransportFailed("the private key in the datastore's Password is not a usable Ed25519, ECDSA or RSA key")


def _reason(err: BaseException) -> str:
    if isinstance(err, TimeoutError):
        return "no answer in time"
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return " ".join(str(err).split()) or "the server closed the connection"
