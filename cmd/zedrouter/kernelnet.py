"""The shell of `--network kernel`: one pass reads the namespace, decides, and does what is missing.

    read links, addresses, routes, rules -> desired, difference -> nftables -> steps -> dnsmasq -> what went wrong

The nftables come first: an interface meets its rules from its first packet on. What fails is an error of the instance
or app it was for, and everything else goes on; the next pass tries again.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from pillar.cmd.zedrouter.outcome import Outcome
from pillar.locations import Locations
from pillar.loop import Loop
from pillar.netplan import firewall, nft
from pillar.netplan.desired import desired
from pillar.netplan.difference import AddBridge, DeleteLink, difference
from pillar.netplan.dnsmasq import DnsmasqError, Dnsmasqs, leases
from pillar.netplan.kernel import Kernel, StepFailed, read_sysctls
from pillar.netplan.state import Actual, NetState, is_ours, mark_of
from pillar.pubsub import PubSub
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import Uuid
from pillar.types.zedrouter import AppNetworkStatus

_REFUSALS_AT_MOST = 20  # vifs whose rules the kernel refuses, in one pass


class _LeaseFiles:
    """The names of dnsmasq's lease files."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.endswith(".leases")


class KernelNetwork:
    """The network of the namespace that zedrouter runs in. `wake` is called when a pass is called for."""

    def __init__(
        self, where: Locations, pubsub: PubSub, loop: Loop, log: logging.Logger, wake: Callable[[], None]
    ) -> None:
        self._log = log
        self._loop = loop
        self._wake = wake
        self.mark = mark_of(where.root)
        self.kernel = Kernel()
        self._dnsmasqs = Dnsmasqs(where, closing=self._unwatch)
        self._watched: set[int] = set()
        self._tables: dict[str, nft.Found] = {}  # by family, true while the kernel's generation is `_generation`
        self._generation = -1
        self._made: firewall.Made = {}
        self._said: dict[str, str] = {}
        self._dnsmasqs.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # dnsmasq keeps its lease file open: no event of the kernel's network tells of a lease.
        pubsub.folder(self._dnsmasqs.directory, wake, _LeaseFiles(), each_write=True)
        for events in self.kernel.events:
            loop.add_reader(events.fileno(), lambda events=events: self._event(events))  # type: ignore[misc]

    def one_pass(
        self,
        instances: Mapping[Uuid, NetworkInstanceStatus],
        apps: Mapping[Uuid, AppNetworkStatus],
        network: DeviceNetworkStatus | None,
        touch: Callable[[], None],
    ) -> Outcome:
        """Make the namespace what these tables ask for."""
        began = time.perf_counter()
        actual = self.kernel.read()
        dead = actual.dead()
        state = desired(self.mark, instances, apps, network, dead)
        actual = replace(actual, sysctls=read_sysctls(state.sysctls))
        steps, blocked = difference(state, actual)
        errors: dict[Uuid, list[str]] = {owner: [text] for owner, text in blocked.items()}
        going = tuple(
            link.name
            for link in actual.links.values()
            if link.kind == "bridge" and link.name not in state.bridges and is_ours(link, self.mark)
        )
        vif_errors = self._firewall(state, going, errors)
        for step in steps:
            if step.owner and step.owner in errors and not isinstance(step, DeleteLink):
                continue  # an earlier step of this instance failed: it would only repeat itself
            try:
                self.kernel.do(step)
            except StepFailed as err:
                errors.setdefault(step.owner, []).append(str(err))
                continue
            self._log.log(logging.INFO if isinstance(step, AddBridge | DeleteLink) else logging.DEBUG, "did %s", step)
            touch()
        unfinished = self._serve(state, actual, errors, touch)
        leased = {(b, mac, address) for b in state.dhcp for mac, address in leases(self._dnsmasqs.directory, b)}
        for text in errors.pop("", []):  # nobody's in particular: whoever has addresses may miss it
            self._log_once("device", text)
            for bridge in state.bridges.values():
                if not bridge.switch:
                    errors.setdefault(bridge.owner, []).append(text)
        self._log.debug("a pass over the kernel's network: %d steps, %.1f ms", len(steps), 1e3 * _since(began))
        return Outcome(
            {owner: "; ".join(dict.fromkeys(texts)) for owner, texts in errors.items()},
            vif_errors,
            dead,
            frozenset(leased),
            unfinished,
        )

    def counters(self) -> dict[str, tuple[int, int]]:
        """(packets, bytes) by counter, of both tables."""
        return nft.counters("bridge", self.mark) | nft.counters("inet", self.mark)

    def links(self) -> Actual:
        return self.kernel.read(stats=True)

    # ---- nftables

    def _firewall(
        self, state: NetState, going: tuple[str, ...], errors: dict[Uuid, list[str]]
    ) -> dict[tuple[Uuid, str], str]:
        """Make both tables so. A vif whose rules the kernel refuses is left out: nothing passes it."""
        told: dict[tuple[Uuid, str], str] = {}
        refused: set[str] = set()
        try:
            for _ in range(_REFUSALS_AT_MOST):
                wanted, found = firewall.tables(_without_rules(state, refused), going, self._made)
                told |= found
                culprit, text = self._apply(wanted)
                if not text:
                    return told
                vif = next((vif for vif in state.vifs if vif.name == culprit), None)
                if vif is None or vif.name in refused:
                    errors.setdefault("", []).append(text)
                    return told
                refused.add(vif.name)
                told[vif.owner, vif.name] = f"its access rules are refused, so nothing passes: {text}"
        except (nft.NftError, OSError) as err:
            text = "nft is not installed (Debian package nftables)" if isinstance(err, FileNotFoundError) else str(err)
            errors.setdefault("", []).append(f"no access rules, no port maps, no way out: {text}")
        return told

    def _apply(self, wanted: list[nft.Table]) -> tuple[str, str]:
        """("", "") when the tables are as wanted, else (whose line was refused, why)."""
        generation = self.kernel.generation()
        if generation != self._generation:
            self._tables = {table.family: nft.read(table.family, table.name) for table in wanted}
        script = [line for table in wanted for line in nft.changes(table, self._tables[table.family])]
        if not script:
            self._generation = generation
            return "", ""
        self._generation = -1  # until it is known to have worked
        try:
            nft.run(script)
        except nft.NftError as first:
            script = [line for table in wanted for line in nft.rebuild(table)]
            try:
                nft.run(script)
            except nft.NftError as err:
                owner = script[err.line - 1].owner if 0 < err.line <= len(script) else ""
                return owner, str(err)
            self._log.warning("nftables made anew, changing them was refused: %s", first)
            self._tables = {table.family: nft.Found() for table in wanted}
            self._fill_sets_again(wanted)
            return "", ""
        self._log.debug("nftables: %d lines", len(script))
        self._fill_sets_again(wanted)
        if self.kernel.generation() == generation + 1:  # nobody else changed anything in between
            self._tables = {table.family: nft.as_found(table, self._tables[table.family]) for table in wanted}
            self._generation = generation + 1
        return "", ""

    def _fill_sets_again(self, wanted: list[nft.Table]) -> None:
        """Sets that dnsmasq fills, and that were not there before, are filled by the next answers it asks for."""
        for table in wanted:
            for name, one in table.sets.items():
                if one.elements is None and name not in self._tables[table.family].sets:
                    self._dnsmasqs.forget_answers(name.split("_")[1])

    # ---- dnsmasq

    def _serve(self, state: NetState, actual: Actual, errors: dict[Uuid, list[str]], touch: Callable[[], None]) -> bool:
        unfinished = False
        for name, dhcp in state.dhcp.items():
            owner = state.bridges[name].owner
            if owner in errors:
                continue
            try:
                did = self._dnsmasqs.keep(dhcp, state.mark, socket.if_nametoindex(name))
            except (DnsmasqError, OSError) as err:
                unfinished = True
                if "still starting" not in str(err):
                    errors.setdefault(owner, []).append(str(err))
                continue
            if did:
                self._log.info("%s", did)
                touch()
        for name in self._dnsmasqs.bridges() - set(state.dhcp):
            try:
                self._dnsmasqs.remove(name)
                self._log.info("dnsmasq for %s ended", name)
            except (DnsmasqError, OSError) as err:
                self._log_once(name, str(err))
                unfinished = True
        self._watch_processes()
        return unfinished

    def _watch_processes(self) -> None:
        for fd in self._dnsmasqs.pidfds():
            if fd not in self._watched:
                self._watched.add(fd)
                self._loop.add_reader(fd, lambda fd=fd: self._ended(fd))  # type: ignore[misc]

    def _ended(self, fd: int) -> None:
        self._loop.remove_reader(fd)  # it stays readable
        self._wake()

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.discard(fd)
            self._loop.remove_reader(fd)

    # ---- events and telling

    def _event(self, events: socket.socket) -> None:
        if self.kernel.drain(events):
            self._wake()

    def _log_once(self, what: str, text: str) -> None:
        if self._said.get(what) != text:
            self._said[what] = text
            self._log.warning("%s: %s", what, text)


def _since(began: float) -> float:
    return time.perf_counter() - began


def _without_rules(state: NetState, vifs: set[str]) -> NetState:
    return replace(state, vifs=tuple(replace(vif, rules=()) if vif.name in vifs else vif for vif in state.vifs))
