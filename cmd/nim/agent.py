"""The shell of nim: tables, the kernel's events, one step that reads everything and publishes what differs."""

import argparse
from pathlib import Path
from typing import Final

from pillar.agent import Agent
from pillar.cmd.nim.facts import Facts, read_resolv_conf
from pillar.cmd.nim.kernel import Kernel
from pillar.cmd.nim.manage import Manager
from pillar.cmd.nim.pacfiles import PacFiles
from pillar.cmd.nim.portconfigs import LAST_RESORT, ZEDAGENT, Source, filled_in, in_force, last_resort, merge
from pillar.cmd.nim.resolver import ResolverWatch
from pillar.cmd.nim.status import device_network_status
from pillar.keyqueue import KeyQueue
from pillar.pubsub import WatchFailed
from pillar.types.adapters import AssignableAdapters
from pillar.types.enums import NetworkInstanceType, TriState
from pillar.types.globalconfig import GlobalConfig
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.nim import DeviceNetworkStatus, DevicePortConfig, DevicePortConfigList
from pillar.types.scalars import NIL_UUID, Time, now, time_from_ns

GLOBAL: Final = "global"
_EVERYTHING: Final = "network"  # the queue's one key: all of it is one decision


class Nim(Agent):
    """Publishes the device's ports and their addresses."""

    name = "nim"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--resolv-conf",
            type=Path,
            default=Path("/etc/resolv.conf"),
            metavar="FILE",
            help="where the machine's name servers stand; --ports observe only (default: %(default)s)",
        )
        parser.add_argument(
            "--ports",
            choices=("observe", "manage"),
            default="observe",
            help="observe: show what the kernel has, change nothing, the newest config is in force; manage: set the "
            "ports up, test the configs, fall back to one that works (default: %(default)s)",
        )
        parser.add_argument(
            "--test-url",
            default="",
            metavar="URL",
            help="what to ask to find out whether a config works; --ports manage only (default: the controller's ping, "
            "by <root>/config/server)",
        )

    def start(self) -> None:
        self.queue = KeyQueue(self.loop, self.step, self.log)
        self.status = self.pubsub.publication(DeviceNetworkStatus)
        self.own_config = self.pubsub.publication(DevicePortConfig)
        self.list = self.pubsub.publication(DevicePortConfigList, persistent=True)
        self._zedagent_spoke = False
        self.from_zedagent = self.pubsub.subscription(
            "zedagent",
            DevicePortConfig,
            create=self._zedagent_changed,
            modify=self._zedagent_changed,
            delete=self._zedagent_changed,
            restarted=lambda counter: self._zedagent_changed(),
        )
        self.overrides = self.pubsub.subscription(
            "", DevicePortConfig, create=self._look, modify=self._look, delete=self._look, synchronized=self._look
        )
        self.adapters = self.pubsub.subscription(
            "domainmgr", AssignableAdapters, create=self._look, modify=self._look, delete=self._look
        )
        self.instances = self.pubsub.subscription(
            "zedrouter", NetworkInstanceStatus, create=self._look, modify=self._look, delete=self._look
        )
        self.kernel = Kernel()
        self.loop.add_reader(self.kernel.fileno(), self._kernel_event)
        self.pacs = PacFiles(self.loop, self.log, self.where.config, self._look)
        self.pacs.adopt(self.status.get(GLOBAL))
        self.manager: Manager | None = None
        self.resolver: ResolverWatch | None = None
        self._deaf = ""  # why resolv.conf cannot be watched
        if self.options.ports == "manage":
            self.manager = Manager(
                self.loop,
                self.log,
                self.where,
                self.pubsub,
                self.kernel,
                self.pacs,
                self.options.test_url,
                self._look,
                self._publish_list,
            )
            self.manager.start(self._stored(), same_boot=self.status.get(GLOBAL) is not None)
        else:
            self._follow_resolver()
        while self.pubsub.process():  # what is on disk now belongs to the first status
            self.touch()
        self.step(_EVERYTHING)
        for publication in (self.own_config, self.list, self.status):
            publication.signal_restarted()

    def settings_changed(self, old: GlobalConfig) -> None:
        self._look()

    def step(self, key: str) -> None:
        """Read tables and kernel, decide, publish what differs."""
        fallback = None
        if self.settings.NetworkFallbackAnyEth == TriState.ENABLED:
            fallback = last_resort(self.kernel.links(), self._taken())
            self.own_config.publish(LAST_RESORT, fallback)
        else:
            self.own_config.unpublish(LAST_RESORT)
        configs = merge(self._stored(), self._zedagent(), self._overrides(), fallback)
        if self.manager is not None:
            facts = self.manager.step(configs, self.settings, self._held())
            config, testing = self.manager.trial.config, self.manager.trial.testing
        else:
            self._publish_list(configs)
            config, testing = in_force(configs), False
            facts = self.pacs.keep(config, self._observed())
        before = self.status.get(GLOBAL)
        status = device_network_status(config, facts, before, now(), testing=testing)
        if self.status.publish(GLOBAL, status):
            self._log_changes(before, status)

    def _follow_resolver(self) -> None:
        try:
            if self.resolver is None:
                self.resolver = ResolverWatch(self.options.resolv_conf, self.pubsub.inotify, self._look)
            self.resolver.follow()
        except WatchFailed as err:
            if str(err) != self._deaf:
                self.log.warning("new name servers are noticed only when something else changes: %s", err)
            self._deaf = str(err)

    def _observed(self) -> Facts:
        self._follow_resolver()
        links, addresses, gateways = self.kernel.read()
        dns_servers, domain = read_resolv_conf(self.options.resolv_conf)
        return Facts(links, addresses, gateways, dns_servers, domain)

    def _stored(self) -> DevicePortConfigList:
        return self.list.get(GLOBAL) or DevicePortConfigList(CurrentIndex=-1)

    def _publish_list(self, configs: DevicePortConfigList) -> None:
        stored = self._stored()
        if self.list.publish(GLOBAL, configs) and self.manager is None:
            self._log_choice(stored, configs)

    def _zedagent(self) -> Source:
        config = self.from_zedagent.get(ZEDAGENT)
        configs = {ZEDAGENT: filled_in(config, ZEDAGENT)} if config is not None else {}
        return Source(configs, complete=self._zedagent_spoke or self.from_zedagent.restarted > 0)

    def _overrides(self) -> Source:
        configs = {
            key: filled_in(config, key, written)
            for key, config in self.overrides.items().items()
            if (written := self._written(key)) is not None
        }
        gone = not (self.where.agent_dir(GLOBAL) / DevicePortConfig.__name__).is_dir()
        return Source(configs, complete=self.overrides.is_synchronized or gone)

    def _written(self, key: str) -> Time | None:
        """When an override file was written: its priority, if it names none. None: it is gone, though no event has said
        so yet; with another time it would be a config that nobody has tried.
        """
        path = self.where.agent_dir(GLOBAL) / DevicePortConfig.__name__ / f"{key}.json"
        try:
            return time_from_ns(path.stat().st_mtime_ns)
        except FileNotFoundError:
            return None

    def _taken(self) -> frozenset[str]:
        """Interfaces that belong to an app or a switch."""
        adapters = self.adapters.get(GLOBAL)
        bundles = (adapters.IoBundleList or ()) if adapters is not None else ()
        apps = {bundle.Ifname for bundle in bundles if bundle.UsedByUUID != NIL_UUID or bundle.IsPCIBack}
        switches = {
            status.Port for status in self.instances.items().values() if status.Type == NetworkInstanceType.SWITCH
        }
        return frozenset(name for name in apps | switches if name)

    def _held(self) -> dict[str, str]:
        """Interfaces that are detached for apps: interface -> by which app, "" when none has it now."""
        adapters = self.adapters.get(GLOBAL)
        return {
            bundle.Ifname: bundle.UsedByUUID if bundle.UsedByUUID != NIL_UUID else ""
            for bundle in (adapters.IoBundleList or () if adapters is not None else ())
            if bundle.Ifname and bundle.IsPCIBack
        }

    def _look(self, *event: object) -> None:
        self.queue.mark(_EVERYTHING)

    def _zedagent_changed(self, *event: object) -> None:
        self._zedagent_spoke = True
        self._look()

    def _kernel_event(self) -> None:
        if self.kernel.drain():
            self._look()

    def _log_choice(self, old: DevicePortConfigList, new: DevicePortConfigList) -> None:
        before, after = in_force(old), in_force(new)
        if after != before:
            ports = ", ".join(port.IfName for port in after.Ports or ()) if after is not None else ""
            self.log.info(
                "port config %s in force: %s", after.Key if after is not None else "none", ports or "no ports"
            )

    def _log_changes(self, old: DeviceNetworkStatus | None, new: DeviceNetworkStatus) -> None:
        before = {port.IfName: port for port in (old.Ports if old is not None else None) or ()}
        for port in new.Ports or ():
            if before.pop(port.IfName, None) == port:
                continue
            addresses = ", ".join(info.Addr for info in port.AddrInfoList or ()) or "no address"
            if port.Error:
                self.log.warning("port %s: %s", port.IfName, port.Error)
            else:
                self.log.info("port %s: %s", port.IfName, addresses)
        for name in before:
            self.log.info("port %s: no longer a port", name)
