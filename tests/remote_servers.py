"""sshd, docker-registry, and a proxy that counts and holds, all on 127.0.0.1.

Sshd            OpenSSH's own, on a host key of the test's, for the user who runs the test
Registry        Debian's docker-registry, with or without login and TLS
CountingProxy   passes TCP through, counts what a server sent, and stops at a byte when told to
FetchProcess    one fetch in a process of its own, to be killed
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from servers import Authority, FreePort, eventually, needs

FETCH = """
import json, sys
from pathlib import Path
from pillar.transports import Limits, Route, Source, open_transport
from pillar.transports.fetch import Fetch
asked = json.loads(sys.argv[1])
root = asked.pop("root_certificate", None)
limits = Limits(connect_s=10, stall_s=60, root_certificate=Path(root) if root else None)
source = Source(**asked)
print("begun", flush=True)
got = Fetch(lambda: open_transport(source, Route(), limits), source, Path(sys.argv[2])).run()
print(json.dumps([got.size, got.sha256, got.received, got.resumed]))
"""


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Sshd:
    """Key login for whoever runs the tests (`user`, `private_key`); `passwords` needs real accounts, hence root."""

    def __init__(self, directory: Path, *, passwords: bool = False, key_type: str = "ed25519") -> None:
        program, keygen = needs("sshd", "openssh-server"), needs("ssh-keygen", "openssh-client")
        directory.mkdir(parents=True)
        self.directory = directory
        self.user = getpass.getuser()
        self._kept = FreePort()
        self.port = self._kept.number
        for name, kind in (("host", key_type), ("user", "ed25519")):
            subprocess.run([keygen, "-q", "-t", kind, "-N", "", "-f", directory / name], check=True, timeout=30)
        self.private_key = (directory / "user").read_text()
        (directory / "authorized").write_text((directory / "user.pub").read_text())
        self.fingerprint = self._fingerprint(keygen)
        config = directory / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile {directory}/pid\n"
            f"AuthorizedKeysFile {directory}/authorized\nPasswordAuthentication {'yes' if passwords else 'no'}\n"
            "KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
            "MaxStartups 100\nSubsystem sftp internal-sftp\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in before login; not ours to choose
        self.log = directory / "log"
        self._process = subprocess.Popen([program, "-D", "-f", str(config), "-E", str(self.log)])
        eventually(lambda: self._process.poll() is not None or accepts(self.port), "sshd answers")
        assert self._process.poll() is None, self.log.read_text()

    def fqdn(self, port: int = 0, pin: str = "") -> str:
        return f"sftp://;fingerprint={pin or self.fingerprint}@127.0.0.1:{port or self.port}"

    def source(self, path: Path, **fields: str) -> dict[str, str]:
        """The fields of a Source for a file on this machine."""
        login = {"api_key": self.user, "password": self.private_key}
        where = {"dpath": str(path.parent), "name": path.name, "url": self.fqdn()}
        return {"ds_type": "DsSFTP", **login, **where, **fields}

    def _fingerprint(self, keygen: str) -> str:
        told = subprocess.run(
            [keygen, "-lf", self.directory / "host.pub"], check=True, timeout=30, capture_output=True, text=True
        )
        return told.stdout.split()[1]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._kept.close()


SEND_BUFFER = 16 * 1024  # what is in it has been counted and has not left


class CountingProxy:
    """TCP passed through to a port on loopback; `sent` counts what went from the server to clients."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self.holding = threading.Event()
        self._target = port
        self._hold_at: int | None = None
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_at(self, count: int) -> None:
        """Let `count` bytes more pass from the server, then none."""
        self.holding.clear()
        self._released.clear()
        self._hold_at = self.sent + count

    def release(self) -> None:
        self._hold_at = None
        self._released.set()

    def close(self) -> None:
        self.release()
        self._listener.close()
        for connection in self._sockets:
            _hang_up(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                return  # closed
            server.settimeout(None)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._sockets += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16 * 1024):
                while data:
                    part = self._allowed(data) if counted else data
                    target.sendall(part)
                    data = data[len(part) :]
        for connection in (source, target):
            _hang_up(connection)

    def _allowed(self, data: bytes) -> bytes:
        """As much of it as may pass now; waits while nothing may."""
        while True:
            with self._lock:
                left = len(data) if self._hold_at is None else self._hold_at - self.sent
                if left > 0:
                    part = data[:left]
                    self.sent += len(part)
                    return part
            self.holding.set()
            self._released.wait()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class FetchProcess:
    """`fields` are those of a Source; `root_certificate` is a path."""

    def __init__(self, fields: dict[str, str], target: Path) -> None:
        command = [sys.executable, "-c", FETCH, json.dumps(fields), str(target)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self) -> tuple[int, str, int, int]:
        """size, sha256, received, resumed"""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        size, sha256, received, resumed = json.loads(out.splitlines()[-1])
        return size, sha256, received, resumed

    def kill(self) -> None:
        """kill -9"""
        self.process.kill()
        self.process.communicate(timeout=10)


class Registry:
    """A registry; `login` is (user, password), `tls` an authority that has issued for 127.0.0.1."""

    def __init__(self, directory: Path, *, login: tuple[str, str] | None = None, tls: Authority | None = None) -> None:
        program = needs("docker-registry", "docker-registry")
        directory.mkdir(parents=True)
        self.directory, self.login = directory, login
        self._kept = FreePort()
        self.port = self._kept.number
        self.scheme = "https" if tls else "http"
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{directory}/data"}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "of the test"},
        }
        if login is not None:
            htpasswd = needs("htpasswd", "apache2-utils")
            made = subprocess.run([htpasswd, "-Bbn", *login], check=True, timeout=30, capture_output=True)
            (directory / "htpasswd").write_bytes(made.stdout)
            config["auth"] = {"htpasswd": {"realm": "test", "path": f"{directory}/htpasswd"}}
        if tls is not None:
            certificate, key = tls.write(directory, "server")
            config["http"]["tls"] = {"certificate": str(certificate), "key": str(key)}
        (directory / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(directory / "config.yml")], stdout=log, stderr=subprocess.STDOUT
            )
        eventually(lambda: self._process.poll() is not None or accepts(self.port), "docker-registry answers")
        assert self._process.poll() is None, (directory / "log").read_text()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def push(self, layout: Path, tag: str, name: str, *arguments: str) -> None:
        """Copy `tag` of an OCI layout to `name` (repository:tag) here."""
        skopeo = needs("skopeo", "skopeo")
        credentials = ["--dest-creds", ":".join(self.login)] if self.login else []
        subprocess.run(
            [
                *(skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", *credentials, *arguments),
                *(f"oci:{layout}:{tag}", f"docker://{self.host}/{name}"),
            ],
            check=True,
            timeout=60,
            capture_output=True,
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._kept.close()
