"""`pillar killmatrix`: it finds the classic mistakes in agents, and calls no right agent wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillar.crashpoints import Call, Point
from pillar.killmatrix.inputs import BadInput, lay, merged, read_steps
from pillar.killmatrix.matrix import CannotRun, Matrix, Oracle, kill_matrix, steps
from pillar.killmatrix.run import Settings
from pillar.killmatrix.text import as_text
from pillar.killmatrix.trees import Baseline, Difference, as_expected
from pillar.terminal import Palette

if TYPE_CHECKING:
    from pillar.killmatrix.plugin import KillMatrix

pytestmark = pytest.mark.timeout(400)  # dozens of processes in each test: half a minute on a quiet machine

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RIGHT, WRONG, ORDERS = EXAMPLES / "payments_right.py", EXAMPLES / "payments_wrong.py", EXAMPLES / "orders"


def example(program: Path) -> list[str]:
    """With this interpreter: in CI nothing is installed for the one that `env` finds."""
    return [sys.executable, str(program), "{root}"]


def test_the_right_example_ends_well_wherever_it_is_killed(pillar_killmatrix: KillMatrix) -> None:
    matrix = pillar_killmatrix(example(RIGHT), input=ORDERS / "1-two-orders", limit_s=100)
    assert len(matrix.results) > 20
    assert {result.verdict for result in matrix.results} == {"same"}


def test_the_wrong_example_is_found_and_its_story_is_told(tmp_path: Path) -> None:
    """It acts before it publishes: killed in between it pays twice."""
    page = tmp_path / "matrix.html"
    command = [sys.executable, "-m", "pillar", "killmatrix", "--json", "--html", str(page), "-j", "2"]
    command += ["--input", str(ORDERS / "1-two-orders"), "--limit", "60", "--", *example(WRONG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=380)
    assert done.returncode == 1, done.stderr
    matrix = json.loads(done.stdout)
    found = {result["kills"][0]: result for result in matrix["results"] if result["end"] == "differs"}
    between = [
        f"agent {call}"
        for count in (1, 2)
        for call in (
            f"create /run/payments/Receipt/.staging/record {count}",
            f"write /run/payments/Receipt/.staging/record {count}",
            f"rename /run/payments/Receipt/100{count}.json 1",
        )
    ]
    assert sorted(found) == sorted(between)  # every moment between paying and telling, and no other
    first = found[between[0]]
    assert first["differences"][0]["path"] == "persist/account"
    assert first["differences"][0]["found"] == "3 lines (+ 1001 1000 to bob)"
    paid = [m["lane"] for m in first["timeline"] if m["path"] == "/persist/account" and m["data"].startswith("1001")]
    assert paid == ["agent 1", "agent 2"]
    assert any(moment["kind"] == "killed" for moment in first["timeline"])
    assert "--at 'agent create /run/payments/Receipt/.staging/record 1'" in first["replay"]
    text = page.read_text()
    assert "3 lines (+ 1001 1000 to bob)" in text and "<script" not in text and "http" not in text
    _Balanced().feed(text)


class _Balanced(HTMLParser):
    """Fails when an element is not closed, or another one is."""

    VOID = ("meta", "line", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


# ---- agents that only read and write files

SHELL = """
import os, pathlib, sys
root = pathlib.Path(os.environ["PILLAR_ROOT"])
"""


def agent(directory: Path, source: str) -> Settings:
    """A program that ends by itself, in a few lines."""
    program = directory / "agent.py"
    program.write_text(SHELL + source)
    return Settings({"agent": [sys.executable, "-S", str(program)]}, quiet_s=1.0, limit_s=60.0)


def matrix_of(settings: Settings, oracle: Oracle | None = None) -> Matrix:
    return kill_matrix(settings, oracle, jobs=2)


def test_a_file_written_in_place_is_found_half_written(tmp_path: Path) -> None:
    """A program that takes what it finds for complete."""
    source = """
result = root / "result"
if not result.exists():
    with open(result, "w", buffering=1) as file:
        for line in ("one", "two"):
            print(line, file=file)
"""
    matrix = matrix_of(agent(tmp_path, source))
    assert [str(result.kills[0]) for result in matrix.failures] == ["agent write /result 1", "agent write /result 2"]
    assert matrix.failures[1].differences == [Difference("result", "", "2 lines", "1 line (- two)")]
    text = as_text(matrix, Palette(False))
    assert "killed at 3 points: 2 end otherwise" in text
    assert "killed right before write /result" in text


def test_a_temporary_file_that_nobody_sweeps_is_found(tmp_path: Path) -> None:
    source = """
import tempfile
if not (root / "persist").exists():
    (root / "persist").mkdir()
