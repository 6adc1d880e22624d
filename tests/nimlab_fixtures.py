"""The fixture of `nimlab`, apart so that pytest can load it as a plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from netlab import NetLab
from nimlab import Managed


@pytest.fixture
def managed(root: Path, netlab: NetLab) -> Iterator[Managed]:
    one = Managed(root, netlab)
    yield one
    one.agent.kill()
