"""Talk to the serial console of an ECO that is a virtual machine.

ECO is an app's UUID, the beginning of one, or its display name. First come the newest lines of the console's log. On a
terminal every key goes to the guest, Ctrl-C included; Ctrl-] detaches, and the guest goes on. In a pipe, standard input
goes to the guest; when it ends, output is still shown until the guest has been silent for --linger seconds.

  pillar console vm1
  echo 'ip addr' | pillar console vm1 --lines 0

One at a time: a serial port has one plug. A guest waits when its console does not take what it prints, so output that
this command cannot pass on in time is dropped, with a note.

exit status: 0 detached, or the input ended   1 there is no such ECO, it has no console now, or somebody else has it
             2 wrong usage   4 the domain ended
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from pillar.hypervisors import AUTO, Hypervisors, connect
from pillar.locations import Locations
from pillar.pubsub import PubSub
from pillar.terminal import printable
from pillar.types.domainmgr import DomainStatus

EXIT_NO_CONSOLE = 1
EXIT_ENDED = 4
DETACH = 0x1D  # Ctrl-]
CONNECT_S = 5.0
HELD_BYTES = 1 << 20  # of output that nobody takes; beyond it the oldest is dropped
LOST = b"\r\n[pillar console: output was lost here]\r\n"
_WRITE_BYTES = 4096  # what a writable pipe or terminal takes without blocking


class NoConsole(Exception):
    """There is nothing to attach to; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("eco", metavar="ECO", help="an app's UUID, the beginning of one, or its display name")
    parser.add_argument(
        "--lines", type=int, default=20, metavar="N", help="lines of the log to begin with (default 20)"
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="silence to wait for after the end of the input, in a pipe (default 1)",
    )


def run(args: argparse.Namespace) -> int:
    where = Locations(args.root)
    try:
        uuid, name = find(where, args.eco)
        path = Hypervisors(where, AUTO).console(uuid)
        if path is None:
            raise NoConsole(f"{name} has no console now; what it printed is in {where.log(uuid)}")
        with _plug(path), connect(path, CONNECT_S) as guest:
            return _attached(guest, where.log(uuid), name, args)
    except NoConsole as error:
        return _complain(f"{args.eco}: {error}")
    except OSError as error:
        return _complain(f"{args.eco}: cannot attach: {error.strerror or error}")


def find(where: Locations, wanted: str) -> tuple[str, str]:
    """UUID and display name of the one domain that `wanted` means. Raises NoConsole."""
    with PubSub(where.root) as pubsub:
        table = pubsub.subscription("domainmgr", DomainStatus)
        while pubsub.process():
            pass
        domains = table.items()
    named = {uuid for uuid, domain in domains.items() if wanted in (domain.DisplayName, domain.DomainName)}
    found = {uuid for uuid in domains if uuid == wanted.lower()} or named
    found = found or {uuid for uuid in domains if wanted and uuid.startswith(wanted.lower())}
    if len(found) == 1:
        (uuid,) = found
        return uuid, printable(domains[uuid].DisplayName or uuid)
    if found:
        raise NoConsole(f"this means {len(found)} ECOs; give the UUID of one: {', '.join(sorted(found))}")
    there = ", ".join(printable(domain.DisplayName) for domain in domains.values())
    raise NoConsole(f"there is no such ECO; there {'are ' + there if there else 'is none'}")


@contextlib.contextmanager
def _plug(path: Path) -> Iterator[None]:
    """The one plug of this serial port. A second client's connection would wait in silence until the first leaves."""
    lock = os.open(path.with_name(path.name + ".plug"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            raise NoConsole(f"another pillar console is attached, pid {holder or 'unknown'}") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _attached(guest: socket.socket, log: Path, name: str, args: argparse.Namespace) -> int:
    guest.setblocking(False)
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    held = Held(tail(log, args.lines))
    if not on_terminal:
        return Talk(guest, held, detach=False, linger_s=args.linger).run()
    print(f"attached to {name}; Ctrl-] detaches", file=sys.stderr)
    with _raw(sys.stdin.fileno()):
        status = Talk(guest, held, detach=True, linger_s=args.linger).run()
    print("\nthe domain ended" if status == EXIT_ENDED else f"\ndetached from {name}", file=sys.stderr)
    return status


class Held:
    """Output on its way to standard output. Takes everything at once, so that the guest never waits for a terminal."""

    def __init__(self, first: bytes) -> None:
        self.waiting = bytearray(first)

    def add(self, data: bytes) -> None:
        self.waiting += data
        if len(self.waiting) > HELD_BYTES:
            self.waiting[: HELD_BYTES // 2] = LOST

    def write(self, descriptor: int) -> None:
        del self.waiting[: os.write(descriptor, self.waiting[:_WRITE_BYTES])]


class Talk:
    """Passes bytes on between the guest and this process's input and output until one side ends."""

    def __init__(self, guest: socket.socket, held: Held, *, detach: bool, linger_s: float) -> None:
        self._guest = guest
        self._held = held
        self._detach = detach
        self._linger_s = linger_s
        self._to_guest = bytearray()
        self._input: int | None = sys.stdin.fileno()  # None once it has ended
        self._output = sys.stdout.fileno()
        self._guest_ended = False

    def run(self) -> int:
        while not (self._guest_ended and not self._held.waiting):
            readable, writable = self._ready()
            if not readable and not writable and self._input is None and not self._to_guest:
                return 0  # silent for long enough
            if self._output in writable:
                try:
                    self._held.write(self._output)
                except BrokenPipeError:
                    return 0  # whoever read it has had enough
            if self._guest in writable:
                self._send()
            if self._guest in readable:
                self._receive()
            if self._input in readable and self._type():
                return 0
        return EXIT_ENDED

    def _ready(self) -> tuple[list[int | socket.socket], list[int | socket.socket]]:
        reading: list[int | socket.socket] = [] if self._guest_ended else [self._guest]
        if self._input is not None and not self._to_guest:  # no more than the guest takes
            reading.append(self._input)
        writing: list[int | socket.socket] = [self._output] if self._held.waiting else []
        if self._to_guest:
            writing.append(self._guest)
        wait_s = self._linger_s if self._input is None else None
        readable, writable, _ = select.select(reading, writing, [], wait_s)
        return readable, writable

    def _receive(self) -> None:
        try:
            data = self._guest.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._guest_ended = True
            self._to_guest.clear()
        self._held.add(data)

    def _send(self) -> None:
        try:
            del self._to_guest[: self._guest.send(self._to_guest)]
        except BlockingIOError:
            return
        except ConnectionError:
            self._to_guest.clear()  # its end is seen by reading

    def _type(self) -> bool:
        """Take what was typed; True when that was to detach."""
        assert self._input is not None
        data = os.read(self._input, 4096)
        if not data:
            self._input = None
        if self._detach and DETACH in data:
            return True
        if not self._guest_ended:
            self._to_guest += data
        return False


def tail(log: Path, lines: int) -> bytes:
    """The last so many lines of a log, b"" when there is none."""
    if lines <= 0:
        return b""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            return b"".join(file.read().splitlines(keepends=True)[-lines:])
    except FileNotFoundError:
        return b""


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Every key as it is typed; the terminal is as before afterwards, whatever happens."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _complain(text: str) -> int:
    print(f"pillar console: {text}", file=sys.stderr)
    return EXIT_NO_CONSOLE
