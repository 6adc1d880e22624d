"""HTTP and HTTPS: one GET, continued with Range and If-Range.

An object is recognised by its strong ETag, else by a Last-Modified that is old enough to be trusted (RFC 9110,
8.8.2.2). Redirects are followed, never from https to anything else, and credentials never leave their host. A
server's certificate is checked against the system's roots and the device's own root certificate; a server that asks
for one is shown the device's certificate.

Object stores whose requests are signed are read the same way, see `signed`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from pillar.transports.base import (
    Identity,
    Limits,
    ObjectChanged,
    Route,
    Source,
    Stream,
    Transport,
    TransportFailed,
    shown,
)
from pillar.transports.proxies import proxy_for

if TYPE_CHECKING:
    import requests

# What a kill costs is what stands in the kernel's receive buffer and in our hands: at most 1 MiB, of one stream or of
# four together. The kernel keeps up to twice of what SO_RCVBUF asks for.
READ_BYTES, RECEIVE_BYTES = 256 * 1024, 360 * 1024
SPAN_READ_BYTES, SPAN_RECEIVE_BYTES = 64 * 1024, 88 * 1024
MAX_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
COMPRESSED_BY_NATURE = (".gz", ".tgz", ".svgz", ".bz2", ".xz", ".zst", ".br", ".z")


class HttpTransport(Transport):
    """One object over one route."""

    ranges: ClassVar[bool] = True
    condition: ClassVar[str] = "If-Range"  # the header that makes a range hold for one object only

    def __init__(self, source: Source, route: Route, limits: Limits) -> None:
        import requests  # on use: who never downloads never pays for it

        self._requests = requests
        self._route = route
        self._limits = limits
        self._url, self._auth = _without_login(source)
        self._receive_bytes = RECEIVE_BYTES
        self._made: requests.Session | None = None
        self._response: requests.Response | None = None
        self._aborted = False

    def stat(self) -> Identity:
        response = self._ask("HEAD", {})
        if response.status_code != 200:
            raise TransportFailed(self._refusal(response))
        return _identity(response.headers)

    def read(self, start: int = 0, known: Identity | None = None) -> Stream:
        headers = {}
        if start and known is not None and known.validator:
            headers = {"Range": f"bytes={start}-", self.condition: known.validator}
        response = self._ask("GET", headers)
        status = response.status_code
        if status == 200:
            _refuse_encoding(response)
            identity = _identity(response.headers)
            return Stream(identity, 0, self._chunks(response, identity.size))
        if status == 206 and not headers:
            part = response.headers.get("Content-Range", "")
            raise TransportFailed(f"{shown(response.url)}: sends a part ({part!r}) although all of it was asked for")
        if status == 206:
            _refuse_encoding(response)
            first, last, total = _content_range(response)
            if first != start:
                raise ObjectChanged(
                    f"{shown(response.url)}: asked for the bytes from {start} on, got those from {first} on"
                )
            identity = Identity(total, _validator(response.headers))
            return Stream(identity, first, self._chunks(response, last - first + 1))
        if status == 416 and headers and known is not None:
            total = _unsatisfied_length(response)
            if total == start and known.size in (None, total):
                return Stream(Identity(total, known.validator), start, iter(()))
        if status in (412, 416) and headers:
            # It is shorter now, or another one: read it as what it is now.
            response.close()
            return self.read(0, None)
        raise TransportFailed(self._refusal(response))

    def span(self, start: int, end: int, known: Identity | None = None) -> Stream:
        self._receive_bytes = SPAN_RECEIVE_BYTES
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if known is not None and known.validator:
            headers[self.condition] = known.validator
        response = self._ask("GET", headers)
        status = response.status_code
        if status == 206:
            _refuse_encoding(response)
            first, last, total = _content_range(response)
            if first != start:
                raise ObjectChanged(f"{shown(response.url)}: asked for the bytes from {start} on, got {first} on")
            identity = Identity(total, _validator(response.headers))
            end = min(last + 1, end)
            return Stream(identity, first, self._chunks(response, end - first, SPAN_READ_BYTES), end)
        if status == 200 and known is None:
            _refuse_encoding(response)
            identity = _identity(response.headers)
            return Stream(identity, 0, self._chunks(response, identity.size))
        if status == 416 and known is None:
            return self.read(0, None)  # an empty object has no first byte to ask for
        if status in (200, 412, 416):
            raise ObjectChanged(f"{shown(response.url)}: {status} to a range of the object that was {known}")
        raise TransportFailed(self._refusal(response))

    def abort(self) -> None:
        self._aborted = True
        response = self._response
        if response is not None:
            # Already closed, given back (RuntimeError) or closed at this moment (TypeError): nothing is blocked in it.
            with contextlib.suppress(OSError, ValueError, RuntimeError, TypeError):
                response.raw.shutdown()

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._made is not None:
            self._made.close()

    @property
    def _session(self) -> requests.Session:
        """Made with the first request: only that tells how many streams there will be."""
        if self._made is None:
            self._made = _session(self._requests, self._route, self._limits, self._receive_bytes)
        return self._made

    def _ask(self, method: str, headers: dict[str, str]) -> requests.Response:
        """Send the request, follow redirects, return the open answer. Raises TransportFailed."""
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(method, url, headers)
            if self._response is not None:
                self._response.close()
            self._response = response
            if self._aborted:
                raise TransportFailed(f"{shown(url)}: given up")
            if response.status_code not in REDIRECTS:
                return response
            url = self._redirected(url, response)
        raise TransportFailed(f"{shown(self._url)}: more than {MAX_REDIRECTS} redirects, the last to {shown(url)}")

    def _send(self, method: str, url: str, headers: dict[str, str]) -> requests.Response:
        same_host = _origin(url) == _origin(self._url)
        try:
            return self._session.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "pillar", **headers},
                auth=self._auth if same_host else None,
                stream=True,
                allow_redirects=False,
                proxies=self._proxies(url),
                timeout=(self._limits.connect_s, self._limits.stall_s),
            )
        except (self._requests.RequestException, OSError, ValueError) as err:
            raise TransportFailed(f"{shown(url)}: {_reason(err)}") from err

    def _redirected(self, url: str, response: requests.Response) -> str:
        """Where the answer sends us. Raises TransportFailed if we do not go there."""
        return redirected(url, response)

    def _refusal(self, response: requests.Response) -> str:
        """What the server said instead of the object, for a person."""
        return refusal(response)

    def _proxies(self, url: str) -> dict[str, str]:
        proxy = proxy_for(self._route, url)
        return {"http": proxy, "https": proxy} if proxy else {}

    def _chunks(self, response: requests.Response, length: int | None, block: int = READ_BYTES) -> Iterator[bytes]:
        """The body as it arrives; ends after `length` bytes, raises if it breaks off. Bytes are never decoded."""
        left = length
        while left is None or left > 0:
            try:
                chunk = response.raw.read1(block, decode_content=False)
            except Exception as err:
                # urllib3, http.client, ssl and socket errors have no common base; all mean: this connection is over.
                reason = "given up" if self._aborted else _reason(err)
                raise TransportFailed(f"{shown(response.url)}: {reason}") from err
            if self._aborted:
                raise TransportFailed(f"{shown(response.url)}: given up")
            if not chunk:
                if left:
                    raise TransportFailed(
                        f"{shown(response.url)}: the connection was closed {left} bytes before the end"
                    )
                return
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            yield chunk


TRANSPORTS = {"DsHttp": HttpTransport, "DsHttps": HttpTransport, "": HttpTransport}


def _session(library: Any, route: Route, limits: Limits, receive_bytes: int) -> requests.Session:
    """A session that binds to the route's address and trusts the system's roots and the device's own."""
    from urllib3.connection import HTTPConnection

    class Adapter(library.adapters.HTTPAdapter):  # type: ignore[misc]
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs, **arguments)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            return super().proxy_manager_for(proxy, **kwargs, **arguments)

        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
            conn.cert_reqs = "CERT_REQUIRED"  # by the context alone, not by the bundle that requests brings along

    small = (socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    arguments: dict[str, Any] = {
        "ssl_context": _tls(limits, _stamps(limits)),
        "socket_options": [*HTTPConnection.default_socket_options, small],
    }
    if route.address:
        arguments["source_address"] = (route.address, 0)
    session = cast("requests.Session", library.Session())
    session.trust_env = False  # proxies and logins come from the device's configuration, not from ~/.netrc
    adapter = Adapter()
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


def _stamps(limits: Limits) -> tuple[int, ...]:
    """Changes when one of the files does."""
    paths = (limits.root_certificate, limits.client_certificate, limits.client_key)
    return tuple(path.stat().st_mtime_ns if path is not None and path.exists() else 0 for path in paths)


@lru_cache(maxsize=4)
def _tls(limits: Limits, stamps: tuple[int, ...]) -> ssl.SSLContext:
    """Reading the system's roots takes 20 ms, so a context is made once for the same files."""
    context = ssl.create_default_context()
    # A body without length ends when the connection does. TLS tells an end from a cut; by default Python does not.
    context.wrap_socket = partial(context.wrap_socket, suppress_ragged_eofs=False)  # type: ignore[method-assign]
    if limits.root_certificate is not None and limits.root_certificate.exists():
        try:
            context.load_verify_locations(cafile=limits.root_certificate)
        except (OSError, ssl.SSLError) as err:
            raise TransportFailed(f"{limits.root_certificate}: not a PEM certificate: {err}") from err
    certificate, key = limits.client_certificate, limits.client_key
    if certificate is not None and key is not None and certificate.exists() and key.exists():
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as err:
            raise TransportFailed(f"{certificate}: not the PEM certificate of {key}: {err}") from err
    return context


def _without_login(source: Source) -> tuple[str, tuple[str, str] | None]:
    """The URL without user and password, and these; those of the datastore are used when the URL has none."""
    try:
        parts = urlsplit(source.url)
        _ = parts.port
    except ValueError as err:
        raise TransportFailed(f"{shown(source.url)}: not a URL: {err}") from err
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TransportFailed(f"{shown(source.url)}: not an http or https URL")
    login, at, host = parts.netloc.rpartition("@")
    if at:
        user, _, password = login.partition(":")
        return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))
    auth = (source.api_key, source.password) if source.api_key else None
    return source.url, auth


