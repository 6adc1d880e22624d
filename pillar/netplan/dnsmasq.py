"""One dnsmasq per bridge with an address: DHCP with static leases, and DNS.

    run/zedrouter/dnsmasq.<bridge>.conf         what needs a restart to change
    run/zedrouter/hosts.<bridge>/               names, one file each                       read again at SIGHUP
    run/zedrouter/dhcp-hosts.<bridge>/          `<mac>.inet` or `.inet6`: who gets what    read again at SIGHUP
    run/zedrouter/dhcp-opts.<bridge>            what guests are told                       read again at SIGHUP
    run/zedrouter/servers.<bridge>              whom dnsmasq asks, and by which uplink     read again at SIGHUP
    run/zedrouter/dnsmasq.<bridge>.leases       dnsmasq's own

The process outlives zedrouter and is found again by the path of its configuration in its command line, which names this
root, whoever started it and whatever was written down before a kill. Its environment says which configuration it was
started with, and for which interface (a bridge that was deleted and made anew has another index, and dnsmasq's DHCP
socket is bound to the old one). What it has read since stands in `dnsmasq.<bridge>.read`, written after the SIGHUP: a
kill before that gives one SIGHUP more.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pillar.locations import Locations
from pillar.netplan.state import Dhcp

LEASE: Final = "10m"  # as EVE
_VARIABLE: Final = "PILLAR_DNSMASQ"
_END_S: Final = 5.0
_FIRST_WAIT_S: Final = 0.5  # after a start that failed; doubled each time
_LONGEST_WAIT_S: Final = 60.0
_STABLE_S: Final = 5.0
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")  # of a host or domain: also the name of a file


class DnsmasqError(Exception):
    """dnsmasq is missing, does not start, or does not end."""


@dataclass(frozen=True)
class Files:
    """What one dnsmasq is given: path below run/zedrouter -> content."""

    start: Mapping[str, str]  # read once
    again: Mapping[str, str]  # read at SIGHUP


def files(dhcp: Dhcp, mark: str, directory: Path) -> Files:
    """The files for one bridge. Pure."""
    bridge, network = dhcp.bridge, ipaddress.ip_network(dhcp.network)
    six = network.version == 6
    config = [
        f"# of {mark}, made by zedrouter; changes are overwritten",
        f"interface={bridge}",
        "bind-interfaces",
        "except-interface=lo",
        "user=root",
        "group=root",
        f"pid-file={directory}/dnsmasq.{bridge}.pid",
        "no-hosts",
        "no-resolv",
        "no-poll",
        "no-ping",
        "domain-needed",
        "bogus-priv",
        "stop-dns-rebind",
        "dhcp-authoritative",
        f"dhcp-range={network.network_address},static,{f'{network.prefixlen}' if six else network.netmask},{LEASE}",
        f"dhcp-leasefile={directory}/dnsmasq.{bridge}.leases",
        f"dhcp-hostsfile={directory}/dhcp-hosts.{bridge}",
        f"dhcp-optsfile={directory}/dhcp-opts.{bridge}",
        f"servers-file={directory}/servers.{bridge}",
        f"addn-hosts={directory}/hosts.{bridge}",
    ]
    if six:
        config.append("enable-ra")  # which router there is, DHCPv6 does not tell
    if _NAME.fullmatch(dhcp.domain):
        config.append(f"domain={dhcp.domain}")
    config += [f"nftset=/{name}/{version}#inet#{mark}#{where}" for name, version, where in dhcp.sets]
    option = "option6:" if six else "option:"
    options = []
    if not six:
        options.append(f"{option}router,{dhcp.router}" if dhcp.router else f"{option}router")
    if dhcp.dns:
        options.append(f"{option}dns-server,{','.join(f'[{server}]' if six else server for server in dhcp.dns)}")
    elif not dhcp.router and not six:
        options.append(f"{option}dns-server")  # nobody to ask where nothing leads out, as in EVE
    if dhcp.ntp:
        options.append(f"{option}ntp-server,{dhcp.ntp}")
    again = {
        f"dhcp-opts.{bridge}": "".join(f"{line}\n" for line in options),
        f"servers.{bridge}": "".join(f"server={server}@{uplink}\n" for server, uplink in dhcp.upstream),
    }
    for mac, address, name in dhcp.leases:
        family = "inet6" if ":" in address else "inet"
        told = f"[{address}]" if ":" in address else address
        again[f"dhcp-hosts.{bridge}/{mac}.{family}"] = f"{mac},{told},{name}\n"
    names: dict[str, list[str]] = {}
    for address, name in dhcp.hosts:
        if not _NAME.fullmatch(name):
            continue
        names.setdefault(name, []).append(address)
    for name, addresses in names.items():
        again[f"hosts.{bridge}/{name}"] = "".join(f"{address} {name}\n" for address in addresses)
    return Files({f"dnsmasq.{bridge}.conf": "".join(f"{line}\n" for line in config)}, again)


@dataclass(frozen=True)
class Running:
    """One dnsmasq of ours that runs."""

    bridge: str
    pid: int
    started_with: str  # fingerprint of its configuration and interface
    here: bool  # in the namespace that we are in


def find(where: Locations) -> list[Running]:
    """Every dnsmasq with a configuration of this root, from /proc."""
    prefix = f"--conf-file={where.agent_dir('zedrouter')}/dnsmasq."
    own = os.stat("/proc/self/ns/net").st_ino
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        path = next((word for word in map(os.fsdecode, words[:4]) if word.startswith(prefix)), None)
        if path is None or os.path.basename(os.fsdecode(words[0])) != "dnsmasq":
            continue
        with contextlib.suppress(OSError):
            variables = Path("/proc", name, "environ").read_bytes().split(b"\0")
            started = next((v for v in map(os.fsdecode, variables) if v.startswith(f"{_VARIABLE}=")), "")
            here = os.stat(f"/proc/{name}/ns/net").st_ino == own
            bridge = path.removeprefix(prefix).removesuffix(".conf")
            found.append(Running(bridge, int(name), started.partition("=")[2], here))
    return found


def write(directory: Path, wanted: Mapping[str, str], bridge: str) -> None:
    """Make the files so, each whole; files of this bridge that are not wanted go. Raises OSError."""
    for path, text in wanted.items():
        target = directory / path
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            if target.read_text() == text:
                continue
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = target.parent.parent / f".{target.name}.new" if "/" in path else directory / f".{target.name}.new"
        staged.write_text(text)
        os.rename(staged, target)
    for folder in (f"hosts.{bridge}", f"dhcp-hosts.{bridge}"):
        (directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (directory / folder).iterdir():
            if f"{folder}/{left.name}" not in wanted:
                left.unlink(missing_ok=True)


def fingerprint(wanted: Mapping[str, str], index: int = 0) -> str:
    text = "\0".join(f"{path}\0{content}" for path, content in sorted(wanted.items()))
    return f"{index}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class Dnsmasqs:
    """The processes of one root. Call it from one thread."""

    def __init__(
        self, where: Locations, closing: Callable[[int], None] = lambda fd: None, *, tidy: bool = True
    ) -> None:
        """`closing` is told of each descriptor of `pidfds` before it is closed. Not `tidy`: only look, end nothing."""
        self._tidy = tidy
        self._where = where
        self._closing = closing
        self.directory = where.agent_dir("zedrouter")
        self._known: dict[str, tuple[Running, int]] = {}  # by bridge, with a pidfd
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._look_again = True
        self._starts: dict[str, tuple[float, int]] = {}  # by bridge: when it was started last, failures in a row

    def pidfds(self) -> dict[int, str]:
        """Descriptors that become readable when a process ends, and its bridge."""
        return {fd: bridge for bridge, (_, fd) in self._known.items()}

    def survey(self) -> dict[str, Running]:
        """What runs. Of two for one bridge, and of those in another namespace, none is kept."""
        for bridge, (running, fd) in list(self._known.items()):
            if select.select([fd], [], [], 0)[0]:
                self._forget(bridge)
                self._look_again = True
                if (child := self._children.pop(running.pid, None)) is not None:
                    child.wait()
        if self._look_again:
            self._look_again = False
            for running in find(self._where):
                known = self._known.get(running.bridge)
                if known is not None and known[0].pid == running.pid:
                    continue
                if known is not None or not running.here:
                    if self._tidy:
                        _end(running.pid)
                    continue
                with contextlib.suppress(OSError):
                    self._known[running.bridge] = running, os.pidfd_open(running.pid)
        return {bridge: running for bridge, (running, _) in self._known.items()}

    def keep(self, dhcp: Dhcp, mark: str, index: int) -> str:
        """Make the dnsmasq of this bridge run as it should; what was done, for the log, "" for nothing.

        `index` is the bridge's. Raises DnsmasqError and OSError.
        """
        wanted = files(dhcp, mark, self.directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(self.directory, {**wanted.start, **wanted.again}, dhcp.bridge)
        started, read = fingerprint(wanted.start, index), fingerprint(wanted.again)
        stamp = self.directory / f"dnsmasq.{dhcp.bridge}.read"
        running = self.survey().get(dhcp.bridge)
        if running is not None and running.started_with != started:
            self.stop(dhcp.bridge)
            running = None
        if running is None:
            self._pause(dhcp.bridge)
            pid = self._start(dhcp.bridge, started)
            stamp.write_text(f"{pid} {read}")
            return f"dnsmasq for {dhcp.bridge} started with pid {pid}"
        if _text(stamp) != f"{running.pid} {read}":
            if _text(self.directory / f"dnsmasq.{dhcp.bridge}.pid").strip() != str(running.pid):
                raise DnsmasqError(f"dnsmasq for {dhcp.bridge} is still starting")  # a SIGHUP would end it now
            os.kill(running.pid, signal.SIGHUP)
            stamp.write_text(f"{running.pid} {read}")
            return f"dnsmasq for {dhcp.bridge} reads its files again"
        return ""

    def _pause(self, bridge: str) -> None:
        """Raises DnsmasqError while the last start failed only just now."""
        started, failures = self._starts.get(bridge, (0.0, -1))
        now = time.monotonic()
        ran_s = now - started
        if failures < 0 or ran_s >= _LONGEST_WAIT_S:
            self._starts[bridge] = now, 0
            return
        wait_s = min(_FIRST_WAIT_S * 2**failures, _LONGEST_WAIT_S) if failures else 0.0
        if ran_s < wait_s:
            lines = _text(self.directory / f"dnsmasq.{bridge}.log").strip().splitlines()
            said = f": {lines[-1]}" if lines else ""
            raise DnsmasqError(f"dnsmasq for {bridge} does not stay up{said}")
        self._starts[bridge] = now, 0 if ran_s >= _STABLE_S else failures + 1

    def needs(self, dhcp: Dhcp, mark: str, index: int) -> str:
        """What `keep` would do, for a person; "" for nothing."""
        wanted = files(dhcp, mark, self.directory)
        running = self.survey().get(dhcp.bridge)
        if running is None or running.started_with != fingerprint(wanted.start, index):
            return f"start dnsmasq for {dhcp.bridge}" + (" anew" if running is not None else "")
        on_disk = all(_text(self.directory / path) == text for path, text in wanted.again.items())
        stamp = _text(self.directory / f"dnsmasq.{dhcp.bridge}.read")
        if not on_disk or stamp != f"{running.pid} {fingerprint(wanted.again)}":
            return f"have dnsmasq for {dhcp.bridge} read its files again"
        return ""

    def forget_answers(self, bridge: str) -> None:
        """Have the next `keep` empty its cache: of an answer from there, addresses go to no set."""
        (self.directory / f"dnsmasq.{bridge}.read").unlink(missing_ok=True)

    def stop(self, bridge: str) -> None:
        """End the process. Raises DnsmasqError when it does not."""
        known = self._known.get(bridge)
        if known is None:
            return
        running, fd = known
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)  # its leases are on disk at every change
        if not select.select([fd], [], [], _END_S)[0]:
            raise DnsmasqError(f"dnsmasq for {bridge} (pid {running.pid}) does not end")
        if (child := self._children.pop(running.pid, None)) is not None:
            child.wait()
        self._forget(bridge)

    def remove(self, bridge: str) -> None:
        """End the process and remove its files; last the one by which `bridges` knows that there are some."""
        self.stop(bridge)
        config = self.directory / f"dnsmasq.{bridge}.conf"
        for path in (*self.directory.glob(f"dnsmasq.{bridge}.*"), *self.directory.glob(f"*.{bridge}")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != config:
                path.unlink(missing_ok=True)
        config.unlink(missing_ok=True)

    def bridges(self) -> set[str]:
        """Bridges for which a process runs or a configuration is left."""
        paths = self.directory.glob("dnsmasq.*.conf")
        return set(self.survey()) | {path.name.split(".")[1] for path in paths}

    def _start(self, bridge: str, started_with: str) -> int:
        program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin:/sbin")
        if program is None:
            raise DnsmasqError("dnsmasq is not installed (Debian package dnsmasq-base), so its guests get no addresses")
        with (self.directory / f"dnsmasq.{bridge}.log").open("ab") as log:
            child = subprocess.Popen(
                [program, f"--conf-file={self.directory}/dnsmasq.{bridge}.conf", "--keep-in-foreground"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", _VARIABLE: started_with},
                start_new_session=True,  # it outlives zedrouter
                cwd="/",
            )
        self._children[child.pid] = child
        self._known[bridge] = Running(bridge, child.pid, started_with, True), os.pidfd_open(child.pid)
        return child.pid

    def _forget(self, bridge: str) -> None:
        _, fd = self._known.pop(bridge)
        self._closing(fd)
        os.close(fd)


def leases(directory: Path, bridge: str) -> set[tuple[str, str]]:
    """(MAC, address) of every lease that this bridge's dnsmasq has given."""
    found = set()
    for line in _text(directory / f"dnsmasq.{bridge}.leases").splitlines():
        words = line.split()
        if len(words) >= 4:
            found.add((words[1].lower(), words[2]))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _end(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
