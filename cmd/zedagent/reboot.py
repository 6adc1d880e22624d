"""The controller's reboot counter, against the one kept in <root>/config/rebootConfig."""

import enum
import json
from pathlib import Path

from pillar.controller import config_pb2 as wire
from pillar.durable import replace_file

REBOOT_CONFIG_NAME = "rebootConfig"
REASON = "NORMAL: handleReboot rebooting"  # EVE's text


class Reboot(enum.Enum):
    """What a config's reboot section asks for."""

    NOTHING = "nothing"
    FORGET = "forget the counter"
    REMEMBER = "remember the counter, it is the first one seen"
    NOW = "reboot"


def decide(wanted: wire.DeviceOpsCmd | None, kept: int | None) -> Reboot:
    """What to do when the config has this section (None: it has none) and `kept` is the last counter seen."""
    if wanted is None:
        return Reboot.NOTHING if kept is None else Reboot.FORGET
    if kept is None:
        return Reboot.REMEMBER
    return Reboot.NOTHING if kept == wanted.counter else Reboot.NOW


def kept_counter(path: Path) -> int | None:
    """The counter in the file; None without a file. Raises ValueError when the file says nothing usable."""
    try:
        kept = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as err:
        raise ValueError(f"{path}: {err}") from err
    counter = kept.get("counter", 0) if isinstance(kept, dict) else None
    if not isinstance(counter, int):
        raise ValueError(f"{path}: expected an object with a number `counter`")
    return counter


def keep(path: Path, command: wire.DeviceOpsCmd) -> None:
    """Write the file as EVE does: JSON without the members that are zero."""
    members = {"counter": command.counter, "desiredState": command.desiredState, "opsTime": command.opsTime}
    text = json.dumps({name: value for name, value in members.items() if value}, separators=(",", ":"))
    replace_file(path, text.encode())
