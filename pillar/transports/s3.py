"""S3 and what speaks like it: boto3 signs, `http` reads.

Datastore   Fqdn      the endpoint (https unless it says http://); empty: Amazon's for the region
            Dpath     bucket, or bucket/prefix; Name is the rest of the key, taken literally
            ApiKey    access key; empty: anonymous
            Password  secret key
            Region

A custom endpoint is addressed path style (endpoint/bucket/key). A Name that is a URL (NameIsURL) is
s3://bucket/key or endpoint/bucket/key. Multipart objects are recognised by their ETag like any other; it is opaque.
"""

from __future__ import annotations

import dataclasses
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pillar.transports.base import Identity, Limits, Route, Source, TransportFailed, shown
from pillar.transports.http import redirected
from pillar.transports.signed import SignedTransport, climbing

if TYPE_CHECKING:
    import requests

DEFAULT_REGION = "us-west-2"  # what EVE's zedagent fills in
SIGNATURE_S = 12 * 3600  # a new connection gets a new signature
AMAZON = ".amazonaws.com"
_making_clients = threading.Lock()  # boto3's default session may not be used by two threads at once


class Place(NamedTuple):
    """Where an object stands."""

    endpoint: str  # empty: Amazon's
    bucket: str
    key: str


class S3Transport(SignedTransport):
    """One object of a bucket over one route."""

    def __init__(self, source: Source, route: Route, limits: Limits) -> None:
        self._place = place_of(source)
        self._source = source
        super().__init__(_plain(source, self._sign("get_object")), route, limits)

    def stat(self) -> Identity:
        reading, self._url = self._url, self._sign("head_object")
        try:
            return super().stat()
        finally:
            self._url = reading

    def _sign(self, method: str) -> str:
        from botocore.exceptions import BotoCoreError

        source, place = self._source, self._place
        try:
            with _making_clients:
                client = _client(place.endpoint, source.region or DEFAULT_REGION, source.api_key, source.password)
            url: str = client.generate_presigned_url(
                method, Params={"Bucket": place.bucket, "Key": place.key}, ExpiresIn=SIGNATURE_S
            )
        except (BotoCoreError, ValueError) as err:
            where = f"{place.endpoint or 'S3'}, bucket {place.bucket!r}, key {place.key!r}"
            raise TransportFailed(f"{where}: {' '.join(str(err).split())}") from err
        return url

    def _redirected(self, url: str, response: requests.Response) -> str:
        region = response.headers.get("x-amz-bucket-region", "")
        if region:
            raise TransportFailed(
                f"{shown(url)}: bucket {self._place.bucket!r} is in region {region}, "
                f"the datastore says {self._source.region or DEFAULT_REGION}"
            )
        return redirected(url, response)


def place_of(source: Source) -> Place:
    """Endpoint, bucket and key. Raises TransportFailed when there is no bucket or no key."""
    whole = source.name or source.url
    if "://" in whole:
        parts = urlsplit(whole)
        path = unquote(parts.path).lstrip("/")
        if parts.scheme == "s3":
            place = Place(_endpoint(source.fqdn), parts.netloc, path)
        else:
            bucket, _, key = path.partition("/")
            place = Place(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", bucket, key)
    else:
        bucket, _, prefix = source.dpath.strip("/").partition("/")
        key = "/".join(part for part in (prefix.strip("/"), source.name.lstrip("/")) if part)
        place = Place(_endpoint(source.fqdn), bucket, key)
    if not place.bucket or not place.key:
        raise TransportFailed(
            f"{shown(source.url) or source.name!r}: needs a bucket (the datastore's Dpath, it has {place.bucket!r}) "
            f"and a key (the image's Name, it has {place.key!r})"
        )
    problem = climbing(place.key)
    if problem:
        raise TransportFailed(f"{place.endpoint or 'S3'}, bucket {place.bucket!r}: {problem}")
    return place


def _endpoint(fqdn: str) -> str:
    if not fqdn:
        return ""
    return fqdn.rstrip("/") if "://" in fqdn else f"https://{fqdn.rstrip('/')}"


def _plain(source: Source, url: str) -> Source:
    """The signed URL as an HTTP source: the keys have done their work and go no further."""
    return dataclasses.replace(source, url=url, api_key="", password="")


@lru_cache(maxsize=8)
def _client(endpoint: str, region: str, key: str, secret: str) -> Any:
    """A client to sign with; it never connects. Costly to make (about 0.2 s), safe to share between threads."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    custom = endpoint if AMAZON not in endpoint else None
    config = Config(
        signature_version="s3v4" if key else UNSIGNED, s3={"addressing_style": "path" if custom else "virtual"}
    )
    session = boto3.session.Session(
        aws_access_key_id=key or None, aws_secret_access_key=secret or None, region_name=region
    )
    return session.client("s3", endpoint_url=custom, config=config)


TRANSPORTS = {"DsS3": S3Transport}