def redirected(url: str, response: requests.Response) -> str:
    """Where the answer sends us. Raises TransportFailed if we do not go there."""
    location = response.headers.get("Location", "")
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        _ = parts.port
    except ValueError as err:
        raise TransportFailed(f"{shown(url)}: redirected to {location!r}, which is not a URL") from err
    if not location or parts.scheme not in ("http", "https") or not parts.hostname:
        raise TransportFailed(f"{shown(url)}: redirected to {shown(location)!r}, which is not an http or https URL")
    if urlsplit(url).scheme == "https" and parts.scheme != "https":
        raise TransportFailed(f"{shown(url)}: redirected from https to {shown(target)}, refused")
    return target


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _identity(headers: Mapping[str, str]) -> Identity:
    length = headers.get("Content-Length", "")
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    return Identity(int(length) if length.isdecimal() and not chunked else None, _validator(headers))


def _validator(headers: Mapping[str, str]) -> str:
    """What may stand in If-Range: a strong ETag, else a Last-Modified at least a second older than the answer."""
    etag = headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    try:
        modified = parsedate_to_datetime(headers["Last-Modified"])
        sent = parsedate_to_datetime(headers["Date"])
        return headers["Last-Modified"] if (sent - modified).total_seconds() >= 1 else ""
    except (KeyError, ValueError, TypeError):
        return ""


