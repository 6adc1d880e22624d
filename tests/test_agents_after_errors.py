"""Agents in this process, whose work fails once: what they do again and what they do not lose.

The errors are those that root cannot provoke with a file system: the call itself is made to fail.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from agentproc import Table
from msgspec.structs import replace

from pillar.agent import Agent
from pillar.cmd.domainmgr.agent import DomainMgr
from pillar.cmd.downloader import space
from pillar.cmd.downloader.agent import Downloader

DEADLINE_S = 10.0
A = TypeVar("A", bound=Agent)


class Inside:
    """Agents below one root that live in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agents: list[Agent] = []

    def start(self, kind: type[A], options: dict[str, object], **settings: int) -> A:
        agent = kind(argparse.Namespace(root=self.root, debug=False, daemon=False, **options))
        self.agents.append(agent)
        agent.settings = replace(agent.settings, **settings)
        agent.start()
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


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    inside = Inside(tmp_path)
    yield inside
    for agent in inside.agents:
        agent.stop()
        agent.close()


class FailsOnce:
    """Stands for a function and fails the first time that `when` holds for its arguments."""

    def __init__(
        self, real: Callable[..., Any], error: Exception, when: Callable[..., bool] = lambda *_, **__: True
    ) -> None:
        self.real, self.error, self.when, self.failures = real, error, when, 0

    def __call__(self, *positional: Any, **named: Any) -> Any:
        if not self.failures and self.when(*positional, **named):
            self.failures += 1
            raise self.error
        return self.real(*positional, **named)


def test_unused_copies_are_collected_also_after_an_error(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "run" / "zedmanager" / "DomainConfig").mkdir(parents=True)
    agent = inside.start(DomainMgr, {"hypervisor": "auto", "stop_grace": 1.0}, VdiskGCTime=0)
    images = tmp_path / "persist" / "img"
    if images.exists():
        images.rmdir()
    images.write_text("in the way")
    log = tmp_path / "persist" / "log" / "domainmgr.log"

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: "_collect failed" in log.read_text()
        images.unlink()
        images.mkdir()
        (images / "unused.raw").write_text("a copy")
        yield lambda: not any(images.iterdir())

    inside.run(agent, story())


def test_pending_is_swept_also_after_an_error(inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj").directory.mkdir(parents=True)
    sweep = FailsOnce(space.sweep, OSError(5, "Input/output error"))
    monkeypatch.setattr(space, "sweep", sweep)
    left = tmp_path / "persist" / "downloads" / "appImg.obj" / "pending" / "left.over"
    agent = inside.start(Downloader, {"limit_rate": 0}, DownloadGCTime=1)
    left.write_text("from before a reboot")
    inside.run(agent, iter([lambda: sweep.failures, lambda: not left.exists()]))
