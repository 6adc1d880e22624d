"""nim's decisions about port configs, from values: which is tried, which is kept, what the kernel should have."""

from __future__ import annotations

import datetime
import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pillar.cmd.nim import findings, verify
from pillar.cmd.nim.dhcp import LEASE, SCRIPT
from pillar.cmd.nim.facts import Address, Facts, Link
from pillar.cmd.nim.leases import Lease, parse_lease, read_lease
from pillar.cmd.nim.portconfigs import LAST_RESORT, ZEDAGENT, Source, merge
from pillar.cmd.nim.probe import Answer
from pillar.cmd.nim.request import Target, Way
from pillar.cmd.nim.verify import Finding, Trial, Word
from pillar.cmd.nim.wiring import FIRST_TABLE, MAIN_TABLE, Change, Route, Rule, Wiring, difference, plan
from pillar.globalconfig import DEFAULTS
from pillar.types.enums import DhcpType, NetworkProxyType
from pillar.types.nim import DevicePortConfig, DevicePortConfigList, NetworkPortConfig, ProxyEntry
from pillar.types.scalars import Time

START = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def at(seconds: float) -> Time:
    moment = START + datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def port(name: str = "eth0", **fields: Any) -> NetworkPortConfig:
    given: dict[str, Any] = {"IfName": name, "Name": name, "IsMgmt": True, "Free": True, "Dhcp": DhcpType.CLIENT}
    return NetworkPortConfig(**given | fields)


def config(key: str, when: float = 0, *ports: NetworkPortConfig) -> DevicePortConfig:
    return DevicePortConfig(Version=1, Key=key, TimePriority=at(when), Ports=ports or (port(),))


def listed(*configs: DevicePortConfig) -> DevicePortConfigList:
    return DevicePortConfigList(CurrentIndex=-1, PortConfigList=configs)


def in_force(configs: DevicePortConfigList) -> str:
    return (configs.PortConfigList or ())[configs.CurrentIndex].Key


# ---- the trial


class Device:
    """A list and what each of its configs is like; time passes only when nim waits."""

    def __init__(self, like: dict[str, Finding]) -> None:
        self.like = like
        self.configs = listed(*(config(key, -number) for number, key in enumerate(like)))
        self.trial = Trial()
        self.clock = 0.0
        self.tested: list[str] = []

    def look(self) -> None:
        """As `manage` does it: settle, find out, judge; the time runs to the next look when nothing is known yet."""
        self.trial = verify.settle(self.configs, self.trial, at(self.clock))
        assert self.trial.config is not None
        before = self.trial
        if self.trial.testing and self.tested[-1:] != [self.trial.config.Key]:
            self.tested.append(self.trial.config.Key)
        found = self.like[self.trial.config.Key]
        overdue = not self.trial.testing
        for _ in range(2):
            self.configs, self.trial = verify.judge(self.configs, self.trial, found, at(self.clock), overdue=overdue)
            if self.trial != before:
                break
            self.clock += verify.patience_s(self.trial, DEFAULTS)
            overdue = True
        assert self.trial.config is not None
        here = (self.configs.PortConfigList or ())[self.configs.CurrentIndex]
        assert here.Key == self.trial.config.Key  # the list always names the one in the kernel

    def run(self, looks: int = 60) -> None:
        for _ in range(looks):
            self.look()
            if not self.trial.testing:
                return
        pytest.fail(f"still testing {self.trial}")

    def stamps(self, key: str) -> DevicePortConfig:
        return next(one for one in self.configs.PortConfigList or () if one.Key == key)


WORKS = Finding(Word.WORKS, had_address=True)
FAILS = Finding(Word.FAILS, "no answer", had_address=True)
NOTHING = Finding(Word.WAITING, "no address")
REMOTE = Finding(Word.REMOTE, "connection refused", had_address=True)


