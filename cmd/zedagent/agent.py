"""The shell of zedagent: look at the files when they change, decide, publish."""

import dataclasses
import functools
import logging
import signal
from collections.abc import Callable
from typing import ClassVar

import msgspec

from pillar.agent import Agent
from pillar.cmd.zedagent import reboot, source
from pillar.cmd.zedagent.parse import deactivated, parse_config
from pillar.cmd.zedagent.reboot import Reboot
from pillar.cmd.zedagent.tables import GLOBAL_KEY, KEY, Tables
from pillar.controller.config_pb2 import EdgeDevConfig
from pillar.controller.device import ConfigRefused
from pillar.controller.handed import NAMES, Handed, handed_in
from pillar.controller.notation import read_uuid
from pillar.durable import sweep_staged
from pillar.keyqueue import KeyQueue
from pillar.types.deviceconfig import DeviceConfigStatus
from pillar.types.enums import ConfigGetStatus
from pillar.types.scalars import now
from pillar.types.zedagent import ZedAgentStatus

_LOOK = "device config"  # the one key of the queue


class ZedAgent(Agent):
    """Reads the device config from DIR/config and publishes what it asks for."""

    name: ClassVar[str] = "zedagent"

    def start(self) -> None:
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # see source._has_writer
        self.where.config.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._reboot_path = self.where.config / reboot.REBOOT_CONFIG_NAME
        sweep_staged(self._reboot_path)
        self._checkpoint = source.Checkpoint(self.where.checkpoint)
        self._tables = Tables(self.pubsub)
        if GLOBAL_KEY not in self._tables.settings:
            self._tables.settings.publish(GLOBAL_KEY, self.settings)  # so that people see what holds by default
        self._config: EdgeDevConfig | None = None  # the one in force
        self._looked: Handed | None = None  # the file that was judged last
        self._changed = True  # an event came since then
        self._rebooting = False
        self._reboot_due: Callable[[], None] | None = None  # how to keep the counter once the tables say it all
        self._signalled = False
        self._queue = KeyQueue(self.loop, self._step, self.log)
        self.pubsub.folder(self.where.config, self._look_soon, NAMES)
        self._queue.mark(_LOOK)

    def _look_soon(self) -> None:
        self._changed = True
        self._queue.mark(_LOOK)

    def _step(self, key: str) -> None:
        self.look()
        if not self._signalled:
            self._tables.signal_restarted()
            self._signalled = True

    def look(self) -> None:
        """Go by the newest file if it is good; else keep what is in force, and say so. Safe to call at any time."""
        handed = next(iter(handed_in(self.where.config)), None)
        if handed is not None and handed == self._looked and not self._changed:
            return
        self._changed = False
        try:
            if handed is None:
                self._refuse(f"{self.where.config} has neither {' nor '.join(NAMES)}", logging.INFO)
            else:
                self._judge(handed)
        except Exception:
            self._changed = True  # not done: the queue tries again
            raise
        self._looked = handed

    def _judge(self, handed: Handed) -> None:
        try:
            config, ignored = source.read(handed.path)
        except source.BeingWritten:
            self.log.info("%s is being written; waiting until it is closed", handed.path)
            if self._config is None:
                self._refuse(f"{handed.path} is being written")
            return
        except FileNotFoundError:
            self._look_soon()  # gone since we looked: look for another one
            return
        except (ConfigRefused, OSError) as why:
            self._refuse(f"{handed.path} refused: {why}")
            return
        status = self._apply(config, ignored, State="read", Source=str(handed.path))
        self._attempted(ConfigGetStatus.SUCCESS)
        self._tables.config_status.publish(KEY, status)
        if self._checkpoint.save(config):
            self.log.info("%s saved to %s", handed.path, self._checkpoint.path)

    def _refuse(self, why: str, level: int = logging.ERROR) -> None:
        """No newest config: go on with the one in force, else with the saved one. Said once per reason."""
        before = self._tables.config_status.get(KEY) or DeviceConfigStatus()
        status = before
        if self._config is None:
            status = self._fall_back() or DeviceConfigStatus(State="none")
            status = msgspec.structs.replace(status, Error=before.Error, ErrorTime=before.ErrorTime)
        if status.Error != why:
            going_on = "waiting for one" if self._config is None else f"going on with {_named(self._config)}"
            self.log.log(level, "%s; %s", why, going_on)
            status = msgspec.structs.replace(status, Error=why, ErrorTime=now())
        self._attempted(ConfigGetStatus.READ_SAVED if status.State == "saved" else ConfigGetStatus.FAIL)
        self._tables.config_status.publish(KEY, status)

    def _fall_back(self) -> DeviceConfigStatus | None:
        """At the start: what was in force before, and only without that an older file that somebody handed in."""
        try:
            saved = self._checkpoint.load()
        except (ConfigRefused, OSError) as why:
            self.log.error("%s cannot be used: %s", self._checkpoint.path, why)
            saved = None
        if saved is not None:
            return self._apply(saved, "", State="saved")
        for handed in handed_in(self.where.config)[1:]:
            try:
                config, ignored = source.read(handed.path)
            except (ConfigRefused, source.BeingWritten, OSError) as why:
                self.log.error("%s cannot be used either: %s", handed.path, why)
                continue
            return self._apply(config, ignored, State="read", Source=str(handed.path))
        return None

    def _apply(self, config: EdgeDevConfig, ignored: str, **where: str) -> DeviceConfigStatus:
        """Make the tables say what `config` says; returns the status to publish when all else is done.

        After an error the whole of it is done again. `where` are the status's State and Source.
        """
        parsed = parse_config(config, self._tables.published(), now())
        self._reboot_due = self._decide_reboot(config)
        if self._rebooting:
            parsed = dataclasses.replace(parsed, apps=deactivated(parsed.apps))
        known_errors = self._tables.setting_errors()
        changes = self._tables.publish(parsed)
        self._config = config
        problems = (f"ignored: {ignored}", *parsed.problems) if ignored else parsed.problems
        before = self._tables.config_status.get(KEY) or DeviceConfigStatus()
        for problem in problems:
            if problem not in (before.Problems or ()):
                self.log.warning("%s", problem)
        for error in parsed.settings.Errors or ():
            if error not in known_errors:
                self.log.warning("config items: %s", error.rstrip())
        self.log.info("%s in force: %s", _named(config), ", ".join(changes) or "nothing changed")
        return DeviceConfigStatus(
            DeviceUUID=read_uuid(config.id.uuid), Version=config.id.version, Problems=problems or None, **where
        )

    def _decide_reboot(self, config: EdgeDevConfig) -> Callable[[], None] | None:
        """Whether this config commands a reboot; returns what is left to do when all of it is published."""
        try:
            kept = reboot.kept_counter(self._reboot_path)
        except ValueError as err:
            self.log.error("%s; taking the config's counter for the first one", err)
            kept = None
        match reboot.decide(config.reboot if config.HasField("reboot") else None, kept):
            case Reboot.NOTHING:
                return None
            case Reboot.FORGET:
                return functools.partial(self._reboot_path.unlink, missing_ok=True)
            case Reboot.NOW if not self._rebooting:
                counter = config.reboot.counter
                self.log.warning("reboot asked for: counter %s, was %s; all apps are deactivated", counter, kept)
                self._rebooting = True
        return functools.partial(reboot.keep, self._reboot_path, config.reboot)

    def _attempted(self, outcome: ConfigGetStatus) -> None:
        status = ZedAgentStatus(
            Name=KEY,
            ConfigGetStatus=outcome,
            RebootCmd=self._rebooting,
            RebootReason=reboot.REASON if self._rebooting else "",
        )
        if self._tables.status.publish(KEY, status):
            self.log.info("config %s", outcome.name)
        # Last: a zedagent that is killed before the counter is kept does all of this again.
        if self._reboot_due is not None:
            self._reboot_due()
            self._reboot_due = None


def _named(config: EdgeDevConfig) -> str:
    return f"the config of device {config.id.uuid}, version {config.id.version!r}"
