"""How nim asks the controller: certificates, proxies, PAC files, refusals. Real connections on loopback."""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Authority, Fault, FaultServer, FreePort

from pillar.cmd.nim.probe import PING, Answer, ask, ask_over, controller
from pillar.cmd.nim.request import Target, Way
from pillar.workers import Cancel, Cancelled

HERE = Way("lo", "127.0.0.1")
PATIENCE_S = 30.0


class Tunnel:
    """A proxy that knows CONNECT only and leads to one port, whatever it is asked for."""

    def __init__(self, port: int) -> None:
        self.asked: list[str] = []
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as server:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.asked.append(head.split(b"\r\n")[0].decode())
            client.sendall(b"HTTP/1.1 200 Go\r\n\r\n")
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            back.join(PATIENCE_S)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def plain() -> Iterator[FaultServer]:
    server = FaultServer()
    server.put(PING, b"")
    yield server
    server.close()


@contextlib.contextmanager
def secure(tmp_path: Path, certificate: Authority) -> Iterator[FaultServer]:
    server = FaultServer(certificate.tls(tmp_path / "tls"))
    server.put(PING, b"")
    yield server
    server.close()


def test_a_good_answer_is_200_and_every_other_one_is_told(plain: FaultServer) -> None:
    target = Target(plain.url(PING))
    assert ask(target, HERE, PATIENCE_S).works
    plain.fault(PING, Fault(status=503))
    answer = ask(target, HERE, PATIENCE_S)
    assert not answer.works and not answer.remote
    assert answer.text == f"lo 127.0.0.1: {target.url} answers 503"
    plain.fault(PING, Fault(cut_after=0))
    assert ask(Target(plain.url("/nothing")), HERE, PATIENCE_S).text.endswith("answers 404")


def test_a_refused_connection_is_no_fault_of_the_port_unless_it_is_a_proxys(plain: FaultServer) -> None:
    with contextlib.closing(FreePort()) as free:
        url = f"http://127.0.0.1:{free.number}"
        answer = ask(Target(f"{url}/"), HERE, PATIENCE_S)
        assert answer.remote and "refused" in answer.text
        answer = ask(Target(plain.url(PING)), Way("lo", "127.0.0.1", proxy=url), PATIENCE_S)
        assert not answer.remote and "refused" in answer.text


def test_an_expired_certificate_is_the_controllers_and_a_strangers_is_nobodys(tmp_path: Path) -> None:
    root = Authority()
    roots, _ = root.write(tmp_path, "root")
    cases = (
        (root.issue("good", ca=False, hosts=("127.0.0.1",)), True, False),
        (root.issue("old", ca=False, hosts=("127.0.0.1",), days=(-9, -1)), False, True),
        (root.issue("other", ca=False, hosts=("elsewhere.test",)), False, False),
        (Authority("stranger").issue("his", ca=False, hosts=("127.0.0.1",)), False, False),
    )
    for certificate, works, remote in cases:
        with secure(tmp_path, certificate) as server:
            answer = ask(Target(server.url(PING), roots), HERE, PATIENCE_S)
        assert (answer.works, answer.remote) == (works, remote), answer.text


def test_a_proxy_is_asked_for_the_whole_url_and_by_https_for_a_tunnel(plain: FaultServer, tmp_path: Path) -> None:
    url = "http://203.0.113.99/ping"
    plain.put(url, b"")  # a proxy's objects have whole URLs for names
    assert ask(Target(url), Way("lo", "127.0.0.1", proxy=plain.url("")), PATIENCE_S).works
    root = Authority()
    roots, _ = root.write(tmp_path, "root")
    with secure(tmp_path, root.issue("controller", ca=False, hosts=("203.0.113.99",))) as server:
        tunnel = Tunnel(server.port)
        way = Way("lo", "127.0.0.1", proxy=tunnel.url)
        assert ask(Target(f"https://203.0.113.99{PING}", roots), way, PATIENCE_S).works
        tunnel.close()
    assert tunnel.asked == ["CONNECT 203.0.113.99:443 HTTP/1.1"]


def test_a_pac_file_says_which_proxies_to_try(plain: FaultServer) -> None:
    url = "http://203.0.113.99/ping"
    plain.put(url, b"")
    with contextlib.closing(FreePort()) as dead:
        proxies = f"PROXY 127.0.0.1:{dead.number}; PROXY 127.0.0.1:{plain.port}"
        script = f'function FindProxyForURL(url, host) {{ return "{proxies}"; }}'
        way = Way("lo", "127.0.0.1", pac=base64.b64encode(script.encode()).decode())
        assert ask(Target(url), way, PATIENCE_S).works
    broken = ask(Target(url), Way("lo", "127.0.0.1", pac="!"), PATIENCE_S)
    assert not broken.works and "PAC file" in broken.text


def test_the_first_way_that_works_ends_the_asking_and_a_cancelled_asking_goes_no_further(plain: FaultServer) -> None:
    target = Target(plain.url(PING))
    bad = Way("lo", "127.0.0.1", proxy="http://127.0.0.1:1")
    other = Way("lo2", "127.0.0.1")
    answers = ask_over(target, (bad, HERE, other), PATIENCE_S, Cancel())
    assert [(way, answer.works) for way, answer in answers.items()] == [(bad, False), (HERE, True)]
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        ask_over(target, (HERE,), PATIENCE_S, cancel)


def test_an_address_that_the_device_does_not_have_is_an_error_and_no_crash(plain: FaultServer) -> None:
    answer = ask(Target(plain.url(PING)), Way("eth0", "203.0.113.50"), PATIENCE_S)
    assert answer != Answer(works=True) and "eth0 203.0.113.50" in answer.text


def test_the_controller_is_the_one_of_the_configuration(tmp_path: Path) -> None:
    assert controller(tmp_path, "") is None
    (tmp_path / "server").write_text(" \n")
    assert controller(tmp_path, "") is None
    (tmp_path / "server").write_text("zed.example:8443\n")
    assert controller(tmp_path, "") == Target(f"https://zed.example:8443{PING}")
    Authority().write(tmp_path, "device.cert")
    shutil.move(tmp_path / "device.cert.key", tmp_path / "device.key.pem")
    shutil.copy(tmp_path / "device.cert.pem", tmp_path / "root-certificate.pem")
    found = controller(tmp_path, "https://other/")
    own = (tmp_path / "device.cert.pem", tmp_path / "device.key.pem")
    assert found == Target("https://other/", tmp_path / "root-certificate.pem", own)
