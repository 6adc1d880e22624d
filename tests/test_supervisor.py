"""`pillar up`, `down` and `ps` with real processes: agents that die, crash, hang; supervisors that are killed."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from support import stop, wait_for

from pillar.agents import AGENTS
from pillar.command.main import COMMANDS, overview
from pillar.crashtest.processes import lives
from pillar.locations import Locations
from pillar.pidfile import holder
from pillar.supervisor.policy import History, Limits, after_death
from pillar.supervisor.record import SupervisorStatus
from pillar.supervisor.survey import find, ledger, survey

TREE = Path(__file__).parent.parent
DEADLINE_S = 30.0

TOY = """
import os, sys
from pillar.agent import Agent, run

class Toy(Agent):
    touch_every_s = 0.1
    def start(self):
        if os.path.exists(self.where.config / (self.name + ".crash")):
            raise OSError("told to crash")
    def end(self, number):
        if not os.path.exists(self.where.config / (self.name + ".stubborn")):
            super().end(number)
"""
AGENT = """
import sys
from toy import Toy, run
class Mine(Toy):
    name = "{name}"
sys.exit(run(Mine))
"""
SUPERVISE = """
import sys
from pillar.agent import run
from pillar.agents import Entry
from pillar.supervisor.policy import Limits
from pillar.supervisor.supervisor import Supervisor

class Mine(Supervisor):
    agents = (Entry("one", "", "toy_one", ("uno",)), Entry("two", "", "toy_two"))
    limits = Limits(first_wait_s=0.02, stable_s=60, restarts=3, window_s=600, stale_s={stale_s}, grace_s={grace_s})

sys.exit(run(Mine))
"""


class Device:
    """One root with toy agents, and its supervisors."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path
        self.where = Locations(tmp_path / "root")
        self.where.config.mkdir(parents=True)
        (tmp_path / "toy.py").write_text(TOY)
        for name in ("one", "two"):
            (tmp_path / f"toy_{name}.py").write_text(AGENT.format(name=name))
        self.limits()
        self.environment = os.environ | {"PYTHONPATH": f"{TREE}{os.pathsep}{tmp_path}"}
        self.children: list[subprocess.Popen[str]] = []

    def limits(self, *, stale_s: float = 60.0, grace_s: float = 10.0) -> None:
        """What the next supervisors go by; an agent on a busy machine may do nothing for seconds."""
        (self.home / "supervise.py").write_text(SUPERVISE.format(stale_s=stale_s, grace_s=grace_s))

    def tell(self, agent: str, what: str) -> None:
        (self.where.config / f"{agent}.{what}").touch()

    def popen(self, *command: str) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, *command, "--root", str(self.where.root)],
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def up(self, *agents: str) -> "subprocess.Popen[str]":
        """A supervisor in the foreground, with its agents settled in `running` unless they cannot."""
        return self.popen("supervise.py", *agents)

    def pillar(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pillar", *arguments, "--root", str(self.where.root)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def status(self, agent: str) -> SupervisorStatus:
        return ledger(self.where).get(agent, SupervisorStatus(Agent=agent))

    def until(self, agent: str, state: str, *, restarts: int = 0, besides: int = -1) -> SupervisorStatus:
        """Wait until the agent is in this state, with at least so many restarts, and not with the pid `besides`."""

        def there():
            status = self.status(agent)
            return status.State == state and status.Restarts >= restarts and status.Pid != besides

        wait_for(there, f"{agent} is {state}: {self.status(agent)}", DEADLINE_S)
        return self.status(agent)


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path)
    yield device
    for child in device.children:
        if child.poll() is None:
            child.kill()
        child.communicate(timeout=DEADLINE_S)
    for name in ("pillar", "one", "two", "identitymanager", "nim"):
        left = find(device.where, name, device.status(name))  # also one that has no pid file yet
        if left is not None:
            left.signal(signal.SIGKILL)
            left.close()


# ---- agents that die


