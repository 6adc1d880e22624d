"""An agent's life, with a tiny agent run as a real process: start, refuse, log, settle, end, be killed."""

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
from support import stop, wait_for

from pillar.agents import AGENTS, find
from pillar.crashtest.processes import lives
from pillar.globalconfig import DEFAULTS, effective
from pillar.log import JsonLines, level_name, parse_level
from pillar.pidfile import AlreadyRunning, PidFile, holder
from pillar.pubsub import PubSub, encode
from pillar.types.enums import TriState
from pillar.types.globalconfig import GlobalConfig, PerAgentSettings

DEADLINE_S = 20.0
# The agent is a script outside the tree: it finds a plain checkout by this.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}

TINY = '''
"""tiny: says "started" when it has; follows GlobalConfig; on request it hangs or fails."""
import sys, os, time
from pillar.agent import Agent, run
from pillar.types.globalconfig import GlobalConfig
from pillar.workers import Workers

class Tiny(Agent):
    """A tiny agent."""
    name = "tiny"
    touch_every_s = 0.2

    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--fail", default="")
        parser.add_argument("--table", action="store_true")

    def start(self):
        if self.options.fail == "start":
            raise OSError("the disk is on fire")
        if self.options.fail == "bug":
            raise KeyError("no such key")
        if self.options.table:
            self.table = self.pubsub.publication(GlobalConfig, agent="tiny-table")
        self.log.debug("debug at start")
        self.loop.call_soon(lambda: print("started", self.settings.DownloadRetryTime, flush=True))
        if self.options.fail == "work":
            self.workers = Workers(self.loop, 1)
            self.workers.submit("k", lambda cancel: time.sleep(1000), lambda outcome: None)
        if self.options.fail == "callback":
            self.loop.call_soon(lambda: 1 / 0)

    def settings_changed(self, old):
        while self.options.fail == "slow" and "create handler of" not in self.where.log("tiny").read_text():
            time.sleep(0.05)
        self.log.debug("debug after change")
        print("settings", old.DownloadRetryTime, self.settings.DownloadRetryTime, flush=True)

    def stop(self):
        print("stopped", flush=True)

sys.exit(run(Tiny))
'''


class Tiny:
    """The tiny agent as a process on its own root."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "root"
        self.script = tmp_path / "tiny.py"
        self.script.write_text(TINY)
        self.started: list[subprocess.Popen[str]] = []
        self.pid_file = self.root / "run" / "tiny.pid"
        self.log_file = self.root / "persist" / "log" / "tiny.log"

    def popen(self, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(self.script), "--root", str(self.root), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self.started.append(process)
        return process

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        process = self.popen(*arguments)
        assert line(process).startswith("started")
        return process

    def log(self) -> list[dict[str, object]]:
        text = self.log_file.read_text()
        return [json.loads(entry) for entry in text[: text.rfind("\n") + 1].splitlines()]  # whole lines: it lives

    def settings(self, config: GlobalConfig) -> None:
        """As zedagent would: by rename."""
        table = self.root / "run" / "global" / "GlobalConfig"
        table.mkdir(parents=True, exist_ok=True)
        (table / ".new").write_bytes(encode(config))
        (table / ".new").rename(table / "global.json")


@pytest.fixture
def tiny(tmp_path):
    agent = Tiny(tmp_path)
    yield agent
    for process in agent.started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)
    pid = holder(agent.pid_file)  # a daemon
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def line(process: "subprocess.Popen[str]") -> str:
    """The next line it prints; fails when it says nothing in time."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], DEADLINE_S)
    assert readable, "the agent said nothing"
    return process.stdout.readline().strip()


# ---- start and end


def test_sigterm_ends_an_agent_promptly_with_status_0_and_its_pid_file_goes(tiny):
    process = tiny.start()
    assert tiny.pid_file.read_text() == str(process.pid)  # decimal, no newline
    assert holder(tiny.pid_file) == process.pid
    process.terminate()
    assert process.wait(timeout=DEADLINE_S) == 0
    assert line(process) == "stopped"
    assert not tiny.pid_file.exists()


def test_work_that_does_not_listen_does_not_hold_up_the_end(tiny):
    process = tiny.start("--fail", "work")
    process.terminate()
    assert process.wait(timeout=DEADLINE_S) == 0


def test_a_second_start_is_refused_naming_the_first_ones_pid_and_harms_nothing(tiny):
    first = tiny.start()
    second = tiny.popen()
    _, said = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 3
    assert f"already running with pid {first.pid}" in said
    assert first.poll() is None
    assert tiny.pid_file.read_text() == str(first.pid)


