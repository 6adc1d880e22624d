"""The downloader as a real process with each kind of datastore, and with an object that comes in several streams."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agentproc import AgentProcess, Table
from cloud_servers import REGION, Azurite, Moto, s3_client
from servers import Nginx, eventually

pytest_plugins = ("server_fixtures",)

MIB = 1024 * 1024
CONTENT = random.Random(11).randbytes(34 * MIB + 7)  # from 32 MiB on the downloader takes several streams
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f"image.{SHA}"
STORE = "bc51aa4c-897f-4394-9f3a-760fe1affc4e"


class Device:
    """A root with a downloader and the tables around it."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.stores = Table(root, "zedagent", "DatastoreConfig")
        self.configs = Table(root, "zedmanager", "DownloaderConfig", "appImg.obj")
        self.statuses = Table(root, "downloader", "DownloaderStatus", "appImg.obj")
        self.space = Table(root, "downloader", "GlobalDownloadStatus")
        self.directory = root / "persist" / "downloads" / "appImg.obj" / "pending" / SHA
        self.agent = AgentProcess(root, "downloader")

    def want(self, **store: str) -> None:
        self.stores.write(STORE, UUID=STORE, **store)
        record = {"DatastoreID": STORE, "Safename": NAME, "Name": "disks/image", "Size": len(CONTENT)}
        self.configs.write(NAME, **record, ImageSha256=SHA, RefCount=1)

    def arrived(self) -> bool:
        self.statuses.wait(NAME, State=3, LastErr="", Size=len(CONTENT))
        (image,) = self.directory.iterdir()  # and nothing beside it
        return image.name == NAME and hashlib.sha256(image.read_bytes()).hexdigest() == SHA


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "root")
    yield device
    device.agent.kill()


def test_from_s3_and_no_secret_is_left_anywhere(device: Device, tmp_path: Path):
    server = Moto(tmp_path)
    try:
        s3_client(server).create_bucket(Bucket="images")
        s3_client(server).put_object(Bucket="images", Key="disks/image", Body=CONTENT)
        login = {"ApiKey": "tell-nobody", "Password": "this-secret", "Region": REGION}
        device.want(DsType="DsS3", Fqdn=server.endpoint, Dpath="nowhere", **login)
        device.agent.start()
        status = eventually(lambda: _failed(device), "an error in the status")
        assert "NoSuchBucket" in status
        device.want(DsType="DsS3", Fqdn=server.endpoint, Dpath="images", **login)
        assert device.arrived()
        said = device.agent.log_text + (device.statuses.directory / f"{NAME}.json").read_text()
        assert not any(secret in said for secret in ("tell-nobody", "this-secret", "Signature"))
    finally:
        server.close()


def test_from_azure(device: Device, tmp_path: Path):
    from azure.storage.blob import BlobServiceClient

    server = Azurite(tmp_path)
    try:
        container = BlobServiceClient(server.endpoint, credential=server.key).create_container("images")
        container.upload_blob("disks/image", CONTENT)
        device.want(
            DsType="DsAzureBlob", Fqdn=server.endpoint, Dpath="images", ApiKey=server.account, Password=server.key
        )
        device.agent.start()
        assert device.arrived()
        assert server.key not in device.agent.log_text
    finally:
        server.close()


def test_from_a_directory(device: Device, tmp_path: Path):
    (tmp_path / "store" / "disks").mkdir(parents=True)
    (tmp_path / "store" / "disks" / "image").write_bytes(CONTENT)
    device.want(DsType="DsFile", Fqdn=str(tmp_path / "store"))
    device.agent.start()
    assert device.arrived()


def test_killed_in_the_middle_of_several_streams_it_goes_on(device: Device, nginx: Callable[..., Nginx]):
    server = nginx(extra="limit_rate 4m;")
    (server.root / "disks").mkdir()
    (server.root / "disks" / "image").write_bytes(CONTENT)
    device.want(DsType="DsHttp", Fqdn=server.url(""))
    device.agent.start()
    spans = device.directory / f"{NAME}.part.spans"
    eventually(lambda: spans.exists() and sum(_counts(spans)) > 4 * MIB, "streams have brought something")
    device.agent.kill()
    had = sum(_counts(spans))
    assert sum(count > 0 for count in _counts(spans)) == 4
    device.agent.start()
    assert device.arrived()
    eventually(lambda: sum(_sent(server)) >= len(CONTENT), "nginx has written its log")
    assert sum(_sent(server)) - len(CONTENT) < had  # what was in hand and in buffers, not all of it again
    device.space.wait("global", ReservedSpace=0, UsedSpace=len(CONTENT) // 1024 + 1)


def _sent(server: Nginx) -> list[int]:
    return [int(line.split()[3]) for line in server.access_log.read_text().splitlines()]


def _counts(spans: Path) -> list[int]:
    data = spans.read_bytes()
    return [count for (count,) in struct.iter_unpack("<I", data)]


def _failed(device: Device) -> str:
    status = device.statuses.read(NAME)
    return str(status["LastErr"]) if status else ""
