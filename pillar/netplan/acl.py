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
import socket
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from pillar.netplan.state import Vif
from pillar.types.enums import ACEDirection
from pillar.types.zedrouter import ACE

Way = Literal["out", "in"]
WAYS: Final[tuple[Way, Way]] = ("out", "in")

_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132}
_WITH_PORTS: Final = (6, 17, 132)
_UNITS: Final = {"s": "second", "m": "minute", "h": "hour"}
_MARKED_IDS: Final = 0xFFFFFF  # a rule's id fills the low 24 bits of a mark
# Of the packets that one rule drops: whoever knocks at every port must not keep the device busy.
_TOLD_PER_S: Final = 20
_TOLD_AT_ONCE: Final = 100


class AclError(Exception):
    """This rule cannot be made as it is; the text names it."""


def nft_rules(rule: ACE, way: Way, vif: Vif, log_group: int = 0) -> Iterator[str]:
    """What goes into the chain of this vif for one rule, without comments. Raises AclError.

    A match ends in `return`: the other end of a flow between two guests has its say then. What a rule drops is told to
    `log_group`, unless that is 0.
    """
    if (rule.Dir == ACEDirection.INGRESS and way == "out") or (rule.Dir == ACEDirection.EGRESS and way == "in"):
        return
    matches = _matches(rule, way, vif)
    if matches is None:
        return
    action = _action(rule)
    if action == "portmap":
        if way == "out" or vif.switch:
            return
        matches = ["ct status dnat", *matches]
    text = " ".join(matches)
    counter = f'counter name "{counter_name(vif, way, rule)}"'
    for where in _interfaces(rule, way, vif):
        guard = f"{where} {text}".strip()
        if action == "drop":
            if log := drop_log(vif, way, rule.RuleID, log_group):
                yield f"{guard} {log}".strip()
            yield f"{guard} {counter} drop".strip()
        elif action == "limit":
            yield f"{guard} {_limit(rule)} {counter} {_accept(rule, vif)}".strip()
            yield f'{guard} counter name "{vif.name}_{way}_limit" drop'.strip()
        else:
            yield f"{guard} {counter} {_accept(rule, vif)}".strip()


def port_maps(rule: ACE) -> Iterator[tuple[int, int, int]]:
    """(protocol, port of the device, port of the guest) of what this rule maps. Raises AclError."""
    if _action(rule) == "portmap":
        target = next(action.TargetPort for action in rule.Actions or () if action.PortMap)
        yield _protocol(rule) or 0, _port(rule, _value(rule, "lport")), int(target)


def host_names(rule: ACE, vif: Vif) -> Iterator[str]:
    """The DNS names that this rule matches and that have to be asked for."""
    for match in rule.Matches or ():
        if match.Type == "host" and not _is_network(match.Value):
            name = match.Value.lower().rstrip(".")
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


def _matches(rule: ACE, way: Way, vif: Vif) -> list[str] | None:
    """The conditions, None when it cannot match this vif (another address family)."""
    label = _label(rule)
    version = ipaddress.ip_address(vif.address).version if vif.address else 4
    family = "ip" if version == 4 else "ip6"
    parts: list[str] = []
    protocol = _protocol(rule)
    if protocol is not None:
        parts.append(f"meta l4proto {protocol}")
    for match in rule.Matches or ():
        match match.Type:
            case "protocol" | "interface":
                continue
            case "ip" | "host" if _is_network(match.Value):
                network = ipaddress.ip_network(match.Value, strict=False)
                if network.version != version:
                    return None
                if network.prefixlen or vif.switch:
                    parts.append(f"{_foreign(way, vif, family)} {network.with_prefixlen}")
            case "host":
                name = match.Value.lower().rstrip(".")
                if name not in vif.hosts:
                    if vif.switch:
                        raise AclError(f"{label}: host {name!r}: names work only where the device is the DNS server")
                    parts.append(f"{_foreign(way, vif, family)} @{host_set(vif.bridge, name, version)}")
                    continue
                if not (given := _of_version(vif.hosts[name], version)):
                    return None
                parts.append(f"{_foreign(way, vif, family)} {given}")
            case "eidset":
                if not (given := _of_version(vif.eids, version)):
                    return None
                parts.append(f"{_foreign(way, vif, family)} {given}")
            case "fport" | "lport":
                if protocol not in _WITH_PORTS:
                    raise AclError(f"{label}: {match.Type} needs a protocol that has ports")
                if match.Type == "lport" and _action(rule) == "portmap":
                    # The device's port, which a mapped flow was opened to.
                    parts.append(f"ct original proto-dst {_port(rule, match.Value)}")
                else:
                    parts.append(f"{_port_of(match.Type, way, vif)} {_ports(rule, match.Value)}")
            case _:
                raise AclError(f"{label}: unknown match type {match.Type!r}")
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


