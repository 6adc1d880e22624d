"""The nftables of a device: what guests may send and get, port maps, and addresses on the way out. Pure.

    bridge <mark>   prerouting          a guest sends with its own MAC and address only; so an address means a vif
                    forward, output     access rules of vifs on switches (single packets)
    inet <mark>     forward, input      access rules of vifs on instances with addresses (flows, see `acl`)
                    output              no redirects within a mesh; DNS answers are logged, as in forward
                    nat prerouting      port maps, for what comes in by the uplink
                    nat postrouting     the uplink's address for what goes out by it

What no rule of a vif lets through is dropped and counted, and where guests have addresses told to the flow log
(`log_group`). DHCP and DNS of the bridge are always allowed. Frames between two guests of one bridge pass the inet
hooks too (bridge-nf-call-iptables), broadcasts excepted: those reach the device only. Between two instances nothing
passes. Traffic that has no bridge of ours at either end is not looked at.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from typing import Final, NamedTuple

from pillar.netplan.acl import WAYS, AclError, Way, drop_log, host_names, host_set, nft_rules, port_maps
from pillar.netplan.nft import Chain, Elements, Hook, Rule, Table
from pillar.netplan.rules import Judged, judge
from pillar.netplan.state import Bridge, NetState, Vif

_NAT_IN, _NAT_OUT, _FILTER = -100, 100, 0
_BEFORE_BRIDGE_NETFILTER = -200  # br_netfilter hands bridged frames to the inet hooks at priority 0
DNS: Final = "dns"  # what a rule says of the DNS answers that it logs
_DNS_PER_S: Final = 500  # logged, of all guests together


class VifChains(NamedTuple):
    """What the rules of one vif become."""

    vif: Vif
    out: Chain
    into: Chain
    sender: Chain  # of the bridge table: what it may send at all
    port_maps: tuple[Rule, ...]
    hosts: dict[str, Elements]  # sets that dnsmasq fills
    errors: tuple[str, ...]

    def way(self, way: Way) -> Chain:
        return self.out if way == "out" else self.into


def log_group(mark: str) -> int:
    """Where this device's rules log packets: of two devices in one namespace each has its own."""
    return int(hashlib.sha256(mark.encode()).hexdigest()[:4], 16) or 1


Made = dict[str, VifChains]  # by vif; handed in again, what has not changed is not made anew


def tables(
    state: NetState, still_there: tuple[str, ...] = (), made: Made | None = None
) -> tuple[list[Table], dict[tuple[str, str], str]]:
    """(tables, errors by (app, vif)). `still_there` are bridges of ours on their way out: nothing passes them."""
    if not state.bridges and not still_there:
        return [Table(family, state.mark, wanted=False) for family in ("bridge", "inet")], {}
    known = made if made is not None else {}
    chains = []
    for vif in state.vifs:
        before = known.get(vif.name)
        if before is None or before.vif != vif:
            known[vif.name] = before = _vif_chains(vif, log_group(state.mark))
        chains.append(before)
    for name in set(known) - {vif.name for vif in state.vifs}:
        del known[name]
    errors = {(one.vif.owner, one.vif.name): "; ".join(one.errors) for one in chains if one.errors}
    return [_bridge_table(state, chains), _inet_table(state, chains, still_there)], errors


def _vif_chains(vif: Vif, group: int) -> VifChains:
    """A rule that is wrong allows nothing; what only this vif shows to be wrong is told here."""
    errors: list[str] = []
    judged = [judge(rule) for rule in vif.rules]
    ways: dict[Way, Chain] = {}
    for way in WAYS:
        rules: list[Rule] = list(_not_ip()) if vif.switch else []
        for one in judged:
            try:
                rules += [Rule(text, vif.name) for text in nft_rules(one, way, vif, group)]
            except AclError as err:
                errors.append(str(err))
        if log := drop_log(vif, way, 0, group):
            rules.append(Rule(log, vif.name))
        rules.append(Rule(f'counter name "{vif.name}_{way}_drop" drop', vif.name))
        ways[way] = Chain(tuple(rules))
    sender = ways["out"] if vif.switch else Chain(tuple(Rule(text, vif.name) for text in _own_address_only(vif)))
    addressed = bool(vif.address) and not vif.switch
    return VifChains(
        vif,
        ways["out"],
        ways["in"],
        sender,
        tuple(_port_map_rules(vif, judged)) if addressed else (),
        _host_sets(vif) if addressed else {},
        tuple(dict.fromkeys(errors)),
    )