@pytest.mark.parametrize("kinds", list(itertools.product((WORKS, FAILS, NOTHING, REMOTE), repeat=3)))
def test_whatever_three_configs_are_like_the_newest_that_works_ends_up_in_force(kinds: tuple[Finding, ...]) -> None:
    device = Device(dict(zip("abc", kinds, strict=True)))
    device.run()
    good = [key for key, kind in device.like.items() if kind.word in (Word.WORKS, Word.REMOTE)]
    if good:
        assert in_force(device.configs) == good[0]
        assert not device.trial.guess
        assert device.tested == ["a", "b", "c"][: "abc".index(good[0]) + 1]
    else:
        addressed = [key for key, kind in device.like.items() if kind.had_address]
        assert in_force(device.configs) == (addressed or ["a"])[0]
        assert device.trial.guess
        assert device.tested == ["a", "b", "c"]
    for key in device.tested:
        stamps, kind = device.stamps(key), device.like[key]
        assert stamps.LastError == kind.text
        assert (stamps.LastFailed > at(-1)) is (kind.word in (Word.FAILS, Word.WAITING))
        assert (stamps.LastSucceeded > at(-1)) is (kind.word is Word.WORKS)


def test_a_config_without_an_address_is_given_five_test_durations() -> None:
    device = Device({"a": NOTHING, "b": WORKS})
    device.run()
    assert device.clock == 5 * DEFAULTS.NetworkTestDuration


@pytest.mark.parametrize("kind", [FAILS, NOTHING])
def test_one_failed_check_is_tolerated_and_the_second_begins_a_round(kind: Finding) -> None:
    device = Device({"a": WORKS, "b": WORKS})
    device.run()
    device.like["a"] = kind
    device.look()
    assert (in_force(device.configs), device.trial.testing, device.trial.misses) == ("a", False, 1)
    device.like["a"] = WORKS
    device.look()
    assert device.trial.misses == 0
    device.like["a"] = kind
    device.look()
    device.look()
    assert device.stamps("a").LastError == kind.text
    device.run()
    assert in_force(device.configs) == "b"


def test_a_controller_that_is_not_well_is_waited_for_and_nothing_is_changed() -> None:
    device = Device({"a": WORKS, "b": WORKS})
    device.run()
    device.like["a"] = REMOTE
    for _ in range(5):
        device.look()
        assert (in_force(device.configs), device.trial.testing) == ("a", False)
    assert device.stamps("a").LastError == "connection refused"


def test_when_nothing_works_the_last_that_worked_is_kept_and_it_is_tried_again_later() -> None:
    device = Device({"a": FAILS, "b": WORKS, "c": FAILS})
    device.run()
    assert in_force(device.configs) == "b"
    device.like["b"] = FAILS
    device.clock += 1000
    for _ in range(20):
        device.look()
        if device.trial.guess:
            break
    assert (in_force(device.configs), device.trial.guess) == ("b", True)
    tested, clock = len(device.tested), device.clock
    device.like["a"] = WORKS
    device.clock += 1000
    device.look()
    device.run()
    assert in_force(device.configs) == "a"
    assert device.clock - clock < 1000 + 2 * DEFAULTS.NetworkTestInterval
    assert len(device.tested) > tested


def test_a_newer_config_is_tried_at_once_and_an_older_one_is_not() -> None:
    device = Device({"b": WORKS})
    device.run()
    device.like |= {"a": FAILS, "z": WORKS}
    device.configs = listed(config("a", 9), *(device.configs.PortConfigList or ()), config("z", -9))
    device.trial = verify.settle(device.configs, device.trial, at(device.clock))
    assert device.trial.testing and device.trial.config is not None and device.trial.config.Key == "a"
    device.run()
    assert in_force(device.configs) == "b"


def test_a_better_config_is_tried_again_but_not_one_that_just_failed_unless_a_port_came_up() -> None:
    device = Device({"a": FAILS, "b": WORKS})
    device.run()
    assert verify.retry(device.configs, device.trial, at(device.clock + 59)) is device.trial
    again = verify.retry(device.configs, device.trial, at(device.clock + 61))
    assert again.testing and again.config is not None and again.config.Key == "a"
    assert verify.retry(device.configs, device.trial, at(device.clock), at_once=True).testing
    best = Device({"a": WORKS, "b": WORKS})
    best.run()
    assert verify.retry(best.configs, best.trial, at(1000)) is best.trial


