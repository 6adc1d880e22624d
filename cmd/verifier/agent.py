"""The verifier's shell: tables, facts, work. What to do is decided in `decide`."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from pillar.agent import Agent
from pillar.clocks import RetryClock, UseClock
from pillar.cmd.verifier import container, decide, signature
from pillar.cmd.verifier.decide import Bad, Cancel, Facts, Good, Refused, Remove, Step, Verify
from pillar.cmd.verifier.ledger import Ledger
from pillar.cmd.verifier.work import Verification, remove_image
from pillar.globalconfig import signatures_required
from pillar.imagestore import Found, ImageStore, is_sha256
from pillar.keyqueue import KeyQueue
from pillar.ociimage import Layout, sha256_of_id
from pillar.pubsub import Publication, Subscription
from pillar.quarantine import Quarantine
from pillar.types.common import safename as safename_of
from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.globalconfig import GlobalConfig
from pillar.types.scalars import now
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.workers import Outcome, Workers

OWNERS = {"appImg.obj": "zedmanager", "baseOs.obj": "baseosmgr"}  # object type -> who asks
AT_ONCE = 2  # images hashed
LOOK_AGAIN_S = 10.0  # a failed image's file may also come from somebody who tells nobody: a person

Event = Good | Bad | Refused


class Verifier(Agent):
    """verifies what VerifyImageConfig asks for; see the package's docstring"""

    name = "verifier"

    def start(self) -> None:
        self.queue = KeyQueue(self.loop, self.step, self.log)
        self.workers = Workers(self.loop, AT_ONCE)
        self.trust = signature.Trust(self.where.certs, self.where.config / "root-certificate.pem")
        self.stores = {objtype: ImageStore(self.where, objtype) for objtype in OWNERS}
        self.ledgers = {objtype: Ledger(self.where.persist / "verifier" / objtype) for objtype in OWNERS}
        self.layouts = {objtype: Layout.of(self.where, objtype) for objtype in OWNERS}
        self.quarantines = {objtype: Quarantine(self.where, objtype) for objtype in OWNERS}
        self.running: dict[str, str] = {}  # key -> the sha256 that is worked on
        self.events: dict[str, Event] = {}
        self.unproven: set[str] = set()  # keys whose verified file changed since its digest was computed
        self.retries = RetryClock()
        self.uses = UseClock()
        self.statuses: dict[str, Publication[VerifyImageStatus]] = {}
        self.configs: dict[str, Subscription[VerifyImageConfig]] = {}
        self.hints: list[Subscription[DownloaderStatus]] = []
        for objtype, owner in OWNERS.items():
            self._open_scope(objtype, owner)
        for directory in (self.where.certs, self.where.config):
            self.pubsub.folder(directory, self._certificates_changed)
        self._clear_quarantine()

    def _open_scope(self, objtype: str, owner: str) -> None:
        for stage in ("verifier", "verified"):
            self.stores[objtype].directory(stage).mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.statuses[objtype] = self.pubsub.publication(VerifyImageStatus, scope=objtype)
        container.publish(self.layouts[objtype], self.stores[objtype])
        self._judge_old_statuses(objtype)
        self._offer_what_nobody_asks_for(objtype)
        self.configs[objtype] = self.pubsub.subscription(
            owner,
            VerifyImageConfig,
            scope=objtype,
            create=lambda key, new: self._config_changed(f"{objtype}/{key}"),
            modify=lambda key, new, old: self._config_changed(f"{objtype}/{key}"),
            delete=lambda key, last: self._config_changed(f"{objtype}/{key}"),
            synchronized=lambda: self._mark_scope(objtype),
        )
        self.hints.append(
            self.pubsub.subscription(
                "downloader",
                DownloaderStatus,
                scope=objtype,
                create=lambda key, new: self._file_may_be_there(objtype, new),
                modify=lambda key, new, old: self._file_may_be_there(objtype, new),
            )
        )
        status.signal_restarted()

    def settings_changed(self, old: GlobalConfig) -> None:
        if signatures_required(old) != signatures_required(self.settings):
            for objtype, statuses in self.statuses.items():
                for safename in statuses.items():
                    self.retries.forget(f"{objtype}/{safename}")  # it is another question now
        for objtype in OWNERS:
            self._mark_scope(objtype)

    def stop(self) -> None:
        self.workers.cancel_all()

    # ---- what a restart finds

    def _judge_old_statuses(self, objtype: str) -> None:
        """What was DELIVERED counts only while its file is the one that was proven."""
        for safename, status in self.statuses[objtype].items().items():
            found = self._find(objtype, status.ImageSha256, safename)
            if found is None or found.stage != "verified":
                if status.State == SwState.DELIVERED:
                    self.statuses[objtype].publish(safename, replace(status, State=SwState.DOWNLOADED))
            elif not self._proven(objtype, status.ImageSha256, found):
                self.unproven.add(f"{objtype}/{safename}")
                self.statuses[objtype].publish(safename, replace(status, State=SwState.DOWNLOADED))

    def _offer_what_nobody_asks_for(self, objtype: str) -> None:
        """Publish every verified image that no status tells of."""
        told = {status.ImageSha256 for status in self.statuses[objtype].items().values()}
        for sha256, found in self.stores[objtype].verified():
            if sha256 not in told:
                safename = safename_of(found.path.name, sha256)
                proven = self._proven(objtype, sha256, found)
                if not proven:
                    self.unproven.add(f"{objtype}/{safename}")
                status = decide.offered(safename, sha256, found.size, objtype, proven, now())
                self.statuses[objtype].publish(safename, status)
                self.queue.mark(f"{objtype}/{safename}")

    def _proven(self, objtype: str, sha256: str, found: Found) -> bool:
        try:
            known = self.ledgers[objtype].proves(sha256, found.path.lstat())
        except FileNotFoundError:
            return False
        return known and container.proven(self.layouts[objtype], self.ledgers[objtype], sha256, found.path)

    def _find(self, objtype: str, sha256: str, safename: str) -> Found | None:
        """The furthest stage that has the image."""
        if not is_sha256(sha256):
            return None
        store = self.stores[objtype]
        for stage in ("verified", "verifier", "pending"):
            found = store.find_in(stage, sha256, safename)
            if found is not None:
                return found
        return None

    # ---- one image

    def step(self, key: str) -> None:
        """Look at one image and do what there is to do."""
        objtype, _, safename = key.partition("/")
        configs, statuses = self.configs[objtype], self.statuses[objtype]
        config, status = configs.get(safename), statuses.get(safename)
        if config is None and not configs.is_synchronized:
            return  # before the owner's table was read, nothing is known to be gone
        if config is not None and config.Safename != safename:
            config = replace(config, Safename=safename)  # the file's name is the key
        if config is not None:
            config = decide.by_content(config)
        decision = decide.step(config, status, self._facts(key, config, status))
        if decision.status is not None:
            statuses.publish(safename, decision.status)
            self._log_change(key, status, decision.status)
        self.events.pop(key, None)  # only now: if publishing failed, the next look needs it
        self._do(key, decision, config)
        if decision.status is None:
            self._forget(key, status)
        else:
            self._wake_up(key, decision.status)
            if status is not None and status.ImageSha256 != decision.status.ImageSha256:
                self._offer_what_nobody_asks_for(objtype)

    def _facts(self, key: str, config: VerifyImageConfig | None, status: VerifyImageStatus | None) -> Facts:
        objtype, _, safename = key.partition("/")
        event = self.events.get(key)
        if isinstance(event, Good):
            self.unproven.discard(key)
            self.retries.forget(key)
        if config is not None and (status is None or status.RefCount != config.RefCount):
            self.uses.used(key)
        sha256 = config.ImageSha256 if config is not None else status.ImageSha256 if status is not None else ""
        return Facts(
            now=now(),
            objtype=objtype,
            found=self._find(objtype, sha256, safename),
            proven=key not in self.unproven,
            signature_known=config is None or self._signature_known(objtype, config),
            running=key in self.running,
            event=event,
            twin=key not in self.running and self.workers.busy(f"{objtype}/{sha256}"),
            backing_off=self.retries.waiting(key),
            unused=self.uses.idle(key) >= self.settings.DownloadGCTime,
        )

    def _signature_known(self, objtype: str, config: VerifyImageConfig) -> bool:
        if not signature.is_signed(config):
            return not signatures_required(self.settings)
        entry = self.ledgers[objtype].get(config.ImageSha256) if is_sha256(config.ImageSha256) else None
        return entry is not None and signature.fingerprint(config) in entry.signatures

    def _log_change(self, key: str, old: VerifyImageStatus | None, new: VerifyImageStatus) -> None:
        if old is not None and (old.State, old.LastErr, old.Expired) == (new.State, new.LastErr, new.Expired):
            return
        before = old.State.name if old is not None else "(new)"
        if new.LastErr and (old is None or old.LastErr != new.LastErr):
            self.log.warning("%s %s -> %s: %s", key, before, new.State.name, new.LastErr)
        else:
            self.log.info("%s %s -> %s%s", key, before, new.State.name, ", expired" if new.Expired else "")

    # ---- work

    def _do(self, key: str, decision: Step, config: VerifyImageConfig | None) -> None:
        objtype, _, safename = key.partition("/")
        match decision.work:
            case Cancel():
                self.workers.cancel(f"{objtype}/{self.running[key]}")
            case Remove(sha256, verified):
                self._remove(objtype, safename, sha256, verified)
            case Verify() if decision.status is not None:
                sha256 = decision.status.ImageSha256
                places = self.stores[objtype], self.layouts[objtype], self.ledgers[objtype], self.quarantines[objtype]
                strict = signatures_required(self.settings)
                work = Verification(*places, self.trust, sha256, safename, config, strict)
                if self.workers.submit(f"{objtype}/{sha256}", work.run, partial(self._ended, key)):
                    self.running[key] = sha256

    def _ended(self, key: str, outcome: Outcome[Event]) -> None:
        objtype, _, _ = key.partition("/")
        sha256 = self.running.pop(key)
        if isinstance(outcome.error, OSError):
            where = f"{outcome.error.filename}: " if outcome.error.filename else ""
            self.events[key] = Refused(f"{where}{outcome.error.strerror or outcome.error}")
        elif outcome.error is not None:  # a bug of ours, or of a library; the image says so and is tried again
            self.log.error("%s: %s", key, outcome.error, exc_info=outcome.error)
            self.events[key] = Refused(f"{type(outcome.error).__name__}: {outcome.error}")
        elif not outcome.cancelled:
            self.events[key] = outcome.value
        if isinstance(self.events.get(key), (Bad, Refused)):
            self.retries.failed(key, float(self.settings.DownloadRetryTime))
        self.queue.mark(key)
        for safename, status in self.statuses[objtype].items().items():
            if status.ImageSha256 == sha256:
                self.queue.mark(f"{objtype}/{safename}")

    def _remove(self, objtype: str, safename: str, sha256: str, verified: bool) -> None:
        """Remove files that no other name lives from."""
        others = (status for other, status in self.statuses[objtype].items().items() if other != safename)
        if is_sha256(sha256) and all(status.ImageSha256 != sha256 for status in others):
            remove_image(self.stores[objtype], self.ledgers[objtype], sha256, verified=verified)
            container.publish(self.layouts[objtype], self.stores[objtype])

    def _forget(self, key: str, status: VerifyImageStatus | None) -> None:
        objtype, _, safename = key.partition("/")
        if status is not None:
            self.statuses[objtype].unpublish(safename)
            self.log.info("%s withdrawn", key)
        self.events.pop(key, None)
        self.unproven.discard(key)
        self.retries.forget(key)
        self.uses.forget(key)

    def _wake_up(self, key: str, status: VerifyImageStatus) -> None:
        """Have the key looked at again when time alone changes something."""
        if status.LastErr and status.RefCount and key not in self.running:
            self.queue.mark_later(key, self.retries.remaining(key) or LOOK_AGAIN_S)
        if status.RefCount == 0 and not status.Expired:
            self.queue.mark_later(key, max(1.0, self.settings.DownloadGCTime - self.uses.idle(key)))
        objtype, _, safename = key.partition("/")
        if status.Expired and safename not in self.configs[objtype]:
            self.queue.mark(key)  # nobody has to answer first

    def _clear_quarantine(self) -> None:
        """Remove what has been looked at long enough, which is DownloadGCTime since this process first saw it."""
        self.loop.call_later(float(self.settings.DownloadGCTime), self._clear_quarantine)
        for objtype, quarantine in self.quarantines.items():
            for path in quarantine.files():
                if self.uses.idle(str(path)) >= self.settings.DownloadGCTime:
                    path.unlink(missing_ok=True)
                    self.uses.forget(str(path))
                    self.log.info("%s/%s removed from quarantine", objtype, path.name)

    # ---- marking

    def _mark_scope(self, objtype: str) -> None:
        configs = self.configs.get(objtype)
        for safename in {*self.statuses[objtype].keys(), *(configs.keys() if configs is not None else [])}:
            self.queue.mark(f"{objtype}/{safename}")

    def _config_changed(self, key: str) -> None:
        self.retries.forget(key)  # what was refused before may be asked for differently now
        self.queue.mark(key)

    def _file_may_be_there(self, objtype: str, status: DownloaderStatus) -> None:
        if status.State != SwState.DOWNLOADED:
            return
        for safename, config in self.configs[objtype].items().items():
            if decide.by_content(config).ImageSha256 == (status.ImageSha256 or sha256_of_id(status.ContainerImageID)):
                self._config_changed(f"{objtype}/{safename}")

    def _certificates_changed(self) -> None:
        """What was refused for want of a certificate is judged again, if anybody still wants it.

        A device keeps what nobody wants for a while, and something in /config changes all the time.
        """
        for objtype, statuses in self.statuses.items():
            for safename, status in statuses.items().items():
                if status.LastErr and status.RefCount:
                    self._config_changed(f"{objtype}/{safename}")
