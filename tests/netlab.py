"""A small network of namespaces for tests of real networking: a device with two uplinks, and what is at their far end.

    device                      switch                        controller ("outside")
    eth0 ------------------- to-dev0 [lan0] to-ctl0 --------- lan0  192.168.10.1   nginx: ports 80 and 443 everywhere
    eth1 ------------------- to-dev1 [lan1] to-ctl1 --------- lan1  192.168.20.1   dnsmasq: DHCP on both, DNS
    (down, no address)                                        lo    203.0.113.1    the name controller.test

The device's uplinks have real carrier: `unplug("eth0")` takes the switch's end down, and the device sees its cable
pulled. Nothing in the device is configured; `device.run("ip", ...)` or an agent does that. DHCP gives an uplink an
address between .100 and .150 of its LAN, the controller as router and as name server, for LEASE_S (dnsmasq's least).

    def test_something(netlab: NetLab, root: Path) -> None:               # pytest_plugins = ("netlab_fixtures",)
        agent = AgentProcess(root, "nim", netlab.device.enter).start()     # an agent inside the device
        with Device(root, netlab.device.enter) as device: ...              # all of them, under a supervisor
        netlab.device.run("ip", "-j", "addr")                              # a command, its output
        netlab.controller.call(lambda: urlopen("http://192.168.10.2:8080"))  # this process's own code, from outside

Needs root, iproute2, nsenter, dnsmasq and nginx: skipped with the reason without them, failed with CI=true. Each lab
has namespaces of its own (`ip netns` shows them as plab<pid>-<number>-device and so on), so xdist workers do not meet.
Whatever runs in them is killed with the lab; a lab of a pytest that was itself killed is swept by the next one.
Namespaces and cgroups that a test makes itself (an app's, a container's) are the test's to remove.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pytest
from servers import Authority, eventually, needs

T = TypeVar("T")

UPLINKS: Final = ("eth0", "eth1")
CONTROLLER: Final = "203.0.113.1"
CONTROLLER_NAME: Final = "controller.test"
LEASE_S: Final = 120

_NETNS: Final = Path("/run/netns")  # where `ip netns` keeps them
_CLONE_NEWNET: Final = 0x40000000
_NAME: Final = re.compile(r"plab(\d+)-\d+-\w+")
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def needs_netlab() -> None:
    """Skips the test where a lab cannot be built, fails it when CI=true."""
    needs("ip", "iproute2")
    needs("nsenter", "util-linux")
    needs("dnsmasq", "dnsmasq-base")
    needs("nginx", "nginx-light")
    probe = f"plab{os.getpid()}-{next(_numbers)}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    if made.returncode != 0:
        reason = f"network namespaces cannot be made here (needs root): {made.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


class Namespace:
    """One network namespace, which `create` makes, and ways to do something in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = _NETNS / name
        # Put in front of a command. Not `ip netns exec`: that hides /sys/fs/cgroup, which runc needs; on the other hand
        # /sys/class/net shows the interfaces of the machine here.
        self.enter = ("nsenter", f"--net={self.path}")

    @classmethod
    def of(cls, pid: int) -> Self:
        """The namespace in which this process is, a container's: to do something in, neither to make nor to delete."""
        found = cls(f"the namespace of {pid}")
        found.path = Path(f"/proc/{pid}/ns/net")
        found.enter = ("nsenter", f"--net={found.path}")
        return found

    def create(self) -> None:
        _ip("netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *words: str, check: bool = True, timeout_s: float = 60) -> str:
        """The output of a command in here; fails the test with what it wrote when it fails."""
        done = subprocess.run([*self.enter, *words], capture_output=True, text=True, check=False, timeout=timeout_s)
        assert done.returncode == 0 or not check, f"{self.name}: {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process in here that goes on; it is killed with the lab at the latest."""
        return subprocess.Popen([*self.enter, *words], **options)

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises, called in a thread that is in here (its sockets stay in here)."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                with open(self.path, "rb") as namespace:
                    if _libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"cannot enter {self.path}")
                results.append(function())
            except BaseException as err:  # noqa: BLE001  the caller's thread raises it
                errors.append(err)

        thread = threading.Thread(target=work, name=f"in {self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def pids(self) -> list[int]:
        """The processes in here, ended ones that nobody has waited for not counted."""
        inode = self.path.stat().st_ino
        found = []
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):  # ended meanwhile
                    if (directory / "ns" / "net").stat().st_ino == inode:
                        found.append(int(directory.name))
        return [pid for pid in found if pid != os.getpid()]

    def delete(self) -> None:
        """Kill whatever runs in here, then remove it; its interfaces go with it."""

        def empty() -> bool:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.pids()

        if self.path.exists():
            eventually(empty, f"the processes in {self.name} to end", 60)
            _ip("netns", "del", self.name)


