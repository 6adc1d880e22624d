"""The agents there are, in the order in which they are started.

The order is for people reading `pillar ps`: any order works. Names are the published ones; the names that
EVE's code uses and the other spellings are aliases for commands and for GlobalConfig's AgentSettings.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """One agent: how it is called, and the module to run (`python -m`)."""

    name: str
    help: str
    module: str
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def _agent(name: str, help: str, *aliases: str) -> Entry:
    return Entry(name, help, f"pillar.cmd.{name}.__main__", aliases)


AGENTS: Final = (
    _agent("zedagent", "reads the device config and publishes what it asks for"),
    _agent("nim", "sets up, tests and publishes the device's network ports"),
    _agent("zedrouter", "gives apps and network instances their numbers, interfaces and addresses"),
    _agent("domainmgr", "runs domains", "domainmanager"),
    _agent("identitymanager", "makes the identities (EIDs) of apps", "identitymgr"),
    _agent("verifier", "checks images: hash and signature"),
    _agent("downloader", "fetches images"),
    _agent("baseosmgr", "fetches and installs certificates"),
    _agent("zedmanager", "orchestrates: takes each app from configured to running"),
)


def find(name: str, agents: tuple[Entry, ...] = AGENTS) -> Entry | None:
    """The agent of this name or alias."""
    for entry in agents:
        if name in entry.names:
            return entry
    return None