def test_an_agent_killed_with_9_is_started_again_and_the_other_one_is_left_alone(device):
    device.up()
    one, two = device.until("one", "running"), device.until("two", "running")
    os.kill(one.Pid, signal.SIGKILL)
    again = device.until("one", "running", restarts=1, besides=one.Pid)
    assert again.LastExit == "killed by SIGKILL"
    assert again.Restarts == 1
    assert holder(device.where.pid("one")) == again.Pid
    assert device.status("two").Pid == two.Pid


def test_an_agent_that_keeps_dying_has_failed_with_its_own_reason_and_the_other_one_runs(device):
    device.tell("one", "crash")
    supervisor = device.up()
    failed = device.until("one", "failed")
    assert failed.Restarts == 3
    assert "status 1: one: told to crash" in failed.LastExit
    assert failed.LastExit in failed.Reason
    assert "died 4 times" in failed.Reason
    two = device.until("two", "running")
    shown = device.pillar("ps")
    assert "told to crash" in shown.stdout
    assert shown.returncode == 1
    supervisor.terminate()
    assert supervisor.wait(timeout=DEADLINE_S) == 0
    assert not lives(two.Pid)


def test_a_hanging_agent_is_killed_and_started_again(device):
    device.limits(stale_s=8.0)  # long enough for the other one, which is only slow
    device.up()
    one = device.until("one", "running")
    os.kill(one.Pid, signal.SIGSTOP)
    again = device.until("one", "running", restarts=1, besides=one.Pid)
    assert "did not touch its file for" in again.LastExit
    assert not lives(one.Pid)
    assert device.status("two").Restarts == 0


def test_a_machine_that_stood_still_does_not_make_its_agents_hang(device):
    device.limits(stale_s=8.0)
    supervisor = device.up()
    one, two = device.until("one", "running"), device.until("two", "running")

    def untouched_for(seconds: float) -> bool:
        return time.time() - device.where.touch("one").stat().st_mtime > seconds

    for agent in (one, two):
        stop(agent.Pid)
    wait_for(lambda: untouched_for(2), "the supervisor has looked since", DEADLINE_S)
    stop(supervisor.pid)
    wait_for(lambda: untouched_for(9), "the time is over", DEADLINE_S)
    for pid in (supervisor.pid, one.Pid, two.Pid):
        os.kill(pid, signal.SIGCONT)
    os.kill(two.Pid, signal.SIGKILL)
    again = device.until("two", "running", restarts=1, besides=two.Pid)
    assert again.LastExit == "killed by SIGKILL"
    assert (device.status("one").Pid, device.status("one").Restarts) == (one.Pid, 0)


def test_the_wait_doubles_up_to_its_limit_and_a_long_life_ends_the_streak():
    limits = Limits(first_wait_s=0.1, longest_wait_s=1.0, stable_s=10, restarts=100)
    history, waits = History(), []
    for number in range(6):
        decision = after_death(history, float(number), 0.5, limits)
        history = decision.history
        waits.append(decision.wait_s)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert after_death(history, 6.0, 10.0, limits).wait_s == 0.1


def test_too_many_deaths_within_the_window_are_a_failure_and_old_ones_are_forgotten():
    limits = Limits(restarts=2, window_s=100, stable_s=1)
    history = History()
    for at in (0.0, 10.0):
        decision = after_death(history, at, 5.0, limits)
        assert decision.wait_s is not None
        history = decision.history
    assert after_death(history, 99.0, 5.0, limits).wait_s is None
    assert after_death(history, 101.0, 5.0, limits).wait_s is not None
    assert "died 3 times in 99 s" in after_death(history, 99.0, 5.0, limits).reason


def test_a_pid_and_start_time_of_another_boot_name_nobody(device):
    device.up()
    one = device.until("one", "running")
    stop(one.Pid)  # or it would have its pid file back
    device.where.pid("one").unlink()  # or the lock on it tells who it is
    found = find(device.where, "one", one)
    assert found is not None
    found.close()
    assert find(device.where, "one", replace(one, Boot="an earlier one")) is None


