"""`--ports manage`: nim sets the ports up itself, and finds out which config works.

One pass: the list as it is, the config to try or to keep, its addresses and routes into the kernel, its DHCP clients,
and what is known about it now. Events (netlink, lease files, the end of a probe or a client, timers, tables) only say
that another pass is due.

Killed, whatever was done stands: addresses, routes, clients, leases. The list names the config before it is set up, so
the next nim goes on with that one, and finds in `portfolder` what is to be taken back.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from pillar.cmd.nim import findings, verify
from pillar.cmd.nim.dhcp import Clients
from pillar.cmd.nim.facts import Address, Facts
from pillar.cmd.nim.kernel import Kernel
from pillar.cmd.nim.leases import Lease
from pillar.cmd.nim.pacfiles import PacFiles
from pillar.cmd.nim.portconfigs import same_wish
from pillar.cmd.nim.portfolder import PortFolder
from pillar.cmd.nim.probe import Answer, ask_over, controller
from pillar.cmd.nim.request import Target, Way
from pillar.cmd.nim.verify import Finding, Trial, Word
from pillar.cmd.nim.wiring import Change, Plan, Route, Rule, Wiring, difference, plan
from pillar.locations import Locations
from pillar.loop import Loop, Timer
from pillar.pubsub import PubSub
from pillar.types.enums import DhcpType
from pillar.types.globalconfig import GlobalConfig
from pillar.types.nim import DevicePortConfigList
from pillar.types.scalars import now
from pillar.workers import Outcome, Workers

_PROBE: Final = "probe"
_REFUSED_RETRY_S: Final = 5.0
_ROUNDS: Final = 4


class Manager:
    """`look` asks for another pass; `publish` makes a list durable before it is acted upon."""

    def __init__(
        self,
        loop: Loop,
        log: logging.Logger,
        where: Locations,
        pubsub: PubSub,
        kernel: Kernel,
        pacs: PacFiles,
        test_url: str,
        look: Callable[[], None],
        publish: Callable[[DevicePortConfigList], None],
    ) -> None:
        self.trial = Trial()
        self._loop = loop
        self._log = log
        self._config_dir = where.config
        self._kernel = kernel
        self._pacs = pacs
        self._test_url = test_url
        self._look = look
        self._publish = publish
        self._folder = PortFolder(where, pubsub, look)
        self._clients = Clients(loop, log, look)
        self._probes = Workers(loop, 1)
        self._timers: dict[str, Timer] = {}
        self._refused: dict[str, str] = {}  # interface: what the kernel says against its set-up
        self._deaf: dict[str, str] = {}  # interface: why router advertisements cannot be asked for
        # What is known about the trial's config; all of it begins anew with another one.
        self._tried: dict[Way, Answer] = {}
        self._asked: tuple[Way, ...] = ()
        self._answered = False  # a probe has ended since the last finding
        self._overdue = True  # the time is over that the config had until the next look
        self._armed: tuple[object, ...] = ()  # for what the timer of the trial was set
        # Which ports could be used in the last pass, and had a carrier: what came since is worth a try.
        self._usable: frozenset[str] | None = None
        self._carriers: frozenset[str] | None = None
        self._better_is_due = False
        self._came_up_tried = float("-inf")  # monotonic

    def start(self, stored: DevicePortConfigList, same_boot: bool) -> None:
        """Take over what the nim before this one left running."""
        self._clients.adopt(self._folder.path)
        if same_boot:
            self.trial = verify.resume(stored)

    # ---- one pass

    def step(self, configs: DevicePortConfigList, settings: GlobalConfig, held: Mapping[str, str]) -> Facts:
        """Bring the kernel nearer to the config to be used, which `trial` then names; returns the facts as they are."""
        target = controller(self._config_dir, self._test_url)
        trial = verify.settle(configs, self.trial, now())
        facts, planned = self._facts(trial)
        trial = self._with_better_one(configs, trial, facts, settings, held)
        while True:  # ends: a config that failed just now is not tried again
            self._take(configs, trial)
            facts, planned = self._facts(trial)
            found = self._finding(trial, target, facts, held)
            if not trial.testing or found.word is not Word.FAILS or found.had_address:
                break
            # No address, and none to come: the kernel need not be touched to know.
            configs, trial = verify.judge(configs, trial, found, now())
        self._set_up(planned, facts)
        facts, planned = self._facts(trial)
        facts = self._pacs.keep(trial.config, facts)
        self._name_servers(trial, facts)
        self._find_out(configs, target, facts, settings, lambda: self._finding(trial, target, facts, held))
        return facts

    def _take(self, configs: DevicePortConfigList, trial: Trial) -> None:
        """Publish what is decided, then be bound by it; with another config everything known begins anew."""
        index = verify.index_of(configs, trial)
        self._publish(msgspec.structs.replace(configs, CurrentIndex=index))
        old, self.trial = self.trial, trial
        if _same_config(trial, old):
            return
        self._tried, self._asked, self._answered, self._overdue = {}, (), False, False
        self._probes.cancel(_PROBE)
        self._pacs.begin_anew()
        self._set_timer("trial", None)
        if trial.config is not None:
            what = "testing" if trial.testing else "nothing works, staying with" if trial.guess else "in force:"
            self._log.info("%s port config %s of %s", what, trial.config.Key, trial.config.TimePriority)

    def _facts(self, trial: Trial) -> tuple[Facts, Plan]:
        links, addresses, gateways = self._kernel.read()
        leases = self._leases(trial)
        planned = plan(trial.config, links, leases, addresses, gateways)
        problems = {**self._refused, **self._clients.errors, **planned.problems}
        facts = Facts(links, addresses, gateways, managed=True, leases=leases, problems=problems, pacs=self._pacs.found)
        return facts, planned

    def _leases(self, trial: Trial) -> dict[str, Lease]:
        """The leases that are good now; another pass is due when the first of them ends."""
        ports = (trial.config.Ports if trial.config is not None else None) or ()
        uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        found = {port.IfName: self._folder.lease(port.IfName) for port in ports if port.Dhcp == DhcpType.CLIENT}
        good = {name: lease for name, lease in found.items() if lease is not None and lease.expires_s > uptime_s}
        ends = min((lease.expires_s for lease in good.values()), default=float("inf"))
        self._set_timer("lease", ends - uptime_s if ends < float("inf") else None)
        return good

    def _set_up(self, planned: Plan, facts: Facts) -> None:
        """Clients, addresses and routes as planned; what is no port any more is cleaned. Refusals are kept."""
        names = {link.index: link.name for link in facts.links}
        wanted = {names[index] for index in planned.wiring.ports}
        for name in sorted(wanted):
            self._folder.claim(name)
            self._listen_to_routers(name)
        left = self._folder.claimed() - wanted
        requested = {name: lease.address for name, lease in facts.leases.items()}
        self._clients.keep({name: self._folder.lease_path(name) for name in planned.dhcp}, requested)
        self._renew_where_a_cable_came_back(planned, facts)
        leaving = frozenset(link.index for link in facts.links if link.name in left and not link.master)
        # What was a port is one for once more, with nothing on it.
        goal = Wiring(
            planned.wiring.ports | leaving, planned.wiring.addresses, planned.wiring.routes, planned.wiring.rules
        )
        refused: dict[str, str] = {}
        for _ in range(_ROUNDS):
            before, refused = refused, {}
            ports = tuple(link for link in facts.links if link.index in planned.wiring.ports)
            changes = difference(goal, self._kernel.wiring(facts.addresses), ports)
            for change in changes:
                why = self._kernel.apply(change)
                if why:
                    name = names.get(change.index, "")
                    refused.setdefault(name, f"cannot {_words(change, name)}: {why}")
            if not changes or (refused and refused == before):
                break
            # With an interface's last address the kernel takes its routes, the wanted ones too. And somebody may have
            # changed something since we looked: a refusal counts when it comes again.
            links, addresses, _ = self._kernel.read()
            facts = dataclasses.replace(facts, links=links, addresses=addresses)
        for name, why in refused.items():
            if self._refused.get(name) != why:
                self._log.error("%s", why)
        self._refused = refused
        self._set_timer("refused", _REFUSED_RETRY_S if refused else None)
        for name in left - set(refused):
            self._folder.release(name)

    def _listen_to_routers(self, name: str) -> None:
        """Also on a device that forwards IPv6 for its apps: it would not take addresses by advertisements any more."""
        why = self._kernel.listen_to_routers(name)
        if why != self._deaf.get(name, ""):
            self._deaf[name] = why
            if why:
                self._log.warning("port %s may lose its IPv6 addresses when zedrouter forwards IPv6: %s", name, why)

    def _renew_where_a_cable_came_back(self, planned: Plan, facts: Facts) -> None:
        """It may lead somewhere else now. A client without a lease asks every few seconds anyway."""
        carriers = frozenset(link.name for link in facts.links if link.carrier)
        if self._carriers is not None:
            for name in planned.dhcp:
                if name in carriers - self._carriers and name in facts.leases:
                    self._clients.renew(name)
        self._carriers = carriers

    def _name_servers(self, trial: Trial, facts: Facts) -> None:
        servers: list[str] = []
        domain = ""
        for port in findings.management(trial.config) if trial.config is not None else ():
            if findings.addresses(port, facts):
                lease = facts.leases.get(port.IfName)
                servers += port.DnsServers or (lease.dns_servers if lease is not None else ())
                domain = domain or port.DomainName or (lease.domain if lease is not None else "")
        if self._folder.write_resolv_conf(tuple(dict.fromkeys(servers)), domain):
            self._log.info("name servers: %s", ", ".join(dict.fromkeys(servers)) or "none")

    # ---- which config

    def _with_better_one(
        self, configs: DevicePortConfigList, trial: Trial, facts: Facts, settings: GlobalConfig, held: Mapping[str, str]
    ) -> Trial:
        """A port that came up may make a better config work; also now and then, if the settings say so."""
        usable = frozenset(link.name for link in facts.links if (link.carrier or not link.up) and link.name not in held)
        came_up = usable - self._usable if self._usable is not None else frozenset()
        self._usable = usable
        here = verify.position(configs, trial.config)
        if trial.testing or not here:
            self._set_timer("better", None)
            return trial
        if self._better_is_due:
            self._better_is_due = False
            return verify.retry(configs, trial, now())
        better = (configs.PortConfigList or ())[:here]
        if came_up & {port.IfName for config in better for port in findings.management(config)}:
            wait = self._came_up_tried + verify.REST_S - time.monotonic()
            if wait > 0:  # a cable with a bad contact must not take the others' connections each time
                self._set_timer("better", wait, self._better_due)
                return trial
            self._came_up_tried = time.monotonic()
            return verify.retry(configs, trial, now(), at_once=True)
        if settings.NetworkTestBetterInterval and "better" not in self._timers:
            self._set_timer("better", float(settings.NetworkTestBetterInterval), self._better_due)
        return trial

    def _finding(self, trial: Trial, target: Target | None, facts: Facts, held: Mapping[str, str]) -> Finding:
        if trial.config is None:
            return Finding(Word.WAITING)
        return findings.finding(
            trial.config,
            facts,
            self._tried,
            findings.ways(trial.config, facts, target),
            ask=target is not None,
            patient=trial.testing and trial.waits == 0,
            held=held,
            now=now(),
        )

    def _find_out(
        self,
        configs: DevicePortConfigList,
        target: Target | None,
        facts: Facts,
        settings: GlobalConfig,
        found: Callable[[], Finding],
    ) -> None:
        """Ask the controller over ways that are new; else follow from what is known."""
        trial = self.trial
        if trial.config is None or self._probes.busy(_PROBE):
            return  # the end of the probe brings another pass
        ways = findings.ways(trial.config, facts, target)
        if target is not None and ways and ways != self._asked:
            self._asked, self._tried = ways, {}
            self._ask(target, ways, float(settings.NetworkTestTimeout))
            return
        if self._asked and not ways:
            self._overdue = True  # the last way out is gone: no need to wait for the next look
        self._asked = ways
        if trial.testing or self._answered or self._overdue:
            overdue = self._overdue or not trial.testing
            self._answered = self._overdue = False
            self._follow(configs, found(), overdue)
        key = _phase(self.trial)
        if "trial" not in self._timers or key != self._armed:
            self._armed = key
            self._set_timer("trial", verify.patience_s(self.trial, settings), self._time_is_up)

    def _follow(self, configs: DevicePortConfigList, found: Finding, overdue: bool) -> None:
        """What follows from a finding is published and, if it is another config, done in the next pass."""
        before = self.trial
        assert before.config is not None
        configs, trial = verify.judge(configs, before, found, now(), overdue=overdue)
        if found.word is Word.WORKS and (before.testing or before.misses or before.remote):
            self._log.info("port config %s works", before.config.Key)
        elif found.word is Word.REMOTE and not before.remote:
            self._log.warning(
                "port config %s reaches the controller, which is not well: %s", before.config.Key, found.text
            )
        elif found.word is not Word.WORKS and _phase(trial) != _phase(before):
            self._log.warning("port config %s does not work: %s", before.config.Key, found.text)
        self._take(configs, trial)
        if _phase(trial) != _phase(before):
            self._look()

    def _ask(self, target: Target, ways: tuple[Way, ...], timeout_s: float) -> None:
        def done(outcome: Outcome[dict[Way, Answer]]) -> None:
            if outcome.ok:
                self._tried, self._answered = outcome.value, True
            else:
                self._asked = ()  # cancelled for another config, or a bug, which the worker's error tells
                if outcome.error is not None:
                    self._log.error("asking %s failed", target.url, exc_info=outcome.error)
            self._look()

        self._probes.submit(_PROBE, lambda cancel: ask_over(target, ways, timeout_s, cancel), done)

    # ---- events

    def _time_is_up(self) -> None:
        self._overdue, self._asked = True, ()  # what was answered before is old now
        self._look()

    def _better_due(self) -> None:
        self._better_is_due = True
        self._look()

    def _set_timer(self, name: str, seconds: float | None, action: Callable[[], None] | None = None) -> None:
        """One timer of each name; None: none any more. It only asks for a pass unless it has an action."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if seconds is not None:

            def fire() -> None:
                self._timers.pop(name, None)
                (action or self._look)()

            self._timers[name] = self._loop.call_later(max(0.0, seconds), fire)


def _phase(trial: Trial) -> tuple[object, ...]:
    key = (trial.config.Key, trial.config.TimePriority) if trial.config is not None else None
    return key, trial.testing, trial.waits, trial.misses, trial.remote, trial.guess


def _same_config(one: Trial, other: Trial) -> bool:
    if one.config is None or other.config is None:
        return one.config is other.config
    return same_wish(one.config, other.config)


def _words(change: Change, name: str) -> str:
    match change.thing:
        case Address(address=address, prefix_len=length):
            return f"{change.action} address {address}/{length} on port {name}"
        case Route(destination=destination, gateway=gateway):
            return f"{change.action} the route to {destination} via {gateway or 'the link'} on port {name}"
        case Rule(source=source):
            return f"{change.action} the rule for {source}"
        case _:
            return f"set port {name} up"
