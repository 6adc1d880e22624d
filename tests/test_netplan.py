"""The plan of the kernel's network: nftables that the real nft takes and gives back, and differences that end."""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from netlab import Namespace, needs_netlab
from servers import needs

from pillar.locations import Locations
from pillar.netplan import firewall, nft
from pillar.netplan.acl import host_names, nft_rules
from pillar.netplan.difference import DeleteLink, SetMaster, difference
from pillar.netplan.dnsmasq import Dnsmasqs, files, write
from pillar.netplan.rules import judge
from pillar.netplan.state import Actual, Bridge, Dhcp, Link, NetState, Vif, alias_of, mark_of
from pillar.types.enums import ACEDirection
from pillar.types.zedrouter import ACE, ACEAction, ACEMatch

MARK = "pillar-test"
_numbers = itertools.count()


@pytest.fixture
def space() -> Iterator[Namespace]:
    needs_netlab()
    needs("nft", "nftables")
    made = Namespace(f"plab{os.getpid()}-{next(_numbers)}-nft")
    made.create()
    try:
        yield made
    finally:
        made.delete()


def ace(number: int = 1, action: ACEAction | None = None, direction: int = 0, **matches: str) -> ACE:
    return ACE(
        RuleID=number,
        Matches=tuple(ACEMatch(Type=kind, Value=value) for kind, value in matches.items()),
        Actions=(action,) if action else None,
        Dir=ACEDirection(direction),
    )


LIMIT = ACEAction(Limit=True, LimitRate=10, LimitUnit="s", LimitBurst=5)
PORT_MAP = ACEAction(PortMap=True, TargetPort=80)
RULES = (
    ace(1, ip="10.0.0.0/8"),
    ace(2, ip="0.0.0.0/0"),
    ace(3, ip="::/0"),
    ace(4, ip="fd00::/64", protocol="tcp", fport="443"),
    ace(5, protocol="icmp"),
    ace(6, protocol="58"),
    ace(7, ACEAction(Drop=True), protocol="udp", fport="53", ip="8.8.8.8"),
    ace(8, LIMIT, protocol="sctp", lport="1000:2000"),
    ace(9, ACEAction(Limit=True, LimitRate=1, LimitUnit="h"), ip="192.0.2.0/24"),
    ace(10, PORT_MAP, protocol="tcp", lport="8080"),
    ace(11, PORT_MAP, protocol="udp", lport="5353", ip="192.0.2.7"),
    ace(12, interface="uplink", protocol="tcp"),
    ace(13, direction=1, ip="192.0.2.0/24"),
    ace(14, direction=2, ip="192.0.2.0/24"),
    ace(15, host="example.com", protocol="tcp", fport="80"),
    ace(16, host="named.by.config"),
    ace(17, host="192.0.2.9"),
    ace(18, eidset=""),
    ace(-1, protocol="gre"),
    ace(19),
)
PORTS = {"uplink": ("eth0", "eth1"), "eth0": ("eth0",)}


def vif(number: int, bridge: int, address: str, *, switch: bool = False, rules: tuple[ACE, ...] = RULES) -> Vif:
    return Vif(
        f"app{number}",
        f"nbu1x{number}",
        f"bn{bridge}",
        "underlay 1",
        number,
        f"00:16:3e:00:01:{number:02x}",
        "" if switch else address,
        switch,
        rules if not switch else tuple(rule for rule in rules if fits_a_switch(rule)),
        ("fd00::5", "192.0.2.5"),
        {"named.by.config": ("192.0.2.6", "fd00::6")},
        PORTS,
        "" if switch else "eth0",
    )


def fits_a_switch(rule: ACE) -> bool:
    return not any(match.Type == "interface" or match.Value == "example.com" for match in rule.Matches or ())


def bridge(number: int, address: str = "", *, switch: bool = False) -> Bridge:
    mac = f"00:16:3e:06:00:{number:02x}"
    return Bridge(f"instance{number}", f"bn{number}", mac, switch=switch, address=address, uplink="eth0")


def state(*vifs: Vif) -> NetState:
    bridges = (
        bridge(1, "10.1.0.1/24"),
        bridge(2, "fd01::1/64"),
        bridge(3, switch=True),
        bridge(4, "fe80::1/64"),
    )
    return NetState(MARK, {one.name: one for one in bridges}, vifs)


WHOLE = state(
    vif(1, 1, "10.1.0.10"),
    vif(2, 1, "10.1.0.11", rules=()),
    vif(3, 2, "fd01::10"),
    vif(4, 3, "", switch=True),
    vif(5, 4, "fd3d::1"),
    vif(6, 1, ""),
)


