"""What a campaign has done so far, one line of JSON a case, so that it can be interrupted and go on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

import pillar
from pillar.crashtest.cases import Case
from pillar.crashtest.runner import Result


class Journal:
    """A file that is only ever appended to. Results of another version of the code are not taken over."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version = version()

    def read(self) -> dict[str, Result]:
        """Results by the name of their case. A line that was cut is left out."""
        found = {}
        for line in self._path.read_text().splitlines() if self._path is not None and self._path.exists() else ():
            try:
                entry = json.loads(line)
                if entry["version"] == self._version:
                    case = Case.parse(entry["case"])
                    found[str(case)] = Result(
                        case,
                        entry["problems"],
                        entry["fired"],
                        entry["seconds"],
                        entry.get("again"),
                        entry.get("armed", 1),
                    )
            except (ValueError, KeyError):
                continue
        return found

    def add(self, result: Result) -> None:
        """Note a result; it is in the file when this returns."""
        if self._path is None:
            return
        entry = {
            "version": self._version,
            "case": str(result.case),
            "kind": result.kind,
            "problems": result.problems,
            "fired": result.fired,
            "seconds": round(result.seconds, 2),
            "again": result.again,
            "armed": result.armed,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


# Rooms that no agent runs.
_NOT_TESTED: Final = frozenset({"bench", "command", "crashpoints", "crashtest", "demo", "invariants", "killmatrix"})


def version() -> str:
    """Of the code under test: all sources of the package that agents run."""
    digest = hashlib.sha256()
    top = Path(pillar.__file__).parent
    for room in sorted(path for path in top.iterdir() if path.is_dir() and path.name not in _NOT_TESTED):
        for path in sorted(room.resolve().rglob("*.py")):
            digest.update(path.read_bytes())
    for path in sorted(top.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