def test_a_withdrawn_config_is_followed_by_the_best_one_left() -> None:
    device = Device({"a": WORKS, "b": FAILS, "c": WORKS})
    device.run()
    device.configs = listed(*(device.configs.PortConfigList or ())[1:])
    device.run()
    assert in_force(device.configs) == "c"
    assert verify.settle(listed(), device.trial, at(0)) == Trial()


def test_a_killed_nim_goes_on_with_the_config_it_was_at() -> None:
    device = Device({"a": FAILS, "b": WORKS})
    assert verify.resume(device.configs) == Trial()
    device.look()  # a failed; the list points at b, which was not asked yet
    resumed = verify.resume(device.configs)
    assert resumed.testing and resumed.config is not None and resumed.config.Key == "b"
    device.run()
    assert not verify.resume(device.configs).testing


def test_a_clock_that_was_set_back_does_not_keep_a_config_from_being_tried() -> None:
    ahead = replace(config("a"), LastFailed=at(10_000), LastError="x")
    assert verify.settle(listed(ahead), Trial(), at(0)).testing


# ---- the controller's older configs


def test_the_controllers_older_configs_stay_up_to_the_first_that_ever_worked() -> None:
    stored = DevicePortConfigList()
    for number, worked in enumerate((True, True, False, False)):
        new = config(ZEDAGENT, number, port(f"eth{number}"))
        stored = merge(stored, Source({ZEDAGENT: new}, complete=True), Source(complete=True), None)
        first, *rest = stored.PortConfigList or ()
        stored = listed(replace(first, LastSucceeded=at(number)) if worked else replace(first, LastFailed=at(1)), *rest)
    names = [(one.Ports or ())[0].IfName for one in stored.PortConfigList or ()]
    assert names == ["eth3", "eth2", "eth1"]
    for number in range(4, 20):  # and not without limit
        new = config(ZEDAGENT, number, port(f"eth{number}"))
        stored = merge(stored, Source({ZEDAGENT: new}, complete=True), Source(complete=True), None)
    names = [(one.Ports or ())[0].IfName for one in stored.PortConfigList or ()]
    assert names == ["eth19", "eth18", "eth17", "eth16", "eth15", "eth1"]


def test_the_controllers_present_config_is_its_newest_whatever_its_clock_said() -> None:
    stored = listed(config(ZEDAGENT, 10_000, port("eth0")))
    found = merge(stored, Source({ZEDAGENT: config(ZEDAGENT, 5, port("eth1"))}, complete=True), Source(), None)
    assert [(one.Ports or ())[0].IfName for one in found.PortConfigList or ()] == ["eth1", "eth0"]


def test_a_controller_that_starts_again_and_a_last_resort_with_another_port_are_the_same_configs() -> None:
    tested = replace(config(ZEDAGENT, 0), LastSucceeded=at(1))
    last = replace(config(LAST_RESORT, -99), LastSucceeded=at(2))
    found = merge(
        listed(tested, last), Source({ZEDAGENT: config(ZEDAGENT, 50)}), Source(), config(LAST_RESORT, -99, port("eth5"))
    )
    assert [one.LastSucceeded for one in found.PortConfigList or ()] == [at(1), at(2)]


# ---- what is known about a config

ETH0 = Link(2, "eth0", ethernet=True, up=True, carrier=True)
ETH1 = Link(3, "eth1", ethernet=True, up=True, carrier=True)
OUT = Address(2, "192.0.2.7", 24)
LEASES = {"eth0": Lease("192.0.2.7", 24, "192.0.2.1", ("192.0.2.53",))}
TARGET = Target("https://controller.test/ping")


