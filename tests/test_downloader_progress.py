"""What people are told of a download: every way that was tried, how fast it comes, what it waits for. And PAC files."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agentproc import Table
from servers import Fault, FaultServer, FreePort, eventually
from test_downloader_agent import CONTENT, NAME, SHA, STORE, Device, device

from pillar.transports import Route, TransportFailed
from pillar.transports.pac import PacFailed, proxies_for, read_answer
from pillar.transports.proxies import choices, proxy_for

pytest_plugins = ("server_fixtures",)
assert device  # a fixture

NEVER = "0001-01-01T00:00:00Z"
FAR = "http://far.example/d/image"


def pac(*answers: str, before: str = "") -> str:
    """A PAC file in base64 that gives these answers."""
    text = f'function FindProxyForURL(url, host) {{ {before} return "{"; ".join(answers)}"; }}'
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def nobody() -> Iterator[str]:
    """host:port where nobody listens."""
    port = FreePort()
    yield f"127.0.0.1:{port.number}"
    port.close()


def ports(device: Device, *ports: dict[str, object]) -> None:
    """The device's ports as nim tells of them."""
    table = Table(device.root, "nim", "DeviceNetworkStatus")
    shared = {"IsMgmt": True, "Free": True}
    table.write("global", Version=1, Ports=[{**shared, **port} for port in ports])


def slowly() -> Fault:
    """With --limit-rate 500000: news for three seconds, then nothing new until it is released."""
    return Fault(hold_after=1_500_000, times=1000)


def refused(text: str) -> bool:
    return text.endswith("Connection refused")


# ---- the ways


def test_the_status_lists_port_address_proxy_and_error_of_every_way(
    device: Device, fault_server: FaultServer, nobody: str
):
    live = f"127.0.0.1:{fault_server.port}"
    host, _, port = nobody.partition(":")
    proxy = {"Type": 0, "Server": host, "Port": int(port)}
    ports(
        device,
        {"IfName": "eth0", "AddrInfoList": [{"Addr": "127.0.0.8"}], "Proxies": [proxy]},
        {"IfName": "eth1", "AddrInfoList": [{"Addr": "127.0.0.9"}], "Pacfile": pac(f"PROXY {nobody}", f"PROXY {live}")},
        {"IfName": "wwan0", "AddrInfoList": [{"Addr": "127.0.0.10"}], "Free": False},
    )
    device.stores.write(STORE, UUID=STORE, DsType="DsHttp", Fqdn="http://far.example", Dpath="d")
    device.agent.command = (*device.agent.command, "--limit-rate", "500000")
    device.want()
    device.agent.start()
    status = device.statuses.wait(NAME, LastErr=lambda text: text != "", deadline_s=60)
    lines = status["LastErr"].splitlines()
    assert refused(lines[0]) and lines[0].startswith(f"eth0 127.0.0.8 via http://{nobody}: {FAR}: ")
    assert refused(lines[1]) and lines[1].startswith(f"eth1 127.0.0.9 via http://{nobody}: {FAR}: ")
    assert lines[2:] == [f"eth1 127.0.0.9 via http://{live}: {FAR}: 404 Not Found"]
    said = progress(device).wait(NAME, NextRetry=lambda time: time != NEVER, deadline_s=60)
    assert [(way["Port"], way["Address"], way["Proxy"]) for way in said["Attempts"]] == [
        ("eth0", "127.0.0.8", f"http://{nobody}"),
        ("eth1", "127.0.0.9", f"http://{nobody}"),
        ("eth1", "127.0.0.9", f"http://{live}"),
    ]
    assert said["Attempts"][2]["Error"] == f"{FAR}: 404 Not Found"
    assert (said["Source"], said["Rate"]) == (FAR, 0) and said["Attempt"] >= 1
    fault_server.fault(FAR, slowly())
    fault_server.put(FAR, CONTENT)  # what a proxy is asked for is the whole URL
    said = progress(device).wait(NAME, Rate=lambda rate: rate > 0, NextRetry=NEVER, deadline_s=60)
    assert [way["Error"] != "" for way in said["Attempts"]] == [True, True, False]
    fault_server.release()
    device.statuses.wait(NAME, State=3, LastErr="", deadline_s=60)
    progress(device).wait(NAME, Attempt=0, Attempts=None, Rate=0, Done=len(CONTENT), Total=len(CONTENT))
    assert {seen.peer for seen in fault_server.seen} == {"127.0.0.9"}
    device.configs.remove(NAME)
    progress(device).wait_gone(NAME)


def progress(device: Device) -> Table:
    return Table(device.root, "downloader", "DownloadProgress", "appImg.obj")


