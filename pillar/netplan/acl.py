"""One access rule of an app as nftables rules. Pure.

A flow is judged, not a packet: every packet of it is held against the rules as they are now, in the direction in which
the flow was opened. So a flow that is still allowed goes on over a change of the rules, and one that is not ends at
once. `out` are flows that the guest opened, `in` those that were opened to it.

    match      out                      in
    ip, host   where it goes            where it comes from
    fport      its destination port     its source port
    lport      its source port          the guest's port (after a port map)

A switch has no addresses of its own and the kernel no connection tracking for bridged frames (`ct` in the bridge
family): its rules look at single packets, as EVE's do everywhere.

EVE parses a rule's direction and ignores it; here INGRESS rules open nothing outward and EGRESS rules nothing inward.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from pillar.netplan.rules import Action, Judged, is_network, judge
from pillar.netplan.state import Vif
from pillar.types.enums import ACEDirection
from pillar.types.zedrouter import ACE

Way = Literal["out", "in"]
WAYS: Final[tuple[Way, Way]] = ("out", "in")

_MARKED_IDS: Final = 0xFFFFFF  # a rule's id fills the low 24 bits of a mark
# Of the packets that one rule drops: whoever knocks at every port must not keep the device busy.
_TOLD_PER_S: Final = 20
_TOLD_AT_ONCE: Final = 100


class AclError(Exception):
    """This rule cannot be made on this vif of this device; the text names it."""


def nft_rules(judged: Judged, way: Way, vif: Vif, log_group: int = 0) -> Iterator[str]:
    """What goes into the chain of this vif for one rule, without comments; nothing of one with errors.

    Raises AclError. A match ends in `return`: the other end of a flow between two guests has its say then. What a rule
    drops is told to `log_group`, unless that is 0.
    """
    rule = judged.rule
    if judged.errors:
        return
    if (rule.Dir == ACEDirection.INGRESS and way == "out") or (rule.Dir == ACEDirection.EGRESS and way == "in"):
        return
    matches = _matches(judged, way, vif)
    if matches is None:
        return
    if judged.action is Action.PORT_MAP:
        if way == "out" or vif.switch:
            return
        matches = ["ct status dnat", *matches]
    text = " ".join(matches)
    counter = f'counter name "{counter_name(vif, way, rule)}"'
    for where in _interfaces(judged, way, vif):
        guard = f"{where} {text}".strip()
        if judged.action is Action.DROP:
            if log := drop_log(vif, way, rule.RuleID, log_group):
                yield f"{guard} {log}".strip()
            yield f"{guard} {counter} drop".strip()
        elif judged.action is Action.LIMIT:
            yield f"{guard} limit rate {judged.limit} {counter} {_accept(rule, vif)}".strip()
            yield f'{guard} counter name "{vif.name}_{way}_limit" drop'.strip()
        else:
            yield f"{guard} {counter} {_accept(rule, vif)}".strip()


def port_maps(judged: Judged) -> Iterator[tuple[int, int, int]]:
    """(protocol, port of the device, port of the guest) of what this rule maps."""
    if judged.action is Action.PORT_MAP and not judged.errors and judged.protocol is not None:
        yield judged.protocol, judged.ports["lport"][0], judged.target_port


def host_names(rule: ACE, vif: Vif) -> Iterator[str]:
    """The DNS names that this rule matches and that have to be asked for; none of a rule with errors."""
    named = [match.Value for match in rule.Matches or () if match.Type == "host" and not is_network(match.Value)]
    if named and not judge(rule).errors:
        for value in named:
            name = value.lower().rstrip(".")
            if name not in vif.hosts:
                yield name


def host_set(bridge: str, name: str, version: int) -> str:
    """The nftables set for the addresses of a DNS name, as the guests of this bridge are told them."""
    return f"host{version}_{bridge}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def drop_log(vif: Vif, way: Way, rule_id: int, group: int) -> str:
    """What tells the flow log of a packet about to be dropped, now and then; "" on a switch and without a group.

    `drop_told` reads it.
    """
    if vif.switch or not group:
        return ""
    now_and_then = f"limit rate {_TOLD_PER_S}/second burst {_TOLD_AT_ONCE} packets"
    return f'{now_and_then} log prefix "{vif.name} {way} {rule_id}" group {group}'


def drop_told(prefix: str) -> tuple[str, Way, int] | None:
    """(vif, way, rule or 0 for none) of a packet that such a rule told of; None for another rule's."""
    match prefix.split(" "):
        case [vif, "out" | "in" as way, number] if number.removeprefix("-").isdigit():
            return vif, way, int(number)
        case _:
            return None


