"""An agent is killed while apps run, and killed again at each point of its start: nothing may change."""

from __future__ import annotations

import time

from pillar.crashpoints import Fault, Point, points
from pillar.crashtest import story
from pillar.crashtest.config import Story as Config
from pillar.crashtest.keys import made_twice
from pillar.crashtest.tree import differences
from pillar.crashtest.world import Stuck, World

STAYS_S = 0.15  # after the last agent is ready the tree must stay as it is at least so long


class Restarts:
    """A device with both apps deployed, whose agents are killed one after another."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.config: Config = story.deploy_both(world)
        self.expected = story.rest(world, self.config)

    def record(self, agent: str) -> list[Point]:
        """The points of this agent's restart."""
        self.world.begin(self.config, ())
        pid = self.world.pid(agent)
        self._kill(agent, 1)
        calls = self.world.control.calls()
        return points(call for call in calls if call.agent == agent and call.pid != pid)

    def run(self, faults: tuple[Fault, ...]) -> story.Outcome:
        """Kill the first fault's agent; it meets the faults while it starts again."""
        world, began = self.world, time.monotonic()
        agent = faults[0].point.agent
        world.observer.forget()
        world.note_log_ends()
        world.server.fetched.clear()
        starts, restarts = world.starts(), world.observer.restarts()
        pids = {key: domain.DomainId for key, domain in world.observer.domains.items().items()}
        problems: list[str] = []
        world.kill(agent)
        meddler = world.begin(self.config, faults)
        try:
            self._wait_back(agent, restarts.get(agent, 0) + 1)
            world.wait(lambda: world.control.fired() == len(faults), "the faults to happen", 0.5)
        except Stuck:
            pass  # a point that this start did not come to is told by `fired`
        victims = [
            agent,
            *(fault.point.agent for fault in world.control.happened(faults) if fault.action.name == "kill"),
        ]
        try:
            for victim in set(victims):
                self._wait_back(victim, restarts.get(victim, 0) + victims.count(victim))
        except Stuck as stuck:
            problems.append(f"stuck: {stuck}")
        while meddler.holds:
            world.look()
        tree = story.rest(world, self.config, self.expected, stays_s=STAYS_S)
        problems += [*world.observer.wrong, *world.observer.keys.wrong, *made_twice(world.control.calls())]
        problems += [*meddler.problems, *differences(self.expected, tree)]
        if world.starts() != starts or pids != {k: d.DomainId for k, d in world.observer.domains.items().items()}:
            problems.append(f"the app was started {world.starts() - starts} times more, its processes were {pids}")
        problems += [f"{name} was fetched {count} times more" for name, count in world.server.fetched.items()]
        for name, count in world.observer.restarts().items():
            if (died := count - restarts.get(name, 0)) != victims.count(name):
                problems.append(f"{name} died {died} times, killed {victims.count(name)} times")
        problems += world.tracebacks()
        return story.Outcome(
            problems, world.control.happened(faults), time.monotonic() - began, world.control.calls(), tree
        )

    def _kill(self, agent: str, times: int) -> None:
        before = self.world.observer.restarts().get(agent, 0)
        self.world.kill(agent)
        self._wait_back(agent, before + times)

    def _wait_back(self, agent: str, restarts: int) -> None:
        observer = self.world.observer

        def back() -> bool:
            status = observer.supervised.get(agent)
            return status is not None and status.State == "running" and status.Restarts >= restarts

        self.world.wait(back, f"{agent} to be back")
