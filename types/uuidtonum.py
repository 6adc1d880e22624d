"""Numbers that must stay the same across reboots."""

from __future__ import annotations

from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Int64, Time, Uuid


class UuidToNum(Record):
    """The number an app or network instance has for a purpose. Written (persistent) by those who give the numbers out,
    zedmanager and zedrouter; keyed by UUID.
    """

    UUID: Uuid = NIL_UUID  # owner
    Number: Int64 = 0  # the number
    NumType: str = ""  # purgeCmdCounter, appNum, bridgeNum
    CreateTime: Time = ZERO_TIME
    LastUseTime: Time = ZERO_TIME  # last touched
    InUse: bool = False  # currently used

    def key(self) -> str:
        return self.UUID
