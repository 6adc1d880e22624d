"""S3 and Azure under the resume contract, against radosgw, moto and Azurite; and local directories."""

from __future__ import annotations

import datetime
import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_servers import REGION, Azurite, Moto, Radosgw, s3_client

from pillar.transports import Limits, Route, Source, TransportFailed, open_transport, partfile
from pillar.transports.fetch import Fetch, Fetched

CONTENT = random.Random(5).randbytes(3 * 1024 * 1024 + 17)
SHA = hashlib.sha256(CONTENT).hexdigest()
LIMITS = Limits(connect_s=30, stall_s=30)
ODD = "odd +%20 names/ümläut & 'quotes' (1)~!@#$,;=?[x]"


def fetch(source: Source, target: Path, **arguments: Any) -> Fetched:
    return Fetch(lambda: open_transport(source, Route(), LIMITS), source, target, **arguments).run()


def break_off(source: Source, target: Path, after: int) -> int:
    """Leave the part file of a download that was given up after at least `after` bytes; returns how many it has."""

    class GivenUp(Exception):
        pass

    def progress(done: int, size: int | None) -> None:
        if done >= after:
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch(source, target, progress=progress)
    return partfile.part_path(target).stat().st_size


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pillar-cloud-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(scope="module", params=[Radosgw, Moto])
def s3(request: pytest.FixtureRequest, directory: Path) -> Iterator[Radosgw | Moto]:
    here = directory / request.param.__name__
    here.mkdir()
    server = request.param(here)
    try:
        s3_client(server).create_bucket(Bucket="images")
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def azurite(directory: Path) -> Iterator[Azurite]:
    from azure.storage.blob import BlobServiceClient

    server = Azurite(directory)
    try:
        client = BlobServiceClient(server.endpoint, credential=server.key)
        client.create_container("images")
        client.create_container("open", public_access="blob")
        yield server
    finally:
        server.close()


def s3_source(server: Radosgw | Moto, name: str, **fields: str) -> Source:
    values = {"dpath": "images", "fqdn": server.endpoint, "api_key": server.key, "password": server.secret}
    return Source("DsS3", f"{server.endpoint}/images/{name}", **{"name": name, "region": REGION, **values, **fields})


# ---- S3


def test_s3_an_object_arrives_whole_and_a_broken_one_is_continued(s3: Radosgw | Moto, tmp_path: Path):
    s3_client(s3).put_object(Bucket="images", Key="disks/a", Body=CONTENT)
    source = s3_source(s3, "disks/a")
    got = fetch(source, tmp_path / "a")
    assert (got.sha256, got.received) == (SHA, len(CONTENT))
    had = break_off(source, tmp_path / "b", 1_000_000)
    got = fetch(source, tmp_path / "b")
    assert (got.sha256, got.resumed, got.received) == (SHA, had, len(CONTENT) - had)


def test_s3_an_object_that_changed_meanwhile_is_never_mixed(s3: Radosgw | Moto, tmp_path: Path):
    s3_client(s3).put_object(Bucket="images", Key="changing", Body=bytes(reversed(CONTENT)))
    source = s3_source(s3, "changing")
    break_off(source, tmp_path / "a", 1_000_000)
    s3_client(s3).put_object(Bucket="images", Key="changing", Body=CONTENT)
    got = fetch(source, tmp_path / "a")
    assert (got.sha256, got.received) == (SHA, len(CONTENT))


def test_s3_a_multipart_object_is_continued_by_its_own_kind_of_etag(s3: Radosgw | Moto, tmp_path: Path):
    client, part = s3_client(s3), 5 * 1024 * 1024
    content = CONTENT * 2
    upload = client.create_multipart_upload(Bucket="images", Key="parts")["UploadId"]
    pieces = [content[:part], content[part:]]
    tags = [
        client.upload_part(Bucket="images", Key="parts", UploadId=upload, PartNumber=number, Body=piece)["ETag"]
        for number, piece in enumerate(pieces, 1)
    ]
    client.complete_multipart_upload(
        Bucket="images",
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]},
    )
    transport = open_transport(s3_source(s3, "parts"), Route(), LIMITS)
    identity = transport.stat()
    transport.close()
    assert identity.size == len(content)
    assert identity.validator.endswith('-2"')
    had = break_off(s3_source(s3, "parts"), tmp_path / "a", part + 100_000)
    got = fetch(s3_source(s3, "parts"), tmp_path / "a")
    assert (got.sha256, got.resumed) == (hashlib.sha256(content).hexdigest(), had)


