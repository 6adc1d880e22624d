"""Azure blob storage: azure-storage-blob signs, `http` reads.

Datastore   Fqdn      https://ACCOUNT.blob.core.windows.net, blob.core.windows.net (the account's name is put before
                      it), or a custom endpoint; one that is an address gets /ACCOUNT behind it unless it has a path
            Dpath     container, or container/prefix; Name is the rest of the blob's name, taken literally
            ApiKey    account; empty: as the endpoint says
            Password  account key, or a shared access signature (`sv=...&sig=...`); empty: anonymous

A Name that is a URL (NameIsURL) is the blob's own, with or without signature.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from pillar.transports.base import Limits, Route, Source, TransportFailed, shown
from pillar.transports.signed import SignedTransport, climbing

DOMAIN = "blob.core.windows.net"
SIGNATURE = datetime.timedelta(hours=12)  # a new connection gets a new one
CLOCK_SKEW = datetime.timedelta(minutes=15)
UNESCAPED = "/~-._"


class Place(NamedTuple):
    """Where a blob stands: the account's URL, then container and blob; `query` is a signature that came with a URL."""

    account_url: str
    account: str
    container: str
    blob: str
    query: str = ""

    @property
    def url(self) -> str:
        return f"{self.account_url}/{quote(self.container)}/{quote(self.blob, safe=UNESCAPED)}"


class AzureTransport(SignedTransport):
    """One blob over one route."""

    def __init__(self, source: Source, route: Route, limits: Limits) -> None:
        place = place_of(source)
        signature = _signature(place, source.password)
        url = f"{place.url}?{signature}" if signature else place.url
        super().__init__(dataclasses.replace(source, url=url, api_key="", password=""), route, limits)


def place_of(source: Source) -> Place:
    """Raises TransportFailed when account, container or blob is missing."""
    if "://" in source.name or not source.name:
        place = _place_in_url(source.name or source.url, source.api_key)
    else:
        account_url, account = _account(source.fqdn, source.api_key)
        container, _, prefix = source.dpath.strip("/").partition("/")
        blob = "/".join(part for part in (prefix.strip("/"), source.name.lstrip("/")) if part)
        place = Place(account_url, account, container, blob)
    if not place.container or not place.blob:
        raise TransportFailed(
            f"{shown(source.url) or source.name!r}: needs a container (the datastore's Dpath, it has "
            f"{place.container!r}) and a blob (the image's Name, it has {place.blob!r})"
        )
    problem = climbing(place.blob)
    if problem:
        raise TransportFailed(f"{place.account_url}, container {place.container!r}: {problem}")
    return place


def _place_in_url(url: str, account: str) -> Place:
    parts = urlsplit(url)
    path = unquote(parts.path).lstrip("/")
    account_url = f"{parts.scheme}://{parts.netloc}"
    if _is_address(parts.hostname or ""):
        name, _, path = path.partition("/")
        account_url, account = f"{account_url}/{name}", account or name
    container, _, blob = path.partition("/")
    return Place(account_url, account or (parts.hostname or "").partition(".")[0], container, blob, parts.query)


def _account(fqdn: str, account: str) -> tuple[str, str]:
    """The account's URL and name."""
    fqdn = fqdn.rstrip("/") or DOMAIN
    parts = urlsplit(fqdn if "://" in fqdn else f"https://{fqdn}")
    host = parts.hostname or ""
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if host == DOMAIN or host.startswith("blob."):
        if not account:
            raise TransportFailed(f"{url}: the datastore has no ApiKey, which names the storage account")
        return f"{parts.scheme}://{account}.{parts.netloc}{parts.path}", account
    if _is_address(host):
        named = parts.path.strip("/")
        if not named and not account:
            raise TransportFailed(f"{url}: the datastore has no ApiKey, which names the storage account")
        return (url if named else f"{url}/{account}"), account or named
    return url, account or host.partition(".")[0]


def _signature(place: Place, password: str) -> str:
    """The query that lets us read the blob; empty when there is no key."""
    if place.query or not password:
        return place.query
    if "sig=" in password:
        return password.lstrip("?")
    from azure.storage.blob import BlobSasPermissions, generate_blob_sas

    now = datetime.datetime.now(datetime.UTC)
    try:
        signature: str = generate_blob_sas(
            place.account,
            place.container,
            place.blob,
            account_key=password,
            permission=BlobSasPermissions(read=True),
            start=now - CLOCK_SKEW,
            expiry=now + SIGNATURE,
        )
    except ValueError as err:  # azure's own, binascii's: the key is not base64; the text does not repeat it
        raise TransportFailed(f"{place.url}: the datastore's Password is neither an account key nor a SAS") from err
    return signature


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


TRANSPORTS = {"DsAzureBlob": AzureTransport}
