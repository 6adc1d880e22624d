"""Pillar: EVE-OS's microservice core in Python.

`pillar.pubsub` is the library, `pillar.types` the records, `pillar.cmd.<agent>` the
agents; what stands directly in `pillar` is shared by all agents. docs/design.md has the map.
"""

__version__ = "0.1.0"
