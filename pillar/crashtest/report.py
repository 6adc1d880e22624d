"""The figures of a campaign, for people, programs and docs/reliability.md."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pillar import terminal
from pillar.crashtest.cases import Case
from pillar.crashtest.journal import version
from pillar.crashtest.runner import Record, Result

_BEGIN: Final = "<!-- {}: written by `pillar crashtest --report` -->"
_END: Final = "<!-- end of {} -->"


def figures(recorded: Record, wanted: Sequence[Case], results: Iterable[Result], seconds: float) -> dict[str, object]:
    """What was run and what became of it, in the order in which it is shown."""
    results = list(results)
    names = set(map(str, wanted))
    done = sum(str(result.case) in names for result in results)  # a common run that failed as a whole is no case
    runs = round(sum(1 / result.armed for result in results))
    most = max((result.armed for result in results), default=1)
    kinds = Counter(result.kind for result in results)
    suites = Counter(result.case.suite for result in results)
    agents = Counter(result.case.faults[0].point.agent for result in results)
    return {
        "cases": done if done == len(wanted) else f"{done} of {len(wanted)}, a spread sample",
        **({"runs": f"{runs}, in which up to {most} of them were armed"} if most > 1 else {}),
        **{f"  {suite}": count for suite, count in suites.items()},
        **{kind: kinds[kind] for kind in ("ok", "not reached")},
        **{kind: kinds[kind] for kind in ("lost", "duplicated", "stuck", "left over", "died", "other")},
        "failed once only": sum(result.again is False for result in results),
        "points by agent": ", ".join(f"{agent} {count}" for agent, count in sorted(agents.items())),
        "points not steady": sum(recorded.unsteady.values()),
        **({"undisturbed flow": f"{recorded.seconds:.1f} s"} if recorded.seconds else {}),
        "time of all cases": terminal.age(sum(result.seconds for result in results)),
        "time": terminal.age(seconds),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "version": version(),
    }


def replay(case: Case) -> str:
    """The command that runs this case again."""
    return f"pillar crashtest --at {shlex.quote(str(case))}"


def write_report(path: Path, mode: str, summary: dict[str, object]) -> None:
    """Put the figures of this mode between their two marks, or with them at the end of the file. Raises OSError."""
    text = path.read_text() if path.exists() else ""
    begin, end = _BEGIN.format(mode), _END.format(mode)
    if begin not in text or end not in text:
        text = f"{text}\n{begin}\n{end}\n".lstrip("\n")
    rows = [f"| {name.strip()} | {value} |" for name, value in summary.items()]
    table = "\n".join(["| what | figure |", "|---|---|", *rows])
    before, _, rest = text.partition(begin)
    path.write_text(f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}")