def test_after_kill_9_the_next_start_finds_everything_free(tiny):
    first = tiny.start("--table")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    assert tiny.pid_file.read_text() == str(first.pid)  # left behind, and held by nobody
    assert holder(tiny.pid_file) is None
    second = tiny.start("--table")
    assert tiny.pid_file.read_text() == str(second.pid)


def test_a_pid_that_another_program_has_now_does_not_block_a_start_and_is_not_taken_for_ours(tiny):
    tiny.pid_file.parent.mkdir(parents=True)
    tiny.pid_file.write_text(str(os.getpid()))  # alive, but it does not hold the file
    assert holder(tiny.pid_file) is None
    process = tiny.start()
    assert holder(tiny.pid_file) == process.pid


def test_a_number_that_is_not_its_holders_is_not_believed(tmp_path):
    held = PidFile(tmp_path / "x.pid")
    held.acquire()
    assert holder(held.path) == os.getpid()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        held.path.write_text(str(stranger.pid))  # as between the lock and the write of a start
        assert holder(held.path) is None
    finally:
        stranger.kill()
        stranger.communicate(timeout=DEADLINE_S)
        held.release()


def test_looking_at_a_pid_file_all_the_time_blocks_no_start(tmp_path):
    path = tmp_path / "x.pid"
    path.write_text("1")
    looker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from pillar.pidfile import holder\nprint('go', flush=True)\nwhile True: holder({str(path)!r})",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert line(looker) == "go"
        for _ in range(200):
            held = PidFile(path)
            held.acquire()
            held.release()
        held.acquire()
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            PidFile(path).acquire()
        held.release()
    finally:
        looker.kill()
        looker.communicate(timeout=DEADLINE_S)


def test_an_agent_that_cannot_start_says_why_in_one_line_and_its_log(tiny):
    process = tiny.popen("--fail", "start")
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert said == "tiny: the disk is on fire\n"
    assert tiny.log()[-1]["msg"] == "tiny: the disk is on fire"
    assert not tiny.pid_file.exists()


def test_a_bug_at_start_is_one_line_for_people_and_a_traceback_in_the_log(tiny):
    process = tiny.popen("--fail", "bug")
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert said == "tiny: KeyError: 'no such key'\n"
    assert "Traceback" in str(tiny.log()[-1]["error"])


def test_a_callback_that_raises_is_logged_and_the_agent_goes_on(tiny):
    process = tiny.start("--fail", "callback")
    wait_for(
        lambda: any("ZeroDivisionError" in str(entry.get("error")) for entry in tiny.log()),
        "the error is logged",
        DEADLINE_S,
    )
    process.terminate()
    assert process.wait(timeout=DEADLINE_S) == 0


def test_a_table_held_by_another_process_refuses_the_start_with_its_pid(tiny, tmp_path):
    first = tiny.start("--table")
    stop(first.pid)  # or it would have its pid file back
    tiny.pid_file.unlink()  # somebody thought this would help
    second = tiny.popen("--table")
    _, said = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 3
    assert str(first.pid) in said


def test_an_agent_whose_removed_table_another_process_took_ends_with_status_3(tiny):
    first = tiny.start("--table")
    stop(first.pid)  # or it would have its table back before the other one is there
    shutil.rmtree(tiny.root / "run" / "tiny-table")
    with PubSub(tiny.root, "tiny-table") as pubsub:
        pubsub.publication(GlobalConfig)
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=DEADLINE_S)
        assert first.returncode == 3
        assert f"already published by process {os.getpid()}" in said


def test_an_agent_whose_run_directory_was_removed_takes_its_pid_file_again(tiny):
    process = tiny.start()
    (tiny.root / "run").rename(tiny.root / "gone")  # at once: agents put back what they miss
    shutil.rmtree(tiny.root / "gone", ignore_errors=True)
    wait_for(lambda: holder(tiny.pid_file) == process.pid, "it holds its pid file", DEADLINE_S)
    assert tiny.popen().wait(timeout=DEADLINE_S) == 3
    process.terminate()
    assert process.wait(timeout=DEADLINE_S) == 0
    assert not tiny.pid_file.exists()


def test_an_agent_ends_with_status_3_when_another_one_took_its_removed_pid_file(tiny):
    first = tiny.start()
    stop(first.pid)  # or it would have the file back before the second one is there
    tiny.pid_file.unlink()
    second = tiny.start()
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 3
    assert said == f"tiny: already running with pid {second.pid}: {tiny.pid_file} is held by it\n"
    assert second.poll() is None
    assert holder(tiny.pid_file) == second.pid