def _content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """first, last and total of a 206. Raises ObjectChanged (start over) when there is no usable one."""
    text = response.headers.get("Content-Range", "")
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    numbers = first.isdecimal() and last.isdecimal() and (total.isdecimal() or total == "*")
    if unit.lower() == "bytes" and numbers and int(last) >= int(first):
        return int(first), int(last), int(total) if total != "*" else None
    raise ObjectChanged(f"{shown(response.url)}: 206 with an unusable Content-Range {text!r}")


def _unsatisfied_length(response: requests.Response) -> int | None:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None


def _refuse_encoding(response: requests.Response) -> None:
    """Refuse a body that was compressed on the way; a file that is compressed itself is taken as it is."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity") or urlsplit(response.url).path.lower().endswith(COMPRESSED_BY_NATURE):
        return
    raise TransportFailed(
        f"{shown(response.url)}: the server encodes the object as {encoding} although identity was asked"
    )


def refusal(response: requests.Response) -> str:
    """Address, status and, if the server says it, when to come back."""
    retry = response.headers.get("Retry-After", "")
    later = f", asks to come back in {retry}" if retry else ""
    return f"{shown(response.url)}: {response.status_code} {response.reason or ''}".rstrip() + later


def _reason(err: BaseException) -> str:
    """The innermost cause, which is the one a person can act on, in one line."""
    seen: set[int] = set()
    while id(err) not in seen:
        seen.add(id(err))
        inner = getattr(err, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in err.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        err = inner
    missing = getattr(err, "expected", None)  # urllib3's and http.client's IncompleteRead
    if isinstance(missing, int):
        return f"the connection was closed {missing} bytes before the end"
    if hasattr(err, "partial"):  # without a number: a chunk's length that is none, or none at all
        return "the answer broke off before its end"
    text = " ".join(str(err).split())
    text = text.rpartition(": ")[2] if text.startswith("HTTP") else text
    text = re.sub(r"^\[Errno -?\d+\] ", "", text)
    return text or type(err).__name__
