"""What must hold of a tree of tables and files, whatever was killed: pure checks over one look at it.

    look(root)              -> Tree        everything below the root, read once
    judge(tree)             -> [Problem]   what does not fit, in words; pure
    examine(root, settle_s) -> Verdict     both, again and again while something lives, until what is left stays

On a live tree a moment between two writes is no fault: only what every look of `settle_s` seconds showed is told.
On a tree where nothing runs, what the next start of an agent puts right by itself is a note, unless the tree is said
to have been at rest (`settled`) when its agents ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from pillar.invariants.counts import counts
from pillar.invariants.facts import File, Problem, Tree
from pillar.invariants.look import look
from pillar.invariants.pairs import pairs
from pillar.invariants.progress import domains, progress
from pillar.invariants.references import references
from pillar.invariants.remains import counters, remains, unreadable
from pillar.invariants.space import space

__all__ = ["File", "Problem", "Tree", "Verdict", "examine", "judge", "look"]

SETTLE_S: Final = 2.0
_AGAIN_S: Final = 0.2
_PATIENCE: Final = 10  # times settle_s: a tree that never rests is judged by what stayed

_CHECKS: Final = (unreadable, references, pairs, counts, progress, domains, space, counters, remains)


class Verdict(NamedTuple):
    """What is left after all looks."""

    problems: list[Problem]
    live: bool  # some agent runs
    looks: int
    tree: Tree  # the last look

    @property
    def wrong(self) -> list[Problem]:
        """Without the notes."""
        return [problem for problem in self.problems if problem.level == "wrong"]


def judge(tree: Tree) -> list[Problem]:
    """Every problem of one look, each once, what is wrong first. Pure."""
    found = dict.fromkeys(problem for check in _CHECKS for problem in check(tree))
    return sorted(found, key=lambda problem: problem.level != "wrong")


def examine(
    root: str | Path,
    settle_s: float = SETTLE_S,
    *,
    settled: bool = False,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> Verdict:
    """Look until nothing is wrong, or what is wrong stayed for `settle_s`. Raises OSError for no such root."""
    tree = look(root)
    looks, begin = 1, clock()
    since = dict.fromkeys(judge(tree), begin)
    while tree.live and since:
        now = clock()
        if all(now - first >= settle_s for first in since.values()) or now - begin > settle_s * _PATIENCE:
            break
        wait(_AGAIN_S)
        tree = look(root)
        looks += 1
        now = clock()
        since = {problem: since.get(problem, now) for problem in judge(tree)}
    if not tree.live:
        return Verdict([_at_rest(problem) if not settled else problem for problem in since], False, looks, tree)
    now = clock()
    stayed = [problem for problem, first in since.items() if now - first >= settle_s]
    return Verdict(stayed, True, looks, tree)


def _at_rest(problem: Problem) -> Problem:
    """What an agent puts right at its next start is nothing to worry about on a tree where none runs."""
    return problem._replace(level="note") if problem.agent else problem
