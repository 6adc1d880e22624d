"""nim: which ports, which addresses. Decisions from values; the agent with real interfaces in its own namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import AgentProcess, Table
from msgspec.structs import replace
from servers import eventually

from pillar.cmd.nim.facts import Address, Facts, Link, could_be_port, parse_resolv_conf, read_resolv_conf
from pillar.cmd.nim.portconfigs import EPOCH, LAST_RESORT, ZEDAGENT, Source, filled_in, in_force, last_resort, merge
from pillar.cmd.nim.status import device_network_status
from pillar.types.enums import DhcpType
from pillar.types.nim import DeviceNetworkStatus, DevicePortConfig, DevicePortConfigList, NetworkPortConfig
from pillar.types.scalars import ZERO_TIME, ip_net

NOW = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T03:04:06Z"
ETH0 = Link(2, "eth0", ethernet=True, up=True)
FACTS = Facts(
    links=(Link(1, "lo"), ETH0, Link(3, "eth1", ethernet=True)),
    addresses=(Address(2, "fe80::1", 64), Address(2, "fd00::2", 64), Address(2, "192.0.2.2", 24)),
    gateways=((2, "192.0.2.1"), (2, "fd00::1")),
    dns_servers=("192.0.2.53",),
    domain="barn.example",
)


def port(name: str = "eth0", **fields: Any) -> NetworkPortConfig:
    given: dict[str, Any] = {"IfName": name, "Name": name, "IsMgmt": True, "Free": True, "Dhcp": DhcpType.CLIENT}
    return NetworkPortConfig(**given | fields)


def config(key: str, when: str, *ports: NetworkPortConfig) -> DevicePortConfig:
    return DevicePortConfig(Version=1, Key=key, TimePriority=when, Ports=ports or (port(),))


# ---- which ports


@pytest.mark.parametrize(
    ("link", "answer"),
    [
        (Link(1, "lo"), False),
        (ETH0, True),
        (Link(2, "v0", ethernet=True, kind="veth"), True),
        (Link(2, "bond0", ethernet=True, kind="bond"), True),
        (Link(2, "eth3", ethernet=True, master=9), False),
        (Link(2, "bn1", ethernet=True, kind="bridge"), False),
        (Link(2, "nbu1x1", ethernet=True, kind="tun"), False),
        (Link(2, "wg0", kind="wireguard"), False),
    ],
)
def test_an_interface_that_could_lead_out_is_told_from_others(link: Link, answer: bool) -> None:
    assert could_be_port(link) is answer


def test_the_last_resort_is_every_free_interface_with_dhcp() -> None:
    found = last_resort(FACTS.links, frozenset({"eth1"}))
    assert (found.Key, found.TimePriority, found.Version) == (LAST_RESORT, EPOCH, 1)
    assert found.Ports == (port("eth0"),)


def test_what_a_person_leaves_out_of_an_override_is_filled_in() -> None:
    given = DevicePortConfig(Ports=(NetworkPortConfig(IfName="eth0"),))
    filled = filled_in(given, "usb", LATER)
    assert (filled.Key, filled.TimePriority, (filled.Ports or ())[0].Name) == ("usb", LATER, "eth0")
    assert filled_in(config("mine", NOW), "usb", LATER) == config("mine", NOW)


def keys(found: DevicePortConfigList) -> list[str]:
    return [one.Key for one in found.PortConfigList or ()]


def test_the_newest_config_is_in_force_and_the_last_resort_is_last() -> None:
    zedagent = Source({ZEDAGENT: config(ZEDAGENT, NOW)})
    overrides = Source({"usb": config("usb", LATER), "old": config("old", EPOCH)})
    found = merge(DevicePortConfigList(), zedagent, overrides, config(LAST_RESORT, EPOCH))
    assert (keys(found), found.CurrentIndex) == (["usb", ZEDAGENT, "old", LAST_RESORT], 0)
    chosen = in_force(found)
    assert chosen is not None and chosen.Key == "usb"


def test_without_any_config_there_is_none_in_force() -> None:
    found = merge(DevicePortConfigList(), Source(), Source(), None)
    assert (found.CurrentIndex, in_force(found)) == (-1, None)


def test_a_known_config_stays_until_its_source_has_spoken() -> None:
    stored = DevicePortConfigList(PortConfigList=(config(ZEDAGENT, NOW), config("usb", NOW)))
    assert keys(merge(stored, Source(), Source(), None)) == [ZEDAGENT, "usb"]
    assert keys(merge(stored, Source(complete=True), Source(), None)) == ["usb"]
    assert keys(merge(stored, Source(), Source(complete=True), None)) == [ZEDAGENT]


def test_the_last_resort_goes_when_it_is_switched_off() -> None:
    stored = DevicePortConfigList(PortConfigList=(config(LAST_RESORT, EPOCH),))
    assert keys(merge(stored, Source(), Source(), None)) == []


def test_what_testing_found_stays_with_an_unchanged_config() -> None:
    tested = replace(config(ZEDAGENT, NOW), LastSucceeded=NOW)
    stored = DevicePortConfigList(PortConfigList=(tested,))
    same = merge(stored, Source({ZEDAGENT: config(ZEDAGENT, NOW)}), Source(), None)
    assert same.PortConfigList == (tested,)
    other = merge(stored, Source({ZEDAGENT: config(ZEDAGENT, NOW, port("eth1"))}), Source(), None)
    assert (other.PortConfigList or ())[0].LastSucceeded == ZERO_TIME


# ---- the status


def status(*ports: NetworkPortConfig, facts: Facts = FACTS, before: DeviceNetworkStatus | None = None) -> Any:
    return device_network_status(config("x", NOW, *ports), facts, before, NOW)


def test_a_port_shows_what_the_kernel_and_the_resolver_say() -> None:
    (shown,) = status(port(Free=False)).Ports
    assert [info.Addr for info in shown.AddrInfoList] == ["192.0.2.2", "fd00::2", "fe80::1"]
    assert (shown.Gateway, shown.Subnet) == ("192.0.2.1", ip_net("192.0.2.0/24"))
    assert (shown.DnsServers, shown.DomainName) == (("192.0.2.53",), "barn.example")
    assert (shown.IsMgmt, shown.Free, shown.Error, shown.ErrorTime) == (True, False, "", ZERO_TIME)


def test_static_settings_are_shown_as_the_config_gives_them() -> None:
    given = port(Dhcp=DhcpType.STATIC, AddrSubnet="10.1.0.2/16", DnsServers=("9.9.9.9",), DomainName="own.example")
    (shown,) = status(replace(given, IfName="eth1", Gateway="10.1.0.1")).Ports
    assert (shown.Subnet, shown.Gateway) == (ip_net("10.1.0.0/16"), "10.1.0.1")
    assert (shown.DnsServers, shown.DomainName, shown.AddrInfoList) == (("9.9.9.9",), "own.example", ())


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (port("eth7"), "port eth7 does not exist"),
        (port(""), "names no interface"),
        (port(Dhcp=DhcpType.STATIC, AddrSubnet="rubbish"), "AddrSubnet is 'rubbish'"),
        (port(Dhcp=DhcpType.STATIC), "AddrSubnet is empty"),
    ],
)
def test_a_wrong_port_says_what_is_wrong_and_the_others_work(wanted: NetworkPortConfig, error: str) -> None:
    bad, good = status(wanted, port("eth1")).Ports
    assert error in bad.Error
    assert bad.ErrorTime == NOW
    assert good.Error == ""


def test_a_port_listed_twice_is_told() -> None:
    assert all("more than once" in shown.Error for shown in status(port(), port(Name="again")).Ports)


def test_the_controllers_own_error_keeps_its_time() -> None:
    (shown,) = status(port(ParseError="bad proxy", ParseErrorTime=EPOCH)).Ports
    assert (shown.Error, shown.ErrorTime) == ("bad proxy", EPOCH)


def test_an_error_that_stays_keeps_its_time() -> None:
    wanted = config("x", NOW, port("eth7"))
    before = device_network_status(wanted, FACTS, None, NOW)
    assert device_network_status(wanted, FACTS, before, LATER) == before


def test_a_resolv_conf_is_read_as_libc_reads_it(tmp_path: Path) -> None:
    text = (
        "# by hand\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver rubbish\nnameserver\nsearch a.example b\n"
    )
    assert parse_resolv_conf(text) == (("10.0.0.1", "fe80::1"), "a.example")
    assert read_resolv_conf(tmp_path / "missing") == ((), "")
    os.mkfifo(tmp_path / "fifo")
    assert read_resolv_conf(tmp_path / "fifo") == ((), "")  # and does not wait for a writer


# ---- the agent, in a namespace of its own


def _namespaces() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "-Urn", "ip", "link"], capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not _namespaces(), reason="no unprivileged network namespaces, or no iproute2")


class Box:
    """A nim in a network namespace with only a loopback, and a hand in that namespace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.resolv_conf = root / "etc" / "resolv.conf"
        self.resolv_conf.parent.mkdir()
        self.resolv_conf.write_text("nameserver 192.0.2.53\n")
        # A process that holds the namespace, so that nim can be killed and started in the same one.
        command = ["unshare", "-Urn", "sh", "-c", "ip link set lo up && echo ready && exec sleep 600"]
        self.keeper = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.keeper.stdout is not None
        assert self.keeper.stdout.readline() == b"ready\n"
        self.enter = ("nsenter", "--preserve-credentials", "-U", "-n", "-t", str(self.keeper.pid))
        self.agent = AgentProcess(root, "nim", self.enter)
        self.agent.command = (*self.agent.command, "--resolv-conf", str(self.resolv_conf))
        self.status = Table(root, "nim", "DeviceNetworkStatus")
        self.overrides = Table(root, "global", "DevicePortConfig")
        self.list = root / "persist" / "status" / "nim" / "DevicePortConfigList" / "global.json"

    def ip(self, words: str) -> None:
        subprocess.run([*self.enter, "ip", *words.split()], check=True, timeout=20)

    def port(self, name: str, **wanted: Any) -> dict[str, Any]:
        """The port of this name, once it has these values."""

        def there() -> dict[str, Any] | None:
            record = self.status.read("global")
            for one in (record or {}).get("Ports") or ():
                if one["IfName"] == name and all(one[field] == value for field, value in wanted.items()):
                    found: dict[str, Any] = one
                    return found
            return None

        return eventually(there, f"port {name} with {wanted}")

    def close(self) -> None:
        self.agent.kill()
        self.keeper.kill()
        self.keeper.wait(timeout=10)
        if self.keeper.stdout is not None:
            self.keeper.stdout.close()


