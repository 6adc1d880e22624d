"""`pillar crashtest`: a sample of its kills, that it finds an agent which loses something, and what it compares."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from pillar.crashpoints import Call, Fault, Point
from pillar.crashtest.boundaries import boundaries
from pillar.crashtest.cases import Case, errors, in_common_runs, mixed, pairs, spread, steady
from pillar.crashtest.journal import Journal
from pillar.crashtest.keys import Keys, made_twice
from pillar.crashtest.observer import legal
from pillar.crashtest.report import write_report
from pillar.crashtest.runner import Result, run_together
from pillar.crashtest.story import Outcome
from pillar.crashtest.tree import differences, snapshot
from pillar.types.eid import EIDStatus
from pillar.types.enums import SwState

POINT = Point("zedmanager", "rename", "/run/x.json", 2)


def crashtest(*words: str) -> subprocess.CompletedProcess[str]:
    if not (shutil.which("cc") or shutil.which("gcc")):
        if os.environ.get("CI"):
            pytest.fail("crash points need a C compiler")
        pytest.skip("crash points need a C compiler")
    command = [sys.executable, "-m", "pillar", "crashtest", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.timeout(520)
def test_a_sample_of_kills_errors_and_power_cuts_ends_as_if_nothing_had_happened(
    request: pytest.FixtureRequest,
) -> None:
    done = crashtest("--json", *([] if request.config.getoption("--full") else ["--quick", "--jobs", "2"]))
    said = json.loads(done.stdout)
    assert done.returncode == 0, said["failures"] or done.stderr
    assert said["cases"] >= 14
    assert said["ok"] >= said["cases"] * 0.7, said  # some are not reached: agents race


def test_cases_can_be_named_and_read_back() -> None:
    case = Case("flow", (Fault(POINT), Fault(POINT._replace(occurrence=3))))
    assert Case.parse(str(case)) == case
    assert [len(smaller.faults) for smaller in case.without_one()] == [1, 1]
    for wrong in ("zedmanager rename /x 1", "nowhere: zedmanager rename /x 1", "flow: zedmanager rename"):
        with pytest.raises(ValueError, match="is no"):
            Case.parse(wrong)
    common = case._replace(together=True)
    assert Case.parse(str(common)) == common != case
    assert [Case.parse(str(smaller)) for smaller in common.without_one()] == common.without_one()


def test_errors_that_share_a_run_do_not_get_in_one_another_s_way() -> None:
    points = [
        Point(agent, "write", f"/run/{agent}/{table}/.staging/record", n)
        for agent in "abc"
        for table in ("X", "Y", "Z")
        for n in (1, 2)
    ]
    every = errors(points, 1)
    runs = in_common_runs(every, 8)
    assert sorted(str(case) for run in runs for case in run) == sorted(map(str, every))
    lengths = {
        name: max(len(run) for run in runs if run[0].faults[0].action.name == name) for name in ("error", "errors")
    }
    assert lengths == {"error": 6, "errors": 3}, "two of each agent, and one"
    for run in runs:
        faults = [case.faults[0] for case in run]
        assert len({fault.action.name for fault in faults}) == 1
        assert len({(fault.point.agent, fault.point.path) for fault in faults}) == len(faults)
        if faults[0].action.name == "errors":
            assert len({fault.action.number for fault in faults}) == len(faults)
    assert all(len(run) == 1 for run in in_common_runs(every, 1))
    assert str(runs[0][0]) == str(every[0])


def test_a_common_run_that_fails_is_halved_until_it_is_clear_which_case_it_is() -> None:
    cases = [Case("flow", (Fault(POINT._replace(occurrence=n)),)) for n in range(1, 9)]
    faults = [case.faults[0] for case in cases]

    class Device:
        """Stands for a device whose runs take no time: each fault of `bad`, or all of `pair` in one run, fail."""

        def __init__(self, bad: set[Fault], pair: set[Fault], unreached: set[Fault]) -> None:
            self.bad, self.pair, self.unreached = bad, pair, unreached
            self.runs: list[int] = []

        def run(self, case: Case, _expected: object) -> Outcome:
            self.runs.append(len(case.faults))
            wrong = self.bad & set(case.faults) or (self.pair and self.pair <= set(case.faults))
            reached = tuple(fault for fault in case.faults if fault not in self.unreached or len(case.faults) == 1)
            return Outcome(["is missing"] if wrong else [], reached, 1.0, [], {})

        def close(self) -> None:
            pass

    def results(device: Device) -> dict[str, str]:
        return {str(result.case): result.kind for result in run_together(cases, {}, cast(Any, device))}

    device = Device(set(), set(), {faults[3]})
    assert results(device) == {str(case): "ok" for case in cases}
    assert device.runs == [8, 1], "the one that the common run did not come to is run alone"

    device = Device({faults[5]}, set(), set())
    assert [case for case, kind in results(device).items() if kind != "ok"] == [str(cases[5])]
    assert device.runs == [8, 4, 4, 2, 1, 1, 1, 2], "a failure is run again"

    told = results(Device(set(), {faults[2], faults[3]}, set()))
    assert [kind for kind in told.values() if kind != "ok"] == ["lost"]
    assert [case for case in told if case not in map(str, cases)] == [
        "flow: " + " | ".join(map(str, faults[2:4])),
    ], "it takes both"


def test_only_points_that_each_run_came_to_are_kept_and_a_sample_has_each_kind_of_call() -> None:
    points = [Point(agent, call, "/x", n) for agent in "ab" for call in ("write", "rename") for n in (1, 2, 3)]
    kept, some = steady([points, points[:-1]])
    assert (kept, some) == (points[:-1], 1)
    assert {(point.agent, point.call) for point in spread(points, seed=7)[:4]} == {
        (agent, call) for agent in "ab" for call in ("write", "rename")
    }
    assert sorted(spread(points, seed=7)) == sorted(points)
    assert spread(points, seed=7) == spread(points, seed=7)


def test_cases_of_every_kind_are_the_same_for_the_same_seed_and_can_be_read_back() -> None:
    points = [Point(agent, call, "/x", n) for agent in "ab" for call in ("write", "fsync", "flock") for n in (1, 2)]
    record = {"flow": points, "restart": points}
    for draw in (
        lambda seed: errors(points, seed),
        lambda seed: pairs(record, seed, 40),
        lambda seed: mixed(points, seed, 60),
    ):
        cases = draw(3)
        assert cases == draw(3) != draw(4)
        assert [Case.parse(str(case)) for case in cases] == cases
    told = {str(case.faults[0].action) for case in errors(points, 1)}
    assert {"error:ENOSPC", "errors:EIO", "error:EINTR"} <= told
    assert not any(case.faults[0].point.call == "flock" and "ENOSPC" in str(case) for case in errors(points, 1))
    assert {case.faults[0].point for case in errors(points, 1)[: len(points)]} == set(
        points
    )  # each call once, then again
    kinds = {fault.action.name for case in mixed(points, 1, 60) for fault in case.faults}
    assert kinds == {"kill", "stop", "error", "errors", "delays", "clock", "overflow", "supervisor", "second"}


def test_figures_go_between_their_marks_or_to_the_end_of_the_file(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_report(page, "kills", {"cases": 7})
    assert "| cases | 7 |" in page.read_text()
    page.write_text(f"# Title\n\n{page.read_text()}\nmore\n")
    write_report(page, "kills", {"cases": 8})
    write_report(page, "errors", {"cases": 9})
    assert [line for line in page.read_text().splitlines() if line.startswith(("#", "| cases", "more"))] == [
        "# Title",
        "| cases | 8 |",
        "more",
        "| cases | 9 |",
    ]


def test_statuses_only_move_along_legal_steps() -> None:
    app = "AppInstanceStatus"
    assert legal(app, SwState.DOWNLOADED, SwState.RUNNING)  # who looks may miss some
    assert legal(app, SwState.RUNNING, SwState.HALTED)
    assert legal(app, SwState.HALTED, SwState.BOOTING)
    assert legal(app, SwState.RUNNING, SwState.PURGING)
    assert not legal(app, SwState.RUNNING, SwState.DOWNLOADED)
    assert not legal("DomainStatus", SwState.RUNNING, SwState.BOOTING)
    assert not legal("VerifyImageStatus", SwState.DELIVERED, SwState.DOWNLOADED)
    assert legal("VerifyImageStatus", SwState.DELIVERED, SwState.DOWNLOADED, unasked=True)  # a signature is asked for
    assert not legal("VerifyImageStatus", SwState.DELIVERED, SwState.INITIAL, unasked=True)
    assert not legal("AppInstanceStatus", SwState.DELIVERED, SwState.DOWNLOADED, unasked=True)
    assert not legal("DownloaderStatus", SwState.DOWNLOADED, SwState.INITIAL)


def test_an_app_has_one_eid_until_it_is_purged() -> None:
    def eid(text: str) -> EIDStatus:
        return EIDStatus(Allocate=True, EID=text)

    keys = Keys()
    keys.begin([("good:7", eid("fd::1"))])
    keys.look("good:7", eid(""))  # a status that is about to be made tells nothing
    keys.look("good:0", EIDStatus(EID="fd::9"))  # neither does one that was supplied
    keys.look("good:0", EIDStatus(EID="fd::8"))
    keys.look("good:7", eid("fd::1"))
    assert keys.wrong == [] and keys.count() == 1
    keys.purge()
    keys.look("good:7", eid("fd::2"))
    assert keys.wrong == [] and keys.count() == 2
    keys.look("good:7", eid("fd::3"))
    keys.look("good:7", eid("fd::1"))
    assert keys.wrong == [
        "keys: good:7 got another EID, fd::3 after fd::2",
        "keys: good:7 got its EID fd::1 back, after fd::3",
    ]
    assert Result(Case("flow", (Fault(POINT),)), keys.wrong, 1, 1.0).kind == "duplicated"


def test_a_key_that_is_made_again_while_it_is_there_is_seen() -> None:
    path = "/persist/identitymanager/<good>:7.json"

    def trace(*made: str) -> list[Call]:
        """Calls as `rename+`: the last character is how it ended."""
        return [Call(1, n, 7, "identitymanager", text[:-1], path, "", text[-1], b"") for n, text in enumerate(made)]

    assert made_twice(trace("unlink-", "rename+", "unlink+", "rename+")) == []
    assert made_twice(trace("renameK", "renameE", "rename+")) == []
    assert made_twice(trace("rename+", "unlink-", "rename+")) == [f"keys: {path} was made twice"]


def test_a_tree_is_compared_without_times_pids_and_what_other_runs_left(root: Path) -> None:
    table = root / "run" / "domainmgr" / "DomainStatus"
    table.mkdir(parents=True)
    (root / "persist" / "log").mkdir(parents=True)

    def write(pid: int, state: int, time: str) -> None:
        (table / "x.json").write_text(
            json.dumps({"DomainId": pid, "State": state, "BootTime": time, "Path": f"{root}/a"})
        )
        (root / "persist" / "log" / "domainmgr.log").write_text(time)

    labels = {str(root): "<root>"}
    write(1, 7, "now")
    before = snapshot(root, labels)
    assert before["/run/domainmgr/DomainStatus/x.json"] == {"DomainId": True, "State": 7, "Path": "<root>/a"}
    write(2, 7, "later")
    (table / f"{'0' * 64}.json").write_text("{}")
    assert differences(before, snapshot(root, labels)) == []
    write(0, 8, "later")
    (table / ".staging").mkdir()
    (table / ".staging" / "record").write_text("half")
    told = differences(before, snapshot(root, labels))
    assert len(told) == 3 and "left over" in "".join(told) and "State 8, not 7" in "".join(told), told


def test_a_journal_goes_on_where_it_ends_and_forgets_what_other_code_did(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    results = [Result(Case("flow", (Fault(POINT._replace(occurrence=n)),)), ["lost"][: n - 1], 1, 2.5) for n in (1, 2)]
    for result in results:
        Journal(path).add(result)
    with path.open("a") as file:
        file.write('{"version": "another", "case": "flow: a b c 1", "problems": [], "fired": 1, "seconds": 1}\n{"cut')
    assert list(Journal(path).read().values()) == results


def test_a_handler_that_changes_nothing_begins_at_a_point_of_its_own() -> None:
    config, status = "/run/zedagent/AppInstanceConfig/<good>.json", "/run/verifier/appImg.obj/VerifyImageStatus/x.json"

    def trace(*made: str) -> list[Call]:
        """Calls as `look+ PATH`."""
        words = [text.split() for text in made]
        return [Call(1, n, 7, "zedmanager", w[0][:-1], w[1], "", w[0][-1], b"") for n, w in enumerate(words)]

    kept = [Point("zedmanager", "look", config, 1), Point("zedmanager", "look", status, 2)]
    assert (
        boundaries(
            trace(
                f"look+ {config}",  # whose handler looks elsewhere and changes nothing
                "list+ /persist/certs",
                f"look+ {status}",  # whose handler writes at once
                "create+ /run/zedmanager/AppInstanceStatus/.staging/record",
                "look+ /run/zedmanager/AppInstanceStatus/<good>.json",  # its own
                "look+ /run/zedagent/AppInstanceConfig/restarted",
                f"look- {status}",  # it is gone; nothing follows
            )
        )
        == kept
    )
    failed = trace(f"look+ {config}", "unlink- /persist/x", "unlink+ /persist/x")
    assert boundaries(failed) == kept[:1]  # a call that failed changed nothing


def test_a_call_that_failed_is_no_point() -> None:
    from pillar.crashpoints import points

    calls = [Call(1, n, 7, "a", "mkdir", "/x", "", result, b"") for n, result in enumerate("-+K?")]
    assert [point.occurrence for point in points(calls)] == [2, 3, 4]
