"""The real zedmanager on a root of its own. The test plays the other agents: honestly, through their own tables."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import AgentProcess, Table
from msgspec.structs import replace
from support import wait_for
from zedmanager_world import SHA1, SHA2, A, B, World, app_config, counter, disk_image, overlay

from pillar.below import files_below
from pillar.pubsub import PubSub, decode
from pillar.types.common import UUIDandVersion, VmConfig
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.eid import EIDConfig, EIDStatus
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus

NAME = f"disk.img.{SHA1}"
IMAGES = "appImg.obj"
# What zedmanager publishes, as the model calls it: type and scope.
ASKED: dict[str, tuple[type[Any], str]] = {
    "status": (AppInstanceStatus, ""),
    "download_config": (DownloaderConfig, IMAGES),
    "verify_config": (VerifyImageConfig, IMAGES),
    "eid_config": (EIDConfig, ""),
    "network_config": (AppNetworkConfig, ""),
    "domain_config": (DomainConfig, ""),
}
ANSWERED: dict[str, tuple[str, type[Any], str]] = {
    "config": ("zedagent", AppInstanceConfig, ""),
    "download": ("downloader", DownloaderStatus, IMAGES),
    "verify": ("verifier", VerifyImageStatus, IMAGES),
    "eid": ("identitymanager", EIDStatus, ""),
    "network": ("zedrouter", AppNetworkStatus, ""),
    "domain": ("domainmgr", DomainStatus, ""),
}
ACTORS = {
    "downloader": ("download_config", "download"),
    "verifier": ("verify_config", "verify"),
    "identitymanager": ("eid_config", "eid"),
    "zedrouter": ("network_config", "network"),
    "domainmgr": ("domain_config", "domain"),
}


class Device:
    """A root with a real zedmanager, and everybody else as in the model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zedmanager = AgentProcess(root, "zedmanager")
        self.world = World()
        self.dead: set[str] = set()
        self._pubsubs = {agent: PubSub(root, agent) for agent, _, _ in ANSWERED.values()}
        self._tables = {
            name: self._pubsubs[agent].publication(record, scope=scope)
            for name, (agent, record, scope) in ANSWERED.items()
        }
        self._lock_free_tables = {
            name: root / "run" / "zedmanager" / scope / record.__name__ for name, (record, scope) in ASKED.items()
        }

    def close(self) -> None:
        self.zedmanager.kill()
        for pubsub in self._pubsubs.values():
            pubsub.close()

    def config(self, config: AppInstanceConfig) -> None:
        self._tables["config"].publish(config.key(), config)

    def undeploy(self, app: str = A) -> None:
        self._tables["config"].unpublish(app)

    def look(self) -> dict[str, dict[str, Any]]:
        """What zedmanager has published, read as a stranger would."""
        for name, directory in self._lock_free_tables.items():
            rows = {}
            for path in directory.glob("*.json"):
                try:
                    rows[path.name.removesuffix(".json")] = decode(ASKED[name][0], path.read_bytes())
                except FileNotFoundError:
                    continue
            self.world.tables[name] = rows
        return self.world.tables

    def act(self) -> None:
        """Let everybody who is alive take one step."""
        self.look()
        for actor, tables in ACTORS.items():
            for key in sorted(self.world.keys(*tables)) if actor not in self.dead else ():
                getattr(self.world, actor)(key)
        for sha256 in self.world.images_verified:
            directory = self.root / "persist" / "downloads" / IMAGES / "verified" / sha256
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "disk.img").write_bytes(b"content")
        for name, table in self._tables.items():
            if name == "config":
                continue
            for key in table.keys() - self.world.tables[name].keys():
                table.unpublish(key)
            for key, record in self.world.tables[name].items():
                table.publish(key, record)

    def until(self, condition: Callable[[dict[str, dict[str, Any]]], object], what: str) -> None:
        """Let everybody act until zedmanager's tables are as wanted."""

        def done() -> bool:
            self.act()
            return bool(condition(self.look()))

        wait_for(done, what, 60.0)

    def until_state(self, state: SwState, app: str = A) -> None:
        self.until(lambda t: app in t["status"] and t["status"][app].State == state, f"{app} is {state.name}")

    def until_gone(self) -> None:
        self.until(lambda t: not any(t[name] for name in ASKED), "nothing is left")

    def status(self, app: str = A) -> AppInstanceStatus:
        status: AppInstanceStatus = self.look()["status"][app]
        return status


@pytest.fixture
def device(root: Path) -> Iterator[Device]:
    device = Device(root)
    try:
        yield device
    finally:
        device.close()


def test_from_config_to_running_and_gone(device):
    device.config(app_config(OverlayNetworkList=(overlay(),)))
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    assert device.world.fetches == {NAME: 1}
    assert device.status().Error == ""
    device.undeploy()
    device.until_gone()
    assert not list((device.root / "persist/status/zedmanager/UuidToNum").glob("*.json"))