# ---- supervisors that die


def test_agents_go_on_when_their_supervisor_is_killed_and_the_next_one_adopts_them(device):
    first = device.up()
    one, two = device.until("one", "running"), device.until("two", "running")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    assert [holder(device.where.pid(name)) for name in ("one", "two")] == [one.Pid, two.Pid]
    shown = json.loads(device.pillar("ps", "--json").stdout)
    assert shown["supervisor"] is None
    states = {row["agent"]: (row["state"], row["pid"]) for row in shown["agents"]}
    assert states["one"] == ("running", one.Pid)

    second = device.up()
    wait_for(lambda: device.status("one").Adopted and device.status("two").Adopted, "both adopted", DEADLINE_S)
    adopted = device.status("one")
    assert (adopted.Pid, adopted.StartTicks, adopted.StartTime) == (one.Pid, one.StartTicks, one.StartTime)
    os.kill(one.Pid, signal.SIGKILL)
    again = device.until("one", "running", restarts=1, besides=one.Pid)
    assert not again.Adopted
    assert again.LastExit.startswith("unknown")  # its parent was somebody else
    second.terminate()
    assert second.wait(timeout=DEADLINE_S) == 0
    assert not lives(two.Pid)  # an adopted one is stopped like any other


def test_an_agent_that_died_while_no_supervisor_ran_is_started_and_counted(device):
    first = device.up()
    one, two = device.until("one", "running"), device.until("two", "running")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    os.kill(one.Pid, signal.SIGKILL)
    wait_for(lambda: not lives(one.Pid), "one is gone", DEADLINE_S)
    second = device.up()
    again = device.until("one", "running", restarts=1, besides=one.Pid)
    assert again.LastExit.startswith("unknown")
    wait_for(lambda: device.status("two").Adopted, "two is adopted", DEADLINE_S)
    assert device.status("two").Pid == two.Pid
    second.terminate()
    assert second.wait(timeout=DEADLINE_S) == 0
    device.up()
    assert device.until("one", "running").Restarts == 0  # a new life after a clean end


def test_an_agent_that_is_no_longer_asked_for_and_is_dead_is_no_longer_shown(device):
    first = device.up()
    two = device.until("two", "running")
    device.until("one", "running")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    os.kill(two.Pid, signal.SIGKILL)
    wait_for(lambda: not lives(two.Pid), "two is gone", DEADLINE_S)
    device.up("one")
    wait_for(lambda: device.status("one").Adopted, "one is adopted", DEADLINE_S)
    wait_for(lambda: list(ledger(device.where)) == ["one"], "two is not shown", DEADLINE_S)


def test_an_agent_started_by_hand_is_adopted(device):
    by_hand = device.popen("-m", "toy_one")
    wait_for(lambda: holder(device.where.pid("one")) == by_hand.pid, "it runs", DEADLINE_S)
    device.up()
    assert device.until("one", "running").Pid == by_hand.pid
    assert device.status("one").Adopted
    by_hand.terminate()
    assert by_hand.wait(timeout=DEADLINE_S) == 0
    assert device.until("one", "running", restarts=1).Pid != by_hand.pid


def test_a_second_supervisor_is_refused_naming_the_first_ones_pid(device):
    first = device.up()
    device.until("one", "running")
    second = device.up()
    _, said = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 3
    assert f"already running with pid {first.pid}" in said
    assert device.pillar("up").returncode == 3


def test_up_with_names_starts_only_those_and_knows_aliases(device):
    device.up("uno")
    device.until("one", "running")
    assert list(ledger(device.where)) == ["one"]
    assert holder(device.where.pid("two")) is None


def test_an_unknown_agent_is_wrong_usage_naming_those_that_exist(device):
    said = device.pillar("up", "nobody")
    assert said.returncode == 2
    assert "no agent 'nobody'" in said.stderr
    assert "downloader" in said.stderr


