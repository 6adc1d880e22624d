"""What the device of the crash test is told to run: two apps that share an image, one of them with a bad signature.

Everything that chance would make is fixed, so that crash points are named alike in each run, or stands in `Story` and
has a label. A story's images and certificates are its own, so each story fetches, verifies and starts them anew.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from pillar.demo.eco import Image
from pillar.demo.images import ImageServer

DEVICE: Final = "00000000-0000-4000-8000-00000000000d"
GOOD: Final = "00000000-0000-4000-8000-0000000000a1"  # runs
BAD: Final = "00000000-0000-4000-8000-0000000000a2"  # never does
STORE: Final = "00000000-0000-4000-8000-0000000000d1"
LOCAL: Final = "00000000-0000-4000-8000-0000000000e1"
MESH: Final = "00000000-0000-4000-8000-0000000000e2"
MESH_IID: Final = 7
LABELS: Final = {GOOD: "<good>", BAD: "<bad>", STORE: "<store>", LOCAL: "<local>", MESH: "<mesh>", DEVICE: "<device>"}

# The smallest ECO: it says in its log that it was started, then it is only there.
_PROGRAM = '#!/bin/sh\necho "started $$"\nexec sleep 100000\n# {token} {ballast}\n'


class Authority:
    """A root certificate, and a signer that it vouches for."""

    def __init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = _certificate("crashtest root", self._root_key, None)
        self.signer = _certificate("crashtest signer", self._key, (self.root, self._root_key))

    def trust(self, config: Path) -> None:
        """Have the device whose /config this is trust the root."""
        config.mkdir(parents=True, exist_ok=True)
        (config / "root-certificate.pem").write_bytes(_pem(self.root))

    @cached_property
    def signer_pem(self) -> bytes:
        return _pem(self.signer)

    def sign(self, content: bytes) -> str:
        """The signature of an image, base64 of r and s."""
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        r, s = utils.decode_dss_signature(self._key.sign(hashlib.sha256(content).digest(), algorithm))
        return base64.b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).decode()


class Story:
    """The names, contents and configs of one run."""

    def __init__(self, number: int, authority: Authority, server: ImageServer, root: Path, ballast: int = 4096) -> None:
        self.token = f"story{number:05d}"
        content = _PROGRAM.format(token=self.token, ballast="#" * ballast).encode()
        self.image = Image(f"app-{self.token}.img", content, hashlib.sha256(content).hexdigest())
        pem = authority.signer_pem
        self.signer = Image(f"signer-{self.token}.pem", pem, hashlib.sha256(pem).hexdigest())
        server.images = {self.image.name: self.image, self.signer.name: self.signer}
        self._server = server
        self._root = root
        self._good = authority.sign(content)
        self._wrong = authority.sign(content + b"altered")

    @property
    def labels(self) -> dict[str, str]:
        """What stands in names and records for what only this story has."""
        labels = {self.image.sha256: "<sha>", self.token: "<story>"}
        for signature, label in ((self._good, "<signature>"), (self._wrong, "<wrong>")):
            labels |= {signature: label, self._mark(signature): label}
        return labels | LABELS | {f"127.0.0.1:{self._server.server_port}": "<server>", str(self._root): "<root>"}

    def _mark(self, signature: str) -> str:
        """What zedmanager puts into the names of images that are verified apart (cmd/zedmanager/images.py)."""
        asked = base64.b64decode(signature), f"{self._server.url}/{self.signer.name}", ()
        return f"#{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}."

    def config(
        self, *, apps: bool = True, active: bool = True, restart: int = 0, purge: int = 0, bad: bool = True
    ) -> dict[str, Any]:
        """A device config, as protobuf-JSON."""
        wanted = []
        if apps:
            good = self._app(GOOD, "good", self._good)
            good |= {"activate": active, "restart": {"counter": restart}, "purge": {"counter": purge}}
            good["interfaces"].append({"name": "given", "networkId": MESH} | self._identity)
            good["interfaces"].append({"name": "made", "networkId": MESH})  # with an EID that the device makes
            wanted = [good, *([self._app(BAD, "bad", self._wrong)] if bad else [])]
        return {
            "id": {"uuid": DEVICE, "version": "1"},
            # What the machine refused is tried again after this: the least that EVE allows.
            "configItems": [{"key": "timer.boot.retry", "value": "10"}],
            "datastores": [{"id": STORE, "dType": "DsHttp", "fqdn": self._server.url}] if apps else [],
            "networkInstances": [_LOCAL_NETWORK, _MESH_NETWORK] if apps else [],
            "apps": wanted,
        }

    @property
    def _identity(self) -> dict[str, str]:
        pem = base64.b64encode(self.signer.content).decode()
        return {"cryptoEid": "fd45:efca:3607:4c1c::17", "lispsignature": "c2lnbmVk", "pemcert": pem}

    def _app(self, key: str, name: str, signature: str) -> dict[str, Any]:
        number = key[-2:]
        image = {
            "uuidandversion": {"uuid": f"00000000-0000-4000-8000-0000000001{number}", "version": "1"},
            "name": self.image.name,
            "sha256": self.image.sha256,
            "iformat": "RAW",
            "siginfo": {"signercerturl": f"{self._server.url}/{self.signer.name}", "signature": signature},
            "dsId": STORE,
            "sizeBytes": str(len(self.image.content)),
        }
        return {
            "uuidandversion": {"uuid": key, "version": "1"},
            "displayname": name,
            "fixedresources": {"memory": 65536, "vcpus": 1},
            "drives": [{"image": image, "readonly": False, "preserve": True, "drvtype": "HDD", "target": "Disk"}],
            "interfaces": [{"name": "eth0", "networkId": LOCAL}],
            "activate": True,
        }


_LOCAL_NETWORK = {
    "uuidandversion": {"uuid": LOCAL, "version": "1"},
    "displayname": "local",
    "instType": "ZnetInstLocal",
    "activate": True,
    "ipType": "IPV4",
    "ip": {"subnet": "10.1.0.0/24", "gateway": "10.1.0.1", "dhcpRange": {"start": "10.1.0.2", "end": "10.1.0.200"}},
}
_MESH_NETWORK = {
    "uuidandversion": {"uuid": MESH, "version": "1"},
    "displayname": "mesh",
    "instType": "ZnetInstMesh",
    "activate": True,
    "ipType": "CryptoIPV6",
    "ip": {},
    "cfg": {"lispConfig": {"LispInstanceId": MESH_IID, "allocate": True}},
}


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    issuer_key = issuer[1] if issuer is not None else key
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    authority = issuer is None
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=authority, crl_sign=authority, **usage), critical=True
        )
        .sign(issuer_key, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
