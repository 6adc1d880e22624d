"""The matrix as one page of HTML that needs nothing else: no script, no font, no address.

Above, the undisturbed run with a dot for every kill: each row is a file, time goes to the right (one column a step),
and the colour of a dot is how it ended. Below, for each failure: what differs, and the time line as a picture and a
table. Everything that comes from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Final

from pillar.killmatrix.matrix import Matrix, Result
from pillar.killmatrix.story import INPUTS, Moment, story

_STEP: Final = 22  # pixels between two kills
_ROW: Final = 24  # pixels between two rows
_LEFT: Final = 360  # pixels for the names of the rows
_WIDE: Final = 1000  # pixels of a time line
_CUT: Final = 240  # characters of what was written
_END: Final = {"same": "good", "differs": "bad", "no end": "bad", "not reached": "unknown"}
_IN_WORDS: Final = {
    "same": "ended as it should",
    "differs": "ended otherwise",
    "no end": "came to no end",
    "not reached": "was not reached",
}

_STYLE: Final = """
:root { --back: #fff; --text: #1d2129; --dim: #667085; --line: #e3e6eb; --good: #1a8f4c; --bad: #d12d2d;
        --unknown: #c58a00; --panel: #f7f8fa; --call: #3563c9; --input: #7a46b8; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15181d; --text: #e4e7ec; --dim: #98a2b3; --line: #2c323b; --good: #3fbf77; --bad: #ff6b6b;
          --unknown: #e0b040; --panel: #1c2027; --call: #7ea2f0; --input: #b48be8; } }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--back); color: var(--text); max-width: 1400px;
       margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin-top: 2.2em; } h3 { font-size: 1em; }
