"""The shell of zedrouter: reads tables, calls the decisions, publishes numbers before what uses them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from pillar.agent import Agent
from pillar.cmd.zedrouter.appnetwork import World, app_network_status, networks, vifs_on
from pillar.cmd.zedrouter.instances import VifUse, instance_status, judge, leaving_status
from pillar.cmd.zedrouter.ledger import Ledger
from pillar.cmd.zedrouter.lisp import lisp_config
from pillar.cmd.zedrouter.numbers import APP_NUM, BRIDGE_NUM, NoNumber
from pillar.cmd.zedrouter.outcome import Outcome
from pillar.cmd.zedrouter.registrar import Registrar, wishes
from pillar.keyqueue import KeyQueue
from pillar.pubsub import Subscription
from pillar.types.enums import ChangeInProgressType, CurrIntfStatusType
from pillar.types.networkinstance import NetworkInstanceConfig, NetworkInstanceStatus
from pillar.types.networkmode import NetworkMode
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import IpAddr, Uuid, now
from pillar.types.uuidtonum import UuidToNum
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus

if TYPE_CHECKING:
    from pillar.cmd.zedrouter.kernelnet import KernelNetwork

GLOBAL: Final = "global"
_INSTANCES: Final = "instances"  # the queue's key for all instances together; every other key is an app's UUID
_NUMBERS: Final = "numbers"
FREE_NUMBERS_AFTER_S: Final = 300.0  # after the first app config, as EVE

_KERNEL: Final = "kernel"  # the queue's key for a pass over the kernel's network
PASS_AT_LEAST_EVERY_S: Final = 60.0  # events call for passes; this is the seat belt
SOON_S: Final = 0.1  # when something was not ready yet
TOGETHER_S: Final = 0.02  # the kernel's events come in bunches
_REPORTS: Final = "reports"
EVERY_S: Final = 10.0  # counters and ended flows

_MODES: Final = {
    "none": NetworkMode(
        Mode="none",
        KernelChanged=False,
        Explanation="zedrouter runs with --network none: bridges, vifs, addresses and rules in its statuses are "
        "planned, none of them is made in the kernel",
    ),
    "kernel": NetworkMode(
        Mode="kernel",
        KernelChanged=True,
        Explanation="zedrouter runs with --network kernel: it makes bridges, addresses, routes, rules and DHCP in its "
        "namespace; `pillar net` shows them. A LISP data plane is out of its scope: for meshes it writes "
        "run/zedrouter/lisp/lisp.config and registers EIDs; guests reach those of their mesh on this device only",
    ),
}


class Zedrouter(Agent):
    """Plans network instances and the networks of apps, and makes them."""

    name = "zedrouter"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--network",
            choices=list(_MODES),
            default="none",
            help="what is done in the kernel: none, all is planned and published only; kernel, it is made there, which "
            "needs root, nft and dnsmasq (default: %(default)s)",
        )

    def start(self) -> None:
        self.queue = KeyQueue(self.loop, self.step, self.log)
        self.mode = self.pubsub.publication(NetworkMode)
        mode = _MODES[self.options.network]
        self.mode.publish(GLOBAL, mode)
        self.log.info("--network %s: %s", mode.Mode, mode.Explanation)
        self.kernel: KernelNetwork | None = None
        self.outcome = Outcome()
        if self.options.network == "kernel":
            # Imported here: pyroute2 costs a quarter of a second, and --network none needs none of it.
            from pillar.cmd.zedrouter.kernelnet import KernelNetwork
            from pillar.cmd.zedrouter.reports import Reports

            self.kernel = KernelNetwork(
                self.where, self.pubsub, self.loop, self.log, lambda: self.queue.mark_later(_KERNEL, TOGETHER_S)
            )
            self.reports = Reports(self.pubsub, self.loop, self.log, self.kernel)
            self.registrar = Registrar(self.pubsub, self.loop, self.log)
            self.queue.mark_later(_REPORTS, EVERY_S)
        self.instance_table = self.pubsub.publication(NetworkInstanceStatus)
        self.app_table = self.pubsub.publication(AppNetworkStatus)
        # What this process publishes, decoded once: it is the only one who changes it.
        self.instances = self.instance_table.items()
        self.apps = self.app_table.items()
        self.ledger = Ledger(self.pubsub.publication(UuidToNum, persistent=True), self.log)
        self.ledger.mend(self._held(APP_NUM) | self._held(BRIDGE_NUM))
        self._static: dict[Uuid, dict[Uuid, set[IpAddr]]] = {}  # app -> instance -> addresses its config names
        self._touched: set[Uuid] = set()  # who had a config since this process started
        self._free_numbers_planned = False
        self._reported: dict[str, str] = {}
        self._made: dict[Uuid, str] = {}  # the uplink that each instance really has
        self.instance_configs = self.pubsub.subscription(
            "zedagent",
            NetworkInstanceConfig,
            create=self._instance_config,
            modify=self._instance_config,
            delete=self._instance_config,
            synchronized=lambda: self.queue.mark(_INSTANCES),
        )
        self.app_configs = self._follow_apps("zedmanager")
        self.management_configs = self._follow_apps("zedagent")
        self.network = self.pubsub.subscription(
            "nim",
            DeviceNetworkStatus,
            create=self._ports_changed,
            modify=self._ports_changed,
            delete=self._ports_changed,
        )
        while self.pubsub.process():  # so that the first look sees everything that is there
            self.touch()
        self.ledger.rest({*self._touched, *self.apps, *self.instances})
        self._instances_step()
        for uuid in {*self.apps, *self.app_configs.keys(), *self.management_configs.keys()}:
            self._app_step(uuid)
        self._instances_step()
        self.queue.mark(_KERNEL)  # by the queue, which tries again whatever the kernel answers
        for table in (self.mode, self.instance_table, self.app_table):
            table.signal_restarted()

    def _follow_apps(self, publisher: str) -> Subscription[AppNetworkConfig]:
        return self.pubsub.subscription(
            publisher,
            AppNetworkConfig,
            create=self._app_config,
            modify=self._app_config,
            delete=lambda key, last: self._app_config(key, None),
            synchronized=self._mark_apps,
        )

    # ---- what happened: only marks

    def _instance_config(self, key: str, *config: NetworkInstanceConfig) -> None:
        self._touched.add(key)
        self.queue.mark(_INSTANCES)

    def _app_config(self, key: str, config: AppNetworkConfig | None, *old: AppNetworkConfig) -> None:
        self._touched.add(key)
        named: dict[Uuid, set[IpAddr]] = {}
        for network in (config.UnderlayNetworkList or ()) if config is not None else ():
            if network.AppIPAddr:
                named.setdefault(network.Network, set()).add(network.AppIPAddr)
        self._static[key] = named
        self.queue.mark(key)
        if not self._free_numbers_planned:
            self._free_numbers_planned = True
            self.queue.mark_later(_NUMBERS, FREE_NUMBERS_AFTER_S)

    def _ports_changed(self, key: str, *status: DeviceNetworkStatus) -> None:
        if key == GLOBAL:
            self.queue.mark(_INSTANCES)
            self.queue.mark(_KERNEL)

    def _mark_apps(self) -> None:
        for uuid in self.apps:
            self.queue.mark(uuid)

    # ---- what to do about it

    def step(self, key: str) -> None:
        """Look at one key again."""
        match key:
            case "instances":
                self._instances_step()
            case "numbers":
                self._free_numbers()
            case "kernel":
                self._kernel_step()
            case "reports":
                self.reports.look(self.instances, self.apps, self.network.get(GLOBAL))
                self.queue.mark_later(_REPORTS, EVERY_S)
            case _:
                self._app_step(key)

    def _instances_step(self) -> None:
        """Judge all instances, publish what differs, and have the apps look that depend on them."""
        configs = self.instance_configs.items()
        network = self.network.get(GLOBAL)
        uses = self._uses()
        verdicts = judge(configs, self.instances, uses, network)
        changed: set[Uuid] = set()
        for uuid, verdict in verdicts.items():
            before = self.instances.get(uuid)
            bridge_num = before.BridgeNum if before is not None else 0
            if not bridge_num and not verdict.error:
                try:
                    bridge_num = self.ledger.number(uuid, BRIDGE_NUM, self._held(BRIDGE_NUM))
                except NoNumber as err:
                    verdict = replace(verdict, error=str(err))
            if bridge_num and (trouble := self.outcome.instances.get(uuid)):
                verdict = replace(verdict, error="; ".join(filter(None, (verdict.error, trouble))))
            if verdict.held_back:
                self._report(uuid, "its addressing changes once no app is on it any more")
            status = instance_status(verdict, bridge_num, before, uses.get(uuid, ()), network, now(), self.outcome.dead)
            if self.kernel is not None and uuid in self._made:
                up = CurrIntfStatusType.UP if self._made[uuid] else CurrIntfStatusType.DOWN
                status = msgspec.structs.replace(
                    status,
                    ProgUplinkIntf=self._made[uuid],
                    CurrIntfUP=up if status.CurrentUplinkIntf else CurrIntfStatusType.NONE,
                )
            if self._publish_instance(uuid, status) and not (before is not None and _same_for_apps(before, status)):
                changed.add(uuid)
        if self.instance_configs.is_synchronized:
            for uuid in set(self.instances) - set(configs):
                changed.add(uuid)
                self._leave(uuid, uses.get(uuid, []))
            for uuid in self._touched - set(configs) - set(self.instances):
                self.ledger.free(uuid, BRIDGE_NUM)  # again, when the disk refused it at first
        self._mark_affected(changed)

    def _leave(self, uuid: Uuid, uses: list[VifUse]) -> None:
        """The instance's config is gone: it goes when the last app has left it, so its number cannot be given twice."""
        if uses:
            self._publish_instance(uuid, leaving_status(self.instances[uuid], uses))
            return
        self.instance_table.unpublish(uuid)
        del self.instances[uuid]
        self._reported.pop(uuid, None)
        self.ledger.free(uuid, BRIDGE_NUM)
        self.queue.mark(_KERNEL)
        self.log.info("%s: network instance deleted", uuid)

    def _app_step(self, uuid: Uuid) -> None:
        config = self.app_configs.get(uuid) or self.management_configs.get(uuid)
        before = self.apps.get(uuid)
        if config is None:
            if before is None and uuid in self._touched:
                self.ledger.free(uuid, APP_NUM)  # again, when the disk refused it at first
            elif before is not None and self._config_is_gone(before):
                self._remove_app(uuid)
            return
        wanted = {network.Network for network in networks(config)}
        if wanted & set(self.instance_configs.keys()) - set(self.instances):
            self._instances_step()  # a new instance and its app came together
        app_num = 0
        if not config.IsZedmanager:
            try:
                app_num = self.ledger.number(uuid, APP_NUM, self._held(APP_NUM))
            except NoNumber as err:
                self._publish_app(uuid, _without_number(config, before, str(err)))
                return
        others = {other: status for other, status in self.apps.items() if other != uuid}
        trouble = {vif: text for (app, vif), text in self.outcome.vifs.items() if app == uuid}
        world = World(
            self._configured(), self.instances, others, self._static_addresses(), trouble, self.outcome.leased
        )
        self._publish_app(uuid, app_network_status(config, before, app_num, world, now()))

    def _kernel_step(self) -> None:
        """One pass over the kernel's network; what it finds goes into the statuses of whom it concerns."""
        if self.kernel is None:
            return
        self.reports.follow(self.instances, self.apps)
        self.registrar.look(tuple(wishes(self.instances, self.apps, self.network.get(GLOBAL))))
        before = self.outcome
        found = self.kernel.one_pass(self.instances, self.apps, self.network.get(GLOBAL), self.touch)
        self.outcome = found = replace(found, instances={**found.instances, **self._write_lisp_config()})
        made = {uuid: status.CurrentUplinkIntf for uuid, status in self.instances.items() if status.Activate}
        made = {
            uuid: "" if uplink in found.dead or uuid in found.instances else uplink for uuid, uplink in made.items()
        }
        if (found.instances, found.dead, made) != (before.instances, before.dead, self._made):
            self._made = made
            self.queue.mark(_INSTANCES)
        for uuid in {app for (app, _), _ in set(before.vifs.items()) ^ set(found.vifs.items())}:
            self.queue.mark(uuid)
        if found.leased != before.leased:
            addresses = {address for _, _, address in found.leased ^ before.leased}
            for uuid, status in self.apps.items():
                if any(vif.address in addresses for _, _, vif in vifs_on(status)):
                    self.queue.mark(uuid)
        self.queue.mark_later(_KERNEL, SOON_S if found.unfinished else PASS_AT_LEAST_EVERY_S)

    def _write_lisp_config(self) -> dict[Uuid, str]:
        """For whoever runs a data plane; returns the errors of meshes that are not in it."""
        text, errors = lisp_config(self.instances, self.apps)
        path = self.where.agent_dir(self.name) / "lisp" / "lisp.config"
        if not text:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_text() != text:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            staged = path.with_name(".lisp.config.new")
            staged.write_text(text)
            staged.rename(path)
        return errors

    def _config_is_gone(self, status: AppNetworkStatus) -> bool:
        """Not merely unread yet. A management record is zedagent's, all others are zedmanager's."""
        source = self.management_configs if status.IsZedmanager else self.app_configs
        return source.is_synchronized

    def _remove_app(self, uuid: Uuid) -> None:
        self.app_table.unpublish(uuid)
        del self.apps[uuid]
        self._static.pop(uuid, None)
        self._reported.pop(uuid, None)
        self.ledger.free(uuid, APP_NUM)
        self.queue.mark(_KERNEL)
        self.log.info("%s: app network deleted", uuid)
        self._after_app_change(uuid)

    def _free_numbers(self) -> None:
        """Numbers stored for apps and instances that did not come back, e.g. after a reboot with another config."""
        here = {*self._touched, *self.apps, *self.instances}
        for uuid in self.ledger.forget_absent(here):
            self.log.info("%s: its number is free again, it has neither config nor status", uuid)
        self._after_app_change("")

    # ---- publishing

    def _publish_instance(self, uuid: Uuid, status: NetworkInstanceStatus) -> bool:
        if not self.instance_table.publish(uuid, status):
            return False
        self.instances[uuid] = status
        self.queue.mark(_KERNEL)
        self._report(uuid, status.Error, f"network instance {status.DisplayName} {status.BridgeName}")
        return True

    def _publish_app(self, uuid: Uuid, status: AppNetworkStatus) -> None:
        if not self.app_table.publish(uuid, status):
            return
        self.apps[uuid] = status
        self.queue.mark(_KERNEL)
        state = "activated" if status.Activated else "not activated"
        self._report(uuid, status.Error, f"app network {status.DisplayName} {state}")
        self._after_app_change(uuid)

    def _after_app_change(self, uuid: Uuid) -> None:
        """Instances show who is on them, and what this app took or gave back may matter to those that wait."""
        self.queue.mark(_INSTANCES)
        for other, status in self.apps.items():
            if other != uuid and status.Error:
                self.queue.mark(other)

    def _mark_affected(self, instances: set[Uuid]) -> None:
        if not instances:
            return
        self.queue.mark(_INSTANCES)  # a subnet or port that one gave up is what another waits for
        for uuid, config in (*self.app_configs.items().items(), *self.management_configs.items().items()):
            if any(network.Network in instances for network in networks(config)):
                self.queue.mark(uuid)

    def _report(self, uuid: Uuid, error: str, fine: str = "") -> None:
        """Log an error once, and what became of it."""
        text = error or fine
        if self._reported.get(uuid) == text:
            return
        self._reported[uuid] = text
        if error:
            self.log.warning("%s: %s", uuid, error)
        else:
            self.log.info("%s: %s", uuid, text)

    # ---- facts

    def _held(self, num_type: str) -> dict[Uuid, int]:
        """Numbers that statuses show: they are in use whatever the ledger says."""
        if num_type == APP_NUM:
            return {uuid: status.AppNum for uuid, status in self.apps.items() if status.AppNum}
        return {uuid: status.BridgeNum for uuid, status in self.instances.items() if status.BridgeNum}

    def _configured(self) -> set[Uuid]:
        """Instances with a config; before all configs are read, one that a status was made from counts too."""
        configured = set(self.instance_configs.keys())
        if not self.instance_configs.is_synchronized:
            configured |= {
                uuid
                for uuid, status in self.instances.items()
                if status.ChangeInProgress != ChangeInProgressType.DELETE
            }
        return configured

    def _uses(self) -> dict[Uuid, list[VifUse]]:
        uses: dict[Uuid, list[VifUse]] = {}
        for uuid, status in self.apps.items():
            for network, name, vif in vifs_on(status):
                uses.setdefault(network, []).append(VifUse(name, vif.mac, uuid, vif.address))
        return uses

    def _static_addresses(self) -> dict[Uuid, set[IpAddr]]:
        merged: dict[Uuid, set[IpAddr]] = {}
        for named in self._static.values():
            for network, addresses in named.items():
                merged.setdefault(network, set()).update(addresses)
        return merged


def _same_for_apps(before: NetworkInstanceStatus, after: NetworkInstanceStatus) -> bool:
    """Do the two differ only in who is on the instance?"""
    return before == msgspec.structs.replace(after, Vifs=before.Vifs, IPAssignments=before.IPAssignments)


def _without_number(config: AppNetworkConfig, before: AppNetworkStatus | None, error: str) -> AppNetworkStatus:
    """The status of an app that cannot have a number now."""
    return AppNetworkStatus(
        UUIDandVersion=config.UUIDandVersion,
        DisplayName=config.DisplayName,
        Error=error,
        ErrorTime=before.ErrorTime if before is not None and before.Error == error else now(),
    )
