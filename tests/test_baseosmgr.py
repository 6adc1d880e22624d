"""baseosmgr: certificates of signed images, decided purely and as a real process beside a real downloader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import AgentProcess, Table
from servers import Authority, FaultServer, eventually

from pillar.cmd.baseosmgr.decide import Facts, file_of, file_owners, key_of, owner_status, references
from pillar.cmd.baseosmgr.install import NotACertificate, install
from pillar.types.baseos import CertObjConfig, CertObjStatus
from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.scalars import ZERO_TIME
from pillar.types.zedmanager import StorageConfig, StorageStatus

pytest_plugins = ("server_fixtures",)

NOW = "2026-01-01T00:00:00Z"
ONE, TWO = (StorageConfig(Name=f"http://h/{name}.pem", NameIsURL=True) for name in ("one", "two"))
CONFIG = CertObjConfig(StorageConfigList=(ONE, TWO))
PEM = Authority("certificate").pem

# ---- decisions


def status_of(config: CertObjConfig = CONFIG, old: CertObjStatus | None = None, **facts: Any) -> CertObjStatus:
    return owner_status(config, old, Facts(**{"now": NOW, "downloads": {}, **facts}))


def test_an_owner_is_as_far_as_the_least_of_its_certificates():
    done = DownloaderStatus(State=SwState.DOWNLOADED, Progress=100)
    assert status_of().State == SwState.DOWNLOAD_STARTED
    got = status_of(downloads={key_of(ONE): done}, installed=frozenset({key_of(ONE)}))
    assert got.State == SwState.DOWNLOAD_STARTED
    assert [image.State for image in got.StorageStatusList or ()] == [SwState.INSTALLED, SwState.DOWNLOAD_STARTED]
    assert status_of(installed=frozenset({key_of(ONE), key_of(TWO)})).State == SwState.INSTALLED


def test_an_owner_without_certificates_is_content():
    assert status_of(CertObjConfig()).State == SwState.INSTALLED
    assert status_of(CertObjConfig()).StorageStatusList is None


def test_a_download_error_is_the_owners_error_until_it_ends():
    failed = DownloaderStatus(State=SwState.INITIAL, LastErr="404")
    got = status_of(downloads={key_of(ONE): failed})
    assert (got.Error, got.ErrorTime, got.State) == ("downloader: 404", NOW, SwState.INITIAL)
    assert (got.StorageStatusList or ())[0].ErrorSource == "DownloaderStatus"
    later = status_of(old=got, downloads={key_of(ONE): failed}, now="2027-01-01T00:00:00Z")
    assert later.ErrorTime == NOW
    assert (status_of(old=got).Error, status_of(old=got).ErrorTime) == ("", ZERO_TIME)


def test_a_retry_in_flight_is_no_error():
    assert status_of(downloads={key_of(ONE): DownloaderStatus(LastErr="404", PendingAdd=True)}).Error == ""


def test_what_was_refused_is_an_error():
    got = status_of(refused={key_of(TWO): "http://h/two.pem is not a PEM certificate"})
    assert got.Error == "http://h/two.pem is not a PEM certificate"


def test_references_are_owners_not_mentions():
    counted = references([CONFIG, CertObjConfig(StorageConfigList=(ONE, ONE)), CertObjConfig()])
    assert {key: count for key, (count, _) in counted.items()} == {key_of(ONE): 2, key_of(TWO): 1}


def test_one_file_name_belongs_to_one_certificate_and_the_installed_one_keeps_it():
    other = StorageConfig(Name="http://a/one.pem", NameIsURL=True)
    configs = [CONFIG, CertObjConfig(StorageConfigList=(other,))]
    assert file_owners(configs, []) == {"one.pem": key_of(other), "two.pem": key_of(TWO)}
    standing = CertObjStatus(StorageStatusList=(StorageStatus(Name=ONE.Name, State=SwState.INSTALLED),))
    owners = file_owners(configs, [standing])
    assert owners["one.pem"] == key_of(ONE)
    assert "already belongs to" in status_of(configs[1], owners=owners).Error
    assert status_of(CONFIG, owners=owners).Error == ""


@pytest.mark.parametrize(("url", "name"), [("http://h/a.pem", "a.pem"), ("a.pem", "a.pem"), ("http://h/", "")])
def test_the_file_name_is_the_last_part_of_the_url(url: str, name: str):
    assert file_of(StorageConfig(Name=url)) == name


def test_a_url_without_a_file_name_is_an_error():
    assert "names no file" in status_of(CertObjConfig(StorageConfigList=(StorageConfig(Name="http://h/.."),))).Error


def test_installing_writes_once_and_only_certificates(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "certs" / "a.pem"
    source.write_bytes(PEM)
    assert install(source, target) and not install(source, target)
    assert target.read_bytes() == PEM
    source.write_bytes(b"<html>please log in</html>")
    with pytest.raises(NotACertificate, match="it begins with b'<html>"):
        install(source, target)
    source.write_bytes(PEM + bytes(2 * 1024 * 1024))
    with pytest.raises(NotACertificate, match="larger"):
        install(source, target)
    assert target.read_bytes() == PEM
    assert [path.name for path in target.parent.iterdir()] == ["a.pem"]


# ---- as a process

OWNER, OTHER = "1e0eb302-bf60-47c1-bceb-79fa924d9547", "2e0eb302-bf60-47c1-bceb-79fa924d9547"


class Device:
    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.configs = Table(root, "zedagent", "CertObjConfig")
        self.statuses = Table(root, "baseosmgr", "CertObjStatus")
        self.orders = Table(root, "baseosmgr", "DownloaderConfig", "cert.obj")
        self.downloads = Table(root, "downloader", "DownloaderStatus", "cert.obj")
        self.certs = root / "persist" / "certs"
        self.agents = [AgentProcess(root, name) for name in ("baseosmgr", "downloader")]
        self.configs.directory.mkdir(parents=True)

    def start(self) -> None:
        for agent in self.agents:
            agent.start()

    def want(self, owner: str, *urls: str) -> None:
        images = [{"Name": url, "NameIsURL": True, "Size": 102400} for url in urls]
        self.configs.write(owner, UUIDandVersion={"UUID": owner, "Version": "1"}, StorageConfigList=images)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "root")
    yield device
    for agent in device.agents:
        agent.kill()


def safename(url: str) -> str:
    return url.replace("/", " ") + ".sha"


def test_certificates_are_fetched_installed_and_taken_away_again(device: Device, fault_server: FaultServer):
    urls = [fault_server.put(f"/c/{name}.pem", PEM) for name in ("signer", "chain")]
    device.start()
    device.want(OWNER, *urls)
    status = device.statuses.wait(OWNER, State=5, Error="")
    assert [image["State"] for image in status["StorageStatusList"]] == [5, 5]
    assert sorted(path.name for path in device.certs.iterdir()) == ["chain.pem", "signer.pem"]
    assert (device.certs / "signer.pem").read_bytes() == PEM
    device.want(OTHER, urls[0])
    device.orders.wait(safename(urls[0]), RefCount=2)
    device.statuses.wait(OTHER, State=5)
    device.configs.remove(OWNER)
    device.statuses.wait_gone(OWNER)
    eventually(lambda: [path.name for path in device.certs.iterdir()] == ["signer.pem"], "only what is needed is left")
    device.orders.wait(safename(urls[1]), RefCount=0)  # the downloader keeps it for a while
    device.configs.remove(OTHER)
    eventually(lambda: not list(device.certs.iterdir()))
    assert len(fault_server.requests("/c/signer.pem")) == 1


def test_a_missing_certificate_is_an_error_that_ends_when_it_is_there(device: Device, fault_server: FaultServer):
    device.start()
    device.want(OWNER, fault_server.url("/late.pem"))
    status = device.statuses.wait(OWNER, Error=lambda text: "404" in text)
    assert status["Error"].startswith("downloader: http://")
    fault_server.put("/late.pem", PEM)
    device.statuses.wait(OWNER, State=5, Error="", ErrorTime=ZERO_TIME)


def test_what_is_no_certificate_is_not_installed_and_is_fetched_again(device: Device, fault_server: FaultServer):
    url = fault_server.put("/portal.pem", b"<html>please log in</html>")
    device.start()
    device.want(OWNER, url)
    device.statuses.wait(OWNER, Error=lambda text: "is not a PEM certificate" in text)
    assert not list(device.certs.iterdir())
    fault_server.put("/portal.pem", PEM)
    device.statuses.wait(OWNER, State=5, Error="")
    assert (device.certs / "portal.pem").read_bytes() == PEM


def test_a_kill_at_any_moment_is_made_good_by_a_start(device: Device, fault_server: FaultServer):
    url = fault_server.put("/c.pem", PEM)
    device.start()
    device.want(OWNER, url)
    device.statuses.wait(OWNER, State=5)
    for agent in device.agents:
        agent.kill()
    (device.certs / "c.pem").unlink()
    device.start()
    eventually(lambda: (device.certs / "c.pem").exists(), "the file is put back")
    device.statuses.wait(OWNER, State=5, Error="")
    device.agents[0].kill()
    device.configs.remove(OWNER)
    device.agents[0].start()
    device.statuses.wait_gone(OWNER)
    assert not list(device.certs.iterdir())
    assert len(fault_server.requests("/c.pem")) == 1


def test_a_restart_does_not_take_an_installed_certificate_back(device: Device, fault_server: FaultServer):
    url = fault_server.put("/c.pem", PEM)
    device.start()
    device.want(OWNER, url)
    device.statuses.wait(OWNER, State=5)
    for agent in device.agents:
        agent.kill()
    before = (device.statuses.directory / f"{OWNER}.json").stat().st_mtime_ns
    device.agents[0].start()  # alone: the downloader does not run
    device.want(OTHER, fault_server.url("/other.pem"))
    device.statuses.wait(OTHER, State=2)
    assert (device.statuses.directory / f"{OWNER}.json").stat().st_mtime_ns == before
