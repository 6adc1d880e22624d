"""What kind of ECO the demo takes to RUNNING: a program on the host's network, or a container on a bridge of its own.

A kind says what it needs of the machine, what its image and its config are, and where the running ECO answers.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

from pillar.demo import container, device, eco
from pillar.demo.device import Onlooker
from pillar.demo.eco import Image

_CLONE_NEWNET = 0x40000000


class Unable(Exception):
    """This machine cannot show it; the text says what is missing and how to get it."""


class Kind(Protocol):
    """One kind of ECO."""

    up: tuple[str, ...]  # options of `pillar up`
    where: str  # for a person: where it runs

    def set_up(self) -> None:
        """What has to be so before the first agent starts. Raises Unable."""

    def build(self, size: int) -> Image:
        """Its image, of at least this many bytes."""

    def config(self, image: Image, url: str, app: str) -> dict[str, Any]:
        """The device config that asks for it."""

    def address(self, onlooker: Onlooker, log: Path, app: str) -> str:
        """Where it answers: http://... ; "" as long as nobody knows."""


class Program:
    """A program, on the host's network."""

    up: tuple[str, ...] = ()
    where = "on this machine's own network"

    def set_up(self) -> None:
        """It needs nothing."""

    def build(self, size: int) -> Image:
        return eco.build("hello.img", size)

    def config(self, image: Image, url: str, app: str) -> dict[str, Any]:
        return device.config(image, url, app)

    def address(self, onlooker: Onlooker, log: Path, app: str) -> str:
        found = re.search(r"listening on (\S+)", log.read_text() if log.exists() else "")
        return f"http://{found[1]}" if found else ""


class Container:
    """A container under runc, with its own network namespace, on a bridge that zedrouter makes.

    The whole demo runs in a network namespace then: bridges, addresses and rules are real and touch nothing of the
    machine's.
    """

    up: tuple[str, ...] = ("--set", "zedrouter.network=kernel")
    where = "in a network namespace of the demo's"
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
        absent = [package for program, package in self._programs if _which(program) is None]
        if absent:
            raise Unable(f"a container needs what is not installed here: apt-get install {' '.join(absent)}")
        if os.geteuid() != 0:
            raise Unable("a container needs root: run this as root (sudo scripts/demo --container)")

    def set_up(self) -> None:
        self.check()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise Unable(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def build(self, size: int) -> Image:
        try:
            return container.build("hello.tar", size)
        except container.MissingProgram as err:
            raise Unable(str(err)) from err

    def config(self, image: Image, url: str, app: str) -> dict[str, Any]:
        config = device.config(image, url, app)
        asked = config["apps"][0]
        asked["drives"][0]["image"]["iformat"] = "CONTAINER"
        asked["drives"][0]["readonly"] = False
        asked["interfaces"][0]["acls"] = [{"matches": [{"type": "ip", "value": "0.0.0.0/0"}], "id": 1}]
        return config

    def address(self, onlooker: Onlooker, log: Path, app: str) -> str:
        status = onlooker.networks.get(app)
        underlays = (status.UnderlayNetworkList or ()) if status is not None else ()
        return f"http://{underlays[0].AllocatedIPAddr}" if underlays and underlays[0].AllocatedIPAddr else ""


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
