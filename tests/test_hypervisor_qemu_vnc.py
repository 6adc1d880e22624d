"""The screen of a virtual machine: where it is, who sees it, and where its password stands."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from vm_machine import UUID, Machine

from pillar.hypervisors import HypervisorError, Phase, _qmp
from pillar.hypervisors.qemu import QemuHypervisor

pytest_plugins = ("vm_fixtures",)
NONE, PASSWORD = b"\x01", b"\x02"  # RFC 6143: kinds of security


def connect(display: int, host: str = "127.0.0.1") -> tuple[socket.socket, bytes]:
    """A connection to a display, and the kinds of security that it wants one of."""
    connection = socket.create_connection((host, 5900 + display), timeout=60)
    assert read(connection, 12).startswith(b"RFB 003.")
    connection.sendall(b"RFB 003.008\n")
    return connection, read(connection, read(connection, 1)[0])


def read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        assert more, f"it hung up after {found!r}"
        found += more
    return found


def lets_in(display: int, password: str) -> bool:
    connection, kinds = connect(display)
    with connection:
        assert kinds == PASSWORD
        connection.sendall(PASSWORD)
        challenge = read(connection, 16)
        # VNC's DES takes the bits of each byte of the key in the other order.
        key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
        encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
        connection.sendall(encryptor.update(challenge))
        return read(connection, 4) == b"\0\0\0\0"


@contextlib.contextmanager
def first_free_display() -> Iterator[int]:
    """Taken: the first one that nobody else has. Other tests' machines come and go."""
    for display in range(1, 100):
        try:
            taken = socket.create_server(("127.0.0.1", 5900 + display))
        except OSError:
            continue
        with taken:
            yield display
        return
    pytest.fail("all displays are taken")


def test_the_display_that_was_chosen_is_told_also_to_a_later_domainmgr(machine: Machine) -> None:
    machine.run(machine.booting("up", EnableVnc=True))
    info = machine.backend.status(UUID)
    assert info.phase is Phase.RUNNING
    assert 1 <= info.vnc_display <= 99
    assert QemuHypervisor(machine.where).status(UUID) == info
    connection, kinds = connect(info.vnc_display)
    connection.close()
    assert kinds == NONE


def test_it_listens_on_loopback_only(machine: Machine) -> None:
    pid = machine.run(machine.booting("up", EnableVnc=True))
    port = 5900 + machine.backend.status(UUID).vnc_display
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # QEMU closed it: the connection on which it was last asked
            inodes.add(os.readlink(path))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(fields[1])
    assert listening == [f"0100007F:{port:04X}"]


def test_only_the_password_opens_it_and_it_stands_nowhere(machine: Machine) -> None:
    pid = machine.run(machine.booting("up", EnableVnc=True, VncPasswd="geheimes Wort"))
    display = machine.backend.status(UUID).vnc_display
    assert not lets_in(display, "falsch")
    assert lets_in(display, "geheimes Wort")
    for name in ("cmdline", "environ"):
        assert b"geheim" not in Path(f"/proc/{pid}/{name}").read_bytes()
    for path in (machine.where.persist / "qemu").rglob("*"):
        assert not path.is_file() or b"geheim" not in path.read_bytes(), path


def test_a_display_that_is_taken_is_an_error_and_zero_finds_another(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        display = taken.getsockname()[1] - 5900
        with pytest.raises(HypervisorError, match=r"QEMU ended at once: .*[Aa]ddress already in use"):
            machine.run(machine.booting("up", EnableVnc=True, VncDisplay=display))
    with first_free_display() as first:
        machine.run(machine.booting("up", EnableVnc=True))
        assert machine.backend.status(UUID).vnc_display != first


def test_as_long_as_qemu_has_not_said_which_it_is_starting(machine: Machine) -> None:
    machine.run(machine.booting("up", EnableVnc=True))
    events = machine.where.persist / "qemu" / UUID / f"{_qmp.EVENTS}.out"
    content = events.read_bytes()
    events.write_bytes(content[: content.index(b'"service"')])
    assert machine.phase() is Phase.STARTING
    events.write_bytes(content)
    assert machine.phase() is Phase.RUNNING
