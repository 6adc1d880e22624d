"""One run of the ECO flow: deploy, restart, purge, deactivate, activate, undeploy; and what must hold after it."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from typing import NamedTuple

from pillar.crashpoints import Call, Fault, Point, fails, fails_for_good, points
from pillar.crashtest.config import BAD, GOOD
from pillar.crashtest.config import Story as Config
from pillar.crashtest.keys import made_twice
from pillar.crashtest.tree import Tree, differences
from pillar.crashtest.world import Stuck, World
from pillar.types.enums import Inprogress, SwState

STARTS = 4  # of the good app: deployed, restarted, purged, activated again
EIDS = 2  # that the device makes for it: deployed, purged
SETTLE_S = 30.0
LOOK_EVERY_S = 0.1  # at the whole tree
MAY_END = 8  # times that an agent may end because the machine refuses, for each fault; more is a crash loop
UNCHANGED_S = 14.0  # so long nothing happens: what is expected does not come any more


class Outcome(NamedTuple):
    """What became of one run."""

    problems: list[str]  # in words; none: all is as it should be
    happened: tuple[Fault, ...]  # of the faults
    seconds: float
    calls: list[Call]
    tree: Tree


def run(
    world: World, faults: tuple[Fault, ...] = (), expected: Tree | None = None, *, together: bool = False
) -> Outcome:
    """Run the story with these faults, one after another or armed together.

    Its end is compared with that of the undisturbed one, unless this is that one.
    """
    began = time.monotonic()
    config = world.new_story()
    observer = world.observer
    refusing = [fault for fault in faults if fault.action.name.startswith("error")]
    observer.forget(patient=bool(refusing))
    world.note_log_ends()
    starts, restarts = world.starts(), observer.restarts()
    meddler = world.begin(config, faults, together=together)
    problems: list[str] = []
    try:
        flow(world, config)
    except Stuck as stuck:
        problems.append(f"stuck: {stuck}; {_where(world)}")
    while meddler.holds:
        world.look()
    tree = rest(world, config, expected) if not problems else world.snapshot(config)
    if not problems and not _all_back(world, restarts, faults):  # killed at the very end
        try:
            world.wait(lambda: _all_back(world, restarts, faults), "the killed agents to be back")
        except Stuck as stuck:
            problems.append(f"stuck: {stuck}; {_where(world)}")
        tree = rest(world, config, expected)
    happened = world.control.happened(faults)
    problems += [*observer.wrong, *observer.keys.wrong, *meddler.problems]
    if expected is not None and not problems:
        problems += differences(expected, tree)
    problems += _wrong_counts(world, config, starts, restarts, happened)
    problems += world.last_words() if refusing else world.tracebacks()
    for fault in happened:
        told = fault not in refusing or fault.action in (fails(errno.EINTR), fails_for_good(errno.EINTR))
        if not told and fault.action.name == "errors" and not world.says(os.strerror(fault.action.number)):
            problems.append(f"nobody says {os.strerror(fault.action.number)!r}, no log and no status")
    return Outcome(problems, happened, time.monotonic() - began, world.control.calls(), tree)


def points_of(outcome: Outcome) -> list[Point]:
    """Where the agents could have been killed in this run."""
    return points(outcome.calls)


class _Watch:
    """Questions about the two apps."""

    def __init__(self, world: World) -> None:
        self.observer = world.observer
        self.pid = 0  # of the domain before

    def runs_anew(self) -> bool:
        """The good app runs, as another process than before."""
        app, domain = self.observer.apps.get(GOOD), self.observer.domains.get(GOOD)
        return (
            app is not None
            and domain is not None
            and (app.State, app.Activated, app.Error) == (SwState.RUNNING, True, "")
            and (app.RestartInprogress, app.PurgeInprogress) == (Inprogress.NONE, Inprogress.NONE)
            and domain.DomainId not in (0, self.pid)
            and self._has_its_eids()
        )

    def _has_its_eids(self) -> bool:
        """What identitymanager made has come as far as the network."""
        network = self.observer.networks.get(GOOD)
        used = [overlay.EID for overlay in network.OverlayNetworkList or ()] if network is not None else []
        return sorted(used) == sorted(status.EID for status in self.observer.identities.items().values())

    def refused(self) -> bool:
        """The bad app says what is wrong with it."""
        app = self.observer.apps.get(BAD)
        return app is not None and "signature" in app.Error and not app.Activated

    def halted(self) -> bool:
        """The good app is inactive."""
        app, domain = self.observer.apps.get(GOOD), self.observer.domains.get(GOOD)
        return app is not None and not app.Activated and domain is not None and not domain.DomainId

    def remember(self) -> None:
        """The domain that runs now is the one before."""
        domain = self.observer.domains.get(GOOD)
        self.pid = int(domain.DomainId) if domain is not None else 0


def deploy_both(world: World) -> Config:
    """A device where the good app runs and the bad one is refused. Raises Stuck."""
    config = world.new_story()
    world.begin(config, ())
    deploy_config(world, config)
    return config


def deploy_config(world: World, config: Config) -> _Watch:
    """Deploy both apps, and wait until one runs and the other is refused. Raises Stuck."""
    watch = _Watch(world)
    # One after another: who comes second is verified under another name, and names must be the same in each run.
    world.deploy(config.config(bad=False))
    world.wait(watch.runs_anew, "the good app to run")
    world.deploy(config.config())
    world.wait(watch.refused, "the bad app to be refused")
    return watch


def flow(world: World, config: Config) -> None:
    """The whole way of the two apps. Raises Stuck."""
    watch = deploy_config(world, config)
    watch.remember()
    world.deploy(config.config(restart=1))
    world.wait(watch.runs_anew, "the app to be restarted")
    watch.remember()
    world.observer.keys.purge()
    world.deploy(config.config(restart=1, purge=1))
    world.wait(watch.runs_anew, "the app to be purged")
    watch.remember()
    world.deploy(config.config(restart=1, purge=1, active=False))
    world.wait(watch.halted, "the app to be inactive")
    world.deploy(config.config(restart=1, purge=1))
    world.wait(watch.runs_anew, "the app to be active again")
    world.deploy(config.config(apps=False))
    world.wait(lambda: _gone(world), "the apps' records to go")


def _gone(world: World) -> bool:
    observer = world.observer
    tables = (observer.apps, observer.domains, observer.networks, observer.certificates, observer.identities)
    if any(table.items() for table in tables):
        return False
    if any(status.RefCount for status in observer.downloads.items().values()):
        return False
    return not any(status.RefCount for status in observer.verified.items().values())


def rest(world: World, config: Config, expected: Tree | None = None, stays_s: float = 0.0) -> Tree:
    """The tree once it is as expected, and stays so; as it is when the time for that is over; without expectation
    when nothing has changed for a second.
    """
    deadline = time.monotonic() + SETTLE_S
    last, since = world.snapshot(config), time.monotonic()
    met = looked = 0.0
    while time.monotonic() < deadline:
        world.look()
        if time.monotonic() - looked < LOOK_EVERY_S:
            continue
        looked = time.monotonic()
        ready = world.observer.all_run() and not world.space_problem()
        now = world.snapshot(config)
        if expected is not None:
            met = (met or time.monotonic()) if ready and now == expected else 0.0
            if met and time.monotonic() - met >= stays_s:
                return now
            if now != last:
                since = time.monotonic()
            elif not met and time.monotonic() - since > UNCHANGED_S:
                return now
        elif now != last or not ready:
            since = time.monotonic()
        elif time.monotonic() - since > 1.0:
            return now
        last = now
    return last


def _all_back(world: World, restarts: dict[str, int], faults: tuple[Fault, ...]) -> bool:
    """Whether the supervisor has seen every kill so far, and everybody is ready again."""
    kills = Counter(fault.point.agent for fault in world.control.happened(faults) if fault.action.name == "kill")
    now = world.observer.restarts()
    died = {agent: now.get(agent, 0) - restarts.get(agent, 0) for agent in kills}
    return world.observer.all_run() and all(died[agent] >= count for agent, count in kills.items())


def _wrong_counts(
    world: World, config: Config, starts: int, restarts: dict[str, int], happened: tuple[Fault, ...]
) -> list[str]:
    """What must happen once and did not, what has to add up and does not."""
    problems = []
    victims = [fault.point.agent for fault in happened if fault.action.name == "kill"]
    # Who cannot do its work may end with a line that says so; each time it is started, while it cannot.
    excused = Counter(fault.point.agent for fault in happened if fault.action.name.startswith("error"))
    interrupted = "downloader" in excused or any(fault.action.name == "clock" for fault in happened)
    if not world.observer.all_run():
        problems.append(f"not all agents run: {_where(world)}")
    if (done := world.starts() - starts) != STARTS:
        problems.append(f"the app was started {done} times, not {STARTS}")
    for name, count in world.server.fetched.items():
        # A transfer that dies with the downloader is taken up where it stood: one request more.
        if count > 1 + victims.count("downloader") + interrupted * 4:
            problems.append(f"{name} was fetched {count} times")
    if set(world.server.fetched) != {config.image.name, config.signer.name}:
        problems.append(f"fetched were {sorted(world.server.fetched)}")
    if (made := world.observer.keys.count()) != EIDS:
        problems.append(f"keys: {made} EIDs were made, not {EIDS}")
    problems += made_twice(world.control.calls())
    if problem := world.space_problem():
        problems.append(problem)
    for agent, count in world.observer.restarts().items():
        died = count - restarts.get(agent, 0)
        if died != victims.count(agent) and not (agent in excused and died <= MAY_END * excused[agent]):
            problems.append(f"{agent} died {died} times, killed {victims.count(agent)} times")
    if living := world.living_domains():
        problems.append(f"domains live on: {living}")
    return problems


def _where(world: World) -> str:
    """How far the apps and agents are."""
    observer = world.observer
    apps = [f"{key[-2:]} {app.State.name} {app.Error!r}" for key, app in observer.apps.items().items()]
    agents = [f"{name} {s.State} {s.Reason}" for name, s in observer.supervised.items().items() if s.State != "running"]
    return "; ".join([*apps, *agents]) or "no app, all agents run"