def found(
    *ports: NetworkPortConfig,
    links: tuple[Link, ...] = (ETH0, ETH1),
    addresses: tuple[Address, ...] = (OUT,),
    problems: dict[str, str] | None = None,
    answer: Answer | None = None,
    ask: bool = True,
    patient: bool = False,
    held: dict[str, str] | None = None,
    now: Time = "2026-01-02T03:04:05Z",
) -> Finding:
    facts = Facts(links, addresses, managed=True, leases=LEASES, problems=problems or {})
    wanted = config("x", 0, *ports)
    usable = findings.ways(wanted, facts, TARGET if ask else None)
    tried = dict.fromkeys(usable, answer) if answer is not None else {}
    return findings.finding(wanted, facts, tried, usable, ask=ask, patient=patient, held=held or {}, now=now)


NO = Answer(text="eth0 192.0.2.7: timed out")


@pytest.mark.parametrize(
    ("expected", "text", "arguments"),
    [
        (Word.WORKS, "", {"answer": Answer(works=True)}),
        (Word.WAITING, "being asked", {}),
        (Word.FAILS, "timed out", {"answer": NO}),
        (Word.REMOTE, "expired", {"answer": Answer(remote=True, text="certificate has expired")}),
        (Word.WAITING, "no DHCP server answers", {"addresses": ()}),
        (Word.WAITING, "no carrier", {"links": (Link(2, "eth0", ethernet=True, up=True),)}),
        (Word.FAILS, "port eth0 does not exist", {"links": ()}),
        (Word.FAILS, "no such luck", {"problems": {"eth0": "no such luck"}}),
        (Word.WORKS, "", {"ask": False}),
        (Word.WAITING, "no address", {"ask": False, "addresses": ()}),
        (Word.WORKS, "", {"answer": NO, "now": "1970-01-01T00:01:00Z"}),
        (Word.FAILS, "belongs to app 1234", {"held": {"eth0": "1234"}}),
        (Word.WAITING, "set aside", {"held": {"eth0": ""}, "links": (), "addresses": ()}),
    ],
)
def test_what_a_port_is_like_tells_about_its_config(expected: Word, text: str, arguments: dict[str, Any]) -> None:
    finding = found(port(), **arguments)
    assert finding.word is expected
    assert text in finding.text


def test_one_port_that_works_is_enough_and_one_that_may_come_is_waited_for_at_first() -> None:
    pair = (port("eth0"), port("eth1"))
    assert found(*pair, answer=Answer(works=True)).word is Word.WORKS
    assert found(*pair, answer=NO, patient=True).word is Word.WAITING
    late = found(*pair, answer=NO)
    assert late.word is Word.FAILS
    assert late.text == "eth0 192.0.2.7: timed out; port eth1 has no address, no DHCP server answers"


def test_a_config_without_a_management_port_fails() -> None:
    assert "for management" in found(port(IsMgmt=False)).text


def test_free_ports_are_asked_first_by_their_own_proxy_and_name_servers() -> None:
    proxies = (ProxyEntry(Type=NetworkProxyType.HTTPS, Server="http://proxy.test", Port=3128),)
    paid = port("eth0", Free=False, Proxies=proxies)
    free = port("eth1", Dhcp=DhcpType.STATIC, DnsServers=("198.51.100.53",))
    addresses = (OUT, Address(3, "198.51.100.7", 24), Address(3, "fe80::1", 64))
    facts = Facts((ETH0, ETH1), addresses, managed=True, leases=LEASES)
    assert findings.ways(config("x", 0, paid, free), facts, TARGET) == (
        Way("eth1", "198.51.100.7", ("198.51.100.53",)),
        Way("eth0", "192.0.2.7", ("192.0.2.53",), "http://proxy.test:3128"),
    )
    direct = config("x", 0, replace(paid, Exceptions="*.test, 10.0.0.0/8"))
    assert [way.proxy for way in findings.ways(direct, facts, TARGET)] == [""]
    nameless = config("x", 0, replace(free, DnsServers=None))
    assert findings.ways(nameless, facts, TARGET) == ()
    assert len(findings.ways(nameless, facts, Target("http://203.0.113.1/"))) == 1


# ---- what the kernel should have