def _bridge_table(state: NetState, chains: list[VifChains]) -> Table:
    made: dict[str, Chain] = {}
    counters: set[str] = set()
    senders: set[str] = set()
    receivers: set[str] = set()
    for one in chains:
        name = one.vif.name
        made[f"from_{name}"] = one.sender
        senders.add(f'"{name}" : jump from_{name}')
        counters |= one.sender.counters
        if one.vif.switch:
            made[f"to_{name}"] = one.into
            receivers.add(f'"{name}" : jump to_{name}')
            counters |= one.into.counters
    by_sender, by_receiver = Rule("iifname vmap @senders"), Rule("oifname vmap @receivers")
    hooked = {
        "prerouting": Chain((by_sender,), Hook("filter", "prerouting", _BEFORE_BRIDGE_NETFILTER)),
        "forward": Chain((by_receiver,), Hook("filter", "forward", _BEFORE_BRIDGE_NETFILTER)),
        "output": Chain((by_receiver,), Hook("filter", "output", _BEFORE_BRIDGE_NETFILTER)),
    }
    sets = {
        "senders": Elements("map", "ifname : verdict", frozenset(senders)),
        "receivers": Elements("map", "ifname : verdict", frozenset(receivers)),
    }
    return Table("bridge", state.mark, made | hooked, sets, frozenset(counters))


def _own_address_only(vif: Vif) -> Iterator[str]:
    spoofed = f'counter name "{vif.name}_spoofed" drop'
    yield f"ether saddr != {vif.mac} {spoofed}"
    if not vif.address:
        yield spoofed
    elif ipaddress.ip_address(vif.address).version == 4:
        yield "ip saddr 0.0.0.0 udp sport 68 udp dport 67 return"
        yield f"ip saddr {vif.address} return"
        yield f"ether type arp arp saddr ip {{ 0.0.0.0, {vif.address} }} return"
        yield "ether type ip6 drop"  # every guest speaks it; an instance with IPv4 addresses has none
        yield spoofed
    else:
        yield f"ip6 saddr {{ {vif.address}, :: }} return"
        yield "ip6 saddr fe80::/10 return"
        yield spoofed


def _not_ip() -> tuple[Rule, ...]:
    return (Rule("ether type != { ip, ip6 } return"),)


def _inet_table(state: NetState, chains: list[VifChains], still_there: tuple[str, ...]) -> Table:
    routed = [bridge for bridge in state.bridges.values() if not bridge.switch]
    addressed = [one for one in chains if not one.vif.switch and one.vif.address]
    made: dict[str, Chain] = {}
    counters: set[str] = {"spoofed"}
    sets: dict[str, Elements] = {}
    opened: dict[tuple[int, Way], set[str]] = {(v, way): set() for v in (4, 6) for way in WAYS}
    guests: dict[int, set[str]] = {4: set(), 6: set()}
    for one in addressed:
        vif = one.vif
        version: int = ipaddress.ip_address(vif.address).version
        guests[version].add(vif.address)
        for way in WAYS:
            made[f"{way}_{vif.name}"] = one.way(way)
            counters |= one.way(way).counters
            opened[version, way].add(f"{vif.address} : jump {way}_{vif.name}")
        sets |= one.hosts
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        for way in WAYS:
            sets[f"{way}{version}"] = Elements("map", f"{kind} : verdict", frozenset(opened[version, way]))
        sets[f"guests{version}"] = Elements("set", kind, frozenset(guests[version]))
    names = {bridge.name for bridge in routed} | set(still_there)
    own = {f'"{bridge.name}" . {bridge.address.partition("/")[0]}' for bridge in routed if bridge.address}
    sets |= {
        "bridges": Elements("set", "ifname", frozenset(f'"{name}"' for name in names)),
        "within": Elements("set", "ifname . ifname", frozenset(f'"{name}" . "{name}"' for name in names)),
        "own4": Elements("set", "ifname . ipv4_addr", frozenset(text for text in own if ":" not in text)),
        "own6": Elements("set", "ifname . ipv6_addr", frozenset(text for text in own if ":" in text)),
    }
    group = log_group(state.mark)
    made |= _hooked(group, [rule for one in addressed for rule in one.port_maps], list(_masquerades(routed)))
    return Table("inet", state.mark, made, sets, frozenset(counters))