def test_how_fast_it_comes_and_how_much_is_here_can_be_seen(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    fault_server.fault("/d/image", slowly())
    device.datastore(fault_server)
    device.agent.command = (*device.agent.command, "--limit-rate", "500000")
    device.want()
    device.agent.start()
    said = progress(device).wait(NAME, Rate=lambda rate: rate > 0, deadline_s=60)
    assert 0 < said["Done"] < said["Total"] == len(CONTENT)
    assert said["Rate"] < 1_500_000
    assert (said["Attempt"], said["NextRetry"], said["Waiting"]) == (1, NEVER, "")
    assert said["Attempts"] == [{"Port": "", "Address": "", "Proxy": "", "Error": ""}]
    shown = subprocess.run(
        [sys.executable, "-m", "pillar", "get", "--root", str(device.root), "downloader/appImg.obj/DownloadProgress"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert '"Source": "http://127.0.0.1:' in shown.stdout, shown
    fault_server.release()
    device.statuses.wait(NAME, State=3, deadline_s=60)
    progress(device).wait(NAME, Rate=0, Done=len(CONTENT))


def test_what_it_waits_for_can_be_seen(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    fault_server.fault("/d/image", Fault(hold_after=1000))
    device.wait_long_for_datastores()
    device.want()
    device.agent.start()
    progress(device).wait(NAME, Waiting=f"waiting for datastore {STORE}", Attempt=0, NextRetry=NEVER)
    device.datastore(fault_server)
    progress(device).wait(NAME, Waiting="", Attempt=1, deadline_s=60)
    device.want(f"twin.{SHA}")
    progress(device).wait(f"twin.{SHA}", Waiting="the same image is being fetched under another name", deadline_s=60)
    for number in range(8):
        fault_server.put(f"/d/{number}", CONTENT)
        fault_server.fault(f"/d/{number}", Fault(hold_after=1))
        device.want(f"{number}.sha", Name=f"{number}", ImageSha256="", Size=10)
    keys = progress(device).keys
    turn = "waits for its turn: as many downloads as may run at once are running"

    def waiting() -> list[str]:
        return [key for key in keys() if (progress(device).read(key) or {})["Waiting"] == turn]

    eventually(lambda: len(waiting()) == 1 and len(keys()) == 10, "one has to wait", 60)


def test_a_progress_whose_status_a_kill_took_is_swept(device: Device):
    progress(device).write("stray", Safename="stray")
    device.agent.start()
    progress(device).wait_gone("stray")


# ---- PAC files


def test_a_pac_file_sees_host_and_url_without_secrets_and_its_answers_are_read():
    script = (
        'if (url.indexOf("secret") >= 0) return "PROXY leaked:1"; if (dnsDomainIs(host, ".local")) return "DIRECT";'
    )
    file = pac("PROXY a:3128", "HTTPS b:443", "SOCKS c:1080", "DIRECT", before=script)
    assert proxies_for(file, "https://user:secret@far.example/x?sig=secret") == ("http://a:3128", "https://b:443", "")
    assert proxies_for(file, "http://near.local/x") == ("",)


def test_each_answer_is_a_way_of_its_own_and_goes_before_the_static_proxies():
    route = Route(proxies=(("http", "http://static:1"),), exceptions="*", pac=pac("PROXY a:1", "DIRECT"))
    assert choices(route, FAR) == 2
    assert [proxy_for(Route(pac=route.pac, choice=choice), FAR) for choice in (0, 1, 9)] == ["http://a:1", "", ""]
    assert proxy_for(route, FAR) == "http://a:1"
    assert proxy_for(route, "sftp://host/x") == proxy_for(route, "file:///x") == ""
    assert proxy_for(route, "docker://registry/image") == "http://a:1"
    assert choices(Route(), FAR) == 1


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (base64.b64encode(b"nonsense(").decode(), "Malformed PAC file"),
        (base64.b64encode(b"function x() {}").decode(), "FindProxyForURL"),
        (pac("SOCKS a:1"), "'SOCKS a:1', which is no HTTP proxy and not DIRECT"),
        (pac("DIRECT", before="while (true) {}"), "no answer for http://far.example/d/image after 3 s"),
        (pac("DIRECT", before="var a = []; while (true) a.push(new Array(99999).join(a.length));"), "memory"),
        ("no base64!", "not base64 of a text"),
    ],
)
def test_a_pac_file_that_fails_says_so_and_ends(file: str, why: str, monkeypatch: pytest.MonkeyPatch):
    if " after " in why:
        monkeypatch.setattr("pillar.transports.pac.EVALUATION_S", 3.0)
    with pytest.raises(PacFailed, match="the port's PAC file") as failed:
        proxies_for(file, FAR)
    assert why in str(failed.value)
    assert "\n" not in str(failed.value)
    assert isinstance(failed.value, TransportFailed)  # the next port may do


def test_an_empty_answer_is_none_at_all():
    with pytest.raises(PacFailed, match="answers ''"):
        read_answer("")
    assert read_answer("proxy a:1 ;direct") == ("http://a:1", "")


def test_a_broken_pac_file_is_an_error_of_its_port_and_the_next_one_is_tried(device: Device, fault_server: FaultServer):
    live = f"127.0.0.1:{fault_server.port}"
    ports(
        device,
        {"IfName": "eth0", "AddrInfoList": [{"Addr": "127.0.0.8"}], "Pacfile": "!"},
        {"IfName": "eth1", "AddrInfoList": [{"Addr": "127.0.0.9"}], "Pacfile": pac(f"PROXY {live}")},
    )
    fault_server.put(FAR, CONTENT)
    fault_server.fault(FAR, slowly())
    device.stores.write(STORE, UUID=STORE, DsType="DsHttp", Fqdn="http://far.example", Dpath="d")
    device.agent.command = (*device.agent.command, "--limit-rate", "500000")
    device.want()
    device.agent.start()
    said = progress(device).wait(NAME, Rate=lambda rate: rate > 0, deadline_s=60)
    fault_server.release()
    device.statuses.wait(NAME, State=3, deadline_s=60)
    assert [(way["Port"], way["Proxy"]) for way in said["Attempts"]] == [("eth0", ""), ("eth1", f"http://{live}")]
    assert "PAC file is not base64" in said["Attempts"][0]["Error"]
    assert Path(device.image).read_bytes() == CONTENT