@pytest.mark.parametrize("name", [ODD, "a//b", "100%", "a+b", "%2e%2e%2fa"])
def test_s3_odd_names_are_keys_like_any_other(s3: Radosgw | Moto, tmp_path: Path, name: str):
    s3_client(s3).put_object(Bucket="images", Key=f"p/{name}", Body=name.encode())
    fetch(s3_source(s3, name, dpath="images/p/"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == name.encode()


def test_s3_a_key_that_climbs_is_an_error_that_says_so(s3: Radosgw | Moto, tmp_path: Path):
    with pytest.raises(TransportFailed, match=r"'\.\.'"):
        fetch(s3_source(s3, "../other/a"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_s3_what_is_missing_is_said_in_the_stores_words(s3: Radosgw | Moto, tmp_path: Path):
    with pytest.raises(TransportFailed, match=r"/images/none: 404 .*NoSuchKey"):
        fetch(s3_source(s3, "none"), tmp_path / "a")
    with pytest.raises(TransportFailed, match=r"404 .*NoSuchBucket"):
        fetch(s3_source(s3, "none", dpath="nowhere"), tmp_path / "a")
    with pytest.raises(TransportFailed, match="needs a bucket"):
        fetch(s3_source(s3, "none", dpath=""), tmp_path / "a")
    with pytest.raises(TransportFailed, match="Invalid bucket name"):
        fetch(s3_source(s3, "none", dpath="no good"), tmp_path / "a")


def test_s3_a_url_names_bucket_and_key(s3: Radosgw | Moto, tmp_path: Path):
    s3_client(s3).put_object(Bucket="images", Key="disks/a b", Body=b"x")
    for number, name in enumerate(("s3://images/disks/a%20b", f"{s3.endpoint}/images/disks/a%20b")):
        fetch(s3_source(s3, name, dpath=""), tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == b"x"


def test_s3_keys_are_checked_by_the_real_thing_and_never_shown(s3: Radosgw | Moto, tmp_path: Path):
    if isinstance(s3, Moto):
        pytest.skip("moto takes any key")
    client = s3_client(s3)
    client.put_object(Bucket="images", Key="secret", Body=b"x")
    client.put_object(Bucket="images", Key="public", Body=b"y", ACL="public-read")
    wrong = "tell-nobody-this-secret"
    with pytest.raises(TransportFailed, match=r"403 .*SignatureDoesNotMatch") as refused:
        fetch(s3_source(s3, "secret", password=wrong), tmp_path / "a")
    assert wrong not in str(refused.value)
    assert "Signature=" not in str(refused.value)
    with pytest.raises(TransportFailed, match=r"403 .*InvalidAccessKeyId"):
        fetch(s3_source(s3, "secret", api_key="nobody"), tmp_path / "a")
    with pytest.raises(TransportFailed, match=r"403 .*AccessDenied"):
        fetch(s3_source(s3, "secret", api_key="", password=""), tmp_path / "a")
    fetch(s3_source(s3, "public", api_key="", password=""), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"y"


# ---- Azure


def azure_source(server: Azurite, name: str, **fields: str) -> Source:
    values = {"dpath": "images", "fqdn": server.endpoint, "api_key": server.account, "password": server.key}
    return Source("DsAzureBlob", f"{server.endpoint}/images/{name}", **{"name": name, **values, **fields})


def put_blob(server: Azurite, name: str, content: bytes, container: str = "images") -> None:
    from azure.storage.blob import BlobClient

    BlobClient(server.endpoint, container, name, credential=server.key).upload_blob(content, overwrite=True)


def test_azure_a_blob_arrives_whole_and_a_broken_one_is_continued(azurite: Azurite, tmp_path: Path):
    put_blob(azurite, "disks/a", CONTENT)
    source = azure_source(azurite, "disks/a")
    assert fetch(source, tmp_path / "a").sha256 == SHA
    had = break_off(source, tmp_path / "b", 1_000_000)
    got = fetch(source, tmp_path / "b")
    assert (got.sha256, got.resumed, got.received) == (SHA, had, len(CONTENT) - had)


def test_azure_a_blob_that_changed_meanwhile_is_never_mixed(azurite: Azurite, tmp_path: Path):
    put_blob(azurite, "changing", bytes(reversed(CONTENT)))
    break_off(azure_source(azurite, "changing"), tmp_path / "a", 1_000_000)
    put_blob(azurite, "changing", CONTENT)
    assert fetch(azure_source(azurite, "changing"), tmp_path / "a").sha256 == SHA


@pytest.mark.parametrize("name", [ODD, "100%", "a+b", "%2e%2e%2fa"])
def test_azure_odd_names_are_blobs_like_any_other(azurite: Azurite, tmp_path: Path, name: str):
    put_blob(azurite, f"p/{name}", name.encode())
    fetch(azure_source(azurite, name, dpath="images/p"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == name.encode()


def test_azure_signatures_of_all_kinds_and_their_refusals(azurite: Azurite, tmp_path: Path):
    from azure.storage.blob import BlobSasPermissions, generate_blob_sas

    def signature(hours: int, **permission: bool) -> str:
        return generate_blob_sas(
            azurite.account,
            "images",
            "signed",
            account_key=azurite.key,
            permission=BlobSasPermissions(**permission),
            expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours),
        )

    put_blob(azurite, "signed", b"x")
    put_blob(azurite, "free", b"y", "open")
    for number, good in enumerate((signature(1, read=True), "?" + signature(1, read=True))):
        fetch(azure_source(azurite, "signed", password=good), tmp_path / str(number))
    url = f"{azurite.endpoint}/images/signed?{signature(1, read=True)}"
    fetch(azure_source(azurite, url, password=""), tmp_path / "url")
    fetch(azure_source(azurite, "free", dpath="open", password=""), tmp_path / "free")
    for bad in (signature(-1, read=True), signature(1, delete=True), "", "YWJj"):
        with pytest.raises(TransportFailed, match=r"(403|404|409) ") as refused:
            fetch(azure_source(azurite, "signed", password=bad), tmp_path / "bad")
        assert "sig=" not in str(refused.value)
    with pytest.raises(TransportFailed, match="neither an account key nor a SAS") as refused:
        fetch(azure_source(azurite, "signed", password="not base64!"), tmp_path / "bad")
    assert "not base64!" not in str(refused.value)


def test_azure_what_is_missing_is_said_in_the_stores_words(azurite: Azurite, tmp_path: Path):
    with pytest.raises(TransportFailed, match=r"404 .*BlobNotFound"):
        fetch(azure_source(azurite, "none"), tmp_path / "a")
    with pytest.raises(TransportFailed, match=r"404 .*ContainerNotFound"):
        fetch(azure_source(azurite, "none", dpath="nowhere"), tmp_path / "a")
    with pytest.raises(TransportFailed, match=r"'\.\.' between its slashes"):
        fetch(azure_source(azurite, "../other/a"), tmp_path / "a")
    with pytest.raises(TransportFailed, match="needs a container"):
        fetch(azure_source(azurite, "none", dpath=""), tmp_path / "a")


@pytest.mark.parametrize(
    ("fqdn", "account", "url"),
    [
        ("", "me", "https://me.blob.core.windows.net/c/b"),
        ("blob.core.windows.net", "me", "https://me.blob.core.windows.net/c/b"),
        ("https://me.blob.core.windows.net/", "", "https://me.blob.core.windows.net/c/b"),
        ("http://127.0.0.1:10000", "me", "http://127.0.0.1:10000/me/c/b"),
        ("http://127.0.0.1:10000/me", "", "http://127.0.0.1:10000/me/c/b"),
    ],
)
def test_azure_endpoints_in_every_spelling(fqdn: str, account: str, url: str):
    from pillar.transports.azure import place_of

    assert place_of(Source("DsAzureBlob", "", dpath="c", name="b", fqdn=fqdn, api_key=account)).url == url


# ---- local directories


def file_source(directory: Path, name: str, **fields: str) -> Source:
    return Source(
        **{"ds_type": "DsFile", "url": f"file://{directory}/{name}", "name": name, "fqdn": str(directory), **fields}
    )


def test_a_local_directory_is_a_datastore(tmp_path: Path):
    store = tmp_path / "store"
    (store / "d").mkdir(parents=True)
    (store / "d" / ODD.replace("/", "_")).write_bytes(CONTENT)
    source = file_source(store, ODD.replace("/", "_"), dpath="d")
    assert fetch(source, tmp_path / "a").sha256 == SHA
    had = break_off(source, tmp_path / "b", 1_000_000)
    assert fetch(source, tmp_path / "b").resumed == had
    (store / "plain").write_bytes(b"x")
    fetch(Source("DsHttp", f"file://{store}/plain", name="plain", fqdn=f"file://{store}"), tmp_path / "c")
    fetch(Source("", (store / "plain").as_uri()), tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == b"x"


def test_a_file_written_to_meanwhile_is_read_anew(tmp_path: Path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "a").write_bytes(bytes(reversed(CONTENT)))
    break_off(file_source(store, "a"), tmp_path / "a", 1_000_000)
    (store / "a").write_bytes(CONTENT)
    got = fetch(file_source(store, "a"), tmp_path / "a")
    assert (got.sha256, got.received) == (SHA, len(CONTENT))


def test_nothing_outside_the_directory_and_no_special_file_is_read(tmp_path: Path):
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (store / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(store / "fifo")
    for name in ("../secret", "link", "d/../../secret"):
        with pytest.raises(TransportFailed, match="leads out of the datastore's directory"):
            fetch(file_source(store, name), tmp_path / "a")
    for name, why in (("fifo", "not a regular file"), ("none", "No such file"), ("", "not a regular file")):
        with pytest.raises(TransportFailed, match=why):
            fetch(file_source(store, name), tmp_path / "a")


# ---- several streams


def test_large_objects_come_in_several_streams_from_every_store(s3: Radosgw | Moto, azurite: Azurite, tmp_path: Path):
    big = CONTENT * 7
    sha = hashlib.sha256(big).hexdigest()
    s3_client(s3).put_object(Bucket="images", Key="big", Body=big)
    put_blob(azurite, "big", big)
    (tmp_path / "big").write_bytes(big)
    for number, source in enumerate((s3_source(s3, "big"), azure_source(azurite, "big"), file_source(tmp_path, "big"))):
        target = tmp_path / str(number)
        assert fetch(source, target, streams=4) == Fetched(len(big), sha, len(big), 0)
