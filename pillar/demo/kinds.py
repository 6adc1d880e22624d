"""What kind of ECO the demo takes to RUNNING: a program on the host's network, a container or a VM on a bridge.

A kind says what it needs of the machine, what its image and its config are, and where the running ECO answers.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from pillar.demo import container, device, eco, guest
from pillar.demo.device import Onlooker
from pillar.demo.eco import Image

OWN_NETWORK = "in a network namespace of the demo's"
_CLONE_NEWNET = 0x40000000
_ANYBODY = [{"matches": [{"type": "ip", "value": "0.0.0.0/0"}], "id": 1}]
# Cloud-init user data: the guest answers with the app's UUID, which is on its kernel's command line.
_USER_DATA = b"""#!/bin/sh
app=$(sed 's/.*appuuid=\\([^ ]*\\).*/\\1/' /proc/cmdline)
name=$(sed -n 's/local-hostname: //p' /seed/meta-data)
echo "{\\"hello\\": \\"from $name\\", \\"uuid\\": \\"$app\\", \\"kernel\\": \\"$(uname -r)\\"}" >/www/hello
"""


class Unable(Exception):
    """This machine cannot show it; the text says what is missing and how to get it."""


class Kind(Protocol):
    """One kind of ECO."""

    up: tuple[str, ...]  # options of `pillar up`
    where: str  # for a person: where it runs
    says: str  # what a line of its output has in it when it is up; "" when it need not say anything
    console: bool  # whether `pillar console` reaches it

    def set_up(self) -> None:
        """What has to be so before the first agent starts. Raises Unable."""

    def build(self, size: int) -> tuple[Image, ...]:
        """Its images, of at least this many bytes together."""

    def config(self, images: tuple[Image, ...], url: str, app: str) -> dict[str, Any]:
        """The device config that asks for it."""

    def address(self, onlooker: Onlooker, log: Path, app: str) -> str:
        """Where it answers: http://... ; "" as long as nobody knows."""


class Program:
    """A program, on the host's network."""

    up: tuple[str, ...] = ()
    where = "on this machine's own network"
    says = ""
    console = False

    def set_up(self) -> None:
        """It needs nothing."""

    def build(self, size: int) -> tuple[Image, ...]:
        return (eco.build("hello.img", size),)

    def config(self, images: tuple[Image, ...], url: str, app: str) -> dict[str, Any]:
        return device.config(images[0], url, app)

    def address(self, onlooker: Onlooker, log: Path, app: str) -> str:
        found = re.search(r"listening on (\S+)", log.read_text() if log.exists() else "")
        return f"http://{found[1]}" if found else ""


class Container:
    """A container under runc, with its own network namespace, on a bridge that zedrouter makes.

    The whole demo runs in a network namespace then: bridges, addresses and rules are real and touch nothing of the
    machine's.
    """

    up: tuple[str, ...] = ("--set", "zedrouter.network=kernel")
    where = OWN_NETWORK
    says = "serves HTTP"
    console = False
    _programs = (
        ("runc", "runc"),
        ("busybox", "busybox-static"),
        ("nft", "nftables"),
        ("dnsmasq", "dnsmasq-base"),
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
    )

    def check(self) -> None:
        """Raises Unable where containers cannot run."""
        _check("a container", self._programs, "--container")

    def set_up(self) -> None:
        self.check()
        _enter_own_network()

    def build(self, size: int) -> tuple[Image, ...]:
        try:
            return (container.build("hello.tar", size),)
        except container.MissingProgram as err:
            raise Unable(str(err)) from err

    def config(self, images: tuple[Image, ...], url: str, app: str) -> dict[str, Any]:
        config = device.config(images[0], url, app)
        asked = config["apps"][0]
        asked["drives"][0]["image"]["iformat"] = "CONTAINER"
        asked["drives"][0]["readonly"] = False
        asked["interfaces"][0]["acls"] = _ANYBODY
        return config

    def address(self, onlooker: Onlooker, log: Path, app: str) -> str:
        return _allocated(onlooker, app)


class VirtualMachine:
    """A virtual machine under QEMU: Debian's cloud kernel and a small ramdisk, on a bridge that zedrouter makes.

    In a network namespace of the demo's, as a container. The first run fetches the kernel (27 MB).
    """

    up: tuple[str, ...] = ("--set", "zedrouter.network=kernel")
    where = OWN_NETWORK
    says = "GUEST-READY"
    console = True
    _programs = (
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("busybox", "busybox-static"),
        ("nft", "nftables"),
        ("dnsmasq", "dnsmasq-base"),
        ("ip", "iproute2"),
    )

    def __init__(self) -> None:
        self._images: tuple[Image, ...] = ()

    def check(self) -> None:
        """Raises Unable where virtual machines cannot run."""
        _check("a virtual machine", self._programs, "--vm")

    def set_up(self) -> None:
        self.check()
        try:
            kernel = guest.kernel(guest.default_cache())  # before the namespace: from there nothing can be fetched
            self._images = (
                _image("hello-kernel", kernel.vmlinuz.read_bytes()),
                _image("hello-ramdisk", guest.initramfs(kernel)),
            )
        except guest.GuestError as err:
            raise Unable(str(err)) from err
        _enter_own_network()

    def build(self, size: int) -> tuple[Image, ...]:
        return self._images  # a kernel alone has 8 MiB

    def config(self, images: tuple[Image, ...], url: str, app: str) -> dict[str, Any]:
        kernel, ramdisk = images
        config = device.vm_config(kernel, ramdisk, url, app, user_data=_USER_DATA)
        config["apps"][0]["interfaces"][0]["acls"] = _ANYBODY
        return config

    def address(self, onlooker: Onlooker, log: Path, app: str) -> str:
        return _allocated(onlooker, app)


def _check(what: str, programs: Iterable[tuple[str, str]], option: str) -> None:
    absent = [package for program, package in programs if _which(program) is None]
    if absent:
        raise Unable(f"{what} needs what is not installed here: apt-get install {' '.join(absent)}")
    if os.geteuid() != 0:
        raise Unable(f"{what} needs root: run this as root (sudo scripts/demo {option})")


def _enter_own_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise Unable(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _allocated(onlooker: Onlooker, app: str) -> str:
    """The address that zedrouter gave the app's first interface, as a URL; "" when there is none yet."""
    status = onlooker.networks.get(app)
    underlays = (status.UnderlayNetworkList or ()) if status is not None else ()
    return f"http://{underlays[0].AllocatedIPAddr}" if underlays and underlays[0].AllocatedIPAddr else ""


def _image(name: str, content: bytes) -> Image:
    return Image(name, content, hashlib.sha256(content).hexdigest())


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
