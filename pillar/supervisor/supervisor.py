"""The supervisor's process: what it does when an agent starts, gets ready, dies, hangs, or is to end."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from typing import ClassVar, Final

from msgspec.structs import replace

from pillar.agent import EXIT_ALREADY_RUNNING, EXIT_FAILED, EXIT_OK, Agent
from pillar.agents import AGENTS, Entry, find
from pillar.bootid import boot_id
from pillar.pubsub import PubSubError
from pillar.ready import parse
from pillar.supervisor import process as processes
from pillar.supervisor import survey
from pillar.supervisor.policy import History, Limits, after_death
from pillar.supervisor.process import Process
from pillar.supervisor.record import SupervisorStatus
from pillar.supervisor.screen import Screen
from pillar.types.scalars import now

RETRY: Final = signal.SIGUSR1  # `pillar up` beside a running supervisor sends it: try the failed agents again


class Charge:
    """One agent in our care: what is published of it, and what only the kernel and the clock know."""

    def __init__(self, entry: Entry, status: SupervisorStatus) -> None:
        self.entry = entry
        self.status = status  # what is, or as soon as the disk takes it will be, published
        self.process: Process | None = None
        self.ready_fd = -1  # it reports here when it is ready
        self.began = 0.0  # monotonic: start or adoption
        self.touched: int | None = None  # its touch file's time when we looked last
        self.touch_seen = 0.0  # monotonic: when that was seen to change
        self.hung = ""  # why we killed it
        self.history = History()
        self.settled = False  # it has been ready, or has died, once


class Supervisor(Agent):
    """Starts the agents of one root and keeps them running; `agents` and `limits` are values a test may replace."""

    name = survey.SUPERVISOR
    log_to_terminal = False
    announces_itself = True
    agents: ClassVar[tuple[Entry, ...]] = AGENTS
    limits: ClassVar[Limits] = Limits()

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        def known(name: str) -> str:
            entry = find(name, cls.agents)
            if entry is None:
                names = ", ".join(entry.name for entry in cls.agents)
                raise argparse.ArgumentTypeError(f"there is no agent {name!r}; there are {names}")
            return entry.name

        def option(text: str) -> tuple[str, str]:
            agent, dot, words = text.partition(".")
            if not dot or not words:
                raise argparse.ArgumentTypeError(f"{text!r} is no AGENT.OPTION[=VALUE], like nim.ports=manage")
            return known(agent), f"--{words}"

        parser.add_argument("agents", nargs="*", type=known, metavar="AGENT", help="only these agents (default: all)")
        parser.add_argument(
            "--set",
            action="append",
            type=option,
            default=[],
            metavar="AGENT.OPTION[=VALUE]",
            help="start this agent with --OPTION[=VALUE], like nim.ports=manage; may be given more than once. "
            "An agent that runs already keeps its options until it is started anew",
        )

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self._screen = Screen(not options.daemon, [entry.name for entry in self.agents])
        self._charges: dict[str, Charge] = {}
        self._ending = False
        self._announced = False
        self._next_look = math.inf  # monotonic: when the touch files are to be looked at again
        self._boot = boot_id()
        self.loop.on_signal(RETRY, self._try_failed_again)

    def start(self) -> None:
        self._table = self.pubsub.publication(SupervisorStatus)
        wanted: list[str] = self.options.agents
        ledger = self._table.items()
        for entry in self.agents:
            running = survey.find(self.where, entry.name, ledger.get(entry.name))
            if running is not None:
                # Also one that was not asked for: it runs on our root, and died with nobody watching else.
                self._adopt(self._take_charge(entry), running)
            elif entry.name in wanted or not wanted:
                charge = self._take_charge(entry)
                self._note_what_happened_without_us(charge)
                self._spawn(charge)
        for name in ledger:
            if name not in self._charges:
                self._table.unpublish(name)
        self._table.signal_restarted()
        self._watch_touches()
        self._announce_when_settled()

    # ---- one agent's life

    def _take_charge(self, entry: Entry) -> Charge:
        known = self._table.get(entry.name) or SupervisorStatus(Agent=entry.name)
        charge = self._charges[entry.name] = Charge(entry, known)
        return charge

    def _note_what_happened_without_us(self, charge: Charge) -> None:
        """It is not running: was it stopped with its last supervisor, or did it die after that one was killed?"""
        known = charge.status
        if known.State in ("starting", "running", "stopping"):
            how = "unknown (it died while no supervisor ran)"
            charge.status = replace(known, Restarts=known.Restarts + 1, LastExit=how, LastExitTime=now())
        else:
            charge.status = replace(known, Restarts=0)

    def _spawn(self, charge: Charge) -> None:
        name = charge.entry.name
        if self._ending:
            return
        charge.began = time.monotonic()  # also of a start that fails: it ran for no time at all
        arguments = ["--root", str(self.where.root), *(["--debug"] if self.options.debug else [])]
        arguments += [option for agent, option in self.options.set if agent == name]
        stderr = self.where.stderr(name)
        try:
            charge.process, charge.ready_fd = processes.spawn(charge.entry.module, arguments, stderr)
        except OSError as err:  # which names the interpreter, whatever it was that failed
            self._died(charge, f"cannot be started: {err.strerror} (standard error to {stderr})")
            return
        self.loop.add_reader(charge.ready_fd, lambda: self._reported(charge))
        self._hold(charge, charge.process)
        self._publish(charge, State="starting", Adopted=False, StartTime=now(), Reason="")
        self._say(charge, f"pid {charge.process.pid}")

    def _adopt(self, charge: Charge, process: Process) -> None:
        charge.process = process
        self._hold(charge, process)
        charge.settled = True
        self._publish(charge, State="running", Adopted=True, Reason="", StartTime=self._start_time(charge, process))
        self._say(charge, f"pid {process.pid}, adopted")

    def _hold(self, charge: Charge, process: Process) -> None:
        charge.began = charge.touch_seen = time.monotonic()
        charge.touched = None
        charge.hung = ""
        self.loop.add_reader(process.pidfd, lambda: self._ended(charge))

    def _reported(self, charge: Charge) -> None:
        """It is ready, or says why not (then its end follows), or died without a word."""
        line = os.read(charge.ready_fd, 8192)
        self._close_ready(charge)
        said = parse(line)
        if said is not None and said[0] == EXIT_OK and charge.status.State == "starting":
            charge.settled = True
            self._publish(charge, State="running")
            self._say(charge, f"pid {charge.status.Pid}, ready in {time.monotonic() - charge.began:.2f} s")
            self._announce_when_settled()

    def _ended(self, charge: Charge) -> None:
        assert charge.process is not None
        how, status = charge.process.how_it_ended()
        self._let_go(charge)
        if status == EXIT_ALREADY_RUNNING and not self._ending:
            # Somebody started it by hand, or our predecessor did just before it was killed.
            other = survey.find(self.where, charge.entry.name, None)
            if other is not None:
                self._adopt(charge, other)
                self._announce_when_settled()
                return
        words = processes.last_words(self.where.stderr(charge.entry.name)) if status else ""
        self._died(charge, charge.hung or (f"{how}: {words}" if words else how))

    def _died(self, charge: Charge, how: str) -> None:
        changes = {"Pid": 0, "StartTicks": 0, "LastExit": how, "LastExitTime": now()}
        charge.settled = True
        if self._ending:
            self._publish(charge, State="stopped", Reason="", **changes)
            self._say(charge, how)
            self._finish_when_all_ended()
            return
        at = time.monotonic()
        decision = after_death(charge.history, at, at - charge.began, self.limits)
        charge.history = decision.history
        if decision.wait_s is None:
            self._publish(charge, State="failed", Reason=f"{how}; {decision.reason}", **changes)
            self.log.error("%s failed: %s; %s", charge.entry.name, how, decision.reason)
        else:
            restarts = charge.status.Restarts + 1
            reason = f"{how}; {decision.reason}"
            self.loop.call_later(decision.wait_s, lambda: self._spawn(charge))  # first: nothing below may prevent it
            self._publish(charge, State="waiting", Reason=reason, Restarts=restarts, **changes)
            self.log.warning("%s died: %s; %s", charge.entry.name, how, decision.reason)
        self._say(charge, f"{how}; {decision.reason}")
        self._announce_when_settled()

    def _let_go(self, charge: Charge) -> None:
        assert charge.process is not None
        self.loop.remove_reader(charge.process.pidfd)
        charge.process.close()
        charge.process = None
        self._close_ready(charge)

    def _close_ready(self, charge: Charge) -> None:
        if charge.ready_fd >= 0:
            self.loop.remove_reader(charge.ready_fd)
            os.close(charge.ready_fd)
            charge.ready_fd = -1

    def _try_failed_again(self) -> None:
        """Somebody has mended what made them fail, and says so."""
        for charge in self._charges.values():
            if charge.status.State == "failed":
                charge.history = History()
                self._spawn(charge)

    # ---- agents that hang

    def _watch_touches(self) -> None:
        every_s = min(1.0, self.limits.stale_s / 4)
        self.loop.call_later(every_s, self._watch_touches)  # first: a look that fails must not be the last one
        at = time.monotonic()
        late_s, self._next_look = max(0.0, at - self._next_look), at + every_s
        for charge in self._charges.values():
            charge.touch_seen += late_s  # we stood still, and whatever made us stand did the same to the agents
            self._publish(charge)  # writes nothing unless the disk refused it before
            if charge.process is not None and not self._ending:
                self._judge_touch(charge, charge.process)

    def _judge_touch(self, charge: Charge, process: Process) -> None:
        try:
            touched: int | None = self.where.touch(charge.entry.name).stat().st_mtime_ns
        except OSError:
            touched = None
        at = time.monotonic()
        if touched != charge.touched:
            charge.touched, charge.touch_seen = touched, at
        silent_s = at - charge.touch_seen
        if silent_s >= self.limits.stale_s and not charge.hung:
            charge.hung = f"hung: did not touch its file for {silent_s:.1f} s, killed"
            self.log.error("%s %s", charge.entry.name, charge.hung)
            process.signal(signal.SIGKILL)

    # ---- the end

    def end(self, number: signal.Signals) -> None:
        """TERM to every agent, KILL after the grace period (or at once when asked a second time), then end."""
        if self._ending:
            self._kill_the_rest("asked twice")
            return
        self._ending = True
        self.log.info("%s: stopping all agents", number.name)
        for charge in self._charges.values():
            if charge.process is not None:
                self._publish(charge, State="stopping")
                charge.process.signal(signal.SIGTERM)
            elif charge.status.State == "waiting":
                self._publish(charge, State="stopped", Reason="")
        self.loop.call_later(
            self.limits.grace_s, lambda: self._kill_the_rest(f"did not end within {self.limits.grace_s:.0f} s")
        )
        self._finish_when_all_ended()

    def _kill_the_rest(self, why: str) -> None:
        for charge in self._charges.values():
            if charge.process is not None:
                charge.hung = f"killed by its supervisor: {why}"
                charge.process.signal(signal.SIGKILL)

    def _finish_when_all_ended(self) -> None:
        if all(charge.process is None for charge in self._charges.values()):
            self.loop.stop(EXIT_OK)

    # ---- telling

    def _announce_when_settled(self) -> None:
        """Ready when every agent has been ready or has died once; the dead ones are named."""
        if self._announced or not all(charge.settled for charge in self._charges.values()):
            return
        self._announced = True
        # One that died may be starting again by now: that is not running yet.
        bad = [charge for charge in self._charges.values() if charge.status.State != "running"]
        if bad:
            named = "; ".join(f"{charge.entry.name}: {charge.status.LastExit}" for charge in bad)
            self.ready(EXIT_FAILED, f"not all agents started, the supervisor goes on trying: {named}")
        else:
            self.ready(EXIT_OK, f"{len(self._charges)} agents are running, supervised by pid {os.getpid()}")

    def _publish(self, charge: Charge, **changes: object) -> None:
        if charge.process is not None:
            changes |= {"Pid": charge.process.pid, "StartTicks": charge.process.ticks, "Boot": self._boot}
        charge.status = replace(charge.status, **changes)
        try:
            self._table.publish(charge.entry.name, charge.status)
        except PubSubError as err:
            # Whatever the library refuses must not stop us from keeping agents alive; the next look at the touch
            # files tries again.
            self.log.error("cannot publish the state of %s: %s", charge.entry.name, err)

    def _say(self, charge: Charge, text: str) -> None:
        state = charge.status.State
        self.log.info("%s %s: %s", charge.entry.name, state, text)
        self._screen.line(charge.entry.name, state, text)

    def _start_time(self, charge: Charge, process: Process) -> str:
        """When an adopted process started: as recorded if that was this one, else from the kernel's clock."""
        known = charge.status
        if known.Pid == process.pid and known.StartTicks == process.ticks:
            return known.StartTime
        began = time.time() - processes.uptime_s(process.ticks)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began))
