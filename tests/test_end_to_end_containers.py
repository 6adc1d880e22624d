"""A container from a device config to RUNNING: every agent, a real registry, runc, a bridge, and kills on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import urllib.request
import uuid
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from containers import needs_runc
from device import Device, app_id
from netlab import NetLab
from remote_servers import Registry
from servers import needs
from support import wait_for

from pillar.demo import container
from pillar.demo import device as demo
from pillar.demo.eco import Image
from pillar.hypervisors.runc import RuncHypervisor
from pillar.types.enums import SwState

pytest_plugins = ("netlab_fixtures",)
pytestmark = pytest.mark.timeout(400)  # several waits, each for a busy machine

PATIENCE_S = 60.0
POLITE = b"""#!/bin/sh
trap 'echo asked; exit 3' TERM
echo "started $$ as $PILLAR_ECO_NAME, $GREETING"
httpd -p 80 -h /www
echo "$PILLAR_ECO_NAME" >/www/index.html
while :; do sleep 0.05; done
"""


@pytest.fixture
def device(netlab: NetLab, root: Path) -> Iterator[Device]:
    needs_runc()
    needs("nft", "nftables")
    with Device(root, netlab.device.enter, ("--set", "zedrouter.network=kernel")) as device:
        yield device


def image(name: str) -> Image:
    files = container.layer({"entry": POLITE})
    return container.image(name, [container.busybox_layer(), files], {"Entrypoint": ["/entry"]})


def config_of(built: Image, url: str, kind: str, user_data: str = "") -> dict[str, Any]:
    """A device config with one container, which everybody may talk to."""
    config = demo.config(built, url, str(uuid.uuid4()))
    config["datastores"][0]["dType"] = kind
    app = config["apps"][0]
    app["drives"][0]["image"]["iformat"] = "CONTAINER"
    app["drives"][0]["readonly"] = False
    app["interfaces"][0]["acls"] = [{"matches": [{"type": "ip", "value": "0.0.0.0/0"}], "id": 1}]
    app["userData"] = user_data
    return config


def from_directory(root: Path, built: Image) -> dict[str, Any]:
    """The config of an app whose image is one file, an OCI archive, in a directory of the machine."""
    store = root / "store"
    store.mkdir(exist_ok=True)
    (store / built.name).write_bytes(built.content)
    return config_of(built, f"file://{store}", "DsHttp", "R1JFRVRJTkc9Z29vZCBtb3JuaW5nCg==")


def answer(lab: NetLab, address: str = "10.1.0.2") -> str:
    """What the container answers over its bridge."""

    def ask() -> str:
        with urllib.request.urlopen(f"http://{address}/", timeout=5) as reply:
            return str(reply.read().decode())

    def look() -> str:
        try:
            return lab.device.call(ask)
        except OSError:
            return ""

    return wait_for(look, f"an answer from {address}", PATIENCE_S)


def address_of(device: Device, app: str) -> str:
    status = device.table("zedrouter", demo.AppNetworkStatus)
    device.look()
    found = status.get(app)
    assert found is not None and found.UnderlayNetworkList
    return str(found.UnderlayNetworkList[0].AllocatedIPAddr)


def containers(device: Device) -> set[str]:
    return RuncHypervisor(device.where).adopt()


def test_a_container_from_a_registry_runs_on_its_bridge_and_goes_without_a_trace(
    device: Device, netlab: NetLab, tmp_path: Path
) -> None:
    built = image("apps/polite:v1")
    layout = tmp_path / "layout"
    with tarfile.open(fileobj=BytesIO(built.content)) as archive:
        archive.extractall(layout, filter="data")
    registry = netlab.device.call(lambda: Registry(tmp_path / "registry"))
    netlab.device.call(lambda: registry.push(layout, "latest", built.name))
    config = config_of(built._replace(sha256=""), registry.url, "DsContainerRegistry")
    app = app_id(config["apps"][0])
    device.deploy(config)
    device.wait_running(app, seconds=PATIENCE_S)
    assert device.app(app).ContainerImageID.startswith("sha256:")
    assert answer(netlab, address_of(device, app)) == "hello\n"
    assert "started 1 as hello" in device.where.log(app).read_text()
    status = device.domain(app)
    assert os.readlink(f"/proc/{status.DomainId}/ns/net") != os.readlink("/proc/self/ns/net")
    assert device.restarts() == {}  # what a thread of domainmgr does in another namespace ended it once
    device.deploy({**config, "apps": []})
    device.wait_gone(app)
    assert containers(device) == set()
    assert "nbu1x1" not in netlab.device.run("ip", "-o", "link")
    assert device.where.log(app).read_text().endswith("asked\n")


def test_a_container_in_a_file_outlives_domainmgr_and_its_end_is_told(device: Device, netlab: NetLab) -> None:
    built = image("polite.tar")
    config = from_directory(device.where.root, built)
    app = app_id(config["apps"][0])
    device.deploy(config)
    device.wait_running(app, seconds=PATIENCE_S)
    first = device.domain(app).DomainId
    assert answer(netlab, address_of(device, app)) == "hello\n"
    assert "good morning" in device.where.log(app).read_text()
    # Domainmgr is killed: it goes on, and is found again.
    device.kill("domainmgr")
    device.wait_back("domainmgr")
    device.wait_running(app, seconds=PATIENCE_S)
    assert device.domain(app).DomainId == first
    assert device.starts(app) == 1
    # It ends while no domainmgr runs: the next one knows how.
    device.kill("pillar")
    device.kill("domainmgr")
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: device.where.log(app).read_text().endswith("asked\n"), "its end", PATIENCE_S)
    device.up()
    told = device.wait_error(app, "the domain stopped by itself: it exited with status 3")
    assert told.State == SwState.HALTED
    # Somebody kills another one: told at once. A restart by counter begins a new life.
    config["apps"][0]["restart"] = {"counter": 1}
    device.deploy(config)
    device.wait_running(app, seconds=PATIENCE_S)
    device.wait(lambda: device.starts(app) == 2, "the first line of its second life", PATIENCE_S)
    os.kill(device.domain(app).DomainId, signal.SIGKILL)
    device.wait_error(app, "the domain stopped by itself: it was ended by SIGKILL")


def test_images_that_cannot_run_say_why_and_the_others_run(device: Device, netlab: NetLab) -> None:
    def hostile(name: str, **fields: Any) -> Image:
        layer = BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            member = tarfile.TarInfo(str(fields.pop("path")))
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member)
        return container.image(name, [container.busybox_layer(), layer.getvalue()], {"Entrypoint": ["/bin/sh"]})

    good = image("good.tar")
    foreign = good.content.replace(b'"architecture": "', b'"Architecture": "')
    text = b"no container at all"
    bad = {
        "climbs.tar": (
            hostile("climbs.tar", path="../../etc/evil"),
            "the entry '../../etc/evil' leads out of the image",
        ),
        "device.tar": (
            hostile("device.tar", path="sda", type=tarfile.BLKTYPE, devmajor=8),
            "the entry 'sda' is a device",
        ),
        "linked.tar": (
            hostile("linked.tar", path="x", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
            "is a hard link to '/etc/passwd', which the image does not have",
        ),
        "changed.tar": (Image("changed.tar", foreign, sha256(foreign).hexdigest()), "hashes to"),
        "text.tar": (
            Image("text.tar", text, sha256(text).hexdigest()),
            "neither a container manifest nor an OCI archive",
        ),
    }
    config = from_directory(device.where.root, good)
    for built, _ in bad.values():
        one = from_directory(device.where.root, built)
        one["apps"][0]["displayname"] = built.name
        one["apps"][0]["drives"][0]["image"]["dsId"] = config["datastores"][0]["id"]
        one["apps"][0]["interfaces"][0]["networkId"] = config["networkInstances"][0]["uuidandversion"]["uuid"]
        config["apps"].append(one["apps"][0])
    huge = from_directory(device.where.root, good)["apps"][0]
    huge["drives"][0]["image"]["dsId"] = config["datastores"][0]["id"]
    huge["interfaces"] = []
    huge["fixedresources"]["memory"] = 1 << 31
    config["apps"].append(huge)
    device.deploy(config)
    for app, (_, reason) in zip(config["apps"][1:-1], bad.values(), strict=True):
        device.wait_error(app_id(app), reason)
    device.wait_error(app_id(huge), "MiB of memory, this machine has")
    device.wait_running(app_id(config["apps"][0]), seconds=PATIENCE_S)
    assert answer(netlab, address_of(device, app_id(config["apps"][0]))) == "hello\n"
    assert not Path("/etc/evil").exists()


def test_the_containers_demo_does_what_it_says(tmp_path: Path) -> None:
    needs_runc()
    needs("nft", "nftables")
    needs("dnsmasq", "dnsmasq-base")
    command = [sys.executable, "-m", "pillar.demo", "--container", "--json", "--root", str(tmp_path / "device")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    said = [step["step"] for step in steps if step["step"] != "change"]
    assert said == ["up", "deploy", "kill", "recovered", "said", "answer", "fetched", "undeploy", "gone", "done"]


def test_the_containers_demo_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", NOTHING_INSTALLED, "--container", "--json", "--root", str(tmp_path / "device")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "apt-get install runc busybox-static nftables" in done.stdout + done.stderr
    assert not (tmp_path / "device").exists()


NOTHING_INSTALLED = """
import sys
from pillar.demo import __main__, kinds
kinds._which = lambda program: None
sys.exit(__main__.main())
"""
