"""A zedrouter with `--network kernel` in the device of a lab, fed by hand, and guests on its bridges.

A guest is a namespace with one end of a veth; the other end stands in the device under the vif's planned name, with the
planned MAC at the guest's side, as a hypervisor's backend makes it. It gets its address with udhcpc.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentproc import AgentProcess, Table
from netlab import Namespace, NetLab
from servers import eventually, needs

PATIENCE_S = 60.0
ALLOW_ALL = {"Matches": [{"Type": "ip", "Value": "0.0.0.0/0"}], "RuleID": 1}
_SCRIPT = """#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev $interface
ip addr add $ip/$mask dev $interface
[ -n "$router" ] && ip route add default via $router
echo "$dns" > $(dirname $0)/dns.$interface
"""


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


LAN, WAN, SWITCH = uuid(901), uuid(902), uuid(903)
OWN = {"eth0": "192.168.10.2", "eth1": "192.168.20.2"}


def rule(number: int, action: dict[str, Any] | None = None, direction: int = 0, **matches: str) -> dict[str, Any]:
    """An access rule."""
    listed = [{"Type": kind, "Value": value} for kind, value in matches.items()]
    return {"Matches": listed, "Actions": [action] if action else None, "RuleID": number, "Dir": direction}


PORT_MAP = rule(1, {"PortMap": True, "TargetPort": 80}, protocol="tcp", lport="8080")


class Router:
    """The device: its tables, its zedrouter, and its uplinks configured by hand."""

    def __init__(self, lab: NetLab, root: Path, directory: Path) -> None:
        needs("nft", "nftables")
        needs("busybox", "busybox-static")
        needs("conntrack", "conntrack")
        self.lab, self.root, self.directory = lab, root, directory
        self.instance_configs = Table(root, "zedagent", "NetworkInstanceConfig")
        self.app_configs = Table(root, "zedmanager", "AppNetworkConfig")
        self.ports = Table(root, "nim", "DeviceNetworkStatus")
        self.instances = Table(root, "zedrouter", "NetworkInstanceStatus")
        self.apps = Table(root, "zedrouter", "AppNetworkStatus")
        for table in (self.instance_configs, self.app_configs, self.ports):
            table.directory.mkdir(parents=True)
        self.agent = AgentProcess(root, "zedrouter", lab.device.enter)
        self.agent.command = (*self.agent.command, "--network", "kernel")
        self.guests: list[Namespace] = []
        self.script = directory / "udhcpc.sh"
        self.script.write_text(_SCRIPT)
        self.script.chmod(0o755)
        for uplink, address in OWN.items():
            lab.device.run("ip", "addr", "add", f"{address}/24", "dev", uplink)
            lab.device.run("ip", "link", "set", uplink, "up")

    def plug(self, *names: str, **fields: Any) -> None:
        """What nim says: these uplinks, with the addresses they have."""
        ports = [
            {
                "IfName": name,
                "Name": name,
                "IsMgmt": True,
                "Free": True,
                "Dhcp": 4,
                "Gateway": self.lab.router(name),
                "DnsServers": [self.lab.router(name)],
                "Subnet": {"IP": f"{OWN[name].rpartition('.')[0]}.0", "Mask": "////AA=="},
                "AddrInfoList": [{"Addr": OWN[name]}],
                **fields,
            }
            for name in names
        ]
        self.ports.write("global", Version=1, Ports=ports)

    def instance(self, number: str = LAN, stem: str = "10.1.0", **fields: Any) -> None:
        record = {
            "UUID": number,
            "DisplayName": f"net{number[-3:]}",
            "Type": 2,
            "Activate": True,
            "Port": "uplink",
            "IpType": 1,
            "Subnet": {"IP": f"{stem}.0", "Mask": "////AA=="},
            "Gateway": f"{stem}.1",
            "DhcpRange": {"Start": f"{stem}.10", "End": f"{stem}.40"},
        }
        self.instance_configs.write(number, **record | fields)

    def app(self, number: int, *networks: str, acls: list[dict[str, Any]] | None = None, **fields: Any) -> None:
        rules = [ALLOW_ALL] if acls is None else acls
        underlays = [{"Name": f"eth{n}", "Network": network, "ACLs": rules} for n, network in enumerate(networks)]
        record = {
            "UUIDandVersion": {"UUID": uuid(number), "Version": "1"},
            "DisplayName": f"app{number}",
            "Activate": True,
            "UnderlayNetworkList": underlays,
        }
        self.app_configs.write(uuid(number), **record | fields)

    def up(self, number: int, **wanted: Any) -> dict[str, Any]:
        """The app's status once it is activated without an error."""
        return self.apps.wait(uuid(number), PATIENCE_S, **{"Activated": True, "Error": ""} | wanted)

    def address(self, number: int, position: int = 0) -> str:
        return str(self.up(number)["UnderlayNetworkList"][position]["AllocatedIPAddr"])

    def guest(self, number: int, *, lease: bool = True) -> Namespace:
        """A guest of this app with an interface for each of its vifs, and leases for those."""
        space = Namespace(f"{self.lab.device.name}-g{number}")
        self.guests.append(space)
        space.create()
        status = self.up(number)
        for position, vif in enumerate([*(status["OverlayNetworkList"] or ()), *(status["UnderlayNetworkList"] or ())]):
            name = f"eth{position}"
            self.lab.device.run(
                *("ip", "link", "add", vif["Vif"], "type", "veth", "peer", "name", name),
                *("address", vif["Mac"], "netns", space.name),
            )
            space.run("ip", "link", "set", name, "up")
            self.lab.device.run("ip", "link", "set", vif["Vif"], "up")
            if lease:
                self.lease(space, name)
        return space

    def lease(self, guest: Namespace, interface: str = "eth0") -> None:
        guest.run(
            *("busybox", "udhcpc", "-i", interface, "-n", "-q", "-f", "-t", "60", "-T", "1", "-s", str(self.script)),
            timeout_s=90,
        )

    # ---- looking

    def links(self) -> dict[str, dict[str, Any]]:
        found = json.loads(self.lab.device.run("ip", "-j", "-d", "link"))
        return {link["ifname"]: link for link in found}

    def nft(self) -> str:
        return self.lab.device.run("nft", "list", "ruleset")

    def pillar_net(self, *options: str) -> str:
        """What `pillar net` prints; `--diff` must find nothing."""
        done = self._pillar_net(options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pillar_net_unchecked(self, *options: str) -> str:
        return self._pillar_net(options).stdout

    def _pillar_net(self, options: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.lab.device.enter, sys.executable, "-m", "pillar", "net", "--root", str(self.root), *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def close(self) -> None:
        self.agent.kill()
        for guest in self.guests:
            with contextlib.suppress(AssertionError):
                guest.delete()


def fetch(guest: Namespace, url: str, seconds: float = 20.0) -> str:
    """What the guest gets from this URL, "" when it gets nothing in time."""

    def get() -> str:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    return guest.call(get)


def comes(condition: Callable[[], Any], what: str) -> Any:
    return eventually(condition, what, PATIENCE_S)


def serve(space: Any, port: int, *, version: int = 4) -> socket.socket:
    """A listening socket inside a namespace; it lives in this process."""
    family, host = (socket.AF_INET, "0.0.0.0") if version == 4 else (socket.AF_INET6, "::")
    made: socket.socket = space.call(lambda: socket.create_server((host, port), family=family))
    made.settimeout(30)
    return made


def connect(space: Any, address: str, port: int, seconds: float = 30.0) -> socket.socket | None:
    """A connection opened inside a namespace; None when nothing answers in time."""

    def open_it() -> socket.socket | None:
        try:
            return socket.create_connection((address, port), timeout=seconds)
        except OSError:
            return None

    made: socket.socket | None = space.call(open_it)
    return made


def talks(one: socket.socket, other: socket.socket, seconds: float = 30.0) -> bool:
    """Does a word get across, both ways?"""
    word = os.urandom(8)
    try:
        for sender, receiver in ((one, other), (other, one)):
            receiver.settimeout(seconds)
            sender.sendall(word)
            if receiver.recv(8, socket.MSG_WAITALL) != word:
                return False
    except OSError:
        return False
    return True


def flow(router: Router, guest: Any, port: int = 8080, guest_port: int = 80) -> tuple[socket.socket, socket.socket]:
    """A connection from outside through a port map: (outside, guest)."""
    with serve(guest, guest_port) as server:
        outside = comes(lambda: connect(router.lab.controller, "192.168.10.2", port, 2), "the port map answers")
        inside, _ = server.accept()
    return outside, inside


def vif_of(router: Router, number: int) -> str:
    return str(router.up(number)["UnderlayNetworkList"][0]["Vif"])


def counter(router: Router, number: int, name: str) -> int:
    vifs = json.loads(router.pillar_net("--json"))["desired"]["vifs"]
    return int(vifs[vif_of(router, number)]["counters"][name]["packets"])