def _hooked(group: int, maps: list[Rule], masquerades: list[Rule]) -> dict[str, Chain]:
    dns_answers = (
        f'udp sport 53 limit rate {_DNS_PER_S}/second burst {_DNS_PER_S} packets log prefix "{DNS}" group {group}'
    )
    judged = [
        "ct state invalid drop",
        "ct state related meta l4proto { icmp, ipv6-icmp } accept",
        # Each end of a flow has its say: who opened it, and to whom it was opened.
        *(
            f"ct {end} {family} saddr vmap @{way}{version}"
            for family, version in (("ip", 4), ("ip6", 6))
            for end, way in (("original", "out"), ("reply", "in"))
        ),
        *(
            f"ct {end} {family} saddr @guests{version} accept"
            for family, version in (("ip", 4), ("ip6", 6))
            for end in ("original", "reply")
        ),
        'counter name "spoofed" drop',
    ]
    between = [
        "iifname @bridges oifname @bridges iifname . oifname != @within drop",
        "iifname @bridges meta pkttype { broadcast, multicast } drop",
        f"oifname @bridges ct state established {dns_answers}",
        "iifname @bridges jump judge",
        "oifname @bridges jump judge",
    ]
    to_device = [
        "iifname != @bridges return",
        "udp sport 68 udp dport 67 accept",
        "udp sport 546 udp dport 547 accept",
        "iifname . ip daddr @own4 meta l4proto { tcp, udp } th dport 53 accept",
        "iifname . ip6 daddr @own6 meta l4proto { tcp, udp } th dport 53 accept",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
        "jump judge",
    ]
    # Guests of a mesh reach each other through the device: a redirect would send them where nobody answers.
    from_device = ["oifname @bridges icmpv6 type nd-redirect drop", f"oifname @bridges {dns_answers}"]
    return {
        "judge": Chain(tuple(Rule(text) for text in judged)),
        "forward": Chain(tuple(Rule(text) for text in between), Hook("filter", "forward", _FILTER)),
        "input": Chain(tuple(Rule(text) for text in to_device), Hook("filter", "input", _FILTER)),
        "output": Chain(tuple(Rule(text) for text in from_device), Hook("filter", "output", _FILTER)),
        "portmaps": Chain(tuple(maps), Hook("nat", "prerouting", _NAT_IN)),
        "outward": Chain(tuple(masquerades), Hook("nat", "postrouting", _NAT_OUT)),
    }


def _port_map_rules(vif: Vif, judged: list[Judged]) -> Iterator[Rule]:
    family = "ip6" if ":" in vif.address else "ip"
    target = f"[{vif.address}]" if family == "ip6" else vif.address
    for one in judged if vif.uplink else ():
        for protocol, port, guest_port in port_maps(one):
            yield Rule(
                f'iifname "{vif.uplink}" meta nfproto {"ipv6" if family == "ip6" else "ipv4"} '
                f"fib daddr type local meta l4proto {protocol} th dport {port} "
                f"dnat {family} to {target}:{guest_port}",
                vif.name,
            )


def _masquerades(bridges: list[Bridge]) -> Iterator[Rule]:
    for bridge in bridges:
        if bridge.uplink and bridge.address and not bridge.address.startswith("fe80:"):
            network = ipaddress.ip_interface(bridge.address).network
            family = "ip" if network.version == 4 else "ip6"
            yield Rule(f'oifname "{bridge.uplink}" {family} saddr {network} masquerade', bridge.owner)


def _host_sets(vif: Vif) -> dict[str, Elements]:
    version = ipaddress.ip_address(vif.address).version
    kind = "ipv4_addr" if version == 4 else "ipv6_addr"
    return {
        host_set(vif.bridge, name, version): Elements("set", kind)
        for rule in vif.rules
        for name in host_names(rule, vif)
    }
