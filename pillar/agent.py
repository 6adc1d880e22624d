"""What every agent is: a process with one loop, a pid file, a log, a touch file and the settings.

An agent is a subclass of Agent; `run` brings it up in this order: options, daemon, pid file, log,
GlobalConfig, `start`, ready, loop. Nothing is opened before it has become a daemon, and nothing is
changed before it holds its pid file. Starting is recovering: there is no other clean-up.

Exit statuses (also of `pillar <agent>` and `scripts/<agent>`):
    0  ended by SIGTERM or SIGINT
    1  could not start, or gave up; one line says why
    2  wrong usage
    3  already running: the pid file or a table is held by another live process, whose pid is named
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import ClassVar, Final

from pillar import agents, durable, log, options, ready
from pillar.globalconfig import effective, log_level_name
from pillar.locations import Locations
from pillar.loop import Loop
from pillar.pidfile import AlreadyRunning, PidFile
from pillar.pubsub import PubSub, PubSubError, TableHeld
from pillar.types.globalconfig import GlobalConfig

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_ALREADY_RUNNING: Final = 3

TOUCH_EVERY_S: Final = 5.0  # EVE asks for 25 s at most
_GLOBAL: Final = "global"  # the only key of GlobalConfig that counts
_LOAD_SLICE_S: Final = 0.05
_LOAD_AT_MOST_S: Final = 2.0

_STATUSES: Final = """\
exit status: 0 ended by SIGTERM or SIGINT (with --daemon: it is ready)   1 could not start, or gave up
             2 wrong usage   3 already running (its pid is named)"""


class Agent:
    """One daemon. Subclasses name themselves, add options and override `start`, `settings_changed` and `stop`."""

    name: ClassVar[str]
    log_to_terminal: ClassVar[bool] = True  # False: it shows its own lines there
    touch_every_s: ClassVar[float] = TOUCH_EVERY_S
    announces_itself: ClassVar[bool] = False  # True: calls `ready` itself, some time after `start`

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Options of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Called in the process that stays, with pid file and log in place; subclasses call it first."""
        self.options = options
        self.where = Locations(options.root)
        self.log = log.open_log(
            self.name, self.where.log(self.name), terminal=log.stderr() if self.log_to_terminal else None
        )
        self.pidfile: PidFile | None = None  # held by `run`; None: nobody looks after one
        self.loop = Loop()
        self.loop.on_error = self._callback_failed
        self.loop.on_slow = self._callback_slow
        self.settings = effective(None)
        self._started = False
        self._touch_failed = False
        self._apply_log_level()
        self.pubsub = PubSub(self.where.root, self.name)
        self._global_config = self.pubsub.subscription(
            "",
            GlobalConfig,
            create=self._global_config_created,
            modify=lambda key, new, old: self._global_config_created(key, new),
            delete=self._global_config_deleted,
        )

    def start(self) -> None:
        """Override: sweep what a kill left behind, open tables, mark everything for a first look.

        `settings` already holds what GlobalConfig says. An exception ends the process with one line.
        """

    def settings_changed(self, old: GlobalConfig) -> None:
        """Override: `settings` differs from `old`. Not called before `start`."""

    def end(self, number: signal.Signals) -> None:
        """SIGTERM or SIGINT came: leave the loop. Only who has something to wait for overrides this."""
        self.log.info("%s: ending", number.name)
        self.loop.stop(EXIT_OK)

    def stop(self) -> None:
        """Override: the loop has ended after SIGTERM. Must be quick; nothing may depend on it (kill -9)."""

    def ready(self, status: int = 0, text: str = "") -> None:
        """Tell whoever started this process. `run` does so after `start` unless `announces_itself`."""
        ready.report(status, text)

    # ---- the parts of a life, called by `run`

    def live(self) -> int:
        """From here to the end of the process; returns its exit status."""
        self.loop.on_signal(signal.SIGTERM, lambda: self.end(signal.SIGTERM))
        self.loop.on_signal(signal.SIGINT, lambda: self.end(signal.SIGINT))
        self.touch()
        self._load_settings()
        self.start()
        self._started = True
        self.loop.set_source(self.pubsub)
        self.loop.heartbeat(self.touch_every_s, self._beat)
        if not self.announces_itself:
            self.ready()
        self.log.info("%s started, root %s", self.name, self.where.root)
        status = self.loop.run()
        self.stop()
        self.log.info("%s ended with status %d", self.name, status)
        return status

    def close(self) -> None:
        """Give back the tables and descriptors (a process that ends need not)."""
        self.pubsub.close()
        self.loop.close()

    def touch(self) -> None:
        """Say that the main loop turns, and hold on to the pid file.

        Raises AlreadyRunning when the pid file was removed and another process has taken its place.
        """
        path = self.where.touch(self.name)
        try:
            if self.pidfile is not None:
                self.pidfile.keep()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                os.utime(fd)
            finally:
                os.close(fd)
        except OSError as err:
            if not self._touch_failed:  # a full disk is no reason to end; whoever watches will judge
                self.log.warning("cannot touch %s: %s", path, err)
            self._touch_failed = True
        else:
            self._touch_failed = False

    def _beat(self) -> None:
        self.touch()
        durable.remove_refused()

    def _load_settings(self) -> None:
        """GlobalConfig as it stands on disk, before `start` looks at the settings.

        A table that cannot be read now (a failing disk) does not keep the agent from starting with the defaults.
        """
        give_up = time.monotonic() + _LOAD_AT_MOST_S
        while self.pubsub.process(_LOAD_SLICE_S) and time.monotonic() < give_up:
            self.touch()

    def _global_config_created(self, key: str, new: GlobalConfig) -> None:
        if key == _GLOBAL:
            self._settings_are(effective(new))

    def _global_config_deleted(self, key: str, last: GlobalConfig) -> None:
        if key == _GLOBAL:
            self._settings_are(effective(None))

    def _settings_are(self, settings: GlobalConfig) -> None:
        old, self.settings = self.settings, settings
        if settings == old:
            return
        self._apply_log_level()
        if self._started:
            self.settings_changed(old)

    def _apply_log_level(self) -> None:
        if self.options.debug:
            log.set_level(log.TRACE)
            return
        entry = agents.find(self.name)
        name = log_level_name(self.settings, entry.names if entry is not None else (self.name,))
        level = log.parse_level(name)
        if level is None:
            self.log.warning("GlobalConfig asks for the log level %r, which does not exist; using info", name)
            level = log.parse_level("info")
            assert level is not None
        log.set_level(level)

    def _callback_failed(self, what: str, error: Exception) -> None:
        if isinstance(error, TableHeld):
            raise error  # another process took the table while it was gone: this process ends, see `run_with`
        self.log.error("%s failed: %s", what, error, exc_info=error)

    def _callback_slow(self, what: str, seconds: float, where: str) -> None:
        what = self.pubsub.running_handler or what
        self.log.warning("%s has been running for %.1f s and holds up everything else, now in %s", what, seconds, where)


