"""One access rule of an app, judged by itself: what it does, and what is wrong with it. Pure.

zedrouter tells the errors in the app's status; the kernel's rules are made of what is judged here, and a rule with an
error lets nothing through. What depends on the instance or the device (a switch, an interface's name) is judged where
that is known: `pillar.cmd.zedrouter.acl`, `pillar.netplan.acl`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pillar.types.zedrouter import ACE, ACEAction

_MATCHES: Final = ("ip", "protocol", "fport", "lport", "host", "eidset", "interface")
_PROTOCOL: Final = re.compile(r"[a-z0-9.+-]{1,32}")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132}
_WITH_PORTS: Final = (6, 17, 132)
_UNITS: Final = {"s": "second", "m": "minute", "h": "hour"}
_HIGHEST_PORT: Final = 65535


class Action(Enum):
    """What is done with what a rule matches."""

    ACCEPT = "accept"
    DROP = "drop"
    LIMIT = "limit"
    PORT_MAP = "port map"


class _Wrong(Exception):
    """One mistake in a rule."""


@dataclass(frozen=True)
class Judged:
    """A rule and what it means; of one with `errors` the rest may be incomplete."""

    rule: ACE
    action: Action = Action.ACCEPT
    protocol: int | None = None  # None: any
    ports: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # by "fport" or "lport": first and last
    target_port: int = 0  # of a port map
    limit: str = ""  # "10/second burst 5 packets"
    errors: tuple[str, ...] = ()  # without the rule's name

    @property
    def label(self) -> str:
        return f"rule {self.rule.RuleID}" + (f" {self.rule.Name!r}" if self.rule.Name else "")

    def value(self, kind: str) -> str:
        """Of the first match of this type, "" for none."""
        return value_of(self.rule, kind)


def judge(rule: ACE) -> Judged:
    """What the rule means, with everything that is wrong with it."""
    errors = ["its RuleID is 0"] if rule.RuleID == 0 else []
    types = [match.Type for match in rule.Matches or ()]
    errors += _wrong_matches(rule)
    if "host" in types and "eidset" in types:
        errors.append("host and eidset exclude each other")
    protocol: int | None = None
    try:
        protocol = _protocol(value_of(rule, "protocol"))
    except _Wrong as err:
        errors.append(str(err))
    ports: dict[str, tuple[int, int]] = {}
    for kind in ("fport", "lport"):
        if kind not in types:
            continue
        if not value_of(rule, "protocol"):
            errors.append(f"{kind} needs a protocol")
        elif protocol is not None and protocol not in _WITH_PORTS:
            errors.append(f"{kind} needs a protocol that has ports, not {value_of(rule, 'protocol')!r}")
        if (found := _ports(value_of(rule, kind))) is not None:
            ports[kind] = found
    actions = rule.Actions or ()
    kinds = [action for action in (Action.DROP, Action.LIMIT, Action.PORT_MAP) if _asks(actions, action)]
    if len(kinds) > 1:
        errors.append(f"{' and '.join(kind.value for kind in kinds)} exclude each other")
    limiting = next((action for action in actions if action.Limit), None)
    if limiting is not None and (limiting.LimitRate <= 0 or limiting.LimitUnit not in _UNITS):
        errors.append(f"limit {limiting.LimitRate} per {limiting.LimitUnit!r}: expected a rate above 0 per s, m or h")
        limiting = None
    mapping = next((action for action in actions if action.PortMap), None)
    if mapping is not None:
        errors += _wrong_port_map(mapping, types, ports)
    return Judged(
        rule,
        kinds[0] if kinds else Action.ACCEPT,
        protocol,
        ports,
        mapping.TargetPort if mapping is not None else 0,
        _limit(limiting) if limiting is not None else "",
        tuple(errors),
    )


def value_of(rule: ACE, kind: str) -> str:
    """Of the first match of this type, "" for none."""
    return next((match.Value for match in rule.Matches or () if match.Type == kind), "")


def is_network(text: str) -> bool:
    """Is this an address or a subnet?"""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def protocol_name(protocol: int) -> str:
    """For a person."""
    return next((name for name, number in _PROTOCOLS.items() if number == protocol), str(protocol))


def _wrong_matches(rule: ACE) -> Iterator[str]:
    for match in rule.Matches or ():
        if match.Type not in _MATCHES:
            yield f"unknown match type {match.Type!r} (known: {', '.join(_MATCHES)})"
        elif not _good_value(match.Type, match.Value):
            yield f"{match.Value!r} is no value for a match of type {match.Type}"


def _good_value(kind: str, value: str) -> bool:
    match kind:
        case "ip":
            return is_network(value)
        case "host":
            return is_network(value) or _HOST.fullmatch(value) is not None
        case "protocol":
            return _PROTOCOL.fullmatch(value.lower()) is not None
        case "interface":
            return bool(value)
        case "fport" | "lport":
            return _ports(value) is not None
        case _:
            return True


def _wrong_port_map(action: ACEAction, types: list[str], ports: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    if not 0 < action.TargetPort <= _HIGHEST_PORT:
        yield f"port map to port {action.TargetPort}: expected 1 to {_HIGHEST_PORT}"
    if "lport" not in types:
        yield "a port map needs an lport"
    elif "lport" in ports and ports["lport"][0] != ports["lport"][1]:
        yield "a port map needs a single lport, not a range"
    if "protocol" not in types:
        yield "a port map needs a protocol"


def _asks(actions: Iterable[ACEAction], what: Action) -> bool:
    match what:
        case Action.DROP:
            return any(action.Drop for action in actions)
        case Action.LIMIT:
            return any(action.Limit for action in actions)
        case Action.PORT_MAP:
            return any(action.PortMap for action in actions)
        case _:
            return False


def _limit(action: ACEAction) -> str:
    burst = f" burst {action.LimitBurst} packets" if action.LimitBurst > 0 else ""
    return f"{action.LimitRate}/{_UNITS[action.LimitUnit]}{burst}"


def _protocol(text: str) -> int | None:
    """Raises _Wrong for a name that this device does not know; a text that is no name at all is none."""
    text = text.lower()
    if not _PROTOCOL.fullmatch(text):
        return None
    if text.isdigit() and int(text) <= 255:
        return int(text)
    if text in _PROTOCOLS:
        return _PROTOCOLS[text]
    try:
        return socket.getprotobyname(text)
    except OSError:
        raise _Wrong(f"protocol {text!r} is not known on this device; use its number") from None


def _ports(text: str) -> tuple[int, int] | None:
    """First and last of "80" or "80:90"; None for anything else."""
    first, colon, last = text.partition(":")
    if not _is_port(first) or (colon and not _is_port(last)):
        return None
    low, high = int(first), int(last if colon else first)
    return (low, high) if low <= high else None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT
