"""What a person is shown of a device's network: a drawing of its bridges, and what is still to be done. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pillar.netplan import TABLE_BASE
from pillar.netplan.acl import port_maps
from pillar.netplan.rules import judge, protocol_name
from pillar.netplan.state import Actual, Bridge, Link, NetState, Vif, is_ours
from pillar.types.scalars import Uuid

Counters = Mapping[str, tuple[int, int]]  # packets, bytes by counter


def drawing(
    state: NetState, actual: Actual, counters: Counters, served: Mapping[str, int], names: Mapping[Uuid, str]
) -> Iterator[str]:
    """One device's bridges, by the uplinks they lead out of. `served` are pids of dnsmasq, `names` those of apps."""
    by_uplink: dict[str, list[Bridge]] = {}
    for bridge in state.bridges.values():
        by_uplink.setdefault(bridge.uplink, []).append(bridge)
    if not by_uplink:
        yield "no network instances"
    for uplink, bridges in sorted(by_uplink.items(), key=lambda item: (not item[0], item[0])):
        yield _uplink_line(uplink, actual)
        for place, bridge in enumerate(bridges):
            last = place == len(bridges) - 1
            lines = list(_bridge_lines(bridge, state, actual, counters, served, names))
            yield f"{'└' if last else '├'}── {lines[0]}"
            for line in lines[1:]:
                yield f"{' ' if last else '│'}   {line}"


def _uplink_line(uplink: str, actual: Actual) -> str:
    if not uplink:
        return "(no way out)"
    link = actual.links.get(uplink)
    if link is None:
        return f"{uplink}  does not exist"
    addresses = ", ".join(sorted(actual.addresses.get(link.index, ()))) or "no address"
    return f"{uplink}  {addresses}{'' if link.up and link.carrier else '  no carrier'}"


def _bridge_lines(
    bridge: Bridge,
    state: NetState,
    actual: Actual,
    counters: Counters,
    served: Mapping[str, int],
    names: Mapping[Uuid, str],
) -> Iterator[str]:
    link = actual.links.get(bridge.name)
    there = link is not None and is_ours(link, state.mark)
    kind = "switch" if bridge.switch else bridge.address or "no address"
    facts = [f"{bridge.name}  {bridge.display or bridge.owner}  {kind}"]
    if link is None or not there:
        facts.append("NOT MADE" if link is None else "NOT OURS")
    elif not bridge.switch:
        facts.append(f"table {TABLE_BASE + link.index}")
    if bridge.name in state.dhcp:
        facts.append(f"dnsmasq {served[bridge.name]}" if bridge.name in served else "NO DNSMASQ")
    yield "  ".join(facts)
    vifs = [vif for vif in state.vifs if vif.bridge == bridge.name]
    for place, vif in enumerate(vifs):
        yield f"{'└' if place == len(vifs) - 1 else '├'}── {_vif_line(vif, link, actual, counters, names)}"


def _vif_line(vif: Vif, bridge: Link | None, actual: Actual, counters: Counters, names: Mapping[Uuid, str]) -> str:
    link = actual.links.get(vif.name)
    where = "" if link is not None and bridge is not None and link.master == bridge.index else "  NOT ON ITS BRIDGE"
    if link is None:
        where = "  not made yet"
    told = []
    for way in ("out", "in"):
        passed, dropped = passed_and_dropped(vif.name, way, counters)
        told.append(f"{way} {passed} packets" + (f", {dropped} dropped" if dropped else ""))
    rules = f"{len(vif.rules)} rule{'' if len(vif.rules) == 1 else 's'}{_port_maps(vif)}"
    address = vif.address or ("" if vif.switch else "NO ADDRESS")
    name = names.get(vif.owner, vif.owner)
    return "  ".join(filter(None, (vif.name, vif.mac, address, name, rules, "; ".join(told)))) + where


def _port_maps(vif: Vif) -> str:
    """The ports of the uplink that lead to this guest."""
    found = []
    for rule in vif.rules if vif.uplink else ():
        found += [f"{protocol_name(p)} {port}->{target}" for p, port, target in port_maps(judge(rule))]
    return f" ({', '.join(found)})" if found else ""


def passed_and_dropped(vif: str, way: str, counters: Counters) -> tuple[int, int]:
    """Packets that a vif's rules let through and that they dropped; `way` is "out" (from the guest) or "in"."""
    dropped = sum(counters.get(f"{vif}_{way}_{kind}", (0, 0))[0] for kind in ("drop", "limit"))
    prefix = f"{vif}_{way}_"
    passed = sum(
        packets
        for name, (packets, _) in counters.items()
        if name.startswith(prefix) and name.removeprefix(prefix) not in ("drop", "limit")
    )
    return passed, dropped


def as_json(state: NetState, actual: Actual, counters: Counters, served: Mapping[str, int]) -> dict[str, Any]:
    """Desired and actual for programs."""
    bridges = {
        bridge.name: {
            "instance": bridge.owner,
            "name": bridge.display,
            "mac": bridge.mac,
            "switch": bridge.switch,
            "address": bridge.address,
            "uplink": bridge.uplink,
            "ports": list(bridge.ports),
            "routes": sorted(map(str, bridge.routes)),
        }
        for bridge in state.bridges.values()
    }
    vifs = {
        vif.name: {
            "app": vif.owner,
            "bridge": vif.bridge,
            "mac": vif.mac,
            "address": vif.address,
            "rules": len(vif.rules),
            "counters": {
                name.removeprefix(f"{vif.name}_"): {"packets": packets, "bytes": size}
                for name, (packets, size) in sorted(counters.items())
                if name.startswith(f"{vif.name}_")
            },
        }
        for vif in state.vifs
    }
    by_index = {link.index: link.name for link in actual.links.values()}
    found = {
        link.name: {
            "kind": link.kind,
            "mac": link.mac,
            "up": link.up,
            "carrier": link.carrier,
            "master": by_index.get(link.master, ""),
            "alias": link.alias,
            "addresses": sorted(actual.addresses.get(link.index, ())),
            "routes": sorted(map(str, actual.routes.get(TABLE_BASE + link.index, ()))),
            "dnsmasq": served.get(link.name),
        }
        for link in actual.links.values()
    }
    return {"desired": {"bridges": bridges, "vifs": vifs, "sysctls": dict(state.sysctls)}, "actual": found}