def test_up_hands_each_agent_the_options_set_for_it(device):
    device.up("one", "two", "--set", "uno.daemonic=x", "--set=two.debug")
    pid = device.until("two", "running").Pid
    assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-3:] == [
        str(device.where.root).encode(),
        b"--debug",
        b"",
    ]
    status = device.until("one", "failed")
    assert "--daemonic=x" in status.LastExit
    done = device.pillar("up", "--set", "nim")
    assert (done.returncode, "AGENT.OPTION" in done.stderr) == (2, True)


def test_up_as_a_daemon_returns_when_the_agents_run(device):
    child = device.popen("supervise.py", "--daemon")
    out, err = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, err) == (0, "")
    assert out.startswith("2 agents are running")
    assert {device.status(name).State for name in ("one", "two")} == {"running"}
    assert device.pillar("down").returncode == 0
    assert holder(device.where.pid("pillar")) is None


def test_up_as_a_daemon_says_which_agent_does_not_start_and_why(device):
    device.tell("two", "crash")
    child = device.popen("supervise.py", "--daemon")
    _, err = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 1
    assert "two: status 1: two: told to crash" in err


# ---- the end


def test_down_stops_the_supervisor_and_all_agents(device):
    supervisor = device.up()
    pids = [device.until(name, "running").Pid for name in ("one", "two")]
    said = device.pillar("down", "--json")
    assert said.returncode == 0
    assert json.loads(said.stdout)["stopped"][0] == {"agent": "pillar", "pid": supervisor.pid, "how": "ended"}
    assert supervisor.wait(timeout=DEADLINE_S) == 0
    assert not any(lives(pid) for pid in pids)
    assert {device.status(name).State for name in ("one", "two")} == {"stopped"}
    assert device.pillar("ps").returncode == 3
    assert device.pillar("down").returncode == 0  # nothing left to do is no error


def test_down_fails_while_a_supervisor_lives_whose_pid_file_was_removed(device):
    supervisor = device.up()
    device.until("one", "running")
    stop(supervisor.pid)  # or it would have its pid file back
    device.where.pid("pillar").unlink()
    said = device.pillar("down", "--grace", "1")
    assert said.returncode == 1
    assert f"held by process {supervisor.pid}" in said.stderr
    supervisor.send_signal(signal.SIGCONT)
    wait_for(lambda: holder(device.where.pid("pillar")) == supervisor.pid, "it has its pid file back", DEADLINE_S)
    assert device.pillar("down").returncode == 0
    assert supervisor.wait(timeout=DEADLINE_S) == 0


def test_a_removed_run_directory_leads_to_no_second_supervisor(device):
    supervisor = device.up()
    one = device.until("one", "running")
    device.until("two", "running")
    device.where.run.rename(device.where.root / "gone")  # at once: agents put back what they miss
    shutil.rmtree(device.where.root / "gone", ignore_errors=True)
    wait_for(
        lambda: holder(device.where.pid("pillar")) == supervisor.pid, "the supervisor has its pid file back", DEADLINE_S
    )
    wait_for(lambda: holder(device.where.pid("one")) == one.Pid, "so has the agent", DEADLINE_S)
    assert device.pillar("up").returncode == 3
    assert device.pillar("down").returncode == 0
    assert supervisor.wait(timeout=DEADLINE_S) == 0
    assert not lives(one.Pid)


def test_down_without_a_supervisor_stops_the_agents_it_left_and_no_stranger(device):
    stranger = device.popen("-c", "import time; time.sleep(1000)")
    supervisor = device.up()
    pids = [device.until(name, "running").Pid for name in ("one", "two")]
    supervisor.kill()
    supervisor.wait(timeout=DEADLINE_S)
    device.where.pid("downloader").write_text(str(stranger.pid))  # the number of a dead agent, taken by another
    device.where.pid("pillar").write_text(str(stranger.pid))
    said = json.loads(device.pillar("down", "--json").stdout)
    assert {entry["agent"]: entry["pid"] for entry in said["stopped"]} == dict(zip(("one", "two"), pids, strict=True))
    assert not any(lives(pid) for pid in pids)
    assert stranger.poll() is None
    assert {device.status(name).State for name in ("one", "two")} == {"stopped"}


