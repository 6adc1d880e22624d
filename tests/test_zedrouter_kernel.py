"""zedrouter's own network in a real namespace: guests with leases, uplinks with cables, kills and people's commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from netlab import NetLab
from routerlab import LAN, Router, comes, fetch, uuid

pytest_plugins = ("netlab_fixtures",)


@pytest.fixture
def router(netlab: NetLab, root: Path, tmp_path: Path) -> Iterator[Router]:
    router = Router(netlab, root, tmp_path)
    try:
        yield router
    finally:
        print(router.agent.log_text[-6000:] if router.agent.process is not None else "")
        router.close()


def test_a_guest_gets_its_lease_a_name_and_a_page_from_outside(router: Router) -> None:
    router.lab.serve("/hello", b"from outside")
    router.plug("eth0", "eth1")
    router.instance()
    router.app(1, LAN)
    router.agent.start()
    guest = router.guest(1)
    address = router.address(1)
    assert f" {address}/24 " in guest.run("ip", "-4", "addr")
    assert fetch(guest, "http://203.0.113.1/hello") == "from outside"
    assert router.lab.requests("/hello") == ["192.168.10.2"]  # the uplink's address
    assert address in guest.run("busybox", "nslookup", uuid(1), "10.1.0.1")
    comes(lambda: router.up(1)["UnderlayNetworkList"][0]["Assigned"], "the lease is told")
    assert router.instances.wait(LAN, ProgUplinkIntf="eth0", Error="")["BridgeIPAddr"] == "10.1.0.1"
