"""What the agent is given: a directory of tables, laid into the root in one or several steps.

    DIR/<agent>/<Topic>/<key>.json            tables, to stand in <root>/run
    DIR/{run,persist,config}/...              or the tree as it stands below the root
    DIR/1/..., DIR/2-name/..., ...            or several of either, one after another: each is laid when the agent rests

A step says what each table of it holds from then on: a key that an earlier step had and this one has not is deleted.
Files appear by rename, one by one in the order of their names.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pillar.killmatrix.trees import read_tree

_STEP: Final = re.compile(r"(\d+)([-_ ].*)?")
_TOPS: Final = ("run", "persist", "config")

Step = dict[str, bytes]  # path below the root -> content


class BadInput(Exception):
    """The directory of inputs cannot be used; the text says why."""


def read_steps(directory: Path | None) -> list[Step]:
    """The steps of a directory, in order; one without files when there is none. Raises BadInput."""
    if directory is None:
        return [{}]
    if not directory.is_dir():
        raise BadInput(f"{directory} is no directory: expected tables, as <agent>/<Topic>/<key>.json")
    names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    numbered = [name for name in names if _STEP.fullmatch(name)]
    if not numbered:
        return [_step(directory)]
    if numbered != names:
        raise BadInput(f"{directory} holds steps ({numbered[0]}) and others ({(set(names) - set(numbered)).pop()})")
    return [_step(directory / name) for name in sorted(numbered, key=lambda name: int(_STEP.fullmatch(name)[1]))]  # type: ignore[index]


def read_tables(directory: Path) -> Step:
    """Expected tables, laid out like one step. Raises BadInput."""
    if not directory.is_dir():
        raise BadInput(f"{directory} is no directory: expected tables, as <agent>/<Topic>/<key>.json")
    return _step(directory)


def _step(directory: Path) -> Step:
    files = read_tree(directory)
    whole = any((directory / top).is_dir() for top in _TOPS)
    return files if whole else {f"run/{path}": content for path, content in files.items()}


def lay(root: Path, step: Step, before: Step) -> None:
    """Make the tables of this step hold what it says."""
    for path, content in sorted(step.items()):
        target = root / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name[:200]}.new")
        staged.write_bytes(content)
        os.replace(staged, target)
    tables = {path.rpartition("/")[0] for path in step}
    for path in before:
        if path not in step and path.rpartition("/")[0] in tables:
            (root / path).unlink(missing_ok=True)


def gone(step: Step, before: Step) -> list[str]:
    """What `lay` deletes."""
    tables = {path.rpartition("/")[0] for path in step}
    return sorted(path for path in before if path not in step and path.rpartition("/")[0] in tables)


def merged(step: Step, before: Step) -> Step:
    """What stands there of our inputs after this step."""
    dropped = gone(step, before)
    return {path: content for path, content in before.items() if path not in dropped} | step