def test_an_agent_that_ignores_sigterm_is_killed_after_the_grace_period(device):
    device.tell("one", "stubborn")
    device.limits(grace_s=5.0)  # long enough for the other one, which is only slow
    supervisor = device.up()
    pids = [device.until(name, "running").Pid for name in ("one", "two")]
    supervisor.terminate()
    assert supervisor.wait(timeout=DEADLINE_S) == 0
    assert not any(lives(pid) for pid in pids)
    assert "did not end within" in device.status("one").LastExit
    assert device.status("two").LastExit == "status 0"


def test_ctrl_c_in_the_foreground_stops_everything_and_shows_aligned_lines(device):
    supervisor = device.up()
    pids = [device.until(name, "running").Pid for name in ("one", "two")]
    supervisor.send_signal(signal.SIGINT)
    out, _ = supervisor.communicate(timeout=DEADLINE_S)
    assert supervisor.returncode == 0
    assert not any(lives(pid) for pid in pids)
    lines = [text.split() for text in out.splitlines()]
    assert ["one", "starting"] in [fields[1:3] for fields in lines]
    assert ["two", "stopped"] in [fields[1:3] for fields in lines]
    assert len({text.index(fields[2]) for text, fields in zip(out.splitlines(), lines, strict=True)}) == 1


# ---- looking


def test_ps_tells_pid_uptime_restarts_last_exit_and_touch_age_for_programs(device):
    supervisor = device.up()
    one = device.until("one", "running")
    device.until("two", "running")
    shown = device.pillar("ps", "--json")
    assert shown.returncode == 0  # all that were asked for
    answer = json.loads(shown.stdout)
    assert answer["supervisor"]["pid"] == supervisor.pid
    row = next(row for row in answer["agents"] if row["agent"] == "one")
    assert (row["pid"], row["restarts"], row["last_exit"], row["supervised"]) == (one.Pid, 0, "", True)
    assert 0 <= row["uptime_s"] < DEADLINE_S
    assert 0 <= row["touch_age_s"] < DEADLINE_S


def test_another_pillar_up_has_the_running_supervisor_try_again_what_failed(device):
    device.tell("one", "crash")
    supervisor = device.up()
    device.until("one", "failed")
    (device.where.config / "one.crash").unlink()  # mended
    again = device.pillar("up")
    assert again.returncode == 0
    assert again.stdout == f"the supervisor, pid {supervisor.pid}, tries again what failed: one\n"
    device.until("one", "running")
    refused = device.pillar("up")  # nothing has failed: a second supervisor, as ever
    assert refused.returncode == 3
    assert str(supervisor.pid) in refused.stderr


def test_an_agent_that_cannot_even_be_started_is_tried_with_growing_waits(device):
    device.where.stderr("one").mkdir(parents=True)
    device.up()
    failed = device.until("one", "failed")
    assert failed.LastExit.startswith("cannot be started: Is a directory (standard error to ")

    def deaths() -> list[str]:
        lines = [json.loads(text) for text in device.where.log("pillar").read_text().splitlines()]
        return [line["msg"] for line in lines if line["msg"].startswith("one died")]

    wait_for(lambda: len(deaths()) == 3, "the last one is in the log", DEADLINE_S)
    assert [said.rpartition("; ")[2] for said in deaths()] == [
        "started again in 0.0 s",  # 20 ms, 40 ms, 80 ms
        "started again in 0.0 s",
        "started again in 0.1 s",
    ]


