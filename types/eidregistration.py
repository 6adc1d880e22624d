"""EIDRegistration: does a map server know where an EID is? A record of our own: in EVE the LISP data plane keeps it."""

from __future__ import annotations

from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, IpAddr, Time, Uint32, Uuid


class EIDRegistration(Record):
    """One EID at one map server. Written by zedrouter only; keyed `<app UUID>:<IID>:<map server>`."""

    AppID: Uuid = NIL_UUID
    IID: Uint32 = 0
    EID: IpAddr = ""
    MapServer: str = ""  # its name or address, as configured
    Locators: tuple[IpAddr, ...] | None = None  # the addresses of the device that were registered
    Registered: bool = False  # the map server has confirmed it, authenticated with the shared key
    RegisteredTime: Time = ZERO_TIME  # when this was first so with these locators
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME

    def key(self) -> str:
        """`<app UUID>:<IID>:<map server>`."""
        return f"{self.AppID}:{self.IID}:{self.MapServer}"