def test_a_port_has_its_address_a_table_of_its_own_and_a_default_route_while_it_has_a_carrier() -> None:
    wanted = plan(config("x"), (ETH0,), LEASES)
    own = FIRST_TABLE + 2
    assert wanted.dhcp == ("eth0",)
    assert wanted.wiring == Wiring(
        ports=frozenset({2}),
        addresses=frozenset({OUT}),
        routes=frozenset(
            {
                Route(2, "192.0.2.0/24", table=own),
                Route(2, "0.0.0.0/0", "192.0.2.1", own),
                Route(2, "0.0.0.0/0", "192.0.2.1", MAIN_TABLE, 100),
            }
        ),
        rules=frozenset({Rule("192.0.2.7/32", own)}),
    )
    dead = plan(config("x"), (Link(2, "eth0", ethernet=True, up=True),), LEASES).wiring
    assert {route.table for route in dead.routes} == {own}
    assert plan(config("x"), (ETH0,), {}).wiring == Wiring(ports=frozenset({2}))


def test_free_ports_carry_the_traffic_first() -> None:
    ports = (
        port("eth0", Free=False),
        port("eth1", Dhcp=DhcpType.STATIC, AddrSubnet="198.51.100.7/24", Gateway="198.51.100.1"),
    )
    routes = plan(config("x", 0, *ports), (ETH0, ETH1), LEASES).wiring.routes
    metrics = {route.index: route.metric for route in routes if route.table == MAIN_TABLE}
    assert metrics[3] < metrics[2]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"AddrSubnet": "rubbish"}, "AddrSubnet is 'rubbish'"),
        ({"AddrSubnet": ""}, "AddrSubnet is ''"),
        ({"AddrSubnet": "192.0.2.0/24"}, "the subnet and no address in it"),
        ({"AddrSubnet": "192.0.2.7/24", "Gateway": "198.51.100.1"}, "Gateway 198.51.100.1 is not in the port's subnet"),
        ({"AddrSubnet": "2001:db8::7/64", "Gateway": "192.0.2.1"}, "Gateway 192.0.2.1 is not in"),
    ],
)
def test_a_static_port_that_cannot_be_says_why_and_the_others_are_set_up(fields: dict[str, Any], problem: str) -> None:
    bad = port("eth1", Dhcp=DhcpType.STATIC, **fields)
    wanted = plan(config("x", 0, bad, port("eth0")), (ETH0, ETH1), LEASES)
    assert problem in wanted.problems["eth1"]
    assert wanted.wiring.addresses == {OUT}


def test_ports_for_switches_and_members_of_bridges_are_left_alone() -> None:
    member = Link(3, "eth1", ethernet=True, up=True, carrier=True, master=9)
    wanted = plan(config("x", 0, port("eth0", Dhcp=DhcpType.NONE), port("eth1")), (ETH0, member), LEASES)
    assert wanted.wiring == Wiring()
    assert "bridge" in wanted.problems["eth1"]


def test_the_difference_touches_what_is_nims_and_nothing_else() -> None:
    goal = plan(config("x"), (ETH0,), LEASES).wiring
    assert difference(goal, replace_ports(goal), (ETH0,)) == []
    others = Wiring(
        addresses=frozenset({Address(9, "10.0.0.1", 8), Address(2, "fe80::1", 64), Address(2, "fd00::5", 64, True)}),
        routes=frozenset({Route(9, "0.0.0.0/0", "10.0.0.2", protocol=3), Route(2, "0.0.0.0/0", "1.1.1.1", 77, 0, 3)}),
    )
    assert difference(Wiring(ports=frozenset({2})), others, ()) == []
    theirs = Wiring(
        addresses=frozenset({Address(2, "192.0.2.99", 24)}),
        routes=frozenset({Route(2, "0.0.0.0/0", "192.0.2.1", protocol=16)}),
    )
    gone = difference(Wiring(ports=frozenset({2})), theirs, ())
    assert [(change.action, change.thing) for change in gone] == [
        ("del", Route(2, "0.0.0.0/0", "192.0.2.1", protocol=16)),
        ("del", Address(2, "192.0.2.99", 24)),
    ]
    assert difference(goal, Wiring(), (Link(2, "eth0", ethernet=True),))[0] == Change("up", None, 2)


