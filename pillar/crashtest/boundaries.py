"""Where handlers begin and end without a change: reads of other agents' records.

A subscriber that is told to look at a key opens its record, whether it is there (created, modified) or not (deleted);
then its handler runs. A kill right before that read is one between two handlers, or before the first.

Between two calls of a process that change something it changes nothing. So what its kill leaves is the same wherever
it falls between them, as far as its own files go; what differs is how far the others are. A read that a changing call
follows at once is therefore no point of its own: the kill right before that call is one already. A read that another
read or nothing follows is, since the others may have come further before the process changes anything again.
Reads of an agent's own tables, listings and reads of other files belong to the handler that makes them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from pillar.crashpoints import Call, Point
from pillar.crashpoints.points import LOOKS

# /run/<agent>[/<scope>]/<Topic>/<key>.json, the same below /persist/status, and the device config of a person.
_NAME: Final = r"[^/.][^/]*"
_RECORD: Final = re.compile(rf"/(?:run|persist/status)/({_NAME})(?:/{_NAME}){{2,3}}\.json|/config/device\.(?:json|pb)")


def boundaries(calls: Iterable[Call]) -> list[Point]:
    """The reads of other agents' records that no change follows at once, in order, each as a crash point."""
    counts: Counter[tuple[int, str, str, str]] = Counter()
    found: dict[Point, None] = {}
    last: dict[int, Point] = {}  # process -> the read that was its last call
    for call in calls:
        changes = call.call not in LOOKS and call.result != "-"
        if (read := last.pop(call.pid, None)) is not None and not changes:
            found[read] = None
        counts[call.pid, call.agent, call.call, call.path] += 1
        if call.call == "look" and _is_of_another(call):
            occurrence = counts[call.pid, call.agent, call.call, call.path]
            last[call.pid] = Point(call.agent, call.call, call.path, occurrence)
    found |= dict.fromkeys(last.values())
    return list(found)


def _is_of_another(call: Call) -> bool:
    record = _RECORD.fullmatch(call.path)
    return record is not None and record[1] != call.agent
