"""App and bridge numbers: 1 to 255 each, one per UUID, kept over restarts and reboots in UuidToNum. Pure.

The numbers name interfaces, bridges and MACs, so none is ever given twice: a number counts as taken while a
record or a status of another UUID has it. A record is on disk before its number is used.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pillar.types.scalars import Time, Uuid
from pillar.types.uuidtonum import UuidToNum

APP_NUM: Final = "appNum"
BRIDGE_NUM: Final = "bridgeNum"
HIGHEST: Final = 255  # one byte of a MAC; 0 is the device's own management app


class NoNumber(Exception):
    """No number can be given to this UUID now; the text says why and what helps."""


@dataclass(frozen=True)
class Grant:
    """What to write, in this order, before the number may be used."""

    number: int
    give_up: Uuid | None = None  # the record to unpublish first: its owner has been gone the longest
    record: UuidToNum | None = None  # the record to publish then; None when the stored one stands as it is


def grant(uuid: Uuid, num_type: str, records: Mapping[Uuid, UuidToNum], held: Mapping[Uuid, int], now: Time) -> Grant:
    """The number for `uuid`: the stored one, else the lowest free one, else that of the oldest record not in use.

    `held` are the numbers that statuses show, by UUID; a number in a status whose record was lost is taken, and is the
    first choice of the status's own UUID. Raises NoNumber when every number is in use, or the UUID's record is
    of the other kind (an app and a network instance with the same UUID).
    """
    mine = records.get(uuid)
    if mine is not None and mine.NumType != num_type:
        raise NoNumber(
            f"{uuid} already has a number as {_KINDS.get(mine.NumType, mine.NumType)}, "
            f"so it cannot be {_KINDS[num_type]} too; give one of them another UUID"
        )
    others = {u: r.Number for u, r in records.items() if u != uuid and r.NumType == num_type}
    taken = set(others.values()) | {number for u, number in held.items() if u != uuid}
    if mine is not None and mine.Number not in taken:
        if mine.InUse:
            return Grant(mine.Number)
        return Grant(mine.Number, record=msgspec.structs.replace(mine, InUse=True, LastUseTime=now))
    wanted = held.get(uuid, 0)
    number = wanted if 0 < wanted <= HIGHEST and wanted not in taken else _lowest_free(taken)
    give_up = None
    if number is None:
        in_use = {number for u, number in held.items() if u != uuid}
        unused = [r for u, r in records.items() if u in others and not r.InUse and r.Number not in in_use]
        if not unused:
            raise NoNumber(f"all {HIGHEST} numbers for {_PLURALS[num_type]} are in use; remove one to make room")
        oldest = min(unused, key=lambda record: (record.LastUseTime, record.CreateTime, record.Number))
        give_up, number = oldest.UUID, oldest.Number
    record = UuidToNum(UUID=uuid, Number=number, NumType=num_type, CreateTime=now, LastUseTime=now, InUse=True)
    return Grant(number, give_up, record)


def double(records: Mapping[Uuid, UuidToNum], held: Mapping[Uuid, int]) -> list[Uuid]:
    """Records to drop because another one has the same number; never happens by our own writing.

    The one that a status shows stays, then one in use, then the older one.
    """

    def claim(record: UuidToNum) -> tuple[bool, bool, Time, Uuid]:
        return held.get(record.UUID) != record.Number, not record.InUse, record.CreateTime, record.UUID

    kept: set[tuple[str, int]] = set()
    dropped = []
    for record in sorted(records.values(), key=claim):
        number = (record.NumType, record.Number)
        if number in kept:
            dropped.append(record.UUID)
        kept.add(number)
    return dropped


def unused(records: Mapping[Uuid, UuidToNum], users: Collection[Uuid]) -> Iterable[UuidToNum]:
    """Records marked in use whose UUID has neither config nor status, as they should be stored instead."""
    for uuid, record in records.items():
        if record.InUse and uuid not in users:
            yield msgspec.structs.replace(record, InUse=False)


def _lowest_free(taken: Collection[int]) -> int | None:
    return next((number for number in range(1, HIGHEST + 1) if number not in taken), None)


_KINDS: Final = {APP_NUM: "an app", BRIDGE_NUM: "a network instance"}
_PLURALS: Final = {APP_NUM: "apps", BRIDGE_NUM: "network instances"}
