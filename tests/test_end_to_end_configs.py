"""The whole device with signed images, and with configs as EVE's controller writes them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from device import Device, app_id, device_config, sleeper
from servers import Authority, needs

from pillar.demo.eco import Image
from pillar.demo.images import ImageServer
from pillar.transports import known_types
from pillar.types.baseos import CertObjStatus
from pillar.types.enums import SwState
from pillar.types.nim import DeviceNetworkStatus

GOLDEN = Path(__file__).parent / "golden" / "controller"


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture
def device(root: Path) -> Iterator[Device]:
    with Device(root) as device:
        yield device


def sign(signer: Authority, image: Image) -> str:
    """The signature of an image, base64 of r and s, as the device config's JSON has bytes."""
    algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    r, s = utils.decode_dss_signature(signer.key.sign(hashlib.sha256(image.content).digest(), algorithm))
    return base64.b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).decode()


def offer(server: ImageServer, name: str, content: bytes) -> str:
    """Have the server serve this too; returns its URL."""
    server.images[name] = Image(name, content, hashlib.sha256(content).hexdigest())
    return f"{server.url}/{name}"


def test_a_signed_app_runs_and_a_wrongly_signed_one_never_does(device: Device, server: ImageServer) -> None:
    trusted, stranger = Authority("trusted"), Authority("stranger")
    middle = trusted.issue("middle")
    signer, impostor = middle.issue("signer", ca=False), stranger.issue("impostor", ca=False)
    trusted.write(device.where.config, "root-certificate")
    images = [sleeper(name) for name in ("signed.img", "altered.img", "foreign.img")]
    config = device_config(server, *images)
    signed, altered, foreign = (app_id(app) for app in config["apps"])
    chain = offer(server, "middle.pem", middle.pem)
    good = {"signercerturl": offer(server, "signer.pem", signer.pem), "intercertsurl": chain}
    bad = {"signercerturl": offer(server, "impostor.pem", impostor.pem), "intercertsurl": chain}
    signatures = (
        good | {"signature": sign(signer, images[0])},
        good | {"signature": sign(signer, images[0])},  # of another image
        bad | {"signature": sign(impostor, images[2])},
    )
    for app, signature in zip(config["apps"], signatures, strict=True):
        app["drives"][0]["image"]["siginfo"] = signature
    device.deploy(config)
    device.wait_running(signed)
    assert device.wait_error(altered, "signature").ErrorSource == "VerifyImageStatus"
    assert device.wait_error(foreign, "not issued by anybody the device trusts").ErrorSource == "VerifyImageStatus"
    certificates = device.table("baseosmgr", CertObjStatus)
    device.wait(
        lambda: (
            {key for key, s in certificates.items().items() if s.State == SwState.INSTALLED}
            == {signed, altered, foreign}
        ),
        "all certificates to be installed",
    )
    for app in (altered, foreign):
        assert not device.is_running(app) and device.starts(app) == 0 and app not in device.domains

    config["apps"][1]["drives"][0]["image"]["siginfo"] = good | {"signature": sign(signer, images[1])}
    device.deploy(config)
    device.wait_running(signed, altered)
    assert device.starts(foreign) == 0
    assert device.restarts() == {}


def test_with_the_strict_policy_an_unsigned_app_waits_until_it_is_allowed(device: Device, server: ImageServer) -> None:
    config = device_config(server, sleeper("plain.img"))
    config["configItems"] = [{"key": "verifier.signature.policy", "value": "strict"}]
    app = app_id(config["apps"][0])
    device.deploy(config)
    assert device.wait_error(app, "SignaturePolicy is strict").ErrorSource == "VerifyImageStatus"
    assert not device.is_running(app) and app not in device.domains
    config["configItems"] = [{"key": "verifier.signature.policy", "value": "permissive"}]
    device.deploy(config)
    device.wait_running(app)
    config["configItems"] = [{"key": "verifier.signature.policy", "value": "strict"}]
    device.deploy(config)
    device.wait_error(app, "SignaturePolicy is strict")
    assert device.domain(app).Activated  # said of an app that runs, but it goes on
    device.wait(lambda: device.starts(app), "its first line")
    assert device.starts(app) == 1


def golden(name: str, port: str = "eth0") -> dict[str, Any]:
    """A sample, with the port that it calls eth0 renamed."""
    config: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text().replace('"eth0"', f'"{port}"'))
    return config


def port_of(device: Device) -> str:
    """A port of this machine with an address to fetch from, "" when there is none."""
    ports = device.table("nim", DeviceNetworkStatus)
    status = device.wait(lambda: ports.get("global"), "nim to publish the ports")
    for port in (status.Ports if status is not None else None) or ():
        if any(info.Addr and not ip_address(info.Addr).is_link_local for info in port.AddrInfoList or ()):
            return port.IfName
    return ""


def served_here(config: dict[str, Any], server: ImageServer, *, formats: bool) -> None:
    """Rewrite the config so that all its images come from this server, unsigned, as small programs.

    With `formats` their formats become raw; and their disks small enough for any machine.
    """
    for store in config["datastores"]:
        store.update(dType="DsHttp", fqdn=server.url, dpath="")
    for app in config["apps"]:
        if formats:
            for name in ("kernel", "ramdisk"):  # a program boots nothing
                app["fixedresources"].pop(name, None)
        for drive in app["drives"]:
            image = sleeper(drive["image"]["name"].replace(":", "-"))
            server.images[image.name] = image
            drive["image"].update(name=image.name, sha256=image.sha256, sizeBytes=str(len(image.content)), siginfo={})
            drive.pop("maxsizebytes", None)
            if formats:
                drive["image"]["iformat"] = "RAW"
                drive["target"] = "Disk"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("container_app", "DsContainerRegistry"),
        ("device_baseos_items", "DsAzureBlob"),
        ("vm_two_disks", "DsSFTP"),
    ],
)
def test_a_controllers_config_as_it_is_says_why_its_images_do_not_come(device: Device, name: str, missing: str) -> None:
    port = port_of(device)
    config = golden(name, port or "eth0")
    device.deploy(config)
    text = "downloader: "  # the samples' servers exist nowhere
    if port and missing not in known_types():
        text = f"no transport for datastore type {missing}"
    status = device.wait_error(app_id(config["apps"][0]), text)
    assert status.ErrorSource == "DownloaderStatus"
    assert device.restarts() == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("container_app", "a container image needs the runc backend"),
        ("device_baseos_items", "the ramdisk /boot/initrd cannot be read"),
        ("vm_two_disks", "should be an image of format qcow2, but it is a script for /bin/sh"),
    ],
)
def test_a_controllers_config_runs_once_its_images_are_programs_and_else_says_why_not(
    device: Device, server: ImageServer, name: str, reason: str
) -> None:
    if name != "container_app":
        needs("qemu-system-x86_64", "qemu-system-x86")
    config = golden(name)
    app = config["apps"][0]
    app["activate"] = True
    for instance in config["networkInstances"]:
        if instance["instType"] == "ZnetInstLocal":  # one of them has none, and an active app needs an address
            instance["ip"].setdefault("dhcpRange", {"start": "10.88.0.2", "end": "10.88.0.20"})
    served_here(config, server, formats=False)
    device.deploy(config)
    status = device.wait_error(app_id(app), reason)
    assert (status.ErrorSource, status.Activated) == ("DomainStatus", False)

    served_here(config, server, formats=True)
    device.deploy(config)
    device.wait_running(app_id(app))
    assert device.restarts() == {}