fd, name = tempfile.mkstemp(suffix=".tmp", dir=root / "persist")
os.write(fd, b"whole")
os.rename(name, root / "persist/result")
"""
    failures = matrix_of(agent(tmp_path, source)).failures
    assert {point.call for result in failures for point in result.kills} == {"write", "rename"}
    assert all(difference.path.endswith(".tmp") for result in failures for difference in result.differences)


def test_a_program_that_does_not_come_back_is_found(tmp_path: Path) -> None:
    """A lock file instead of a lock: it outlives its owner."""
    source = """
lock = root / "lock"
if lock.exists():
    sys.exit("somebody runs already")
lock.touch()
(root / "result").write_text("done")
lock.unlink()
"""
    failures = matrix_of(agent(tmp_path, source)).failures
    assert {result.verdict for result in failures} == {"no end"}
    assert "does not stay: exit status 1" in failures[0].report.trouble
    assert "somebody runs already" in failures[0].report.trouble


def test_looks_find_what_goes_wrong_after_the_last_change(tmp_path: Path) -> None:
    """It does its work again at each start; a kill before a change never shows it, as nothing was done then."""
    source = """
with open(root / "log", "ab", buffering=0) as file:
    file.write(b"x")
(root / "log").read_bytes()
"""
    found = kill_matrix(agent(tmp_path, source), looks=True, jobs=2)
    assert {result.kills[0].call for result in found.results} >= {"open", "write", "look"}
    assert [(str(result.kills[0]), result.verdict) for result in found.failures] == [("agent look /log 1", "differs")]
    assert "killed right before look /log" in as_text(found, Palette(False))


def test_pairs_find_what_one_kill_does_not(tmp_path: Path) -> None:
    """It gives up at its third start."""
    source = """
with open(root / "tries", "a+b", buffering=0) as file:
    file.write(b"x")
tries = (root / "tries").stat().st_size
staged = root / "result.new"
staged.write_text("gave up" if tries == 3 else "done")
staged.rename(root / "result")
"""
    oracle = Oracle(ignore=["tries"])
    found = kill_matrix(agent(tmp_path, source), oracle, pairs=2, seed=5, jobs=2, replay="pillar killmatrix -- x")
    assert {len(result.kills) for result in found.results} == {1, 2}
    assert found.failures and {len(result.kills) for result in found.failures} == {2}
    first = found.failures[0]
    assert first.differences == [Difference("result", "", "1 line", "1 line (- done; + gave up)")]
    assert found.replay_of(first).count("--at") == 2


def test_another_agent_is_killed_too(tmp_path: Path) -> None:
    """The first one is right; the one beside it writes in place and takes what it finds for whole."""
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(SHELL + "(root / 'a.new').write_text('whole')\n(root / 'a.new').rename(root / 'a')\n")
    wrong.write_text(SHELL + "if not (root / 'b').exists():\n    (root / 'b').write_text('whole')\n")
    python = [sys.executable, "-S"]
    command = [sys.executable, "-m", "pillar", "killmatrix", "--json", "-j", "2", "--limit", "60"]
    command += ["--also", f"beside={' '.join(python)} {wrong}", "--", *python, str(right)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=380)
    assert done.returncode == 1, done.stderr
    ends = {result["kills"][0]: result["end"] for result in json.loads(done.stdout)["results"]}
    assert {point.split()[0] for point in ends} == {"agent", "beside"}
    assert [point for point, end in ends.items() if end != "same"] == ["beside write /b 1"]
    command[-4:] = ["--also", "agent=true", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "a name of its own" in done.stderr) == (2, True)


def test_times_process_numbers_and_chance_are_no_differences(tmp_path: Path) -> None:
    source = """
import json, time, uuid
record = {"Pid": os.getpid(), "At": time.time(), "Id": str(uuid.uuid4()), "Time": "2026-11-25T12:00:00Z", "Same": 1}
staged = root / "record.new"
staged.write_text(json.dumps(record))
staged.rename(root / "record.json")
for old in root.glob("key-*"):
    old.unlink()
(root / f"key-{uuid.uuid4()}").touch()
"""
    assert matrix_of(agent(tmp_path, source)).failures == []


def test_expected_tables_and_a_command_say_what_is_right(tmp_path: Path) -> None:
    """Killed between the two files it starts over; both are there in the end, but one of them twice as long."""
    source = """
with open(root / "log", "a") as file:
    file.write("x")