def test_it_logs_one_line_per_change(device):
    device.config(app_config())
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    wait_for(lambda: "-> running" in device.zedmanager.log_text, "the line that follows the record")
    text = device.zedmanager.log_text
    for step in ("new -> fetching", "verifying -> waiting for network", "booting -> running"):
        assert text.count(f"{A} {step}") <= 1
    assert f"{A} new -> fetching" in text


def test_fed_by_hand_with_files(root):
    """A person plays zedagent and the downloader with an editor."""
    table = Table(root, "zedagent", "AppInstanceConfig")
    app = {
        "UUIDandVersion": {"UUID": A},
        "FixedResources": {"Memory": 1024, "VCpus": 1},
        "StorageConfigList": [{"Name": "disk.img", "ImageSha256": SHA1}],
        "Activate": True,
    }
    table.write(A, **app)
    zedmanager = AgentProcess(root, "zedmanager").start()
    try:
        asked = Table(root, "zedmanager", "DownloaderConfig", IMAGES).wait(NAME)
        assert asked["RefCount"] == 1
        Table(root, "downloader", "DownloaderStatus", IMAGES).write(NAME, Safename=NAME, State=3)
        assert Table(root, "zedmanager", "VerifyImageConfig", IMAGES).wait(NAME)["ImageSha256"] == SHA1
        table.write(A, **(app | {"FixedResources": {}}))
        statuses = Table(root, "zedmanager", "AppInstanceStatus")
        assert "memory" in statuses.wait(A, ErrorSource="AppInstanceConfig")["Error"]
    finally:
        zedmanager.kill()


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_it_gets_there_and_counts_right(device, seed):
    device.world.random.seed(seed)
    device.config(app_config())
    device.config(app_config(B))
    for _ in range(4):
        device.zedmanager.start()
        for _ in range(device.world.random.randrange(6)):
            device.act()
        device.zedmanager.kill()
        device.act()
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    device.until_state(SwState.RUNNING, B)
    device.world.check_references()
    assert device.look()["verify_config"][NAME].RefCount == 2
    assert device.world.fetches == {NAME: 1}
    assert device.world.boots.count(A) == 1
    device.undeploy()
    device.undeploy(B)
    device.until_gone()


def written(root: Path) -> dict[Path, int]:
    """When each record of zedmanager's was written."""
    found = files_below(root / "run/zedmanager")
    return {path: status.st_mtime_ns for path, status in found if path.suffix == ".json"}


def test_restarting_it_writes_nothing_and_raises_no_count(device):
    device.config(app_config())
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    before = written(device.root)
    restarted = device.root / "run/zedmanager/AppInstanceStatus/restarted"
    for _ in range(3):
        counted = restarted.read_text()
        device.zedmanager.kill()
        device.zedmanager.start()
        wait_for(lambda counted=counted: restarted.read_text() != counted, "it says that it is done")
    assert written(device.root) == before