code, td.at, td.what, td.lane, svg text, .path { font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
.sum b.bad { color: var(--bad); } .sum b.good { color: var(--good); } .dim { color: var(--dim); }
svg { display: block; } svg text { fill: var(--text); } svg .dim { fill: var(--dim); }
svg .grid { stroke: var(--line); } svg .good { fill: var(--good); } svg .bad { fill: var(--bad); }
svg .unknown { fill: var(--unknown); } svg .call { fill: var(--call); } svg .look { fill: var(--dim); }
svg .input { fill: var(--input); } svg .life { stroke: var(--call); stroke-width: 2; opacity: .45; }
svg .touch { fill: var(--unknown); } svg .kill { stroke: var(--bad); stroke-width: 2; }
svg a circle:hover { stroke: var(--text); stroke-width: 2; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: 10px;
          background: var(--panel); }
section { border-left: 3px solid var(--bad); padding-left: 1.2em; margin: 2.5em 0; }
table { border-collapse: collapse; width: 100%; margin: .6em 0; }
td, th { text-align: left; vertical-align: top; padding: 2px 12px 2px 0; border-bottom: 1px solid var(--line); }
td.at { text-align: right; white-space: nowrap; color: var(--dim); font-variant-numeric: tabular-nums; }
td.lane { white-space: nowrap; } td.what { overflow-wrap: anywhere; }
tr.killed td { background: color-mix(in srgb, var(--bad) 16%, transparent); font-weight: 600; }
tr.input td.what, tr.started td.what, tr.ended td.what { color: var(--input); }
.data { color: var(--dim); } .expected { color: var(--good); } .found { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); padding: .6em; border-radius: 6px; }
"""


def as_html(matrix: Matrix) -> str:
    """The whole page."""
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Kill matrix</title>',
            '<meta name="viewport" content="width=device-width">',
            f"<style>{_STYLE}</style></head><body>\n",
            *_head(matrix),
            *_overview(matrix),
            *(part for group in matrix.groups() for part in _failure(group, matrix)),
            "</body></html>\n",
        ]
    )


def _head(matrix: Matrix) -> Iterator[str]:
    unreached = sum(result.verdict == "not reached" for result in matrix.results)
    failures = len(matrix.failures)
    yield "<h1>Kill matrix</h1>\n"
    for name, command in matrix.settings.agents.items():
        yield f'<div class="dim">{escape(name)}: <code>{escape(" ".join(command))}</code></div>\n'
    verdict = (
        f'<b class="bad">{failures} ended otherwise</b>'
        if failures
        else '<b class="good">every end is as it should be</b>'
    )
    yield f'<p class="sum">Killed at {len(matrix.results) - unreached} points: {verdict}'
    yield f"; {unreached} not reached" if unreached else ""
    yield ".</p>\n"


def _overview(matrix: Matrix) -> Iterator[str]:
    """A row for each file, a column for each kill in the order of the undisturbed run."""
    rows = list(dict.fromkeys(result.kills[-1].path for result in matrix.results))
    height, width = (len(rows) + 1) * _ROW, _LEFT + (len(matrix.results) + 1) * _STEP
    yield "<h2>The undisturbed run: each dot is a step, and the agent was killed right before it</h2>\n"
    yield '<p class="dim">Green: it ended as it should. Red: it did not; follow the dot. Amber: not reached.</p>\n'
    yield f'<div class="scroll"><svg width="{width}" height="{height}">'
    for number, path in enumerate(rows):
        y = (number + 0.5) * _ROW
        yield f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{width}" y2="{y}"/>'
        yield f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(_short(path))}</text>'
    leaders = {id(other): group[0] for group in matrix.groups() for other in group}
    for number, result in enumerate(matrix.results, 1):
        x, y = _LEFT + number * _STEP, (rows.index(result.kills[-1].path) + 0.5) * _ROW
        title = f"{number}. {', then '.join(map(str, result.kills))}: {_IN_WORDS[result.verdict]}"
        radius = 7 if result.is_failure else 5
        dot = f'<circle class="{_END[result.verdict]}" cx="{x}" cy="{y}" r="{radius}">'
        dot += f"<title>{escape(title)}</title></circle>"
        leader = leaders.get(id(result))
        yield f'<a href="#failure-{matrix.number(leader)}">{dot}</a>' if leader is not None else dot
        if number % 5 == 0 or number == 1:
            yield f'<text class="dim" x="{x}" y="{height - 6}" text-anchor="middle">{number}</text>'
    yield "</svg></div>\n"


def _failure(group: Sequence[Result], matrix: Matrix) -> Iterator[str]:
    result = group[0]
    number = matrix.number(result)
    where = ", then ".join(map(str, result.kills))
    yield f'<section id="failure-{number}"><h2>{number}. Killed right before <code>{escape(where)}</code></h2>\n'
    if len(group) > 1:
        others = ", ".join(str(matrix.number(other)) for other in group[1:])
        yield f'<p class="dim">Kills {others} end alike.</p>\n'
    if result.report.trouble:
        yield f"<pre>{escape(result.report.trouble)}</pre>\n"
    if result.differences:
        yield "<table><tr><th>what differs</th><th>expected</th><th>found</th></tr>\n"
        for difference in result.differences:
            place = f"{difference.path} {difference.field}".strip()
            yield f'<tr><td class="what">{escape(place)}</td>'
            yield f'<td class="what expected">{escape(difference.expected)}</td>'
            yield f'<td class="what found">{escape(difference.found)}</td></tr>\n'
        yield "</table>\n"
    moments = story(result.report)
    touches = {moment for moment in moments if _touches(moment, result)}
    yield from _picture(moments, touches)
    if touches:
        yield '<p class="dim">What came to the files that differ (amber), and the kill:</p>\n<table>\n'
        yield from _steps([m for m in moments if m in touches or m.kind in ("killed", "input")])
        yield "</table>\n"
    yield "<details><summary>Every step, with what was written</summary>\n<table>\n"
    yield from _steps(moments)
    yield "</table></details>\n"
    yield f'<p class="dim">Again: <code>{escape(matrix.replay_of(result))}</code></p></section>\n'


def _touches(moment: Moment, result: Result) -> bool:
    return moment.kind == "call" and any(moment.path == f"/{difference.path}" for difference in result.differences)


def _picture(moments: Sequence[Moment], touches: Collection[Moment]) -> Iterator[str]:
    """Lanes of the processes; long waits in between are cut out, so that every step is to be seen."""
    lanes = list(dict.fromkeys(["inputs", *(moment.lane for moment in moments)]))
    if not any(moment.lane == INPUTS for moment in moments):
        lanes.remove(INPUTS)
    left, bottom = 130, len(lanes) * _ROW + 14
    places = _places(moments, left + 20, _WIDE - 20)
    yield f'<div class="scroll"><svg width="{_WIDE}" height="{bottom + 22}">'
    for number, lane in enumerate(lanes):
        y = (number + 0.5) * _ROW
        mine = [x for x, moment in zip(places, moments, strict=True) if moment.lane == lane]
        yield f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(lane)}</text>'
        ended = any(moment.lane == lane and moment.kind in ("killed", "ended") for moment in moments)
        end = max(mine) if ended or lane == INPUTS else _WIDE - 10
        if lane != INPUTS and mine:
            yield f'<line class="life" x1="{min(mine)}" y1="{y}" x2="{end}" y2="{y}"/>'
    shown = -100.0
    for x, moment in zip(places, moments, strict=True):
        y = (lanes.index(moment.lane) + 0.5) * _ROW
        title = f"<title>{escape(f'{moment.at_ms:.1f} ms {moment.text}')} {escape(_cut(moment.data))}</title>"
        if moment.kind == "killed":
            yield f'<line class="kill" x1="{x}" y1="0" x2="{x}" y2="{bottom - 8}"/>'
            yield f'<circle class="bad" cx="{x}" cy="{y}" r="7">{title}</circle>'
        elif moment.kind in ("input", "started", "ended"):
            yield f'<rect class="input" x="{x - 4}" y="{y - 6}" width="8" height="12">{title}</rect>'
        else:
            kind, radius = ("touch", 6) if moment in touches else (moment.kind, 4)
            yield f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}">{title}</circle>'
        if shown + 90 < x < _WIDE - 40:
            yield f'<text class="dim" x="{x}" y="{bottom + 12}" text-anchor="middle">{moment.at_ms:.0f} ms</text>'
            shown = x
    yield "</svg></div>\n"


def _places(moments: Sequence[Moment], first: float, last: float) -> list[float]:
    """Where each moment stands: in order, further apart the longer the time between, but not in proportion."""
    gaps = [0.0]
    for before, after in pairwise(moments):
        gaps.append(1.0 + min(6.0, ((after.at_ms - before.at_ms) / 8.0) ** 0.5))
    whole = sum(gaps) or 1.0
    places, at = [], 0.0
    for gap in gaps:
        at += gap
        places.append(round(first + (last - first) * at / whole, 1))
    return places


def _steps(moments: Sequence[Moment]) -> Iterator[str]:
    for moment in moments:
        yield f'<tr class="{moment.kind}"><td class="at">{moment.at_ms:.1f} ms</td>'
        yield f'<td class="lane">{escape(moment.lane)}</td><td class="what">{escape(moment.text)}'
        if moment.data:
            yield f' <span class="data">{escape(_cut(moment.data))}</span>'
        yield "</td></tr>\n"


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else f"{text[:_CUT]}... ({len(text)} characters)"


def _short(path: str, limit: int = 44) -> str:
    return path if len(path) <= limit else f"...{path[-limit + 3 :]}"