def make(space: Namespace, wanted: list[nft.Table]) -> None:
    """From what is there to these tables, in one transaction; nothing differs afterwards."""

    def transaction() -> None:
        script = [line for table in wanted for line in nft.changes(table, nft.read(table.family, table.name))]
        if script:
            nft.run(script)

    space.call(transaction)
    for table in wanted:
        found = space.call(lambda table=table: nft.read(table.family, table.name))
        assert [line.text for line in nft.changes(table, found)] == []
        assert nft.as_found(table, found) == found


def test_every_kind_of_rule_is_taken_and_read_back_as_it_was(space: Namespace) -> None:
    wanted, errors = firewall.tables(WHOLE)
    assert errors == {}
    make(space, wanted)
    make(space, firewall.tables(NetState(MARK))[0])
    assert "table" not in space.run("nft", "list", "ruleset")


def test_any_state_is_reached_from_any_other_and_counters_go_on(space: Namespace) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    space.run("nft", "add table inet mine; add chain inet mine c; add rule inet mine c accept")
    for _ in range(12):
        vifs = [
            replace(one, rules=tuple(chance.sample(one.rules, chance.randrange(len(one.rules) + 1))))
            for one in chance.sample(WHOLE.vifs, chance.randrange(len(WHOLE.vifs) + 1))
        ]
        make(space, firewall.tables(state(*vifs))[0])
        if chance.random() < 0.3:
            space.run("nft", chance.choice([f"flush table inet {MARK}", f"delete table bridge {MARK}", "list ruleset"]))
    assert "table inet mine" in space.run("nft", "list", "ruleset")


def test_a_rule_that_makes_no_sense_is_named_and_lets_nothing_through() -> None:
    wrong = [
        (ace(1, protocol="nosuch"), "'nosuch' is not known"),
        (ace(2, fport="80"), "fport needs a protocol"),
        (ace(3, protocol="tcp", fport="90:80"), "'90:80' is no value"),
        (ace(4, protocol="tcp", fport="99999"), "'99999' is no value"),
        (ace(6, ACEAction(Drop=True, PortMap=True, TargetPort=1), protocol="tcp", lport="1"), "exclude each other"),
        (ace(7, ACEAction(Limit=True, LimitRate=0, LimitUnit="s")), "limit 0 per"),
        (ace(8, nonsense="x"), "unknown match type"),
        (ace(9, host="a.test/4#inet#other\naddress=/a/1.2.3.4"), "is no value for a match of type host"),
        (ace(0, ip="0.0.0.0/0"), "RuleID is 0"),
    ]
    on_this_vif = ace(5, interface="eth9")
    rules = (*(rule for rule, _ in wrong), on_this_vif)
    whole = vif(1, 1, "10.1.0.10", rules=rules)
    for rule, text in wrong:
        assert any(text in error for error in judge(rule).errors)
        assert list(nft_rules(judge(rule), "out", whole)) == []
        assert list(host_names(rule, whole)) == []
    tables, errors = firewall.tables(state(whole))
    # The others are told in the app's status, by who judged them for it.
    assert errors["app1", "nbu1x1"] == "rule 5: interface 'eth9' is not a port of this device"
    chains = tables[1].chains
    told, dropped = [rule.text for rule in chains["out_nbu1x1"].rules]
    assert ' log prefix "nbu1x1 out 0" ' in told and told.startswith("limit rate ")
    assert dropped == 'counter name "nbu1x1_out_drop" drop'


def test_directions_and_families_decide_what_a_rule_becomes() -> None:
    four, six = vif(1, 1, "10.1.0.10"), vif(3, 2, "fd01::10")
    assert list(nft_rules(judge(ace(ip="::/0")), "out", four)) == []
    assert list(nft_rules(judge(ace(ip="10.0.0.0/8")), "in", six)) == []
    assert list(nft_rules(judge(ace(direction=1)), "out", four)) == []
    assert list(nft_rules(judge(ace(direction=2)), "in", four)) == []
    assert list(nft_rules(judge(ace(1, PORT_MAP, protocol="tcp", lport="80")), "out", four)) == []
    (text,) = nft_rules(judge(ace(7, protocol="tcp", ip="10.9.0.0/16", fport="80", lport="1000")), "in", four)
    assert text == (
        "meta l4proto 6 ct original ip saddr 10.9.0.0/16 ct original proto-src 80 ct reply proto-src 1000 "
        'counter name "nbu1x1_in_7" ct mark set 0x01000007 return'
    )


