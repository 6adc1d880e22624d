"""The core suite of `pillar crashtest`: two tiny agents, killed twice in a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pillar.crashpoints import Fault, NoCompiler, Point
from pillar.crashtest.core import Core, all_pairs, some_pairs


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    try:
        core = Core(tmp_path, unchanged_s=0.5)
    except NoCompiler as err:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(err))
    yield core
    core.close()


def test_the_two_agents_use_all_of_pubsub_that_writes(core: Core) -> None:
    made = {(point.call, point.path) for point in core.record()}
    orders, settings, receipts = "/run/source/Order", "/persist/status/source/Setting", "/run/worker/Receipt"
    assert made >= {
        ("rename", f"{orders}/a.json"),  # an ordinary record
        ("unlink", f"{orders}/a.json"),
        ("rename", f"{orders}/restarted"),
        ("fsync", settings),  # a persistent one, and its backup
        ("rename", f"{settings}/x.json.bak"),
        ("unlink", f"{settings}/y.json"),
        ("flock", f"{receipts}/.lock"),
        ("write", "/run/worker/.seen/order/journal"),  # the ledger of an ordinary and of a persistent table
        ("fsync", "/persist/status/worker/.seen/setting/journal"),
    }


def test_kills_that_follow_each_other_are_found_tried_and_read_back(core: Core) -> None:
    first = Point("worker", "write", "/run/worker/.seen/order/journal", 1)  # between a handler and its being noted
    cases = list(all_pairs(core, [first], lambda text: None))
    again = "worker rename /run/worker/Receipt/restarted 1=kill"  # the next worker, while it starts
    assert f"core: {first}=kill & {again}" in map(str, cases)
    assert {case.faults[1].point.agent for case in cases} == {"source", "worker"}
    twice = next(case for case in cases if str(case).endswith(again))
    outcome = core.run(twice.faults)
    assert (outcome.problems, len(outcome.happened)) == ([], 2)
    assert [case.faults[0].point for case in some_pairs(core, [first], 1, 2)] == [first, first]


def test_what_is_lost_or_done_too_often_is_seen(core: Core) -> None:
    """Held against a run that had other orders."""
    core.record()
    core.effects["Order a 1"] = 0
    core.effects["Order a 3"] = 1
    core.expected["/run/worker/Receipt/Order-b.json"] = {"number": 1}
    problems = core.run((Fault(Point("source", "fsync", "*", 1)),)).problems
    assert [text.partition(":")[0] for text in problems] == [
        "/run/worker/Receipt/Order-b.json is missing",
        "the effect 'Order a 3' is missing",
        "1 handlers were run again for 0 kills",
    ]
