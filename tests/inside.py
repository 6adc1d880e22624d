"""Agents that live in the test itself, on real tables and files: a story goes on as its conditions come true."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from pillar.agent import Agent

DEADLINE_S = 20.0
A = TypeVar("A", bound=Agent)


class Inside:
    """Agents below one root that live in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agents: list[Agent] = []

    def start(self, kind: type[A], options: dict[str, object], **settings: int) -> A:
        """Start one with these options, all others as they are when nobody gives them, and these settings."""
        parser = argparse.ArgumentParser()
        kind.add_arguments(parser)
        defaults = vars(parser.parse_args([]))
        given = {"root": self.root, "debug": False, "daemon": False, **options}
        agent = kind(argparse.Namespace(**{**defaults, **given}))
        self.agents.append(agent)
        agent.settings = replace(agent.settings, **settings)
        agent.start()
        agent._started = True  # from now on it is told when the settings change
        agent.loop.set_source(agent.pubsub)
        return agent

    def run(self, agent: Agent, story: Iterator[Callable[[], object]]) -> None:
        """Let its loop turn, once in its life: the story goes on whenever the condition that it gave holds."""
        conditions = [next(story)]

        def look() -> None:
            if conditions[-1]():
                following = next(story, None)
                if following is None:
                    agent.loop.stop(0)
                    return
                conditions.append(following)
            agent.loop.call_later(0.01, look)

        agent.loop.call_soon(look)
        agent.loop.call_later(DEADLINE_S, lambda: agent.loop.stop(1))
        assert agent.loop.run() == 0, f"waited {DEADLINE_S:g} s for condition {len(conditions)} of the story"
