"""The whole device: from a device config to RUNNING and back, with all agents as real processes."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from device import Device, app_id, device_config, sleeper
from servers import Authority

from pillar.demo import eco
from pillar.demo.eco import Image
from pillar.demo.images import ImageServer
from pillar.types.downloader import GlobalDownloadStatus
from pillar.types.enums import SwState
from pillar.types.verifier import VerifyImageStatus
from pillar.types.zedmanager import AppInstanceStatus
from pillar.types.zedrouter import AppNetworkStatus

KIB = 1024


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture
def device(root: Path) -> Iterator[Device]:
    with Device(root) as device:
        yield device


def one(config: dict[str, Any], number: int = 0) -> tuple[dict[str, Any], str]:
    """An app of the config, and its UUID."""
    app = config["apps"][number]
    return app, app_id(app)


def pid(device: Device, app: str) -> int:
    """The process of an app's domain, which is alive."""
    found = int(device.domain(app).DomainId)
    assert Path(f"/proc/{found}").exists()
    return found


def listening_at(device: Device, app: str) -> str:
    """The address in the log of the demo's ECO."""
    log = device.where.log(app)
    device.wait(log.exists, "the ECO's log")
    found = device.wait(lambda: re.search(r"listening on (\S+)\n", log.read_text()), "the ECO to listen")
    return f"http://{found[1]}/"


def refcount(device: Device, image: Image) -> int | None:
    """The references to an image that the downloader was told of; None without a record."""
    return next((s.RefCount for s in device.downloads.items().values() if s.ImageSha256 == image.sha256), None)


def test_an_app_runs_answers_over_http_and_leaves_nothing_behind(device: Device, server: ImageServer) -> None:
    image = eco.build("hello.img", 100 * KIB)
    config = device_config(server, image)
    _, app = one(config)
    errors: list[str] = []

    def note(key: str, new: AppInstanceStatus, old: AppInstanceStatus | None = None) -> None:
        if new.Error:
            errors.append(new.Error)

    device.table("zedmanager", AppInstanceStatus, create=note, modify=note)
    space = device.table("downloader", GlobalDownloadStatus)
    device.deploy(config)
    device.wait_running(app)
    assert device.records(app)
    url = listening_at(device, app)
    with urllib.request.urlopen(url, timeout=10) as answer:
        said = json.load(answer)
    assert (said["uuid"], said["pid"]) == (app, pid(device, app))
    assert server.sent_of[image.name] == len(image.content)

    device.pillar("undeploy")
    device.wait_gone(app)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)
    # The image is kept for a while, unused, and counted as what it takes on the disk.
    device.wait(lambda: refcount(device, image) == 0, "the image to be unused")
    kept = device.stored_kib()
    device.wait(lambda: (s := space.get("global")).UsedSpace == kept and s.ReservedSpace == 0, "the space to be right")
    assert errors == []  # in no moment of its life
    assert device.restarts() == {}


def test_two_apps_share_an_image_that_is_fetched_once(device: Device, server: ImageServer) -> None:
    image = sleeper("shared.img")
    config = device_config(server, image, image)
    (_, first), (_, second) = one(config, 0), one(config, 1)
    device.deploy(config)
    device.wait_running(first, second)
    device.wait(lambda: refcount(device, image) == 2, "two references")
    assert server.sent_of[image.name] == len(image.content)
    stays = pid(device, second)

    config["apps"].pop(0)
    device.deploy(config)
    device.wait_gone(first)
    device.wait(lambda: refcount(device, image) == 1, "one reference")
    assert device.is_running(second) and pid(device, second) == stays

    config["apps"].clear()
    device.deploy(config)
    device.wait_gone(second)
    device.wait(lambda: refcount(device, image) == 0, "no reference")
    verified = device.table("verifier", VerifyImageStatus, "appImg.obj")
    device.wait(lambda: [s.RefCount for s in verified.items().values()] == [0], "no reference at the verifier's")
    assert server.sent_of[image.name] == len(image.content)


