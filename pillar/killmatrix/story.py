"""The time line of one run, told the same way as text and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from pillar.crashpoints import Call
from pillar.crashpoints.points import LOOKS
from pillar.killmatrix.run import Report

INPUTS: Final = "inputs"  # the lane of what is given to the agents


class Moment(NamedTuple):
    """One line of the time line."""

    at_ms: float  # since the run began
    lane: str  # `agent 1` is an agent's first process, `agent 2` the one after its first death
    kind: str  # call, look, started, killed, ended, input
    text: str
    data: str = ""  # what was written
    call: str = ""
    path: str = ""


def story(report: Report, *, looks: bool = False) -> list[Moment]:
    """Everything that happened in a run, in order."""
    return sorted([*_events(report), *_calls(report, looks)], key=lambda moment: moment.at_ms)


def lanes(report: Report) -> dict[int, str]:
    """pid -> lane, in the order of their starts."""
    lives: dict[str, int] = {}
    found = {}
    for event in report.events:
        if event.what == "started":
            lives[event.agent] = lives.get(event.agent, 0) + 1
            found[event.pid] = f"{event.agent} {lives[event.agent]}"
    return found


def _events(report: Report) -> Iterator[Moment]:
    names = lanes(report)
    for event in report.events:
        at_ms = (event.time_ns - report.begin_ns) / 1e6
        if event.what.startswith("input"):
            yield Moment(at_ms, INPUTS, "input", f"{event.what} is laid")
        elif event.what == "started":
            yield Moment(at_ms, names[event.pid], "started", f"started as process {event.pid}")
        elif event.what == "killed":
            continue  # the call at which it happened tells more exactly
        else:
            yield Moment(at_ms, names[event.pid], "ended", event.what)


def _calls(report: Report, looks: bool) -> Iterator[Moment]:
    names = lanes(report)
    for call in report.calls:
        is_look = call.call in LOOKS
        if call.result != "K" and ((is_look and not looks) or call.result == "-"):
            continue  # what failed changed nothing
        at_ms = (call.time_ns - report.begin_ns) / 1e6
        kind = "killed" if call.result == "K" else "look" if is_look else "call"
        lane = names.get(call.pid, f"{call.agent} (process {call.pid})")
        text = f"killed right before {described(call)}" if kind == "killed" else described(call)
        yield Moment(at_ms, lane, kind, text, _text(call.data), call.call, call.path)


def described(call: Call) -> str:
    """`rename /run/a/.staging/record -> /run/a/T/k.json`, with how it failed."""
    source = f"{call.other} -> " if call.other and call.call not in ("write", "truncate") else ""
    failed = {"-": " (failed)", "E": " (made to fail)", "?": " (never came back)"}.get(call.result, "")
    return f"{call.call} {source}{call.path}{failed}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
