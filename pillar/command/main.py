"""`pillar`: one command in front of everything.

A subcommand is a module with `add_arguments(parser)` and `run(args) -> int`; it is imported only when it is
asked for, so `pillar watch` stays as small as what it needs. `pillar <agent>` runs that agent in this process.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import pillar
from pillar import options
from pillar.agents import AGENTS, find

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130  # as shells report it


class Command(NamedTuple):
    """One subcommand: what it is for, and where it lives."""

    group: str
    help: str
    module: str


_RUN: Final = "run the agents"
_LOOK: Final = "look at tables"
_DEPLOY: Final = "deploy"
_MEASURE: Final = "measure"

COMMANDS: Final = {
    "up": Command(_RUN, "start the agents and keep them running", "pillar.command.up"),
    "down": Command(_RUN, "stop the supervisor and the agents", "pillar.command.down"),
    "ps": Command(_RUN, "show what runs", "pillar.command.ps"),
    "ls": Command(_LOOK, "list agents, tables and keys", "pillar.command.ls"),
    "get": Command(_LOOK, "print a table or a record", "pillar.command.get"),
    "watch": Command(_LOOK, "follow tables live, field by field", "pillar.command.watch"),
    "console": Command(_LOOK, "talk to the serial console of an ECO", "pillar.command.console"),
    "net": Command(_LOOK, "show the bridges, what the kernel has and what differs", "pillar.command.net"),
    "deploy": Command(_DEPLOY, "hand a device config to zedagent", "pillar.command.deploy"),
    "undeploy": Command(_DEPLOY, "take an app, or everything, out of the device config", "pillar.command.undeploy"),
    "download": Command(_DEPLOY, "fetch one object with the downloader's engine", "pillar.command.download"),
    "doctor": Command(_LOOK, "find what is wrong, and say how to mend it", "pillar.command.doctor"),
    "check": Command(_LOOK, "compare all records and files with one another", "pillar.command.check"),
    "killmatrix": Command(_MEASURE, "kill any agent at every step and compare the ends", "pillar.command.killmatrix"),
    "crashtest": Command(_MEASURE, "kill every agent at every step and compare the end", "pillar.command.crashtest"),
    "bench": Command(_MEASURE, "measure speed and size against floors of the same run", "pillar.command.bench"),
}


class Module(Protocol):
    """What the module of a subcommand offers."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(f"pillar {pillar.__version__}")
        return 0
    entry = find(name)
    if entry is not None:
        status = importlib.import_module(entry.module).main(rest)
        assert isinstance(status, int)
        return status
    command = COMMANDS.get(name)
    if command is None:
        print(_unknown(name), file=sys.stderr)
        return EXIT_USAGE
    return _run(name, command, rest)


def overview() -> str:
    """Everything there is, in groups."""
    lines = [
        "usage: pillar COMMAND [--root DIR] ...",
        "",
        "Agents that share state as files; one root holds one device.",
    ]
    width = max(len(name) for name in (*COMMANDS, *(entry.name for entry in AGENTS)))
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:{width}}  {c.help}" for name, c in COMMANDS.items() if c.group == group]
    lines += ["", "run one agent alone, in this process:"]
    for entry in AGENTS:
        also = f" (also {', '.join(entry.aliases)})" if entry.aliases else ""
        lines.append(f"  {entry.name:{width}}  {entry.help}{also}")
    lines += ["", "pillar COMMAND --help tells more; --root (or PILLAR_ROOT) is the tree to work on, default /."]
    return "\n".join(lines)


def _run(name: str, command: Command, rest: list[str]) -> int:
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"pillar {name}",
        description=(module.__doc__ or command.help).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",  # a command may word a common option its own way
    )
    options.add_root(parser)
    options.add_version(parser)
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    try:
        status = module.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `pillar ls | head` is no error; the interpreter must not fail again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as err:
        print(f"pillar {name}: {err}", file=sys.stderr)
        return EXIT_FAILED
    assert isinstance(status, int)
    return status


def _unknown(name: str) -> str:
    names = [*COMMANDS, *(alias for entry in AGENTS for alias in entry.names)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"pillar: there is no command or agent {name!r}{hint} `pillar` alone lists all"