class NetLab:
    """The three namespaces, their cables and servers. With `with`: nothing of it is left afterwards."""

    def __init__(self, directory: Path) -> None:
        """`directory` is for the servers' files; it must exist."""
        needs_netlab()
        _sweep()
        self.directory = directory
        self.web_root = directory / "web"
        self.access_log = directory / "access.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._made: list[Namespace] = []
        number = next(_numbers)
        try:
            self.device, self.switch, self.controller = (
                self._namespace(f"plab{os.getpid()}-{number}-{role}") for role in ("device", "switch", "controller")
            )
            for which, uplink in enumerate(UPLINKS):
                self._cable(which, uplink)
            self.controller.run("ip", "addr", "add", f"{CONTROLLER}/32", "dev", "lo")
            self._start_nginx()
            self.start_dnsmasq()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- cables

    def unplug(self, uplink: str) -> None:
        """Pull the cable: the device's end loses its carrier."""
        self.switch.run("ip", "link", "set", f"to-dev{UPLINKS.index(uplink)}", "down")

    def plug(self, uplink: str) -> None:
        """Put the cable back."""
        self.switch.run("ip", "link", "set", f"to-dev{UPLINKS.index(uplink)}", "up")

    def router(self, uplink: str) -> str:
        """The controller's address on the LAN of this uplink: its router, name server and DHCP server."""
        return f"{_prefix(UPLINKS.index(uplink))}.1"

    def mac(self, uplink: str) -> str:
        return f"02:00:00:00:00:0{UPLINKS.index(uplink)}"

    # ---- the web server, seen as http://controller.test, http://203.0.113.1 or by the router's address of an uplink;
    # by https under its name only, with a certificate below `root_certificate`

    def serve(self, path: str, content: bytes) -> str:
        """Make `content` what nginx answers for `path`, all of it at once; returns the URL by the controller's name."""
        place = self.web_root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        staged = place.with_name(f".{place.name}.new")
        staged.write_bytes(content)
        staged.rename(place)
        return f"http://{CONTROLLER_NAME}/{path.lstrip('/')}"

    def requests(self, path: str = "") -> list[str]:
        """The client address of every request so far, or of those for this path.

        nginx writes its log after the answer: whoever has just been answered waits for the line.
        """
        whole_lines = self.access_log.read_text().rpartition("\n")[0]  # nginx may be writing another one
        lines = [line.split() for line in whole_lines.splitlines()]
        return [client for client, method, asked, status in lines if not path or asked == path]

    # ---- DHCP and DNS

    def start_dnsmasq(self, *options: str, uplinks: tuple[str, ...] = UPLINKS) -> None:
        """Start DHCP (for these uplinks) and DNS, in place of what runs; `options` are dnsmasq's, and come first.

        What was leased is forgotten. An address for one uplink: `--dhcp-host=<lab.mac("eth0")>,192.168.10.77`.
        """
        self.stop_dnsmasq()
        ranges = []
        for uplink in uplinks:
            prefix = _prefix(UPLINKS.index(uplink))
            ranges += [f"--dhcp-range={prefix}.100,{prefix}.150,255.255.255.0,{LEASE_S}"]
        log = self.directory / "dnsmasq.log"
        self._processes["dnsmasq"] = self.controller.popen(
            *(needs("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null"),
            *("--no-hosts", "--no-resolv", *options, *ranges, "--interface=lan0,lan1", "--bind-interfaces"),
            *("--dhcp-authoritative", "--no-ping", "--log-dhcp", "--user=root", "--group=root", "--domain=lab.test"),
            *(f"--host-record={CONTROLLER_NAME},{CONTROLLER}", f"--pid-file={self.directory}/dnsmasq.pid"),
            *(f"--dhcp-leasefile={self.directory}/leases", f"--log-facility={log}"),
        )
        eventually(lambda: self._listens("53"), "dnsmasq answers", 60)

    def stop_dnsmasq(self) -> None:
        """No DHCP and no DNS any more."""
        self._end("dnsmasq")
        (self.directory / "leases").unlink(missing_ok=True)

    def logs(self) -> str:
        """What the servers wrote, for the message of a failed test."""
        names = ("dnsmasq.log", "access.log", "error.log")
        return "\n".join(
            f"--- {name}\n{(self.directory / name).read_text()[-4000:]}"
            for name in names
            if (self.directory / name).exists()
        )

    def close(self) -> None:
        for name in list(self._processes):
            self._end(name)
        for namespace in self._made:
            namespace.delete()

    # ---- building it

    def _namespace(self, name: str) -> Namespace:
        made = Namespace(name)
        self._made.append(made)
        made.create()
        return made

    def _cable(self, which: int, uplink: str) -> None:
        device, controller = self.device.name, self.controller.name
        lan, to_device, to_controller = f"lan{which}", f"to-dev{which}", f"to-ctl{which}"
        switch = (
            f"link add {lan} type bridge",
            f"link add {to_device} type veth peer name {uplink} address {self.mac(uplink)} netns {device}",
            f"link add {to_controller} type veth peer name {lan} netns {controller}",
            *(f"link set {port} master {lan} up" for port in (to_device, to_controller)),
            f"link set {lan} up",
        )
        self.switch.run("sh", "-c", f"printf '{chr(10).join(switch)}\\n' | ip -batch -")
        self.controller.run("ip", "addr", "add", f"{_prefix(which)}.1/24", "dev", lan)
        self.controller.run("ip", "link", "set", lan, "up")

    def _start_nginx(self) -> None:
        self.web_root.mkdir()
        here = self.directory
        authority = Authority("lab root")
        self.root_certificate, _ = authority.write(here, "root")
        certificate, key = authority.issue("controller", ca=False, hosts=(CONTROLLER_NAME,)).write(here, "controller")
        temporary = " ".join(
            f"{kind}_temp_path {here}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = here / "nginx.conf"
        config.write_text(
            f"daemon off; user root; worker_processes 1; pid {here}/nginx.pid; error_log {here}/error.log; events {{}}"
            f"http {{ default_type application/octet-stream; types {{ application/x-ns-proxy-autoconfig dat; }} "
            "log_format from '$remote_addr $request_method $uri $status';"
            f"access_log {self.access_log} from; {temporary} "
            "server { listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl; "
            f"ssl_certificate {certificate}; ssl_certificate_key {key};"
            f"root {self.web_root}; }} }}"
        )
        self._processes["nginx"] = self.controller.popen(
            needs("nginx", "nginx-light"), "-c", str(config), "-e", str(here / "error.log")
        )
        eventually(lambda: self._listens("80"), "nginx answers", 60)

    def _listens(self, port: str) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended\n{self.logs()}"
        return f":{port} " in self.controller.run("ss", "-Hltn")

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(timeout=60)


def _prefix(which: int) -> str:
    return f"192.168.{10 * (which + 1)}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _sweep() -> None:
    """Remove the labs of test processes that are no more."""
    for name in _abandoned():
        with contextlib.suppress(AssertionError, FileNotFoundError):  # another worker sweeps it too
            Namespace(name).delete()


def _abandoned() -> Iterator[str]:
    for path in sorted(_NETNS.glob("plab*")):
        named = _NAME.fullmatch(path.name)
        if named is not None and not Path(f"/proc/{named[1]}").exists():
            yield path.name
