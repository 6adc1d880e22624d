"""The options every agent and every command shares."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pillar


def add_root(parser: argparse.ArgumentParser) -> None:
    """--root: the tree to work on."""
    parser.add_argument(
        "--root",
        type=_root,
        default=_root(os.environ.get("PILLAR_ROOT") or "/"),
        metavar="DIR",
        help="the tree to work on: DIR/run, DIR/persist, DIR/config (default: $PILLAR_ROOT, else /)",
    )


def add_version(parser: argparse.ArgumentParser) -> None:
    """--version: print it and exit."""
    parser.add_argument("--version", action="version", version=f"pillar {pillar.__version__}")


def add_daemon_options(parser: argparse.ArgumentParser) -> None:
    """--root, --debug, --daemon and --version: what whoever runs for long takes."""
    add_root(parser)
    parser.add_argument("--debug", action="store_true", help="log everything, whatever GlobalConfig says")
    parser.add_argument(
        "--daemon", action="store_true", help="run in the background; return once it is ready, or with its error"
    )
    add_version(parser)


def _root(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a path is not empty and holds no NUL")
    # Absolute from the start: a daemon changes its directory.
    return Path(os.path.abspath(text))