@pytest.fixture
def box(root: Path) -> Iterator[Box]:
    box = Box(root)
    yield box
    box.close()


def addresses(shown: dict[str, Any]) -> list[str]:
    return [info["Addr"] for info in shown["AddrInfoList"] if not info["Addr"].startswith("fe80:")]


@needs_namespaces
def test_with_only_a_loopback_there_are_no_ports(box: Box) -> None:
    box.agent.start()
    assert box.status.wait("global") == {"Version": 1, "Testing": False, "Ports": []}
    assert box.agent.inotify_instances() == 1


@needs_namespaces
def test_links_addresses_and_routes_are_seen_as_they_come_and_go(box: Box) -> None:
    box.agent.start()
    box.ip("link add up0 type veth peer name far0")
    box.port("up0", AddrInfoList=[])
    box.ip("addr add 192.0.2.7/24 dev up0")
    box.ip("link set up0 up")
    box.ip("link set far0 up")
    eventually(lambda: addresses(box.port("up0")) == ["192.0.2.7"], "the address")
    box.ip("route add default via 192.0.2.1 dev up0")
    shown = box.port("up0", Gateway="192.0.2.1", Subnet={"IP": "192.0.2.0", "Mask": "////AA=="})
    assert shown["DnsServers"] == ["192.0.2.53"]
    box.ip("addr add 2001:db8::7/64 dev up0 nodad")
    eventually(lambda: addresses(box.port("up0")) == ["192.0.2.7", "2001:db8::7"], "both addresses")
    box.ip("link set up0 down")  # takes the route along, and the IPv6 address
    box.port("up0", Gateway="")
    box.ip("addr del 192.0.2.7/24 dev up0")
    eventually(lambda: addresses(box.port("up0")) == [], "no address is left")
    box.ip("link del up0")
    box.status.wait("global", Ports=[])


