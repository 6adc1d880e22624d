"""A whole device on a network of its own: all agents in the device namespace of a lab, nim and zedrouter in earnest.

What somebody outside sees of it (`page`, `connect`), what its tables and `pillar net` say. wired_config makes configs.

    def test_something(wired: WiredDevice) -> None:                    # pytest_plugins = ("wired_fixtures",)
        wired.deploy(config)
        wired.wait_running(app_id(vm), seconds=BOOT_S)
        wired.wait_page(8080, "from a VM")                             # through a port map of eth0

The tests of one module share a device, because its start and its guests' cost seconds: each leaves behind a config that
the next one can begin with.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path

from device import Device
from netlab import CONTROLLER_NAME, Namespace, NetLab
from routerlab import connect, fetch
from support import wait_for
from vm_images import BOOT_S, seed_kvm_answer

from pillar.types.nim import DeviceNetworkStatus, NetworkPortStatus
from pillar.types.zedrouter import AppNetworkStatus, UnderlayNetworkStatus

PING = "/api/v1/edgedevice/ping"  # what nim asks the controller for


class WiredDevice(Device):
    """See the module. `options` are further ones of `pillar up`, such as `--set domainmgr.stop-grace=1`."""

    def __init__(self, lab: NetLab, root: Path, *options: str) -> None:
        self.lab = lab
        seed_kvm_answer(root)
        (root / "config").mkdir()
        (root / "config" / "server").write_text(CONTROLLER_NAME)
        (root / "config" / "root-certificate.pem").write_bytes(lab.root_certificate.read_bytes())
        lab.serve(PING, b"")
        in_earnest = ("--set", "nim.ports=manage", "--set", "zedrouter.network=kernel")
        super().__init__(root, lab.device.enter, (*in_earnest, *options))

    # ---- from outside

    def page(self, port: int, address: str = "", seconds: float = 4.0) -> str:
        """What the device answers over HTTP at this port, of eth0 when no address is given; "" for nothing."""
        return fetch(self.lab.controller, f"http://{address or self.address('eth0')}:{port}/", seconds)

    def wait_page(self, port: int, text: str, uplink: str = "eth0") -> None:
        """Until that page is there, over this uplink."""
        own = self.wait_address(uplink)
        self.wait(lambda: text in self.page(port, own), f"{text!r} at {own}:{port}", BOOT_S)

    def connect(self, port: int) -> socket.socket:
        """A connection from outside to this port of eth0, once somebody answers there."""
        own = self.wait_address("eth0")
        made = self.wait(lambda: connect(self.lab.controller, own, port, 2), f"an answer at {own}:{port}", BOOT_S)
        assert made is not None
        return made

    # ---- what its tables say

    def port(self, name: str) -> NetworkPortStatus:
        """nim's word on this uplink."""
        table = self.table("nim", DeviceNetworkStatus)
        self.look()
        status = table.get("global")
        return next(
            (one for one in (status.Ports if status else None) or () if one.IfName == name), NetworkPortStatus()
        )

    def address(self, name: str) -> str:
        """The device's own address on this uplink, "" while it has none."""
        return next((info.Addr for info in self.port(name).AddrInfoList or () if ":" not in info.Addr), "")

    def wait_address(self, name: str) -> str:
        """The same once there is one."""
        return self.wait(lambda: self.address(name), f"an address on {name}", BOOT_S)

    def network(self, app: str) -> AppNetworkStatus:
        """What zedrouter says of the app."""
        table = self.table("zedrouter", AppNetworkStatus)
        self.look()
        return table.get(app) or AppNetworkStatus()

    def vif(self, app: str) -> UnderlayNetworkStatus:
        """The app's interface: its MAC, its address, whether the guest has asked for it (`Assigned`)."""
        return next(iter(self.network(app).UnderlayNetworkList or ()), UnderlayNetworkStatus())

    def inside(self, app: str) -> Namespace:
        """The network namespace of a container."""
        return Namespace.of(self.domain(app).DomainId)

    def processes(self, app: str) -> list[int]:
        """The main process of each domain that this app has: a QEMU, the first process of a container."""
        lock = f"PILLAR_ECO_LOCK={self.where.persist}/qemu/{app}.lock\0".encode()
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError):  # ended meanwhile
                    is_qemu = lock in (process / "environ").read_bytes()
                    is_first = re.search(r"^NSpid:\s+\d+\s+1$", (process / "status").read_text(), re.MULTILINE)
                    if is_qemu or (is_first and app in (process / "cgroup").read_text()):
                        found.append(int(process.name))
        return found

    def says(self, app: str, text: str, count: int = 1) -> None:
        """Until the app has printed this, so many times."""
        log = self.where.log(app)
        wait_for(lambda: log.exists() and log.read_bytes().count(text.encode()) >= count, f"{text!r} in {log}", BOOT_S)

    # ---- the kernel's network

    def difference(self) -> str:
        """What `pillar net --diff` prints when something differs, "" for nothing."""
        try:
            self.pillar("net", "--diff")  # exits with 1 when something does
        except AssertionError as error:
            return str(error).partition("\n---")[0]
        return ""

    def wait_no_difference(self, seconds: float = BOOT_S) -> None:
        """Until the kernel's network is as the tables want it."""
        told = [""]

        def none() -> bool:
            told[0] = self.difference()
            return not told[0]

        try:
            self.wait(none, "pillar net --diff to be empty", seconds)
        except BaseException as error:
            error.add_note(told[0])
            raise

    def dnsmasqs(self) -> list[int]:
        """The DHCP and DNS servers of the bridges."""
        found = []
        for pid in self.lab.device.pids():
            with contextlib.suppress(OSError):  # ended meanwhile
                if b"dnsmasq" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def kill_dnsmasqs(self) -> list[int]:
        """kill -9 for all of them; who they were."""
        killed = self.dnsmasqs()
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):  # one that had forked for a connection, and that has ended
                os.kill(pid, signal.SIGKILL)
        return killed


def ask_shell(address: str, port: int, command: str, seconds: float = 60.0) -> str:
    """What a command prints on a guest that has `nc -ll -p PORT -e sh`; call it where the guest can be reached."""
    with socket.create_connection((address, port), timeout=seconds) as shell:
        shell.sendall(command.encode() + b"\nexit\n")
        told = b""
        while data := shell.recv(65536):
            told += data
    return told.decode(errors="replace")
