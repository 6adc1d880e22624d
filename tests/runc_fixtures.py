"""A machine that runs containers as a fixture: `pytest_plugins = ("runc_fixtures",)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import UUID, Machine, needs_runc


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    needs_runc()
    machine = Machine(tmp_path)
    yield machine
    machine.backend.stop(UUID, 0)
    machine.backend.cleanup(UUID)
    assert machine.leaves_nothing()
