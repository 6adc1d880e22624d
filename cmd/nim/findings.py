"""From what is known about each management port to what is known about the config. Pure.

One port over which the controller answers is enough. A port that may still get an address is waited for; a port that
does not exist is not: the config fails at once, and is tried again when the port appears.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from pillar.cmd.nim.facts import Facts, name_service
from pillar.cmd.nim.probe import Answer
from pillar.cmd.nim.request import Target, Way
from pillar.cmd.nim.verify import Finding, Word
from pillar.cmd.nim.wiring import free_first
from pillar.cmd.nim.wpad import PacFile
from pillar.types.enums import DevicePortConfigVersion, DhcpType, NetworkProxyType
from pillar.types.nim import DevicePortConfig, NetworkPortConfig

_TESTED_WITHOUT_CLOCK = "1970-"  # no certificate is valid at that time


def ways(config: DevicePortConfig, facts: Facts, target: Target | None) -> tuple[Way, ...]:
    """Every way to the controller that could be tried now, free ports first."""
    parts = urlsplit(target.url if target is not None else "")
    scheme, needs_names = parts.scheme, not _is_address(parts.hostname or "")
    if target is None:
        needs_names = False
    found = []
    for port in management(config):
        servers, _ = name_service(port, facts)
        pac = facts.pacs.get(port.IfName, PacFile())
        if (needs_names and not servers) or pac.pending:
            continue
        proxy = "" if _without_proxy(parts.hostname or "", port.Exceptions) else proxy_of(port, scheme)
        program = port.Pacfile or pac.pac
        found += [Way(port.IfName, address, servers or (), proxy, program) for address in addresses(port, facts)]
    return tuple(found)


def management(config: DevicePortConfig) -> list[NetworkPortConfig]:
    """The ports that may reach the controller, those that cost nothing first."""
    everything = config.Version == DevicePortConfigVersion.INITIAL
    return [port for port in free_first(config.Ports or ()) if port.IsMgmt or everything]


def addresses(port: NetworkPortConfig, facts: Facts) -> list[str]:
    """Usable addresses of a port whose cable is plugged in, IPv4 first."""
    link = facts.link(port.IfName)
    if link is None or not link.carrier:
        return []
    found = [
        ipaddress.ip_address(address.address)
        for address in facts.addresses
        if address.index == link.index and port.IfName not in facts.problems
    ]
    return [str(address) for address in sorted(found, key=_order) if not address.is_link_local]


def _without_proxy(host: str, exceptions: str) -> bool:
    if not exceptions:
        return False
    from pillar.transports.proxies import is_exception  # with all of the transports' base: only who needs it pays

    return is_exception(host, exceptions)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _order(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[int, int]:
    return address.version, int(address)


def proxy_of(port: NetworkPortConfig, scheme: str) -> str:
    """The port's fixed proxy for http or https, "" for none."""
    kind = NetworkProxyType.HTTPS if scheme == "https" else NetworkProxyType.HTTP
    for proxy in port.Proxies or ():
        if proxy.Type == kind and proxy.Server:
            server = proxy.Server.partition("://")[2] or proxy.Server
            return f"http://{server}:{proxy.Port}" if proxy.Port else f"http://{server}"
    return ""


def finding(
    config: DevicePortConfig,
    facts: Facts,
    tried: Mapping[Way, Answer],
    usable: tuple[Way, ...],
    *,
    ask: bool,
    patient: bool,
    held: Mapping[str, str],
    now: str,
) -> Finding:
    """What is known now. `tried` are the answers so far, over the `usable` ways.

    `ask` is false when there is no controller to ask; a port with an address is enough then. While `patient` (the
    first test duration has not passed) a port that may yet come up is waited for, although another one failed. `held`
    are interfaces that belong to an app: interface -> by whom, "" when to nobody in particular.
    """
    ports = management(config)
    if not ports:
        return Finding(Word.FAILS, "no port of this config is for management")
    owner = next(((port.IfName, held[port.IfName]) for port in config.Ports or () if port.IfName in held), None)
    if owner is not None and owner[1]:
        return Finding(Word.FAILS, f"port {owner[0]} belongs to app {owner[1]}")
    had_address = any(addresses(port, facts) for port in ports)
    if not ask or now.startswith(_TESTED_WITHOUT_CLOCK):
        if had_address:
            return Finding(Word.WORKS, had_address=True)
    elif any(tried[way].works for way in usable if way in tried):
        return Finding(Word.WORKS, had_address=True)
    answers = [tried[way] for way in usable if way in tried]
    remote = next((answer.text for answer in answers if answer.remote), "")
    if ask and len(answers) < len(usable):
        return Finding(Word.WAITING, "the controller is being asked", had_address)
    if remote:
        return Finding(Word.REMOTE, remote, had_address)
    may_come = {port.IfName for port in ports if may_come_up(port, facts)} | ({owner[0]} if owner else set())
    texts = [answer.text for answer in answers]
    texts += [reason(port, facts, held) for port in ports if port.IfName not in {way.ifname for way in usable}]
    text = "; ".join(text for text in texts if text)
    looking = any(_looks_for_pac(port, facts) for port in ports)  # which ends
    if looking or (may_come and (patient or not answers)):
        return Finding(Word.WAITING, text, had_address)
    return Finding(Word.FAILS, text, had_address)


def may_come_up(port: NetworkPortConfig, facts: Facts) -> bool:
    """Could this port get an address (or its name servers) without anybody's doing?"""
    link = facts.link(port.IfName)
    if link is None or port.ParseError or port.IfName in facts.problems:
        return False
    return not addresses(port, facts) or _looks_for_pac(port, facts)


def _looks_for_pac(port: NetworkPortConfig, facts: Facts) -> bool:
    return facts.pacs.get(port.IfName, PacFile()).pending


def reason(port: NetworkPortConfig, facts: Facts, held: Mapping[str, str]) -> str:
    """Why there is no way out over this port."""
    link = facts.link(port.IfName)
    if port.ParseError:
        return port.ParseError
    if port.IfName in held:
        return f"port {port.IfName} is set aside for apps"
    if link is None:
        return f"port {port.IfName} does not exist"
    if port.IfName in facts.problems:
        return facts.problems[port.IfName]
    if not link.carrier:
        return f"port {port.IfName} has no carrier"
    dhcp = port.Dhcp == DhcpType.CLIENT
    if not addresses(port, facts):
        return f"port {port.IfName} has no address" + (", no DHCP server answers" if dhcp else "")
    if _looks_for_pac(port, facts):
        return f"port {port.IfName} looks for its PAC file"
    return f"port {port.IfName} has no name server"