def test_what_is_not_ours_is_never_touched() -> None:
    one = bridge(1, "10.1.0.1/24")
    wanted = NetState(MARK, {one.name: one}, ())
    ours = Link(7, "bn9", "bridge", "00:16:3e:06:00:09", up=True, alias=f"{MARK} x")
    theirs = [
        replace(ours, index=8, name="bn8", alias="pillar-other x"),
        replace(ours, index=9, name="bn7", alias=""),  # maybe another device's that is just being made
        Link(10, "br0", "bridge", "02:00:00:00:00:01"),
        Link(11, "veth0", "veth", "02:00:00:00:00:02", alias=f"{MARK} x"),
    ]
    found = {link.name: link for link in (ours, *theirs)}
    steps, blocked = difference(wanted, Actual(found))
    assert [step.name for step in steps if isinstance(step, DeleteLink)] == ["bn9"]
    assert blocked == {}
    stranger = Link(12, "bn1", "bridge", "02:00:00:00:00:03", alias="keep out")
    steps, blocked = difference(wanted, Actual({"bn1": stranger}))
    assert steps == [] and "keep out" in blocked[one.owner]


def test_a_switch_takes_no_port_that_somebody_else_has() -> None:
    one = replace(bridge(3, switch=True), uplink="eth1", ports=("eth1", "nbu1x4"))
    own = Link(3, "bn3", "bridge", one.mac, up=True, carrier=True, alias=alias_of(MARK, one))
    theirs = Link(4, "br0", "bridge", "02:00:00:00:00:01", up=True)
    links = {
        link.name: link
        for link in (own, theirs, Link(5, "eth1", "veth", master=4, up=True), Link(6, "nbu1x4", "tun", master=4))
    }
    steps, blocked = difference(NetState(MARK, {"bn3": one}, ()), Actual(links))
    assert [str(step) for step in steps if isinstance(step, SetMaster)] == ["ip link set nbu1x4 master bn3 up"]
    assert blocked == {one.owner: "its port eth1 belongs to the bridge br0; take it out of there"}


def test_names_from_a_config_write_no_files_and_options_of_their_own() -> None:
    hosts = (("10.1.0.1", "router"), ("10.1.0.2", "../../etc/passwd"), ("10.1.0.3", "a\nb"))
    dhcp = Dhcp("bn1", "10.1.0.1", "10.1.0.0/24", domain="x\ndhcp-script=/bin/sh", hosts=hosts)
    made = files(dhcp, MARK, Path("/run/zedrouter"))
    assert sorted(made.again) == ["dhcp-opts.bn1", "hosts.bn1/router", "servers.bn1"]
    assert "dhcp-script" not in made.start["dnsmasq.bn1.conf"]


def test_each_root_has_a_mark_of_its_own() -> None:
    marks = {mark_of(Path(root)) for root in ("/", "/tmp/a", "/tmp/b")}
    assert len(marks) == 3 and "pillar" in marks


def test_files_of_guests_that_went_go_and_those_of_other_bridges_stay(tmp_path: Path) -> None:
    write(tmp_path, {"hosts.bn1/one": "1", "hosts.bn1/two": "2"}, "bn1")
    write(tmp_path, {"hosts.bn2/three": "3"}, "bn2")
    write(tmp_path, {"hosts.bn1/one": "1"}, "bn1")
    assert {path.name for path in tmp_path.glob("hosts.*/*")} == {"one", "three"}


def test_files_of_a_bridge_that_a_kill_left_half_removed_are_found_again(tmp_path: Path) -> None:
    keeper = Dnsmasqs(Locations(tmp_path), tidy=False)
    whole = {"dnsmasq.bn1.conf": "", "dnsmasq.bn1.leases": "", "dhcp-opts.bn1": "", "hosts.bn1/one": "1"}
    for kill_at in itertools.count():
        keeper.directory.mkdir(parents=True, exist_ok=True)
        write(keeper.directory, whole, "bn1")
        ended = _removed(keeper, kill_at)
        left = sorted(path.name for path in keeper.directory.iterdir())
        if ended:
            assert left == []
            break
        assert keeper.bridges() == {"bn1"}, f"nobody would remove {left}"
    assert kill_at > 3


def _removed(keeper: Dnsmasqs, kill_at: int) -> bool:
    """Remove bn1 in a process that ends before it removes its nth file; whether it got to the end."""
    pid = os.fork()
    if pid == 0:
        removals = itertools.count()

        def die(event: str, arguments: tuple[object, ...]) -> None:
            if event == "os.remove" and next(removals) == kill_at:
                os._exit(1)

        sys.addaudithook(die)
        try:
            keeper.remove("bn1")
            os._exit(0)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
