"""The shell around the decisions: when to decide, and in which order to publish what was decided."""

from __future__ import annotations

import argparse
import time
from typing import ClassVar, Final, TypeVar

from pillar.agent import Agent
from pillar.cmd.zedmanager.decide import decide
from pillar.cmd.zedmanager.disk import Disk
from pillar.cmd.zedmanager.facts import DiskSpace, Facts, Plan
from pillar.cmd.zedmanager.phase import phase
from pillar.cmd.zedmanager.prepare import image_bytes
from pillar.cmd.zedmanager.references import References, decide_image
from pillar.cmd.zedmanager.tables import Tables, space_for
from pillar.keyqueue import KeyQueue
from pillar.pubsub import Publication
from pillar.types.enums import SwState, TriState
from pillar.types.globalconfig import GlobalConfig
from pillar.types.record import Record
from pillar.types.zedmanager import AppInstanceStatus

R = TypeVar("R", bound=Record)

DISK_AGAIN_S: Final = 60.0  # what only the disk can tell is looked at again this often


class ZedManager(Agent):
    """Takes every app from its configuration to RUNNING by asking the other agents."""

    name: ClassVar[str] = "zedmanager"

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.disk = Disk(self.where)
        self.apps = KeyQueue(self.loop, self.step_app, self.log)
        self.images = KeyQueue(self.loop, self.step_image, self.log)
        self.references = References()
        self._open = False  # every table that exists was read
        self._waits: dict[
            str, tuple[str, str, float]
        ] = {}  # app -> source and text of its wait, since when (monotonic)
        self._disks: dict[str, tuple[str, int]] = {}  # installed app -> its name, bytes that its disks may grow to

    def start(self) -> None:
        """Read every table that there is, then look at every app and image once."""
        self.tables = Tables(
            self.pubsub,
            app=self._app_changed,
            image=self._image_changed,
            certificates=self._certificates_changed,
            loaded=self._table_loaded,
        )
        while self.pubsub.process(0.05):
            self.touch()
        for app, status in self.tables.statuses.items().items():
            self._note_status(app, status)
        self._open_when_read()
        if not self._open:
            self.log.error("nothing is decided before these tables can be read: %s", ", ".join(self.tables.unread()))

    def settings_changed(self, old: GlobalConfig) -> None:
        """Ports that cost money and the disk reserve concern every image and app."""
        self._mark_everything()

    # ---- what changed

    def _app_changed(self, app: str) -> None:
        if self._open:
            self.apps.mark(app)

    def _image_changed(self, name: str) -> None:
        if self._open:
            self.images.mark(name)
            for app in self.references.apps(name):
                self.apps.mark(app)

    def _certificates_changed(self, app: str) -> None:
        """A certificate may serve other apps than the one it was fetched for."""
        self._app_changed(app)
        self._mark_waiting_for("CertObjStatus")

    def _table_loaded(self) -> None:
        if self._open:
            self._mark_everything()  # an agent that came later: what it has not, it will never have
        else:
            self._open_when_read()

    def _open_when_read(self) -> None:
        if not self._open and not self.tables.unread():
            self._open = True
            self._mark_everything()
            self.loop.call_soon(self._announce)

    def _announce(self) -> None:
        """Signal `restarted` on every table when all that was there at the start has been decided."""
        if len(self.apps) or len(self.images):
            self.loop.call_soon(self._announce)
            return
        for table in self.tables.outputs:
            table.signal_restarted()

    def _mark_everything(self) -> None:
        if self._open:
            for app in sorted(self.tables.apps()):
                self.apps.mark(app)
            for name in sorted(self.tables.images()):
                self.images.mark(name)

    def _mark_waiting_for(self, source: str) -> None:
        for app, (waits_for, _, _) in self._waits.items():
            if waits_for == source and self._open:
                self.apps.mark(app)

    # ---- one app

    def step_app(self, app: str) -> None:
        """Decide about one app and publish what was decided.

        The purge counter goes before the status that says the purge is done, and the status, which says what this app
        refers to, before what the others are asked for; a status that ends goes last. So whenever a kill falls, the
        status on disk leads to the same decision again.
        """
        facts = self.tables.facts(app, self.disk, lambda: self._space_without(app), overdue=self._is_overdue(app))
        plan = decide(facts)
        tables, wants = self.tables, plan.wants
        tables.store_purge_counter(app, wants.purge_counter)
        if plan.status is not None:
            tables.statuses.publish(app, plan.status)
            self._note_status(app, plan.status)
        for key in facts.published.eids.keys() - wants.eids.keys():
            tables.eid_configs.unpublish(key)
        for key, config in wants.eids.items():
            tables.eid_configs.publish(key, config)
        _put(tables.network_configs, app, wants.network)
        _put(tables.domain_configs, app, wants.domain)
        if plan.status is None:
            tables.statuses.unpublish(app)
            self._note_status(app, None)
        self._log_change(facts, plan)
        self._remember_wait(app, plan)

    def _note_status(self, app: str, status: AppInstanceStatus | None) -> None:
        """Count the app's references and its room on the disk as the status says."""
        images = (status.StorageStatusList if status is not None else None) or ()
        for name in self.references.note(app, images):
            for related in (name, *self.tables.related(name)):
                if self._open:
                    self.images.mark(related)
        if status is not None and status.State >= SwState.INSTALLED:
            size = sum(image_bytes(image, self.disk.verified(image.ImageSha256).size_bytes) for image in images)
            self._disks[app] = (status.DisplayName or app, size)
        elif self._disks.pop(app, None) is not None:
            self._mark_waiting_for("CheckDiskSize")

    def _space_without(self, app: str) -> DiskSpace | None:
        others = (disk for other, disk in self._disks.items() if other != app)
        return space_for(self.settings, self.disk, others)

    def _is_overdue(self, app: str) -> bool:
        """Has the app waited for one thing longer than its patience?"""
        wait = self._waits.get(app)
        return wait is not None and wait[2] <= time.monotonic()

    def _remember_wait(self, app: str, plan: Plan) -> None:
        """Note since when the app waits, and look again when it has waited for too long."""
        wait = plan.waiting
        if wait is None or plan.status is None:
            self._waits.pop(app, None)
            return
        known = self._waits.get(app)
        if known is None or known[:2] != (wait.source, wait.text):
            patience_s = wait.patience_s or float("inf")
            self._waits[app] = (wait.source, wait.text, time.monotonic() + patience_s)
            if wait.patience_s:
                self.apps.mark_later(app, wait.patience_s)
        if wait.source == "CheckDiskSize" or wait.text == "usable images":
            self.apps.mark_later(app, DISK_AGAIN_S)

    def _log_change(self, facts: Facts, plan: Plan) -> None:
        before, after = phase(facts.status, facts.config), phase(plan.status, facts.config)
        if before is not after:
            why = f" ({'; '.join(plan.reasons)})" if plan.reasons else ""
            self.log.info("%s %s -> %s%s", facts.key, before.value, after.value, why)
        error = plan.status.Error if plan.status is not None else ""
        if error and (facts.status is None or facts.status.Error != error):
            self.log.warning("%s %s", facts.key, error.replace("\n\n", "; "))

    # ---- one image, shared by the apps

    def step_image(self, name: str) -> None:
        """Publish the two shared configs of one image, as counted from the published statuses.

        That an image is to be fetched again is put on record before its configs are withdrawn.
        """
        tables = self.tables
        allow_non_free = self.settings.AllowNonFreeAppImages == TriState.ENABLED
        facts = tables.image_facts(name, self.references.of(name), allow_non_free=allow_non_free)
        wants = decide_image(facts)
        _put(tables.retries, name, wants.retry)
        _put(tables.download_configs, name, wants.download)
        _put(tables.verify_configs, name, wants.verify)
        if wants != facts.published:  # which of these names an image is verified under may be another one now
            for related in {name, *facts.verifications, *facts.verify_configs}:
                self._image_changed(related)


def _put(table: Publication[R], key: str, record: R | None) -> None:
    """Publish the record, or that there is none."""
    if record is None:
        table.unpublish(key)
    else:
        table.publish(key, record)
