"""Container registries: the OCI distribution API. Documents and blobs by digest, each blob continued with Range.

A datastore's Fqdn is the registry, `docker://registry.example.com` (https) or `http://host:port` (plain, for a
registry on the device's own wire); Dpath and the object's name make `repository[:tag][@sha256:...]`. Docker Hub goes
by `docker.io`, and its official images need no `library/`. Without tag and digest it is `latest`.

ApiKey and Password are sent to a registry that asks for them (Basic), or to its token server (Bearer). A token server
must be the registry's own host, or Docker Hub's for Docker Hub, or the one that the datastore names:
`docker://;realm=auth.example.com@registry.example.com`. A registry that sends us elsewhere gets nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from pillar.ociimage import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT_BYTES
from pillar.transports.base import Identity, Limits, Route, Source, Stream, TransportFailed, shown
from pillar.transports.http import HttpTransport, refusal

if TYPE_CHECKING:
    import requests

DS_TYPE = "DsContainerRegistry"
HUB_NAMES, HUB, HUB_REALM = (
    ("docker.io", "index.docker.io", "registry-1.docker.io"),
    "registry-1.docker.io",
    "auth.docker.io",
)
MAX_ANSWER_BYTES = 64 * 1024  # of a token server, or of an error

_PLACE = re.compile(
    r"(?:(?P<scheme>[A-Za-z]+)://)?(?:;realm=(?P<realm>[^/@]*)@)?(?P<host>\[[^]/@]+\](?::\d+)?|[^/@:]+(?::\d+)?)/(?P<path>.+)"
)
_REPOSITORY = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
_NAME = re.compile(
    rf"(?P<repository>{_REPOSITORY})(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@sha256:(?P<sha256>[0-9a-f]{{64}}))?"
)
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Reference:
    """An image in a registry: by digest when `sha256` is given, else by tag."""

    scheme: str
    host: str  # with port
    repository: str
    tag: str = "latest"
    sha256: str = ""
    realm: str = ""  # host of the token server that the datastore allows

    @property
    def version(self) -> str:
        return f"sha256:{self.sha256}" if self.sha256 else self.tag

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f"@{self.version}" if self.sha256 else f":{self.tag}")

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}/v2/{self.repository}/{path}"


@dataclass
class Login:
    """What a registry is told about us, learnt once and used for every request of an image. Shows no secret."""

    user: str
    password: str = field(repr=False)
    header: str = field(default="", repr=False)  # Authorization


class RegistryTransport(HttpTransport):
    """One document or blob of a registry. Its validator is its digest: what that names cannot change."""

    def __init__(self, reference: Reference, path: str, login: Login, route: Route, limits: Limits) -> None:
        super().__init__(Source("DsHttps", reference.url(path)), route, limits)
        self._reference = reference
        self._login = login
        self._used = self._fresh = ""  # Authorization: of the last request, and of the token fetched here
        self._is_document = path.startswith("manifests/")
        digest = path.partition("/")[2]
        self._digest = digest if digest.startswith("sha256:") else ""

    def stat(self) -> Identity:
        return self._named(super().stat())

    def read(self, start: int = 0, known: Identity | None = None) -> Stream:
        stream = super().read(start, known)
        return replace(stream, identity=self._named(stream.identity))

    def span(self, start: int, end: int, known: Identity | None = None) -> Stream:
        stream = super().span(start, end, known)
        return replace(stream, identity=self._named(stream.identity))

    def document(self) -> tuple[str, bytes]:
        """Media type and bytes, which have the digest they were asked by, or that the registry tells."""
        response = self._ask("GET", {})
        if response.status_code != 200:
            raise TransportFailed(self._refusal(response))
        length = response.headers.get("Content-Length", "")
        data = bytearray()
        for chunk in self._chunks(response, int(length) if length.isdecimal() else None):
            data += chunk
            if len(data) > MAX_DOCUMENT_BYTES:
                raise TransportFailed(f"{self._reference}: its manifest has more than {MAX_DOCUMENT_BYTES} bytes")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        told = response.headers.get("Docker-Content-Digest", "")
        for wanted, who in ((self._digest, "asked for"), (told if told.startswith("sha256:") else "", "announced")):
            if wanted and wanted != digest:
                raise TransportFailed(
                    f"{self._reference}: the registry sent a manifest that hashes to {digest}, {who} was {wanted}"
                )
        return response.headers.get("Content-Type", "").partition(";")[0].strip(), bytes(data)

    def _named(self, identity: Identity) -> Identity:
        return Identity(identity.size, self._digest) if self._digest else identity

    def _ask(self, method: str, headers: dict[str, str]) -> requests.Response:
        headers = {name: value for name, value in headers.items() if name != self.condition}
        if self._is_document:
            headers["Accept"] = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
        response = self._authorized(method, headers)
        if response.status_code == 401 and self._learn(response, self._used):
            response = self._authorized(method, headers)
        return response

    def _authorized(self, method: str, headers: dict[str, str]) -> requests.Response:
        self._used = header = self._login.header

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = header
            return request

        self._auth = authorize if header else None  # type: ignore[assignment]
        return super()._ask(method, headers)

    def _learn(self, response: requests.Response, used: str) -> bool:
        """How the registry wants to be asked; False: it was asked that way. Raises TransportFailed."""
        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        login = self._login
        if kind.lower() == "basic":
            if not login.user:
                raise TransportFailed(
                    f"{self._reference}: 401, the registry wants a login: the datastore's ApiKey (user) and Password"
                )
            login.header = _basic(login)
            if used == login.header:
                raise TransportFailed(f"{self._reference}: 401, the registry refuses the login of user {login.user}")
            return True
        if kind.lower() == "bearer":
            if used.startswith("Bearer ") and used == login.header and used == self._fresh:
                return False  # the token is new, and not enough
            self._fresh = login.header = f"Bearer {self._token(dict(_PARAMETER.findall(rest)))}"
            return True
        return False

    def _token(self, challenge: dict[str, str]) -> str:
        """A token for pulling from this repository, from the realm if that is one we trust with the login."""
        realm = challenge.get("realm", "")
        self._check_realm(realm)
        scope = f"repository:{self._reference.repository}:pull"  # ours: a registry does not choose what we ask for
        query = f"service={quote(challenge.get('service', ''), safe='')}&scope={quote(scope, safe=':/')}"
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        headers = {"Authorization": _basic(self._login)} if self._login.user else {}
        self._auth = None
        try:
            response = self._session.request(
                "GET", url, headers={"User-Agent": "pillar", **headers}, stream=True, allow_redirects=False,
                proxies=self._proxies(url), timeout=(self._limits.connect_s, self._limits.stall_s),
            )  # fmt: skip
            body = response.raw.read(MAX_ANSWER_BYTES, decode_content=True)
        except Exception as err:
            # requests, urllib3, ssl and sockets have no common base; all mean that there is no token this time.
            raise TransportFailed(f"{self._reference}: no token from {shown(realm)}: {err}") from err
        if response.status_code in (401, 403):
            who = f"the login of user {self._login.user}" if self._login.user else "us without a login"
            raise TransportFailed(f"{self._reference}: {response.status_code}, {shown(realm)} refuses {who}")
        if response.status_code != 200:
            raise TransportFailed(f"{self._reference}: no token from {shown(realm)}: {response.status_code}")
        with contextlib.suppress(ValueError, AttributeError):  # not JSON, or not an object
            answer = json.loads(body)
            token = answer.get("token") or answer.get("access_token")
            if isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token):
                return token
        raise TransportFailed(f"{self._reference}: {shown(realm)} answers without a usable token")

    def _check_realm(self, realm: str) -> None:
        reference = self._reference
        parts = urlsplit(realm)
        allowed = [reference.host, reference.realm, HUB_REALM if reference.host == HUB else ""]
        secure = parts.scheme == "https" or (parts.scheme == "http" and reference.scheme == "http")
        if not secure or "@" in parts.netloc or parts.netloc.lower() not in [host.lower() for host in allowed if host]:
            raise TransportFailed(
                f"{reference}: the registry sends us to {shown(realm) or 'nowhere'} for a token, which is not its own "
                f"host, so no login is sent there; if that is right, set the datastore's Fqdn to "
                f"docker://;realm={parts.netloc.rpartition('@')[2]}@{reference.host}"
            )

    def _refusal(self, response: requests.Response) -> str:
        words = _explanation(response)
        if response.status_code == 404 and self._is_document:
            words = f"no such repository or tag{'; ' if words else ''}{words}"
        if response.status_code in (401, 403):
            who = f" for user {self._login.user}" if self._login.user else " without a login"
            words = f"not allowed{who}{'; ' if words else ''}{words}"
        return f"{self._reference}: {refusal(response)}{': ' if words else ''}{words}"


def open_document(source: Source, route: Route, limits: Limits) -> RegistryTransport:
    """The root document of an image, as an object like any other."""
    reference = parse(source.url)
    login = Login(source.api_key, source.password)
    return RegistryTransport(reference, f"manifests/{reference.version}", login, route, limits)


TRANSPORTS = {DS_TYPE: open_document}


def parse(url: str) -> Reference:
    """The image that a URL of a registry names. Raises TransportFailed."""
    place = _PLACE.fullmatch(url)
    if place is None:
        raise TransportFailed(f"{shown(url)}: no registry and image, as docker://registry/repository:tag")
    scheme = (place["scheme"] or "docker").lower()
    if scheme not in ("docker", "oci", "https", "http"):
        raise TransportFailed(f"{shown(url)}: {scheme} is no way to a registry; docker (https) and http are")
    name = _NAME.fullmatch(unquote(place["path"]))
    if name is None:
        raise TransportFailed(
            f"{shown(url)}: {unquote(place['path'])!r} is no image name (repository:tag or repository@sha256:..., "
            "the repository in lower case)"
        )
    host, repository = place["host"], name["repository"]
    if host.lower() in HUB_NAMES:
        host = HUB
        repository = repository if "/" in repository else f"library/{repository}"
    return Reference(
        scheme="http" if scheme == "http" else "https",
        host=host,
        repository=repository,
        tag=name["tag"] or "latest",
        sha256=name["sha256"] or "",
        realm=place["realm"] or "",
    )


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def _explanation(response: requests.Response) -> str:
    """`code: message` of a registry's error; empty when it gives none."""
    from urllib3.exceptions import HTTPError

    try:
        body = response.raw.read(MAX_ANSWER_BYTES, decode_content=True)
        errors: Any = json.loads(body)["errors"]
        words = [str(part) for part in (errors[0].get("code"), errors[0].get("message")) if part]
    except (HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""  # whatever a server sends that is not such an error: the status code has to do
    return " ".join(": ".join(words).split())[:300]
