"""Fixtures and options of every test."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

# Processes that tests start find the checkout's packages, whether or not it is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
# A shell starts what it puts in the background with SIGINT ignored, and so would everything a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("PILLAR_ROOT", None)  # no test ever falls back to somebody's real device


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long matrices whole instead of a seeded sample")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    skip = pytest.mark.skip(reason="a long matrix: run with --full")
    for item in items:
        if "full" in item.keywords:
            item.add_marker(skip)


@contextlib.contextmanager
def short_root() -> Iterator[Path]:
    """A new device root with a short path (UNIX socket paths are bounded), on tmpfs where there is one."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pillar-", dir=where, ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def root() -> Iterator[Path]:
    """A device root for one test."""
    with short_root() as path:
        yield path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The logs of a test's device stand below its failure; afterwards they are gone."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if name in ("device", "wired") and hasattr(value, "logs"):
                report.sections.append(("logs of the device", value.logs()))
    return report