def test_wrong_usage_is_status_2_and_version_is_told(tiny):
    assert tiny.popen("--nonsense").wait(timeout=DEADLINE_S) == 2
    assert tiny.popen("--root", "").wait(timeout=DEADLINE_S) == 2
    process = tiny.popen("--version")
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert out.startswith("pillar ")


def test_the_root_may_come_from_the_environment_and_be_relative(tiny, tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(tiny.script)],
        env=ENVIRONMENT | {"PILLAR_ROOT": "root"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    tiny.started.append(process)
    assert line(process).startswith("started")
    assert holder(tiny.pid_file) == process.pid


def test_no_core_file_is_written_and_files_are_private(tiny):
    process = tiny.start()
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    core = next(text for text in limits.splitlines() if text.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert tiny.log_file.stat().st_mode & 0o777 == 0o600


# ---- daemon


def test_daemon_returns_when_the_agent_is_ready_and_the_agent_stays(tiny):
    # Not through pipes: whoever waits for their end would wait for the daemon if it kept them.
    process = tiny.popen("--daemon")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (0, "", "")
    pid = holder(tiny.pid_file)
    assert pid is not None
    assert pid != process.pid
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert any(entry["msg"].startswith("tiny started") for entry in tiny.log())
    second = tiny.popen("--daemon")
    _, said = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 3
    assert f"pid {pid}" in said
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not lives(pid), "the daemon ends", DEADLINE_S)


def test_daemon_returns_the_error_of_an_agent_that_cannot_start(tiny):
    process = tiny.popen("--daemon", "--fail", "start")
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert said == "tiny: the disk is on fire\n"


# ---- touch, log, settings


def test_the_touch_file_is_there_when_the_agent_is_and_is_kept_fresh(tiny):
    touch = tiny.root / "run" / "tiny.touch"
    touch.parent.mkdir(parents=True)
    touch.touch()
    os.utime(touch, (1, 1))  # left by a predecessor long ago
    tiny.start()
    assert time.time() - touch.stat().st_mtime < 60
    os.utime(touch, (1, 1))
    wait_for(lambda: touch.stat().st_mtime > 1, "it is touched again", DEADLINE_S)


def test_the_log_is_one_json_object_per_line_with_eves_words(tiny):
    process = tiny.start("--debug")
    process.terminate()
    process.wait(timeout=DEADLINE_S)
    entries = tiny.log()
    assert {"time", "level", "source", "pid", "msg"} <= set(entries[0])
    assert {entry["source"] for entry in entries} == {"tiny"}
    assert {entry["pid"] for entry in entries} == {process.pid}
    assert [entry["level"] for entry in entries if entry["msg"] == "debug at start"] == ["debug"]
    assert str(entries[0]["time"]).endswith("Z")


def test_the_log_level_and_the_settings_follow_global_config_live(tiny):
    process = tiny.start()
    tiny.settings(GlobalConfig(DownloadRetryTime=120, AgentSettings={"tiny": PerAgentSettings(LogLevel="debug")}))
    assert line(process) == "settings 600 120"
    tiny.settings(GlobalConfig(DownloadRetryTime=1, DefaultLogLevel="warning"))
    assert line(process) == "settings 120 60"  # raised to EVE's minimum
    (tiny.root / "run" / "global" / "GlobalConfig" / "global.json").unlink()
    assert line(process) == "settings 60 600"
    said = [entry["msg"] for entry in tiny.log()]
    assert said.count("debug after change") == 1  # only while the level was debug
    assert "debug at start" not in said


def test_settings_on_disk_hold_from_the_start_and_a_wrong_level_is_said(tiny):
    tiny.settings(GlobalConfig(DownloadRetryTime=77, DefaultLogLevel="chatty"))
    process = tiny.popen()
    assert line(process) == "started 77"
    assert any("'chatty'" in str(entry["msg"]) for entry in tiny.log())


def test_debug_wins_over_global_config(tiny):
    tiny.settings(GlobalConfig(DefaultLogLevel="error"))
    tiny.start("--debug")
    assert any(entry["msg"] == "debug at start" for entry in tiny.log())


def test_readable_text_goes_to_a_terminal(tiny):
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, str(tiny.script), "--root", str(tiny.root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        env=ENVIRONMENT | {"TERM": "xterm"},
    )
    tiny.started.append(process)
    os.close(slave)
    assert line(process).startswith("started")
    shown = ""
    while "tiny started, root" not in shown:  # the kernel may hand it over in parts
        readable, _, _ = select.select([master], [], [], DEADLINE_S)
        assert readable, shown
        shown += os.read(master, 4096).decode()
    assert "\x1b[" in shown
    process.kill()
    process.wait(timeout=DEADLINE_S)
    os.close(master)


def test_the_log_is_bounded_and_the_newest_lines_are_kept(tmp_path, monkeypatch):
    import logging

    monkeypatch.setattr("pillar.log.MAX_BYTES", 10_000)
    path = tmp_path / "log" / "a.log"
    handler = JsonLines("a", path)
    for number in range(1000):
        handler.emit(logging.LogRecord("pillar.a", logging.INFO, "", 0, "line %d", (number,), None))
    handler.close()
    files = sorted(entry.name for entry in path.parent.iterdir())
    assert files == ["a.log", "a.log.1", "a.log.2"]
    assert all(entry.stat().st_size <= 10_000 for entry in path.parent.iterdir())
    kept = [
        json.loads(text)["msg"]
        for name in ("a.log.2", "a.log.1", "a.log")
        for text in (path.parent / name).read_text().splitlines()
    ]
    assert kept == [f"line {number}" for number in range(1000 - len(kept), 1000)]


def test_a_disk_that_refuses_log_lines_costs_the_lines_and_says_how_many(tmp_path):
    import logging

    path = tmp_path / "a.log"
    handler = JsonLines("a", path)
    good, handler._fd = handler._fd, os.open("/dev/full", os.O_WRONLY)
    record = logging.LogRecord("pillar.a", logging.INFO, "", 0, "x", (), None)
    handler.emit(record)
    handler.emit(record)
    full, handler._fd = handler._fd, good
    os.close(full)
    handler.emit(record)
    handler.close()
    (entry,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert str(entry["lost"]).startswith("2 lines")


def test_a_disk_with_room_for_half_a_line_gets_none_of_it(tmp_path):
    path = tmp_path / "a.log"
    code = f"""
import logging, resource
from pathlib import Path
from pillar.log import JsonLines
handler = JsonLines("a", Path({str(path)!r}))
record = logging.LogRecord("pillar.a", logging.INFO, "", 0, "x", (), None)
handler.emit(record)
size = Path({str(path)!r}).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
handler.emit(record)
assert Path({str(path)!r}).stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
handler.emit(record)
"""
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, timeout=DEADLINE_S)
    whole, last = [json.loads(text) for text in path.read_text().splitlines()]
    assert "lost" not in whole
    assert str(last["lost"]).startswith("1 lines")


def test_text_that_is_not_unicode_does_not_cost_its_line(tmp_path):
    import logging

    handler = JsonLines("a", tmp_path / "a.log")
    handler.emit(logging.LogRecord("pillar.a", logging.INFO, "", 0, "file %s", (os.fsdecode(b"\xff\xfe"),), None))
    handler.close()
    assert json.loads((tmp_path / "a.log").read_text())["msg"].startswith("file ")


def test_level_names_are_eves_in_both_directions():
    for name in ("panic", "fatal", "error", "warning", "info", "debug", "trace"):
        level = parse_level(name.upper())
        assert level is not None
        assert level_name(level) == name
    assert parse_level("warn") == parse_level("warning")
    assert parse_level("chatty") is None


def test_global_config_zeros_become_defaults_and_small_values_minimums():
    assert effective(None) == DEFAULTS
    asked = GlobalConfig(
        ConfigInterval=1, DomainBootRetryTime=11, StaleConfigTime=1, Dom0MinDiskUsagePercent=95, UsbAccess=False
    )
    got = effective(asked)
    assert got.ConfigInterval == 5
    assert got.MetricInterval == 60
    assert got.DomainBootRetryTime == 11
    assert got.StaleConfigTime == 1  # has no minimum
    assert got.Dom0MinDiskUsagePercent == 80
    assert got.NetworkTestInterval == 300
    assert got.NetworkTestBetterInterval == 0
    assert got.AllowNonFreeAppImages == TriState.ENABLED
    assert got.UsbAccess is False  # a record on disk means what it says
    assert effective(got) == got


def test_agents_are_found_by_their_names_and_eves():
    assert AGENTS[0].name == "zedagent"
    assert find("identitymgr") is find("identitymanager")
    assert find("domainmanager") is find("domainmgr")
    assert find("nobody") is None


def test_a_slow_handler_is_named_by_table_and_key_while_it_still_runs(tiny: Tiny) -> None:
    process = tiny.start("--fail=slow")
    tiny.settings(GlobalConfig(DownloadRetryTime=7))
    assert line(process).startswith("settings")  # it went on because it had been reported
    said = [str(entry["msg"]) for entry in tiny.log()]
    assert any(
        msg.startswith("the create handler of global/GlobalConfig, key 'global' has been running for") for msg in said
    )