def replace_ports(wiring: Wiring) -> Wiring:
    """The same as the kernel tells it, which knows no ports."""
    return Wiring(addresses=wiring.addresses, routes=wiring.routes, rules=wiring.rules)


@pytest.mark.parametrize("seed", range(4))
def test_applying_the_difference_leaves_none(seed: int) -> None:
    """From any wiring to any other: added and deleted as told, nothing is left to do."""
    names = ("eth0", "eth1")
    links = (ETH0, ETH1)
    wirings = []
    for first, second in itertools.product((None, "192.0.2.7/24", "192.0.2.8/24", "2001:db8::1/64"), repeat=2):
        ports = [
            port(name, Dhcp=DhcpType.STATIC, AddrSubnet=address, Gateway="")
            for name, address in zip(names, (first, second), strict=True)
            if address
        ]
        wirings.append(plan(config("x", 0, *ports) if ports else None, links, {}).wiring)
    for old, new in itertools.islice(itertools.product(wirings, repeat=2), seed, None, 4):
        owned = Wiring(old.ports | new.ports, new.addresses, new.routes, new.rules)
        things = {*old.addresses, *old.routes, *old.rules}
        for change in difference(owned, replace_ports(old), links):
            (things.add if change.action == "add" else things.discard)(change.thing)  # type: ignore[arg-type]
        assert things == {*new.addresses, *new.routes, *new.rules}


# ---- leases


def script(tmp_path: Path, event: str, client: str = "", **given: str) -> Lease | None:
    """Run the client's script as udhcpc does; from a shell of its own, whose pid is the client's."""
    lease = tmp_path / "lease"
    environment = {"PATH": "/usr/bin:/bin", LEASE: str(lease)} | given
    subprocess.run(["sh", "-c", f"{SCRIPT} {event}; exit 0"], env=environment, check=True, timeout=60)
    return read_lease(lease)


GIVEN = {
    "ip": "192.0.2.7",
    "mask": "24",
    "router": "192.0.2.1 192.0.2.2",
    "dns": "192.0.2.53 192.0.2.54",
    "ntpsrv": "192.0.2.123",
    "lease": "3600",
    "domain": "barn.example",
}


def test_the_clients_script_writes_a_lease_that_is_read_and_drops_it_when_it_is_lost(tmp_path: Path) -> None:
    lease = script(tmp_path, "bound", **GIVEN)
    assert lease is not None
    assert (lease.address, lease.prefix_len, lease.gateway) == ("192.0.2.7", 24, "192.0.2.1")
    assert (lease.dns_servers, lease.ntp_server) == (("192.0.2.53", "192.0.2.54"), "192.0.2.123")
    assert lease.domain == "barn.example"
    assert 3000 < lease.expires_s < float("inf")
    assert script(tmp_path, "deconfig") == lease  # another client, which has just been started
    assert script(tmp_path, "leasefail") == lease
    assert script(tmp_path, "nak") is None
    both = f"bound; {SCRIPT} deconfig"  # the client's own lease ran out
    assert script(tmp_path, both, **GIVEN) is None


def test_a_lease_with_rubbish_in_it_is_none_or_harmless(tmp_path: Path) -> None:
    smuggled = script(tmp_path, "bound", **GIVEN | {"domain": "x\naddress=203.0.113.66\ndns=203.0.113.66"})
    assert smuggled is not None and smuggled.address == "192.0.2.7"
    assert smuggled.dns_servers == ("192.0.2.53", "192.0.2.54")
    for wrong in ({"ip": "0.0.0.0"}, {"ip": "rubbish"}, {"mask": "33"}, {"lease": ""}, {"ip": "127.0.0.1"}):
        assert script(tmp_path, "bound", **GIVEN | wrong) is None
    text = "address=192.0.2.7\nprefix=24\nobtained=5.5\nseconds=4294967295\nrouters=x 224.0.0.1\n"
    lease = parse_lease(text)
    assert lease is not None and (lease.gateway, lease.expires_s) == ("", float("inf"))
    assert parse_lease("") is None
