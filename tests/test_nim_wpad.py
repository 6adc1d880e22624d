"""PAC files that nim looks for: by URL and by WPAD, with a real DHCP server, name server and web server."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from netlab import CONTROLLER
from nimlab import PATIENCE_S, Managed, port
from servers import Authority, Fault, FaultServer

from pillar.cmd.nim import wpad
from pillar.cmd.nim.wpad import Search, find
from pillar.workers import Cancel

pytest_plugins = ("netlab_fixtures", "nimlab_fixtures")

KIND = {"Content-Type": "application/x-ns-proxy-autoconfig"}


def pac(answer: str) -> bytes:
    return f'function FindProxyForURL(url, host) {{ return "{answer}"; }}'.encode()


def coded(text: bytes) -> str:
    return base64.b64encode(text).decode()


# ---- in a network


def test_the_file_of_the_domain_above_is_found_and_the_controller_is_asked_as_it_says(managed: Managed) -> None:
    lab = managed.lab
    lab.start_dnsmasq("--dhcp-option=option:domain-name,site.lab.test", f"--host-record=wpad.lab.test,{CONTROLLER}")
    lab.serve("/wpad.dat", pac(f"PROXY {CONTROLLER}:9"))  # where nobody is
    managed.overrides.write("auto", Version=1, Ports=[port(NetworkProxyEnable=True)])
    managed.agent.start()
    managed.wait_failed("auto", f"by http://{CONTROLLER}:9")
    managed.overrides.remove("auto")
    lab.serve("/wpad.dat", pac("DIRECT"))
    managed.overrides.write("again", Version=1, Ports=[port(NetworkProxyEnable=True)])
    managed.wait_in_force("again")
    assert "port config auto of 1970-" not in managed.agent.log_text  # what is gone is not a config of another time
    shown = managed.port("eth0")
    assert (shown["Pacfile"], shown["WpadURL"]) == (coded(pac("DIRECT")), "http://wpad.lab.test/wpad.dat")
    assert (shown["Error"], shown["DomainName"]) == ("", "site.lab.test")
    assert lab.requests("/wpad.dat")[-1:] == managed.shown("eth0")
    # Whoever comes after a kill begins with the file, although nobody answers now.
    lab.stop_dnsmasq()
    managed.agent.kill()
    managed.agent.start()
    assert managed.port("eth0")["Pacfile"] == coded(pac("DIRECT"))


def test_what_the_dhcp_server_names_comes_first_and_a_url_of_the_config_alone(managed: Managed) -> None:
    lab = managed.lab
    lab.start_dnsmasq(f"--dhcp-option=252,http://{CONTROLLER}/office.dat", f"--host-record=wpad.lab.test,{CONTROLLER}")
    for name in ("office", "wpad", "own"):
        lab.serve(f"/{name}.dat", pac(f"DIRECT; PROXY {name}:1"))
    managed.overrides.write("dhcp", Version=1, Ports=[port(NetworkProxyEnable=True)])
    managed.agent.start()
    managed.wait_in_force("dhcp")
    shown = managed.port("eth0")
    assert (shown["WpadURL"], shown["Pacfile"]) == (
        f"http://{CONTROLLER}/office.dat",
        coded(pac("DIRECT; PROXY office:1")),
    )
    url = f"http://{CONTROLLER}/own.dat"
    managed.overrides.write("own", Version=1, Ports=[port(NetworkProxyEnable=True, NetworkProxyURL=url)])
    managed.wait_in_force("own")
    shown = managed.port("eth0")
    assert (shown["WpadURL"], shown["Pacfile"]) == ("", coded(pac("DIRECT; PROXY own:1")))
    assert lab.requests("/wpad.dat") == []


def test_a_file_that_cannot_be_had_is_the_ports_error_and_the_controller_is_asked_directly(managed: Managed) -> None:
    url = f"http://{CONTROLLER}/nothing.dat"
    managed.overrides.write("auto", Version=1, Ports=[port(NetworkProxyEnable=True, NetworkProxyURL=url)])
    managed.agent.start()
    managed.wait_in_force("auto")
    shown = managed.port("eth0")
    address = managed.shown("eth0")[0]
    assert shown["Error"] == f"port eth0 has no PAC file: {url} from {address}: answers 404"
    assert shown["Pacfile"] == ""
    # The cable is pulled and put back: perhaps somewhere else.
    managed.lab.serve("/nothing.dat", pac("DIRECT"))
    managed.lab.unplug("eth0")
    managed.wait(lambda: "no carrier" in managed.port("eth0")["Error"], "the pulled cable")
    managed.lab.plug("eth0")
    managed.wait(lambda: managed.port("eth0")["Pacfile"] == coded(pac("DIRECT")), "the file")
    assert managed.port("eth0")["Error"] == ""


def test_who_only_observes_looks_for_it_too(managed: Managed) -> None:
    lab = managed.lab
    url = f"http://{lab.router('eth0')}/own.dat"
    lab.serve("/own.dat", pac("DIRECT"))
    lab.device.run("ip", "addr", "add", "192.168.10.9/24", "dev", "eth0")
    lab.device.run("ip", "link", "set", "eth0", "up")
    managed.overrides.write("own", Version=1, Ports=[port(NetworkProxyEnable=True, NetworkProxyURL=url)])
    managed.agent.command = tuple(word for word in managed.agent.command if word not in ("--ports", "manage"))
    managed.agent.start()
    managed.wait(lambda: managed.port("eth0")["Pacfile"] == coded(pac("DIRECT")), "the file")
    managed.wait(lambda: lab.requests("/own.dat") == ["192.168.10.9"], "one request for it")


# ---- one search


@pytest.mark.parametrize(
    ("domain", "asked"),
    [
        ("a.b.example.com", ["a.b.example.com", "b.example.com", "example.com"]),
        ("example.com.", ["example.com"]),
        ("local", ["local"]),
        ("", []),
    ],
)
def test_the_domain_is_walked_upwards_and_no_top_level_is_asked(domain: str, asked: list[str]) -> None:
    found = Search("eth0", ("192.0.2.7",), domain=domain).places()
    assert list(found) == [f"http://wpad.{name}/wpad.dat" for name in asked]


@pytest.mark.parametrize(
    ("fault", "content", "why"),
    [
        (Fault(headers=KIND), b"\n", "it is empty"),
        (Fault(headers=KIND), b"/" * (wpad.MAX_BYTES + 1), "it is larger than 1048576 bytes"),
        (Fault(headers=KIND, endless=True), b"x", "it is larger than 1048576 bytes"),
        (Fault(headers={"Content-Type": "text/html"}), b"log in here", "its Content-Type is text/html, expected appl"),
        (Fault(headers={"Content-Type": ""}), b"x", "its Content-Type is nothing, expected appl"),
        (Fault(status=302, headers={"Location": "/elsewhere"}), b"x", "answers 302"),
        (Fault(headers=KIND, cut_after=3), pac("DIRECT"), "53 more expected"),
        (Fault(headers=KIND, drip_s=0.05), pac("DIRECT") * 99, "no whole answer within 1 s"),
        (Fault(headers=KIND, hold_after=2), pac("DIRECT"), "no whole answer within 1 s"),
    ],
)
def test_what_is_no_whole_pac_file_is_none(
    fault: Fault, content: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault.drip_s or fault.hold_after:
        monkeypatch.setattr(wpad, "FETCH_S", 1.0)
    server = FaultServer()
    try:
        url = server.put("/p.dat", content)
        server.fault("/p.dat", fault)
        began = time.monotonic()
        found = find(Search("lo", ("127.0.0.1",), url=url), None, Cancel())
    finally:
        server.release()
        server.close()
    assert found.pac == "" and why in found.error, found.error
    assert f"port lo has no PAC file: {url} from 127.0.0.1: " in found.error
    assert time.monotonic() - began < PATIENCE_S


def test_a_search_tells_of_each_place_and_says_what_is_missing(tmp_path: Path) -> None:
    assert "neither NetworkProxyURL nor the port's domain" in find(Search("lo", ("127.0.0.1",)), None, Cancel()).error
    assert "expected an http" in find(Search("lo", ("127.0.0.1",), url="ftp://x/"), None, Cancel()).error
    root = Authority()
    roots, _ = root.write(tmp_path, "root")
    server = FaultServer(root.issue("pac", ca=False, hosts=("127.0.0.1",)).tls(tmp_path / "tls"))
    try:
        url = server.put("/p.dat", pac("DIRECT"))
        server.fault("/p.dat", Fault(headers=KIND, times=9))
        search = Search("lo", ("127.0.0.1",), url=url)
        assert find(search, roots, Cancel()).pac == coded(pac("DIRECT"))
        assert "certificate" in find(search, None, Cancel()).error
    finally:
        server.close()
