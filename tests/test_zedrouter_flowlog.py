"""What zedrouter tells of traffic: counters, flows, drops by rule, and names that guests asked for."""

from __future__ import annotations

import socket
import struct
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import pytest
from agentproc import Table
from routerlab import LAN, PORT_MAP, Router, comes, connect, counter, fetch, flow, rule, talks, uuid, vif_of

from pillar.cmd.zedrouter import logged
from pillar.cmd.zedrouter.flows import Guest
from pillar.cmd.zedrouter.logged import Drops, dns_request
from pillar.cmd.zedrouter.packetlog import Logged, Packet, parse_packet
from pillar.types.flow import IPTuple

pytest_plugins = ("netlab_fixtures", "routerlab_fixtures")

WEB = Guest(uuid(1), LAN, "bn1", "nbu1x1")
DB = Guest(uuid(2), LAN, "bn1", "nbu1x2")
GUESTS = {"10.1.0.10": WEB, "10.1.0.11": DB}


# ---- in a network


def test_traffic_is_counted_and_flows_drops_and_names_are_logged(router: Router) -> None:
    router.lab.controller.run("ip", "addr", "add", "45.0.0.1/32", "dev", "lo")
    router.lab.start_dnsmasq("--host-record=web.test,45.0.0.1", "--host-record=shop.test,45.0.0.2")
    router.lab.serve("/hello", b"hello")
    router.plug("eth0")
    router.instance()
    dropping = rule(4, {"Drop": True}, ip="192.168.10.0/24")
    router.app(1, LAN, acls=[PORT_MAP, dropping, rule(5, ip="203.0.113.0/24")])
    router.app(2, LAN)
    router.agent.start()
    guest, other = router.guest(1), router.guest(2)
    own = router.address(1)
    assert fetch(guest, "http://203.0.113.1/hello") == "hello"
    assert fetch(guest, "http://192.168.10.1/hello", 0.5) == ""  # a rule drops it
    assert fetch(guest, "http://45.0.0.1/hello", 0.5) == ""  # no rule lets it through
    assert connect(other, own, 22, 0.5) is None  # nor this one in
    for asked, server in (("web.test", "10.1.0.1"), ("nobody.test", "10.1.0.1"), ("shop.test", "203.0.113.1")):
        guest.run("busybox", "nslookup", asked, server, check=False)
    outside, inside = flow(router, guest)
    assert talks(outside, inside)
    outside.close()
    inside.close()
    router.lab.device.run("conntrack", "-F")  # they have ended, and the kernel need not wait until it forgets them
    table = Table(router.root, "zedrouter", "IPFlow")

    def records() -> list[dict[str, Any]]:
        found = [record for key in sorted(table.keys()) if (record := table.read(key)) is not None]
        return [record for record in found if record["Scope"]["UUID"] == uuid(1)]

    def flows(action: str) -> dict[tuple[bool, int], dict[str, Any]]:
        found = [one for record in records() for one in record["Flows"] if one["Action"] == action]
        return {(one["Inbound"], one["ACLID"]): one for one in found}

    comes(lambda: {(True, 1), (False, 5)} <= flows("accept").keys(), "both flows are logged")
    called, calling = flows("accept")[True, 1], flows("accept")[False, 5]
    assert (called["Flow"]["SrcPort"], called["Flow"]["Dst"]) == (80, "192.168.10.1")
    assert calling["Flow"]["Dst"] == "203.0.113.1"
    for one in (called, calling):
        assert one["Flow"]["Src"] == own and one["RxBytes"] > 8 and one["TxBytes"] > 8
    assert calling["StartTime"] <= calling["StopTime"]
    # What was dropped.
    comes(lambda: {(False, 4), (False, 0), (True, 0)} <= flows("drop").keys(), "the drops are logged")
    by_rule, by_none, inward = (flows("drop")[key] for key in ((False, 4), (False, 0), (True, 0)))
    for one, target in ((by_rule, "192.168.10.1"), (by_none, "45.0.0.1")):
        assert (one["Flow"]["Src"], one["Flow"]["Dst"], one["Flow"]["DstPort"]) == (own, target, 80)
        assert one["Flow"]["Proto"] == 6 and one["TxPkts"] > 0 and one["TxBytes"] >= 40 * one["TxPkts"]
        assert one["RxPkts"] == 0 and 0 < one["StartTime"] <= one["StopTime"]
    assert (inward["Flow"]["Src"], inward["Flow"]["SrcPort"]) == (own, 22)
    assert inward["Flow"]["Dst"] == router.address(2) and inward["RxPkts"] > 0
    assert counter(router, 1, "out_4") >= by_rule["TxPkts"]

    # The names that it asked for, as often as it liked: two of the device's server, one of another.
    def told() -> list[tuple[str, list[str] | None]]:
        return [(one["HostName"], one["Addrs"]) for record in records() for one in record["DNSReqs"] or ()]

    names = (("web.test", ["45.0.0.1"]), ("nobody.test", None), ("shop.test", ["45.0.0.2"]))
    comes(lambda: all(name in told() for name in names), "the names")
    # And the counters.
    scope = records()[0]["Scope"]
    assert (scope["UUID"], scope["NetUUID"], scope["Intf"], scope["Localintf"]) == (
        uuid(1),
        LAN,
        "bn1",
        vif_of(router, 1),
    )
    metrics = Table(router.root, "zedrouter", "NetworkMetrics").wait("global", 60)["MetricList"]
    assert {one["IfName"] for one in metrics} == {"eth0", "bn1", "nbu1x1", "nbu1x2"}
    own_metric = next(one for one in metrics if one["IfName"] == vif_of(router, 1))
    assert own_metric["RxAclDrops"] > 0 and own_metric["TxBytes"] > 0
    of_instance = Table(router.root, "zedrouter", "NetworkInstanceMetrics").wait(LAN, 60)
    assert of_instance["ProbeMetrics"]["CurrUplinkIntf"] == "eth0"
    router.pillar_net("--diff")


