"""Transports: how an object comes from a datastore. Chosen by the datastore's type, in `open_transport` only.

A transport is a module of this package (or of any package that names it in the entry point group
`pillar.transports`) with a `TRANSPORTS` table: datastore type -> function that opens it. Adding one touches no
other file. Heavy libraries are imported by a transport when it is opened, never when it is looked up.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from pillar.transports.base import (
    Identity,
    Limits,
    ObjectChanged,
    Route,
    Source,
    Stream,
    Transport,
    TransportFailed,
    Unsupported,
)

__all__ = [
    "Identity",
    "Limits",
    "ObjectChanged",
    "Route",
    "Source",
    "Stream",
    "Transport",
    "TransportFailed",
    "Unsupported",
    "known_types",
    "open_transport",
]

WEB = ("DsHttp", "DsHttps", "")  # one of these with a file:// address is a local directory
Opener = Callable[[Source, Route, Limits], Transport]


def open_transport(source: Source, route: Route, limits: Limits) -> Transport:
    """The transport for `source.ds_type`, not yet connected. Raises Unsupported."""
    ds_type = "DsFile" if source.ds_type in WEB and source.url.startswith("file:") else source.ds_type
    opener = _registered().get(ds_type)
    if opener is None:
        raise Unsupported(
            f"no transport for datastore type {source.ds_type or '(empty)'}; "
            f"this device speaks {', '.join(name for name in known_types() if name)}"
        )
    return opener(source, route, limits)


def known_types() -> list[str]:
    """The datastore types that can be opened, sorted."""
    return sorted(_registered())


@cache
def _registered() -> dict[str, Opener]:
    openers: dict[str, Opener] = {}
    for point in entry_points(group="pillar.transports"):
        try:
            openers.update(point.load().TRANSPORTS)
        except Exception:
            # Somebody else's package: whatever is wrong with it, the other transports go on.
            logging.getLogger(__name__).exception("transport %s left out: it cannot be loaded", point.value)
    for module in pkgutil.iter_modules(__path__):
        openers.update(getattr(importlib.import_module(f"{__name__}.{module.name}"), "TRANSPORTS", {}))
    return openers
