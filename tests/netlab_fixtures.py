"""The fixture of `netlab`, apart so that pytest can load it as a plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from netlab import NetLab


@pytest.fixture
def netlab(tmp_path: Path) -> Iterator[NetLab]:
    """A lab of the test's own: its namespaces, servers and whatever it started in them end with it."""
    directory = tmp_path / "netlab"
    directory.mkdir()
    with NetLab(directory) as lab:
        yield lab