@pytest.mark.parametrize(
    ("change", "boots"),
    [
        ({"RestartCmd": counter(1)}, 2),
        ({"FixedResources": VmConfig(Memory=4096, VCpus=1)}, 2),
        ({"PurgeCmd": counter(1)}, 2),
        ({"StorageConfigList": (disk_image("new.img", SHA2),)}, 2),
        ({"DisplayName": "other"}, 1),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_a_config_changed_while_it_was_dead_is_noticed(device, change, boots):
    device.config(app_config())
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    device.zedmanager.kill()
    config = replace(app_config(), UUIDandVersion=UUIDandVersion(UUID=A, Version="2"), **change)
    device.config(config)
    device.zedmanager.start()
    device.until(
        lambda t: t["status"][A].State == SwState.RUNNING and t["status"][A].UUIDandVersion.Version == "2", "version 2"
    )
    assert device.world.boots.count(A) == boots


def test_an_app_deleted_while_it_was_dead_is_removed(device):
    device.config(app_config())
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    device.zedmanager.kill()
    device.undeploy()
    device.zedmanager.start()
    device.until_gone()


def test_nothing_is_removed_while_zedagent_was_never_heard(root):
    """Only our own tables are left, as after somebody removed /run/zedagent: that is no order to stop the apps."""
    device = Device(root)
    device.config(app_config())
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    device.close()
    os.rename(root / "run/zedagent", root / "run/gone")
    zedmanager = AgentProcess(root, "zedmanager").start()
    try:
        restarted = Table(root, "zedmanager", "AppInstanceStatus").directory / "restarted"
        wait_for(lambda: restarted.exists() and restarted.read_text().strip() == "2", "the first look is over")
        assert Table(root, "zedmanager", "AppInstanceStatus").keys() == [A]
        assert Table(root, "zedmanager", "DomainConfig").wait(A)["Activate"] is True
        Table(root, "zedagent", "AppInstanceConfig").directory.mkdir(parents=True)  # it is heard, and has no app
        Table(root, "zedmanager", "DomainConfig").wait_gone(A)
    finally:
        zedmanager.kill()


def test_wrong_content_is_counted_across_a_kill(device):
    device.world.wrong_content[NAME] = 99
    device.config(app_config())
    device.zedmanager.start()
    device.until(lambda t: A in t["status"] and "attempt 2 of 3" in t["status"][A].Error, "the second attempt")
    device.zedmanager.kill()
    device.zedmanager.start()
    device.until(lambda t: "gave up after attempt 3 of 3" in t["status"][A].Error, "giving up")
    assert device.world.fetches == {NAME: 3}


def test_an_agent_that_is_dead_is_waited_for(device):
    device.dead = {"zedrouter"}
    device.config(app_config())
    device.zedmanager.start()
    device.until_state(SwState.DELIVERED)
    assert not device.look()["domain_config"]
    device.dead = set()
    device.until_state(SwState.RUNNING)


def test_a_certificate_that_came_for_another_app_serves_all_that_wait_for_it(device):
    arrivals = Table(device.root, "baseosmgr", "CertObjStatus")
    arrivals.directory.mkdir(parents=True)
    device.config(app_config(StorageConfigList=(disk_image(SignatureKey="https://host/signer.pem"),)))
    device.zedmanager.start()
    device.until(lambda t: A in t["status"] and "for certificates signer.pem" in t["status"][A].Error, "it waits")
    installed = device.root / "persist" / "certs" / "signer.pem"
    installed.parent.mkdir(parents=True, exist_ok=True)
    installed.write_text("a certificate")
    arrivals.write(B, UUIDandVersion={"UUID": B, "Version": "1"})
    device.until(lambda t: t["verify_config"], "the image goes to the verifier")


def test_certificates_that_cannot_be_looked_at_are_not_taken_for_missing(device):
    certificates = device.root / "persist" / "certs"
    certificates.mkdir(parents=True)
    (certificates / "signer.pem").write_text("a certificate")
    signed = app_config(StorageConfigList=(disk_image(SignatureKey="https://host/signer.pem"),))
    device.dead = {"verifier"}
    device.config(signed)
    device.zedmanager.start()
    device.until(lambda t: t["verify_config"], "the image goes to the verifier")
    certificates.rename(certificates.with_name("away"))
    certificates.write_text("in the way")
    device.config(replace(signed, RestartCmd=counter(1)))
    log = device.root / "persist" / "log" / "zedmanager.log"
    device.until(lambda t: f"{A}: step failed" in log.read_text(), "it says that it cannot look")
    assert device.look()["verify_config"], "the image is not taken away from the verifier"
    certificates.unlink()
    certificates.with_name("away").rename(certificates)
    device.dead = set()
    device.until(lambda t: "bad signature" in t["status"][A].Error, "the verifier has judged it")


def test_an_app_too_large_waits_until_another_one_goes(device):
    space = os.statvfs(device.root)
    device.config(app_config())
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    half = space.f_blocks * space.f_frsize // 2
    device.config(replace(app_config(), StorageConfigList=(disk_image(Maxsizebytes=half),), PurgeCmd=counter(1)))
    device.until(lambda t: t["status"][A].PurgeCmd.Counter == 1 and t["status"][A].State == SwState.RUNNING, "purged")
    device.config(app_config(B, StorageConfigList=(disk_image("other.img", SHA2, Maxsizebytes=half),)))
    device.until(lambda t: B in t["status"] and t["status"][B].ErrorSource == "CheckDiskSize", "no room")
    device.undeploy(A)
    device.until_state(SwState.RUNNING, B)
    assert device.status(B).Error == ""


def test_a_purge_that_was_asked_for_while_the_device_was_off_is_carried_out_when_it_is_on_again(device):
    device.config(app_config(PurgeCmd=counter(1)))
    device.zedmanager.start()
    device.until_state(SwState.RUNNING)
    device.zedmanager.kill()
    shutil.rmtree(device.root / "run/zedmanager")  # /run does not survive a reboot
    device.dead = set(ACTORS)
    device.config(app_config(PurgeCmd=counter(2)))
    device.zedmanager.start()
    device.until_state(SwState.PURGING)
    device.dead = set()
    device.until_state(SwState.RUNNING)
    assert device.status().PurgeCmd.Counter == 2


def test_it_is_small_and_imports_nothing_heavy(root):
    zedmanager = AgentProcess(root, "zedmanager").start()
    try:
        assert zedmanager.process is not None
        pid = zedmanager.process.pid
        maps = Path(f"/proc/{pid}/maps").read_text()
        for heavy in ("cryptography", "google/_upb", "_ssl", "_asyncio"):
            assert heavy not in maps
        status = Path(f"/proc/{pid}/status").read_text()
        resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident_kib <= 32 * 1024
    finally:
        zedmanager.kill()
