"""A whole device on a network of its own: nim sets up its ports, a VM and a container answer through port maps."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import needs_runc
from device import Device, app_id
from netlab import CONTROLLER, CONTROLLER_NAME, NetLab
from servers import needs
from support import wait_for
from vm_images import BOOT_S, Guest, seed_kvm_answer

from pillar.demo import container
from pillar.demo import device as demo
from pillar.demo.eco import Image
from pillar.types.nim import DeviceNetworkStatus, NetworkPortStatus
from pillar.types.zedrouter import AppNetworkStatus

pytest_plugins = ("netlab_fixtures", "vm_fixtures")

PING = "/api/v1/edgedevice/ping"
VM_PORT, CONTAINER_PORT = 8080, 8081
URL = f"http://{CONTROLLER}"
# What the guests try themselves: one server is allowed to them, the same one under its other address is not.
TRIES = f"""#!/bin/sh
ask() {{ printf 'GET /allowed HTTP/1.0\\r\\n\\r\\n' | busybox nc -w $2 $1 80 | busybox grep '200 OK'; }}
for attempt in 1 2 3 4 5 6 7 8 9 10; do ask {CONTROLLER} 5 && break; sleep 1; done && echo reached the allowed one
ask 192.168.10.1 2 || echo did not reach the other one
"""
ENTRY = f"""#!/bin/sh
echo "from a container" >/www/index.html
httpd -p 80 -h /www
{TRIES.partition(chr(10))[2]}
while :; do sleep 1; done
"""


@pytest.fixture
def device(netlab: NetLab, root: Path, guest: Guest) -> Iterator[Device]:
    needs_runc()
    needs("nft", "nftables")
    needs("udhcpc", "udhcpc")
    seed_kvm_answer(root)
    (root / "config").mkdir()
    (root / "config" / "server").write_text(CONTROLLER_NAME)
    (root / "config" / "root-certificate.pem").write_bytes(netlab.root_certificate.read_bytes())
    netlab.serve(PING, b"")
    netlab.serve("/allowed", b"")
    options = ("--set", "nim.ports=manage", "--set", "zedrouter.network=kernel")
    with Device(root, netlab.device.enter, options) as device:
        yield device


def served(lab: NetLab, name: str, content: bytes) -> Image:
    lab.serve(name, content)
    return Image(name, content, hashlib.sha256(content).hexdigest())


def rules(port: int) -> list[dict[str, Any]]:
    """Port 80 of the guest is reached under `port` of the device; the guest itself reaches one server only."""
    tcp = {"type": "protocol", "value": "tcp"}
    return [
        {
            "matches": [tcp, {"type": "lport", "value": str(port)}],
            "actions": [{"portmap": True, "appPort": 80}],
            "id": 1,
        },
        {"matches": [{"type": "ip", "value": f"{CONTROLLER}/32"}], "id": 2},
    ]


def config_of(lab: NetLab, guest: Guest) -> dict[str, Any]:
    """Two uplinks by DHCP, one local network instance, on it a VM and a container."""
    kernel = served(lab, "vmlinuz", guest.kernel.read_bytes())
    ramdisk = served(lab, "initrd", guest.ramdisk.read_bytes())
    config = demo.vm_config(kernel, ramdisk, URL, str(uuid.uuid4()), user_data=TRIES.encode())
    built = container.image(
        "box.tar", [container.busybox_layer(), container.layer({"entry": ENTRY.encode()})], {"Entrypoint": ["/entry"]}
    )
    served(lab, built.name, built.content)
    box = demo.config(built, URL, str(uuid.uuid4()))["apps"][0]
    box["drives"][0]["readonly"] = False
    box["drives"][0]["image"] |= {"iformat": "CONTAINER", "dsId": config["datastores"][0]["id"]}
    box["interfaces"][0]["networkId"] = config["networkInstances"][0]["uuidandversion"]["uuid"]
    config["networkInstances"][0]["port"] = {"name": "uplink"}
    config["apps"][0]["displayname"], box["displayname"] = "vm", "box"
    config["apps"].append(box)
    for app, port in zip(config["apps"], (VM_PORT, CONTAINER_PORT), strict=True):
        app["interfaces"][0]["acls"] = rules(port)
    network = str(uuid.uuid4())
    config["networks"] = [{"id": network, "type": "V4", "ip": {"dhcp": "Client"}}]
    config["deviceIoList"] = [
        {"ptype": 1, "phylabel": name, "logicallabel": name, "phyaddrs": {"Ifname": name}} for name in ("eth0", "eth1")
    ]
    config["systemAdapterList"] = [
        {"name": name, "uplink": True, "freeUplink": True, "networkUUID": network} for name in ("eth0", "eth1")
    ]
    return config


def page(lab: NetLab, address: str, port: int) -> str:
    """What somebody outside gets from the device at this address and port; "" for nothing."""

    def get() -> str:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=4) as reply:
            return str(reply.read().decode())

    with contextlib.suppress(OSError):
        return lab.controller.call(get)
    return ""


def port(device: Device, name: str) -> NetworkPortStatus:
    device.look()
    status = device.table("nim", DeviceNetworkStatus).get("global")
    return next((one for one in (status.Ports if status else None) or () if one.IfName == name), NetworkPortStatus())


def address(device: Device, name: str) -> str:
    """The device's own address on this uplink, "" while it has none."""
    return next((info.Addr for info in port(device, name).AddrInfoList or () if ":" not in info.Addr), "")


