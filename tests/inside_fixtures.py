"""Fixture: agents in the test's own process, which end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from inside import Inside


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    inside = Inside(tmp_path)
    yield inside
    for agent in inside.agents:
        agent.stop()
        agent.close()
