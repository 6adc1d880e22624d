"""The fixture of `routerlab`, apart so that pytest can load it as a plugin; it needs those of `netlab`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from netlab import NetLab
from routerlab import Router


@pytest.fixture
def router(netlab: NetLab, root: Path, tmp_path: Path) -> Iterator[Router]:
    router = Router(netlab, root, tmp_path)
    try:
        yield router
    finally:
        print(router.agent.log_text[-6000:] if router.agent.process is not None else "")
        router.close()
