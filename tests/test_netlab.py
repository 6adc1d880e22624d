"""The network that other tests build on: it is what its docstring says, and nothing of it is left."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from netlab import CONTROLLER_NAME, NetLab, needs_netlab
from servers import eventually, needs

pytest_plugins = ("netlab_fixtures",)


def lease(lab: NetLab, uplink: str) -> str:
    """Ask for an address with a client that only asks; returns what it was offered."""
    client = needs("busybox", "busybox-static")
    lab.device.run("ip", "link", "set", uplink, "up")
    script = lab.directory / "lease.sh"
    script.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "$ip $router $dns $mask"\n')
    script.chmod(0o755)
    return lab.device.run(client, "udhcpc", "-i", uplink, "-n", "-q", "-f", "-t", "50", "-T", "1", "-s", str(script))


def test_an_uplink_gets_a_lease_a_route_and_the_controller_by_its_name(netlab: NetLab) -> None:
    for uplink in ("eth0", "eth1"):
        router = netlab.router(uplink)
        address, *rest = lease(netlab, uplink).split()
        assert rest == [router, router, "24"]
        assert address.rpartition(".")[0] == router.rpartition(".")[0]
    netlab.start_dnsmasq(f"--dhcp-host={netlab.mac('eth0')},192.168.10.77", uplinks=("eth0",))
    address, router, *_ = lease(netlab, "eth0").split()
    assert address == "192.168.10.77"
    netlab.device.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    netlab.device.run("ip", "route", "add", "default", "via", router)
    url = netlab.serve("/hello", b"from the controller")
    answer = netlab.device.call(lambda: urllib.request.urlopen(url.replace(CONTROLLER_NAME, "203.0.113.1")).read())
    assert answer == b"from the controller"
    eventually(lambda: netlab.requests("/hello") == ["192.168.10.77"], "nginx has written its log")


def test_a_pulled_cable_is_seen_in_the_device(netlab: NetLab) -> None:
    netlab.device.run("ip", "link", "set", "eth0", "up")
    eventually(lambda: "LOWER_UP" in netlab.device.run("ip", "link", "show", "eth0"), "a carrier", 60)
    netlab.unplug("eth0")
    eventually(lambda: "NO-CARRIER" in netlab.device.run("ip", "link", "show", "eth0"), "no carrier", 60)
    netlab.plug("eth0")
    eventually(lambda: "LOWER_UP" in netlab.device.run("ip", "link", "show", "eth0"), "a carrier again", 60)


def test_nothing_of_a_lab_is_left_not_even_of_one_whose_test_was_killed(tmp_path: Path) -> None:
    needs_netlab()
    (tmp_path / "first").mkdir()
    with NetLab(tmp_path / "first") as lab:
        sleeper = lab.device.popen("sleep", "600")
        eventually(lambda: sleeper.pid in lab.device.pids(), "it is in the namespace", 60)
        namespaces = [lab.device, lab.switch, lab.controller]
        assert all(namespace.path.exists() for namespace in namespaces)
    assert sleeper.wait(timeout=60) == -9
    assert not any(namespace.path.exists() for namespace in namespaces)
    code = (
        "import os, sys, pathlib, netlab\n"
        "lab = netlab.NetLab(pathlib.Path(sys.argv[1]))\n"
        "lab.device.popen('sleep', '600')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "second").mkdir()
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{os.environ['PYTHONPATH']}"}
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "second")], env=environment)
    # Dead, and not reaped before it was looked at: another worker's lab may sweep it as soon as its pid is free.
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    left = list(Path("/run/netns").glob(f"plab{killed.pid}-*"))
    assert killed.wait(timeout=60) == -9
    assert len(left) == 3
    (tmp_path / "third").mkdir()
    with NetLab(tmp_path / "third"):
        eventually(lambda: not any(path.exists() for path in left), "whoever sweeps it to be through", 60)


def test_code_in_a_namespace_raises_here(netlab: NetLab) -> None:
    with pytest.raises(OSError, match="refused"):
        netlab.device.call(lambda: urllib.request.urlopen("http://127.0.0.1/"))
