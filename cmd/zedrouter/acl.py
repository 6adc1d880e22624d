"""Access rules: what is wrong with them, and which port maps they ask for. Pure; the kernel is not touched."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pillar.types.enums import NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.zedrouter import ACE

_MATCHES = ("ip", "protocol", "fport", "lport", "host", "eidset", "interface")
_WITH_PORTS = ("tcp", "udp", "sctp", "6", "17", "132")
_PROTOCOL = re.compile(r"[a-z0-9.+-]{1,32}", re.IGNORECASE)
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_UNITS = ("s", "m", "h")
_HIGHEST_PORT = 65535


class PortMap(NamedTuple):
    """A port of the device that leads to a guest."""

    protocol: str
    lport: int

    def __str__(self) -> str:
        return f"{self.protocol} port {self.lport}"


def rule_errors(rules: Iterable[ACE] | None, instance: NetworkInstanceStatus, guest_has_address: bool) -> list[str]:
    """What is wrong with the rules of one vif on this instance, one text per mistake, each naming its rule."""
    found = []
    rules = tuple(rules or ())
    if rules and instance.Type == NetworkInstanceType.SWITCH and len(instance.IfNameList or ()) != 1:
        found.append("rules on a switch need exactly one uplink, and this switch has none")
    for rule in rules:
        label = f"rule {rule.RuleID}" + (f" {rule.Name!r}" if rule.Name else "")
        found += [f"{label}: {error}" for error in _one_rule(rule, instance, guest_has_address)]
    return found


def port_maps(rules: Iterable[ACE] | None) -> Iterator[PortMap]:
    """The port maps that well-formed rules ask for; a malformed one asks for none (see `rule_errors`)."""
    for rule in rules or ():
        protocol, lport = _value(rule, "protocol").lower(), _value(rule, "lport")
        if any(action.PortMap for action in rule.Actions or ()) and protocol and _is_port(lport):
            yield PortMap(protocol, int(lport))


def _one_rule(rule: ACE, instance: NetworkInstanceStatus, guest_has_address: bool) -> Iterator[str]:
    if rule.RuleID == 0:
        yield "its RuleID is 0"
    types = [match.Type for match in rule.Matches or ()]
    for match in rule.Matches or ():
        if match.Type not in _MATCHES:
            yield f"unknown match type {match.Type!r} (known: {', '.join(_MATCHES)})"
        elif not _good_value(match.Type, match.Value):
            yield f"{match.Value!r} is no value for a match of type {match.Type}"
    if "host" in types and "eidset" in types:
        yield "host and eidset exclude each other"
    protocol = _value(rule, "protocol").lower()
    for port in ("fport", "lport"):
        if port in types and not protocol:
            yield f"{port} needs a protocol"
        elif port in types and protocol not in _WITH_PORTS:
            yield f"{port} needs a protocol that has ports, not {protocol!r}"
    yield from _actions(rule, types, instance, guest_has_address)


def _actions(rule: ACE, types: list[str], instance: NetworkInstanceStatus, guest_has_address: bool) -> Iterator[str]:
    actions = rule.Actions or ()
    kinds = [
        name
        for name, wanted in (
            ("drop", any(action.Drop for action in actions)),
            ("limit", any(action.Limit for action in actions)),
            ("port map", any(action.PortMap for action in actions)),
        )
        if wanted
    ]
    if len(kinds) > 1:
        yield f"{' and '.join(kinds)} exclude each other"
    for action in actions:
        if action.Limit and (action.LimitRate <= 0 or action.LimitUnit not in _UNITS):
            yield f"limit {action.LimitRate} per {action.LimitUnit!r}: expected a rate above 0 per s, m or h"
        if action.PortMap and not 0 < action.TargetPort <= _HIGHEST_PORT:
            yield f"port map to port {action.TargetPort}: expected 1 to {_HIGHEST_PORT}"
    if "port map" in kinds:
        if "lport" not in types:
            yield "a port map needs an lport"
        elif ":" in _value(rule, "lport"):
            yield "a port map needs a single lport, not a range"
        if "protocol" not in types:
            yield "a port map needs a protocol"
        if instance.Type == NetworkInstanceType.SWITCH:
            yield "no port map on a switch: its guests have no address here"
        elif not guest_has_address:
            yield "a port map needs a guest with an address"


def _good_value(kind: str, value: str) -> bool:
    match kind:
        case "ip":
            return _is_network(value)
        case "host":
            return _is_network(value) or _HOST.fullmatch(value) is not None
        case "protocol":
            return _PROTOCOL.fullmatch(value) is not None
        case "interface":
            return bool(value)
        case "fport" | "lport":
            return all(_is_port(part) for part in value.split(":", 1))
        case _:
            return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT


def _value(rule: ACE, kind: str) -> str:
    return next((match.Value for match in rule.Matches or () if match.Type == kind), "")
