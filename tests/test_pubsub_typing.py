"""What type checkers know without being told: record types flow from a table's opening to every value and handler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT
from servers import needs

PROGRAM = """
import msgspec
from pillar.pubsub import PubSub, decode


class Greeting(msgspec.Struct, frozen=True):
    text: str = ""


class Farewell(msgspec.Struct, frozen=True):
    text: str = ""


def welcome(key: str, new: Greeting) -> None: ...
def change(key: str, new: Greeting, old: Greeting) -> None: ...


pubsub = PubSub("/tmp", "hello")
publication = pubsub.publication(Greeting)
reveal_type(publication)  # Publication[Greeting]
reveal_type(publication.get("world"))  # Greeting | None
reveal_type(publication.items())  # dict[str, Greeting]
subscription = pubsub.subscription("hello", Greeting, create=welcome, modify=change)
reveal_type(subscription)  # Subscription[Greeting]
reveal_type(subscription.get("world"))  # Greeting | None
for told in subscription:
    reveal_type(told)  # Change[Greeting]
    reveal_type(told.new)  # Greeting | None
pubsub.subscription("hello", Greeting, create=lambda key, new: print(reveal_type(new)))  # Greeting
any_table = pubsub.subscription("hello", None, topic="Greeting")
reveal_type(any_table.items())  # dict[str, dict[str, Any]]
reveal_type(decode(Greeting, b"{}"))  # Greeting


async def follow() -> None:
    async for told in subscription:
        reveal_type(told)  # Change[Greeting]


publication.publish("world", Farewell())  # error
pubsub.subscription("hello", Farewell, create=welcome)  # error
pubsub.subscription("hello", None)  # error
"""
LAMBDA = "create=lambda"  # mypy does not look into a lambda before it has chosen an overload: Any there
LINES = PROGRAM.splitlines()
REVEALED = {n: line.rpartition("  # ")[2] for n, line in enumerate(LINES, start=1) if "reveal_type(" in line}
WRONG = {n for n, line in enumerate(LINES, start=1) if line.endswith("# error")}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.timeout(300)
def test_mypy_infers_the_record_type_everywhere_and_refuses_another(program: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={program.parent}",
        str(program),
    ]
    # From the checkout's own folder mypy would meet `types/` as a module of the standard library's name.
    environment = {**os.environ, "MYPYPATH": str(CHECKOUT)}
    output = subprocess.run(command, cwd=program.parent, env=environment, capture_output=True, text=True).stdout
    revealed, wrong = {}, set()
    for number, kind, text in re.findall(r"^program\.py:(\d+): (note|error): (.*)$", output, re.MULTILINE):
        if found := re.match(r'Revealed type is "(.*)"', text):
            revealed[int(number)] = _plain(found[1])
        elif kind == "error":
            wrong.add(int(number))
    assert revealed == {n: "Any" if LAMBDA in LINES[n - 1] else type_ for n, type_ in REVEALED.items()}, output
    assert wrong == WRONG, output


@pytest.mark.timeout(300)
def test_pyright_infers_the_record_type_everywhere_and_refuses_another(program: Path) -> None:
    needs("node", "nodejs")
    local = CHECKOUT / ".venv/node/node_modules/.bin"
    pyright = shutil.which("pyright", path=os.pathsep.join([str(local), os.environ.get("PATH", "")]))
    if pyright is None:
        pytest.skip("pyright is not installed (scripts/test --with-servers puts it into .venv/node)")
    settings = {"extraPaths": [str(CHECKOUT)], "typeCheckingMode": "strict", "include": ["program.py"]}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [pyright, "--pythonpath", sys.executable, "--outputjson"]
    output = subprocess.run(command, cwd=program.parent, capture_output=True, text=True).stdout
    revealed, wrong = {}, set()
    for said in json.loads(output)["generalDiagnostics"]:
        number = said["range"]["start"]["line"] + 1
        if found := re.match(r'Type of ".*" is "(.*)"', said["message"], re.DOTALL):
            revealed[number] = _plain(found[1])
        elif said["severity"] == "error":
            wrong.add(number)
    assert revealed == REVEALED, output
    assert wrong == WRONG, output


def _plain(text: str) -> str:
    """A type as either checker writes it, without modules: `dict[str, Greeting]`; a named tuple by its name."""
    text = re.sub(r"^tuple\[.*fallback=(.*)\]$", r"\1", text)
    return re.sub(r"[\w.]+\.(\w+)", r"\1", text)
