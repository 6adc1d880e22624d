"""The shell of domainmgr: tables, facts, watches and timers around the decision in decide.py."""

import argparse
import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from pillar.agent import Agent
from pillar.cmd.domainmgr import adapters, disks, images, logs, work
from pillar.cmd.domainmgr.decide import NOTHING_RUNS, Decision, Done, Facts, Kind, Work, step
from pillar.cmd.domainmgr.passthrough import Passthrough
from pillar.hardware import Devices, Hardware
from pillar.hypervisors import AUTO, Hypervisors, Phase, names
from pillar.keyqueue import KeyQueue
from pillar.types.adapters import AssignableAdapters, PhysicalIOAdapterList
from pillar.types.common import IoAdapter
from pillar.types.domainmgr import DomainConfig, DomainStatus, ImageStatus
from pillar.types.globalconfig import GlobalConfig
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import now
from pillar.workers import Cancel, Outcome, Workers

WORKERS = 8
LOG_LOOK_S = 10.0  # how often the logs of running domains are measured
GLOBAL = "global"
IMAGES, ADAPTERS = "images", "adapters"  # keys of the second queue: tables that depend on all domains


class DomainMgr(Agent):
    """Run the ECOs: DomainConfig in, DomainStatus out."""

    name = "domainmgr"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--hypervisor",
            default=AUTO,
            choices=[AUTO, *names()],
            help="what runs the ECOs; auto: for each the first that can (default)",
        )
        parser.add_argument(
            "--stop-grace",
            type=float,
            metavar="SECONDS",
            help="time between asking a domain to end and ending it, for all (default: 60 for virtual machines,"
            " 10 for containers and programs)",
        )
        parser.add_argument(
            "--hardware",
            type=lambda text: Path(os.path.abspath(text)),  # now: a daemon changes its directory
            default=Path("/"),
            metavar="DIR",
            help="below it /sys and /dev of the devices that are passed through (default /)",
        )

    def start(self) -> None:
        disks.sweep(self.where)
        self.hardware = Hardware(self.options.hardware)
        self.tools = work.Tools(
            Hypervisors(self.where, self.options.hypervisor),
            self.where,
            Passthrough(self.where.persist / "adapters", self.hardware),
            self.options.stop_grace,
        )
        self.workers = Workers(self.loop, WORKERS)
        self.queue = KeyQueue(self.loop, self.look_at, self.log)
        self.tables = KeyQueue(self.loop, self.look_at_table, self.log)
        self._working: dict[str, Kind] = {}
        self._done: dict[str, Done] = {}
        self._changed: set[str] = set()
        self._retry_at: dict[str, float] = {}  # monotonic
        self._watched: dict[str, int] = {}  # uuid -> descriptor that says when the domain ends
        self._unused_since: dict[str, float] = {}  # file name of a copy -> monotonic
        self._left_over = self.tools.hypervisors.adopt()  # uuids; looked at once, unless it runs or is worked at anyway
        self._unmentioned_since: dict[str, float] = {}  # uuid that only a backend knows -> monotonic

        self.statuses = self.pubsub.publication(DomainStatus)
        self.images = self.pubsub.publication(ImageStatus)
        self.adapters = self.pubsub.publication(AssignableAdapters)
        self.listed = self.pubsub.subscription(
            "zedagent",
            PhysicalIOAdapterList,
            create=lambda key, new: self.tables.mark(ADAPTERS),
            modify=lambda key, new, old: self.tables.mark(ADAPTERS),
            delete=lambda key, last: self.tables.mark(ADAPTERS),
        )
        self.network = self.pubsub.subscription(
            "nim",
            DeviceNetworkStatus,
            create=lambda key, new: self.tables.mark(ADAPTERS),
            modify=lambda key, new, old: self.tables.mark(ADAPTERS),
            delete=lambda key, last: self.tables.mark(ADAPTERS),
        )
        self.configs = self.pubsub.subscription(
            "zedmanager",
            DomainConfig,
            create=lambda key, new: self.queue.mark(key),
            modify=self._config_changed,
            delete=lambda key, last: self.queue.mark(key),
            synchronized=self._mark_all,
        )
        self.look_at_table(ADAPTERS)
        self.look_at_table(IMAGES)
        self._mark_all()
        for publication in (self.statuses, self.images, self.adapters):
            publication.signal_restarted()
        self._collect_later()
        self.loop.call_later(LOG_LOOK_S, self._look_at_logs)

    def settings_changed(self, old: GlobalConfig) -> None:
        if old.DomainBootRetryTime != self.settings.DomainBootRetryTime:
            self._retry_at.clear()
            self._mark_all()

    # One domain.

    def look_at(self, uuid: str) -> None:
        """Decide one domain's next move, publish it, start the work."""
        config, status = self.configs.get(uuid), self.statuses.get(uuid)
        facts = self._facts(uuid, config, status)
        decision = step(config, status, facts)
        self._publish(uuid, status, decision)
        self._done.pop(uuid, None)  # only now: if publishing failed, the next look needs it
        if facts.busy is None and config is not None:
            self._changed.discard(uuid)
        self._plan(uuid, decision)
        if decision.cancel:
            self.workers.cancel(uuid)
        if decision.work is not None:
            self._start_work(uuid, decision.work)
        elif facts.domain.phase is Phase.RUNNING:
            self._watch(uuid)
        if decision.status is None and config is not None:
            self.queue.mark(uuid)  # a removal has ended, and meanwhile the app was configured again

    def _facts(self, uuid: str, config: DomainConfig | None, status: DomainStatus | None) -> Facts:
        busy = self._working.get(uuid)
        wanted = () if config is None else config.IoAdapterList or ()
        owned = adapters.owners(self._reservations()) if wanted else {}
        table = self.adapters.get(GLOBAL) or AssignableAdapters()
        devices = self.hardware.devices() if wanted else Devices()
        places = adapters.usb_places(self.listed.get("zedagent"))
        return Facts(
            now=now(),
            domain=NOTHING_RUNS if busy is not None else self.tools.hypervisors.status(uuid),
            synchronized=self.configs.is_synchronized,
            busy=busy,
            done=self._done.get(uuid),
            changed=uuid in self._changed,
            retry_due=self._retry_at.get(uuid, float("inf")) <= time.monotonic(),
            left_over=uuid in self._left_over,
            expired=self._has_expired(uuid),
            adapters_error=adapters.reservation_error(table, owned, uuid, wanted, devices, places),
            holds_devices=busy is None and uuid in self.tools.passthrough.holders(),
            boot_retry_s=float(self.settings.DomainBootRetryTime),
        )

    def _publish(self, uuid: str, old: DomainStatus | None, decision: Decision) -> None:
        new = decision.status
        if new == old:
            return
        if new is None:
            self.statuses.unpublish(uuid)
            self.log.info("%s: removed", uuid)
        else:
            self.statuses.publish(uuid, new)
            self._log_change(uuid, old, new)
        had = old.IoAdapterList if old is not None else None
        if (had or ()) != ((new.IoAdapterList if new is not None else None) or ()):
            self.look_at_table(ADAPTERS)  # at once: the next domain in the queue must see who has what
        self.tables.mark(IMAGES)

    def _log_change(self, uuid: str, old: DomainStatus | None, new: DomainStatus) -> None:
        if old is None or old.State != new.State:
            before = old.State.name if old is not None else "new"
            pid = f", id {new.DomainId}" if new.DomainId else ""
            self.log.info("%s: %s -> %s%s", uuid, before, new.State.name, pid)
        if new.LastErr and (old is None or old.LastErr != new.LastErr):
            self.log.warning("%s: %s", uuid, new.LastErr)

    def _plan(self, uuid: str, decision: Decision) -> None:
        """Remember when the decision wants to look again although nothing happens."""
        if decision.retry_s is None:
            self._retry_at.pop(uuid, None)
            return
        if self._retry_at.get(uuid, 0.0) <= time.monotonic():
            self._retry_at[uuid] = time.monotonic() + decision.retry_s
            self.queue.mark_later(uuid, decision.retry_s)

    def _start_work(self, uuid: str, piece: Work) -> None:
        status = self.statuses.get(uuid)
        reserved = (status.IoAdapterList if status is not None else None) or ()
        bundles = adapters.bundles_of(self.adapters.get(GLOBAL) or AssignableAdapters(), reserved)
        has = work.Reserved(bundles, adapters.usb_places(self.listed.get("zedagent")))

        def run(cancel: Cancel) -> Done:
            return work.run(piece, uuid, self.tools, cancel.raise_if_set, has)

        def ended(outcome: Outcome[Done]) -> None:
            del self._working[uuid]
            result = work.done(piece, outcome, self.log, uuid)
            if result is not None:
                self._done[uuid] = result
                if result.error and self.statuses.get(uuid) is None:  # there is no status to show it
                    self.log.warning("%s: %s failed: %s", uuid, piece.kind.value, result.error)
            self.queue.mark(uuid)
            self.tables.mark(IMAGES)
            if bundles:
                self.tables.mark(ADAPTERS)  # what was handed over, or given back, is seen in sysfs

        if piece.kind is not Kind.PREPARE:  # all others begin by ending what is there
            self._left_over.discard(uuid)
        self._working[uuid] = piece.kind
        self.workers.submit(uuid, run, ended)

    def _watch(self, uuid: str) -> None:
        """Be told when the domain ends, whoever started it."""
        if uuid in self._watched:
            return
        descriptor = self.tools.hypervisors.watch(uuid)
        if descriptor is None:
            self.queue.mark(uuid)  # it ended just now
            return
        self._watched[uuid] = descriptor
        self.loop.add_reader(descriptor, lambda: self._ended(uuid))

    def _ended(self, uuid: str) -> None:
        descriptor = self._watched.pop(uuid)
        self.loop.remove_reader(descriptor)
        os.close(descriptor)
        self.queue.mark(uuid)

    def _config_changed(self, uuid: str, new: DomainConfig, old: DomainConfig) -> None:
        self._changed.add(uuid)
        self.queue.mark(uuid)

    def _mark_all(self) -> None:
        for uuid in {*self.statuses.keys(), *self.configs.keys(), *self._kept()}:
            self.queue.mark(uuid)

    def _kept(self) -> set[str]:
        """The domains that something is kept of, whoever knows them."""
        return self.tools.hypervisors.adopt() | self.tools.passthrough.holders()

    # What depends on all domains.

    def look_at_table(self, which: str) -> None:
        """Publish AssignableAdapters or ImageStatus as they are now."""
        if which == ADAPTERS:
            self._publish_adapters()
        else:
            self._publish_images()

    def _publish_adapters(self) -> None:
        network = self.network.get(GLOBAL)
        ports = frozenset(port.IfName for port in (network.Ports if network is not None else None) or ())
        listed = self.listed.get("zedagent")
        owned = adapters.owners(self._reservations())
        devices = self.hardware.devices() if listed is not None else Devices()
        before = self.adapters.get(GLOBAL)
        if self.adapters.publish(GLOBAL, adapters.assignable(listed, owned, ports, _macs(), devices, before)):
            for uuid, status in self.statuses.items().items():
                if status.AdaptersFailed:
                    self.queue.mark(uuid)

    def _reservations(self) -> dict[str, tuple[IoAdapter, ...]]:
        return {uuid: status.IoAdapterList for uuid, status in self.statuses.items().items() if status.IoAdapterList}

    def _publish_images(self) -> None:
        directory = self.where.images
        used = images.users(directory, self.statuses.items().values())
        table = images.table(directory, images.sizes(directory), used, self.images.items(), now())
        for name in self.images.keys():  # noqa: SIM118  a table, not a dict
            if name not in table:
                self.images.unpublish(name)
        for name, image in table.items():
            self.images.publish(name, image)
            if image.RefCount:
                self._unused_since.pop(name, None)
            else:
                self._unused_since.setdefault(name, time.monotonic())
        for name in self._unused_since.keys() - table.keys():
            del self._unused_since[name]

    def _collect_later(self) -> None:
        self.loop.call_later(max(1.0, self.settings.VdiskGCTime / 10), self._collect)

    def _collect(self) -> None:
        """Delete copies that nobody has used for VdiskGCTime; not before all configurations are known."""
        self._collect_later()  # first: whatever fails below is tried again then
        self._publish_images()
        if self.configs.is_synchronized:
            limit_s = float(self.settings.VdiskGCTime)
            for name in images.to_collect(self.images.items(), self._unused_since, time.monotonic(), limit_s):
                (self.where.images / name).unlink(missing_ok=True)
                self.log.info("%s: deleted, nobody has used it for %.0f s", name, limit_s)
            self._publish_images()
            self._collect_leftovers()

    def _collect_leftovers(self) -> None:
        """Look again at what backends keep of domains that nobody has mentioned for long enough."""
        leftovers = self._kept() - {*self.configs.keys(), *self.statuses.keys()}
        self._unmentioned_since = {uuid: self._unmentioned_since.get(uuid, time.monotonic()) for uuid in leftovers}
        for uuid in filter(self._has_expired, leftovers):
            self.queue.mark(uuid)

    def _has_expired(self, uuid: str) -> bool:
        since = self._unmentioned_since.get(uuid, float("inf"))
        return time.monotonic() - since >= self.settings.VdiskGCTime

    def _look_at_logs(self) -> None:
        self.loop.call_later(LOG_LOOK_S, self._look_at_logs)
        for uuid in self._watched:
            self.workers.submit(f"log of {uuid}", partial(_trim, self.where.log(uuid)), self._trimmed)

    def _trimmed(self, outcome: Outcome[bool]) -> None:
        if outcome.error is not None:
            self.log.warning("cannot trim a domain's log: %s", outcome.error)


def _trim(path: Path, cancel: Cancel) -> bool:
    return logs.trim(path)


def _macs() -> dict[str, str]:
    """The hardware address of each network interface."""
    found = {}
    for interface in Path("/sys/class/net").glob("*/address"):
        with suppress(OSError):  # it went away
            found[interface.parent.name] = interface.read_text().strip()
    return found
