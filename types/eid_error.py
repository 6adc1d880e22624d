"""EIDError: why an EID is not there. A record of our own: EVE has no place for it, and the app waits in silence."""

from __future__ import annotations

from pillar.types.common import UUIDandVersion, eid_key
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Time, Uint32


class EIDError(Record):
    """What is wrong with one EIDConfig. Written by identitymanager only; keyed by `<app UUID>:<IID>` as EIDConfig.

    Exists as long as the error does.
    """

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    IID: Uint32 = 0
    Error: str = ""  # for a person
    ErrorTime: Time = ZERO_TIME  # when this text first appeared

    def key(self) -> str:
        """`<app UUID>:<IID>`."""
        return eid_key(self.UUIDandVersion.UUID, self.IID)
