"""When something changes that many objects depend on, each of them is looked at again at once, not some time later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from agentproc import Table
from inside import Inside
from msgspec.structs import replace
from zedmanager_world import SHA1, A, app_config

from pillar.clocks import UseClock
from pillar.cmd.domainmgr.agent import DomainMgr
from pillar.cmd.downloader.agent import Downloader
from pillar.cmd.zedmanager.agent import ZedManager
from pillar.pubsub import encode
from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DiskConfig, DomainConfig, DomainStatus
from pillar.types.enums import SwState, TriState

pytest_plugins = ("inside_fixtures",)

STORE = "bc51aa4c-897f-4394-9f3a-760fe1affc4e"
APP = "6f1c0a3e-0000-4000-8000-000000000001"
NAME = "image.sha"


def text(table: Table, key: str, field: str = "LastErr") -> str:
    return str((table.read(key) or {field: ""})[field])


def test_an_object_without_a_way_is_told_whenever_the_ports_or_its_datastore_change(
    inside: Inside, tmp_path: Path
) -> None:
    stores = Table(tmp_path, "zedagent", "DatastoreConfig")
    configs = Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj")
    statuses = Table(tmp_path, "downloader", "DownloaderStatus", "appImg.obj")
    network = Table(tmp_path, "nim", "DeviceNetworkStatus")
    configs.write(NAME, DatastoreID=STORE, Safename=NAME, Name="image", RefCount=1)
    known = f"waiting for datastore {STORE}, which is not configured"  # before a restart: nothing to wait for now
    statuses.write(NAME, Safename=NAME, DatastoreID=STORE, State=1, RefCount=1, LastErr=known)
    downloader = inside.start(Downloader, {})

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: downloader.looked_at
        stores.write(STORE, UUID=STORE, DsType="DsElsewhere", Fqdn="http://192.0.2.1", Dpath="d")
        yield lambda: "DsElsewhere" in text(statuses, NAME)
        stores.write(STORE, UUID=STORE, DsType="DsNowhere", Fqdn="http://192.0.2.1", Dpath="d")
        yield lambda: "DsNowhere" in text(statuses, NAME)  # no time will mend that
        network.write("global", Version=1, Ports=[])
        yield lambda: "the device has no ports" in text(statuses, NAME)
        network.write("global", Version=1, Ports=[{"IfName": "eth7"}])
        yield lambda: "eth7 is not for management" in text(statuses, NAME)
        network.remove("global")
        yield lambda: "DsNowhere" in text(statuses, NAME)
        stores.remove(STORE)
        yield lambda: "DsNowhere" not in text(statuses, NAME)

    inside.run(downloader, story())


def test_an_object_without_room_is_told_whenever_the_room_for_downloads_changes(inside: Inside, tmp_path: Path) -> None:
    configs = Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj")
    statuses = Table(tmp_path, "downloader", "DownloaderStatus", "appImg.obj")
    room = Table(tmp_path, "global", "GlobalDownloadConfig")
    url = f"file://{tmp_path}/nowhere"
    configs.write(NAME, Safename=NAME, Name=url, NameIsURL=True, RefCount=1, Size=10**18)
    told: list[str] = []

    def without(kib: str) -> bool:
        told.append(text(statuses, NAME))
        return told[-1].startswith("no space: ") and not told[-1].endswith(f", may take {kib} KiB")

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: without("2000")
        room.write("global", MaxSpace=2000)
        yield lambda: text(statuses, NAME).endswith(", may take 2000 KiB")
        room.write("global", MaxSpace=1000)
        yield lambda: text(statuses, NAME).endswith(", may take 1000 KiB")
        room.remove("global")
        yield lambda: without("1000")

    inside.run(inside.start(Downloader, {}), story())


def test_an_object_without_room_comes_when_another_one_that_was_complete_goes(inside: Inside, tmp_path: Path) -> None:
    configs = Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj")
    statuses = Table(tmp_path, "downloader", "DownloaderStatus", "appImg.obj")
    Table(tmp_path, "global", "GlobalDownloadConfig").write("global", MaxSpace=1500)
    (tmp_path / "image").write_bytes(bytes(1024 * 1024))
    url = f"file://{tmp_path}/image"
    configs.write("first", Safename="first", Name=url, NameIsURL=True, RefCount=1, Size=1024 * 1024)

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: text(statuses, "first", "State") == "3"
        configs.write("second", Safename="second", Name=url, NameIsURL=True, RefCount=1, Size=1024 * 1024)
        yield lambda: text(statuses, "second").startswith("no space: ")
        configs.remove("first")
        yield lambda: text(statuses, "second", "State") == "3"

    inside.run(inside.start(Downloader, {}), story())


def test_a_shorter_time_for_unused_downloads_counts_at_once(inside: Inside, tmp_path: Path) -> None:
    configs = Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj")
    statuses = Table(tmp_path, "downloader", "DownloaderStatus", "appImg.obj")
    configs.write(NAME, Safename=NAME, Name=f"file://{tmp_path}/nowhere", NameIsURL=True, RefCount=0)
    clock = [0.0]
    downloader = inside.start(Downloader, {})
    downloader.uses = UseClock(lambda: clock[0])

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: statuses.read(NAME)
        clock[0] = 100.0
        Table(tmp_path, "global", "GlobalConfig").write("global", DownloadGCTime=60)
        yield lambda: text(statuses, NAME, "Expired") == "True"

    inside.run(downloader, story())


def test_blobs_that_no_image_has_go_from_time_to_time(inside: Inside, tmp_path: Path) -> None:
    Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj").directory.mkdir(parents=True)
    downloader = inside.start(Downloader, {}, DownloadGCTime=1)
    layout = downloader.layouts["appImg.obj"]
    layout.prepare()
    left = layout.keep(b"{}")
    inside.run(downloader, iter([lambda: not layout.blob(left).exists()]))


def test_a_domain_that_could_not_start_is_tried_again_when_the_retry_time_gets_shorter(
    inside: Inside, tmp_path: Path
) -> None:
    image = b"QFI\xfb" + bytes(100)
    sha256 = hashlib.sha256(image).hexdigest()
    config = DomainConfig(
        UUIDandVersion=UUIDandVersion(UUID=APP, Version="1"),
        Activate=True,
        DiskConfigList=(DiskConfig(ImageSha256=sha256, ReadOnly=True, Format="qcow2"),),
    )
    Table(tmp_path, "zedmanager", "DomainConfig").write(APP, **json.loads(encode(config)))
    statuses = Table(tmp_path, "domainmgr", "DomainStatus")
    manager = inside.start(DomainMgr, {"hypervisor": "process"})

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: "is not verified" in text(statuses, APP)
        directory = manager.where.downloads("appImg.obj", "verified") / sha256
        directory.mkdir(parents=True)
        (directory / "image").write_bytes(image)
        old, manager.settings = manager.settings, replace(manager.settings, DomainBootRetryTime=1)
        manager.settings_changed(old)
        yield lambda: "needs the qemu backend" in text(statuses, APP)

    inside.run(manager, story())


def test_images_may_no_longer_cost_money_as_soon_as_the_settings_say_so(inside: Inside, tmp_path: Path) -> None:
    Table(tmp_path, "zedagent", "AppInstanceConfig").write(A, **json.loads(encode(app_config())))
    orders = Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj")
    name = f"disk.img.{SHA1}"

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: text(orders, name, "AllowNonFreePort") == "True"
        Table(tmp_path, "global", "GlobalConfig").write("global", AllowNonFreeAppImages=TriState.DISABLED.value)
        yield lambda: text(orders, name, "AllowNonFreePort") == "False"

    inside.run(inside.start(ZedManager, {}), story())


def test_a_domain_that_nobody_configured_any_more_goes_when_zedmanager_comes(inside: Inside, tmp_path: Path) -> None:
    statuses = Table(tmp_path, "domainmgr", "DomainStatus")
    status = DomainStatus(UUIDandVersion=UUIDandVersion(UUID=APP, Version="1"), State=SwState.INSTALLED)
    statuses.write(APP, **json.loads(encode(status)))

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: statuses.read(APP)
        Table(tmp_path, "zedmanager", "DomainConfig").directory.mkdir(parents=True)
        yield lambda: statuses.read(APP) is None

    inside.run(inside.start(DomainMgr, {"hypervisor": "process"}), story())
