"""`scripts/mutate`: what it takes out is found by pattern, and a test that bites kills a mutant. Only one: slow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mutation import CHECKOUT, NOTHING, Copy, all_mutants, covering, find_mutants, mutate


def test_every_kind_is_found_in_the_tree() -> None:
    found = list(all_mutants(CHECKOUT))
    assert {mutant.kind for mutant in found} == {"fsync", "rename", "flock", "sweep", "re-list", "ledger"}
    sources = {mutant.source for mutant in found}
    assert {"pubsub/checkpoint.py", "pillar/durable.py", "cmd/identitymanager/store.py"} <= sources


def test_one_call_is_taken_out_and_its_arguments_stay() -> None:
    lines = [
        "import os",
        "",
        "def f(fd):",
        "    é = 1; os.fsync(g(fd))",
        "    'a'.replace('b')",
        "    run(os.fsync, fd)",
    ]
    text = "\n".join([*lines, ""])
    found = find_mutants("x.py", text)
    assert [(mutant.line, mutant.kind, mutant.text) for mutant in found] == [
        (4, "fsync", "os.fsync"),
        (6, "fsync", "os.fsync"),
    ]
    assert mutate(text, found[0]) == text.replace("os.fsync(g", f"{NOTHING}(g")
    assert mutate(text, found[1]) == text.replace("os.fsync, fd", f"{NOTHING}, fd")


def test_each_source_has_tests_that_cover_it() -> None:
    tests = sorted(path.name for path in (CHECKOUT / "tests").glob("test_*.py"))
    for mutant in all_mutants(CHECKOUT):
        tests_here = covering(mutant.source, mutant.kind, tests)
        assert 0 < len(tests_here) < len(tests), mutant


@pytest.mark.timeout(400)  # it copies the tree and runs pytest twice
@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="crash points need a compiler")
def test_a_mutant_is_killed_by_a_test_and_the_copy_is_whole_again(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    path = copy.directory / "pillar/durable.py"
    before = path.read_text()
    fsync = next(m for m in find_mutants("pillar/durable.py", before) if m.text == "os.fsync")
    test = "test_durability.py::test_a_store_flushes_the_bytes_before_the_name_and_the_name_before_it_returns[identity]"
    killing, nothing = copy.try_out(fsync, [test], "")
    assert killing is not None and killing.test == test and "assert" in killing.how
    assert not nothing
    assert path.read_text() == before
