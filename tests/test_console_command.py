"""`pillar console` against real QEMUs whose boot sector echoes; at a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from domainmgr_device import OTHER, UUID, Device, but, eco
from servers import needs
from support import wait_for
from vm_images import ECHO, boot_disk, seed_kvm_answer

from pillar.types.domainmgr import DomainConfig
from pillar.types.enums import SwState

pytest_plugins = ("domainmgr_fixtures",)
PATIENCE_S = 60.0
# Prints the letter z for ever, as fast as the port takes it.
TALKATIVE = b"\xba\xf8\x03\xb0z\xee\xeb\xf8"


@pytest.fixture
def attached(device: Device) -> Device:
    """A device with one VM that says "up" and then echoes."""
    needs("qemu-system-x86_64", "qemu-system-x86")
    needs("qemu-img", "qemu-utils")
    seed_kvm_answer(device.where.root)
    device.want(machine(device, ECHO))
    device.start("--stop-grace", "0.2")
    running(device)
    device.says("up", seconds=PATIENCE_S)
    return device


def machine(device: Device, then: bytes) -> DomainConfig:
    return but(eco(device.image(boot_disk("up", then))), Memory=16 * 1024, VCpus=1, DisplayName="my-vm")


def running(device: Device, uuid: str = UUID) -> int:
    status = device.until(lambda found: found.State == SwState.RUNNING, "RUNNING", uuid, PATIENCE_S)
    return int(status.DomainId)


def command(device: Device, *words: str) -> list[str]:
    return [sys.executable, "-m", "pillar", "console", "--root", str(device.where.root), *words]


def console(device: Device, *words: str, typed: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        command(device, *words), input=typed.encode(), capture_output=True, check=False, timeout=PATIENCE_S
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_in_a_pipe_input_goes_to_the_guest_and_its_answer_comes_back(attached: Device) -> None:
    for words, first in (((UUID[:9],), b"up"), (("my-vm", "--lines", "0"), b"")):
        process = subprocess.Popen(
            command(attached, *words, "--linger", "0.1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello")
        process.stdin.flush()
        assert Heard(process.stdout.fileno()).until(b"hello") == first + b"hello"
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE_S) == 0
        process.stdout.close()
    wait_for(lambda: attached.output() == "uphellohello", "QEMU's log, which it writes last", PATIENCE_S)


def test_an_eco_without_a_console_or_an_unknown_one_is_an_error_with_its_reason(attached: Device) -> None:
    attached.want(eco(attached.image("#!/bin/sh\nexec sleep 600\n"), OTHER))
    running(attached, OTHER)
    status, _, error = console(attached, OTHER)
    assert status == 1
    assert f"eco has no console now; what it printed is in {attached.where.log(OTHER)}" in error
    status, _, error = console(attached, "nobody")
    assert status == 1
    assert "there is no such ECO; there are " in error
    status, _, error = console(attached, UUID[:4])
    assert status == 1
    assert f"this means 2 ECOs; give the UUID of one: {UUID}, {OTHER}" in error


class Heard:
    """What comes out of a descriptor, in its order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = b""

    def until(self, text: bytes) -> bytes:
        """All up to and with this text; what follows is for the next call."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._unread:
            ready = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"{text!r} was expected after {self._unread!r}"
            self._unread += os.read(self._descriptor, 4096)
        found, self._unread = self._unread.split(text, 1)
        return found + text


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_at_a_terminal_every_key_goes_to_the_guest_and_the_detach_key_leaves_it_running(
    attached: Device, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    screen = Heard(ours)
    before = running(attached)
    process = subprocess.Popen(command(attached, "my-vm"), stdin=theirs, stdout=theirs, stderr=theirs)
    screen.until(b"Ctrl-] detaches")
    screen.until(b"up")
    os.write(ours, b"\x03x")
    screen.until(b"\x03x")
    status, _, error = console(attached, "my-vm")
    assert (status, f"another pillar console is attached, pid {process.pid}" in error) == (1, True)
    os.write(ours, b"\x1d")
    screen.until(b"detached from my-vm")
    assert process.wait(PATIENCE_S) == 0
    assert running(attached) == before


def test_the_end_of_the_domain_is_told(attached: Device, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    screen = Heard(ours)
    process = subprocess.Popen(command(attached, "my-vm"), stdin=theirs, stdout=theirs, stderr=theirs)
    screen.until(b"up")
    os.kill(running(attached), signal.SIGKILL)
    screen.until(b"the domain ended")
    assert process.wait(PATIENCE_S) == 4


def test_a_terminal_that_takes_nothing_does_not_stop_the_guest(device: Device) -> None:
    needs("qemu-system-x86_64", "qemu-system-x86")
    seed_kvm_answer(device.where.root)
    device.want(machine(device, TALKATIVE))
    device.start("--stop-grace", "0.2")
    running(device)
    reader, writer = os.pipe()
    process = subprocess.Popen(command(device, "my-vm"), stdin=subprocess.PIPE, stdout=writer)
    try:
        assert select.select([reader], [], [], PATIENCE_S)[0]  # it is attached, and nobody reads on
        log: Path = device.where.log(UUID)
        size = log.stat().st_size
        wait_for(lambda: log.stat().st_size > size + (100 << 10), "the guest to print on", PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        os.close(reader)
        os.close(writer)
