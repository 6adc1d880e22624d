"""The loop, the key queue and the workers: what an agent's author may rely on."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pillar.keyqueue import KeyQueue
from pillar.loop import Loop
from pillar.workers import Cancel, Cancelled, Outcome, Workers

DEADLINE_S = 30.0  # for broken code only
LOG = logging.getLogger("pillar.test")


@pytest.fixture
def loop():
    loop = Loop()
    gave_up = loop.call_later(DEADLINE_S, lambda: loop.stop(99))  # a test that waits in vain fails, it does not hang
    yield loop
    gave_up.cancel()
    loop.close()


def test_timers_fire_in_the_order_of_their_time_and_never_early(loop):
    fired = []
    timers = []
    for number, delay in enumerate((0.03, 0.01, 0.02)):
        timers.append(loop.call_later(delay, lambda number=number: fired.append((number, time.monotonic()))))
    loop.call_later(0.04, loop.stop)
    assert loop.run() == 0
    # Not by their delays: between two of these calls the process may have had to wait for longer than those differ.
    assert [number for number, _ in fired] == sorted(range(3), key=lambda number: timers[number].due)
    assert all(at >= timers[number].due for number, at in fired)


def test_a_cancelled_timer_does_not_fire_and_thousands_of_them_take_no_room(loop):
    fired = []
    for _ in range(10_000):
        loop.call_later(3600, lambda: fired.append("late")).cancel()
    timer = loop.call_later(0, lambda: fired.append("cancelled"))
    timer.cancel()
    timer.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert fired == []
    assert not timer.active
    assert len(loop._timers) < 200


def test_calls_from_other_threads_run_on_the_loops_thread_in_their_order(loop):
    seen = []

    def other():
        for number in range(1000):
            loop.call_soon_threadsafe(lambda number=number: seen.append((number, threading.get_ident())))
        loop.call_soon_threadsafe(loop.stop)

    threading.Thread(target=other).start()
    assert loop.run() == 0
    assert seen == [(number, threading.get_ident()) for number in range(1000)]


def test_a_call_handed_over_after_the_end_does_no_harm():
    loop = Loop()
    loop.close()
    loop.call_soon_threadsafe(lambda: None)


def test_what_a_soon_call_adds_waits_for_the_next_turn_so_nobody_starves(loop):
    turns = []

    def again():
        turns.append("again")
        if len(turns) == 3:
            loop.call_later(0.02, loop.stop)
        loop.call_soon(again)

    loop.call_soon(again)
    assert loop.run() == 0  # the timer got its turn
    assert len(turns) >= 3


def test_a_signal_ends_the_loop_promptly(loop):
    before = signal.getsignal(signal.SIGTERM)
    try:
        loop.on_signal(signal.SIGTERM, lambda: loop.stop(7))
        sender = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM))
        sender.start()
        assert loop.run() == 7  # nothing else would have woken it before the deadline
        sender.join()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_reader_is_called_while_its_descriptor_is_readable_and_not_after_removal(loop):
    reader, writer = os.pipe()
    got = []

    def read():
        got.append(os.read(reader, 1))
        if len(got) == 2:
            loop.remove_reader(reader)
            os.write(writer, b"x")
            loop.call_later(0.02, loop.stop)

    loop.add_reader(reader, read)
    os.write(writer, b"ab")
    loop.run()
    assert got == [b"a", b"b"]
    loop.remove_reader(reader)
    os.close(reader)
    os.close(writer)


def test_a_callback_that_raises_is_reported_and_the_others_go_on(loop):
    errors = []
    loop.on_error = lambda what, error: errors.append((what, str(error)))

    def broken():
        raise ValueError("no such thing")

    loop.call_soon(broken)
    loop.call_soon(lambda: loop.call_later(0.01, loop.stop))
    assert loop.run() == 0
    assert [error for _, error in errors] == ["no such thing"]
    assert "broken" in errors[0][0]


def test_a_reader_that_raises_rests_instead_of_spinning(loop):
    reader, writer = os.pipe()
    errors = []
    loop.on_error = lambda what, error: errors.append(error)

    def broken():
        if not errors:
            loop.call_later(0.2, loop.stop)
        raise ValueError("always")

    loop.add_reader(reader, broken)
    os.write(writer, b"x")
    assert loop.run() == 0
    assert len(errors) == 1
    loop.remove_reader(reader)
    os.close(reader)
    os.close(writer)


class Backlog:
    """A source that always has more to do, as a table with a hundred thousand keys has while it loads."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        self.slices = 0

    def fileno(self):
        return self.reader

    def process(self, budget_s):
        self.slices += 1
        return True

    def timeout(self):
        return None

    def close(self):
        os.close(self.reader)
        os.close(self.writer)


