"""Taps and veth pairs of domains, in network namespaces of the test's own; each test is a process in one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

BEFORE = """
from pathlib import Path
from pyroute2 import IPRoute
from pillar.hypervisors import HypervisorError, _vifs
from pillar.hypervisors._vifs import Owner
from pillar.types.zedrouter import VifInfo

ROOT = Path("/some/root")
A, B = Owner(ROOT, "a"), Owner(ROOT, "b")
VIF = VifInfo(Bridge="bn1", Vif="nbu1x1", Mac="02:16:3e:00:00:03")
kernel = IPRoute()

def link(name):
    return next((found for found in kernel.get_links() if found.get_attr("IFLA_IFNAME") == name), None)

def refused(call, *arguments):
    try:
        call(*arguments)
    except HypervisorError as error:
        return str(error)
    raise AssertionError("nothing was refused")
"""


def inside(script: str, *prefix: str) -> None:
    """Run a script in a new network namespace; its asserts are the test's."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    command = ["unshare", "--net", *prefix, sys.executable, "-c", BEFORE + textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr or done.stdout


def test_a_tap_is_in_its_bridge_up_and_marked_and_making_it_twice_changes_nothing() -> None:
    inside("""
        kernel.link("add", ifname="bn1", kind="bridge")
        _vifs.make_tap(VIF, A)
        first = link("nbu1x1")
        assert first.get_attr("IFLA_IFALIAS") == "pillar:/some/root:a"
        assert first.get_attr("IFLA_MASTER") == link("bn1")["index"]
        assert first["flags"] & 1
        _vifs.make_tap(VIF, A)
        assert link("nbu1x1")["index"] == first["index"]
        assert _vifs.owned(ROOT) == {"nbu1x1": "a"}
    """)


def test_a_tap_without_its_bridge_is_made_all_the_same_and_joins_it_later() -> None:
    inside("""
        _vifs.make_tap(VIF, A)
        assert link("nbu1x1").get_attr("IFLA_MASTER") is None
        kernel.link("add", ifname="bn1", kind="bridge")
        _vifs.make_tap(VIF, A)
        assert link("nbu1x1").get_attr("IFLA_MASTER") == link("bn1")["index"]
    """)


def test_what_a_kill_left_between_making_and_marking_is_made_again() -> None:
    inside("""
        kernel.link("add", ifname="nbu1x1", kind="tuntap", mode="tap")
        before = link("nbu1x1")["index"]
        _vifs.make_tap(VIF, A)
        assert link("nbu1x1")["index"] != before
        assert _vifs.owned(ROOT) == {"nbu1x1": "a"}
    """)


def test_links_of_others_are_neither_taken_nor_removed() -> None:
    inside("""
        kernel.link("add", ifname="nbu1x1", kind="bridge")
        assert "nbu1x1, not made by" in refused(_vifs.make_tap, VIF, A)
        other = VifInfo(Vif="nbu2x1")
        _vifs.make_tap(other, Owner(Path("/other"), "a"))
        assert "pillar:/other:a" in refused(_vifs.make_tap, other, A)
        _vifs.make_tap(VifInfo(Vif="nbu3x1"), B)
        assert "pillar:/some/root:b" in refused(_vifs.make_tap, VifInfo(Vif="nbu3x1"), A)
        _vifs.remove(A)
        assert link("nbu1x1") and link("nbu2x1") and link("nbu3x1")
        assert _vifs.sweep(ROOT, keep={"b"}, kind="tun") == []
        assert _vifs.sweep(ROOT, keep={"a"}, kind="veth") == []
        assert _vifs.sweep(ROOT, keep={"a"}, kind="tun") == ["nbu3x1"]
        assert link("nbu1x1") and link("nbu2x1") and not link("nbu3x1")
    """)


def test_removing_can_keep_some_and_is_success_when_there_is_nothing() -> None:
    inside("""
        _vifs.remove(A)
        for name in ("nbu1x1", "nbu1x2"):
            _vifs.make_tap(VifInfo(Vif=name), A)
        _vifs.remove(A, keep={"nbu1x2"})
        assert _vifs.owned(ROOT) == {"nbu1x2": "a"}
        _vifs.remove(A)
        assert _vifs.owned(ROOT) == {}
    """)


def test_roots_with_long_paths_are_still_told_apart() -> None:
    inside("""
        one, two = Owner(Path("/" + "x" * 300), "a"), Owner(Path("/" + "y" * 300), "a")
        _vifs.make_tap(VIF, one)
        assert _vifs.owned(one.root) == {"nbu1x1": "a"}
        assert _vifs.owned(two.root) == {}
    """)


@pytest.fixture
def namespace() -> Iterator[Path]:
    """A network namespace, as a container has one."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Path(f"/proc/{process.pid}/ns/net")
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")
def test_a_veth_pair_reaches_into_the_containers_namespace_with_its_mac(namespace: Path) -> None:
    inside(f"""
        kernel.link("add", ifname="bn1", kind="bridge")
        space = Path({str(namespace)!r})
        for _ in range(2):  # making it again is allowed
            _vifs.make_veth(VIF, A, space, "eth0")
            with IPRoute(netns=str(space)) as inner:
                (index,) = inner.link_lookup(ifname="eth0")
                end = inner.get_links(index)[0]
                assert end.get_attr("IFLA_ADDRESS") == VIF.Mac
                assert end["flags"] & 1
            assert link("nbu1x1").get_attr("IFLA_MASTER") == link("bn1")["index"]
            assert _vifs.owned(ROOT) == {{"nbu1x1": "a"}}
        _vifs.remove(A)
        with IPRoute(netns=str(space)) as inner:
            assert not list(inner.link_lookup(ifname="eth0"))
        assert "No such file" in refused(_vifs.make_veth, VIF, A, Path("/run/netns/there-is-none"), "eth0")
    """)


def test_errors_say_which_vif_and_what_to_do() -> None:
    inside("""
        assert refused(_vifs.make_tap, VifInfo(Bridge="bn1"), A) == "a vif of the domain has no name"
        assert "'much-too-long-for-a-link'" in refused(_vifs.make_tap, VifInfo(Vif="much-too-long-for-a-link"), A)
    """)
    inside(
        'assert "CAP_NET_ADMIN" in refused(_vifs.make_tap, VIF, A)',
        "setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
    )  # fmt: skip