@needs_namespaces
def test_new_name_servers_are_seen_at_once(box: Box) -> None:
    box.ip("link add up0 type veth peer name far0")
    box.agent.start()
    box.port("up0", DnsServers=["192.0.2.53"])
    staged = box.resolv_conf.with_name("resolv.conf.new")
    staged.write_text("search barn.example\nnameserver 198.51.100.53\n")
    staged.rename(box.resolv_conf)
    box.port("up0", DnsServers=["198.51.100.53"], DomainName="barn.example")
    box.resolv_conf.unlink()
    box.port("up0", DnsServers=[])


@needs_namespaces
def test_without_inotify_to_be_had_nim_still_tells_what_the_kernel_has(box: Box) -> None:
    limit = "/proc/sys/user/max_inotify_instances"
    if subprocess.run([*box.enter, "test", "-w", limit], check=False).returncode:
        pytest.skip("this machine has no user namespaces with limits of their own")
    subprocess.run([*box.enter, "sh", "-c", f"echo 0 >{limit}"], check=True, timeout=20)
    box.ip("link add eth0 type veth peer name far")
    box.agent.start()
    assert box.port("eth0")["IfName"] == "eth0"


@needs_namespaces
def test_an_override_file_by_hand_takes_over_and_gives_back(box: Box) -> None:
    box.ip("link add up0 type veth peer name far0")
    box.agent.start()
    box.port("up0", Free=True)
    ports = [
        {"IfName": "up0", "Name": "metered", "IsMgmt": True, "Free": False, "Dhcp": 4},
        {"IfName": "up9", "IsMgmt": True},
    ]
    box.overrides.write("usb", Version=1, Ports=ports)
    box.port("up0", Free=False, Name="metered")
    assert "does not exist" in box.port("up9", Name="up9")["Error"]
    box.ip("link add up9 type veth peer name far9")
    box.port("up9", Error="", ErrorTime="0001-01-01T00:00:00Z")
    listed = json.loads(box.list.read_text())
    assert [one["Key"] for one in listed["PortConfigList"]] == ["usb", "lastresort"]
    box.overrides.remove("usb")
    box.port("up0", Free=True, Name="up0")