def test_timers_and_heartbeat_get_their_turn_while_a_source_loads(loop):
    backlog = Backlog()
    beats = []

    def beat():
        beats.append(backlog.slices)
        if len(set(beats)) == 3:  # the source went on between them
            loop.call_later(0.01, loop.stop)

    loop.set_source(backlog)
    loop.heartbeat(0.01, beat)
    assert loop.run() == 0, "a heartbeat or the timer never got its turn"
    backlog.close()


def test_a_sources_deadline_is_kept_although_its_descriptor_is_silent(loop):
    class Deadline(Backlog):
        due = time.monotonic() + 0.05

        def process(self, budget_s):
            self.slices += 1
            if time.monotonic() >= self.due:
                loop.stop(5)
            return False

        def timeout(self):
            return max(0.0, self.due - time.monotonic())

    source = Deadline()
    loop.set_source(source)
    assert loop.run() == 5
    assert source.slices <= 3  # the first look, then only the deadline
    source.close()


def test_a_callback_over_its_limit_is_reported_while_it_still_runs(loop):
    reported = threading.Event()
    reports = []

    def slow(what, seconds, where):
        reports.append((what, seconds, where))
        reported.set()

    loop.handler_limit_s = 0.05
    loop.on_slow = slow

    def stuck_handler():
        assert reported.wait(DEADLINE_S)  # it ends only because it was reported
        loop.stop()

    # Long enough for the watching thread to have gone to sleep: it must wake up for this callback.
    loop.call_later(0.4, stuck_handler)
    assert loop.run() == 0
    what, seconds, where = reports[0]
    assert "stuck_handler" in what
    assert seconds >= 0.05
    assert "stuck_handler" in where


# ---- KeyQueue


def test_a_key_marked_often_is_stepped_once_and_marked_during_its_step_once_more(loop):
    steps = []

    def step(key):
        steps.append(key)
        if steps == ["a"]:
            queue.mark("a")
            queue.mark("a")

        if len(steps) == 3:
            loop.call_later(0.05, loop.stop)  # time for a fourth, if there were one

    queue = KeyQueue(loop, step, LOG)
    for key in ("a", "b", "a", "a"):
        queue.mark(key)
    assert loop.run() == 0
    assert steps == ["a", "b", "a"]


def test_a_step_that_raises_is_logged_and_tried_again_while_the_others_go_on(loop, caplog, monkeypatch):
    monkeypatch.setattr("pillar.keyqueue.FIRST_RETRY_S", 0.02)
    steps = []

    def step(key):
        steps.append(key)
        if key == "bad" and steps.count("bad") < 3:
            raise RuntimeError("disk on fire")
        if steps.count("bad") == 3:
            loop.stop()

    queue = KeyQueue(loop, step, LOG)
    queue.mark("bad")
    queue.mark("good")
    assert loop.run() == 0
    assert steps == ["bad", "good", "bad", "bad"]
    assert "bad: step failed" in caplog.text
    assert "disk on fire" in caplog.text


def test_a_burst_of_marks_does_not_put_the_next_try_off(loop, monkeypatch):
    monkeypatch.setattr("pillar.keyqueue.FIRST_RETRY_S", 0.2)
    tries = []

    def step(key):
        tries.append(time.monotonic())
        if len(tries) <= 11:  # the last of them in its time
            raise OSError("no space")
        loop.stop()

    def burst():
        if len(tries) < 10:
            queue.mark("k")
            loop.call_soon(burst)

    queue = KeyQueue(loop, step, LOG)
    burst()
    loop.call_later(30.0, lambda: loop.stop(1))
    assert loop.run() == 0, "ten failures at once would put the second try off by 200 s"
    assert len(tries) == 12


def test_marked_for_later_the_earliest_time_counts(loop):
    steps = []
    queue = KeyQueue(loop, lambda key: (steps.append(key), loop.stop()), LOG)
    queue.mark_later("k", 3600)
    queue.mark_later("k", 0.02)
    queue.mark_later("k", 1800)
    assert loop.run() == 0
    assert steps == ["k"]


def test_a_hundred_thousand_marked_keys_let_a_timer_through(loop):
    queue = KeyQueue(loop, lambda key: None, LOG)
    for number in range(100_000):
        queue.mark(str(number))
    left = []
    loop.call_later(0.0, lambda: (left.append(len(queue)), loop.stop()))
    assert loop.run() == 0
    assert left[0] > 0


