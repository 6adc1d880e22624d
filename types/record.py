"""What every record is: an immutable struct whose attributes are EVE's JSON names.

One vocabulary reaches from EVE's source over `cat` to this code: `status.RefCount` is `RefCount` in the file.
Every field has Go's zero value as its default, so a record written by an older agent, or by hand with only the
members that matter, reads as Go reads it. Change a record with `msgspec.structs.replace(record, Field=value)`.

    a list of EVE      tuple[X, ...] | None     None is Go's nil (null), () an empty list ([]): both occur
    a map              dict[str, X] | None
    bytes              bytes | None             base64 in the file
    an embedded struct its fields, written out where EVE embeds it

Fields stand in EVE's order, because the files show it.
"""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


# The decorator tells type checkers what msgspec does anyway: subclasses are frozen and keyword-only too.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records. Unknown members are forbidden for the fast reading only; see pillar.pubsub.codec."""
