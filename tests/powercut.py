"""A program's system calls under strace, for `pillar.crashtest.disk`: what a power cut may leave of them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from pillar.crashtest.disk import Disk, Tree
from pillar.crashtest.disk import DiskCall as Call

__all__ = ["Call", "Disk", "Tree", "record"]

_CALLS = "openat,mkdir,mkdirat,write,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir"
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)(?:<(.*)>)?(?: \(.*)?$")
_ARGUMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^,"\s][^,"]*')
_FD = re.compile(r"^(?:-?\d+|AT_FDCWD)<(.*)>$")


def record(root: Path, program: str, *arguments: object) -> list[Call]:
    """Run a Python program under strace; its calls below `root`, and what it writes to stdout."""
    log = root.parent / "strace"
    command = ["strace", "-y", "-s", "1000000", "-e", f"trace={_CALLS}", "-o", str(log)]
    subprocess.run(
        [*command, sys.executable, "-c", program, str(root), *map(str, arguments)],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    return [call for call in map(_parse, log.read_text().splitlines()) if call is not None and _concerns(call, root)]


def _concerns(call: Call, root: Path) -> bool:
    return call.name == "said" or any(path.startswith(str(root)) for path in call.paths)


def _parse(line: str) -> Call | None:
    found = _CALL.match(line)
    if found is None or int(found[3]) < 0:
        return None
    name, text, _, opened = found.groups()
    arguments = [argument.strip() for argument in _ARGUMENT.findall(text)]
    paths: list[str] = []
    base = ""
    data = b""
    for argument in arguments:
        fd = _FD.match(argument)
        if fd is not None:
            base = fd[1]
            if name in ("write", "fsync", "fdatasync"):
                paths.append(base)
        elif argument.startswith('"'):
            value = ast.literal_eval("b" + argument)
            if name == "write":
                data = value
            else:
                paths.append(str(Path(base or "/", value.decode())))
    if name == "write" and arguments[0].startswith("1<"):
        return Call("said", [], data)
    if name == "openat":
        return Call(name, [opened], flags=arguments[2])
    return Call(name, paths, data)
