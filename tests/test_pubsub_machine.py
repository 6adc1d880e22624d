"""Whatever happens to publisher, subscriber and directory: after it they agree, and the handlers told a legal story."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support import wait_for

ACTORS = Path(__file__).with_name("pubsub_actors.py")
SETTLE_S = 60.0
QUEUE = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

keys = st.sampled_from(["a", "b", "c", "d e", "ü"])
actors = st.sampled_from(["publisher", "subscriber"])


class Actor:
    """One process of pubsub_actors.py."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ACTORS), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stopped = False
        self.answer()

    def ask(self, *command: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the {self.process.args} died: {self.process.poll()}"
        return json.loads(line)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        self.stopped = True

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.stopped = False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Story:
    """The handler calls of one subscription, checked for what a legal history may be.

    A durable one goes on across the lives of its process; the handler that a kill interrupted may be run again.
    """

    def __init__(self, *, durable: bool) -> None:
        self.table: dict[str, int] = {}
        self.counters: list[int] = []
        self.synchronized = False
        self._durable = durable
        self._unsure: dict[str, int | None] = {}  # the key last told before a kill, and what it was before that
        self._before: dict[str, int | None] = {}

    def new_life(self) -> None:
        self.synchronized = False
        self.counters = []
        if self._durable:
            self._unsure = self._before
        else:
            self.table = {}

    def told(self, kind: str, *values: Any) -> None:
        if kind == "synchronized":
            assert not self.synchronized, "synchronized a second time"
            self.synchronized = True
        elif kind == "restarted":
            self.counters.append(values[0])
        else:
            key = values[0]
            if key in self._unsure and not self._fits(kind, *values):
                before = self._unsure[key]
                if before is None:
                    self.table.pop(key, None)
                else:
                    self.table[key] = before
            self._unsure = {other: value for other, value in self._unsure.items() if other != key}
            assert self._fits(kind, *values), f"{kind} {values} after {self.table.get(key)}"
            self._before = {key: self.table.get(key)}
            if kind == "delete":
                del self.table[key]
            else:
                self.table[key] = values[1]

    def _fits(self, kind: str, key: str, value: int, old: int | None = None) -> bool:
        known = self.table.get(key)
        if kind == "create":
            return known is None
        return known == (old if kind == "modify" else value) and value != old


class World(RuleBasedStateMachine):
    """A publisher, a subscriber and the directory between them.

    Preconditions look only at what the rules decide themselves; what the file system happens to hold is looked at
    inside, or hypothesis would take the race for a flaky test.
    """

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory(prefix="pillar-machine-", dir="/dev/shm")
        self.root = Path(self._temporary.name) / "root"
        self.table = self.root / "run/hello/Greeting"
        self.history = Path(self._temporary.name) / "history"
        self.history.touch()
        self._heard = 0
        self._seq = 0
        self._places = 0
        self._counter_resets = 0
        self._mounted = False
        self._away: Path | None = None
        self.stories = {"plain": Story(durable=False), "durable": Story(durable=True)}
        self.publisher: Actor | None = None
        self.subscriber: Actor | None = None
        self.start_publisher()
        self.start_subscriber()

    # What happens.

    @precondition(lambda self: self._publishing())
    @rule(key=keys)
    def publish(self, key: str) -> None:
        assert self.publisher is not None
        assert self.publisher.ask("publish", key, self._next())

    @precondition(lambda self: self._publishing())
    @rule(key=keys)
    def unpublish(self, key: str) -> None:
        assert self.publisher is not None
        self.publisher.ask("unpublish", key)

    @precondition(lambda self: self._publishing())
    @rule()
    def signal_restarted(self) -> None:
        assert self.publisher is not None
        self.publisher.ask("restarted")

    @precondition(lambda self: self._publishing() and self.subscriber is not None and self.subscriber.stopped)
    @rule()
    def overflow(self) -> None:
        assert self.publisher is not None
        first, self._seq = self._seq + 1, self._seq + QUEUE + 200
        self.publisher.ask("many", QUEUE + 200, 40, first)

    @precondition(lambda self: self.publisher is None)
    @rule()
    def start_publisher(self) -> None:
        self.publisher = Actor("publisher", self.root)

    @precondition(lambda self: self.subscriber is None)
    @rule()
    def start_subscriber(self) -> None:
        for story in self.stories.values():
            story.new_life()
        self.subscriber = Actor("subscriber", self.root, self.history)

    @rule(who=actors)
    def kill_9(self, who: str) -> None:
        actor: Actor | None = getattr(self, who)
        if actor is not None:
            actor.kill()
            setattr(self, who, None)
            self._listen()

    @rule(who=actors)
    def stop(self, who: str) -> None:
        actor: Actor | None = getattr(self, who)
        if actor is not None and not actor.stopped:
            actor.stop()

    @rule(who=actors)
    def go_on(self, who: str) -> None:
        actor: Actor | None = getattr(self, who)
        if actor is not None and actor.stopped:
            actor.go_on()

    @rule(component=st.sampled_from(["Greeting", "hello"]))
    def remove_directory(self, component: str) -> None:
        if self._mounted or self._away is not None:
            return
        self._counter_resets += 1
        shutil.rmtree(self.table if component == "Greeting" else self.table.parent, ignore_errors=True)
        if self.table.is_symlink():
            self.table.unlink()

    @rule()
    def rename_away(self) -> None:
        if self._mounted or self._away is not None or not self.table.exists():
            return
        self._counter_resets += 1
        self._away = self._place()
        self.table.rename(self._away)

    @rule()
    def rename_back(self) -> None:
        if self._away is None:
            return
        self._counter_resets += 1
        if self.table.exists():  # its publisher has made it again
            self.table.rename(self._place())
        self.table.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # made again in this very moment
            self._away.rename(self.table)
        self._away = None

    @rule(fresh=st.booleans())
    def replace_by_a_link(self, fresh: bool) -> None:
        if self._mounted or self._away is not None or not self.table.exists():
            return
        self._counter_resets += 1
        place = self._place()
        self.table.rename(place)
        if fresh:
            place = self._place()
            place.mkdir()
        with contextlib.suppress(FileExistsError):  # made again in this very moment
            self.table.symlink_to(place)

    @rule()
    def mount_over(self) -> None:
        if self._mounted or self._away is not None or not self.table.is_dir() or os.geteuid() != 0:
            return
        self._counter_resets += 1
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.table], capture_output=True, check=False)
        self._mounted = mounted.returncode == 0

    @rule()
    def unmount(self) -> None:
        if not self._mounted:
            return
        self._counter_resets += 1
        subprocess.run(["umount", "-l", self.table], check=True)  # lazily: its publisher has it open
        self._mounted = False

    @precondition(lambda self: self.publisher is None)
    @rule(key=keys, how=st.sampled_from(["echo in two halves", "editor", "cp", "rm"]))
    def write_by_hand(self, key: str, how: str) -> None:
        if not self.table.is_dir():
            return
        path = self.table / f"{key}.json"
        text = json.dumps({"text": "", "seq": self._next()})
        if how == "rm":
            path.unlink(missing_ok=True)
        elif how == "editor":
            swap = self.table / f".{key}.swp"
            swap.write_text(text)
            swap.rename(path)
        elif how == "cp":
            (self.root / "outside").write_text(text)
            subprocess.run(["cp", self.root / "outside", path], check=True)
        else:
            script = 'printf %s "$1" > "$3"; printf %s "$2" >> "$3"'
            subprocess.run(["sh", "-c", script, "sh", text[:9], text[9:], path], check=True)

    @precondition(lambda self: self.publisher is not None)
    @rule(key=keys, how=st.sampled_from(["scribble", "rm"]))
    def meddle_with_a_held_table(self, key: str, how: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if how == "rm":
                (self.table / f"{key}.json").unlink()
            else:
                (self.table / f"{key}.json").write_text("scribble")

    @rule(when=st.sampled_from([0, 2**33]))
    def change_the_clock(self, when: int) -> None:
        """Files as a clock that jumped would have dated them."""
        for path in self.table.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (when, when))

    # What must hold.

    @rule()
    def settle(self) -> None:
        if self.subscriber is None:
            self.start_subscriber()
        assert self.subscriber is not None
        for actor in (self.publisher, self.subscriber):
            if actor is not None and actor.stopped:
                actor.go_on()
        seen: list[Any] = []

        def agree() -> bool:
            assert self.subscriber is not None
            on_disk, bad = self._on_disk()
            followed = self.subscriber.ask("items")
            for table in followed.values():
                for key in bad:  # nobody publishes, and a stranger's scribble stands there: the last good value stays
                    table.pop(key, None)
            seen[:] = [on_disk, on_disk, followed, bad]
            agreed = on_disk == followed["plain"] == followed["durable"]
            if self.publisher is None:
                return agreed
            published, counter = self.publisher.ask("items")
            seen[0] = published
            self._listen()
            told = all(story.synchronized and story.counters[-1:] == [counter] for story in self.stories.values())
            return agreed and published == on_disk and not bad and told

        try:
            wait_for(agree, "publisher, directory and subscriber to agree", SETTLE_S)
        except BaseException:
            print("published, on disk, followed, bad:", *seen, sep="\n  ", file=sys.stderr)
            raise
        self._listen()
        for name, story in self.stories.items():
            assert {key: seq for key, seq in story.table.items() if key not in seen[3]} == seen[1], name
            decreases = sum(later <= earlier for earlier, later in itertools.pairwise(story.counters))
            assert decreases <= self._counter_resets, story.counters

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for actor in (self.publisher, self.subscriber):
                if actor is not None:
                    actor.kill()
            if self._mounted:
                subprocess.run(["umount", "-l", self.table], check=True)
            self._temporary.cleanup()

    def _publishing(self) -> bool:
        return self.publisher is not None and not self.publisher.stopped

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _place(self) -> Path:
        self._places += 1
        return self.root / f"place{self._places}"

    def _on_disk(self) -> tuple[dict[str, int], set[str]]:
        """The records in the directory, and the keys whose files are no records."""
        found: dict[str, int] = {}
        bad = set()
        for path in self.table.glob("[!.]*.json"):
            try:
                found[path.stem] = json.loads(path.read_text())["seq"]
            except (OSError, ValueError):
                bad.add(path.stem)
        return found, bad

    def _listen(self) -> None:
        data = self.history.read_bytes()
        data = data[: data.rfind(b"\n") + 1]  # the subscriber may be writing the next one
        for line in data[self._heard :].splitlines():
            name, *told = json.loads(line)
            self.stories[name].told(*told)
        self._heard = len(data)


@pytest.mark.timeout(3600)
def test_whatever_happens_all_agree_afterwards_and_the_handlers_told_a_legal_story(
    request: pytest.FixtureRequest,
) -> None:
    full = request.config.getoption("--full")
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=300 if full else 10,
            stateful_step_count=60 if full else 40,
            derandomize=not full,
            deadline=None,
            database=None,
            phases=(Phase.generate,),  # a failing run is printed whole; to shrink real processes takes hours
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.normal,
            print_blob=True,
        ),
    )
