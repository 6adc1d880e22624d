"""The PAC files of the ports that look for one: searched in threads, kept as long as the port can be the same.

A search begins when a port comes to have an address, and again when its address, name servers or domain change or
another config is tried. One that found nothing is repeated after RETRY_S. What was found stays until the next search
has ended; a port that loses its cable forgets it, because the cable may lead elsewhere when it is back.

Restart: the file that the status shows is used until the first search has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pillar.cmd.nim import findings, wpad
from pillar.cmd.nim.facts import Facts, name_service
from pillar.cmd.nim.wpad import PacFile, Search
from pillar.loop import Loop, Timer
from pillar.types.nim import DeviceNetworkStatus, DevicePortConfig
from pillar.workers import Outcome, Workers

RETRY_S: Final = 60.0
_AT_ONCE: Final = 4


def searches(config: DevicePortConfig | None, facts: Facts) -> dict[str, Search]:
    """The searches that this config asks for now, by interface. Pure."""
    found: dict[str, Search] = {}
    for port in (config.Ports if config is not None else None) or ():
        if not port.NetworkProxyEnable or port.Pacfile or port.IfName in found:
            continue
        if addresses := findings.addresses(port, facts):
            servers, domain = name_service(port, facts)
            lease = facts.leases.get(port.IfName)
            by_dhcp = lease.wpad_url if lease is not None else ""
            found[port.IfName] = Search(
                port.IfName, tuple(addresses), tuple(servers or ()), port.NetworkProxyURL, by_dhcp, domain
            )
    return found


class PacFiles:
    """`changed` is called when a search has ended with something new."""

    def __init__(self, loop: Loop, log: logging.Logger, config_dir: Path, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._log = log
        self._roots = config_dir / "root-certificate.pem"
        self._changed = changed
        self._workers = Workers(loop, _AT_ONCE)
        self._searches: dict[str, Search] = {}
        self._found: dict[str, PacFile] = {}
        self._adopted: dict[str, tuple[str, PacFile]] = {}  # with the NetworkProxyURL it is from
        self._retries: dict[str, Timer] = {}

    @property
    def found(self) -> Mapping[str, PacFile]:
        """What is known of each port that looks for one, as of the last `keep`."""
        return self._found

    def adopt(self, status: DeviceNetworkStatus | None) -> None:
        """Begin with the files that the nim before this one found."""
        for port in (status.Ports if status is not None else None) or ():
            if port.NetworkProxyEnable and port.Pacfile:
                self._adopted[port.IfName] = port.NetworkProxyURL, PacFile(port.Pacfile, port.WpadURL)

    def keep(self, config: DevicePortConfig | None, facts: Facts) -> Facts:
        """Have the searches go on that are wanted now, and no others; the facts with what is known."""
        wanted = searches(config, facts)
        for ifname in set(self._searches) - set(wanted):
            self._forget(ifname)
        for ifname, search in wanted.items():
            before = self._searches.get(ifname)
            if search == before:
                continue
            known = self._known(search, before)
            self._forget(ifname)
            self._searches[ifname], self._found[ifname] = search, known
            self._begin(ifname)
        return replace(facts, pacs=dict(self._found))

    def begin_anew(self) -> None:
        """Another config is to be tried: what was found for the one before does not count."""
        self._adopted.clear()
        for ifname in list(self._searches):
            self._forget(ifname)

    def _known(self, search: Search, before: Search | None) -> PacFile:
        """What may be told of a port until the search has ended."""
        url, adopted = self._adopted.pop(search.ifname, ("", None))
        if before is None:
            return adopted if adopted is not None and url == search.url else PacFile(pending=True)
        return self._found[search.ifname] if search.places() == before.places() else PacFile(pending=True)

    def _forget(self, ifname: str) -> None:
        self._workers.cancel(ifname)
        self._searches.pop(ifname, None)
        self._found.pop(ifname, None)
        if (timer := self._retries.pop(ifname, None)) is not None:
            timer.cancel()

    def _begin(self, ifname: str) -> None:
        self._retries.pop(ifname, None)
        search = self._searches[ifname]
        roots = self._roots if self._roots.exists() else None
        # A cancelled search that has not ended yet begins this one when it has.
        self._workers.submit(
            ifname,
            lambda cancel: wpad.find(search, roots, cancel),
            lambda outcome: self._ended(ifname, search, outcome),
        )

    def _ended(self, ifname: str, search: Search, outcome: Outcome[PacFile]) -> None:
        if self._searches.get(ifname) is not search:
            if ifname in self._searches and not self._workers.busy(ifname):
                self._begin(ifname)
            return
        if outcome.error is not None:
            self._log.error("looking for the PAC file of port %s failed", ifname, exc_info=outcome.error)
        found = outcome.value if outcome.ok else PacFile(error=f"port {ifname} has no PAC file: {outcome.error}")
        if found.error:
            self._retries[ifname] = self._loop.call_later(RETRY_S, lambda: self._begin(ifname))
        if found != self._found[ifname]:
            self._found[ifname] = found
            if found.pac:
                self._log.info("port %s: its PAC file is the one of %s", ifname, found.url or search.url)
            self._changed()