# ---- packets


def packet(source: str, target: str, ports: tuple[int, int] = (40000, 80), payload: bytes = b"") -> Packet:
    return Packet(source, target, 6, *ports, 60, payload)


def test_packets_of_one_flow_are_one_entry_until_they_are_taken() -> None:
    drops = Drops()
    for moment in (5, 7):
        drops.add(Logged("nbu1x1 out 0", moment, packet("10.1.0.10", "192.0.2.1")), GUESTS)
    drops.add(Logged("nbu1x1 out 3", 9, packet("10.1.0.10", "192.0.2.1")), GUESTS)
    (guest, first), (_, second) = drops.take()
    assert guest == WEB
    assert first.Flow == IPTuple(Src="10.1.0.10", Dst="192.0.2.1", SrcPort=40000, DstPort=80, Proto=6)
    assert (first.StartTime, first.StopTime, first.TxPkts, first.TxBytes, first.ACLID) == (5, 7, 2, 120, 0)
    assert (second.ACLID, second.Action, second.TxPkts) == (3, "drop", 1)
    assert list(drops.take()) == []


def test_between_two_guests_the_rule_says_whose_drop_it_is() -> None:
    drops = Drops()
    drops.add(Logged("nbu1x2 in 0", 5, packet("10.1.0.10", "10.1.0.11")), GUESTS)
    ((guest, one),) = drops.take()
    assert guest == DB
    assert (one.Flow.Src, one.Flow.SrcPort, one.Flow.Dst, one.Inbound, one.RxPkts) == (
        *("10.1.0.11", 80, "10.1.0.10"),
        *(True, 1),
    )
    drops.add(Logged("nbu1x1 out 0", 5, packet("192.0.2.1", "192.0.2.2")), GUESTS)  # of a guest that has left
    drops.add(Logged("somebody else's", 5, packet("10.1.0.10", "192.0.2.1")), GUESTS)
    assert list(drops.take()) == []


def test_who_knocks_at_every_port_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged, "FLOWS_AT_MOST", 3)
    drops = Drops()
    for port in range(5):
        drops.add(Logged("nbu1x1 out 0", 5, packet("10.1.0.10", "192.0.2.1", (40000, port))), GUESTS)
    assert drops.lost == 2
    assert len(list(drops.take())) == 3 and drops.lost == 0


def test_a_packet_is_read_as_far_as_it_goes() -> None:
    four = struct.pack(">BxHxxxxBBxx", 0x45, 60, 64, 17) + socket.inet_aton("10.1.0.10") + socket.inet_aton("192.0.2.1")
    six = struct.pack(">B3xHBB", 0x60, 20, 58, 64) + socket.inet_pton(socket.AF_INET6, "fd00::1") * 2
    assert parse_packet(four + struct.pack(">HHHH", 53, 4000, 40, 0) + b"rest") == Packet(
        "10.1.0.10", "192.0.2.1", 17, 53, 4000, 60, b"rest"
    )
    assert parse_packet(six) == Packet("fd00::1", "fd00::1", 58, 0, 0, 60, b"")
    for cut in (b"", four[:15], four, six[:30], b"\x10" * 40):
        assert parse_packet(cut) is None


def test_only_answers_about_addresses_are_dns_requests() -> None:
    query = dns.message.make_query("web.test", "A")
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text("web.test.", 60, "IN", "CNAME", "a.test."))
    answer.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "A", "45.0.0.1", "45.0.0.2"))

    def request(payload: bytes) -> Any:
        return dns_request(Logged("dns", 5, packet("10.1.0.1", "10.1.0.10", (53, 4000), payload)))

    found = request(answer.to_wire())
    assert (found.HostName, sorted(found.Addrs), found.RequestTime) == ("web.test", ["45.0.0.1", "45.0.0.2"], 5)
    reverse = dns.message.make_response(dns.message.make_query("10.0.0.10.in-addr.arpa", "PTR"))
    for other in (query.to_wire(), reverse.to_wire(), answer.to_wire()[:20], b"", b"\xff" * 40):
        assert request(other) is None