def both_answer(device: Device, lab: NetLab, name: str) -> None:
    """The VM's and the container's pages are there from outside, over this uplink."""
    own = device.wait(lambda: address(device, name), f"an address on {name}", BOOT_S)
    for mapped, text in ((VM_PORT, "from a VM"), (CONTAINER_PORT, "from a container")):
        device.wait(
            lambda mapped=mapped, text=text: text in page(lab, own, mapped), f"{text!r} at {own}:{mapped}", BOOT_S
        )


def leased(device: Device, app: str) -> bool:
    """The guest has asked for its address, and zedrouter says so."""
    status = device.table("zedrouter", AppNetworkStatus).get(app)
    return status is not None and bool(status.UnderlayNetworkList) and status.UnderlayNetworkList[0].Assigned


def difference(device: Device) -> str:
    """What differs, "" for nothing."""
    try:
        device.pillar("net", "--diff")  # exits with 1 when something does
    except AssertionError as error:
        return str(error).partition("\n---")[0]
    return ""


def wait_no_difference(device: Device, seconds: float = BOOT_S) -> None:
    told = [""]

    def none() -> bool:
        told[0] = difference(device)
        return not told[0]

    try:
        device.wait(none, "pillar net --diff to be empty", seconds)
    except BaseException as error:
        error.add_note(told[0])
        raise


def dnsmasqs(lab: NetLab) -> list[int]:
    return [pid for pid in lab.device.pids() if b"dnsmasq" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.timeout(600)
def test_a_vm_and_a_container_answer_through_their_port_maps_whatever_dies(
    device: Device, netlab: NetLab, guest: Guest
) -> None:
    config = config_of(netlab, guest)
    apps = [app_id(app) for app in config["apps"]]
    device.deploy(config)
    device.wait_running(*apps, seconds=BOOT_S)
    # The controller's own port config is in force, and the images came over the first free port.
    device.wait(lambda: address(device, "eth0") and address(device, "eth1"), "both leases", BOOT_S)
    assert "port config zedagent works" in (device.where.log("nim")).read_text()
    device.wait(lambda: set(netlab.requests("/box.tar")) == {address(device, "eth0")}, "the image came over eth0 alone")
    both_answer(device, netlab, "eth0")
    # They got their addresses by DHCP, reach whom they may, and nobody else; what is not mapped is not there.
    for app in apps:
        log = device.where.log(app)
        wait_for(lambda log=log: "did not reach the other one" in log.read_text(errors="replace"), f"{log}", BOOT_S)
        assert "reached the allowed one" in log.read_text(errors="replace")
        device.wait(lambda app=app: leased(device, app), "the lease to be told")
    assert page(netlab, address(device, "eth0"), 80) == ""
    wait_no_difference(device)

    # Cables: the guests' way out, and their port maps with it, move to the other uplink, and back when that one goes.
    for gone, left in (("eth0", "eth1"), ("eth1", "eth0")):
        netlab.unplug(gone)
        device.wait(lambda gone=gone: "no carrier" in port(device, gone).Error, "the pulled cable", BOOT_S)
        both_answer(device, netlab, left)
        netlab.plug(gone)
        device.wait(lambda gone=gone: address(device, gone), "the cable's return", BOOT_S)

    # Everybody who made this dies; the domains go on, and all is found again.
    domains = {app: device.domain(app).DomainId for app in apps}
    device.kill("nim", "zedrouter", "domainmgr", "zedmanager")
    for pid in dnsmasqs(netlab):
        os.kill(pid, signal.SIGKILL)
    both_answer(device, netlab, "eth0")
    device.wait_back("nim", "zedrouter", "domainmgr", "zedmanager")
    device.wait(lambda: len(dnsmasqs(netlab)) == 1, "the bridge's dnsmasq", BOOT_S)
    device.wait_running(*apps, seconds=BOOT_S)
    wait_no_difference(device)
    both_answer(device, netlab, "eth0")
    assert {app: device.domain(app).DomainId for app in apps} == domains
    assert set(device.domains.items()) == set(apps)

    device.deploy({**config, "apps": [], "networkInstances": []})
    device.wait_gone(*apps)
    device.wait(
        lambda: netlab.device.run("ip", "-o", "link").count("\n") == 3, "only the loopback and the uplinks to be left"
    )