def test_restart_purge_and_activation(device: Device, server: ImageServer) -> None:
    """A restart keeps a disk that is to be preserved, a purge gives a new one; by counter or by a changed config."""
    image, other = sleeper("app.img"), sleeper("other.img")
    config = device_config(server, image)
    server.images[other.name] = other
    app, key = one(config)
    app["drives"][0].update(readonly=False, preserve=True)
    device.deploy(config)
    device.wait_running(key)
    starts = 1

    def change_and_wait(*, new_disk: bool) -> None:
        """Deploy what was changed: the domain is a new one, and its disk is or is not the one it had."""
        nonlocal starts
        before = pid(device, key)
        disk = Path(device.domain(key).DiskStatusList[0].ActiveFileLocation)
        with disk.open("ab") as file:
            file.write(b"# written by the app\n")
        device.deploy(config)
        device.wait(lambda: device.is_running(key) and device.domain(key).DomainId not in (0, before), "another domain")
        starts += 1
        device.wait(lambda: device.starts(key) == starts, "the ECO to say that it was started")
        assert not Path(f"/proc/{before}").exists()
        disk = Path(device.domain(key).DiskStatusList[0].ActiveFileLocation)
        assert (b"written by the app" in disk.read_bytes()) is not new_disk

    app["restart"] = {"counter": 1}
    change_and_wait(new_disk=False)
    app["fixedresources"]["memory"] *= 2
    change_and_wait(new_disk=False)
    app["purge"] = {"counter": 1}
    change_and_wait(new_disk=True)
    assert server.sent_of[image.name] == len(image.content)  # a purge takes the image that is there

    wanted = app["drives"][0]["image"]
    wanted.update(name=other.name, sha256=other.sha256, sizeBytes=str(len(other.content)))
    change_and_wait(new_disk=True)
    assert server.sent_of[other.name] == len(other.content)
    device.wait(lambda: (refcount(device, image), refcount(device, other)) == (0, 1), "the references to follow")

    before = pid(device, key)
    app["activate"] = False
    device.deploy(config)
    device.wait(lambda: not device.app(key).Activated and not device.domain(key).DomainId, "the app to be inactive")
    assert device.app(key).Error == ""
    assert not Path(f"/proc/{before}").exists()
    app["activate"] = True
    device.deploy(config)
    device.wait_running(key)
    assert device.wait(lambda: device.starts(key) == starts + 1, "one more start")
    assert device.restarts() == {}


def test_a_bad_app_says_what_is_wrong_disturbs_nobody_and_is_mended_by_its_config(
    device: Device, server: ImageServer
) -> None:
    images = [sleeper(name) for name in ("good.img", "wrong-sha.img", "no-store.img", "no-network.img")]
    config = device_config(server, *images)
    good, wrong_sha, no_store, no_network = (app_id(app) for app in config["apps"])
    right = json.loads(json.dumps(config))
    config["apps"][1]["drives"][0]["image"]["sha256"] = images[0].sha256[::-1]
    config["apps"][2]["drives"][0]["image"]["dsId"] = "11111111-2222-3333-4444-555555555555"
    config["apps"][3]["interfaces"][0]["networkId"] = "11111111-2222-3333-4444-555555555555"
    device.deploy(config)
    device.wait_running(good)
    device.wait_error(wrong_sha, "sha256 mismatch")
    device.wait_error(no_store, "11111111-2222-3333-4444-555555555555")
    device.wait_error(no_network, "Can't find 11111111-2222-3333-4444-555555555555 in network instances")
    before = pid(device, good)

    device.deploy(right)
    device.wait_running(good, wrong_sha, no_store, no_network)
    assert pid(device, good) == before
    assert device.restarts() == {}


def test_an_app_with_a_mesh_interface_has_its_eid_and_keeps_it(device: Device, server: ImageServer) -> None:
    """zedagent passes on given EIDs only, as in EVE; EIDs made on the device are identitymanager's own tests."""
    config = device_config(server, sleeper("mesh.img"))
    app, key = one(config)
    mesh = "99999999-0000-0000-0000-000000000001"
    config["networkInstances"].append(
        {
            "uuidandversion": {"uuid": mesh, "version": "1"},
            "displayname": "mesh",
            "instType": "ZnetInstMesh",
            "activate": True,
            "ipType": "CryptoIPV6",
            "ip": {},
            "cfg": {"lispConfig": {"LispInstanceId": 7}},
        }
    )
    given = {"name": "over", "networkId": mesh, "cryptoEid": "fd45:efca:3607:4c1c::17", "lispsignature": "c2lnbmVk"}
    app["interfaces"].append(given | {"pemcert": base64.b64encode(Authority("mesh").pem).decode()})
    device.deploy(config)
    device.wait_running(key)
    networks = device.table("zedrouter", AppNetworkStatus)
    device.look()
    assert [overlay.EID for overlay in networks.get(key).OverlayNetworkList] == ["fd45:efca:3607:4c1c::17"]
    assert [eid.EID for eid in device.app(key).EIDList] == ["fd45:efca:3607:4c1c::17"]
    before = device.settled()
    assert any(path.startswith("run/identitymanager/EIDStatus/") for path in before)
    device.kill("identitymanager")
    device.wait_back("identitymanager")
    device.wait_like(before, "before the kill")


def test_the_demo_does_what_it_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pillar.demo", "--json", "--root", str(tmp_path / "device")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    said = [step["step"] for step in steps if step["step"] != "change"]
    assert said == ["up", "deploy", "kill", "recovered", "answer", "fetched", "undeploy", "gone", "done"]
    states = [step["text"] for step in steps if step.get("topic") == "AppInstanceStatus"]
    assert SwState.RUNNING.name in states and states[-1] == "gone"
