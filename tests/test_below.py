"""Looking below a directory in which others work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pillar.below import everything_below


def test_what_goes_away_meanwhile_has_nothing_in_it(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name / "in it").mkdir(parents=True)
        (tmp_path / name / "in it" / "file").touch()
    walk = everything_below(tmp_path)
    found = [next(walk).relative_to(tmp_path)]
    shutil.rmtree(tmp_path / "two")
    (tmp_path / "three").rename(tmp_path / "elsewhere")
    (tmp_path / "three").touch()
    found += [path.relative_to(tmp_path) for path in walk]
    assert sorted(map(str, found)) == ["one", "one/in it", "one/in it/file", "three", "two"]
    assert list(everything_below(tmp_path / "two")) == []


def test_what_cannot_be_looked_at_is_not_taken_for_empty(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="name too long"):
        list(everything_below(tmp_path / ("x" * 300)))
