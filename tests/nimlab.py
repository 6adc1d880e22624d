"""nim --ports manage in the device of a netlab, and what it says and does there.

pytest_plugins = ("netlab_fixtures", "nimlab_fixtures")

def test_something(managed: Managed) -> None:
    managed.overrides.write("good", Version=1, Ports=[static("192.168.10.9/24")])
    managed.agent.start()
    managed.wait_in_force("good")
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentproc import AgentProcess, Table
from netlab import CONTROLLER_NAME, NetLab
from servers import eventually, needs

PATIENCE_S = 60.0
PING = "/api/v1/edgedevice/ping"
DHCP, STATIC = 4, 1


def port(name: str = "eth0", dhcp: int = DHCP, **fields: Any) -> dict[str, Any]:
    return {"IfName": name, "Name": name, "IsMgmt": True, "Free": True, "Dhcp": dhcp} | fields


def static(address: str, gateway: str = "192.168.10.1", **fields: Any) -> dict[str, Any]:
    return port(dhcp=STATIC, AddrSubnet=address, Gateway=gateway, DnsServers=["192.168.10.1"], **fields)


class Managed:
    """nim in the lab's device, told by config/server that the lab's controller is its own."""

    def __init__(self, root: Path, lab: NetLab) -> None:
        needs("udhcpc", "udhcpc")
        self.root, self.lab = root, lab
        self.status = Table(root, "nim", "DeviceNetworkStatus")
        self.overrides = Table(root, "global", "DevicePortConfig")
        config = root / "config"
        config.mkdir()
        (config / "server").write_text(f"{CONTROLLER_NAME}\n")
        (config / "root-certificate.pem").write_bytes(lab.root_certificate.read_bytes())
        Table(root, "global", "GlobalConfig").write("global", NetworkTestTimeout=4, NetworkTestDuration=10)
        lab.serve(PING, b"")
        self.agent = AgentProcess(root, "nim", lab.device.enter)
        self.agent.command = (*self.agent.command, "--ports", "manage")

    # ---- what nim says

    def listed(self) -> dict[str, Any]:
        """The list; an empty one while there is none."""
        try:
            listed: dict[str, Any] = json.loads(
                (self.root / "persist/status/nim/DevicePortConfigList/global.json").read_bytes()
            )
        except FileNotFoundError:
            return {"PortConfigList": [], "CurrentIndex": -1}
        return listed

    def entry(self, key: str) -> dict[str, Any]:
        nothing = {"LastError": "", "LastFailed": "0001-01-01T00:00:00Z"}
        return next((entry for entry in self.listed()["PortConfigList"] or () if entry["Key"] == key), nothing)

    def wait_in_force(self, key: str) -> None:
        """Until this config is the chosen one, and known to work."""

        def chosen() -> bool:
            listed = self.listed()
            if listed["CurrentIndex"] < 0:
                return False
            entry = listed["PortConfigList"][listed["CurrentIndex"]]
            status = self.status.read("global") or {}
            works = entry["LastSucceeded"] > entry["LastFailed"] and not entry["LastError"]
            return entry["Key"] == key and works and status.get("Testing") is False

        try:
            eventually(chosen, f"config {key} in force", PATIENCE_S)
        except BaseException as error:
            error.add_note(f"{self.listed()}\n{self.agent.log_text}\n{self.lab.logs()}")
            raise

    def wait_failed(self, key: str, text: str) -> None:
        """Until this config has failed for this reason."""
        try:
            eventually(lambda: text in self.entry(key)["LastError"], f"config {key} failed with {text!r}", PATIENCE_S)
        except BaseException as error:
            error.add_note(f"{self.listed()}\n{self.agent.log_text}")
            raise
        assert not self.entry(key)["LastFailed"].startswith("0001-")

    def port(self, name: str) -> dict[str, Any]:
        """What nim says of the port; one without anything while it says nothing."""
        ports = (self.status.read("global") or {}).get("Ports") or ()
        return next((one for one in ports if one["IfName"] == name), {"Error": "", "Pacfile": ""})

    def shown(self, name: str) -> list[str]:
        """The port's IPv4 addresses as nim publishes them."""
        infos = self.port(name).get("AddrInfoList") or ()
        return [info["Addr"] for info in infos if ":" not in info["Addr"]]

    def shown_ipv6(self, name: str) -> list[str]:
        """The port's IPv6 addresses, without those of the link alone."""
        infos = self.port(name).get("AddrInfoList") or ()
        return [info["Addr"] for info in infos if ":" in info["Addr"] and not info["Addr"].startswith("fe80:")]

    def lease(self, name: str) -> str:
        """What the port's DHCP client wrote down, "" while it has no lease."""
        try:
            return (self.root / "run/nim/ports" / name / "lease").read_text()
        except FileNotFoundError:
            return ""

    # ---- what the kernel says

    def addresses(self, name: str) -> list[str]:
        found = json.loads(self.lab.device.run("ip", "-j", "-4", "addr", "show", "dev", name))
        return [f"{info['local']}/{info['prefixlen']}" for link in found for info in link.get("addr_info", ())]

    def default(self) -> list[str]:
        """The interfaces of the main table's default routes, the one in use first."""
        routes = json.loads(self.lab.device.run("ip", "-j", "-4", "route", "show", "default"))
        return [route["dev"] for route in sorted(routes, key=lambda route: route.get("metric", 0))]

    def rules(self) -> list[str]:
        found = json.loads(self.lab.device.run("ip", "-j", "rule"))
        return sorted(rule["src"] for rule in found if rule["priority"] == 15000)

    def clients(self) -> dict[str, list[int]]:
        """The DHCP clients by their interface; a client's child that is about to execute its script looks like it."""
        interfaces: dict[int, str] = {}
        parents: dict[int, int] = {}
        for pid in self.lab.device.pids():
            with contextlib.suppress(OSError):  # ended meanwhile
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"-i" in words:
                    parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                    interfaces[pid] = words[words.index(b"-i") + 1].decode()
        found: dict[str, list[int]] = {}
        for pid, interface in interfaces.items():
            if parents[pid] not in interfaces:
                found.setdefault(interface, []).append(pid)
        return found

    def wait(self, condition: Any, what: str) -> None:
        try:
            eventually(condition, what, PATIENCE_S)
        except BaseException as error:
            error.add_note(f"{self.status.read('global')}\n{self.agent.log_text}\n{self.lab.logs()}")
            raise

    @contextlib.contextmanager
    def no_address_is_lost(self) -> Iterator[None]:
        """The kernel tells of every IPv4 address that goes, for however short a time."""

        def listening() -> socket.socket:
            events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            events.bind((0, 0x10))  # RTMGRP_IPV4_IFADDR
            return events

        with self.lab.device.call(listening) as events:
            yield
            told = b""
            with contextlib.suppress(BlockingIOError):
                while datagram := events.recv(65536):
                    told += datagram
        kinds = []
        while told:
            length, kind = struct.unpack_from("=IH", told)
            kinds.append(kind)
            told = told[(length + 3) & ~3 :]
        assert 21 not in kinds, f"an address went: {kinds}"  # RTM_DELADDR
