"""Records by the name of their topic, for commands that are given a table's name and not its class."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import pillar.types
from pillar.types.record import Record


def find_type(topic: str) -> type[Record] | None:
    """The record class of that name in some module of pillar.types, None when there is none.

    The first call imports all those modules (they need msgspec only); agents name their classes instead.
    """
    return _types().get(topic)


@cache
def _types() -> dict[str, type[Record]]:
    found: dict[str, type[Record]] = {}
    for module_info in pkgutil.iter_modules(pillar.types.__path__, "pillar.types."):
        module = importlib.import_module(module_info.name)
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, Record) and value.__module__ == module.__name__:
                found[name] = value
    del found[Record.__name__]
    return found
