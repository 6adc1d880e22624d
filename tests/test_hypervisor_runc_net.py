"""Containers with interfaces: in their own network namespace, on a bridge, addressed by a real DHCP server."""

import itertools
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import DEADLINE_S, SERVICE, UUID, Machine, needs_runc
from netlab import Namespace, needs_netlab
from servers import needs
from support import wait_for

from pillar.demo import container
from pillar.hypervisors import CannotRun, HypervisorError, Phase
from pillar.types.zedrouter import VifInfo

MAC, OTHER_MAC = "00:16:3e:00:01:05", "00:16:3e:00:02:05"
ADDRESS, OTHER_ADDRESS = "10.1.0.5", "10.2.0.5"
VIF = VifInfo(Bridge="bn1", Vif="nbu1x5", Mac=MAC)
OTHER_VIF = VifInfo(Bridge="bn2", Vif="nbu2x5", Mac=OTHER_MAC)
_numbers = itertools.count()


class Bridges:
    """A namespace with the bridges bn1 and bn2, a DHCP server on each, as zedrouter makes them."""

    def __init__(self, directory: Path) -> None:
        needs_netlab()
        self.directory = directory
        # The lab's kind of name, so that the labs' sweep takes it when this process is killed.
        self.device = Namespace(f"plab{os.getpid()}-9{next(_numbers)}-runc")
        self.device.create()
        for number in (1, 2):
            self.device.run("ip", "link", "add", f"bn{number}", "type", "bridge")
            self.device.run("ip", "address", "add", f"10.{number}.0.1/24", "dev", f"bn{number}")
            self.device.run("ip", "link", "set", f"bn{number}", "up")

    def serve(self) -> None:
        self.device.popen(
            *(needs("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null", "--port=0"),
            *("--dhcp-range=10.1.0.2,static,255.255.255.0,600", "--dhcp-range=10.2.0.2,static,255.255.255.0,600"),
            *(f"--dhcp-host={MAC},{ADDRESS}", f"--dhcp-host={OTHER_MAC},{OTHER_ADDRESS}"),
            *("--interface=bn1,bn2", "--bind-interfaces", "--dhcp-authoritative", "--no-ping", "--user=root"),
            *("--dhcp-option=option:dns-server,10.1.0.1", "--dhcp-option=option:domain-name,eco.test"),
            *(f"--dhcp-leasefile={self.leases}", f"--pid-file={self.directory}/dnsmasq.pid"),
        )
        wait_for(lambda: ":67 " in self.device.run("ss", "-Hlun"), "dnsmasq to listen", DEADLINE_S)

    @property
    def leases(self) -> Path:
        return self.directory / "leases"

    def links(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.device.run("ip", "-j", "link"))}

    def get(self, address: str) -> str:
        """What the container answers, asked over its bridge."""

        def ask() -> str:
            with urllib.request.urlopen(f"http://{address}/", timeout=5) as answer:
                return str(answer.read().decode())

        def answer() -> str:
            try:
                return self.device.call(ask)
            except OSError:
                return ""

        return wait_for(answer, f"an answer from {address}", DEADLINE_S)


@pytest.fixture
def bridges(tmp_path: Path) -> Iterator[Bridges]:
    needs_runc()
    bridges = Bridges(tmp_path)
    yield bridges
    bridges.device.delete()


@pytest.fixture
def machine(tmp_path: Path, bridges: Bridges) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    bridges.device.call(lambda: machine.backend.stop(UUID, 0))
    machine.backend.cleanup(UUID)
    assert machine.leaves_nothing()
    assert bridges.links() == {"lo", "bn1", "bn2"}


