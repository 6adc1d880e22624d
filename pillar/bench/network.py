"""zedrouter with --network kernel, in a network namespace of its own. Needs root, nft, dnsmasq and unshare.

From an app's config on disk to the kernel's rules, its vifs on their bridges and its leases in dnsmasq, which is the
last thing a pass does. The vifs stand ready, as a hypervisor makes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from pillar.bench.measure import RUNS, in_own_network, scratch
from pillar.locations import Locations
from pillar.pubsub import encode
from pillar.types.common import IpRange, UUIDandVersion
from pillar.types.enums import AddressType, DhcpType, NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceConfig
from pillar.types.nim import AddrInfo, DeviceNetworkStatus, NetworkPortStatus
from pillar.types.scalars import ip_net
from pillar.types.zedrouter import ACE, ACEMatch, AppNetworkConfig, UnderlayNetworkConfig

APPS: Final = 100
VIFS: Final = 2
RULES: Final = 20
PATIENCE_S: Final = 120.0
_PASS: Final = re.compile(r"a pass over the kernel's network: 0 steps, ([0-9.]+) ms")


def network() -> dict[str, float]:
    """net_apply_ms: one app with 2 vifs and 20 rules. net_100_s: a hundred such. net_noop_ms: a pass over those."""
    return in_own_network("pillar.bench.network", 10 * PATIENCE_S)


class _Router:
    """A zedrouter that two network instances are given to."""

    def __init__(self, root: Path) -> None:
        self.where = Locations(root)
        self.networks = [str(uuid.uuid4()) for _ in range(VIFS)]
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "cable")
        for name in ("eth0", "cable"):
            _run("ip", "link", "set", name, "up")
        _run("ip", "address", "add", "192.0.2.2/24", "dev", "eth0")
        port = NetworkPortStatus(
            IfName="eth0",
            Name="eth0",
            IsMgmt=True,
            Dhcp=DhcpType.CLIENT,
            Subnet=ip_net("192.0.2.0/24"),
            Gateway="192.0.2.1",
            AddrInfoList=(AddrInfo(Addr="192.0.2.2"),),
        )
        self._write("nim/DeviceNetworkStatus", "global", encode(DeviceNetworkStatus(Ports=(port,))))
        for number, network in enumerate(self.networks, 1):
            config = NetworkInstanceConfig(
                UUID=network,
                Type=NetworkInstanceType.LOCAL,
                Activate=True,
                Port="eth0",
                IpType=AddressType.IPV4,
                Subnet=ip_net(f"10.{number}.0.0/24"),
                Gateway=f"10.{number}.0.1",
                DhcpRange=IpRange(Start=f"10.{number}.0.2", End=f"10.{number}.0.254"),
            )
            self._write("zedagent/NetworkInstanceConfig", network, encode(config))
        (self.where.run / "zedmanager/AppNetworkConfig").mkdir(parents=True)
        command = [sys.executable, "-m", "pillar", "zedrouter", "--root", str(root), "--network", "kernel", "--debug"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def deploy(self, app: str) -> None:
        rules = tuple(
            ACE(
                RuleID=number,
                Matches=(
                    ACEMatch(Type="protocol", Value="tcp"),
                    ACEMatch(Type="ip", Value=f"198.51.100.{number}/32"),
                    ACEMatch(Type="fport", Value="443"),
                ),
            )
            for number in range(1, RULES + 1)
        )
        underlays = tuple(UnderlayNetworkConfig(Network=network, ACLs=rules) for network in self.networks)
        config = AppNetworkConfig(
            UUIDandVersion=UUIDandVersion(UUID=app, Version="1"), Activate=True, UnderlayNetworkList=underlays
        )
        self._write("zedmanager/AppNetworkConfig", app, encode(config))

    def undeploy(self, app: str) -> None:
        (self.where.run / f"zedmanager/AppNetworkConfig/{app}.json").unlink()

    def leases(self) -> list[int]:
        """For how many guests each dnsmasq has read its files, once it has."""
        directory = self.where.agent_dir("zedrouter")
        found = []
        for number in range(1, VIFS + 1):
            told = _newest(directory / f"dhcp-hosts.bn{number}")
            read = _newest(directory / f"dnsmasq.bn{number}.read")
            hosts = len(list((directory / f"dhcp-hosts.bn{number}").glob("*.inet"))) if told else -1
            found.append(hosts if read and read >= told else -1)
        return found

    def passes(self) -> list[float]:
        """Milliseconds of each pass that did nothing."""
        return [float(found) for found in _PASS.findall(self.where.log("zedrouter").read_text())]

    def close(self) -> None:
        from pillar.netplan.dnsmasq import find

        self._process.kill()
        self._process.wait()
        for running in find(self.where):
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)

    def _write(self, table: str, key: str, record: bytes) -> None:
        directory = self.where.run / table
        directory.mkdir(parents=True, exist_ok=True)
        staged = directory / f".{key}.new"
        staged.write_bytes(record)
        staged.rename(directory / f"{key}.json")


@contextlib.contextmanager
def _router() -> Iterator[_Router]:
    with scratch() as root:
        router = _Router(Path(root))
        try:
            _until(lambda: router.leases() == [0] * VIFS)
            yield router
        finally:
            router.close()


def measure() -> dict[str, float]:
    """All three figures; to be called in a namespace that may be changed."""
    with _router() as router:
        for number in range(1, APPS + 1):
            for position in range(1, VIFS + 1):
                _run(*f"ip link add nbu{position}x{number} type veth peer name g{position}x{number}".split())
        one = str(uuid.uuid4())
        taken = []
        for _ in range(RUNS):
            began = time.perf_counter()
            router.deploy(one)
            _until(lambda: router.leases() == [1] * VIFS)
            taken.append(time.perf_counter() - began)
            router.undeploy(one)
            _until(lambda: router.leases() == [0] * VIFS)
        began = time.perf_counter()
        for _ in range(APPS):
            router.deploy(str(uuid.uuid4()))
        _until(lambda: router.leases() == [APPS] * VIFS)
        hundred = time.perf_counter() - began
        time.sleep(1)  # the kernel's events about all that
        before = len(router.passes())
        for number in range(RUNS):
            _run("ip", "link", "set", "lo", "alias", f"look {number}")
            _until(partial(_more_passes, router, before + number))
        noop = statistics.median(router.passes()[before:])
    return {"net_apply_ms": 1e3 * statistics.median(taken), "net_100_s": hundred, "net_noop_ms": noop}


def _more_passes(router: _Router, than: int) -> bool:
    return len(router.passes()) > than


def _newest(path: Path) -> int:
    """When it last changed, in ns; 0 when it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("zedrouter did not get so far")
        time.sleep(0.001)


if __name__ == "__main__":
    print(json.dumps(measure()))
