"""zedrouter as a real process, fed by hand, killed at any moment: nothing is given twice, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import AgentProcess, Table
from servers import eventually

from pillar.cmd.zedrouter.ledger import Ledger
from pillar.cmd.zedrouter.numbers import APP_NUM, BRIDGE_NUM, HIGHEST, NoNumber
from pillar.pubsub import PubSub
from pillar.types.uuidtonum import UuidToNum


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


LAN, WAN = uuid(901), uuid(902)
SUBNET = {"IP": "10.1.0.0", "Mask": "////AA=="}


class Device:
    """A root with a zedrouter and the tables around it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instance_configs = Table(root, "zedagent", "NetworkInstanceConfig")
        self.app_configs = Table(root, "zedmanager", "AppNetworkConfig")
        self.ports = Table(root, "nim", "DeviceNetworkStatus")
        self.instances = Table(root, "zedrouter", "NetworkInstanceStatus")
        self.apps = Table(root, "zedrouter", "AppNetworkStatus")
        self.numbers = root / "persist" / "status" / "zedrouter" / "UuidToNum"
        self.agent = AgentProcess(root, "zedrouter")
        # What its publishers would have opened: without their tables nothing is known to be gone.
        for table in (self.instance_configs, self.app_configs, self.ports):
            table.directory.mkdir(parents=True)

    def plug(self, *names: str) -> None:
        infos = [{"Addr": "192.0.2.2"}]
        ports = [{"IfName": n, "Name": n, "IsMgmt": True, "Dhcp": 4, "AddrInfoList": infos} for n in names]
        self.ports.write("global", Version=1, Ports=ports)

    def lan(self, number: str = LAN, stem: str = "10.1.0", **fields: Any) -> None:
        record = {
            "UUID": number,
            "DisplayName": "lan",
            "Type": 2,
            "Activate": True,
            "Port": "eth0",
            "IpType": 1,
            "Subnet": {"IP": f"{stem}.0", "Mask": "////AA=="},
            "Gateway": f"{stem}.1",
            "DhcpRange": {"Start": f"{stem}.10", "End": f"{stem}.40"},
        }
        self.instance_configs.write(number, **record | fields)

    def app(self, number: int, *networks: str, **fields: Any) -> None:
        underlays = [{"Name": "eth0", "Network": network} for network in networks]
        record = {
            "UUIDandVersion": {"UUID": uuid(number), "Version": "1"},
            "DisplayName": f"app{number}",
            "Activate": True,
            "UnderlayNetworkList": underlays,
        }
        self.app_configs.write(uuid(number), **record | fields)

    def stored_numbers(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path in self.numbers.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # given back meanwhile
                found[path.stem] = json.loads(path.read_bytes())
        return found

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Every record zedrouter published: when it was written, and what."""
        paths = [*(self.root / "run" / "zedrouter").rglob("*.json"), *self.numbers.glob("*.json")]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.fixture
def device(root: Path) -> Iterator[Device]:
    device = Device(root)
    device.plug("eth0")
    yield device
    device.agent.kill()


def address_of(status: dict[str, Any]) -> str:
    address: str = status["UnderlayNetworkList"][0]["AllocatedIPAddr"]
    return address


def test_an_app_gets_its_network_and_gives_it_back(device: Device) -> None:
    device.lan()
    device.app(1, LAN)
    device.agent.start()
    status = device.apps.wait(uuid(1), Activated=True, Error="")
    assert (status["AppNum"], status["UnderlayNetworkList"][0]["Vif"]) == (1, "nbu1x1")
    vifs = [{"Name": "nbu1x1", "MacAddr": "00:16:3e:00:01:01", "AppID": uuid(1)}]
    instance = device.instances.wait(LAN, Activated=True, Vifs=vifs)
    assert instance["IPAssignments"] == {"00:16:3e:00:01:01": "10.1.0.10", "00:16:3e:06:00:01": "10.1.0.1"}
    assert {record["NumType"] for record in device.stored_numbers().values()} == {"appNum", "bridgeNum"}
    # The instance goes first, as when a device is undeployed: its bridge stays until the app has left.
    device.instance_configs.remove(LAN)
    device.instances.wait(LAN, ChangeInProgress=3, BridgeNum=1)
    device.apps.wait(uuid(1), Activated=True, MissingNetwork=True, Error="")  # nothing is wrong while it is held
    device.app_configs.remove(uuid(1))
    device.apps.wait_gone(uuid(1))
    device.instances.wait_gone(LAN)
    eventually(lambda: device.stored_numbers() == {}, "both numbers are free")


def test_a_person_can_see_that_the_kernel_is_left_alone(device: Device) -> None:
    device.agent.start()
    mode = Table(device.root, "zedrouter", "NetworkMode").wait("global")
    assert (mode["Mode"], mode["KernelChanged"]) == ("none", False)
    assert "--network none" in mode["Explanation"]
    assert "--network none" in device.agent.log_text


def test_errors_go_by_themselves_when_their_cause_goes(device: Device) -> None:
    device.agent.start()
    device.app(1, LAN)
    device.apps.wait(uuid(1), Activated=False, MissingNetwork=True)
    device.lan(Port="eth5")
    device.instances.wait(LAN, Error=lambda text: "'eth5' is not a port" in text)
    device.apps.wait(uuid(1), Activated=True, MissingNetwork=False, Error=lambda text: "is in error" in text)
    device.plug("eth0", "eth5")
    device.instances.wait(LAN, Error="", Activated=True)
    status = device.apps.wait(uuid(1), Error="", ErrorTime="0001-01-01T00:00:00Z")
    assert address_of(status) == "10.1.0.10"


def test_a_pool_and_an_address_that_are_freed_go_to_those_that_wait(device: Device) -> None:
    device.lan(DhcpRange={"Start": "10.1.0.10", "End": "10.1.0.11"})
    for number in (1, 2):
        device.app(number, LAN)
    device.agent.start()
    taken = {address_of(device.apps.wait(uuid(number), Activated=True, Error="")) for number in (1, 2)}
    assert taken == {"10.1.0.10", "10.1.0.11"}
    device.app(3, LAN)
    device.apps.wait(uuid(3), Error=lambda text: "no free address" in text)
    freed = address_of(device.apps.wait(uuid(1)))
    device.app_configs.remove(uuid(1))
    assert address_of(device.apps.wait(uuid(3), Error="")) == freed


def test_a_restart_with_nothing_changed_writes_nothing(device: Device) -> None:
    device.lan()
    device.lan(WAN, "10.7.0", Port="eth9")  # in error: its time must not move either
    device.app(1, LAN)
    device.app(2, WAN)
    device.app(3, uuid(77))
    device.agent.start()
    for number in (1, 2, 3):
        device.apps.wait(uuid(number))
    device.instances.wait(LAN, Vifs=lambda vifs: len(vifs) == 1)
    before = device.files()
    device.agent.kill()
    device.agent.start()
    eventually(lambda: (device.apps.directory / "restarted").read_text() == "2", "it has read everything")
    assert device.files() == before


def test_what_went_while_it_was_dead_is_removed_at_the_start(device: Device) -> None:
    device.lan()
    device.app(1, LAN)
    device.app(2, LAN)
    device.agent.start()
    kept = device.apps.wait(uuid(2), Activated=True)
    device.apps.wait(uuid(1), Activated=True)
    device.agent.kill()
    device.app_configs.remove(uuid(1))
    device.agent.start()
    device.apps.wait_gone(uuid(1))
    assert device.apps.read(uuid(2)) == kept


def test_numbers_survive_a_reboot(device: Device) -> None:
    device.lan()
    device.app(7, LAN)
    device.agent.start()
    device.apps.wait(uuid(7), AppNum=1)
    device.app(8, LAN)
    device.apps.wait(uuid(8), AppNum=2)
    device.agent.kill()
    for table in (device.apps, device.instances):  # /run does not survive one
        keys = table.keys()
        for key in keys:
            table.remove(key)
    device.app_configs.remove(uuid(7))
    device.agent.start()
    assert device.apps.wait(uuid(8))["AppNum"] == 2
    assert {key: record["InUse"] for key, record in device.stored_numbers().items() if key != LAN} == {
        uuid(7): False,  # a person can see whose number would be given away first
        uuid(8): True,
    }
    device.app(9, LAN)
    assert device.apps.wait(uuid(9))["AppNum"] == 3  # 1 may still come back
    device.app(7, LAN)
    assert device.apps.wait(uuid(7))["AppNum"] == 1


def test_numbers_of_what_did_not_come_back_are_freed_and_only_those(root: Path) -> None:
    with PubSub(root, "zedrouter") as pubsub:
        table = pubsub.publication(UuidToNum, persistent=True)
        ledger = Ledger(table, logging.getLogger("test"))
        for number in (1, 2, 3):
            assert ledger.number(uuid(number), APP_NUM, {}) == number
        ledger.free(uuid(1), BRIDGE_NUM)  # not a bridge's number
        assert ledger.forget_absent({uuid(1), uuid(3)}) == [uuid(2)]
        assert table.keys() == [uuid(1), uuid(3)]
        assert ledger.number(uuid(4), APP_NUM, {}) == 2


def test_when_every_number_is_stored_the_oldest_unused_one_changes_hands(root: Path) -> None:
    with PubSub(root, "zedrouter") as pubsub:
        ledger = Ledger(pubsub.publication(UuidToNum, persistent=True), logging.getLogger("test"))
        for number in range(1, HIGHEST + 1):
            ledger.number(uuid(number), APP_NUM, {})
        with pytest.raises(NoNumber):
            ledger.number(uuid(999), APP_NUM, {})
        ledger.rest({uuid(number) for number in range(1, HIGHEST + 1) if number != 77})
        assert ledger.number(uuid(999), APP_NUM, {}) == 77
    with PubSub(root, "zedrouter") as pubsub:  # as after a restart
        table = pubsub.publication(UuidToNum, persistent=True)
        assert uuid(77) not in table
        stored = table.get(uuid(999))
        assert stored is not None and stored.Number == 77


def test_an_app_with_the_uuid_of_an_instance_is_an_error_of_that_app_only(device: Device) -> None:
    device.lan()
    device.app(901, LAN)
    device.app(1, LAN)
    device.agent.start()
    device.apps.wait(LAN, Activated=False, Error=lambda text: "already has a number as a network instance" in text)
    device.apps.wait(uuid(1), Activated=True, Error="")
    device.app_configs.remove(LAN)
    device.apps.wait_gone(LAN)
    assert device.stored_numbers()[LAN]["NumType"] == "bridgeNum"
    device.instances.wait(LAN, Activated=True)


def test_before_the_configs_are_there_nothing_counts_as_gone(device: Device) -> None:
    device.lan()
    device.app(1, LAN)
    device.agent.start()
    status = device.apps.wait(uuid(1), Activated=True)
    device.agent.kill()
    for table in (device.app_configs, device.instance_configs):
        table.directory.rename(table.directory.with_name(".away"))
    device.agent.start()
    assert (device.apps.read(uuid(1)), device.instances.keys()) == (status, [LAN])
    for table in (device.app_configs, device.instance_configs):
        table.directory.with_name(".away").rename(table.directory)
    device.app(2, LAN)
    device.apps.wait(uuid(2), Activated=True)
    assert device.apps.read(uuid(1)) == status


def test_killed_again_and_again_it_never_gives_a_number_or_an_address_twice(device: Device) -> None:
    """Apps come and go while zedrouter is killed at random moments."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    device.lan()
    wanted: dict[int, str] = {}
    for _ in range(8):
        device.agent.start()
        until = time.monotonic() + chance.uniform(0.0, 0.15)
        while time.monotonic() < until or len(wanted) < 3:
            number = chance.randrange(1, 13)
            if wanted.pop(number, ""):
                device.app_configs.remove(uuid(number))
            else:
                wanted[number] = LAN
                device.app(number, LAN)
        device.agent.kill()  # only now do all files together show one moment
        check_nothing_is_given_twice(device)
    device.agent.start()
    for number in wanted:
        device.apps.wait(uuid(number), Activated=True, Error="")
    eventually(lambda: device.apps.keys() == sorted(uuid(number) for number in wanted), "only the wanted apps are left")
    check_nothing_is_given_twice(device)
    macs = {status["UnderlayNetworkList"][0]["Mac"] for status in map(device.apps.read, device.apps.keys()) if status}
    bridge = "00:16:3e:06:00:01"
    device.instances.wait(LAN, IPAssignments=lambda given: set(given) == {*macs, bridge})


def check_nothing_is_given_twice(device: Device) -> None:
    statuses = [status for status in map(device.apps.read, device.apps.keys()) if status is not None]
    stored = device.stored_numbers()
    numbers = [status["AppNum"] for status in statuses]
    addresses = [u["AllocatedIPAddr"] for status in statuses for u in status["UnderlayNetworkList"] or ()]
    assert len(set(numbers)) == len(numbers)
    assert len(set(addresses)) == len(addresses)
    given = [(record["NumType"], record["Number"]) for record in stored.values()]
    assert len(set(given)) == len(given)
