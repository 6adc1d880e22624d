"""What a pass over the kernel's network found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pillar.types.scalars import Uuid


@dataclass(frozen=True)
class Outcome:
    """What a pass found and could not do."""

    instances: Mapping[Uuid, str] = field(default_factory=dict)  # errors of network instances
    vifs: Mapping[tuple[Uuid, str], str] = field(default_factory=dict)  # errors by (app, vif)
    dead: frozenset[str] = frozenset()  # interfaces without carrier
    leased: frozenset[tuple[str, str, str]] = frozenset()  # (bridge, MAC, address)
    unfinished: bool = False  # look again soon though nothing happened