def parser_of(agent: type[Agent]) -> argparse.ArgumentParser:
    """The command line of one agent; --help begins with its contract, the docstring of its package."""
    package = sys.modules.get(agent.__module__.rpartition(".")[0])
    contract = package.__doc__ if package is not None else agent.__doc__
    parser = argparse.ArgumentParser(
        prog=agent.name,
        description=(contract or "").strip() or None,
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_daemon_options(parser)
    agent.add_arguments(parser)
    return parser


def run(agent: type[Agent], argv: Sequence[str] | None = None) -> int:
    """The main of every agent: from the command line to its exit status."""
    return run_with(agent, parser_of(agent).parse_args(argv))


def run_with(agent: type[Agent], options: argparse.Namespace) -> int:
    """As `run`, with options already parsed."""
    # No core file may hold a password or a private key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    ready.inherit()
    if options.daemon:
        from pillar.daemonize import daemonize

        status = daemonize(agent.name)
        if status is not None:
            return status
    pidfile = PidFile(Locations(options.root).pid(agent.name))
    living: Agent | None = None
    try:
        pidfile.acquire()
        living = agent(options)
        living.pidfile = pidfile
        return living.live()
    except (AlreadyRunning, TableHeld) as err:
        return _refuse(living, EXIT_ALREADY_RUNNING, f"{agent.name}: {err}")
    except (OSError, PubSubError) as err:
        return _refuse(living, EXIT_FAILED, f"{agent.name}: {err}")
    except Exception as err:  # the boundary of the process: one line for people, all of it in the log
        if living is not None:
            living.log.error("%s: %s: %s", agent.name, type(err).__name__, err, exc_info=err)
        return _refuse(living, EXIT_FAILED, f"{agent.name}: {type(err).__name__}: {err}", logged=living is not None)
    finally:
        if living is not None:
            living.close()
        with contextlib.suppress(OSError):  # a root that was removed under us
            pidfile.release()


def _refuse(agent: Agent | None, status: int, line: str, *, logged: bool = False) -> int:
    if agent is not None and not logged:
        agent.log.error("%s", line)
    if not (agent is not None and agent.log_to_terminal and sys.stderr is not None and sys.stderr.isatty()):
        print(line, file=sys.stderr)  # on a terminal the log line is there already
    ready.report(status, line)
    return status
