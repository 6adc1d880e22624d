"""The downloader's shell: tables, facts, work. What to do is decided in `decide`."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from pillar.agent import Agent
from pillar.clocks import RetryClock, UseClock
from pillar.cmd.downloader import container, decide, progress, space
from pillar.cmd.downloader.container import Claims
from pillar.cmd.downloader.decide import (
    Adopt,
    Cancel,
    Discard,
    Done,
    Facts,
    Failed,
    Fetch,
    Progress,
    Step,
    WrongContent,
)
from pillar.cmd.downloader.plan import REGISTRY, Impossible, Plan, Waiting, plan
from pillar.cmd.downloader.work import Download, adopt
from pillar.imagestore import Found, ImageStore, name_problem
from pillar.keyqueue import KeyQueue
from pillar.ociimage import Layout
from pillar.pubsub import Publication, Subscription
from pillar.quarantine import Quarantine
from pillar.transports import Limits, partfile
from pillar.transports.fetch import STREAMS
from pillar.transports.throttle import Throttle
from pillar.types.common import kib
from pillar.types.downloader import (
    DatastoreConfig,
    DownloadAttempt,
    DownloaderConfig,
    DownloaderStatus,
    DownloadProgress,
    GlobalDownloadConfig,
    GlobalDownloadStatus,
)
from pillar.types.enums import SwState
from pillar.types.globalconfig import GlobalConfig
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import NIL_UUID, ZERO_TIME, now, time_from_ns
from pillar.workers import Outcome, Workers

OWNERS = {"appImg.obj": "zedmanager", "baseOs.obj": "baseosmgr", "cert.obj": "baseosmgr"}  # object type -> who wants
AT_ONCE = 8  # transfers
DATASTORE_PATIENCE_S = 5.0  # a datastore usually comes right before the objects in it
FULL_RETRY_S = 10  # a full disk is looked at again at the latest after this
GLOBAL = "global"
TELL_SPACE_S = 1.0
LARGE_BYTES = 32 * 1024 * 1024  # by what the config says; smaller objects come in one stream

Result = Done | Failed | WrongContent
Event = Result | Progress


class Downloader(Agent):
    """downloads what DownloaderConfig asks for; see the package's docstring"""

    name = "downloader"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--limit-rate", type=int, default=0, metavar="N", help="bytes a second, all downloads together; 0: no cap"
        )

    def start(self) -> None:
        self.throttle = Throttle(self.options.limit_rate)
        self.queue = KeyQueue(self.loop, self.step, self.log)
        self.workers = Workers(self.loop, AT_ONCE)
        self.stores = {objtype: ImageStore(self.where, objtype) for objtype in OWNERS}
        self.layouts = {objtype: Layout.of(self.where, objtype) for objtype in OWNERS}
        self.quarantines = [Quarantine(self.where, objtype) for objtype in OWNERS]
        self.claims = Claims()
        self.running: dict[str, Fetch | Adopt] = {}
        self.downloads: dict[str, Download] = {}
        self.events: dict[str, Event] = {}
        self.ways: dict[str, tuple[DownloadAttempt, ...]] = {}  # of the attempt that has ended last
        self.retries = RetryClock()
        self.uses = UseClock()
        self.failed_plans: dict[str, Plan] = {}
        self.hopeless: dict[str, Plan] = {}  # plans that no attempt can carry out
        self.planned = UseClock()  # since when no datastore is there for it
        self.looked_at: set[str] = set()
        self.notes: dict[str, str] = {}
        self.space_due = False
        self.statuses: dict[str, Publication[DownloaderStatus]] = {}
        self.progresses: dict[str, Publication[DownloadProgress]] = {}
        self.configs: dict[str, Subscription[DownloaderConfig]] = {}
        self.reserved: dict[str, DownloaderStatus] = {}  # of the statuses those with space reserved
        self.datastores = self.pubsub.subscription(
            "zedagent",
            DatastoreConfig,
            create=lambda key, new: self._mark_users_of(key),
            modify=lambda key, new, old: self._mark_users_of(key),
            delete=lambda key, last: self._mark_users_of(key),
        )
        self.network = self.pubsub.subscription(
            "nim",
            DeviceNetworkStatus,
            create=lambda key, new: self._mark_all(),
            modify=lambda key, new, old: self._mark_all(),
            delete=lambda key, last: self._mark_all(),
        )
        self.max_space = self.pubsub.subscription(
            "",
            GlobalDownloadConfig,
            create=lambda key, new: self._mark_all(),
            modify=lambda key, new, old: self._mark_all(),
            delete=lambda key, last: self._mark_all(),
        )
        self.global_status = self.pubsub.publication(GlobalDownloadStatus)
        for objtype, owner in OWNERS.items():
            self._open_scope(objtype, owner)
        self._tell_space()
        self._sweep_later()

    def _open_scope(self, objtype: str, owner: str) -> None:
        directory = self.stores[objtype].directory("pending")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.statuses[objtype] = self.pubsub.publication(DownloaderStatus, scope=objtype)
        told = self.progresses[objtype] = self.pubsub.publication(DownloadProgress, scope=objtype)
        for safename, known in status.items().items():
            self._note_reservation(f"{objtype}/{safename}", known)
        for safename in set(told.keys()) - set(status.keys()):  # a kill fell between the two
            told.unpublish(safename)
        self.configs[objtype] = self.pubsub.subscription(
            owner,
            DownloaderConfig,
            scope=objtype,
            create=lambda key, new: self.queue.mark(f"{objtype}/{key}"),
            modify=lambda key, new, old: self.queue.mark(f"{objtype}/{key}"),
            delete=lambda key, last: self.queue.mark(f"{objtype}/{key}"),
            synchronized=lambda: self._mark_scope(objtype),
        )
        status.signal_restarted()

    def settings_changed(self, old: GlobalConfig) -> None:
        self._mark_all()

    def stop(self) -> None:
        self.workers.cancel_all()

    # ---- one object

    def step(self, key: str) -> None:
        """Look at one object and do what there is to do."""
        objtype, _, safename = key.partition("/")
        configs, statuses = self.configs[objtype], self.statuses[objtype]
        config, status = configs.get(safename), statuses.get(safename)
        if config is None and (not configs.is_synchronized or (status is None and key not in self.running)):
            return  # before the owner's table was read, nothing is known to be gone
        if config is not None and config.Safename != safename:
            config = replace(config, Safename=safename)  # the file's name is the key
        facts = self._facts(key, objtype, safename, config, status)
        decision = decide.step(config, status, facts)
        self._publish(key, status, decision)
        self.looked_at.add(key)
        self.events.pop(key, None)  # only now: if publishing failed, the next look needs it
        self._do(key, decision, config)
        self._tell(key, decision, facts)
        self._wake_up(key, decision.status)
        self._tell_space_soon()

    def _facts(
        self, key: str, objtype: str, safename: str, config: DownloaderConfig | None, status: DownloaderStatus | None
    ) -> Facts:
        event = self.events.get(key)
        running = self.running.get(key)
        if config is not None and status is not None and config.RefCount != status.RefCount:
            self.uses.used(key)
        if config is None or name_problem(safename, config.ImageSha256):
            nothing = Impossible("no usable config")
            return Facts(now=now(), objtype=objtype, plan=nothing, running=running, event=event)
        datastore = self.datastores.get(config.DatastoreID) if config.DatastoreID != NIL_UUID else None
        planned = self._wait_for_datastore(key, plan(config, objtype, datastore, self.network.get(GLOBAL)), status)
        self._note_attempt(key, planned, event)
        store = self.stores[objtype]
        part_kib = kib(partfile.on_disk(store.pending_file(config.ImageSha256, safename)))
        found = self._find(objtype, config, status)
        backing_off = self.retries.waiting(key) or self.hopeless.get(key) == planned
        # Walking the disk for each of a thousand objects that cannot start anyway would take seconds.
        starts = config.RefCount and running is None and found is None and isinstance(planned, Plan) and not backing_off
        return Facts(
            now=now(),
            objtype=objtype,
            plan=planned,
            found=found,
            part_kib=part_kib,
            free_kib=self._tally(without=key).RemainingSpace + part_kib + self._in_quarantine_kib() if starts else 0,
            running=running,
            event=event,
            twin=self._twin_runs(key, objtype, config.ImageSha256),
            backing_off=backing_off,
            unused=self.uses.idle(key) >= self.settings.DownloadGCTime,
            first_look=key not in self.looked_at,
        )

    def _find(self, objtype: str, config: DownloaderConfig, status: DownloaderStatus | None) -> Found | None:
        sha256 = config.ImageSha256 or (decide.content_of(status) if status is not None else "")
        found = self.stores[objtype].find(sha256, config.Safename)
        return container.whole(self.layouts[objtype], found) if config.IsContainer else found

    def _wait_for_datastore(
        self, key: str, planned: Plan | Waiting | Impossible, status: DownloaderStatus | None
    ) -> Plan | Waiting | Impossible:
        """A datastore that does not come is an error, which goes as soon as it does come."""
        if not isinstance(planned, Waiting):
            self.planned.used(key)
            return planned
        overdue = Impossible(f"{planned.text}, which is not configured")
        left = DATASTORE_PATIENCE_S - self.planned.idle(key)
        if left <= 0 or (status is not None and status.LastErr == overdue.text):
            return overdue
        self.queue.mark_later(key, left)
        return planned

    def _note_attempt(self, key: str, planned: Plan | Waiting | Impossible, event: Event | None) -> None:
        """When the next attempt is due: at once when something came of the last one or the plan is another one now."""
        if isinstance(event, Failed):
            if isinstance(planned, Plan):
                self.failed_plans[key] = planned
                if event.lasting:
                    self.hopeless[key] = planned
        elif isinstance(event, (Done, Progress)) or planned != self.failed_plans.get(key, planned):
            self.retries.forget(key)
            self.failed_plans.pop(key, None)
            self.hopeless.pop(key, None)

    def _twin_runs(self, key: str, objtype: str, sha256: str) -> bool:
        if not sha256:
            return False
        return any(
            other != key and other.startswith(objtype + "/") and self._sha256_of(other) == sha256
            for other in self.running
        )

    def _sha256_of(self, key: str) -> str:
        objtype, _, safename = key.partition("/")
        status = self.statuses[objtype].get(safename)
        return status.ImageSha256 if status is not None else ""

    def _publish(self, key: str, old: DownloaderStatus | None, decision: Step) -> None:
        """Publish before work starts; but files go before the status that tells of them."""
        objtype, _, safename = key.partition("/")
        new = decision.status
        if new is not None:
            if new.State == SwState.DOWNLOADED and (old is None or old.State != SwState.DOWNLOADED):
                # A kill between putting the file in place and removing what told of its parts leaves that behind.
                partfile.discard(self.stores[objtype].pending_file(new.ImageSha256, safename))
            self.statuses[objtype].publish(safename, new)
            self._note_reservation(key, new)
            if old is None or (old.State, old.LastErr, old.Expired) != (new.State, new.LastErr, new.Expired):
                self._log_change(key, old, new)
        if decision.note and self.notes.get(key) != decision.note:
            self.log.info("%s: %s", key, decision.note)
        self.notes[key] = decision.note

    def _tell(self, key: str, decision: Step, facts: Facts) -> None:
        """Publish what people may want to know; it is not worth failing for."""
        objtype, _, safename = key.partition("/")
        told = self.progresses[objtype]
        download = self.downloads.get(key)
        ways = download.ways if download is not None else self.ways.get(key, ())
        due = self.retries.remaining(key)
        next_retry = time_from_ns(time.time_ns() + int(due * 1e9)) if due is not None else ZERO_TIME
        queued = download is not None and not download.ways
        said = progress.report(told.get(safename), decision, facts, ways, next_retry, queued)
        if said is not None:
            told.publish(safename, said)

    def _log_change(self, key: str, old: DownloaderStatus | None, new: DownloaderStatus) -> None:
        before = old.State.name if old is not None else "(new)"
        if new.LastErr and (old is None or old.LastErr != new.LastErr):
            due = self.retries.remaining(key)
            again = f", next attempt in {due:.0f} s" if due else ""
            self.log.warning("%s %s -> %s: %s%s", key, before, new.State.name, new.LastErr, again)
        else:
            what = ", expired" if new.Expired else f", {new.Size} bytes" if new.State == SwState.DOWNLOADED else ""
            self.log.info("%s %s -> %s%s", key, before, new.State.name, what)

    # ---- work

    def _do(self, key: str, decision: Step, config: DownloaderConfig | None) -> None:
        match decision.work:
            case Cancel():
                self.workers.cancel(key)
                if key in self.downloads:
                    self.downloads[key].abort()
            case Discard(sha256, path):
                self._discard(key, decision, sha256)
                if path is not None:
                    path.unlink(missing_ok=True)
                if decision.status is not None:
                    self.queue.mark(key)
            case Fetch() as work if config is not None:
                self._fetch(key, work, config)
            case Adopt(found) as adoption if config is not None:
                sha256 = config.ImageSha256
                if self.workers.submit(
                    key, lambda cancel: adopt(found.path, sha256, cancel), partial(self._ended, key)
                ):
                    self.running[key] = adoption
        if decision.status is None and decision.work is None:
            self._forget(key)

    def _fetch(self, key: str, work: Fetch, config: DownloaderConfig) -> None:
        objtype, _, safename = key.partition("/")
        limit = work.limit - self._in_quarantine_kib() * 1024
        if config.Size == 0 or limit < config.Size:
            self._empty_quarantine()
            limit = work.limit

        def tell(progress: Progress) -> None:
            self.loop.call_soon_threadsafe(lambda: self._progressed(key, work, progress))

        make: Callable[..., Download] = Download
        if work.plan.source.ds_type == REGISTRY:
            from pillar.cmd.downloader.containerwork import ContainerDownload  # on use: it speaks HTTP

            make = partial(
                ContainerDownload, store=self.stores[objtype], layout=self.layouts[objtype], claims=self.claims
            )
        download = make(
            work.plan,
            self.stores[objtype].pending_file(config.ImageSha256, safename),
            config.ImageSha256,
            limit,
            Limits(
                root_certificate=self.where.config / "root-certificate.pem",
                client_certificate=self.where.config / "device.cert.pem",
                client_key=self.where.config / "device.key.pem",
            ),
            tell,
            self.throttle,
            STREAMS if config.Size >= LARGE_BYTES else 1,
        )
        if self.workers.submit(key, download.run, partial(self._ended, key)):
            self.running[key] = work
            self.downloads[key] = download

    def _progressed(self, key: str, work: Fetch, progress: Progress) -> None:
        if self.running.get(key) is work:
            self.events[key] = progress
            self.queue.mark(key)

    def _ended(self, key: str, outcome: Outcome[Done | Failed] | Outcome[Done | Failed | WrongContent]) -> None:
        self.running.pop(key, None)
        download = self.downloads.pop(key, None)
        self.ways[key] = download.ways if download is not None else ()
        self.events.pop(key, None)
        if outcome.error is not None:  # a bug of ours, or of a library; the object says so and is tried again
            self.log.error("%s: %s", key, outcome.error, exc_info=outcome.error)
            self.events[key] = Failed(f"{type(outcome.error).__name__}: {outcome.error}")
        elif not outcome.cancelled:
            self.events[key] = outcome.value
        ended = self.events.get(key)
        if isinstance(ended, Failed) and ended.full:
            self._empty_quarantine()
        if isinstance(ended, Failed) and not ended.lasting:
            cap = self.settings.DownloadRetryTime
            self.retries.failed(key, float(min(cap, FULL_RETRY_S) if ended.full else cap))
        self.queue.mark(key)
        self._mark_waiting()  # for room, or for the same image

    def _discard(self, key: str, decision: Step, sha256: str) -> None:
        """Remove files, then the status if it goes. What another object of the same sha256 may live from stays."""
        objtype, _, safename = key.partition("/")
        store = self.stores[objtype]
        if not name_problem(safename, sha256):
            target = store.pending_file(sha256, safename)
            partfile.discard(target)
            shared = sha256 and any(
                decide.content_of(status) == sha256
                for other, status in self.statuses[objtype].items().items()
                if other != safename
            )
            if not shared:
                found = store.find_in("pending", sha256, safename) if sha256 else store.find("", safename)
                while found is not None:
                    found.path.unlink(missing_ok=True)
                    found = store.find_in("pending", sha256, safename) if sha256 else None
            if sha256:
                with contextlib.suppress(OSError):  # not empty, or the verifier removed it
                    target.parent.rmdir()
        if decision.status is None:
            self._forget(key)
            self.progresses[objtype].unpublish(safename)
            self.statuses[objtype].unpublish(safename)
            self._note_reservation(key, None)
            self.log.info("%s withdrawn", key)
        self._sweep_blobs(objtype)
        self._mark_waiting()

    def _forget(self, key: str) -> None:
        self.uses.forget(key)
        self.planned.forget(key)
        self.retries.forget(key)
        self.failed_plans.pop(key, None)
        self.hopeless.pop(key, None)
        self.notes.pop(key, None)
        self.ways.pop(key, None)
        self.events.pop(key, None)
        self.looked_at.discard(key)

    def _wake_up(self, key: str, status: DownloaderStatus | None) -> None:
        """Have the key looked at again when time alone changes something."""
        if status is None:
            return
        due = self.retries.remaining(key)
        if due and key not in self.running:
            self.queue.mark_later(key, due)
        if status.RefCount == 0 and not status.Expired:
            self.queue.mark_later(key, max(1.0, self.settings.DownloadGCTime - self.uses.idle(key)))

    # ---- marking

    def _mark_scope(self, objtype: str) -> None:
        for safename in {*self.statuses[objtype].keys(), *self._configs_of(objtype)}:
            self.queue.mark(f"{objtype}/{safename}")

    def _configs_of(self, objtype: str) -> list[str]:
        configs = self.configs.get(objtype)
        return configs.keys() if configs is not None else []

    def _mark_all(self) -> None:
        for objtype in OWNERS:
            self._mark_scope(objtype)

    def _mark_users_of(self, datastore: str) -> None:
        for objtype, configs in self.configs.items():
            for safename, config in configs.items().items():
                if config.DatastoreID == datastore:
                    self.queue.mark(f"{objtype}/{safename}")

    def _mark_waiting(self) -> None:
        """Everything wanted that is not there and does not run: room or a turn may have come."""
        for objtype, statuses in self.statuses.items():
            for safename, status in statuses.items().items():
                key = f"{objtype}/{safename}"
                if status.RefCount and status.State != SwState.DOWNLOADED and key not in self.running:
                    self.queue.mark(key)

    # ---- room

    def _note_reservation(self, key: str, status: DownloaderStatus | None) -> None:
        """Keep the index of what has space reserved; it follows the published status."""
        if status is not None and status.ReservedSpace:
            self.reserved[key] = status
        else:
            self.reserved.pop(key, None)

    def _tally(self, without: str = "") -> GlobalDownloadStatus:
        """The sums, optionally as if one object had no reservation."""
        configured = self.max_space.get(GLOBAL)
        limit = configured.MaxSpace if configured is not None and configured.MaxSpace else None
        reservations = []
        for key, status in self.reserved.items():
            if key != without:
                objtype, _, safename = key.partition("/")
                target = self.stores[objtype].pending_file(status.ImageSha256, safename)
                brought = container.stored(self.downloads.get(key)) or partfile.on_disk(target)
                reservations.append(space.Reservation(status.ReservedSpace, kib(brought)))
        used = space.used_kib(self.where.persist / "downloads")
        return space.tally(limit or space.default_max_kib(self.where.persist), used, reservations)

    def _in_quarantine_kib(self) -> int:
        return sum(kib(size) for quarantine in self.quarantines for size in quarantine.sizes())

    def _empty_quarantine(self) -> None:
        """Wrong content must not keep the right one out."""
        size = sum(quarantine.empty() for quarantine in self.quarantines)
        if size:
            self.log.info("quarantine emptied: its %d bytes are needed", size)

    def _tell_space_soon(self) -> None:
        if not self.space_due:
            self.space_due = True
            self.loop.call_later(TELL_SPACE_S, self._tell_space)

    def _tell_space(self) -> None:
        self.space_due = False
        self.global_status.publish(GLOBAL, self._tally())

    # ---- what nobody asks for

    def _sweep_later(self) -> None:
        self.loop.call_later(float(self.settings.DownloadGCTime), self._sweep)

    def _sweep(self) -> None:
        """Remove what stands in pending without config and status: left from before a reboot, and not wanted since."""
        self._sweep_later()  # first: whatever fails below is tried again then
        for objtype, store in self.stores.items():
            if not self.configs[objtype].is_synchronized:
                continue
            wanted = [
                *((name, decide.content_of(status)) for name, status in self.statuses[objtype].items().items()),
                *((name, config.ImageSha256) for name, config in self.configs[objtype].items().items()),
            ]
            for path in space.sweep(store.directory("pending"), wanted):
                self.log.info("%s/%s removed: nobody has wanted it since the start", objtype, path.name)
            self._sweep_blobs(objtype)

    def _sweep_blobs(self, objtype: str) -> None:
        """Remove blobs that no image has, unless one may still be on its way to being complete."""
        statuses, configs = self.statuses[objtype].items(), self.configs[objtype]
        on_its_way = any(status.IsContainer and status.State != SwState.DOWNLOADED for status in statuses.values())
        if not configs.is_synchronized or on_its_way or set(configs.keys()) - set(statuses):
            return
        for name in self.layouts[objtype].sweep(container.roots(self.stores[objtype])):
            self.log.info("%s: blob %s removed: no image has it", objtype, name)