(root / "run/a/T").mkdir(parents=True, exist_ok=True)
(root / "run/a/T/k.json").write_text('{"Done": true, "Seen": 7}')
"""
    settings = agent(tmp_path, source)
    expected = {"run/a/T/k.json": b'{"Done": true}'}
    assert matrix_of(settings, Oracle(expected)).failures == []
    check = ["sh", "-c", 'test "$(cat "$0/log")" = x', "{root}"]
    failures = matrix_of(settings, Oracle(expected, check)).failures
    assert failures and all("exit status 1" in result.differences[0].found for result in failures)
    with pytest.raises(CannotRun, match=r"does not leave what is expected: run/a/T/k\.json"):
        matrix_of(settings, Oracle({"run/a/T/k.json": b'{"Done": false}'}))


def test_what_cannot_be_tested_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"agent .* does not stay: exit status 3; it said:\nno"):
        matrix_of(agent(tmp_path, "print('no', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(CannotRun, match="changed nothing below the root"):
        matrix_of(agent(tmp_path, ""))
    restless = agent(tmp_path, "import time\nwhile True:\n    (root / 'x').write_text('x')\n    time.sleep(0.05)")
    with pytest.raises(CannotRun, match=r"did not come to rest within 5 s; last calls: .*write /x"):
        matrix_of(restless._replace(limit_s=5.0))
    command = [sys.executable, "-m", "pillar", "killmatrix", "--", "./no-such-program"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no such program, or it is not executable" in done.stderr


# ---- the pure parts


def test_inputs_come_in_steps_and_a_key_that_a_step_lacks_is_deleted(tmp_path: Path) -> None:
    for path, text in {
        "1/a/T/x.json": "1",
        "1/a/T/y.json": "2",
        "2-more/a/T/x.json": "3",
        "10/b/T/z.json": "4",
    }.items():
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_text(text)
    found = read_steps(tmp_path / "in")
    assert found == [
        {"run/a/T/x.json": b"1", "run/a/T/y.json": b"2"},
        {"run/a/T/x.json": b"3"},
        {"run/b/T/z.json": b"4"},
    ]
    before: dict[str, bytes] = {}
    for step in found:
        lay(tmp_path / "root", step, before)
        before = merged(step, before)
    left = {path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*") if path.is_file()}
    assert left == before.keys() == {"run/a/T/x.json", "run/b/T/z.json"}
    (tmp_path / "in/other").mkdir()
    with pytest.raises(BadInput, match="holds steps"):
        read_steps(tmp_path / "in")


def test_an_undisturbed_run_teaches_what_is_chance() -> None:
    base = Baseline(
        [{"a.json": b'{"Id": 1, "Name": "x"}', "k1": b""}, {"a.json": b'{"Id": 2, "Name": "x"}', "k2": b""}]
    )
    assert base.differences({"a.json": b'{"Name": "x", "Id": 3}', "k3": b""}) == []
    assert base.differences({"a.json": b'{"Id": 1, "Name": "y"}', "k3": b""}) == [
        Difference("a.json", "$.Name", '"x"', '"y"')
    ]
    assert [str(d) for d in base.differences({"k3": b"", "k4": b"", "b/n": b"1"})] == [
        'a.json: there is no such file, expected {"Id": 1, "Name": "x"}',
        "/: 2 files, expected 1 files with names of chance",
        "b/n: 1, expected no such file",
    ]


def test_random_text_still_has_its_number_of_lines() -> None:
    base = Baseline([{"log": b"a1\n"}, {"log": b"b2\n"}])
    assert base.differences({"log": b"c3\n"}) == []
    assert base.differences({"log": b"c3\nc4\n"}) == [Difference("log", "", "1 line", "2 lines")]


def test_expected_members_only_are_compared_and_more_records_are_wrong() -> None:
    expected = {"run/a/T/k.json": b'{"A": {"B": 1}}'}
    assert as_expected(expected, {"run/a/T/k.json": b'{"A": {"B": 1, "C": 2}}', "run/b/T/x.json": b"{}"}) == []
    assert as_expected(expected, {"run/a/T/k.json": b'{"A": {"B": 2}}', "run/a/T/l.json": b"{}"}) == [
        Difference("run/a/T/k.json", "$.A.B", "1", "2"),
        Difference("run/a/T/l.json", "", "no such file", "{}"),
    ]


def test_no_kill_is_spent_on_a_call_that_fails_anyway() -> None:
    made = [("mkdir", "-"), ("mkdir", "+"), ("look", "+"), ("rename", "+")]
    calls = [Call(1, 0, 7, "agent", call, "/x", "", result, b"") for call, result in made]
    assert steps(calls) == [Point("agent", "mkdir", "/x", 2), Point("agent", "rename", "/x", 1)]
    assert steps(calls, looks=True)[1] == Point("agent", "look", "/x", 1)