@needs_namespaces
def test_the_last_resort_can_be_switched_off(box: Box) -> None:
    box.ip("link add up0 type veth peer name far0")
    box.agent.start()
    box.port("up0")
    own = Table(box.root, "nim", "DevicePortConfig")
    assert own.keys() == ["lastresort"]
    Table(box.root, "global", "GlobalConfig").write("global", NetworkFallbackAnyEth=1, SshAccess=True, UsbAccess=True)
    box.status.wait("global", Ports=[])
    own.wait_gone("lastresort")


@needs_namespaces
def test_the_controllers_config_survives_a_reboot_until_zedagent_has_spoken(box: Box) -> None:
    box.ip("link add up0 type veth peer name far0")
    zedagent = Table(box.root, "zedagent", "DevicePortConfig")
    when = "2026-01-02T03:04:05Z"
    wanted = [{"IfName": "up0", "Name": "from-zedagent", "IsMgmt": True, "Dhcp": 4}]
    zedagent.write("zedagent", Version=1, TimePriority=when, Ports=wanted)
    box.agent.start()
    box.port("up0", Name="from-zedagent")
    box.agent.kill()
    shutil.rmtree(box.root / "run")
    box.agent.start()
    box.port("up0", Name="from-zedagent")
    zedagent.directory.mkdir(parents=True)
    (zedagent.directory / "restarted").write_text("1")  # zedagent has read its config, and there are no ports in it
    box.port("up0", Name="up0")


@needs_namespaces
def test_a_restart_with_nothing_changed_writes_nothing(box: Box) -> None:
    box.ip("link add up0 type veth peer name far0")
    box.ip("addr add 192.0.2.7/24 dev up0")
    box.overrides.write("usb", Version=1, Ports=[{"IfName": "up0"}, {"IfName": "up9"}])
    box.agent.start()
    assert "does not exist" in box.port("up9")["Error"]

    def files() -> dict[str, tuple[int, bytes]]:
        paths = [*(box.root / "run" / "nim").rglob("*.json"), box.list]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    before = files()
    assert len(before) == 3
    box.agent.kill()
    box.ip("link set lo down")  # what is no port's business is no reason either
    box.agent.start()
    eventually(lambda: (box.status.directory / "restarted").read_text() == "2", "it has read everything")
    box.ip("link set lo up")
    assert files() == before