def _interfaces(rule: ACE, way: Way, vif: Vif) -> list[str]:
    """Conditions one of which must hold; [""] when the rule names no interface."""
    named = _value(rule, "interface")
    if not named:
        return [""]
    if vif.switch:
        raise AclError(f"{_label(rule)}: a switch has no interface to choose: it has one uplink")
    found = vif.ports.get(named)
    if not found:
        raise AclError(f"{_label(rule)}: interface {named!r} is not a port of this device")
    names = "{ " + ", ".join(f'"{name}"' for name in sorted(found)) + " }"
    first, back = ("oifname", "iifname") if way == "out" else ("iifname", "oifname")
    return [f"ct direction original {first} {names}", f"ct direction reply {back} {names}"]


def _action(rule: ACE) -> str:
    actions = rule.Actions or ()
    kinds = [
        kind
        for kind, wanted in (
            ("drop", any(action.Drop for action in actions)),
            ("limit", any(action.Limit for action in actions)),
            ("portmap", any(action.PortMap for action in actions)),
        )
        if wanted
    ]
    if len(kinds) > 1:
        raise AclError(f"{_label(rule)}: {' and '.join(kinds)} exclude each other")
    return kinds[0] if kinds else "accept"


def _limit(rule: ACE) -> str:
    action = next(action for action in rule.Actions or () if action.Limit)
    if action.LimitRate <= 0 or action.LimitUnit not in _UNITS:
        raise AclError(f"{_label(rule)}: limit {action.LimitRate} per {action.LimitUnit!r}")
    burst = f" burst {action.LimitBurst} packets" if action.LimitBurst > 0 else ""
    return f"limit rate {action.LimitRate}/{_UNITS[action.LimitUnit]}{burst}"


def _accept(rule: ACE, vif: Vif) -> str:
    if vif.switch or not 0 < rule.RuleID <= _MARKED_IDS:
        return "return"
    return f"ct mark set {vif.app_num << 24 | rule.RuleID:#010x} return"


def _protocol(rule: ACE) -> int | None:
    text = _value(rule, "protocol").lower()
    if not text:
        return None
    if text.isascii() and text.isdigit() and int(text) <= 255:
        return int(text)
    if text in _PROTOCOLS:
        return _PROTOCOLS[text]
    try:
        return socket.getprotobyname(text)
    except OSError:
        raise AclError(f"{_label(rule)}: protocol {text!r} is not known on this device; use its number") from None


def _ports(rule: ACE, text: str) -> str:
    first, colon, last = text.partition(":")
    low = _port(rule, first)
    if not colon:
        return str(low)
    high = _port(rule, last)
    if low > high:
        raise AclError(f"{_label(rule)}: ports {text} end before they begin")
    return f"{low}-{high}" if low < high else str(low)


def _port(rule: ACE, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise AclError(f"{_label(rule)}: {text!r} is no port")
    return int(text)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _value(rule: ACE, kind: str) -> str:
    return next((match.Value for match in rule.Matches or () if match.Type == kind), "")


def _label(rule: ACE) -> str:
    return f"rule {rule.RuleID}" + (f" {rule.Name!r}" if rule.Name else "")