def counter_name(vif: Vif, way: Way, rule: ACE) -> str:
    return f"{vif.name}_{way}_{rule.RuleID}".replace("-", "m")


def _matches(judged: Judged, way: Way, vif: Vif) -> list[str] | None:
    """The conditions, None when it cannot match this vif (another address family)."""
    version = ipaddress.ip_address(vif.address).version if vif.address else 4
    family = "ip" if version == 4 else "ip6"
    parts: list[str] = []
    if judged.protocol is not None:
        parts.append(f"meta l4proto {judged.protocol}")
    for match in judged.rule.Matches or ():
        match match.Type:
            case "protocol" | "interface":
                continue
            case "ip" | "host" if is_network(match.Value):
                network = ipaddress.ip_network(match.Value, strict=False)
                if network.version != version:
                    return None
                if network.prefixlen or vif.switch:
                    parts.append(f"{_foreign(way, vif, family)} {network.with_prefixlen}")
            case "host":
                name = match.Value.lower().rstrip(".")
                if name not in vif.hosts:
                    if vif.switch:
                        raise AclError(
                            f"{judged.label}: host {name!r}: names work only where the device is the DNS server"
                        )
                    parts.append(f"{_foreign(way, vif, family)} @{host_set(vif.bridge, name, version)}")
                    continue
                if not (given := _of_version(vif.hosts[name], version)):
                    return None
                parts.append(f"{_foreign(way, vif, family)} {given}")
            case "eidset":
                if not (given := _of_version(vif.eids, version)):
                    return None
                parts.append(f"{_foreign(way, vif, family)} {given}")
            case "fport" | "lport" as kind:
                if kind == "lport" and judged.action is Action.PORT_MAP:
                    # The device's port, which a mapped flow was opened to.
                    parts.append(f"ct original proto-dst {judged.ports[kind][0]}")
                else:
                    parts.append(f"{_port_of(kind, way, vif)} {_range(*judged.ports[kind])}")
    return parts


def _of_version(addresses: Iterable[str], version: int) -> str:
    """An anonymous set of those of one family; "" for none."""
    fit = sorted({address for address in addresses if ipaddress.ip_address(address).version == version})
    return f"{{ {', '.join(fit)} }}" if fit else ""


def _foreign(way: Way, vif: Vif, family: str) -> str:
    if vif.switch:
        return f"{family} {'daddr' if way == 'out' else 'saddr'}"
    return f"ct original {family} {'daddr' if way == 'out' else 'saddr'}"


def _port_of(kind: str, way: Way, vif: Vif) -> str:
    outward = kind == "fport"
    if vif.switch:
        return f"th {'dport' if outward == (way == 'out') else 'sport'}"
    if way == "out":
        return f"ct original {'proto-dst' if outward else 'proto-src'}"
    return "ct original proto-src" if outward else "ct reply proto-src"


def _interfaces(judged: Judged, way: Way, vif: Vif) -> list[str]:
    """Conditions one of which must hold; [""] when the rule names no interface."""
    named = judged.value("interface")
    if not named:
        return [""]
    if vif.switch:
        raise AclError(f"{judged.label}: a switch has no interface to choose: it has one uplink")
    found = vif.ports.get(named)
    if not found:
        raise AclError(f"{judged.label}: interface {named!r} is not a port of this device")
    names = "{ " + ", ".join(f'"{name}"' for name in sorted(found)) + " }"
    first, back = ("oifname", "iifname") if way == "out" else ("iifname", "oifname")
    return [f"ct direction original {first} {names}", f"ct direction reply {back} {names}"]


def _accept(rule: ACE, vif: Vif) -> str:
    if vif.switch or not 0 < rule.RuleID <= _MARKED_IDS:
        return "return"
    return f"ct mark set {vif.app_num << 24 | rule.RuleID:#010x} return"


def _range(low: int, high: int) -> str:
    return f"{low}-{high}" if low < high else str(low)