def test_a_container_gets_its_address_and_answers_on_its_bridge(
    machine: Machine, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillar.hypervisors.runc.LEASE_WAIT_S", DEADLINE_S)
    bridges.serve()
    spec = machine.spec(container.build("hello", 0).content, VifList=(VIF, OTHER_VIF))
    machine.backend.prepare(spec)
    pid = bridges.device.call(lambda: machine.backend.start(spec))
    assert "hello from eco" in bridges.get(ADDRESS)
    assert "hello from eco" in bridges.get(OTHER_ADDRESS)
    # It had both before it was started, and its lease is what zedrouter looks for.
    machine.says(f"addresses: lo 127.0.0.1/8 eth0 {ADDRESS}/24 eth1 {OTHER_ADDRESS}/24")
    leases = [line.split()[1:4] for line in bridges.leases.read_text().splitlines()]
    assert {(mac, address) for mac, address, _ in leases} == {(MAC, ADDRESS), (OTHER_MAC, OTHER_ADDRESS)}
    assert UUID in [name for _, _, name in leases]  # one server gives one name once; zedrouter has one for each bridge
    root = Path(f"/proc/{pid}/root")
    assert (root / "etc/resolv.conf").read_text().splitlines()[:2] == ["search eco.test", "nameserver 10.1.0.1"]
    names = (root / "etc/hosts").read_text().splitlines()
    assert {f"{ADDRESS}\t{UUID}", f"{OTHER_ADDRESS}\t{UUID}"} <= set(names)
    assert (root / "etc/hostname").read_text() == f"{UUID}\n"
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert bridges.links() >= {"nbu1x5", "nbu2x5"}
    bridges.device.call(lambda: machine.backend.stop(UUID, 0))
    assert not bridges.links() & {"nbu1x5", "nbu2x5"}


def test_without_a_server_it_starts_all_the_same_and_gets_its_address_later(machine: Machine, bridges: Bridges) -> None:
    spec = machine.spec(container.build("hello", 0).content, VifList=(VIF,))
    machine.backend.prepare(spec)
    bridges.device.call(lambda: machine.backend.start(spec))
    machine.says("addresses: lo 127.0.0.1/8")
    bridges.serve()
    assert "hello from eco" in bridges.get(ADDRESS)


def test_an_address_client_that_was_killed_is_started_again(machine: Machine, bridges: Bridges) -> None:
    bridges.serve()
    spec = machine.domain(SERVICE, VifList=(VIF,))
    machine.backend.prepare(spec)
    bridges.device.call(lambda: machine.backend.start(spec))
    # While it runs its script there are two for a moment.
    [first] = wait_for(lambda: found if len(found := clients(machine)) == 1 else [], "the client", DEADLINE_S)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: any(pid != first for pid in clients(machine)), "a new client", DEADLINE_S)
    bridges.device.call(lambda: machine.backend.stop(UUID, 0))
    assert clients(machine) == []


@pytest.mark.parametrize("victim", ["container", "parent", "both"])
def test_killed_it_leaves_no_client_and_the_next_start_has_its_vifs_again(
    machine: Machine, bridges: Bridges, victim: str
) -> None:
    bridges.serve()
    spec = machine.spec(container.build("hello", 0).content, VifList=(VIF,))
    machine.backend.prepare(spec)
    pid = bridges.device.call(lambda: machine.backend.start(spec))
    parent = machine.parent
    for target in {"container": [pid], "parent": [parent], "both": [parent, pid]}[victim]:
        os.kill(target, signal.SIGKILL)
    wait_for(lambda: clients(machine) == [], "the clients to end", DEADLINE_S)
    if victim == "parent":
        assert "hello from eco" in bridges.get(ADDRESS)  # nobody who uses it notices
        assert machine.look().domain_id == pid
    else:
        machine.ended()
    bridges.device.call(lambda: machine.backend.stop(UUID, 0))
    machine.backend.prepare(spec)
    bridges.device.call(lambda: machine.backend.start(spec))
    assert "hello from eco" in bridges.get(ADDRESS)


def test_a_vif_that_cannot_be_made_is_an_error_and_leaves_no_container(machine: Machine, bridges: Bridges) -> None:
    bridges.device.run("ip", "link", "add", "nbu1x5", "type", "bridge")  # somebody else's
    spec = machine.domain(SERVICE, VifList=(OTHER_VIF, VIF))
    machine.backend.prepare(spec)
    with pytest.raises(HypervisorError, match="nbu1x5"):
        bridges.device.call(lambda: machine.backend.start(spec))
    assert machine.look().phase is Phase.GONE
    bridges.device.call(lambda: machine.backend.stop(UUID, 0))
    assert machine.leaves_nothing()
    assert bridges.links() == {"lo", "bn1", "bn2", "nbu1x5"}
    bridges.device.run("ip", "link", "del", "nbu1x5")


def test_a_machine_without_a_dhcp_client_says_what_to_install(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = machine.domain(SERVICE, VifList=(VIF,))
    monkeypatch.setattr("pillar.hypervisors._address.shutil.which", lambda name, path=None: None)
    monkeypatch.setattr("pillar.hypervisors.runc._runc", lambda: "/usr/sbin/runc")
    with pytest.raises(CannotRun, match="needs ip to get its addresses: apt-get install"):
        machine.backend.prepare(spec)


def clients(machine: Machine) -> list[int]:
    """The DHCP clients of this root's containers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if bytes(machine.data) in words and b"udhcpc" in words:
                found.append(int(entry.name))
    return found