# ---- Workers


def test_results_and_errors_come_back_on_the_main_thread(loop):
    workers = Workers(loop, 2)
    outcomes: dict[str, Outcome] = {}

    def done(key):
        def keep(outcome):
            assert threading.get_ident() == main
            outcomes[key] = outcome
            if len(outcomes) == 2:
                loop.stop()

        return keep

    def fails(cancel: Cancel):
        raise OSError("no route")

    main = threading.get_ident()
    assert workers.submit("good", lambda cancel: threading.get_ident(), done("good"))
    assert workers.submit("bad", fails, done("bad"))
    assert loop.run() == 0
    assert outcomes["good"].ok
    assert outcomes["good"].value != main
    assert isinstance(outcomes["bad"].error, OSError)
    with pytest.raises(OSError, match="no route"):
        _ = outcomes["bad"].value
    assert workers.keys() == set()


def test_a_key_has_one_piece_of_work_at_a_time_and_is_free_in_done(loop):
    workers = Workers(loop, 4)
    go = threading.Event()
    again = []

    def first_done(outcome):
        again.append(workers.submit("k", lambda cancel: None, lambda outcome: loop.stop()))

    assert workers.submit("k", lambda cancel: go.wait(DEADLINE_S), first_done)
    assert not workers.submit("k", lambda cancel: None, lambda outcome: None)
    assert workers.busy("k")
    go.set()
    assert loop.run() == 0
    assert again == [True]
    assert not workers.busy("k")


def test_at_most_the_limit_runs_at_once_and_an_idle_pool_has_no_thread(loop):
    workers = Workers(loop, 2)
    lock = threading.Lock()
    both = threading.Barrier(2, timeout=DEADLINE_S)
    running = [0, 0]  # now, most
    done = []

    def work(cancel):
        with lock:
            running[0] += 1
            running[1] = max(running)
        both.wait()  # it ends only beside another one
        with lock:
            running[0] -= 1

    for number in range(10):
        workers.submit(str(number), work, lambda outcome: (done.append(outcome), len(done) == 10 and loop.stop()))
    loop.run()
    assert running == [0, 2]
    assert len(done) == 10
    until = time.monotonic() + DEADLINE_S
    while any(thread.name.startswith("work ") for thread in threading.enumerate()):
        assert time.monotonic() < until


def test_work_that_gets_no_thread_ends_as_an_error_and_its_key_is_free_again():
    code = """
import resource, threading
from pillar.loop import Loop
from pillar.workers import Workers
loop = Loop()
workers = Workers(loop, 1)
seen = []

def done(outcome):
    seen.append(outcome)
    if len(seen) == 2:
        loop.stop()
        return
    assert "thread" in str(outcome.error), outcome
    threading.stack_size(0)
    assert workers.submit("k", lambda cancel: 7, done)

room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
threading.stack_size(1 << 30)
assert workers.submit("k", lambda cancel: 7, done)
loop.call_later(30, loop.stop)
loop.run()
assert [outcome.ok for outcome in seen] == [False, True], seen
assert seen[1].value == 7
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_cancelled_work_ends_as_cancelled_whether_it_runs_or_waits(loop):
    workers = Workers(loop, 1)
    outcomes = {}
    started = threading.Event()

    def runs(cancel: Cancel):
        started.set()
        assert cancel.wait(DEADLINE_S)
        cancel.raise_if_set()

    def keep(key):
        return lambda outcome: (outcomes.__setitem__(key, outcome), len(outcomes) == 2 and loop.stop())

    workers.submit("runs", runs, keep("runs"))
    workers.submit("waits", lambda cancel: pytest.fail("must never start"), keep("waits"))
    assert started.wait(DEADLINE_S)
    workers.cancel("waits")
    workers.cancel("runs")
    workers.cancel("unknown")
    assert loop.run() == 0
    assert list(outcomes) == ["waits", "runs"]  # what waited did not have to wait for its turn
    assert all(outcome.cancelled and not outcome.ok for outcome in outcomes.values())
    with pytest.raises(Cancelled):
        _ = outcomes["runs"].value


def test_a_signal_to_a_child_that_a_library_forked_is_the_childs_alone():
    code = """
import os, signal, threading, time
from pillar.loop import Loop
loop = Loop()
loop.on_signal(signal.SIGTERM, lambda: loop.stop(7))
def fork():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"!")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    loop.call_soon_threadsafe(lambda: loop.call_later(0.1, loop.stop))
threading.Thread(target=fork).start()
assert loop.run() == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
