"""The matrix for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from pillar.killmatrix.matrix import Matrix, Result
from pillar.killmatrix.story import story
from pillar.terminal import Palette, printable, table

_COLOURS: Final = {"same": "green", "differs": "bold red", "no end": "bold red", "not reached": "yellow"}
_MOST: Final = 5  # differences shown for one failure
_AROUND: Final = 14  # moments shown before and after a kill
_CUT: Final = 90  # characters of what was written


def as_text(matrix: Matrix, palette: Palette) -> str:
    """The matrix: one line a kill, then each failure with its time line."""
    rows = []
    for number, result in enumerate(matrix.results, 1):
        last = result.kills[-1]
        rows.append(
            (
                str(number),
                (result.verdict, _COLOURS[result.verdict]),
                " then ".join(f"{point.agent} {point.call}" for point in result.kills),
                last.path,
                str(last.occurrence),
            )
        )
    lines = table(rows, palette, header=("#", "END", "KILLED BEFORE", "PATH", "TIME"), right=(0, 4))
    for group in matrix.groups():
        lines += ["", *_failure(group, matrix, palette)]
    return "\n".join([*lines, "", summary(matrix, palette)])


def summary(matrix: Matrix, palette: Palette) -> str:
    """One line: how many kills, how many of them did harm."""
    failures = len(matrix.failures)
    unreached = sum(result.verdict == "not reached" for result in matrix.results)
    points = "point" if len(matrix.results) == 1 else "points"
    said = f"killed at {len(matrix.results) - unreached} {points}: "
    if failures:
        said += palette("bold red", f"{failures} end otherwise")
    else:
        said += palette.green("every end is as it should be")
    return said + (f"; {unreached} not reached" if unreached else "")


def _failure(group: list[Result], matrix: Matrix, palette: Palette) -> Iterator[str]:
    """What ends alike, with the time line of the first of them."""
    result = group[0]
    where = ", then ".join(map(str, result.kills))
    yield palette("bold red", f"{matrix.number(result)}. killed before {printable(where)}: {result.verdict}")
    if len(group) > 1:
        yield f"   so do {', '.join(str(matrix.number(other)) for other in group[1:])}"
    for line in result.report.trouble.splitlines():
        yield f"   {printable(line)}"
    for difference in result.differences[:_MOST]:
        place = f"{difference.path} {difference.field}" if difference.field else difference.path
        yield f"   {palette.bold(printable(place))}"
        yield f"      expected  {palette.green(printable(difference.expected))}"
        yield f"      found     {palette.red(printable(difference.found))}"
    if len(result.differences) > _MOST:
        yield f"   and {len(result.differences) - _MOST} differences more"
    yield from timeline(result, palette)
    yield palette.dim(f"   again: {printable(matrix.replay_of(result))}")


def timeline(result: Result, palette: Palette) -> Iterator[str]:
    """What each process wrote when, around the kills."""
    moments = story(result.report)
    kills = [position for position, moment in enumerate(moments) if moment.kind == "killed"]
    near = {p for kill in kills for p in range(kill - _AROUND, kill + _AROUND + 1)} or set(range(2 * _AROUND))
    rows = []
    left_out = False
    for position, moment in enumerate(moments):
        if position not in near and moment.kind not in ("started", "ended", "input"):
            left_out = True
            continue
        if left_out:
            rows.append(("", "", ("...", "dim")))
            left_out = False
        colour = {"killed": "bold red", "call": "", "look": "dim"}.get(moment.kind, "cyan")
        text = moment.text
        if moment.data:
            data = moment.data if len(moment.data) <= _CUT else f"{moment.data[:_CUT]}..."
            text += f"  {data!r}"
        rows.append((f"{moment.at_ms:.1f} ms", moment.lane, (text, colour)))
    for line in table(rows, palette, right=(0,)):
        yield f"   {line}"


def as_json(matrix: Matrix) -> str:
    """The matrix for programs: one object, in one line."""
    return json.dumps(
        {
            "agents": {name: list(command) for name, command in matrix.settings.agents.items()},
            "points": len(matrix.results),
            "failures": len(matrix.failures),
            "results": [_result(result, matrix) for result in matrix.results],
        },
        separators=(",", ":"),
    )


def _result(result: Result, matrix: Matrix) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kills": [str(point) for point in result.kills],
        "end": result.verdict,
        "seconds": round(result.report.seconds, 3),
    }
    if result.is_failure:
        found |= {
            "differences": [difference._asdict() for difference in result.differences],
            "trouble": result.report.trouble,
            "replay": matrix.replay_of(result),
            "timeline": [moment._asdict() for moment in story(result.report)],
        }
    return found