def test_ps_and_down_work_where_nothing_ever_ran_and_leave_no_trace(tmp_path):
    root = tmp_path / "nothing"
    for command, status in (("ps", 3), ("down", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "pillar", command, "--root", str(root)],
            cwd=TREE,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (status, "")
    assert not root.exists()
    assert survey(Locations(root))[0] is None


def test_real_agents_run_under_the_real_command(device):
    up = device.pillar("up", "--daemon", "identitymanager", "nim")
    assert (up.returncode, up.stderr) == (0, "")
    shown = device.pillar("ps")
    running = [text.split() for text in shown.stdout.splitlines() if " running " in text]
    assert [fields[0] for fields in running] == ["nim", "identitymanager"]
    down = device.pillar("down")
    assert down.returncode == 0
    assert device.pillar("ps").returncode == 3


def test_pillar_alone_lists_every_command_and_agent_and_an_unknown_one_is_a_clear_error(device):
    text = overview()
    for name in (*COMMANDS, "zedmanager", "identitymgr", "domainmanager"):
        assert f" {name}" in text
    said = device.pillar("dwon")
    assert said.returncode == 2
    assert "did you mean down?" in said.stderr


def test_an_agent_runs_alone_by_each_of_its_names(device):
    link = device.home / "somewhere-else"
    link.symlink_to(TREE / "scripts" / "identitymanager")
    python = [sys.executable, "-m"]
    for command in (
        [*python, "pillar", "identitymanager"],
        [*python, "pillar", "identitymgr"],
        [*python, "pillar.cmd.identitymanager"],
        [str(link)],
    ):
        child = subprocess.Popen([*command, "--root", "root"], cwd=device.home, env=device.environment)
        try:
            wait_for(
                lambda child=child: holder(device.where.pid("identitymanager")) == child.pid,
                f"{command} runs",
                DEADLINE_S,
            )
        finally:
            child.terminate()
            assert child.wait(timeout=DEADLINE_S) in (0, -signal.SIGTERM)  # perhaps before it listened


def test_every_agent_has_its_launcher():
    for entry in AGENTS:
        assert os.access(TREE / "scripts" / entry.name, os.X_OK), entry.name


def test_the_runtime_loads_nothing_heavy():
    # What every agent carries, and waits for at every start.
    heavy = ("asyncio", "boto3", "concurrent.futures", "cryptography", "daemon", "google", "pyroute2", "requests")
    code = f"import sys, pillar.agent; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=TREE, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_however_often_and_early_supervisors_are_killed_each_agent_runs_once(device):
    # Killed while it spawns: an agent may then run that is in no ledger and has no pid file yet.
    for number in range(6):
        supervisor = device.up()
        wait_for(lambda: holder(device.where.pid("pillar")) is not None, "it began", DEADLINE_S)
        select.select([], [], [], 0.015 * number)  # a moment, not a wait: every round hits another step
        supervisor.kill()
        supervisor.wait(timeout=DEADLINE_S)
        if number % 2:  # so that the next one has to spawn again
            for pid in children_of(device.home):
                with contextlib.suppress(ProcessLookupError):  # a second one of a name ends by itself
                    os.kill(pid, signal.SIGKILL)
    last = device.up()

    def agents():
        return sorted(command_of(pid) for pid in children_of(device.home))

    wait_for(lambda: holder(device.where.pid("pillar")) == last.pid, "the last one has them", DEADLINE_S)
    wait_for(lambda: agents() == ["toy_one", "toy_two"], "each runs once", DEADLINE_S)
    for name in ("one", "two"):
        wait_for(lambda name=name: holder(device.where.pid(name)) is not None, f"{name} runs", DEADLINE_S)
    assert device.pillar("down").returncode == 0
    assert agents() == []


def children_of(home: Path) -> list[int]:
    """The toy agents of this test: they have its directory."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if Path(f"/proc/{pid}/cwd").readlink() == home and command_of(pid):
                found.append(pid)
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def command_of(pid: int) -> str:
    """`toy_one` for `python -m toy_one ...`; "" for others."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return ""
    return next((word for word in words if word.startswith("toy_")), "")
