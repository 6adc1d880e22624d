"""Talking to a running QEMU, and reading what it told while nobody listened.

`execute` is for worker threads: it connects, negotiates, sends, and is bounded in time. The library is qemu.qmp; its
asyncio loop lives only for the call.

Events come over a second monitor that nobody has to hold open: a FIFO in which the start of the negotiation waits,
and an ordinary file that QEMU writes its events into. So how a guest ended is known even when no domainmgr ran then.
What a new QEMU has to be told or asked about its display waits in the same FIFO: it comes to that whoever is killed.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillar.hypervisors import HypervisorError, connect

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

SOCKET = "qmp"
EVENTS = "events"  # QEMU appends .in and .out
HEAD_BYTES = 16 * 1024  # of the same: answers to the first orders
VNC_PORT = 5900  # of display 0
TAIL_BYTES = 64 * 1024  # of the events; how it ended is in the last ones
_DISPLAY_ID = "display"
_PASSWORD_CHARACTERS = 8
ENDINGS = {
    "guest-shutdown": "the guest switched itself off",
    "guest-panic": "the guest's kernel panicked",
    "guest-reset": "the guest asked for a reset",
    "host-qmp-quit": "it was ended by a command",
    "host-signal": "it was ended by a signal",
    "host-error": "QEMU ended it after an error",
    "host-ui": "it was closed from its display",
    "subsystem-reset": "the guest asked for a reset",
}


def obeys(home: Path, wait_s: float) -> bool:
    """Whether QEMU takes orders on its control socket: then its machine is complete.

    It listens, and says hello, long before: a thread of its own does that, while devices may still fail.
    """
    told = b""
    try:
        with connect(home / SOCKET, wait_s) as connection:
            connection.sendall(b'{"execute": "qmp_capabilities"}\n')
            while b'"return"' not in told:
                part = connection.recv(4096)
                if not part:
                    return False
                told += part
    except OSError:
        return False
    return True


def execute(home: Path, command: str, arguments: Mapping[str, object] | None = None, timeout_s: float = 5.0) -> object:
    """Send one command and return its answer. Raises HypervisorError, whatever went wrong, when it has none in time."""
    from qemu.qmp import QMPClient, QMPError

    logging.getLogger("qemu.qmp").propagate = False  # its errors are ours to tell
    try:
        connection = connect(home / SOCKET, timeout_s)
        return asyncio.run(asyncio.wait_for(_ask(QMPClient(), connection, command, arguments), timeout_s))
    except (OSError, EOFError, QMPError, TimeoutError) as error:
        reason = str(error) or f"no answer within {timeout_s:g} s"
        raise HypervisorError(f"QEMU does not answer {command}: {reason}") from error


async def _ask(
    client: "QMPClient", connection: socket.socket, command: str, arguments: Mapping[str, object] | None
) -> object:
    connection.setblocking(False)
    try:
        await client.connect(connection)
    except BaseException:
        connection.close()
        raise
    try:
        return await client.execute(command, arguments)
    finally:
        try:
            await client.disconnect()
        except Exception:  # QEMU hung up, as `quit` makes it do
            logging.getLogger(__name__).debug("%s: QEMU hung up", command, exc_info=True)


@dataclass(frozen=True)
class Vnc:
    """What a new QEMU is told of its display. VNC looks at the first eight characters of a password."""

    password: str


def open_events(home: Path, vnc: Vnc | None = None) -> int:
    """Make the FIFO and the file anew, put the negotiation in, and return the FIFO's descriptor.

    With `vnc`, QEMU is also given the display's password and asked where it is: see `display`. QEMU must inherit the
    descriptor: what waits in a FIFO is lost as soon as nobody has it open, so a password is in no file.
    """
    orders: list[dict[str, object]] = [{"execute": "qmp_capabilities"}]
    if vnc is not None and vnc.password:
        password = vnc.password.replace("\0", "")[:_PASSWORD_CHARACTERS]
        orders.append({"execute": "set_password", "arguments": {"protocol": "vnc", "password": password}})
    if vnc is not None:
        orders.append({"execute": "query-vnc", "id": _DISPLAY_ID})
    fifo = home / f"{EVENTS}.in"
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo, 0o600)
    (home / f"{EVENTS}.out").write_bytes(b"")
    descriptor = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
    os.write(descriptor, b"".join(json.dumps(order).encode() + b"\n" for order in orders))
    return descriptor


def display(home: Path) -> int | None:
    """The number of the VNC display that this run of QEMU has, None when it has not said so (yet)."""
    try:
        with (home / f"{EVENTS}.out").open("rb") as file:
            lines = file.read(HEAD_BYTES).splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        try:
            answer = json.loads(line)
            if answer.get("id") == _DISPLAY_ID:
                return int(answer["return"]["service"]) - VNC_PORT
        except (ValueError, KeyError, TypeError, AttributeError):  # half a line
            continue
    return None


def ending(home: Path) -> str:
    """How QEMU said that the last run ended, for a person; "" when it did not say."""
    reason = _reason(home)
    return ENDINGS.get(reason, reason)


def guest_ended(home: Path) -> bool:
    """Whether QEMU said that the last run ended because the guest wanted it."""
    return _reason(home).startswith("guest-")


def _reason(home: Path) -> str:
    """QEMU's own word for why the last run ended, "" when it did not say."""
    try:
        with (home / f"{EVENTS}.out").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            event = json.loads(line)
            if event.get("event") == "SHUTDOWN":
                return str(event["data"]["reason"])
        except (ValueError, KeyError, TypeError, AttributeError):  # cut in the middle by the end of the machine
            continue
    return ""
