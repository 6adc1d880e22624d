"""Pillar's own record about the device config itself; EVE's ZedAgentStatus has no room for it."""

from __future__ import annotations

from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Time, Uuid


class DeviceConfigStatus(Record):
    """Which device config is in force and what is wrong with it or with a newer one. By zedagent, key `zedagent`."""

    State: str = ""  # "none" never one, "read" from Source, "saved" from the copy kept of the last good one
    Source: str = ""  # the file it was read from; "" unless State is "read"
    DeviceUUID: Uuid = NIL_UUID
    Version: str = ""  # the controller's text
    Error: str = ""  # why a newer file was refused; "" when the newest one is in force
    ErrorTime: Time = ZERO_TIME
    Problems: tuple[str, ...] | None = None  # what is wrong inside the config and no other record can say
