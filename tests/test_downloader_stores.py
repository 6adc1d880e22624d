"""The downloader as a real process with each kind of datastore, and with an object that comes in several streams."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from agentproc import AgentProcess, Table
from cloud_servers import REGION, Azurite, Moto, s3_client
from servers import Fault, FaultServer, eventually

from pillar.transports.fetch import STREAMS
from pillar.transports.pieces import PIECE_BYTES

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
        self.statuses.wait(NAME, State=3, LastErr="", Size=len(CONTENT), deadline_s=60)
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


def test_killed_in_the_middle_of_several_streams_each_goes_on_where_it_stopped(
    device: Device, fault_server: FaultServer
):
    fault_server.put("/disks/image", CONTENT)
    fault_server.fault("/disks/image", *(Fault(hold_after=MIB) for _ in range(STREAMS)))
    device.want(DsType="DsHttp", Fqdn=fault_server.url(""))
    device.agent.start()
    spans = device.directory / f"{NAME}.part.spans"
    eventually(lambda: spans.exists() and _counts(spans) == [MIB] * STREAMS, "every stream has brought what it gets")
    device.agent.kill()
    fault_server.release()
    device.agent.start()
    assert device.arrived()
    starts = sorted(seen.range_start for seen in fault_server.requests("/disks/image")[STREAMS:])
    assert starts == [*(piece * PIECE_BYTES + MIB for piece in range(STREAMS)), STREAMS * PIECE_BYTES]
    device.space.wait("global", ReservedSpace=0, UsedSpace=len(CONTENT) // 1024 + 1)


def _counts(spans: Path) -> list[int]:
    data = spans.read_bytes()
    return [count for (count,) in struct.iter_unpack("<I", data)]


def _failed(device: Device) -> str:
    status = device.statuses.read(NAME)
    return str(status["LastErr"]) if status else ""
