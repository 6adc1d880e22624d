"""The pytest fixture `pillar_killmatrix`: kill an agent at every step, as a test.

    def test_my_agent(pillar_killmatrix):
        pillar_killmatrix(["./my_agent.py", "{root}"], input="tests/orders")

Registered with pytest wherever Pillar is installed; nothing else of it is loaded before the fixture is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pillar.killmatrix.matrix import Matrix


class KillMatrix:
    """What the fixture gives: call it with a command."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory  # for the page of a failure

    def __call__(
        self,
        command: Sequence[str | PathLike[str]],
        *,
        input: str | PathLike[str] | None = None,
        expect: str | PathLike[str] | None = None,
        check: Sequence[str] = (),
        ignore: Sequence[str] = (),
        also: Mapping[str, Sequence[str]] | None = None,
        looks: bool = False,
        pairs: int = 0,
        seed: int = 0,
        jobs: int = 2,
        quiet_s: float = 1.5,
        limit_s: float = 60.0,
        fail: bool = True,
    ) -> Matrix:
        """Run the matrix, and fail the test with its text unless every end is as it should be.

        The arguments are those of `pillar killmatrix`; with `fail` False the matrix is only returned. A test of a
        machine without a C compiler is skipped.
        """
        from pillar.crashpoints import NoCompiler
        from pillar.killmatrix.inputs import read_steps, read_tables
        from pillar.killmatrix.matrix import Oracle, kill_matrix
        from pillar.killmatrix.page import as_html
        from pillar.killmatrix.run import Settings
        from pillar.killmatrix.text import as_text
        from pillar.terminal import Palette

        settings = Settings(
            agents={"agent": [fspath(word) for word in command], **(also or {})},
            steps=read_steps(Path(input) if input is not None else None),
            quiet_s=quiet_s,
            limit_s=limit_s,
        )
        expected = read_tables(Path(expect)) if expect is not None else None
        try:
            matrix = kill_matrix(
                settings, Oracle(expected, check, ignore), looks=looks, pairs=pairs, seed=seed, jobs=jobs
            )
        except NoCompiler as err:
            pytest.skip(str(err))
        if fail and matrix.failures:
            page = self._directory / "killmatrix.html"
            page.write_text(as_html(matrix), encoding="utf-8")
            pytest.fail(f"{as_text(matrix, Palette(False))}\ntime lines: {page}", pytrace=False)
        return matrix


@pytest.fixture
def pillar_killmatrix(tmp_path: Path) -> KillMatrix:
    """Kill an agent at every step that changes anything, start it again, and compare the ends."""
    return KillMatrix(tmp_path)
