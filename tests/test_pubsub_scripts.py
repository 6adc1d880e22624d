"""The short scripts of README and docs/pubsub.md, run as they stand there."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import CHECKOUT
from support import running

PAGES = "".join((CHECKOUT / page).read_text() for page in ("README.md", "docs/pubsub.md"))
SCRIPTS = dict(re.findall(r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", PAGES, re.DOTALL))


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_scripts_are_short() -> None:
    assert set(SCRIPTS) == {"greeter.py", "listener.py", "handlers.py", "once.py", "waiter.py"}
    assert all(len(text.strip().splitlines()) <= 14 for text in SCRIPTS.values())


@pytest.mark.parametrize("reader", ["listener.py", "handlers.py", "once.py", "waiter.py"])
def test_a_script_follows_what_another_publishes_and_survives_its_death(scripts: Path, root: Path, reader: str) -> None:
    with (
        running("python", scripts / reader, root, cwd=scripts, stdout=subprocess.PIPE) as listener,
        running("python", scripts / "greeter.py", root, "hello", cwd=scripts) as greeter,
    ):
        assert listener.stdout is not None
        # An empty table may have been seen before its first record: then `synchronized` comes first.
        assert any("create" in line and "hello" in line for line in iter(listener.stdout.readline, ""))
        greeter.send_signal(signal.SIGKILL)
        greeter.wait(timeout=10)
        with running("python", scripts / "greeter.py", root, "hello again", cwd=scripts):
            lines = iter(listener.stdout.readline, "")
            assert any("modify" in line and "hello again" in line for line in lines)
